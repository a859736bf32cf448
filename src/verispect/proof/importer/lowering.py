"""From ONNX operators to a draft.

Operators are handled one by one, in order; each makes a `Value` from values and constants. An
operator that an integer model cannot say is refused by name, with what would help.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from verispect.core.errors import ModelError
from verispect.proof.graph import Epilogue, Shape
from verispect.proof.importer.draft import (
    IDENTITY,
    Activation,
    Base,
    Floats,
    Linear,
    Tensor,
    Value,
    unsupported,
)
from verispect.proof.importer.drafting import Draft
from verispect.proof.importer.linear import fold_straight, linear_of
from verispect.proof.importer.onnx_file import OnnxModel, OnnxNode

_MAX_AXES = 3


class Lowering:
    """The state of one import: the draft, the values by name and the constants."""

    def __init__(self, model: OnnxModel, shape: Shape) -> None:
        self.constants = dict(model.constants)
        self.shapes = model.shapes
        self.uses = Counter(name for node in model.nodes for name in node.inputs)
        self.values: dict[str, Value] = {}
        self.draft = Draft([shape])

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return the constant `name`, or None if it is computed from the input or left out."""
        return self.constants.get(name)

    def numbers(self, name: str, what: str) -> Floats:
        """Return a constant of real numbers.

        Raises:
            ModelError: `unsupported-model`, where it is computed from the input.
        """
        array = self.constant(name)
        if array is None:
            raise unsupported(f"{what} is not constant")
        numbers = array.astype(np.float64)
        if not bool(np.isfinite(numbers).all()):
            raise unsupported(f"{what} is not finite")
        return numbers

    def value(self, name: str) -> Value:
        """Return what the tensor `name` stands for."""
        if name not in self.values:
            raise unsupported("a constant stands where a computed tensor is expected")
        return self.values[name]

    def write(self, value: Value, name: str) -> Tensor:
        """Return `value` as a tensor of the graph."""
        return self.draft.write(value, name)

    def linear(self, value: Value, name: str) -> Linear:
        """Return `value` as a sum that more can be added to, writing it if need be.

        A sum that something else needs too is written: it would be computed twice otherwise.
        """
        if isinstance(value.base, Linear) and self.uses[name] == 1:
            folded = fold_straight(value.base, value.activation)
            if folded is not None:
                return folded
        return linear_of(self.write(value, name))


Handler: TypeAlias = Callable[[Lowering, OnnxNode], Value]


def with_base(value: Value, base: Base, activation: Activation = IDENTITY) -> Value:
    """Return a value seen as `value` is, of another base of the same shape."""
    return Value(base, value.logical, value.index, activation)


def plain(base: Base, logical: Shape | None = None) -> Value:
    """Return a value whose places are the base's own."""
    return Value(base, base.shape if logical is None else logical)


def channel_numbers(array: Floats, value: Value) -> Floats:
    """Return a constant that broadcasts over `value` as one number per channel.

    Raises:
        ModelError: `unsupported-model`, where it differs within a channel or adds axes.
    """
    try:
        spread = np.broadcast_to(array, (1, *value.logical))
    except ValueError:
        raise unsupported("a constant adds axes or places to a tensor") from None
    full = np.empty(math.prod(value.shape))
    full[value.places().reshape(-1)] = spread.reshape(-1)
    rows = full.reshape(value.shape[0], -1)
    if not bool(np.all(rows == rows[:, :1])):
        raise unsupported("a constant differs from place to place: only one per channel will do")
    return rows[:, 0].copy()


def attribute(node: OnnxNode, name: str, default: Any) -> Any:
    """Return an attribute or its default."""
    return node.attributes.get(name, default)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A draft with its ends.

    Args:
        draft: the nodes.
        order: how the caller's axes become the input's.
        answer: the value of the output, before the epilogue.
        answer_name: the ONNX tensor that it is.
        epilogue: what the verifier computes from it.
    """

    draft: Draft
    order: Shape
    answer: Value
    answer_name: str
    epilogue: Epilogue


_MOVES = frozenset({"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def lower(model: OnnxModel, handlers: dict[str, Handler]) -> Lowered:
    """Make a draft of `model`.

    Args:
        model: the rewritten ONNX model.
        handlers: by operator, with its domain before a colon where it has one.

    Raises:
        ModelError: `unsupported-model`.
    """
    nodes = list(model.nodes)
    name, logical, order = _absorb_moves(model, nodes)
    if not 1 <= len(logical) <= _MAX_AXES:
        raise unsupported(f"the input has {len(logical)} axes besides the batch, not one to three")
    state = Lowering(model, logical)
    state.values[name] = plain(Tensor(0, logical))
    answer_name, epilogue = _strip_epilogue(model, nodes)
    for node in nodes:
        if answer_name in state.values:
            break
        _apply(state, node, handlers)
    if answer_name not in state.values:
        raise unsupported("the output does not depend on the input")
    return Lowered(state.draft, order, state.values[answer_name], answer_name, epilogue)


def _apply(state: Lowering, node: OnnxNode, handlers: dict[str, Handler]) -> None:
    handler = handlers.get(f"{node.domain}:{node.kind}" if node.domain else node.kind)
    if handler is None:
        raise unsupported(f"the operator {node.kind} is not supported{_advice(node.kind)}")
    try:
        value = handler(state, node)
    except ModelError as error:
        raise ModelError(f"{node.kind}: {error.message}", reason=error.reason) from error
    state.values[node.outputs[0]] = value


_ADVICE = {
    "QLinearConv": ": export the quantised model in QDQ format",
    "QLinearMatMul": ": export the quantised model in QDQ format",
    "DynamicQuantizeLinear": ": quantise statically, or import the float model",
    "Softmax": " inside a model, only as its last operator",
    "ArgMax": " inside a model, only as its last operator",
    "TopK": ": choose the tensor before it as the output",
    "Resize": ": fix the size before the model",
    "ConvTranspose": ": use a convolution after a nearest upsampling made of Concat",
    "LSTM": ": recurrent operators are not supported",
    "GRU": ": recurrent operators are not supported",
    "LayerNormalization": ": normalise with BatchNormalization, which is folded",
}


def _advice(kind: str) -> str:
    return _ADVICE.get(kind, ": prove the model up to the tensor before it, as an output")


def _consumers(nodes: Sequence[OnnxNode], name: str) -> list[OnnxNode]:
    return [node for node in nodes if name in node.inputs]


def _absorb_moves(model: OnnxModel, nodes: list[OnnxNode]) -> tuple[str, Shape, Shape]:
    """Take reshapes and one transposition at the input into the way it is read.

    Returns:
        The name and shape of the tensor that becomes tensor 0, and the order of its axes.
    """
    name, logical = model.input_name, tuple(model.input_shape[1:])
    order: Shape = tuple(range(len(logical)))
    while name != model.output_name:
        users = _consumers(nodes, name)
        if len(users) != 1 or users[0].inputs[0] != name:
            break
        (node,) = users
        moved = order != tuple(range(len(order)))
        if node.kind == "Transpose" and not node.domain and not moved:
            permutation = node.attributes.get("perm", list(range(len(logical) + 1))[::-1])
            if permutation[0] != 0:
                break
            order = tuple(axis - 1 for axis in permutation[1:])
            logical = tuple(logical[axis] for axis in order)
        elif node.kind in _MOVES and not node.domain and not moved:
            shape = _moved_shape(model, node)
            if shape is None or not 1 <= len(shape) <= _MAX_AXES:
                break
            logical, order = shape, tuple(range(len(shape)))
        else:
            break
        name = node.outputs[0]
        nodes.remove(node)
    return name, logical, order


def _moved_shape(model: OnnxModel, node: OnnxNode) -> Shape | None:
    shape = model.shapes.get(node.outputs[0])
    return shape[1:] if shape and shape[0] == 1 else None


def _strip_epilogue(model: OnnxModel, nodes: list[OnnxNode]) -> tuple[str, Epilogue]:
    """Take a softmax or argmax at the end out of the model."""
    name, epilogue = model.output_name, Epilogue.NONE
    producers = {output: node for node in nodes for output in node.outputs}
    while name in producers:
        node = producers[name]
        if node.kind in ("Identity", "ZipMap", "Cast", "Dropout") or (
            epilogue is not Epilogue.NONE and node.kind in _MOVES
        ):
            name = node.inputs[0]
        elif node.kind == "ArgMax" and epilogue is Epilogue.NONE:
            _require_last_axis(node, default=0)
            name, epilogue = node.inputs[0], Epilogue.ARGMAX
        elif node.kind == "Softmax":
            _require_last_axis(node, default=-1)
            name = node.inputs[0]
            # The largest of a softmax is the largest of its arguments.
            epilogue = epilogue if epilogue is Epilogue.ARGMAX else Epilogue.SOFTMAX
        else:
            break
    return name, epilogue


def _require_last_axis(node: OnnxNode, *, default: int) -> None:
    if attribute(node, "axis", default) not in (1, -1) or attribute(node, "select_last_index", 0):
        raise unsupported(
            f"{node.kind} is supported over the classes only, the axis after the batch"
        )
