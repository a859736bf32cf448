"""Exact binary fractions, the scales of an integer model (spec/integer-model.md section 1).

A `BinaryFraction` is `mantissa * 2^exponent`, one form per number: the mantissa is odd. It refuses
zero, negative numbers and anything that is not a binary64 of that range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from verispect.core.errors import MalformedError, Reason

_MANTISSA: Final = 1 << 53
_LEAST_EXPONENT: Final = -1074
_MOST_EXPONENT: Final = 971


@dataclass(frozen=True, slots=True)
class BinaryFraction:
    """A positive binary64, exactly.

    Raises:
        MalformedError: `malformed-model`, when a part is out of range or the mantissa is even.
    """

    mantissa: int
    exponent: int

    def __post_init__(self) -> None:
        if (
            not 0 < self.mantissa < _MANTISSA
            or not _LEAST_EXPONENT <= self.exponent <= _MOST_EXPONENT
            or self.mantissa % 2 == 0
        ):
            raise MalformedError("a scale is out of range", reason=Reason.MALFORMED_MODEL)

    @classmethod
    def of(cls, value: float) -> BinaryFraction:
        """Return `value`, a positive finite number, exactly."""
        if not (math.isfinite(value) and value > 0):
            raise MalformedError("a scale is not positive", reason=Reason.MALFORMED_MODEL)
        numerator, denominator = value.as_integer_ratio()
        twos = (numerator & -numerator).bit_length() - 1
        return cls(numerator >> twos, twos - (denominator.bit_length() - 1))

    def __float__(self) -> float:
        return math.ldexp(self.mantissa, self.exponent)
