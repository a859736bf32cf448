"""What a convolution's sum runs over: weights and source, bound at the outputs' point.

Both are linear in the integers, so they are contracted axis by axis, integers first; the results
are small (section 8 of the protocol).

This module refuses nothing; it computes what `views` only describes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from verispect.proof import field
from verispect.proof.field import Array
from verispect.proof.graph_parts import Convolve, padded
from verispect.proof.layout import Sizes
from verispect.proof.prover import kernels_contract as kernels
from verispect.proof.prover import kernels_sumcheck
from verispect.proof.prover.witness import signed

_LOW_BITS = 26
_LOW = (1 << _LOW_BITS) - 1
_BATCH_FIRST = 4
"""From this batch on the batch axis is contracted before the spatial ones."""


def largest(values: npt.NDArray[np.integer]) -> int:
    """Return a bound of the absolute values."""
    if values.dtype.itemsize <= 2:
        return 1 << (8 * values.dtype.itemsize)
    return max(abs(int(values.min())), abs(int(values.max())), 1) if values.size else 1


def low_products(matrix: npt.NDArray[np.integer], vector: Array, bound: int) -> Array:
    """Return every row's inner product with `vector`."""
    result = np.empty((matrix.shape[0], 2), np.uint64)
    kernels.contract_low(matrix, kernels.halves(vector), kernels.span_for(bound), result)
    return result


def high_products(vector: Array, matrix: npt.NDArray[np.integer], bound: int) -> Array:
    """Return every column's inner product with `vector`."""
    result = np.empty((matrix.shape[1], 2), np.uint64)
    kernels.contract_high(kernels.halves(vector), matrix, kernels.span_for(bound), result)
    return result


def wide_products(vector: Array, matrix: npt.NDArray[np.integer]) -> Array:
    """Return `high_products` of integers of up to 56 bits."""
    values = matrix if matrix.dtype == np.int64 else signed(matrix)
    if values.dtype != np.int64 or not values.size:
        return high_products(vector, values, largest(values))
    low = (values & _LOW).astype(np.int32)
    high = (values >> _LOW_BITS).astype(np.int32)
    whole = high_products(vector, high, largest(high))
    whole = field.multiply(whole, np.array(1 << _LOW_BITS, np.uint64))
    return field.add(whole, high_products(vector, low, _LOW))


def embedded(values: npt.NDArray[np.integer]) -> Array:
    """Return integers as elements of `F`."""
    result = np.zeros((*values.shape, 2), np.uint64)
    result[..., 0] = field.from_integers(values)
    return result


def padded_elements(values: Array) -> Array:
    """Return elements, of shape `(*sizes, 2)`, flat over the padded sizes."""
    sizes = values.shape[:-1]
    wide = tuple(map(padded, sizes))
    if wide != sizes:
        result = np.zeros((*wide, 2), np.uint64)
        result[tuple(map(slice, sizes))] = values
        values = result
    return np.ascontiguousarray(values.reshape(-1, 2))


def bound_weights(weight: npt.NDArray[np.integer], outputs_point: Array) -> Array:
    """Return a weight `(groups, outputs, inputs, *kernel)` bound over outputs, flat and padded."""
    groups, outputs, *rest = weight.shape
    values = signed(weight).reshape(groups, outputs, -1)
    if outputs == 1:
        table = embedded(values[:, 0])
    else:
        vector = kernels_sumcheck.eq_table(outputs_point)[:outputs]
        bound = largest(values)
        table = np.stack([high_products(vector, values[g], bound) for g in range(groups)])
    return padded_elements(table.reshape(groups, *rest, 2))


def bound_source(
    source: npt.NDArray[np.integer],
    term: Convolve,
    weight: Sizes,
    target: Sizes,
    parts: list[Array],
) -> Array:
    """Return the convolved source at every `(g, i, k)`, flat and padded.

    Args:
        source: unpadded, batch first.
        term: the convolution.
        weight: its weight's shape.
        target: the sizes of the node's tensor, batch first.
        parts: the point, cut by the axes of `target`.
    """
    groups, _, inputs, *kernel = weight
    batch, channels = source.shape[:2]
    eq_batch = kernels_sumcheck.eq_table(parts[0])[:batch]
    moved = _bound_batch(source, eq_batch)
    plain = all(
        (k, s, b, m) == (1, 1, 0, n)
        for k, s, b, m, n in zip(
            kernel, term.strides, term.before, target[2:], source.shape[2:], strict=True
        )
    )
    if not kernel:
        result = moved
    elif plain:
        result = _bound_places(moved, target, parts)
    else:
        result = _bound_windows(moved, term, kernel, target, parts)
    result = result.reshape(-1, channels, *kernel, 2)
    if result.shape[0] > 1:
        flat = result.reshape(1, batch, -1, 2)
        summed = np.empty((1, 1, flat.shape[2], 2), np.uint64)
        kernels.slide_elements(flat, eq_batch, np.array([1, 1, 0]), summed)
        result = summed.reshape(1, channels, *kernel, 2)
    return padded_elements(result[0].reshape(groups, inputs, *kernel, 2))


def _bound_batch(source: npt.NDArray[np.integer], eq_batch: Array) -> npt.NDArray[np.integer]:
    """Return the source, bound over the batch (elements then) where that is the cheaper order."""
    batch, values = source.shape[0], signed(source)
    if values.dtype == np.int64:
        return embedded(source)
    if batch == 1:
        return values if source.ndim > 2 else embedded(source)
    if source.ndim == 2 or batch >= _BATCH_FIRST:
        flat = values.reshape(batch, -1)
        return high_products(eq_batch, flat, largest(source)).reshape(1, *source.shape[1:], 2)
    return values


def _is_elements(values: npt.NDArray[np.integer]) -> bool:
    return values.dtype == np.uint64


def _bound_places(
    values: npt.NDArray[np.integer], target: Sizes, parts: list[Array]
) -> npt.NDArray[np.integer]:
    """Contract all places at once: a kernel of one place."""
    vector = np.ones((1, 2), np.uint64) * np.array([1, 0], np.uint64)
    for part, size in zip(parts[2:], target[2:], strict=True):
        vector = kernels_sumcheck.outer(vector, kernels_sumcheck.eq_table(part)[:size])
    places = math.prod(target[2:])
    if not _is_elements(values):
        return low_products(values.reshape(-1, places), vector, largest(values))
    flat = values.reshape(-1, places, 1, 2)
    result = np.empty((flat.shape[0], 1, 1, 2), np.uint64)
    kernels.slide_elements(flat, vector, np.array([1, 1, 0]), result)
    return result


def _bound_windows(
    values: npt.NDArray[np.integer],
    term: Convolve,
    kernel: list[int],
    target: Sizes,
    parts: list[Array],
) -> Array:
    """Contract one spatial axis after the other, the last first."""
    axes = len(kernel)
    lead = math.prod(values.shape[: values.ndim - axes - (1 if _is_elements(values) else 0)])
    sizes = values.shape[-axes - 1 : -1] if _is_elements(values) else values.shape[-axes:]
    inner = 1
    for i in reversed(range(axes)):
        taps = np.array([term.strides[i], term.dilations[i], term.before[i]])
        vector = kernels_sumcheck.eq_table(parts[2 + i])[: target[2 + i]]
        outer = lead * math.prod(sizes[:i])
        if not _is_elements(values):
            result = np.empty((outer, kernel[i], 2), np.uint64)
            kernels.slide_integers(
                values.reshape(outer, sizes[i]),
                kernels.halves(vector),
                kernels.span_for(largest(values)),
                target[2 + i],
                taps,
                result,
            )
        else:
            result = np.empty((outer, kernel[i], inner, 2), np.uint64)
            kernels.slide_elements(values.reshape(outer, sizes[i], inner, 2), vector, taps, result)
        values = result
        inner *= kernel[i]
    return values.astype(np.uint64, copy=False)
