"""The pieces of which the C2SP text formats are made: base64, decimals, lines.

Each piece has one form, and a reader accepts no other: standard base64 with padding and without
spare bits, decimals without leading zeroes or signs, lines that end in a newline.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import MalformedError, Reason
from verispect.tlog.merkle import MAX_TREE_SIZE

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def to_base64(data: bytes) -> str:
    """Encode as standard base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, *, reason: Reason) -> bytes:
    """Decode standard base64, accepting only the one canonical form.

    Raises:
        MalformedError: with `reason`.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise MalformedError("text is not base64", reason=reason) from error
    if to_base64(data) != text:
        raise MalformedError("text is not canonical base64", reason=reason)
    return data


def hash_from_base64(text: str, *, reason: Reason) -> Digest:
    """Decode one hash.

    Raises:
        MalformedError: with `reason`.
    """
    data = from_base64(text, reason=reason)
    if len(data) != DIGEST_BYTES:
        raise MalformedError(f"expected a hash of {DIGEST_BYTES} bytes", reason=reason)
    return Digest(data)


def hashes_from_lines(lines: Sequence[str], *, limit: int, reason: Reason) -> list[Digest]:
    """Decode one hash per line.

    Raises:
        MalformedError: with `reason`, also for more than `limit` lines.
    """
    if len(lines) > limit:
        raise MalformedError(f"expected at most {limit} hashes, got {len(lines)}", reason=reason)
    return [hash_from_base64(line, reason=reason) for line in lines]


def size_from_decimal(text: str, *, reason: Reason) -> int:
    """Decode the size of a tree, or an index in one.

    Raises:
        MalformedError: with `reason`.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_TREE_SIZE:
        raise MalformedError("text is not a decimal of a tree's size", reason=reason)
    return int(text)


def text_from_bytes(data: bytes, *, limit: int, reason: Reason) -> str:
    """Decode UTF-8 that has no control character except newlines and ends in one.

    Raises:
        MalformedError: `too-large` beyond `limit` bytes, otherwise with `reason`.
    """
    if len(data) > limit:
        raise MalformedError(
            f"expected at most {limit} bytes, got {len(data)}", reason=Reason.TOO_LARGE
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("text is not UTF-8", reason=reason) from error
    if not text.endswith("\n"):
        raise MalformedError("the last line does not end", reason=reason)
    check_characters(text, reason=reason)
    return text


def check_characters(text: str, *, reason: Reason) -> None:
    """Check that `text` has no ASCII control character except newlines.

    Raises:
        MalformedError: with `reason`.
    """
    if any(character < " " and character != "\n" for character in text):
        raise MalformedError("text holds a control character", reason=reason)
