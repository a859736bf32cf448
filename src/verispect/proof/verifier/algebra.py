"""What a verifier computes beside `multilinear`: short vectors, tables and code words.

Short points are `Element`s and plain loops; what is as long as a table or a column is contracted
exactly by `multilinear`. This module refuses nothing and knows nothing of proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verispect.proof import field, multilinear
from verispect.proof.field import MODULUS, ONE, ZERO, Array, Element

Point: TypeAlias = tuple[Element, ...]

_POWERS_AT_A_TIME = 1 << 22


def index_of(point: Sequence[Element]) -> Element:
    """Return the extension of the index itself."""
    result = ZERO
    for x in point:
        result = result + result + x
    return result


def one_minus(point: Sequence[Element]) -> Element:
    """Return the product of `1 - x`, by which a late joiner of a sumcheck waits."""
    return field.product_of([ONE - x for x in point])


def equalities(point: Sequence[Element]) -> list[Element]:
    """Return `eq(point, i)` for every `i`, for a short point."""
    return field.to_elements(multilinear.eq_table(point))


def dot(left: Sequence[Element], right: Sequence[Element]) -> Element:
    """Return the sum of products."""
    a = b = 0
    for x, y in zip(left, right, strict=True):
        a += x.a * y.a + field.NON_RESIDUE * x.b * y.b
        b += x.a * y.b + x.b * y.a
    return Element(a % MODULUS, b % MODULUS)


def extension_of_table(values: NDArray[np.signedinteger[Any]], point: Point) -> Element:
    """Return the extension of a table of `2^len(point)` integers."""
    upper = len(point) // 2
    square = values.reshape(1 << upper, -1)
    vectors = [multilinear.eq_table(point[:upper]), multilinear.eq_table(point[upper:])]
    return multilinear.extension_of_integers(square, vectors)


@lru_cache(maxsize=4)
def domain(log_length: int) -> Array:
    """Return `w_n^j` for every `j < n`."""
    table = np.ones(1, dtype=np.uint64)
    for level in range(log_length):
        factor = pow(field.root_of_unity(log_length), 1 << level, MODULUS)
        scaled = field.multiply(table, np.full_like(table, factor))
        table = np.concatenate([table, scaled])
    return table


def evaluations(coefficients: Array, positions: NDArray[np.int64], log_length: int) -> Array:
    """Return the values of polynomials over `F` at places of the domain.

    Args:
        coefficients: `(degree bound, count, 2)`.
        positions: the exponents of `w_n`.
        log_length: the logarithm of `n`.

    Returns:
        `(positions, count, 2)`.
    """
    powers, mask = domain(log_length), (1 << log_length) - 1
    count = coefficients.shape[1]
    step = max(1, _POWERS_AT_A_TIME // max(1, len(positions)))
    result = np.zeros((len(positions), 2 * count), dtype=np.uint64)
    for start in range(0, len(coefficients), step):
        part = coefficients[start : start + step].reshape(-1, 2 * count)
        exponents = np.arange(start, start + len(part), dtype=np.int64)
        matrix = powers[(positions[:, np.newaxis] * exponents) & mask]
        result = field.add(result, multilinear.multiply_matrices(matrix, part))
    return result.reshape(-1, count, 2)
