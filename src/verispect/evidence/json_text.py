"""JSON of others, read strictly: what two parsers could read in two ways is refused.

Duplicate members, NaN and infinities, text after the end, byte order marks, lone surrogates and
deep nesting are malformed. Members keep the very bytes they had where a digest was taken over
them (`raw_member`). This module signs and verifies nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from verispect.core.errors import MalformedError, Reason

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""Upper limit of one document; callers pass a smaller one of their own."""

MAX_JSON_DEPTH: Final = 32

_SPACE: Final = " \t\n\r"


def read_json(data: bytes, *, limit: int = MAX_JSON_BYTES) -> Any:
    """Read one JSON value.

    Raises:
        MalformedError: `malformed-json`, or `too-large`.
    """
    return _decode(_text(data, limit))


def read_object(data: bytes, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        MalformedError: as `read_json`, and `malformed-json` for any other value.
    """
    value = read_json(data, limit=limit)
    if not isinstance(value, dict):
        raise _malformed("not an object")
    return value


def raw_member(data: bytes, name: str, *, limit: int = MAX_JSON_BYTES) -> bytes | None:
    """Return the bytes of one member of an object as they stand in the text, if it is there.

    Raises:
        MalformedError: as `read_object`.
    """
    read_object(data, limit=limit)
    # From here on the text is known to be one well-formed object without duplicates.
    text = data.decode()
    decoder = json.JSONDecoder()
    offset = _skip(text, text.index("{") + 1)
    while text[offset] != "}":
        key, offset = decoder.raw_decode(text, offset)
        start = _skip(text, _skip(text, offset) + 1)
        _, end = decoder.raw_decode(text, start)
        if key == name:
            return text[start:end].encode()
        offset = _skip(text, end)
        if text[offset] == ",":
            offset = _skip(text, offset + 1)
    return None


def from_base64(text: Any, *, limit: int = MAX_JSON_BYTES) -> bytes:
    """Decode a JSON member of standard base64 with padding, line breaks refused.

    Raises:
        MalformedError: `malformed-json`, or `too-large`.
    """
    if not isinstance(text, str):
        raise _malformed("a base64 member is not text")
    if len(text) > (limit + 2) // 3 * 4:
        raise MalformedError(f"expected at most {limit} bytes", reason=Reason.TOO_LARGE)
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise _malformed("a member is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise _malformed("a member is not canonical base64")
    return data


def from_hex_member(text: Any, *, length: int | None = None) -> bytes:
    """Decode a JSON member of hexadecimal in either case, with or without `0x`.

    Raises:
        MalformedError: `malformed-json`.
    """
    if not isinstance(text, str):
        raise _malformed("a hexadecimal member is not text")
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    if len(digits) % 2 or not all(character in "0123456789abcdefABCDEF" for character in digits):
        raise _malformed("a member is not hexadecimal")
    data = bytes.fromhex(digits)
    if length is not None and len(data) != length:
        raise _malformed(f"expected {length} bytes of hexadecimal, got {len(data)}")
    return data


def _text(data: bytes, limit: int) -> str:
    if len(data) > limit:
        raise MalformedError(f"expected at most {limit} bytes of JSON", reason=Reason.TOO_LARGE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("not UTF-8") from error


def _decode(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise MalformedError("JSON is nested too deeply", reason=Reason.TOO_DEEP) from error
    except ValueError as error:
        # Also numbers with more digits than Python reads.
        raise _malformed("not JSON") from error
    _check_values(value, 0)
    return value


def _check_values(value: Any, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise MalformedError(f"nesting exceeds {MAX_JSON_DEPTH}", reason=Reason.TOO_DEEP)
    if isinstance(value, dict):
        for name, member in value.items():
            _check_values(name, depth)
            _check_values(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check_values(member, depth + 1)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _malformed("text with a lone surrogate") from error
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise _malformed("number out of range")


def _unique_members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("a member appears twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is not JSON")


def _skip(text: str, offset: int) -> int:
    while text[offset] in _SPACE:
        offset += 1
    return offset


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"JSON: {what}", reason=Reason.MALFORMED_JSON)
