"""The field of the proofs: `F_p` with `p = 2^64 - 2^32 + 1`, and `F = F_p[X] / (X^2 - 7)`.

Two forms, for two uses (`spec/proof.md`, section 1):

- `Element`, one element of `F` as two Python integers: for transcripts and the checks of a
  verifier, where every step should be readable;
- NumPy arrays for everything long: an element of `F_p` is a `uint64` below `p`, an array over `F`
  has a last axis of two.

Every function takes and returns canonical values; bytes that are not canonical are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verispect.core.errors import MalformedError, Reason

Array: TypeAlias = NDArray[np.uint64]
"""Elements of `F_p`; over `F` the last axis has two entries."""

MODULUS: Final = 2**64 - 2**32 + 1
NON_RESIDUE: Final = 7
"""`X^2` in the extension."""
GENERATOR: Final = 7
"""Generates the multiplicative group of `F_p`."""
TWO_ADICITY: Final = 32
BASE_BYTES: Final = 8
ELEMENT_BYTES: Final = 16

_MODULUS: Final[Array] = np.array(MODULUS, dtype=np.uint64)
_NON_RESIDUE: Final[Array] = np.array(NON_RESIDUE, dtype=np.uint64)
_EPSILON: Final[Array] = np.array(
    2**32 - 1, dtype=np.uint64
)  # 2^64 modulo p, and the mask of 32 bits.
_HALF: Final[Array] = np.array(32, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Element:
    """`a + bX`, both coordinates in `[0, p)`.

    The constructor takes canonical coordinates only; `Element.of` reduces any integer.
    """

    a: int
    b: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.a < MODULUS and 0 <= self.b < MODULUS):
            raise ValueError("a coordinate is not below the modulus")

    @classmethod
    def of(cls, a: int, b: int = 0) -> Element:
        """Return `a + bX` for any integers; a negative one stands for `p` plus it."""
        return cls(a % MODULUS, b % MODULUS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Element:
        """Read the 16 octets of one element.

        Raises:
            MalformedError: `MALFORMED_PROOF` for another length or a coordinate of `p` or more.
        """
        if len(data) != ELEMENT_BYTES:
            raise MalformedError("an element has 16 octets", reason=Reason.MALFORMED_PROOF)
        a = int.from_bytes(data[:BASE_BYTES], "little")
        b = int.from_bytes(data[BASE_BYTES:], "little")
        if a >= MODULUS or b >= MODULUS:
            raise MalformedError("a field element is not canonical", reason=Reason.MALFORMED_PROOF)
        return cls(a, b)

    def to_bytes(self) -> bytes:
        """Return the 16 octets: both coordinates, little endian."""
        return self.a.to_bytes(BASE_BYTES, "little") + self.b.to_bytes(BASE_BYTES, "little")

    def __add__(self, other: Element | int) -> Element:
        if isinstance(other, int):
            return _reduced((self.a + other) % MODULUS, self.b)
        return _reduced((self.a + other.a) % MODULUS, (self.b + other.b) % MODULUS)

    __radd__ = __add__

    def __sub__(self, other: Element | int) -> Element:
        if isinstance(other, int):
            return _reduced((self.a - other) % MODULUS, self.b)
        return _reduced((self.a - other.a) % MODULUS, (self.b - other.b) % MODULUS)

    def __rsub__(self, other: int) -> Element:
        return _reduced((other - self.a) % MODULUS, -self.b % MODULUS)

    def __neg__(self) -> Element:
        return _reduced(-self.a % MODULUS, -self.b % MODULUS)

    def __mul__(self, other: Element | int) -> Element:
        if isinstance(other, int):
            return _reduced(self.a * other % MODULUS, self.b * other % MODULUS)
        a, b, c, d = self.a, self.b, other.a, other.b
        return _reduced((a * c + NON_RESIDUE * b * d) % MODULUS, (a * d + b * c) % MODULUS)

    __rmul__ = __mul__

    def __pow__(self, exponent: int) -> Element:
        if exponent < 0:
            return self.inverse() ** -exponent
        result, base = ONE, self
        while exponent:
            if exponent & 1:
                result = result * base
            base = base * base
            exponent >>= 1
        return result

    def inverse(self) -> Element:
        """Return the multiplicative inverse.

        Raises:
            ZeroDivisionError: zero has none.
        """
        norm = (self.a * self.a - NON_RESIDUE * self.b * self.b) % MODULUS
        if norm == 0:
            raise ZeroDivisionError("zero has no inverse")
        inverse = pow(norm, MODULUS - 2, MODULUS)
        return _reduced(self.a * inverse % MODULUS, -self.b * inverse % MODULUS)

    def __bool__(self) -> bool:
        return bool(self.a or self.b)


_new = object.__new__
_set_a, _set_b = (vars(Element)[name].__set__ for name in ("a", "b"))


def _reduced(a: int, b: int) -> Element:
    """Return the element of two coordinates that are reduced already, without looking again.

    Arithmetic makes thousands of them for a proof: checking each would take as long as computing.
    """
    element = _new(Element)
    _set_a(element, a)
    _set_b(element, b)
    return element


ZERO: Final = Element(0)
ONE: Final = Element(1)


@functools.cache
def root_of_unity(log_order: int) -> int:
    """Return `w_n`, the chosen root of unity of order `n = 2^log_order`."""
    if not 0 <= log_order <= TWO_ADICITY:
        raise ValueError("the field has no such root of unity")
    return pow(GENERATOR, (MODULUS - 1) >> log_order, MODULUS)


# -- Between forms ---------------------------------------------------------------------------------


def to_array(elements: Iterable[Element]) -> Array:
    """Return the elements as an array of shape `(count, 2)`."""
    return np.array([(e.a, e.b) for e in elements], dtype=np.uint64).reshape(-1, 2)


def to_element(pair: Array) -> Element:
    """Return the one element that an array of two coordinates holds."""
    return Element(int(pair[0]), int(pair[1]))


def to_elements(array: Array) -> list[Element]:
    """Return the elements of an array over `F`, in row-major order."""
    return [Element(a, b) for a, b in array.reshape(-1, 2).tolist()]


def from_integers(values: NDArray[np.integer]) -> Array:
    """Return signed integers of at most 64 bits, each above `-2^63`, as elements of `F_p`."""
    if values.dtype == np.uint64:
        wide: Array = values.astype(np.uint64)
        return np.where(wide >= _MODULUS, wide - _MODULUS, wide)
    signed = values.astype(np.int64)
    unsigned: Array = signed.astype(np.uint64)
    # Two's complement of a negative i is 2^64 + i; p + i is 2^32 - 1 below that.
    return np.where(signed < 0, unsigned - _EPSILON, unsigned)


def from_bytes(data: bytes) -> Array:
    """Read elements of `F_p`, 8 octets each.

    Raises:
        MalformedError: `MALFORMED_PROOF` for a length that is no multiple of 8 or a value of `p`
            or more.
    """
    if len(data) % BASE_BYTES:
        raise MalformedError("field elements are cut short", reason=Reason.MALFORMED_PROOF)
    values = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    if bool((values >= _MODULUS).any()):
        raise MalformedError("a field element is not canonical", reason=Reason.MALFORMED_PROOF)
    return values


def to_bytes(values: Array) -> bytes:
    """Return the octets of elements, over `F_p` or `F`, in row-major order."""
    return np.ascontiguousarray(values).astype("<u8", copy=False).tobytes()


# -- Arrays over F_p -------------------------------------------------------------------------------


def add(left: Array, right: Array) -> Array:
    """Return the sum, elementwise; over `F` too, as addition is by coordinates."""
    with np.errstate(over="ignore"):
        total = left + right
        return total + _EPSILON * ((total < left) | (total >= _MODULUS))


def subtract(left: Array, right: Array) -> Array:
    """Return the difference, elementwise; over `F` too."""
    with np.errstate(over="ignore"):
        return (left - right) - _EPSILON * (left < right)


def negate(values: Array) -> Array:
    """Return `p` minus each value, and zero for zero."""
    return np.where(values == 0, values, _MODULUS - values)


def multiply(left: Array, right: Array) -> Array:
    """Return the product over `F_p`, elementwise."""
    with np.errstate(over="ignore"):
        a, b = left & _EPSILON, left >> _HALF
        c, d = right & _EPSILON, right >> _HALF
        low, first, second, high = a * c, b * c, a * d, b * d
        middle = (low >> _HALF) + (first & _EPSILON) + (second & _EPSILON)
        low = (low & _EPSILON) | (middle << _HALF)
        carried: Array = (first >> _HALF) + (second >> _HALF) + (middle >> _HALF)
        return reduce(low, high + carried)


def reduce(low: Array, high: Array) -> Array:
    """Return `low + 2^64 high` modulo `p`, by `2^64 = 2^32 - 1` and `2^96 = -1`."""
    with np.errstate(over="ignore"):
        top = high >> _HALF
        value = (low - top) - _EPSILON * (low < top)
        term = (high & _EPSILON) * _EPSILON
        total = value + term
        total = total + _EPSILON * (total < term)
        return total - _MODULUS * (total >= _MODULUS)


def sum_over(values: Array, axis: int) -> Array:
    """Return the sum along an axis of at most `2^31` entries; over `F` any axis but the last."""
    low = np.sum(values & _EPSILON, axis=axis, dtype=np.uint64)
    high = np.sum(values >> _HALF, axis=axis, dtype=np.uint64)
    with np.errstate(over="ignore"):
        shifted = high << _HALF
        total = low + shifted
        return reduce(total, (high >> _HALF) + (total < low))


# -- Arrays over F ---------------------------------------------------------------------------------


def multiply_extension(left: Array, right: Array) -> Array:
    """Return the product over `F`, elementwise, of arrays whose last axis has two entries."""
    a, b, c, d = left[..., 0], left[..., 1], right[..., 0], right[..., 1]
    first, second = multiply(a, c), multiply(b, d)
    cross = multiply(add(a, b), add(c, d))
    real = add(first, multiply(second, _NON_RESIDUE))
    return np.stack([real, subtract(subtract(cross, first), second)], axis=-1)


def scale(values: Array, factors: Array) -> Array:
    """Return elements of `F` times elements of `F_p`; `factors` lacks the last axis."""
    return multiply(values, factors[..., np.newaxis])


def powers(element: Element, count: int) -> list[Element]:
    """Return `1, e, e^2, ...`, `count` of them."""
    result = [ONE]
    while len(result) < count:
        result.append(result[-1] * element)
    return result[:count]


def total_of(terms: Iterable[Element]) -> Element:
    """Return the sum of elements."""
    a = b = 0
    for term in terms:
        a += term.a
        b += term.b
    return Element(a % MODULUS, b % MODULUS)


def product_of(factors: Sequence[Element]) -> Element:
    """Return the product of elements, one for none."""
    result = ONE
    for factor in factors:
        result = result * factor
    return result
