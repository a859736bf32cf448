"""Salted commitments to each part of a request and a response, opened one by one.

`commitment = HMAC-SHA-256(salt, "verispect-commitment-v1" || part || value)` with a fresh random
salt of 32 bytes per part. The value is the encoded content, so that whoever checks an opening
hashes the bytes it was given and never encodes anything again. Without the salt a commitment
says nothing of its value, however short; deleting salt and value erases the content while every
signature over the commitment stays good.

This module draws no randomness: salts are arguments.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from verispect.core.encoding import (
    Digest,
    byte_string,
    decode,
    decode_content,
    encode,
    encode_content,
)
from verispect.core.errors import MalformedError, Reason, VerificationError

SALT_BYTES: Final = 32
MAX_OPENINGS_BYTES: Final = 64 * 1024 * 1024
MAX_OPENINGS_ITEMS: Final = 128

_DOMAIN: Final = b"verispect-commitment-v1"
_OPENINGS_MAGIC: Final = "verispect-openings"
_OPENINGS_VERSION: Final = 1
_OPENINGS_START: Final = b"\x83" + encode(_OPENINGS_MAGIC) + encode(_OPENINGS_VERSION)


class Part(IntEnum):
    """What a statement commits to. The numbers are on the wire (spec/statement.md)."""

    __hash__ = int.__hash__

    SYSTEM_PROMPT = 1
    MESSAGES = 2
    TOOLS = 3
    PARAMETERS = 4
    RESPONSE_FORMAT = 5
    ATTACHMENTS = 6
    EFFECTIVE_INPUT = 7
    OUTPUT = 8
    TOOL_CALLS = 9
    LOGPROBS = 10
    UPSTREAM = 11

    @property
    def label(self) -> str:
        """The name in JSON views and on the command line."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Opening:
    """The salt and the encoded value behind one commitment: untrusted until checked."""

    part: Part
    salt: bytes
    value: bytes

    @classmethod
    def of(cls, part: Part, content: Any, *, salt: bytes) -> Opening:
        """Make the opening of JSON-like `content` (bytes allowed) under `salt`."""
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes")
        return cls(part, salt, encode_content(content))

    def commitment(self) -> Digest:
        """Return the commitment that this opening opens."""
        message = _DOMAIN + bytes((self.part,)) + self.value
        return Digest(hmac.digest(self.salt, message, "sha256"))

    def check(self, commitment: bytes) -> None:
        """Check this opening against a commitment.

        Raises:
            VerificationError: `opening-mismatch`.
        """
        # HMAC pads a short salt and hashes a long one, so only one length opens a commitment.
        matches = hmac.compare_digest(self.commitment(), commitment)
        if len(self.salt) != SALT_BYTES or not matches:
            raise VerificationError(
                f"the opening of {self.part.label} does not match its commitment",
                reason=Reason.OPENING_MISMATCH,
            )

    def content(self) -> Any:
        """Decode the value.

        Raises:
            MalformedError: `malformed-cbor`.
        """
        return decode_content(self.value)


OpenedParts = Mapping[Part, Opening]


def encode_openings(openings: OpenedParts) -> bytes:
    """Encode openings as `["verispect-openings", 1, {part: [salt, value]}]`."""
    # Written out, because every answer waits for it; `encode` of the same list gives these bytes.
    parts = [_OPENINGS_START, bytes((0xA0 | len(openings),))]
    for part in sorted(openings):
        opening = openings[part]
        parts += (bytes((part, 0x82)), byte_string(opening.salt), byte_string(opening.value))
    return b"".join(parts)


def decode_openings(data: bytes) -> dict[Part, Opening]:
    """Decode what `encode_openings` makes.

    Raises:
        MalformedError: `malformed-opening`, `malformed-cbor` or `too-large`.
    """
    document = decode(data, limit=MAX_OPENINGS_BYTES, maximum_items=MAX_OPENINGS_ITEMS)
    if (
        type(document) is not list
        or len(document) != 3
        or document[:2] != [_OPENINGS_MAGIC, _OPENINGS_VERSION]
        or type(document[1]) is not int  # True equals 1.
        or type(document[2]) is not dict
    ):
        raise MalformedError("not a file of openings", reason=Reason.MALFORMED_OPENING)
    openings: dict[Part, Opening] = {}
    for number, pair in document[2].items():
        if type(number) is not int or number not in Part.__members__.values():
            raise MalformedError("unknown part", reason=Reason.MALFORMED_OPENING)
        if (
            type(pair) is not list
            or len(pair) != 2
            or type(pair[0]) is not bytes
            or len(pair[0]) != SALT_BYTES
            or type(pair[1]) is not bytes
        ):
            raise MalformedError("an opening is not [salt, value]", reason=Reason.MALFORMED_OPENING)
        part = Part(number)
        openings[part] = Opening(part, pair[0], pair[1])
    return openings
