"""The executable definition of an integer model (spec/integer-model.md section 2).

`Runtime.run` computes every tensor and every witness array of `spec/proof.md` section 3 on
integers, to the bit. Products of matrices go through binary64, and only where the bounds of the
model show that no partial sum can leave the integers a binary64 holds exactly.

It refuses weights that do not fit the graph, models whose bounds cannot be shown, and inputs
outside the stated range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from verispect.core.errors import ModelError, Reason, RequestError
from verispect.proof.bounds import NodeBounds, compute_bounds
from verispect.proof.graph import (
    MAX_BATCH,
    MAX_PADDED,
    Affine,
    Convolve,
    Graph,
    Maximum,
    Multiply,
    Requantise,
    Scale,
    Shape,
    Term,
    Window,
    padded,
)

Integers: TypeAlias = npt.NDArray[np.integer]
_Floats: TypeAlias = npt.NDArray[np.floating]

_EXACT_IN_BINARY32: Final = 1 << 24


_ONE_THREAD: Final = 1 << 18
"""Multiplications for which BLAS uses the calling thread alone."""


@dataclass(frozen=True, slots=True)
class NodeTrace:
    """What one node adds to the witness, each array with the batch axis first and unpadded.

    Args:
        quotient: `q`, or None.
        limbs: the remainder, least significant limb first.
        stages: of a maximum, `m_1 ..`, the last being the output; empty otherwise.
        output: the node's tensor.
    """

    quotient: Integers | None
    limbs: tuple[Integers, ...]
    stages: tuple[Integers, ...]
    output: Integers

    def arrays(self) -> Iterator[Integers]:
        """Yield the arrays in the order of the witness."""
        if self.quotient is not None:
            yield self.quotient
        yield from self.limbs
        if self.stages:
            yield from self.stages
        else:
            yield self.output


@dataclass(frozen=True, slots=True)
class Trace:
    """A run: every tensor and every witness array.

    Args:
        tensors: by number, the input first.
        nodes: by number.
        multiplicities: of the tables looked up: positive part, range table, the graph's tables.
        output: the answer's integers, int64.
    """

    tensors: tuple[Integers, ...]
    nodes: tuple[NodeTrace, ...]
    multiplicities: tuple[Integers, ...]
    output: npt.NDArray[np.int64]

    @property
    def witness(self) -> tuple[Integers, ...]:
        """All witness arrays in the order of spec/proof.md section 3, unpadded."""
        arrays = [self.tensors[0]]
        for node in self.nodes:
            arrays.extend(node.arrays())
        return (*arrays, *self.multiplicities)


class Runtime:
    """A graph with its weights, ready to run.

    Args:
        graph: the graph.
        weights: integer arrays, of the graph's shapes in its order.

    Raises:
        ModelError: `malformed-model`, as `compute_bounds`.
    """

    def __init__(self, graph: Graph, weights: Sequence[Integers]) -> None:
        self.graph = graph
        self.weights = tuple(weights)
        self.bounds = compute_bounds(graph, self.weights)
        self._matrices: dict[tuple[int, type], _Floats] = {}

    def run(self, inputs: npt.ArrayLike) -> Trace:
        """Compute the answers for a batch.

        Args:
            inputs: integers of shape `(batch, *input shape)`.

        Raises:
            RequestError: `invalid-request` for another shape or integers outside the range,
                `too-large` for a batch beyond the limits.
        """
        first = self._checked(np.asarray(inputs))
        tensors: list[Integers] = [first]
        nodes = []
        counts = _Counts(self.graph)
        for number, node in enumerate(self.graph.nodes):
            if isinstance(node, Maximum):
                trace = self._maximum(node, tensors[node.source], counts)
            else:
                values = (
                    tensors[node.left].astype(np.int64) * tensors[node.right]
                    if isinstance(node, Multiply)
                    else self._affine(node, tensors, self.bounds[number])
                )
                trace = self._requantised(node.requantise, values, counts)
            nodes.append(trace)
            tensors.append(trace.output)
        output = tensors[self.graph.output.tensor].astype(np.int64)
        return Trace(tuple(tensors), tuple(nodes), counts.arrays(), output)

    def _checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
        source = self.graph.input
        if inputs.dtype.kind not in "iu" or inputs.shape[1:] != source.shape or not inputs.size:
            raise RequestError("expected a batch of integers of the input's shape")
        batch = padded(len(inputs))
        largest = max(math.prod(map(padded, shape)) for shape in self.graph.shapes)
        if len(inputs) > MAX_BATCH or batch * largest > MAX_PADDED:
            raise RequestError("too many requests in one batch", reason=Reason.TOO_LARGE)
        if int(inputs.min()) < source.minimum or int(inputs.max()) > source.maximum:
            raise RequestError("an input lies outside the model's range")
        return inputs.astype(np.int16)

    # -- Affine nodes ---------------------------------------------------------------------------

    def _affine(
        self, node: Affine, tensors: Sequence[Integers], bounds: NodeBounds
    ) -> npt.NDArray[np.int64]:
        total = np.zeros((len(tensors[0]), *node.shape), np.int64)
        for term in node.terms:
            if isinstance(term, Convolve):
                single = bounds.magnitude < _EXACT_IN_BINARY32
                kind = np.float32 if single else np.float64
                total += self._convolve(term, tensors[term.source], node.shape, kind)
            else:
                _add_simple_term(total, term, tensors[term.source], node.shape)
        if node.bias is not None:
            spatial = (1,) * (len(node.shape) - 1)
            total += self.weights[node.bias].astype(np.int64).reshape(-1, *spatial)
        return total

    def _convolve(
        self, term: Convolve, source: Integers, shape: Shape, kind: type
    ) -> npt.NDArray[np.int64]:
        groups, outputs, _, *kernel = self.graph.weights[term.weight]
        matrix = self._matrix(term.weight, kind).reshape(groups, outputs, -1)
        patches = _patches(
            source, tuple(kernel), term.strides, term.before, term.dilations, shape[1:]
        )
        places = math.prod(shape[1:])
        batch = len(source)
        if places == 1 and groups == 1:
            rows: _Floats = patches.reshape(batch, -1).astype(kind)
            return _in_parts(rows, matrix[0]).astype(np.int64).reshape(batch, *shape)
        result = np.empty((batch, *shape), np.int64)
        for request in range(batch):
            columns = patches[request].astype(kind).reshape(groups, -1, places)
            result[request] = (matrix @ columns).reshape(shape)
        return result

    def _matrix(self, number: int, kind: type) -> _Floats:
        key = (number, kind)
        if key not in self._matrices:
            self._matrices[key] = self.weights[number].astype(kind)
        return self._matrices[key]

    # -- What is not linear ---------------------------------------------------------------------

    def _requantised(
        self, requantise: Requantise | None, values: npt.NDArray[np.int64], counts: _Counts
    ) -> NodeTrace:
        if requantise is None:
            return NodeTrace(None, (), (), values)
        shift, bits = requantise.shift, self.graph.range_bits
        moved = values + (1 << (shift - 1)) if shift else values
        quotient = moved >> shift
        kind: type[np.integer] = np.uint8 if bits == 8 else np.uint16
        limbs: tuple[Integers, ...] = tuple(
            (moved >> place & ((1 << bits) - 1)).astype(kind) for place in range(0, shift, bits)
        )
        table = self.graph.tables[requantise.table]
        index = quotient - table.first
        if int(index.min()) < 0 or int(index.max()) >= len(table):
            raise ModelError("a value left its table's domain", reason=Reason.MALFORMED_MODEL)
        counts.look_up(requantise.table, index)
        for limb in limbs:
            counts.look_up(_RANGE, limb)
        return NodeTrace(quotient.astype(np.int32), limbs, (), table.values[index])

    def _maximum(self, node: Maximum, source: Integers, counts: _Counts) -> NodeTrace:
        values = self.graph.value_range(node.source)
        bits = self.graph.positive_part_bits
        assert values is not None
        assert bits is not None
        axis = 1 + node.axis
        padding = [(0, 0)] * source.ndim
        padding[axis] = (node.before, node.after)
        wide = np.pad(source, padding, constant_values=values[0])
        windows = sliding_window_view(wide, node.kernel, axis=axis)
        windows = windows[(slice(None),) * axis + (slice(None, None, node.stride),)]
        largest = windows[..., 0]
        stages = []
        for tap in range(1, node.kernel):
            value = windows[..., tap]
            counts.look_up(_POSITIVE, largest.astype(np.int32) - value + (1 << (bits - 1)))
            largest = np.maximum(largest, value)
            stages.append(largest)
        return NodeTrace(None, (), tuple(stages), largest)


def _in_parts(rows: _Floats, matrix: _Floats) -> _Floats:
    """Return `rows @ matrix.T`, in parts so small that BLAS wakes no other thread for them.

    A thread of OpenBLAS goes on spinning after its work: for one row that costs a hundred times
    what the product does.
    """
    step = max(1, _ONE_THREAD // max(1, rows.size))
    parts = [rows @ matrix[start : start + step].T for start in range(0, len(matrix), step)]
    return np.concatenate(parts, axis=1)


def _patches(
    source: Integers,
    kernel: Shape,
    strides: Shape,
    before: Shape,
    dilations: Shape,
    places: Shape,
) -> Integers:
    """Return a view of shape `(batch, channels, *kernel, *places)`, zero outside the source."""
    axes = range(2, source.ndim)
    spans = [(taps - 1) * dilation + 1 for taps, dilation in zip(kernel, dilations, strict=True)]
    padding = [(0, 0), (0, 0)]
    for size, span, stride, start, count in zip(
        source.shape[2:], spans, strides, before, places, strict=True
    ):
        padding.append((start, max(0, (count - 1) * stride + span - start - size)))
    wide = np.pad(source, padding) if any(map(any, padding)) else source
    if not spans:
        return wide
    windows = sliding_window_view(wide, spans, axis=tuple(axes))
    chosen = tuple(
        slice(0, (count - 1) * stride + 1, stride)
        for count, stride in zip(places, strides, strict=True)
    )
    taps = tuple(slice(None, None, dilation) for dilation in dilations)
    windows = windows[(slice(None), slice(None), *chosen, *taps)]
    spatial = len(places)
    order = (0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial))
    return windows.transpose(order)


def _add_simple_term(
    total: npt.NDArray[np.int64], term: Term, source: Integers, shape: Shape
) -> None:
    if isinstance(term, Window):
        ones = (1,) * len(term.kernel)
        patches = _patches(source, term.kernel, term.strides, term.before, ones, shape[1:])
        taps = tuple(range(2, 2 + len(term.kernel)))
        total += term.multiplier * patches.sum(axis=taps, dtype=np.int64)
    elif isinstance(term, Scale):
        total += term.multiplier * source.astype(np.int64)
    elif not isinstance(term, Convolve):
        end = term.offset + source.shape[1 + term.axis]
        inside = (slice(None),) * (1 + term.axis) + (slice(term.offset, end),)
        total[inside] += term.multiplier * source.astype(np.int64)


_POSITIVE: Final = -2
_RANGE: Final = -1


class _Counts:
    """How often each entry of each table is looked up."""

    def __init__(self, graph: Graph) -> None:
        sizes: dict[int, int] = {}
        if graph.positive_part_bits is not None:
            sizes[_POSITIVE] = 1 << graph.positive_part_bits
        if graph.uses_limbs:
            sizes[_RANGE] = 1 << graph.range_bits
        sizes.update((table, len(graph.tables[table])) for table in graph.used_tables)
        self._counts = {key: np.zeros(size, np.int64) for key, size in sizes.items()}

    def look_up(self, key: int, index: Integers) -> None:
        """Count every entry of `index`."""
        counts = self._counts[key]
        counts += np.bincount(index.reshape(-1), minlength=len(counts))

    def arrays(self) -> tuple[Integers, ...]:
        """Return the multiplicities in the order of the witness."""
        return tuple(self._counts.values())
