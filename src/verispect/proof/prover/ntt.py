"""Code words of the rows of a matrix, many rows at a time (spec/proof.md, section 4).

The domain of order `n` is taken as cosets of the smallest domain that holds a row, so that no
butterfly is spent on the zeros above it. Rows lie side by side, their values at one place of the
domain next to each other, as the leaves of the tree need them.

This module refuses nothing; values are canonical by assumption.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from verispect.proof import field
from verispect.proof.prover.kernels_field import add, multiply, subtract

_LANES: Final = 32
"""Rows transformed together: with 2^12 coefficients each, half of a core's cache."""


@functools.lru_cache(maxsize=32)
def _powers(root: int, count: int) -> field.Array:
    """Return `1, r, r^2, ...` by doubling."""
    table = np.ones(1, dtype=np.uint64)
    while len(table) < count:
        step = np.array(pow(root, len(table), field.MODULUS), dtype=np.uint64)
        table = np.concatenate([table, field.multiply(table, step)])
    return table[:count]


@functools.lru_cache(maxsize=32)
def _reversal(log_size: int) -> npt.NDArray[np.int64]:
    """Return every index below `2^log_size` with its bits reversed."""
    table = np.zeros(1, dtype=np.int64)
    for _ in range(log_size):
        table = np.concatenate([2 * table, 2 * table + 1])
    return table


@njit(inline="always")
def _transform(work: Any, twiddles: Any) -> None:
    """Replace the coefficients on the first axis by values, in bit-reversed order."""
    size, lanes = work.shape
    half, step = size // 2, 1
    while half >= 1:
        for start in range(0, size, 2 * half):
            for j in range(half):
                twiddle = twiddles[j * step]
                low, high = work[start + j], work[start + j + half]
                for k in range(lanes):
                    a, b = low[k], high[k]
                    low[k] = add(a, b)
                    high[k] = multiply(subtract(a, b), twiddle)
        half //= 2
        step *= 2


@njit(cache=True, nogil=True)
def _encode(
    rows: Any, places: Any, twiddles: Any, reversal: Any, work: Any, code: Any, first: int
) -> None:
    """Write the code words of `rows` into the columns of `code` from `first` on.

    Args:
        rows: coefficients, `(lanes, count)`.
        places: the powers of the code's root.
        twiddles: powers of the root of order `size`, half of them.
        reversal: the order in which the transform leaves its values.
        work: room for `(size, lanes)`, `size` being at least `count`.
        code: `(length, width)`.
        first: the column of the first row.
    """
    lanes, count = rows.shape
    size = work.shape[0]
    length = code.shape[0]
    cosets = length // size
    for coset in range(cosets):
        for i in range(count):
            factor = places[(coset * i) % length]
            line = work[i]
            for k in range(lanes):
                line[k] = multiply(rows[k, i], factor)
        for i in range(count, size):
            line = work[i]
            for k in range(lanes):
                line[k] = 0
        _transform(work, twiddles)
        for i in range(size):
            line = work[i]
            target = code[reversal[i] * cosets + coset]
            for k in range(lanes):
                target[first + k] = line[k]


def domain(log_length: int) -> field.Array:
    """Return the code's places: the powers of `w`, of order `2^log_length`."""
    return _powers(field.root_of_unity(log_length), 1 << log_length)


def encode(rows: field.Array, log_length: int) -> field.Array:
    """Return the code words of rows of coefficients.

    Args:
        rows: `(count, degree bound)`, the lowest degree first.
        log_length: the logarithm of the code's length, not below that of a row.

    Returns:
        `(length, count)`: line `x` holds the values of all rows at `w^x`.
    """
    count, coefficients = rows.shape
    code = np.empty((1 << log_length, count), dtype=np.uint64)
    log_size = (coefficients - 1).bit_length()
    places = domain(log_length)
    twiddles = _powers(field.root_of_unity(log_size), max(1, 1 << log_size >> 1))
    reversal = _reversal(log_size)
    for first in range(0, count, _LANES):
        lanes = np.ascontiguousarray(rows[first : first + _LANES])
        work = np.empty((1 << log_size, len(lanes)), dtype=np.uint64)
        _encode(lanes, places, twiddles, reversal, work, code, first)
    return code
