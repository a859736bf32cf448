"""Interval arithmetic over an integer model (spec/integer-model.md section 2, last paragraph).

Whoever holds the weights checks, before they are committed, that no input within its range can
carry a value out of a table or beyond 2^52. A verifier cannot check this and does not need to: a
prover that breaks it finds no proof. This module refuses models for which it cannot be shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from verispect.core.errors import ModelError, Reason
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Graph,
    Maximum,
    Multiply,
    Requantise,
    Scale,
    Shape,
    Term,
    Window,
)

Integers: TypeAlias = npt.NDArray[np.integer]
Interval: TypeAlias = tuple[int, int]
_Bound: TypeAlias = npt.NDArray[np.float64] | float

MAGNITUDE: Final = 1 << 52
"""Every value before requantisation is smaller than this, so that a binary64 holds it."""
_WEIGHT: Final = 1 << 31
_BIAS: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class NodeBounds:
    """What one node can compute for any input.

    Args:
        value: the values before requantisation; of a maximum, its output.
        magnitude: a bound on every partial sum's absolute value.
        quotient: the values of `q`, or None without requantise.
        output: the values of the node's tensor.
    """

    value: Interval
    magnitude: int
    quotient: Interval | None
    output: Interval


def check_weights(graph: Graph, weights: Sequence[Integers]) -> None:
    """Refuse weights that are not those of `graph` in number, shape, type or size.

    Raises:
        ModelError: `malformed-model`.
    """
    if len(weights) != len(graph.weights):
        raise _refused(f"expected {len(graph.weights)} weights, got {len(weights)}")
    for number, (shape, weight) in enumerate(zip(graph.weights, weights, strict=True)):
        if weight.shape != shape or weight.dtype.kind not in "iu":
            raise _refused(f"weight {number} is not an array of integers of its shape")
        limit = _BIAS if len(shape) == 1 else _WEIGHT
        if int(weight.max()) >= limit or int(weight.min()) <= -limit:
            raise _refused(f"weight {number} is out of range")


def compute_bounds(graph: Graph, weights: Sequence[Integers]) -> tuple[NodeBounds, ...]:
    """Return the bounds of every node, in order.

    Raises:
        ModelError: `malformed-model`, when weights do not fit the graph, a `q` can leave its
            table's domain or a value can reach 2^52.
    """
    check_weights(graph, weights)
    ranges: list[Interval] = [(graph.input.minimum, graph.input.maximum)]
    bounds = []
    for number, node in enumerate(graph.nodes):
        if isinstance(node, Maximum):
            values = ranges[node.source]
            found = NodeBounds(values, max(map(abs, values)), None, values)
        else:
            value, magnitude = (
                _product(ranges[node.left], ranges[node.right])
                if isinstance(node, Multiply)
                else affine_bounds(node, ranges, weights, graph.shapes)
            )
            if magnitude >= MAGNITUDE:
                raise _refused(f"a value of node {number} can reach 2^52")
            found = _requantised(graph, number, node.requantise, value, magnitude)
        bounds.append(found)
        ranges.append(found.output)
    return tuple(bounds)


def _refused(message: str) -> ModelError:
    return ModelError(message, reason=Reason.MALFORMED_MODEL)


def _requantised(
    graph: Graph, number: int, requantise: Requantise | None, value: Interval, magnitude: int
) -> NodeBounds:
    if requantise is None:
        return NodeBounds(value, magnitude, None, value)
    table = graph.tables[requantise.table]
    low, high = (quotient(each, requantise.shift) for each in value)
    start, end = low - table.first, high - table.first
    if start < 0 or end >= len(table):
        raise _refused(f"a value of node {number} can leave its table's domain")
    outputs = table.values[start : end + 1]
    return NodeBounds(value, magnitude, (low, high), (int(outputs.min()), int(outputs.max())))


def quotient(value: int, shift: int) -> int:
    """Return `value / 2^shift`, rounded to nearest, halves upward."""
    half = 1 << (shift - 1) if shift else 0
    return (value + half) >> shift


def _product(left: Interval, right: Interval) -> tuple[Interval, int]:
    corners = [a * b for a in left for b in right]
    return (min(corners), max(corners)), max(map(abs, corners))


def affine_bounds(
    node: Affine,
    ranges: Sequence[Interval],
    weights: Sequence[Integers],
    shapes: Sequence[Shape],
) -> tuple[Interval, int]:
    """Return the interval of an affine node's sums, over all channels, and their magnitude."""
    channels = node.shape[0]
    low = np.zeros(channels, np.float64)
    high = np.zeros(channels, np.float64)
    size = np.zeros(channels, np.float64)
    for term_low, term_high in _all_terms(node, ranges, weights, shapes):
        low += term_low
        high += term_high
        size += np.maximum(np.abs(term_low), np.abs(term_high))
    if node.bias is not None:
        bias = weights[node.bias].astype(np.float64)
        low, high, size = low + bias, high + bias, size + np.abs(bias)
    # Sums of integers below 2^53 are exact in binary64; beyond, the magnitude refuses the model.
    return (int(low.min()), int(high.max())), int(size.max())


def _all_terms(
    node: Affine,
    ranges: Sequence[Interval],
    weights: Sequence[Integers],
    shapes: Sequence[Shape],
) -> Iterator[tuple[_Bound, _Bound]]:
    embedded = [term for term in node.terms if isinstance(term, Embed)]
    apart = _lie_apart(embedded, shapes)
    if apart:
        found = [_term_bounds(term, ranges[term.source], weights) for term in embedded]
        yield min(low for low, _ in found), max(high for _, high in found)
    for term in node.terms:
        if not (apart and isinstance(term, Embed)):
            yield _term_bounds(term, ranges[term.source], weights)


def _lie_apart(embedded: Sequence[Embed], shapes: Sequence[Shape]) -> bool:
    """Tell whether no place has two of the embedded tensors: then their bounds do not add up."""
    if len({term.axis for term in embedded}) != 1:
        return False
    places = sorted(
        (term.offset, term.offset + shapes[term.source][term.axis]) for term in embedded
    )
    return all(one[1] <= other[0] for one, other in pairwise(places))


def _term_bounds(
    term: Term, source: Interval, weights: Sequence[Integers]
) -> tuple[_Bound, _Bound]:
    if isinstance(term, Scale):
        ends = sorted(float(term.multiplier * end) for end in source)
        return ends[0], ends[1]
    # Places outside the source are zero.
    low, high = float(min(source[0], 0)), float(max(source[1], 0))
    if isinstance(term, Convolve):
        weight = weights[term.weight].reshape(*weights[term.weight].shape[:2], -1)
        positive = np.maximum(weight, 0).sum(axis=2, dtype=np.float64).reshape(-1)
        negative = np.minimum(weight, 0).sum(axis=2, dtype=np.float64).reshape(-1)
        return positive * low + negative * high, positive * high + negative * low
    count = math.prod(term.kernel) if isinstance(term, Window) else 1
    ends = sorted((count * term.multiplier * low, count * term.multiplier * high))
    return ends[0], ends[1]
