"""Single items of deterministic CBOR, written by hand for what every answer waits for.

A general encoder looks at each value to find out what it is; whoever writes a statement or a
tensor knows. Each function gives exactly the bytes of `verispect.core.encoding.encode` for the
same value, and the tests hold them to it. This module refuses to order maps: who writes the keys
of one writes them in order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

BYTES, TEXT, ARRAY, MAP = 0x40, 0x60, 0x80, 0xA0
"""Major types, as they stand in an item's first byte."""

_NEGATIVE: Final = 0x20
_IN_FIRST_BYTE: Final = 24
_FIRST_BYTES: Final = tuple(bytes((first,)) for first in range(256))
_ARGUMENT_1: Final[Callable[[int, int], bytes]] = struct.Struct(">BB").pack
_ARGUMENT_2: Final[Callable[[int, int], bytes]] = struct.Struct(">BH").pack
_ARGUMENT_4: Final[Callable[[int, int], bytes]] = struct.Struct(">BI").pack
_ARGUMENT_8: Final[Callable[[int, int], bytes]] = struct.Struct(">BQ").pack


def head(major: int, argument: int) -> bytes:
    """Return the head of an item: its major type and its value, length or count.

    Raises:
        TypeError: for an argument that is negative or beyond 64 bits.
    """
    if 0 <= argument < _IN_FIRST_BYTE:
        return _FIRST_BYTES[major | argument]
    try:
        if argument < 1 << 8:
            return _ARGUMENT_1(major | 24, argument)
        if argument < 1 << 16:
            return _ARGUMENT_2(major | 25, argument)
        if argument < 1 << 32:
            return _ARGUMENT_4(major | 26, argument)
        return _ARGUMENT_8(major | 27, argument)
    except struct.error as error:
        raise TypeError("an integer must fit in 64 bits") from error


def integer(value: int) -> bytes:
    """Return `value` as one integer.

    Raises:
        TypeError: beyond 64 bits.
    """
    return head(0, value) if value >= 0 else head(_NEGATIVE, -1 - value)


def byte_string(data: bytes) -> bytes:
    """Return `data` as one byte string."""
    return head(BYTES, len(data)) + data


def text(value: str) -> bytes:
    """Return `value` as one text.

    Raises:
        TypeError: for a lone surrogate.
    """
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise TypeError("text with a lone surrogate is not UTF-8") from error
    return head(TEXT, len(data)) + data
