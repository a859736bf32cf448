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


def _plain_seven(a: int) -> Any:
    return _plain_product(a, 7)


def _plain_two(a: int, b: int, c: int, d: int) -> Any:
    return np.uint64((int(a) * int(b) + int(c) * int(d)) % _MODULUS)


def _plain_four(*factors: int) -> Any:
    pairs = zip(factors[::2], factors[1::2], strict=True)
    return np.uint64(sum(int(a) * int(b) for a, b in pairs) % _MODULUS)


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

    def _sum_of_products(count: int) -> Any:
        """Return an intrinsic: the three 64-bit limbs of a sum of `count` products."""

        def typed(typing_context: Any, *arguments: Any) -> Any:  # noqa: ARG001
            three: Any = types.UniTuple(types.uint64, 3)  # type: ignore[no-untyped-call]

            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                from llvmlite import ir

                word, wide, sum_type = ir.IntType(64), ir.IntType(128), ir.IntType(192)
                total = ir.Constant(sum_type, 0)
                for i in range(count):
                    left, right = (builder.zext(values[2 * i + k], wide) for k in range(2))
                    product = builder.zext(builder.mul(left, right), sum_type)
                    total = builder.add(total, product)
                limbs = [
                    builder.trunc(builder.lshr(total, ir.Constant(sum_type, 64 * k)), word)
                    for k in range(3)
                ]
                return context.make_tuple(builder, signature.return_type, limbs)

            return three(*[types.uint64] * (2 * count)), generate

        if count == 2:

            def two(context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
                return typed(context, a, b, c, d)

            return intrinsic(two)

        def four(
            context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
        ) -> Any:
            return typed(context, a, b, c, d, e, f, g, h)

        return intrinsic(four)

    _wide_product: Any = _wide
    """The intrinsic as kernels call it, without the typing context."""
    _two_products: Any = _sum_of_products(2)
    _four_products: Any = _sum_of_products(4)

    @njit(inline="always")
    def _reduced(low: Any, high: Any, top: Any) -> Any:
        """Return `low + 2^64 high + 2^128 top`, `2^128` being `-2^32`, `top` at most 3."""
        upper = high >> _THIRTY_TWO
        value = low - upper
        if low < upper:
            value -= EPSILON
        term = (high & EPSILON) * EPSILON
        total = value + term
        if total < term:
            total += EPSILON
        if total >= P:
            total -= P
        taken = top << _THIRTY_TWO
        result = total - taken
        if total < taken:
            result -= EPSILON
        return result

    @njit(inline="always")
    def seven_times(a: Any) -> Any:
        """Return seven times `a`, not canonical: for a factor of `two_products` only."""
        low, high = _wide_product(a, _SEVEN)
        total = low + high * EPSILON
        if total < low:
            total += EPSILON
        return total

    @njit(inline="always")
    def two_products(a: Any, b: Any, c: Any, d: Any) -> Any:
        """Return `ab + cd`; the factors need not be canonical."""
        low, high, top = _two_products(a, b, c, d)
        return _reduced(low, high, top)

    @njit(inline="always")
    def four_products(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
        """Return `ab + cd + ef + gh`; the factors need not be canonical."""
        low, high, top = _four_products(a, b, c, d, e, f, g, h)
        return _reduced(low, high, top)

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
    seven_times: Any = _plain_seven  # type: ignore[no-redef]
    two_products: Any = _plain_two  # type: ignore[no-redef]
    four_products: Any = _plain_four  # type: ignore[no-redef]


@njit(inline="always")
def multiply_extension(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return `(a + bX)(c + dX)`."""
    return two_products(a, c, seven_times(b), d), two_products(a, d, b, c)


@njit(inline="always")
def multiply_twice(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Return `(a + bX)(c + dX) + (e + fX)(g + hX)`."""
    return (
        four_products(a, c, seven_times(b), d, e, g, seven_times(f), h),
        four_products(a, d, b, c, e, h, f, g),
    )
