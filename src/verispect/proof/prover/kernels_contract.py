"""Kernels that contract arrays of integers with vectors over `F`, at a nanosecond or so an entry.

A coordinate of `F` is split in two halves of 32 bits; products with integers of at most `2^31` are
summed in 64 bits, exactly, and reduced once per `span` terms, which the callers choose such that
nothing overflows (`span_for`).

These kernels refuse nothing: the magnitude of the integers is the callers' to know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verispect.proof.prover.kernels_field import add, from_signed, multiply_extension, shifted

_COLUMNS = 512


def span_for(largest: int) -> int:
    """Return how many products with integers up to `largest` may be summed without reduction."""
    return max(1, 1 << max(0, 62 - 32 - int(largest).bit_length()))


@njit(cache=True, nogil=True)
def halves(vector: Any) -> Any:
    """Return the four signed halves of the coordinates of a vector, one row each."""
    result = np.empty((4, vector.shape[0]), np.int64)
    for i in range(vector.shape[0]):
        for k in range(2):
            value = vector[i, k]
            result[2 * k, i] = np.int64(value & np.uint64(0xFFFFFFFF))
            result[2 * k + 1, i] = np.int64(value >> np.uint64(32))
    return result


@njit(cache=True, nogil=True)
def contract_low(matrix: Any, parts: Any, span: int, result: Any) -> None:
    """Write, for every row of integers, its inner product with the vector whose halves are `parts`.

    `result` has shape `(rows, 2)`.
    """
    columns = matrix.shape[1]
    for i in range(matrix.shape[0]):
        row = matrix[i]
        x = y = np.uint64(0)
        start = 0
        while start < columns:
            stop = min(columns, start + span)
            a = b = c = d = np.int64(0)
            for j in range(start, stop):
                value = np.int64(row[j])
                a += value * parts[0, j]
                b += value * parts[1, j]
                c += value * parts[2, j]
                d += value * parts[3, j]
            x = add(x, add(from_signed(a), shifted(b)))
            y = add(y, add(from_signed(c), shifted(d)))
            start = stop
        result[i, 0], result[i, 1] = x, y


@njit(cache=True, nogil=True)
def contract_high(parts: Any, matrix: Any, span: int, result: Any) -> None:
    """Write, for every column of integers, its inner product with the vector `parts` is made of.

    `result` has shape `(columns, 2)`.
    """
    rows, columns = matrix.shape
    sums = np.empty((4, _COLUMNS), np.int64)
    first = 0
    while first < columns:
        width = min(_COLUMNS, columns - first)
        for j in range(width):
            result[first + j, 0] = 0
            result[first + j, 1] = 0
        start = 0
        while start < rows:
            stop = min(rows, start + span)
            sums[:] = 0
            for i in range(start, stop):
                a, b, c, d = parts[0, i], parts[1, i], parts[2, i], parts[3, i]
                row = matrix[i, first : first + width]
                for j in range(width):
                    value = np.int64(row[j])
                    sums[0, j] += value * a
                    sums[1, j] += value * b
                    sums[2, j] += value * c
                    sums[3, j] += value * d
            for j in range(width):
                at = first + j
                result[at, 0] = add(
                    result[at, 0], add(from_signed(sums[0, j]), shifted(sums[1, j]))
                )
                result[at, 1] = add(
                    result[at, 1], add(from_signed(sums[2, j]), shifted(sums[3, j]))
                )
            start = stop
        first += width


@njit(cache=True, nogil=True)
def slide_integers(source: Any, parts: Any, span: int, places: int, taps: Any, result: Any) -> None:
    """Contract the last axis of integers with a vector moved by a window's taps.

    `taps` holds `(stride, dilation, before)`; `result` has shape `(rows, kernel, 2)`: at tap `k`
    the sum over the places `o` of the vector at `o` times the entry at `o stride + k dilation -
    before`.
    """
    stride, dilation, before = taps[0], taps[1], taps[2]
    size = source.shape[1]
    for i in range(source.shape[0]):
        row = source[i]
        for k in range(result.shape[1]):
            shift = k * dilation - before
            low = max(0, -(shift // stride))
            high = min(places, (size - 1 - shift) // stride + 1)
            x = y = np.uint64(0)
            start = low
            while start < high:
                stop = min(high, start + span)
                a = b = c = d = np.int64(0)
                for o in range(start, stop):
                    value = np.int64(row[o * stride + shift])
                    a += value * parts[0, o]
                    b += value * parts[1, o]
                    c += value * parts[2, o]
                    d += value * parts[3, o]
                x = add(x, add(from_signed(a), shifted(b)))
                y = add(y, add(from_signed(c), shifted(d)))
                start = stop
            result[i, k, 0], result[i, k, 1] = x, y


@njit(cache=True, nogil=True)
def slide_elements(source: Any, vector: Any, taps: Any, result: Any) -> None:
    """Contract the middle axis of `(outer, size, inner, 2)` likewise, leaving `kernel` entries."""
    stride, dilation, before = taps[0], taps[1], taps[2]
    size, inner, places = source.shape[1], source.shape[2], vector.shape[0]
    for i in range(source.shape[0]):
        for k in range(result.shape[1]):
            shift = k * dilation - before
            result[i, k] = 0
            for o in range(places):
                at = o * stride + shift
                if at < 0 or at >= size:
                    continue
                a, b = vector[o, 0], vector[o, 1]
                for j in range(inner):
                    x, y = multiply_extension(a, b, source[i, at, j, 0], source[i, at, j, 1])
                    result[i, k, j, 0] = add(result[i, k, j, 0], x)
                    result[i, k, j, 1] = add(result[i, k, j, 1], y)


@njit(cache=True, nogil=True)
def window_vector(vector: Any, weights: Any, taps: Any, size: int, result: Any) -> None:
    """Add `weights[k]` times the vector moved by tap `k`: the spatial vectors of section 6."""
    stride, dilation, before = taps[0], taps[1], taps[2]
    for k in range(weights.shape[0]):
        a, b = weights[k, 0], weights[k, 1]
        if a == 0 and b == 0:
            continue
        for o in range(vector.shape[0]):
            at = o * stride + k * dilation - before
            if at < 0 or at >= size:
                continue
            x, y = multiply_extension(a, b, vector[o, 0], vector[o, 1])
            result[at, 0] = add(result[at, 0], x)
            result[at, 1] = add(result[at, 1], y)
