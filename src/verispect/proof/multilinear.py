"""Multilinear extensions and long sums over the field, in NumPy (spec/proof.md, section 1).

What a verifier computes at length: tables of `eq`, extensions of public integers, and code words at
the opened positions. Long products go through float64 matrix products of limbs of 16 bits, whose
every sum stays below `2^53` and is therefore exact.

This module refuses nothing and decides nothing; shapes are its callers' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from verispect.proof import field
from verispect.proof.field import ONE, ZERO, Array, Element

_PLAIN_VARIABLES: Final = 5
"""Tables of so few variables are quicker in Python than in NumPy."""
_LIMBS: Final = 4
_LIMB_BITS: Final = 16
_INNER: Final = 1 << 11
"""How many products of limbs one exact sum takes: four of 2^32 each, shifted by 16, below 2^62."""
_INTEGER_INNER: Final = 1 << 20
"""The same where one side is a signed limb of an integer: 2^32 each, below 2^52."""
_ONE_THREAD: Final = 1 << 18
"""Multiplications in one product of matrices below which OpenBLAS uses one thread."""
_BLOCK: Final = 1 << 20
"""Entries of a matrix that are split into limbs at a time."""

# -- Tables and values of eq -----------------------------------------------------------------------


def eq_table(point: Sequence[Element]) -> Array:
    """Return `eq(point, i)` for every index `i`, as an array of `2^len(point)` elements."""
    if len(point) <= _PLAIN_VARIABLES:
        table = [ONE]
        for coordinate in point:
            upper = [entry * coordinate for entry in table]
            table = [
                half
                for entry, chosen in zip(table, upper, strict=True)
                for half in (entry - chosen, chosen)
            ]
        return field.to_array(table)
    half = len(point) // 2
    return outer(eq_table(point[:half]), eq_table(point[half:]))


def outer(left: Array, right: Array) -> Array:
    """Return all products of two vectors over `F` as one vector, `left` changing slowest."""
    return field.multiply_extension(left[:, None], right[None, :]).reshape(-1, 2)


def eq(left: Sequence[Element], right: Sequence[Element]) -> Element:
    """Return `eq(left, right)` of two points of one length."""
    result = ONE
    for a, b in zip(left, right, strict=True):
        both = a * b
        result = result * (ONE - a - b + both + both)
    return result


def eq_index(point: Sequence[Element], index: int) -> Element:
    """Return `eq(point, index)`."""
    result = ONE
    for place, coordinate in enumerate(reversed(point)):
        result = result * (coordinate if (index >> place) & 1 else ONE - coordinate)
    return result


def eq_bits(point: Sequence[Element], bits: Sequence[int]) -> Element:
    """Return `eq(point, bits)`, `bits` being the coordinates of a vertex."""
    result = ONE
    for coordinate, bit in zip(point, bits, strict=True):
        result = result * (coordinate if bit else ONE - coordinate)
    return result


def prefix_sum(point: Sequence[Element], size: int) -> Element:
    """Return the sum of `eq(point, i)` over `i < size`, in as many steps as coordinates."""
    if size >> len(point):
        return ONE
    total, prefix = ZERO, ONE
    for place, coordinate in zip(range(len(point) - 1, -1, -1), point, strict=True):
        if (size >> place) & 1:
            low = prefix * (ONE - coordinate)
            total, prefix = total + low, prefix * coordinate
        else:
            prefix = prefix * (ONE - coordinate)
    return total


def prefix_product_sum(left: Sequence[Element], right: Sequence[Element], size: int) -> Element:
    """Return the sum of `eq(left, i) eq(right, i)` over `i < size`.

    This is the extension, at `right`, of the vector `eq(left, i)` for `i < size` and 0 above.
    """
    if size >> len(left):
        return eq(left, right)
    total, prefix = ZERO, ONE
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        low = (ONE - a) * (ONE - b)
        if (size >> (len(left) - 1 - index)) & 1:
            total = total + prefix * low * eq(left[index + 1 :], right[index + 1 :])
            prefix = prefix * (a * b)
        else:
            prefix = prefix * low
    return total


# -- Exact products --------------------------------------------------------------------------------


def _limbs(values: Array) -> NDArray[np.float64]:
    """Return the four limbs of every element, on a new last axis."""
    words = np.ascontiguousarray(values).astype("<u8", copy=False)
    split = words.view("<u2").reshape(*values.shape, _LIMBS)
    return split.astype(np.float64)


def _product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product of matrices, in parts so small that BLAS wakes no other thread for them.

    A thread of OpenBLAS goes on spinning after its work, for longer than a whole verification.
    """
    rows = _ONE_THREAD // max(1, right.size)
    if rows < 2 or len(left) <= rows:
        return left @ right
    result = np.empty((len(left), right.shape[1]))
    for row in range(0, len(left), rows):
        np.matmul(left[row : row + rows], right, out=result[row : row + rows])
    return result


def multiply_matrices(left: Array, right: Array) -> Array:
    """Return the product over `F_p` of matrices `(m, k)` and `(k, n)`."""
    (rows, inner), columns = left.shape, right.shape[1]
    result = np.zeros((rows, columns), dtype=np.uint64)
    for start in range(0, inner, _INNER):
        split = _limbs(right[start : start + _INNER]).transpose(0, 2, 1)
        second = split.reshape(len(split), -1)
        step = max(1, _BLOCK // len(second))
        for row in range(0, rows, step):
            block = left[row : row + step, start : start + _INNER]
            first = _limbs(block).transpose(2, 0, 1).reshape(-1, block.shape[1])
            sums = _product(first, second).reshape(_LIMBS, len(block), _LIMBS, columns)
            result[row : row + step] = field.add(result[row : row + step], _joined(sums))
    return result


def _joined(sums: NDArray[np.float64]) -> Array:
    """Return the elements whose limbs' products were summed by pairs of limbs."""
    exact = sums.astype(np.uint64)
    columns = [
        sum(
            (exact[i, :, place - i] for i in range(_LIMBS) if 0 <= place - i < _LIMBS),
            start=np.zeros((1, 1), dtype=np.uint64),
        )
        for place in range(2 * _LIMBS)
    ]
    shift = np.array(_LIMB_BITS, dtype=np.uint64)
    half = np.array(2 * _LIMB_BITS, dtype=np.uint64)
    pairs = [columns[i] + (columns[i + 1] << shift) for i in range(0, 2 * _LIMBS, 2)]
    # The sum of pairs[i] 2^(32 i), where 2^96 stands for -1.
    with np.errstate(over="ignore"):
        shifted = pairs[1] << half
        low = pairs[0] + shifted
        high = (pairs[1] >> half) + pairs[2] + (low < shifted)
    return field.subtract(field.reduce(low, high), pairs[3])


def contract(matrix: Array, vector: Array) -> Array:
    """Return a matrix `(m, k)` over `F_p` times a vector of `k` elements of `F`: `m` elements."""
    return multiply_matrices(matrix, vector)


def contract_integers(matrix: NDArray[np.integer], vector: Array) -> Array:
    """Return a matrix `(m, k)` of integers times a vector of `k` elements of `F`: `m` elements."""
    return multiply_integers(matrix, vector)


def multiply_integers(matrix: NDArray[np.integer], right: Array) -> Array:
    """Return the product over `F_p` of a matrix `(m, k)` of integers and a matrix `(k, n)`."""
    inner, columns = right.shape
    split = _limbs(right).reshape(inner, -1)
    rows = len(matrix)
    result = np.zeros((rows, columns), dtype=np.uint64)
    step = max(1, _BLOCK // max(1, inner, 4 * columns))
    for row in range(0, rows, step):
        for start in range(0, inner, _INTEGER_INNER):
            block = matrix[row : row + step, start : start + _INTEGER_INNER]
            part = _integers_times(block, split[start : start + _INTEGER_INNER])
            result[row : row + step] = field.add(result[row : row + step], part)
    return result


def _integers_times(block: NDArray[np.integer], split: NDArray[np.float64]) -> Array:
    """Return integers times limbs, taking the integers by limbs too where they are long."""
    columns = split.shape[1] // _LIMBS
    total = np.zeros((len(block), columns), dtype=np.uint64)
    if block.size == 0:
        return total
    rest, place = block, 0
    while True:
        short = int(rest.min()) > -(1 << _LIMB_BITS) and int(rest.max()) < 1 << _LIMB_BITS
        limb = rest if short else rest & ((1 << _LIMB_BITS) - 1)
        sums = _product(limb.astype(np.float64), split).reshape(-1, columns, _LIMBS)
        parts = field.from_integers(sums.astype(np.int64))
        for index in range(_LIMBS):
            power = pow(2, _LIMB_BITS * (index + place), field.MODULUS)
            weight = np.array(power, dtype=np.uint64)
            total = field.add(total, field.multiply(parts[..., index], weight))
        if short:
            return total
        rest, place = rest >> _LIMB_BITS, place + 1


def inner_product(left: Array, right: Array) -> Element:
    """Return the sum of products of two vectors over `F`."""
    return field.to_element(field.sum_over(field.multiply_extension(left, right), 0))


def extension_of_integers(values: NDArray[np.integer], vectors: Sequence[Array]) -> Element:
    """Return the sum of an array's integers, each times one entry of every axis's vector.

    `vectors[i]` has at least as many entries over `F` as axis `i`; those beyond are not used. With
    tables of `eq` this is the value of the multilinear extension, the padding being zero.
    """
    last = vectors[-1][: values.shape[-1]]
    rest = contract_integers(values.reshape(-1, values.shape[-1]), last)
    shape = values.shape[:-1]
    for vector in reversed(vectors[:-1]):
        size = shape[-1]
        rows = rest.reshape(-1, size, 2)
        rest = field.sum_over(field.multiply_extension(rows, vector[None, :size]), 1)
        shape = shape[:-1]
    return field.to_element(rest[0])


def evaluate_at(coefficients: Array, log_length: int, positions: NDArray[np.integer]) -> Array:
    """Return `sum_i u_i w^(x i)` over `F` for every position `x`, `w` of order `2^log_length`."""
    count = len(coefficients)
    low_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    width = 1 << low_bits
    height = -(-count // width)
    padded = np.zeros((height * width, 2), dtype=np.uint64)
    padded[:count] = coefficients
    places = positions.astype(np.uint64)
    low = _powers(_domain(log_length, places), width)
    # Entry (x, i): the sum over j of u_(i width + j) times low powers of x; then the high powers.
    table = padded.reshape(height, width, 2).transpose(1, 0, 2).reshape(width, -1)
    inner = multiply_matrices(low, table).reshape(len(places), height, 2)
    steps = field.multiply(low[:, -1], low[:, 1])
    return field.sum_over(field.scale(inner, _powers(steps, height)), 1)


def _domain(log_length: int, positions: Array) -> Array:
    """Return `w^x` for every position, by squaring."""
    result = np.ones_like(positions)
    for bit in range(log_length):
        root = np.array(field.root_of_unity(log_length - bit), dtype=np.uint64)
        chosen = (positions >> np.array(bit, dtype=np.uint64)) & np.array(1, dtype=np.uint64)
        result = np.where(chosen == 1, field.multiply(result, root), result)
    return result


def _powers(bases: Array, count: int) -> Array:
    """Return a row of `1, b, b^2, ...` for every base, by doubling."""
    table = np.ones((len(bases), 1), dtype=np.uint64)
    step = bases[:, None]
    while table.shape[1] < count:
        table = np.concatenate([table, field.multiply(table, step)], axis=1)
        step = field.multiply(step, step)
    return table[:, :count]
