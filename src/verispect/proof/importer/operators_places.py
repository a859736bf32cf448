"""Operators place by place, and those that only move places."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verispect.proof.importer.draft import (
    IDENTITY,
    Floats,
    Grid,
    Linear,
    Product,
    RealEmbed,
    RealWindow,
    Tensor,
    Value,
    unsupported,
)
from verispect.proof.importer.functions import (
    PLAIN_OPERATORS,
    TUNED_OPERATORS,
    Unary,
    clip,
    power,
    unary_operator,
)
from verispect.proof.importer.linear import add_bias, add_linear, linear_of, scale_channels
from verispect.proof.importer.lowering import (
    Handler,
    Lowering,
    attribute,
    channel_numbers,
    plain,
    with_base,
)
from verispect.proof.importer.onnx_file import OnnxNode


def _apply(value: Value, unary: Unary, grid: Grid | None = None) -> Value:
    activation = value.activation.then(unary.function, homogeneous=unary.homogeneous, grid=grid)
    return replace(value, activation=activation)


def unary(state: Lowering, node: OnnxNode) -> Value:
    """Any operator that works on each place alone."""
    found = unary_operator(node.kind, node.attributes)
    assert found is not None
    return _apply(state.value(node.inputs[0]), found)


def clip_values(state: Lowering, node: OnnxNode) -> Value:
    """Clip, its bounds being attributes or inputs."""
    bounds = []
    for place, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        given = node.inputs[place] if len(node.inputs) > place else ""
        bound = attribute(node, name, default)
        bounds.append(float(state.numbers(given, "a bound").reshape(())) if given else float(bound))
    return _apply(state.value(node.inputs[0]), clip(*bounds))


def raise_to(state: Lowering, node: OnnxNode) -> Value:
    """Pow with a constant exponent."""
    exponent = state.numbers(node.inputs[1], "its exponent")
    if exponent.size != 1:
        raise unsupported("an exponent for each place")
    return _apply(state.value(node.inputs[0]), power(float(exponent.reshape(()))))


def leak(state: Lowering, node: OnnxNode) -> Value:
    """PRelu with one slope."""
    slopes = state.numbers(node.inputs[1], "its slope")
    if not bool(np.all(slopes == slopes.reshape(-1)[0])):
        raise unsupported("a slope for each channel: use LeakyRelu")
    found = unary_operator("LeakyRelu", {"alpha": float(slopes.reshape(-1)[0])})
    assert found is not None
    return _apply(state.value(node.inputs[0]), found)


# -- Addition and multiplication ----------------------------------------------------------------


def add(state: Lowering, node: OnnxNode) -> Value:
    """Add."""
    left, right = node.inputs
    if state.constant(right) is None and state.constant(left) is None:
        return _add_values(state, left, right, 1.0)
    constant, other = (left, right) if state.constant(left) is not None else (right, left)
    return _add_constant(state, other, state.numbers(constant, "a summand"))


def subtract(state: Lowering, node: OnnxNode) -> Value:
    """Sub."""
    left, right = node.inputs
    if state.constant(right) is not None:
        return _add_constant(state, left, -state.numbers(right, "a summand"))
    if state.constant(left) is None:
        return _add_values(state, left, right, -1.0)
    negated = _scale(state, right, np.array(-1.0))
    state.values[node.outputs[0]] = negated
    return _add_constant(state, node.outputs[0], state.numbers(left, "a summand"), written=right)


def multiply(state: Lowering, node: OnnxNode) -> Value:
    """Mul."""
    left, right = node.inputs
    if state.constant(right) is None and state.constant(left) is None:
        return _multiply_values(state, left, right)
    constant, other = (left, right) if state.constant(left) is not None else (right, left)
    return _scale(state, other, state.numbers(constant, "a factor"))


def divide(state: Lowering, node: OnnxNode) -> Value:
    """Div by a constant."""
    divisor = state.numbers(node.inputs[1], "its divisor")
    if not bool(np.all(divisor)):
        raise unsupported("a division by zero")
    return _scale(state, node.inputs[0], 1.0 / divisor)


def scaler(state: Lowering, node: OnnxNode) -> Value:
    """Scaler of ai.onnx.ml: an offset, then a factor."""
    offsets = np.array(attribute(node, "offset", [0.0]), np.float64)
    factors = np.array(attribute(node, "scale", [1.0]), np.float64)
    state.values[node.outputs[0]] = _add_constant(state, node.inputs[0], -offsets)
    return _scale(state, node.outputs[0], factors, written=node.inputs[0])


def _add_constant(
    state: Lowering, name: str, constant: Floats, written: str | None = None
) -> Value:
    value = state.value(name)
    if constant.size == 1:
        straight = value.activation.then_straight(1.0, float(constant.reshape(())))
        return replace(value, activation=straight)
    offsets = channel_numbers(constant, value)
    return with_base(value, add_bias(state.linear(value, written or name), offsets))


def _scale(state: Lowering, name: str, constant: Floats, written: str | None = None) -> Value:
    value = state.value(name)
    if constant.size == 1:
        straight = value.activation.then_straight(float(constant.reshape(())), 0.0)
        return replace(value, activation=straight)
    factors = channel_numbers(constant, value)
    scaled = scale_channels(state.linear(value, written or name), factors)
    if scaled is None:
        tensor = state.write(value, written or name)
        scaled = scale_channels(linear_of(tensor), factors)
    assert scaled is not None
    return with_base(value, scaled)


def _same_places(one: Value, other: Value) -> bool:
    if one.shape != other.shape or one.logical != other.logical:
        return False
    if one.index is None and other.index is None:
        return True
    return bool(np.array_equal(one.places(), other.places()))


def _add_values(state: Lowering, left: str, right: str, sign: float) -> Value:
    one, other = state.value(left), state.value(right)
    if not _same_places(one, other):
        raise unsupported("the summands differ in shape: give both the same")
    if one.base is other.base and not isinstance(one.base, Tensor):
        f, g = one.activation, other.activation
        return replace(
            one,
            activation=IDENTITY.then(
                lambda x: np.asarray(f(x) + sign * g(x)),
                homogeneous=f.homogeneous and g.homogeneous,
            ),
        )
    total = state.linear(one, left)
    added = state.linear(other, right)
    if sign != 1.0:
        negated = scale_channels(added, np.full(other.shape[0], sign))
        if negated is None:
            negated = scale_channels(
                linear_of(state.write(other, right)), np.full(other.shape[0], sign)
            )
        assert negated is not None
        added = negated
    return with_base(one, add_linear(total, added))


def _multiply_values(state: Lowering, left: str, right: str) -> Value:
    one, other = state.value(left), state.value(right)
    if one.base is other.base and _same_places(one, other):
        f, g = one.activation, other.activation
        return replace(
            one,
            activation=IDENTITY.then(lambda x: np.asarray(f(x) * g(x)), homogeneous=False),
        )
    if math.prod(one.shape) < math.prod(other.shape):
        left, right, one, other = right, left, other, one
    fits = len(one.shape) == len(other.shape) and all(
        b in (a, 1) for a, b in zip(one.shape, other.shape, strict=True)
    )
    moved = one.index is not None or other.index is not None
    if (
        not fits
        or (moved and not _same_places(one, other))
        or len(one.logical) != len(other.logical)
    ):
        raise unsupported("the factors differ in shape")
    product = Product(state.write(one, left).number, state.write(other, right).number, one.shape)
    return Value(product, one.logical, one.index)


# -- Quantised models ---------------------------------------------------------------------------


def quantise(state: Lowering, node: OnnxNode) -> Value:
    """QuantizeLinear of a computed tensor: a grid, which the integer model takes over."""
    scale = state.numbers(node.inputs[1], "its scale")
    if scale.size != 1:
        raise unsupported("an activation with a scale per channel")
    zero_array = state.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    zero = 0 if zero_array is None else int(zero_array.reshape(()))
    kind = np.dtype(np.uint8) if zero_array is None else zero_array.dtype
    if kind.kind not in "iu" or kind.itemsize > 2:
        raise unsupported("a type other than integers of 8 or 16 bits")
    limits = np.iinfo(kind)
    grid = Grid(float(scale.reshape(())), limits.min - zero, limits.max - zero)
    value = state.value(node.inputs[0])
    if value.activation.grid == grid:
        return value
    return _apply(value, Unary(grid.snap), grid)


def dequantise(state: Lowering, node: OnnxNode) -> Value:
    """DequantizeLinear of a tensor quantised in the same way: nothing is left to do."""
    value = state.value(node.inputs[0])
    scale = state.numbers(node.inputs[1], "its scale")
    grid = value.activation.grid
    if grid is None or scale.size != 1 or float(scale.reshape(())) != grid.scale:
        raise unsupported("a scale other than that it was quantised with")
    return value


# -- Moves --------------------------------------------------------------------------------------


def move(state: Lowering, node: OnnxNode) -> Value:
    """Reshape, Flatten, Squeeze, Unsqueeze: the places keep their order."""
    value = state.value(node.inputs[0])
    shape = state.shapes.get(node.outputs[0])
    if shape is None or shape[0] != 1 or math.prod(shape) != math.prod(value.logical):
        raise unsupported("its result's shape is not fixed, or the batch is moved")
    index = None if value.index is None else value.index.reshape(shape[1:])
    return replace(value, logical=tuple(shape[1:]), index=index)


def same(state: Lowering, node: OnnxNode) -> Value:
    """Identity, Dropout, Cast of numbers, and ZipMap, which only names them."""
    return state.value(node.inputs[0])


def transpose(state: Lowering, node: OnnxNode) -> Value:
    """Transpose, as long as what follows can follow."""
    value = state.value(node.inputs[0])
    rank = 1 + len(value.logical)
    permutation = attribute(node, "perm", list(range(rank))[::-1])
    if permutation[0] != 0:
        raise unsupported("the batch is moved")
    order = [axis - 1 for axis in permutation[1:]]
    index = np.transpose(value.places(), order)
    plain_order = np.arange(index.size).reshape(index.shape)
    same_order = bool(np.array_equal(index, plain_order))
    return replace(value, logical=index.shape, index=None if same_order else index)


def concatenate(state: Lowering, node: OnnxNode) -> Value:
    """Concat along the channels or a spatial axis."""
    values = [state.value(name) for name in node.inputs]
    axis = attribute(node, "axis", 1) % (1 + len(values[0].logical)) - 1
    if axis < 0 or any(each.index is not None or each.logical != each.shape for each in values):
        raise unsupported("its inputs are not laid out as (channels, places)")
    offset, terms = 0, []
    for name, value in zip(node.inputs, values, strict=True):
        terms.append(RealEmbed(state.write(value, name).number, axis, offset, 1.0))
        offset += value.shape[axis]
    shape = list(values[0].shape)
    shape[axis] = offset
    return plain(Linear(tuple(terms), None, tuple(shape)))


def pad(state: Lowering, node: OnnxNode) -> Value:
    """Pad with zeros along spatial axes."""
    value = state.value(node.inputs[0])
    pads = list(attribute(node, "pads", ()))
    if not pads:
        pads = [int(each) for each in state.numbers(node.inputs[1], "its padding").reshape(-1)]
    fill = attribute(node, "value", 0.0)
    if len(node.inputs) > 2 and node.inputs[2]:
        fill = float(state.numbers(node.inputs[2], "its value").reshape(()))
    rank = 1 + len(value.logical)
    before, after = pads[:rank], pads[rank:]
    spatial = before[:2] == after[:2] == [0, 0] and min(pads) >= 0
    if attribute(node, "mode", b"constant") != b"constant" or fill or not spatial:
        raise unsupported("anything but zeros around the places")
    if value.index is not None or value.logical != value.shape:
        raise unsupported("its input is not laid out as (channels, places)")
    tensor = state.write(value, node.inputs[0])
    ones = (1,) * (len(value.shape) - 1)
    places = tuple(
        size + low + high
        for size, low, high in zip(value.shape[1:], before[2:], after[2:], strict=True)
    )
    term = RealWindow(tensor.number, 1.0, ones, ones, tuple(before[2:]))
    return plain(Linear((term,), None, (value.shape[0], *places)))


_UNARY = (*PLAIN_OPERATORS, *TUNED_OPERATORS)

PLACE_OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(_UNARY, unary),
    "Clip": clip_values,
    "Pow": raise_to,
    "PRelu": leak,
    "Add": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "ai.onnx.ml:Scaler": scaler,
    "QuantizeLinear": quantise,
    "DequantizeLinear": dequantise,
    "Reshape": move,
    "Flatten": move,
    "Squeeze": move,
    "Unsqueeze": move,
    "Identity": same,
    "Dropout": same,
    "Cast": same,
    "ai.onnx.ml:ZipMap": same,
    "Transpose": transpose,
    "Concat": concatenate,
    "Pad": pad,
}
