"""What is proven, as the prover holds it: padded integers of weights and witness, in their order.

Every array is flat over its padded axes, of signed integers; where an array has a power of two on
each axis it is not copied. The unpadded tensors of the run stay beside them for the contractions.

This module refuses to run a model: it takes a finished trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verispect.proof.graph import Graph
from verispect.proof.graph_parts import padded
from verispect.proof.layout import Layout, Name, Sizes, tensor_name, witness_arrays
from verispect.proof.prover.views import Key
from verispect.proof.runtime import Trace

Integers = npt.NDArray[np.signedinteger[Any]]


def signed(values: npt.NDArray[np.integer]) -> Integers:
    """Return integers in a signed type of 32 bits, or of 64 where they need it."""
    if values.dtype == np.int64 and values.size:
        low, high = int(values.min()), int(values.max())
        if low < -(1 << 31) or high >= 1 << 31:
            return np.array(values, np.int64, order="C")
    result = np.ascontiguousarray(values, np.int32)
    # A kernel is compiled for each kind of array, and one that may not be written is another kind.
    return result if result.flags.writeable else result.copy()


def pad(values: npt.NDArray[np.integer]) -> Integers:
    """Return the flat array over the padded axes."""
    whole = signed(values)
    shape = tuple(map(padded, whole.shape))
    if shape != whole.shape:
        wide = np.zeros(shape, whole.dtype)
        wide[tuple(map(slice, whole.shape))] = whole
        whole = wide
    return whole.reshape(-1)


@dataclass(frozen=True, slots=True)
class Group:
    """The arrays of one commitment."""

    layout: Layout
    keys: tuple[Key, ...]
    sizes: tuple[Sizes, ...]
    arrays: tuple[Integers, ...]
    """Padded and flat."""

    def rows(self) -> Integers:
        """Return the matrix that is committed to, without masks."""
        layout = self.layout
        wide = any(array.dtype == np.int64 for array in self.arrays)
        result = np.zeros((layout.rows, layout.columns), np.int64 if wide else np.int32)
        flat = result.reshape(-1)
        for place, array in zip(layout.places, self.arrays, strict=True):
            polynomial = layout.polynomials[place.polynomial]
            start = polynomial.first_row * layout.columns
            room = min(polynomial.rows * layout.columns - place.offset, len(array))
            flat[start + place.offset : start + place.offset + room] = array[:room]
        return result


def weight_group(layout: Layout, weights: Sequence[npt.NDArray[np.integer]]) -> Group:
    """Return the group of a model's weights."""
    arrays = tuple(pad(weight) for weight in weights)
    sizes = tuple(weight.shape for weight in weights)
    return Group(layout, tuple(range(len(arrays))), sizes, arrays)


@dataclass(frozen=True, slots=True)
class Witness:
    """A run of a model on a batch, with everything its proof is about.

    Args:
        graph: the model's graph.
        batch: the number of requests.
        weights: unpadded, in the graph's order.
        trace: the run.
        groups: the commitments' arrays: weights, the input where it is hidden, witness.
    """

    graph: Graph
    batch: int
    weights: tuple[npt.NDArray[np.integer], ...]
    trace: Trace
    groups: tuple[Group, ...]
    arrays: dict[Key, Integers]
    sizes: dict[Key, Sizes]

    def tensor(self, number: int) -> npt.NDArray[np.integer]:
        """Return a tensor of the graph, unpadded, batch first."""
        return self.trace.tensors[number]

    def name(self, number: int) -> Name:
        """Return the name of a tensor of the graph."""
        return tensor_name(self.graph, number)

    def shape(self, number: int) -> Sizes:
        """Return the sizes of a tensor of the graph, batch first."""
        return (self.batch, *self.graph.shapes[number])


def hold(
    graph: Graph,
    weights: Group,
    integers: Sequence[npt.NDArray[np.integer]],
    trace: Trace,
    layouts: Sequence[Layout],
    multiplicities: Sequence[npt.NDArray[np.integer]],
    *,
    hidden_input: bool = False,
) -> Witness:
    """Pad and name what a run left, beside the weights.

    Args:
        graph: the model's graph.
        weights: the weights, padded.
        integers: the weights, unpadded.
        trace: the run.
        layouts: of the input where it is hidden, and of the witness.
        multiplicities: in the order of the witness.
        hidden_input: whether the input has a commitment of its own.
    """
    batch = trace.tensors[0].shape[0]
    values: list[npt.NDArray[np.integer]] = [] if hidden_input else [trace.tensors[0]]
    for node in trace.nodes:
        values.extend(node.arrays())
    values.extend(multiplicities)
    named = witness_arrays(graph, batch, hidden_input=hidden_input)
    arrays = tuple(map(pad, values))
    groups = [weights]
    if hidden_input:
        name = tensor_name(graph, 0)
        source = pad(trace.tensors[0])
        groups.append(Group(layouts[0], (name,), ((batch, *graph.input.shape),), (source,)))
    groups.append(
        Group(
            layouts[-1],
            tuple(entry.name for entry in named),
            tuple(entry.sizes for entry in named),
            arrays,
        )
    )
    for group in groups:
        for sizes, array in zip(group.sizes, group.arrays, strict=True):
            assert math.prod(map(padded, sizes)) == array.size
    return Witness(
        graph=graph,
        batch=batch,
        weights=tuple(integers),
        trace=trace,
        groups=tuple(groups),
        arrays={k: a for g in groups for k, a in zip(g.keys, g.arrays, strict=True)},
        sizes={k: s for g in groups for k, s in zip(g.keys, g.sizes, strict=True)},
    )
