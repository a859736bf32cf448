"""Which arrays a proof is about, and where each stands in a commitment (spec/proof.md, section 3).

Both sides use this: the prover to fill its matrices, the verifier to know what an opened row or
polynomial holds. It knows sizes only.

This module refuses values, and shapes other than those of a valid graph and batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from verispect.proof.graph import Graph
from verispect.proof.graph_parts import Maximum, padded

Sizes: TypeAlias = tuple[int, ...]
"""The unpadded sizes of an array's axes, the batch first where it has one."""

POSITIVE_PART: Final = 0
"""Tag of the lookup table of positive parts, which maxima use."""
RANGE: Final = 1
"""Tag of the lookup table of a limb's range."""
FIRST_TABLE: Final = 2
"""Tag of the graph's table 0; table `j` has tag `FIRST_TABLE + j`."""
INPUT_RANGE: Final = 1 << 16
"""Tag of the lookup table of a hidden input's range."""


class Role(StrEnum):
    """What an array of the witness is."""

    INPUT = "input"
    QUOTIENT = "quotient"
    LIMB = "limb"
    VALUE = "value"
    STAGE = "stage"
    MULTIPLICITY = "multiplicity"


@dataclass(frozen=True, slots=True)
class Name:
    """The name of one array of the witness."""

    role: Role
    number: int = 0
    """The node; of a multiplicity the tag of its table."""
    part: int = 0
    """Of a limb its index, of a maximum's stage from 1 to `kernel - 1`."""


@dataclass(frozen=True, slots=True)
class NamedArray:
    """One array of the witness."""

    name: Name
    sizes: Sizes


def variables(sizes: Sizes) -> int:
    """Return the number of variables of an array, its axes padded to powers of two."""
    return sum((size - 1).bit_length() for size in sizes)


def axis_variables(sizes: Sizes) -> tuple[int, ...]:
    """Return the number of variables of each axis."""
    return tuple((size - 1).bit_length() for size in sizes)


def extent(sizes: Sizes) -> int:
    """Return one more than the padded index of the last place inside the sizes."""
    last = 0
    for size in sizes:
        last = last * padded(size) + size - 1
    return last + 1


# -- The witness -----------------------------------------------------------------------------------


def tensor_name(graph: Graph, tensor: int) -> Name:
    """Return the witness's name of a tensor of the graph."""
    if tensor == 0:
        return Name(Role.INPUT)
    node = graph.nodes[tensor - 1]
    if isinstance(node, Maximum):
        return Name(Role.STAGE, tensor - 1, node.kernel - 1)
    return Name(Role.VALUE, tensor - 1)


def table_tags(graph: Graph, *, hidden_input: bool = False) -> tuple[int, ...]:
    """Return the tags of the lookup tables that a proof uses, in the order of their blocks."""
    tags = [POSITIVE_PART] if graph.positive_part_bits is not None else []
    tags += [RANGE] if graph.uses_limbs else []
    tags += [FIRST_TABLE + table for table in graph.used_tables]
    return (*tags, INPUT_RANGE) if hidden_input else tuple(tags)


def table_variables(graph: Graph, tag: int) -> int:
    """Return the number of variables of a lookup table."""
    if tag == POSITIVE_PART:
        if graph.positive_part_bits is None:
            raise ValueError("the graph has no maximum")
        return graph.positive_part_bits
    if tag == RANGE:
        return graph.range_bits
    if tag == INPUT_RANGE:
        return max(1, (graph.input.maximum - graph.input.minimum).bit_length())
    return (len(graph.tables[tag - FIRST_TABLE]) - 1).bit_length()


def input_array(graph: Graph, batch: int) -> NamedArray:
    """Return the input; where it is hidden it has a commitment of its own."""
    return NamedArray(Name(Role.INPUT), (batch, *graph.input.shape))


def witness_arrays(
    graph: Graph, batch: int, *, hidden_input: bool = False
) -> tuple[NamedArray, ...]:
    """Return the arrays of the witness in their order."""
    arrays = [] if hidden_input else [input_array(graph, batch)]
    for number, node in enumerate(graph.nodes):
        sizes = (batch, *graph.shapes[number + 1])
        if isinstance(node, Maximum):
            names = [Name(Role.STAGE, number, stage) for stage in range(1, node.kernel)]
        else:
            names = [Name(Role.QUOTIENT, number)] if node.requantise is not None else []
            names += [Name(Role.LIMB, number, limb) for limb in range(graph.limbs(node))]
            names.append(Name(Role.VALUE, number))
        arrays.extend(NamedArray(name, sizes) for name in names)
    for tag in table_tags(graph, hidden_input=hidden_input):
        sizes = (1 << table_variables(graph, tag),)
        arrays.append(NamedArray(Name(Role.MULTIPLICITY, tag), sizes))
    return tuple(arrays)


# -- Matrices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array stands: entries `offset ..` of a polynomial."""

    polynomial: int
    offset: int
    variables: int


@dataclass(frozen=True, slots=True)
class Polynomial:
    """One multilinear polynomial of a commitment: consecutive rows of its matrix."""

    variables: int
    first_row: int
    rows: int
    """The rows that are stored; those after them are zero."""
    members: tuple[int, ...]
    """The arrays it holds, in the order of their offsets."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The matrix of one commitment."""

    column_variables: int
    places: tuple[Place, ...]
    """One for each array, in the arrays' order."""
    polynomials: tuple[Polynomial, ...]

    @property
    def columns(self) -> int:
        """The number of columns."""
        return 1 << self.column_variables

    @property
    def rows(self) -> int:
        """The number of stored rows."""
        if not self.polynomials:
            return 0
        return self.polynomials[-1].first_row + self.polynomials[-1].rows

    def prefix(self, array: int) -> tuple[int, ...]:
        """Return the leading coordinates that select an array inside its polynomial."""
        place = self.places[array]
        whole = self.polynomials[place.polynomial].variables
        return prefix_bits(place.offset, whole, place.variables)


def prefix_bits(offset: int, whole: int, part: int) -> tuple[int, ...]:
    """Return the first `whole - part` bits, from the most significant, of an aligned offset."""
    return tuple((offset >> bit) & 1 for bit in range(whole - 1, part - 1, -1))


def arrange(shapes: Sequence[Sizes], column_variables: int) -> Layout:
    """Place arrays, given in order, in a matrix with `2^column_variables` columns."""
    places: list[Place | None] = [None] * len(shapes)
    polynomials: list[Polynomial] = []
    row = 0
    for number, sizes in enumerate(shapes):
        count = variables(sizes)
        if count >= column_variables:
            rows = -(-extent(sizes) >> column_variables)
            places[number] = Place(len(polynomials), 0, count)
            polynomials.append(Polynomial(count, row, rows, (number,)))
            row += rows
    small = [number for number in range(len(shapes)) if places[number] is None]
    offset = 0
    members: list[int] = []
    for number in sorted(small, key=lambda each: -variables(shapes[each])):
        size = 1 << variables(shapes[number])
        if offset + size > 1 << column_variables:
            polynomials.append(Polynomial(column_variables, row, 1, tuple(members)))
            row, offset, members = row + 1, 0, []
        places[number] = Place(len(polynomials), offset, variables(shapes[number]))
        members.append(number)
        offset += size
    if members:
        polynomials.append(Polynomial(column_variables, row, 1, tuple(members)))
    found = tuple(place for place in places if place is not None)
    return Layout(column_variables, found, tuple(polynomials))


def pack(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Place blocks of leaves, given by their numbers of variables, in one array.

    Returns:
        The offset of each block, and the number of variables of the whole, at least one.
    """
    offsets = [0] * len(sizes)
    end = 0
    for number in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
        offsets[number] = end
        end += 1 << sizes[number]
    return tuple(offsets), max(1, (end - 1).bit_length())


@functools.lru_cache(maxsize=64)
def weights_layout(weights: tuple[Sizes, ...], column_variables: int) -> Layout:
    """Return the layout of a model's weights."""
    return arrange(weights, column_variables)


def witness_layout(
    graph: Graph, batch: int, column_variables: int, *, hidden_input: bool = False
) -> Layout:
    """Return the layout of a witness."""
    arrays = witness_arrays(graph, batch, hidden_input=hidden_input)
    return arrange([array.sizes for array in arrays], column_variables)
