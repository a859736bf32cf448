"""Convolutions, products with matrices, normalisation and pools."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verispect.proof.graph import Shape
from verispect.proof.importer.draft import (
    DraftMaximum,
    Floats,
    Linear,
    RealConvolve,
    RealWindow,
    Tensor,
    Value,
    unsupported,
)
from verispect.proof.importer.linear import add_bias, fold_straight, per_channel, scale_channels
from verispect.proof.importer.lowering import (
    Handler,
    Lowering,
    attribute,
    plain,
    with_base,
)
from verispect.proof.importer.onnx_file import OnnxNode


def _spatial(value: Value) -> Shape:
    if value.index is not None or value.logical != value.shape or len(value.shape) < 2:
        raise unsupported("its input is not laid out as (channels, places)")
    return value.shape[1:]


def _padding(node: OnnxNode, sizes: Shape, spans: Shape, strides: Shape) -> tuple[Shape, Shape]:
    """Return the padding before and after along each spatial axis."""
    axes = len(sizes)
    mode = attribute(node, "auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        before, after = [], []
        for size, span, stride in zip(sizes, spans, strides, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            small, large = total // 2, total - total // 2
            before.append(small if mode == b"SAME_UPPER" else large)
            after.append(total - before[-1])
        return tuple(before), tuple(after)
    if mode not in (b"NOTSET", b"VALID"):
        raise unsupported("an unknown auto_pad")
    pads = (
        tuple(attribute(node, "pads", (0,) * (2 * axes))) if mode == b"NOTSET" else (0,) * 2 * axes
    )
    if min(pads) < 0:
        raise unsupported("a negative padding")
    return pads[:axes], pads[axes:]


def _places(sizes: Shape, spans: Shape, strides: Shape, before: Shape, after: Shape) -> Shape:
    return tuple(
        (size + low + high - span) // stride + 1
        for size, span, stride, low, high in zip(sizes, spans, strides, before, after, strict=True)
    )


def _source(
    state: Lowering, value: Value, name: str, *, padded: bool
) -> tuple[int, Floats, Floats]:
    """Return the tensor to convolve with a factor and an offset for each of its channels.

    An unwritten factor and offset per channel go into the weights and the bias; an offset cannot
    where places outside the source, which are zero after it, are used.
    """
    channels = value.shape[0]
    if isinstance(value.base, Linear):
        folded = fold_straight(value.base, value.activation)
        found = None if folded is None else per_channel(folded)
        if found is not None and not (padded and bool(np.any(found[2]))):
            return found
    return state.write(value, name).number, np.ones(channels), np.zeros(channels)


def convolve(state: Lowering, node: OnnxNode) -> Value:
    """Conv."""
    value = state.value(node.inputs[0])
    sizes = _spatial(value)
    weight = state.numbers(node.inputs[1], "its weight")
    axes = len(sizes)
    if weight.ndim != axes + 2:
        raise unsupported("its weight has another number of axes than its input")
    groups = attribute(node, "group", 1)
    strides = tuple(attribute(node, "strides", (1,) * axes))
    dilations = tuple(attribute(node, "dilations", (1,) * axes))
    kernel = weight.shape[2:]
    spans = tuple((taps - 1) * step + 1 for taps, step in zip(kernel, dilations, strict=True))
    before, after = _padding(node, sizes, spans, strides)
    places = _places(sizes, spans, strides, before, after)
    outputs = weight.shape[0]
    grouped = weight.reshape(groups, outputs // groups, *weight.shape[1:])
    source, factors, offsets = _source(
        state, value, node.inputs[0], padded=any(before) or any(after)
    )
    grouped = grouped * factors.reshape(groups, 1, -1, *(1,) * axes)
    bias = _convolved_offsets(weight.reshape(grouped.shape), offsets)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = bias + state.numbers(node.inputs[2], "its bias")
    term = RealConvolve(source, _allowed_groups(grouped), strides, before, dilations)
    return plain(Linear((term,), bias, (outputs, *places)))


def _convolved_offsets(grouped: Floats, offsets: Floats) -> Floats:
    groups, _, inputs = grouped.shape[:3]
    taps = grouped.reshape(*grouped.shape[:3], -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", taps, offsets.reshape(groups, inputs)).reshape(-1))


def _allowed_groups(grouped: Floats) -> Floats:
    """Return the weight as it is, or with one group where its groups are no powers of two."""
    groups, outputs, inputs, *kernel = grouped.shape
    if groups == 1 or not (outputs & (outputs - 1) or inputs & (inputs - 1)):
        return grouped
    whole = np.zeros((1, groups * outputs, groups * inputs, *kernel))
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[0, rows, group * inputs : (group + 1) * inputs] = grouped[group]
    return whole


def _fully_connect(
    state: Lowering, name: str, matrix: Floats, bias: Floats | None, *, rows: bool
) -> Value:
    """Return the product of a vector, or of each row of an array, with `matrix`."""
    value = state.value(name)
    shape, logical = value.shape, value.logical
    if math.prod(logical[:-1]) != 1:
        return _connect_places(state, name, matrix, bias)
    if not rows and len(logical) != 1:
        raise unsupported("its input is not a vector")
    if logical[-1] != matrix.shape[0]:
        raise unsupported("the matrix does not fit its input")
    source, factors, offsets = _source(state, value, name, padded=False)
    weight = np.empty((matrix.shape[1], matrix.shape[0]))
    weight[:, value.places().reshape(-1)] = matrix.T
    grouped = weight.reshape(1, matrix.shape[1], *shape)
    total = _convolved_offsets(grouped, offsets)
    if bias is not None:
        total = total + np.broadcast_to(bias.reshape(-1), (matrix.shape[1],))
    axes = len(shape) - 1
    grouped = grouped * factors.reshape(1, 1, -1, *(1,) * axes)
    term = RealConvolve(source, grouped, (1,) * axes, (0,) * axes, (1,) * axes)
    base = Linear((term,), total, (matrix.shape[1], *(1,) * axes))
    return plain(base, (*logical[:-1], matrix.shape[1]))


def _connect_places(state: Lowering, name: str, matrix: Floats, bias: Floats | None) -> Value:
    """Return the product of the channels at every place with `matrix`: channels come last here."""
    value = state.value(name)
    channels, *places = value.shape
    order = np.moveaxis(np.arange(math.prod(value.shape)).reshape(value.shape), 0, -1)
    fits = value.logical == (*places, channels) and bool(np.array_equal(value.places(), order))
    if not fits or matrix.shape[0] != channels:
        raise unsupported("its input is neither a vector nor an array with its channels last")
    source, factors, offsets = _source(state, value, name, padded=False)
    outputs = matrix.shape[1]
    axes = len(places)
    weight = (matrix.T * factors).reshape(1, outputs, channels, *(1,) * axes)
    total = matrix.T @ offsets
    if bias is not None:
        total = total + np.broadcast_to(bias.reshape(-1), (outputs,))
    term = RealConvolve(source, weight, (1,) * axes, (0,) * axes, (1,) * axes)
    base = Linear((term,), total, (outputs, *places))
    index = np.moveaxis(np.arange(math.prod(base.shape)).reshape(base.shape), 0, -1)
    return Value(base, (*places, outputs), index)


def gemm(state: Lowering, node: OnnxNode) -> Value:
    """Gemm."""
    if attribute(node, "transA", 0):
        raise unsupported("a transposed input")
    matrix = state.numbers(node.inputs[1], "its matrix")
    matrix = (matrix.T if attribute(node, "transB", 0) else matrix) * attribute(node, "alpha", 1.0)
    bias = None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = state.numbers(node.inputs[2], "its bias") * attribute(node, "beta", 1.0)
    return _fully_connect(state, node.inputs[0], matrix, bias, rows=False)


def matmul(state: Lowering, node: OnnxNode) -> Value:
    """MatMul with a constant on the right."""
    matrix = state.numbers(node.inputs[1], "its right factor")
    if matrix.ndim != 2:
        raise unsupported("its right factor is not a matrix")
    return _fully_connect(state, node.inputs[0], matrix, None, rows=True)


def normalise(state: Lowering, node: OnnxNode) -> Value:
    """BatchNormalization with its statistics."""
    gain, shift, mean, variance = (state.numbers(name, "a statistic") for name in node.inputs[1:5])
    factors = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    value = state.value(node.inputs[0])
    if value.index is not None or value.logical[0] != value.shape[0]:
        raise unsupported("its input is not laid out as (channels, places)")
    linear = state.linear(value, node.inputs[0])
    scaled = scale_channels(linear, factors)
    if scaled is None:
        tensor = state.write(value, node.inputs[0])
        scaled = scale_channels(state.linear(plain(tensor), node.inputs[0]), factors)
    assert scaled is not None
    return with_base(value, add_bias(scaled, shift - mean * factors))


def max_pool(state: Lowering, node: OnnxNode) -> Value:
    """MaxPool, as one maximum along each axis."""
    value = state.value(node.inputs[0])
    sizes = _spatial(value)
    axes = len(sizes)
    kernel = tuple(node.attributes["kernel_shape"])
    strides = tuple(attribute(node, "strides", (1,) * axes))
    if any(step != 1 for step in attribute(node, "dilations", (1,) * axes)):
        raise unsupported("a dilation")
    before, after = _padding(node, sizes, kernel, strides)
    if attribute(node, "ceil_mode", 0):
        after = tuple(
            high + (-(size + low + high - span) % stride)
            for size, span, stride, low, high in zip(
                sizes, kernel, strides, before, after, strict=True
            )
        )
    return _maxima(
        state, value, node.inputs[0], list(zip(kernel, strides, before, after, strict=True))
    )


def global_max_pool(state: Lowering, node: OnnxNode) -> Value:
    """GlobalMaxPool."""
    value = state.value(node.inputs[0])
    sizes = _spatial(value)
    return _maxima(state, value, node.inputs[0], [(size, 1, 0, 0) for size in sizes])


def _maxima(
    state: Lowering, value: Value, name: str, windows: list[tuple[int, int, int, int]]
) -> Value:
    tensor = state.write(value, name)
    for axis, (kernel, stride, before, after) in enumerate(windows, start=1):
        if kernel == 1 and stride == 1 and not before and not after:
            continue
        if kernel == 1:
            raise unsupported("a stride without a window: slice instead")
        if before >= kernel or after >= kernel:
            raise unsupported("a padding as large as the window")
        shape = list(tensor.shape)
        shape[axis] = (shape[axis] + before + after - kernel) // stride + 1
        draft = DraftMaximum(tensor.number, axis, kernel, stride, before, after)
        tensor = state.draft.add(draft, tuple(shape))
    return plain(tensor)


def average_pool(state: Lowering, node: OnnxNode) -> Value:
    """AveragePool, where every window has the same number of places."""
    value = state.value(node.inputs[0])
    sizes = _spatial(value)
    axes = len(sizes)
    kernel = tuple(node.attributes["kernel_shape"])
    strides = tuple(attribute(node, "strides", (1,) * axes))
    before, after = _padding(node, sizes, kernel, strides)
    places = _places(sizes, kernel, strides, before, after)
    if (any(before) or any(after)) and not attribute(node, "count_include_pad", 0):
        raise unsupported("windows at the edge have fewer places: set count_include_pad")
    if attribute(node, "ceil_mode", 0) and any(
        (size + low + high - span) % stride
        for size, span, stride, low, high in zip(sizes, kernel, strides, before, after, strict=True)
    ):
        raise unsupported("windows beyond the edge: turn ceil_mode off")
    return _average(state, value, node.inputs[0], kernel, strides, before, places)


def _average(
    state: Lowering,
    value: Value,
    name: str,
    kernel: Shape,
    strides: Shape,
    before: Shape,
    places: Shape,
) -> Value:
    tensor: Tensor = state.write(value, name)
    term = RealWindow(tensor.number, 1.0 / math.prod(kernel), kernel, strides, before)
    return plain(Linear((term,), None, (value.shape[0], *places)))


def global_average_pool(state: Lowering, node: OnnxNode) -> Value:
    """GlobalAveragePool."""
    value = state.value(node.inputs[0])
    sizes = _spatial(value)
    ones, zeros = (1,) * len(sizes), (0,) * len(sizes)
    return _average(state, value, node.inputs[0], sizes, ones, zeros, ones)


def reduce_mean(state: Lowering, node: OnnxNode) -> Value:
    """ReduceMean over all places."""
    value = state.value(node.inputs[0])
    axes = list(attribute(node, "axes", ()))
    if not axes and len(node.inputs) > 1:
        axes = [int(axis) for axis in state.numbers(node.inputs[1], "its axes").reshape(-1)]
    rank = 1 + len(value.logical)
    wanted = sorted(axis % rank for axis in axes)
    if wanted != list(range(2, rank)):
        raise unsupported("a mean over anything but all places of a channel")
    pooled = global_average_pool(state, node)
    if attribute(node, "keepdims", 1):
        return pooled
    return replace(pooled, logical=pooled.logical[:1])


WINDOW_OPERATORS: dict[str, Handler] = {
    "Conv": convolve,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": normalise,
    "MaxPool": max_pool,
    "GlobalMaxPool": global_max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "ReduceMean": reduce_mean,
}
