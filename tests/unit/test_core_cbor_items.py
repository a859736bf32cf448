"""Items of CBOR written by hand: what has no encoding is misuse, as it is of the encoder."""

from __future__ import annotations

import pytest

from verispect.core.cbor_items import integer, text


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1])
def test_an_integer_beyond_64_bits_is_misuse(value: int) -> None:
    """An integer that CBOR's own integers cannot hold is a TypeError."""
    with pytest.raises(TypeError, match="64 bits"):
        integer(value)


def test_a_lone_surrogate_is_misuse() -> None:
    """Text that has no UTF-8 is a TypeError."""
    with pytest.raises(TypeError, match="surrogate"):
        text("\ud800")
