"""The graph of an integer model: shapes, tables and constants (spec/integer-model.md section 2).

A `Graph` is the public half of a provable model. It can only be built valid: every size, index and
constant is checked when it is made, against the named limits of the specification, so that
runtime, prover and verifier take it as it is.

This module refuses weights and arithmetic: `runtime` computes and `bounds` judges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from verispect.core.encoding import Digest, sha256
from verispect.proof.binary_fraction import BinaryFraction
from verispect.proof.graph_codec import decode_parts, encode_parts
from verispect.proof.graph_parts import (
    MAX_AXIS,
    MAX_BATCH,
    MAX_GRAPH_BYTES,
    MAX_NODES,
    MAX_PADDED,
    MAX_STEPS,
    MAX_TABLE,
    MAX_TABLES,
    MAX_TENSOR,
    MAX_TERMS,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    Affine,
    Convolve,
    Embed,
    Epilogue,
    Input,
    Maximum,
    Multiply,
    Node,
    Output,
    Requantise,
    Scale,
    Shape,
    Table,
    Term,
    Window,
    check_shape,
    malformed,
    padded,
    require,
    within,
)

__all__ = [
    "MAX_AXIS",
    "MAX_BATCH",
    "MAX_GRAPH_BYTES",
    "MAX_NODES",
    "MAX_PADDED",
    "MAX_STEPS",
    "MAX_TABLE",
    "MAX_TABLES",
    "MAX_TENSOR",
    "MAX_TERMS",
    "MAX_WEIGHT",
    "MAX_WEIGHTS",
    "Affine",
    "BinaryFraction",
    "Convolve",
    "Embed",
    "Epilogue",
    "Graph",
    "Input",
    "Maximum",
    "Multiply",
    "Node",
    "Output",
    "Requantise",
    "Scale",
    "Shape",
    "Table",
    "Term",
    "Window",
    "padded",
]

_MULTIPLIER: Final = 1 << 31
_MAX_SHIFT: Final = 32
_RANGE_BITS: Final = (8, 16)


@dataclass(frozen=True)
class Graph:
    """An integer model without its weights.

    Raises:
        MalformedError: `malformed-model`, when anything breaks a rule of the specification.
    """

    input: Input
    weights: tuple[Shape, ...]
    tables: tuple[Table, ...]
    nodes: tuple[Node, ...]
    output: Output
    range_bits: int

    def __post_init__(self) -> None:
        _check_graph(self)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every tensor, the input first."""
        shapes = [self.input.shape]
        for node in self.nodes:
            shapes.append(_node_shape(node, shapes))
        return tuple(shapes)

    @property
    def uses_limbs(self) -> bool:
        """Whether any node has a remainder, and so the range table is looked up."""
        return any(self.limbs(node) for node in self.nodes)

    @property
    def used_tables(self) -> tuple[int, ...]:
        """The tables that nodes look up, in order: all of them in a valid graph."""
        found = {
            node.requantise.table
            for node in self.nodes
            if not isinstance(node, Maximum) and node.requantise is not None
        }
        return tuple(sorted(found))

    def limbs(self, node: Node) -> int:
        """Return how many limbs the remainder of `node` has."""
        if isinstance(node, Maximum) or node.requantise is None:
            return 0
        return node.requantise.shift // self.range_bits

    def value_range(self, tensor: int) -> tuple[int, int] | None:
        """Return the values that `tensor` can have as the graph alone tells, or None if it is raw.

        The first of them is what a maximum takes outside its source.
        """
        origin = self._origins[tensor]
        if origin == 0:
            return self.input.minimum, self.input.maximum
        node = self.nodes[origin - 1]
        if isinstance(node, Maximum) or node.requantise is None:
            return None
        table = self.tables[node.requantise.table]
        return table.minimum, table.maximum

    @cached_property
    def _origins(self) -> tuple[int, ...]:
        """The tensor that every tensor's values come from, through any number of maxima."""
        origins = [0]
        for number, node in enumerate(self.nodes, start=1):
            through = isinstance(node, Maximum) and 0 <= node.source < number
            origins.append(origins[node.source] if through else number)  # type: ignore[union-attr]
        return tuple(origins)

    @cached_property
    def positive_part_bits(self) -> int | None:
        """Return `b`, the positive part's table having `2^b` entries, or None without a maximum."""
        spreads = []
        for node in self.nodes:
            if isinstance(node, Maximum):
                values = self.value_range(node.source)
                if values is None:
                    raise malformed("a maximum has a raw source")
                spreads.append(values[1] - values[0])
        return 1 + max(spreads).bit_length() if spreads else None

    def encode(self) -> bytes:
        """Return the one encoding of this graph."""
        return encode_parts(
            self.input, self.weights, self.tables, self.nodes, self.output, self.range_bits
        )

    def digest(self) -> Digest:
        """Return the SHA-256 digest of the encoding."""
        return sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Graph:
        """Read a graph.

        Raises:
            MalformedError: `malformed-cbor`, `malformed-model` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        return cls(*decode_parts(data))


def _node_shape(node: Node, shapes: list[Shape]) -> Shape:
    if isinstance(node, Affine):
        return node.shape
    source = node.left if isinstance(node, Multiply) else node.source
    require(0 <= source < len(shapes), "a source does not come before its node")
    if isinstance(node, Multiply):
        return shapes[source]
    shape = list(shapes[source])
    require(1 <= node.axis < len(shape), "a maximum's axis is not spatial")
    size = shape[node.axis] + node.before + node.after - node.kernel
    require(size >= 0 and node.stride >= 1, "a maximum's window is larger than its source")
    shape[node.axis] = size // node.stride + 1
    return tuple(shape)


def _check_graph(graph: Graph) -> None:
    """Check what concerns several parts; the order is that of the specification."""
    require(graph.range_bits in _RANGE_BITS, "range_bits is neither 8 nor 16")
    require(len(graph.nodes) <= MAX_NODES, "too many nodes")
    require(len(graph.weights) <= MAX_WEIGHTS, "too many weights")
    require(len(graph.tables) <= MAX_TABLES, "too many tables")
    for weight in graph.weights:
        require(len(weight) == 1 or 3 <= len(weight) <= 5, "a weight has a wrong number of axes")
        within(weight, 1, MAX_AXIS, "the size of a weight's axis")
        require(math.prod(map(padded, weight)) <= MAX_WEIGHT, "a weight is too large")
    used = _UsedParts(set(), set())
    for number, node in enumerate(graph.nodes):
        _check_node(graph, number, node, used)
        check_shape(graph.shapes[number + 1])
    require(used.weights == set(range(len(graph.weights))), "a weight is unused")
    require(used.tables == set(range(len(graph.tables))), "a table is unused")
    require(0 <= graph.output.tensor <= len(graph.nodes), "the output is no tensor")
    require(graph.output.epilogue in Epilogue, "the epilogue is unknown")


@dataclass(frozen=True, slots=True)
class _UsedParts:
    weights: set[int]
    tables: set[int]


def _check_node(graph: Graph, number: int, node: Node, used: _UsedParts) -> None:
    if isinstance(node, Affine):
        _check_affine(graph, number, node, used)
        requantise = node.requantise
    elif isinstance(node, Multiply):
        left = _source_shape(graph, number, node.left)
        right = _source_shape(graph, number, node.right)
        require(len(left) == len(right), "the factors of a product differ in their axes")
        require(
            all(b in (a, 1) for a, b in zip(left, right, strict=True)),
            "the factors of a product differ in shape",
        )
        requantise = node.requantise
    else:
        _source_shape(graph, number, node.source)
        within((node.kernel,), 2, MAX_AXIS, "a maximum's kernel")
        within((node.stride,), 1, MAX_AXIS, "a maximum's stride")
        within((node.before, node.after), 0, node.kernel - 1, "a maximum's padding")
        require(graph.value_range(node.source) is not None, "a maximum has a raw source")
        return
    if requantise is not None:
        require(0 <= requantise.table < len(graph.tables), "a table does not exist")
        require(
            0 <= requantise.shift <= _MAX_SHIFT and requantise.shift % graph.range_bits == 0,
            "a shift is not a multiple of range_bits up to 32",
        )
        used.tables.add(requantise.table)


def _source_shape(graph: Graph, number: int, source: int) -> Shape:
    require(0 <= source <= number, "a source does not come before its node")
    return graph.shapes[source]


def _check_affine(graph: Graph, number: int, node: Affine, used: _UsedParts) -> None:
    check_shape(node.shape)
    require(1 <= len(node.terms) <= MAX_TERMS, "the number of terms is out of range")
    for term in node.terms:
        source = _source_shape(graph, number, term.source)
        require(len(source) == len(node.shape), "a term has another number of axes than its node")
        if isinstance(term, Convolve):
            _check_convolve(graph, term, source, node.shape)
            used.weights.add(term.weight)
            continue
        require(0 < abs(term.multiplier) < _MULTIPLIER, "a multiplier is out of range")
        if isinstance(term, Window):
            _check_places(term.kernel, term.strides, term.before, len(source) - 1)
            require(source[0] == node.shape[0], "a window changes the channels")
        elif isinstance(term, Scale):
            require(source == node.shape, "a scaled tensor has another shape than its node")
        else:
            _check_embed(term, source, node.shape)
    if node.bias is not None:
        require(0 <= node.bias < len(graph.weights), "a bias does not exist")
        require(graph.weights[node.bias] == node.shape[:1], "a bias has a wrong shape")
        used.weights.add(node.bias)


def _check_convolve(graph: Graph, term: Convolve, source: Shape, shape: Shape) -> None:
    require(0 <= term.weight < len(graph.weights), "a weight does not exist")
    weight = graph.weights[term.weight]
    require(len(weight) == len(source) + 2, "a weight has a wrong number of axes")
    groups, outputs, inputs, *kernel = weight
    require(groups * inputs == source[0], "a convolution's inputs are not its source's channels")
    require(groups * outputs == shape[0], "a convolution's outputs are not its node's channels")
    require(
        groups == 1 or (outputs == padded(outputs) and inputs == padded(inputs)),
        "a grouped convolution's channels are not powers of two",
    )
    _check_places(tuple(kernel), term.strides, term.before, len(source) - 1)
    require(len(term.dilations) == len(kernel), "expected one dilation for each spatial axis")
    within(term.dilations, 1, MAX_AXIS, "a dilation")


def _check_places(kernel: Shape, strides: Shape, before: Shape, axes: int) -> None:
    require(
        len(kernel) == len(strides) == len(before) == axes,
        "expected one entry for each spatial axis",
    )
    within(kernel, 1, MAX_AXIS, "a kernel")
    within(strides, 1, MAX_AXIS, "a stride")
    within(before, 0, MAX_AXIS, "a padding")


def _check_embed(term: Embed, source: Shape, shape: Shape) -> None:
    require(0 <= term.axis < len(shape), "an embedding's axis does not exist")
    for axis, (inner, outer) in enumerate(zip(source, shape, strict=True)):
        if axis == term.axis:
            require(0 <= term.offset <= outer - inner, "an embedding leaves its node")
        else:
            require(inner == outer, "an embedded tensor has another shape than its node")
