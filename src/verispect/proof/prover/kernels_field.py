"""Scalar arithmetic of the field for numba kernels: the innermost functions of every other kernel.

An element of `F_p` is a canonical `uint64`, an element of `F` two of them. Compiled, a product goes
through one 128-bit multiplication; with `NUMBA_DISABLE_JIT=1` the same names are plain functions on
Python integers, slow and readable. The two definitions of a product are the only code that exists
twice.

This module refuses arrays and anything that is not canonical by assumption: it checks nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

P: Final = np.uint64(2**64 - 2**32 + 1)
EPSILON: Final = np.uint64(2**32 - 1)
_THIRTY_TWO: Final = np.uint64(32)
_SEVEN: Final = np.uint64(7)
_ZERO: Final = np.uint64(0)

JIT: Final = not vars(config)["DISABLE_JIT"]
"""Whether kernels are compiled."""

_MODULUS: Final = int(P)


def _plain_product(a: int, b: int) -> Any:
    return np.uint64(int(a) * int(b) % _MODULUS)


def _plain_sum(a: int, b: int) -> Any:
    return np.uint64((int(a) + int(b)) % _MODULUS)


def _plain_difference(a: int, b: int) -> Any:
    return np.uint64((int(a) - int(b)) % _MODULUS)


def _plain_signed(value: int) -> Any:
    return np.uint64(int(value) % _MODULUS)


def _plain_carry(value: int) -> Any:
    return np.uint64((int(value) << 32) % _MODULUS)


if JIT:

    @intrinsic
    def _wide(typing_context: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        """Return the low and the high 64 bits of a product."""
        pair: Any = types.Tuple((types.uint64, types.uint64))  # type: ignore[no-untyped-call]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            from llvmlite import ir  # The prover's extra brings it with numba.

            wide = ir.IntType(128)
            left, right = (builder.zext(value, wide) for value in arguments)
            product = builder.mul(left, right)
            low = builder.trunc(product, ir.IntType(64))
            high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
            return context.make_tuple(builder, signature.return_type, (low, high))

        return pair(types.uint64, types.uint64), generate

    _wide_product: Any = _wide
    """The intrinsic as kernels call it, without the typing context."""

    @njit(inline="always")
    def multiply(a: Any, b: Any) -> Any:
        """Return the product: `2^64 = 2^32 - 1` and `2^96 = -1` modulo `p`."""
        low, high = _wide_product(a, b)
        top = high >> _THIRTY_TWO
        value = low - top
        if low < top:
            value -= EPSILON
        term = (high & EPSILON) * EPSILON
        total = value + term
        if total < term:
            total += EPSILON
        if total >= P:
            total -= P
        return total

    @njit(inline="always")
    def add(a: Any, b: Any) -> Any:
        """Return the sum."""
        total = a + b
        if total < a or total >= P:
            total += EPSILON
        return total

    @njit(inline="always")
    def subtract(a: Any, b: Any) -> Any:
        """Return the difference."""
        value = a - b
        if a < b:
            value -= EPSILON
        return value

    @njit(inline="always")
    def from_signed(value: Any) -> Any:
        """Return the element that a signed integer of 64 bits stands for."""
        if value < 0:
            return np.uint64(value) + P
        unsigned = np.uint64(value)
        return unsigned - P if unsigned >= P else unsigned

    @njit(inline="always")
    def shifted(value: Any) -> Any:
        """Return `2^32` times a signed integer of 64 bits."""
        return multiply(from_signed(value), np.uint64(1 << 32))

else:
    multiply: Any = _plain_product  # type: ignore[no-redef]
    add: Any = _plain_sum  # type: ignore[no-redef]
    subtract: Any = _plain_difference  # type: ignore[no-redef]
    from_signed: Any = _plain_signed  # type: ignore[no-redef]
    shifted: Any = _plain_carry  # type: ignore[no-redef]


@njit(inline="always")
def multiply_extension(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return `(a + bX)(c + dX)`."""
    first = multiply(a, c)
    second = multiply(b, d)
    cross = add(multiply(a, d), multiply(b, c))
    return add(first, multiply(second, _SEVEN)), cross
