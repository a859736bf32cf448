"""The draft while it is written: values become nodes, each once."""

from __future__ import annotations

from dataclasses import dataclass, field

from verispect.proof.graph import Shape
from verispect.proof.importer.draft import (
    IDENTITY,
    DraftAffine,
    DraftMultiply,
    DraftNode,
    Linear,
    RealScale,
    Tensor,
    Value,
)
from verispect.proof.importer.linear import fold_straight


@dataclass(slots=True)
class Draft:
    """The nodes written so far, after the input as tensor 0."""

    shapes: list[Shape]
    nodes: list[DraftNode] = field(default_factory=list)
    written: dict[tuple[int, int], tuple[Value, Tensor]] = field(default_factory=dict)

    def add(self, node: DraftNode, shape: Shape) -> Tensor:
        """Write a node and return its tensor."""
        self.nodes.append(node)
        self.shapes.append(shape)
        return Tensor(len(self.nodes), shape)

    def write(self, value: Value, name: str) -> Tensor:
        """Return `value` as a written tensor, writing it once."""
        base = value.base
        if isinstance(base, Tensor) and not value.activation.functions:
            return base
        # Two views of one value are one tensor. The value is kept beside it, so that the ids stay
        # their own as long as the draft lives.
        key = id(base), id(value.activation)
        known = self.written.get(key)
        if known is not None:
            return known[1]
        if isinstance(base, Tensor):
            base = Linear((RealScale(base.number, 1.0),), None, base.shape)
        node: DraftNode
        if isinstance(base, Linear):
            folded = fold_straight(base, value.activation)
            node = DraftAffine(folded or base, IDENTITY if folded else value.activation, name)
        else:
            node = DraftMultiply(base, value.activation, name)
        tensor = self.add(node, base.shape)
        self.written[key] = (value, tensor)
        return tensor
