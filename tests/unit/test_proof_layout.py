"""Where arrays stand in a commitment, and the numbers that follow from it."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from verispect.core.errors import MalformedError
from verispect.proof import layout, parameters
from verispect.proof.binary_fraction import BinaryFraction
from verispect.proof.graph import (
    Affine,
    Convolve,
    Epilogue,
    Graph,
    Input,
    Maximum,
    Multiply,
    Output,
    Requantise,
    Table,
)
from verispect.proof.layout import FIRST_TABLE, POSITIVE_PART, RANGE, Name, Role
from verispect.proof.parameters import Code, ProofShape

ONE = BinaryFraction(1, 0)


def small_graph(input_bits: int = 3) -> Graph:
    """A convolution over eight places, a maximum, a raw fully connected layer, and a square."""
    table = Table(-128, b"".join(max(i, 0).to_bytes(2, "little") for i in range(-128, 128)))
    return Graph(
        input=Input((2, 8), -(1 << input_bits), (1 << input_bits) - 1, ONE, (0, 1)),
        weights=((1, 3, 2, 3), (3,), (1, 5, 3, 4)),
        tables=(table,),
        nodes=(
            Affine((Convolve(0, 0, (1,), (1,), (1,)),), 1, Requantise(16, 0), (3, 8)),
            Maximum(1, 1, 2, 2, 0, 0),
            Affine((Convolve(2, 2, (1,), (0,), (1,)),), None, Requantise(0, 0), (5, 1)),
            Multiply(3, 3, None),
        ),
        output=Output(4, ONE, Epilogue.NONE),
        range_bits=8,
    )


def test_extent_is_the_last_place_inside():
    """The extent is one more than the padded index of the last unpadded place."""
    for sizes in itertools.product(range(1, 6), repeat=3):
        padded = [1 << (size - 1).bit_length() for size in sizes]
        index = 0
        for place, whole in zip((size - 1 for size in sizes), padded, strict=True):
            index = index * whole + place
        assert layout.extent(sizes) == index + 1
        assert 1 << layout.variables(sizes) == padded[0] * padded[1] * padded[2]


def test_witness_has_the_arrays_of_the_specification_in_order():
    """Input, then per node quotient, limbs and value or stages, then multiplicities."""
    found = [array.name for array in layout.witness_arrays(small_graph(), 3)]
    assert found == [
        Name(Role.INPUT),
        Name(Role.QUOTIENT, 0),
        Name(Role.LIMB, 0, 0),
        Name(Role.LIMB, 0, 1),
        Name(Role.VALUE, 0),
        Name(Role.STAGE, 1, 1),
        Name(Role.QUOTIENT, 2),
        Name(Role.VALUE, 2),
        Name(Role.VALUE, 3),
        Name(Role.MULTIPLICITY, POSITIVE_PART),
        Name(Role.MULTIPLICITY, RANGE),
        Name(Role.MULTIPLICITY, FIRST_TABLE),
    ]
    sizes = [array.sizes for array in layout.witness_arrays(small_graph(), 3)]
    assert sizes[0] == (3, 2, 8)
    assert sizes[5] == (3, 3, 4)
    assert sizes[-3:] == [(256,), (256,), (256,)]
    hidden = [array.name for array in layout.witness_arrays(small_graph(), 3, hidden_input=True)]
    assert hidden == [*found[1:], Name(Role.MULTIPLICITY, layout.INPUT_RANGE)]
    assert layout.tensor_name(small_graph(), 2) == Name(Role.STAGE, 1, 1)
    assert layout.tensor_name(small_graph(), 0) == Name(Role.INPUT)


@pytest.mark.parametrize("seed", range(20))
def test_arrays_never_overlap_and_are_aligned(seed):
    """Every array has entries of its own, aligned to its size, in rows that exist."""
    source = random.Random(seed)
    columns = source.randrange(6, 9)
    shapes = [
        tuple(source.randrange(1, 9) for _ in range(source.randrange(1, 5))) for _ in range(30)
    ]
    found = layout.arrange(shapes, columns)
    row = 0
    for polynomial in found.polynomials:
        assert polynomial.first_row == row
        assert polynomial.rows <= 1 << (polynomial.variables - columns)
        row += polynomial.rows
    assert found.rows == row
    taken: set[tuple[int, int]] = set()
    for number, (sizes, place) in enumerate(zip(shapes, found.places, strict=True)):
        count = layout.variables(sizes)
        assert place.variables == count
        assert place.offset % (1 << count) == 0
        polynomial = found.polynomials[place.polynomial]
        assert number in polynomial.members
        assert len(found.prefix(number)) == polynomial.variables - count
        bits = found.prefix(number)
        assert sum(b << (len(bits) - 1 - i) for i, b in enumerate(bits)) << count == place.offset
        entries = {(place.polynomial, place.offset + index) for index in range(1 << count)}
        assert not entries & taken
        taken |= entries
        if count >= columns:
            assert polynomial.members == (number,)
            assert polynomial.rows == -(-layout.extent(sizes) // (1 << columns))


def test_packing_is_by_size_then_by_number():
    """Small arrays are placed by decreasing size, then by number; large ones come first."""
    found = layout.arrange([(16,), (3,), (64,), (32,), (16, 4), (1,), (4,)], 6)
    assert [p.members for p in found.polynomials] == [(2,), (4,), (3, 0, 1, 6, 5)]
    assert [found.places[i].offset for i in (3, 0, 1, 6, 5)] == [0, 32, 48, 52, 56]
    assert found.prefix(0) == (1, 0)
    offsets, whole = layout.pack([2, 4, 0, 2])
    assert (offsets, whole) == ((16, 0, 24, 20), 5)
    assert layout.pack([]) == ((), 1)
    assert layout.pack([0]) == ((0,), 1)


def test_query_counts_are_the_smallest_that_suffice():
    """The number of queries is the smallest whose unique-decoding bound is 2^-101."""
    assert parameters.query_count(4096, 1024) == 149
    assert parameters.query_count(4096, 512) == 122
    assert parameters.query_count(4096, 1536) == 187
    for length, bound in ((4096, 1024), (1024, 128), (1 << 14, 6000), (256, 255)):
        count = parameters.query_count(length, bound)
        missed = 1 - Fraction(length - bound, 2 * length)
        assert missed**count <= Fraction(1, 1 << 101) < missed ** (count - 1)


def test_hiding_code_grows_until_its_degree_fits():
    """A hiding code has room for the masks of every opening, and no more queries than it needs."""
    plain = Code(10, 2, 0)
    assert (plain.length, plain.degree_bound, plain.queries) == (4096, 1024, 149)
    hiding = Code(10, 2, 8)
    assert hiding.queries == 157
    assert hiding.degree_bound == 1024 + 8 * 157
    assert hiding.length == 8192
    assert hiding.witness_degree_bound == 1024 + 157

    def suffices(length: int, queries: int, budget: int) -> bool:
        degree = 256 + queries * budget
        fits = 8 * degree <= 3 * length
        return fits and parameters.query_count(length, degree) <= queries

    for budget in (1, 2, 3, 17, 400, 4096):
        code = Code(8, 2, budget)
        assert suffices(code.length, code.queries, budget)
        assert not any(suffices(code.length, t, budget) for t in range(1, code.queries))
        shorter = code.length // 2
        assert shorter < 1024 or not any(suffices(shorter, t, budget) for t in range(1, 300))
    for wrong in ((5, 2, 0), (17, 2, 0), (8, 1, 0), (8, 4, 0), (8, 2, -1), (8, 2, 4097)):
        with pytest.raises(MalformedError):
            Code(*wrong)


def test_shape_of_a_proof_counts_every_message():
    """The lengths of a proof are those of the specification, counted by hand."""
    graph = small_graph()
    shape = parameters.proof_shape(graph, 3, Code(6, 2, 0))
    # q, two limbs, one stage, q: 4*4*8 leaves thrice, 4*4*4, 4*8*1; three tables of 256.
    assert sorted(parameters.block_variables(graph, 3)) == [5, 6, 7, 7, 7, 8, 8, 8]
    assert shape.leaf_variables == 11
    # (i, k) of 2*4 and 4*4, and a product over 4*8.
    assert parameters.sum_variables(graph, 3) == [3, 4, 5]
    assert shape.node_variables == 5
    assert shape.claims == 3 + 6 + 2
    tree = 4 + sum(3 * k + 4 for k in range(1, 11))
    opening = 2 * shape.opening_variables + shape.polynomials
    assert shape.message_elements == tree + (1 + 15 + 6) + 2 + opening == shape.sent_elements
    shared = parameters.proof_shape(graph, 3, Code(6, 2, 0), requests=2)
    assert shared.message_elements == shape.message_elements + 2
    assert shared.soundness_error > shape.soundness_error
    assert shape.opening_variables == 8
    assert (shape.products, shape.mask_messages) == (0, 0)
    assert 101 <= shape.security_bits < 102


def test_shape_of_a_hiding_proof():
    """A hiding proof sends products, an offset and the masked rows of its messages."""
    graph = small_graph()
    code = Code(6, 2, 2)
    shape = parameters.proof_shape(graph, 3, code, hidden_input=True)
    assert len(shape.layouts) == 3
    assert shape.products == 3 + 1 + 3 * (shape.leaf_variables - 1) + 3
    h = shape.mask_messages
    assert h * 32 >= shape.message_elements + 6 * shape.products > (h - 1) * 32
    assert shape.row_counts[-1] == 3 * h + 4
    t = code.queries
    rows = h * (64 + t) + 64 + 2 * t
    assert shape.sent_elements == shape.message_elements + 4 * shape.products + 1 + rows
    assert shape.claims == 3 + 6 + 1
    missed = Fraction(code.length + code.degree_bound, 2 * code.length) ** t
    assert missed < shape.soundness_error
    assert shape.security_bits > 100
    with pytest.raises(ValueError, match="hiding"):
        parameters.proof_shape(graph, 3, Code(6, 2, 0), hidden_input=True)
    with pytest.raises(ValueError, match="shares"):
        parameters.proof_shape(graph, 3, code, hidden_input=True, requests=2)


def test_soundness_falls_below_the_limit_where_it_must():
    """The sum is honest: a lookup argument of 2^27 leaves leaves less than 100 bits."""
    large = ProofShape(
        code=Code(12, 2, 0), hidden_input=False, layouts=(layout.arrange([(1 << 20,)], 12),),
        leaf_variables=27, node_sums=0, node_variables=0, relations=0, widest=20,
    )  # fmt: skip
    assert large.security_bits < parameters.SECURITY_BITS


def test_smallest_code_is_small_and_has_few_columns():
    """The proof is at most a quarter larger than the smallest, and no fewer columns give that."""
    graph = small_graph()
    code = parameters.smallest_code(graph, 3)
    best = parameters.proof_shape(graph, 3, code).expected_bytes
    sizes = {
        columns: parameters.proof_shape(graph, 3, Code(columns, 2, 0)).expected_bytes
        for columns in range(6, 17)
    }
    assert best <= min(sizes.values()) * 5 / 4
    for columns, size in sizes.items():
        assert columns >= code.column_variables or size > min(sizes.values()) * 5 / 4
    assert parameters.smallest_code(graph, 4096).column_variables > code.column_variables
    hiding = parameters.smallest_code(graph, 3, masking_budget=4)
    assert hiding.masking_budget == 4
    assert parameters.proof_shape(graph, 3, hiding).expected_bytes > best
