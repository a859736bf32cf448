"""Strict readers of the fields of leaves: one kind of value each, within its limits."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import IntEnum, StrEnum
from typing import Any, Final, TypeVar, cast

from verispect.core.encoding import DIGEST_BYTES, Digest, decode
from verispect.core.errors import MalformedError, Reason, UnsupportedError

MAX_FIELD_CHARACTERS: Final = 64
"""Names, kinds and methods in leaves are short words."""

_MAX_INTEGER: Final = (1 << 63) - 1


def malformed(what: str) -> MalformedError:
    """Return the error for a leaf of another form."""
    return MalformedError(what, reason=Reason.MALFORMED_LEAF)


def read_map(
    data: bytes, *, version: int, required: AbstractSet[int], optional: AbstractSet[int], limit: int
) -> dict[int, Any]:
    """Decode a map whose key 1 is a version and whose other keys are known.

    Args:
        data: deterministic CBOR.
        version: the only version that is read.
        required: the keys that must be there, 1 among them.
        optional: the keys that may be there.
        limit: the largest length accepted.

    Raises:
        MalformedError: `malformed-leaf`, `malformed-cbor` or `too-large`.
        UnsupportedError: `unsupported-version`.
    """
    fields = decode(data, limit=limit)
    if type(fields) is not dict:
        raise malformed("not a map")
    found = integer(fields.get(1), "version")
    if found != version:
        raise UnsupportedError(
            f"expected version {version}, got {found}", reason=Reason.UNSUPPORTED_VERSION
        )
    check_keys(fields, required, optional)
    return fields


def check_keys(
    fields: dict[Any, Any], required: AbstractSet[int], optional: AbstractSet[int]
) -> None:
    """Check that all required keys are there, and no unknown one.

    Raises:
        MalformedError: `malformed-leaf`.
    """
    if not fields.keys() >= required or not fields.keys() <= required | optional:
        raise malformed("a field is missing or unknown")


def integer(value: Any, name: str) -> int:
    """Read a count, a size or a time."""
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise malformed(f"{name} is not a non-negative integer")
    return value


def text(value: Any, name: str, limit: int = MAX_FIELD_CHARACTERS) -> str:
    """Read a short word. Printable, because a word with control characters could forge a line."""
    if type(value) is not str or not 0 < len(value) <= limit or not value.isprintable():
        raise malformed(f"{name} is not printable text of 1 to {limit} characters")
    return value


def digest(value: Any, name: str) -> Digest:
    """Read a digest, a commitment or a key identifier."""
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise malformed(f"{name} is not {DIGEST_BYTES} bytes")
    return Digest(value)


def optional_digest(value: Any, name: str) -> Digest | None:
    """Read a digest that may be absent."""
    return None if value is None else digest(value, name)


def row(value: Any, length: int, name: str) -> list[Any]:
    """Read an array of this length."""
    if type(value) is not list or len(value) != length:
        raise malformed(f"{name} is not an array of {length}")
    return value


def rows(value: Any, limit: int, name: str) -> list[Any]:
    """Read an array of at most this length."""
    if type(value) is not list or len(value) > limit:
        raise malformed(f"{name} is not an array of at most {limit}")
    return value


_Number = TypeVar("_Number", bound=IntEnum)
_Word = TypeVar("_Word", bound=StrEnum)


def number(kind: type[_Number], value: Any, name: str) -> _Number:
    """Read a member of a numbered enumeration."""
    member = kind._value2member_map_.get(value) if type(value) is int else None
    if member is None:
        raise malformed(f"{name} is unknown")
    return cast(_Number, member)


def word(kind: type[_Word], value: Any, name: str) -> _Word:
    """Read a member of an enumeration of words."""
    member = kind._value2member_map_.get(value) if type(value) is str else None
    if member is None:
        raise malformed(f"{name} is unknown")
    return cast(_Word, member)
