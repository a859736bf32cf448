"""From a caller's numbers to integers and back (spec/integer-model.md sections 3 and 4).

Every step is defined to the bit: one division and one rounding per number read, one product and one
rounding per number written, and a softmax on unbounded integers. Whoever verifies a proof repeats
them. This module refuses NaN and arrays of another size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from verispect.core.errors import RequestError
from verispect.proof.graph import BinaryFraction, Epilogue, Input, Output

LOG2_E: Final = 6196328018
"""`floor(log2(e) * 2^32)`."""

_FRACTION_BITS: Final = 32
_FIXED_BITS: Final = 62
_RESULT_BITS: Final = 30
_ROOT_BITS: Final = 512


class ReadInput(NamedTuple):
    """A batch of inputs as integers.

    Args:
        integers: the batch axis first.
        clipped: how many numbers lay outside the range and were taken to its end.
    """

    integers: npt.NDArray[np.int16]
    clipped: int


def read_input(source: Input, values: npt.ArrayLike, *, batch: int | None = None) -> ReadInput:
    """Return a caller's numbers as the integers of tensor 0.

    Args:
        source: the graph's input.
        values: real numbers, row by row.
        batch: how many requests they are; as many as fit if not given.

    Raises:
        RequestError: `invalid-request`, for NaN, no numbers, or another count than the input's.
    """
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "buif":
        raise RequestError("expected an array of real numbers")
    with np.errstate(invalid="ignore"):  # A signalling NaN is refused below like any other.
        numbers = numbers.astype(np.float64)
    size = math.prod(source.shape)
    count = numbers.size // size if batch is None else batch
    if count < 1 or numbers.size != count * size:
        raise RequestError(f"expected a multiple of {size} numbers, got {numbers.size}")
    if bool(np.isnan(numbers).any()):
        raise RequestError("an input is not a number")
    theirs = [0] * len(source.shape)
    for axis, place in enumerate(source.order):
        theirs[place] = source.shape[axis]
    ordered = numbers.reshape(count, *theirs).transpose(0, *(1 + axis for axis in source.order))
    if source.steps is not None:
        return ReadInput(_count_steps(source.minimum, source.steps, ordered), 0)
    with np.errstate(over="ignore"):
        rounded = np.rint(ordered / float(source.scale))
    clipped = np.clip(rounded, source.minimum, source.maximum)
    return ReadInput(
        np.ascontiguousarray(clipped.astype(np.int16)), int(np.count_nonzero(clipped != rounded))
    )


def _count_steps(
    minimum: int, steps: Sequence[Sequence[float]], numbers: npt.NDArray[np.float64]
) -> npt.NDArray[np.int16]:
    result = np.empty(numbers.shape, np.int16)
    for channel, ascending in enumerate(steps):
        below = np.searchsorted(np.array(ascending, np.float64), numbers[:, channel], side="left")
        result[:, channel] = minimum + below
    return result


def write_output(output: Output, integers: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """Return what a caller gets for the output's integers: binary32, or indices of an argmax.

    Args:
        output: the graph's output.
        integers: of shape `(batch, channels, ...)`.
    """
    if output.epilogue is Epilogue.ARGMAX:
        indices: npt.NDArray[np.intp] = np.argmax(integers, axis=1)
        return indices
    if output.epilogue is Epilogue.SOFTMAX:
        return softmax(integers, output.scale)
    with np.errstate(over="ignore"):
        numbers: npt.NDArray[np.float64] = integers.astype(np.float64) * float(output.scale)
        return np.asarray(numbers.astype(np.float32))


def softmax(integers: npt.NDArray[np.integer], scale: BinaryFraction) -> npt.NDArray[np.float32]:
    """Return the softmax over the channels, as section 3 defines it."""
    result = np.empty(integers.shape, np.float32)
    places = np.moveaxis(integers, 1, -1)
    rows = np.moveaxis(result, 1, -1)
    for place in np.ndindex(places.shape[:-1]):
        values = [int(value) for value in places[place]]
        largest = max(values)
        parts = [exponential(largest - value, scale) for value in values]
        total = sum(parts)
        rows[place] = [part / total for part in parts]
    return result


def exponential(difference: int, scale: BinaryFraction) -> int:
    """Return `floor(2^30 * e^(-difference * scale))` in the arithmetic of section 4.

    Args:
        difference: not negative.
        scale: what an integer stands for.
    """
    product = difference * scale.mantissa * LOG2_E
    exponent = scale.exponent
    halvings = product << exponent if exponent >= 0 else product >> -exponent
    whole = halvings >> _FRACTION_BITS
    if whole > _RESULT_BITS:
        return 0
    result = 1 << _FIXED_BITS
    for bit, constant in enumerate(_root_constants(), start=1):
        if halvings >> (_FRACTION_BITS - bit) & 1:
            result = result * constant >> _FIXED_BITS
    return result >> _FRACTION_BITS >> whole


@lru_cache(maxsize=1)
def _root_constants() -> tuple[int, ...]:
    """Return `floor(2^62 * 2^(-2^-k))` for `k` from 1 to 32."""
    root = 1 << (_ROOT_BITS - 1)  # One half, in fixed point; each square root halves its exponent.
    constants = []
    for _ in range(_FRACTION_BITS):
        root = math.isqrt(root << _ROOT_BITS)
        constants.append(root >> (_ROOT_BITS - _FIXED_BITS))
    return tuple(constants)
