"""Deterministic CBOR (RFC 8949 section 4.2.1), strict in both directions, and strict text forms.

One value has one encoding, and only that encoding is accepted. `decode` refuses duplicate or
unsorted map keys, non-minimal lengths and integers, indefinite lengths, floating point, tags
other than the decimal fraction of `encode_content`, undefined, unknown simple values, text that
is not UTF-8, and trailing bytes. Nesting and size are bounded by named limits.

`cbor2` does the encoding. Its `canonical=True` orders map keys by length first (RFC 8949 section
4.2.3), which agrees with section 4.2.1 only when all keys of a map share one major type; `encode`
therefore refuses any other map. Decoding is ours, because cbor2's decoder accepts every one of
the irregularities above and builds objects from tags.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, Final, NewType

import cbor2

from verispect.core.cbor_items import byte_string as byte_string
from verispect.core.errors import MalformedError, Reason

MAX_CBOR_BYTES: Final = 64 * 1024 * 1024
"""Upper limit of any CBOR item this module reads; callers pass a smaller one of their own."""

MAX_DEPTH: Final = 32
"""Upper limit of nested arrays, maps and tags."""

MAX_CBOR_ITEMS: Final = 1 << 22
"""Upper limit of items inside arrays and maps: an empty array is one byte here and 56 in memory."""

DECIMAL_FRACTION_TAG: Final = 4
"""RFC 8949 section 3.4.4: `[exponent, mantissa]`, the only tag in content values."""

Digest = NewType("Digest", bytes)
"""A SHA-256 digest, 32 bytes."""

DIGEST_BYTES: Final = 32

_MAX_UNSIGNED: Final = (1 << 64) - 1
_MIN_NEGATIVE: Final = -(1 << 64)


def sha256(data: bytes) -> Digest:
    """Return the SHA-256 digest of `data`."""
    return Digest(hashlib.sha256(data).digest())


# -- CBOR -------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Encode `value` as deterministic CBOR.

    Allowed are `None`, booleans, integers of 64 bits, text, bytes, lists and tuples, and maps
    whose keys are all non-negative integers, all negative integers, all text or all bytes.

    Raises:
        TypeError: for any other type, floats first among them, and text that has no UTF-8. This
            is misuse, not bad input.
    """
    return _dumps(_prepare(value, 0, content=False))


def encode_ordered(value: Any) -> bytes:
    """Encode `value`, whose maps are in deterministic order already: `encode`, quicker.

    A map in another order gives bytes that `decode` refuses.
    """
    return _dumps(_prepare(value, 0, content=False), canonical=False)


def _dumps(prepared: Any, *, canonical: bool = True) -> bytes:
    try:
        return cbor2.dumps(prepared, canonical=canonical)
    except UnicodeEncodeError as error:
        raise TypeError("text with a lone surrogate is not UTF-8") from error


_PLAIN_TYPES: Final = frozenset({str, bytes, bool, type(None)})


def _prepare(value: Any, depth: int, *, content: bool) -> Any:  # noqa: C901
    """Return `value` as cbor2 may have it, checked; with `content`, floats become fractions.

    One pass and one branch per type, in the order of frequency: this runs for every byte that is
    signed or committed to.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return value
    if kind is int:
        if not _MIN_NEGATIVE <= value <= _MAX_UNSIGNED:
            raise TypeError("an integer must fit in 64 bits")
        return value
    if kind is float and content:
        return _decimal_fraction(value)
    if depth >= MAX_DEPTH:
        raise TypeError(f"nesting must not exceed {MAX_DEPTH}")
    if kind is list or kind is tuple:
        kinds = set(map(type, value))
        if kinds <= _PLAIN_TYPES:
            return value
        if kinds == {int}:  # Token ids: thousands of them, checked at once.
            if not _MIN_NEGATIVE <= min(value) <= max(value) <= _MAX_UNSIGNED:
                raise TypeError("an integer must fit in 64 bits")
            return value
        return [_prepare(item, depth + 1, content=content) for item in value]
    if kind is dict:
        _check_map_keys(value)
        return {
            key: item if type(item) in _PLAIN_TYPES else _prepare(item, depth + 1, content=content)
            for key, item in value.items()
        }
    if kind is cbor2.CBORTag and value.tag == DECIMAL_FRACTION_TAG:
        return cbor2.CBORTag(value.tag, _prepare(value.value, depth + 1, content=False))
    if content:
        return _prepare(_plain_content(value), depth, content=True)
    raise TypeError(f"{kind.__name__} has no deterministic encoding here")


def _plain_content(value: Any) -> Any:
    """Return the builtin form of a subclass or of another mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no deterministic encoding here")


def _check_map_keys(value: dict[Any, Any]) -> None:
    kinds = set(map(type, value))
    if kinds <= _ONE_TEXT or kinds == _ONE_BYTES:
        return
    if kinds != _ONE_INTEGER:
        raise TypeError("the keys of one map must be all integers, all text or all bytes")
    least, most = min(value), max(value)
    if least < 0 <= most:
        raise TypeError("the keys of one map must share one CBOR major type")
    if least < _MIN_NEGATIVE or most > _MAX_UNSIGNED:
        raise TypeError("an integer must fit in 64 bits")


_ONE_TEXT: Final = {str}
_ONE_BYTES: Final = {bytes}
_ONE_INTEGER: Final = {int}


def decode(data: bytes, *, limit: int = MAX_CBOR_BYTES, maximum_items: int = MAX_CBOR_ITEMS) -> Any:
    """Decode exactly one deterministic CBOR item that fills `data`.

    Args:
        data: the bytes.
        limit: the largest length accepted.
        maximum_items: how many items arrays, maps and tags may declare, all of them together.

    Returns:
        `None`, `bool`, `int`, `str`, `bytes`, `list`, `dict`, or `cbor2.CBORTag` with tag 4.

    Raises:
        MalformedError: `malformed-cbor` with the offset at fault, `too-large` or `too-deep`.
    """
    if len(data) > limit:
        raise MalformedError(
            f"expected at most {limit} bytes, got {len(data)}", reason=Reason.TOO_LARGE
        )
    value, end = _decode_item(data, 0, 0, [maximum_items])
    if end != len(data):
        raise _malformed("bytes after the end", end)
    return value


def _malformed(what: str, offset: int) -> MalformedError:
    return MalformedError(f"{what} at offset {offset}", reason=Reason.MALFORMED_CBOR)


_ARGUMENT_FORMATS: Final = {
    24: (1, ">B", 24),
    25: (2, ">H", 1 << 8),
    26: (4, ">I", 1 << 16),
    27: (8, ">Q", 1 << 32),
}


def _decode_argument(data: bytes, offset: int, information: int) -> tuple[int, int]:
    """Read the argument of an initial byte (RFC 8949 section 3), refusing longer forms."""
    layout = _ARGUMENT_FORMATS.get(information)
    if layout is None:
        raise _malformed("reserved or indefinite length", offset - 1)
    size, code, least = layout
    if offset + size > len(data):
        raise _malformed("unexpected end", len(data))
    (argument,) = struct.unpack_from(code, data, offset)
    if argument < least:
        raise _malformed("non-minimal integer or length", offset - 1)
    return argument, offset + size


def _take_items(budget: list[int], count: int, offset: int) -> None:
    # Before anything is built: what a header declares is paid for at once.
    budget[0] -= count
    if budget[0] < 0:
        raise MalformedError(f"too many items at offset {offset}", reason=Reason.TOO_LARGE)


def _decode_item(  # noqa: C901
    data: bytes, offset: int, depth: int, budget: list[int]
) -> tuple[Any, int]:
    # One branch per major type: kept whole because it is the hot path of every verification.
    try:
        initial = data[offset]
    except IndexError:
        raise _malformed("unexpected end", offset) from None
    start = offset
    offset += 1
    major = initial >> 5
    argument = initial & 31
    if major == 7:
        return _decode_simple(argument, start), offset
    if argument > 23:
        if argument == 24 and offset < len(data) and data[offset] > 23:
            argument = data[offset]  # One-byte lengths, as of digests, without a call.
            offset += 1
        else:
            argument, offset = _decode_argument(data, offset, argument)
    if major == 0:
        return argument, offset
    if major == 1:
        return -1 - argument, offset
    if major <= 3:
        end = offset + argument
        if end > len(data):
            raise _malformed("unexpected end", len(data))
        chunk = data[offset:end]
        if major == 2:
            return chunk, end
        try:
            return chunk.decode("utf-8"), end
        except UnicodeDecodeError:
            raise _malformed("text is not UTF-8", offset) from None
    if depth >= MAX_DEPTH:
        raise MalformedError(f"nesting exceeds {MAX_DEPTH}", reason=Reason.TOO_DEEP)
    if major == 4:
        _take_items(budget, argument, start)
        items = []
        for _ in range(argument):
            item, offset = _decode_item(data, offset, depth + 1, budget)
            items.append(item)
        return items, offset
    if major == 5:
        _take_items(budget, 2 * argument, start)
        return _decode_map(data, offset, depth, argument, budget)
    if argument != DECIMAL_FRACTION_TAG:
        raise _malformed("tag is not allowed", start)
    _take_items(budget, 1, start)
    content, end = _decode_item(data, offset, depth + 1, budget)
    _check_decimal_fraction(content, start)
    return cbor2.CBORTag(DECIMAL_FRACTION_TAG, content), end


def _decode_simple(argument: int, offset: int) -> bool | None:
    if argument == 20:
        return False
    if argument == 21:
        return True
    if argument == 22:
        return None
    raise _malformed("floating point, undefined or unknown simple value", offset)


def _decode_map(
    data: bytes, offset: int, depth: int, count: int, budget: list[int]
) -> tuple[dict[Any, Any], int]:
    result: dict[Any, Any] = {}
    previous = b""
    for _ in range(count):
        key_start = offset
        key: Any
        if offset < len(data) and data[offset] < 24:
            key = data[offset]
            offset += 1
        else:
            key, offset = _decode_item(data, offset, depth + 1, budget)
        encoded_key = data[key_start:offset]
        # Bytewise order of the encoded keys (section 4.2.1); equality is a duplicate.
        if encoded_key <= previous:
            raise _malformed("map keys are duplicate or out of order", key_start)
        kind = encoded_key[0] >> 5
        if kind > 3:
            raise _malformed("map key is not an integer, text or bytes", key_start)
        if previous and kind != previous[0] >> 5:
            raise _malformed("map keys of several types", key_start)
        previous = encoded_key
        result[key], offset = _decode_item(data, offset, depth + 1, budget)
    return result, offset


# -- Content values -----------------------------------------------------------------------------
# What is committed to (prompts, parameters, outputs) comes from JSON and may hold numbers with a
# fraction. They are written as decimal fractions, the shortest that reads back as the same
# double, so that no float is ever hashed and 0.5 never meets "0.5".


# A context of our own: the ambient one may round to fewer digits than a double has.
_EXACT: Final = Context(prec=20)


def _decimal_fraction(value: float) -> cbor2.CBORTag:
    if not math.isfinite(value):
        raise TypeError("a content value must be finite")
    # float.__repr__, because a subclass such as NumPy's float64 may write itself otherwise.
    sign, digits, exponent = _EXACT.normalize(Decimal(float.__repr__(value))).as_tuple()
    mantissa = int("".join(map(str, digits)))
    return cbor2.CBORTag(DECIMAL_FRACTION_TAG, [int(exponent), -mantissa if sign else mantissa])


def _check_decimal_fraction(content: Any, offset: int) -> None:
    if (
        type(content) is not list
        or len(content) != 2
        or type(content[0]) is not int
        or type(content[1]) is not int
        or abs(content[0]) > 400
    ):
        raise _malformed("decimal fraction is not [exponent, mantissa]", offset)
    value = float(f"{content[1]}e{content[0]}")
    if not math.isfinite(value) or _decimal_fraction(value).value != content:
        # A negative zero has no mantissa of its own and is written as zero.
        raise _malformed("decimal fraction is not the shortest form", offset)


def encode_content(value: Any) -> bytes:
    """Encode a JSON-like value (also with `bytes` inside) as deterministic CBOR.

    Numbers with a fraction become RFC 8949 decimal fractions (tag 4) in the shortest form that
    reads back as the same double; a double without a fraction keeps that form too, so `1.0` and
    `1` differ as they do in JSON text.

    Raises:
        TypeError: for values outside JSON and bytes, NaN and infinities, text with lone
            surrogates, integers beyond 64 bits and nesting beyond `MAX_DEPTH`.
    """
    return _dumps(_prepare(value, 0, content=True))


def decode_content(data: bytes, *, limit: int = MAX_CBOR_BYTES) -> Any:
    """Reverse `encode_content`.

    Raises:
        MalformedError: as `decode`.
    """
    return _content_from_cbor(decode(data, limit=limit))


def _content_from_cbor(value: Any) -> Any:
    if isinstance(value, cbor2.CBORTag):
        exponent, mantissa = value.value
        return float(f"{mantissa}e{exponent}")
    if isinstance(value, dict):
        return {key: _content_from_cbor(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_content_from_cbor(item) for item in value]
    return value


# -- Text forms ---------------------------------------------------------------------------------


def to_base64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str, *, limit: int = MAX_CBOR_BYTES) -> bytes:
    """Decode base64url without padding, accepting only the one canonical form.

    Raises:
        MalformedError: `malformed-json` for any other text, `too-large` beyond `limit` bytes.
    """
    if len(text) > (limit * 4 + 2) // 3:
        raise MalformedError(f"expected at most {limit} bytes", reason=Reason.TOO_LARGE)
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise MalformedError("text is not base64url", reason=Reason.MALFORMED_JSON) from error
    # b64decode skips foreign characters and spare bits; only the canonical text comes back equal.
    if to_base64url(data) != text:
        raise MalformedError("text is not canonical base64url", reason=Reason.MALFORMED_JSON)
    return data


def from_hex(text: str, *, length: int | None = None) -> bytes:
    """Decode lower-case hexadecimal of exactly `length` bytes.

    Raises:
        MalformedError: `malformed-json`.
    """
    if not all(character in "0123456789abcdef" for character in text) or len(text) % 2:
        raise MalformedError("text is not lower-case hexadecimal", reason=Reason.MALFORMED_JSON)
    data = bytes.fromhex(text)
    if length is not None and len(data) != length:
        raise MalformedError(
            f"expected {length} bytes of hexadecimal, got {len(data)}",
            reason=Reason.MALFORMED_JSON,
        )
    return data
