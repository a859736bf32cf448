"""Tables, contractions and code words, against Python integers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from verispect.proof import field, multilinear
from verispect.proof.field import MODULUS, ONE, ZERO, Element

P = MODULUS
EDGES = (0, 1, P - 1, 2**32 - 1, 2**32, P - 2**32, 2**63)


def point(count: int, seed: int = 1) -> list[Element]:
    source = random.Random(seed)
    pick = lambda: source.choice([*EDGES, source.randrange(P)])  # noqa: E731
    return [Element(pick(), pick()) for _ in range(count)]


def slow_eq(at: list[Element], index: int) -> Element:
    result = ONE
    for place, z in enumerate(at):
        bit = (index >> (len(at) - 1 - place)) & 1
        result = result * (z if bit else ONE - z)
    return result


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 9, 11])
def test_table_of_eq(count):
    """A table of eq holds the products of its coordinates, the first the most significant."""
    at = point(count)
    table = field.to_elements(multilinear.eq_table(at))
    assert table == [slow_eq(at, index) for index in range(1 << count)]
    assert field.total_of(table) == ONE
    for index in {0, (1 << count) - 1, (1 << count) // 3}:
        bits = [(index >> (count - 1 - i)) & 1 for i in range(count)]
        assert multilinear.eq_index(at, index) == table[index] == multilinear.eq_bits(at, bits)
        assert multilinear.eq(at, [Element(bit) for bit in bits]) == table[index]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_prefix_sums_at_every_size(count):
    """Prefix sums of eq, and of products of two, are right at every size."""
    left, right = point(count, 2), point(count, 3)
    one, other = multilinear.eq_table(left), multilinear.eq_table(right)
    products = field.to_elements(field.multiply_extension(one, other))
    for size in range((1 << count) + 1):
        assert multilinear.prefix_sum(left, size) == field.total_of(field.to_elements(one)[:size])
        expected = field.total_of(products[:size])
        assert multilinear.prefix_product_sum(left, right, size) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (7, 2049, 3), (2, 4100, 1)])
def test_matrix_product_is_exact(shape):
    """A matrix product through floating point is that of integers, at the largest values too."""
    rows, inner, columns = shape
    source = np.random.default_rng(4)
    left = source.integers(0, P, (rows, inner), dtype=np.uint64)
    right = source.integers(0, P, (inner, columns), dtype=np.uint64)
    left[0], right[:, 0] = P - 1, P - 1
    found = multilinear.multiply_matrices(left, right)
    expected = left.astype(object) @ right.astype(object) % P
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("bits", [1, 8, 15, 16, 17, 31, 33, 52, 62])
def test_contraction_of_integers(bits):
    """Signed integers of any width contract exactly with a vector over the extension."""
    source = np.random.default_rng(bits)
    matrix = source.integers(-(1 << bits), 1 << bits, (4, 37), dtype=np.int64)
    matrix[0], matrix[1] = -(1 << bits), (1 << bits) - 1
    vector = field.to_array(point(37))
    found = field.to_elements(multilinear.contract_integers(matrix, vector))
    weights = field.to_elements(vector)
    assert found == [
        field.total_of(w * Element.of(v) for w, v in zip(weights, row, strict=True))
        for row in matrix.tolist()
    ]
    assert multilinear.contract_integers(matrix[:0], vector).shape == (0, 2)


@pytest.mark.parametrize("sizes", [(5,), (3, 6), (2, 3, 5), (1, 1, 4, 3)])
def test_extension_of_integers_ignores_the_padding(sizes):
    """The extension of an unpadded array is the sum over its places, the padding being zero."""
    values = np.random.default_rng(5).integers(-300, 300, sizes, dtype=np.int64)
    points = [point((size - 1).bit_length(), 6 + size) for size in sizes]
    tables = [multilinear.eq_table(each) for each in points]
    found = multilinear.extension_of_integers(values, tables)
    expected = ZERO
    for place in itertools.product(*map(range, sizes)):
        term = Element.of(int(values[place]))
        for axis, index in enumerate(place):
            term = term * slow_eq(points[axis], index)
        expected = expected + term
    assert found == expected


@pytest.mark.parametrize(("count", "log_length"), [(1, 4), (2, 3), (64, 8), (100, 9), (251, 10)])
def test_code_word_at_positions(count, log_length):
    """The values of a polynomial at chosen places of the domain are Horner's."""
    coefficients = point(count, count)
    positions = np.array([0, 1, 2, (1 << log_length) - 1, 5, 5])
    found = field.to_elements(
        multilinear.evaluate_at(field.to_array(coefficients), log_length, positions)
    )
    for position, value in zip(positions.tolist(), found, strict=True):
        x = pow(field.root_of_unity(log_length), position, P)
        expected = ZERO
        for coefficient in reversed(coefficients):
            expected = expected * x + coefficient
        assert value == expected


def test_inner_product():
    """The inner product of two vectors is the sum of their products."""
    left, right = point(50, 7), point(50, 8)
    expected = field.total_of(a * b for a, b in zip(left, right, strict=True))
    assert multilinear.inner_product(field.to_array(left), field.to_array(right)) == expected
