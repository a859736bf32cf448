"""What a proof says of each request it covers (spec/proof.md section 5): rows, and salted digests.

Both sides use this. Whoever knows a request computes its digests and its pads from its salt; of the
others a proof shows nothing else. This module refuses to tell one request from another by anything
but the digest of its context, and draws no salts.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import MalformedError, Reason
from verispect.proof.field import MODULUS, Element
from verispect.proof.graph_parts import MAX_BATCH

if TYPE_CHECKING:
    from verispect.proof.transcript import Transcript

MAX_REQUESTS: Final = 256
"""Requests in one proof."""
SALT_BYTES: Final = 32
NO_SALT: Final = bytes(SALT_BYTES)
"""Of a request that nobody is kept from guessing."""

_CONTEXT: Final = b"verispect-proof-context-v1"
_INPUT: Final = b"verispect-proof-input-v1"
_OUTPUT: Final = b"verispect-proof-output-v1"
_PAD: Final = b"verispect-proof-pad-v1"


@dataclass(frozen=True, slots=True)
class RequestDigests:
    """One request as a proof names it, believed by nobody yet.

    Raises:
        MalformedError: `malformed-proof`.
    """

    rows: int
    context: bytes
    input: bytes | None
    """None where the input is hidden."""
    output: bytes

    def __post_init__(self) -> None:
        if type(self.rows) is not int or not 1 <= self.rows <= MAX_BATCH:
            raise _malformed("the rows of a request are out of range")
        known = (self.context, self.output, *(() if self.input is None else (self.input,)))
        if any(type(digest) is not bytes or len(digest) != DIGEST_BYTES for digest in known):
            raise _malformed(f"expected {DIGEST_BYTES} octets of a digest")

    def row(self) -> list[int | bytes | None]:
        """Return the wire form."""
        return [self.rows, self.context, self.input, self.output]


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, reason=Reason.MALFORMED_PROOF)


def context_digest(salt: bytes, context: bytes) -> bytes:
    """Return the digest of what a request is about."""
    return _salted(_CONTEXT, salt, context)


def input_digest(salt: bytes, integers: bytes) -> bytes:
    """Return the digest of a request's inputs, i16 little-endian."""
    return _salted(_INPUT, salt, integers)


def output_digest(salt: bytes, integers: bytes) -> bytes:
    """Return the digest of a request's outputs, i64 little-endian."""
    return _salted(_OUTPUT, salt, integers)


def pads(salt: bytes, witness_root: bytes) -> tuple[Element, Element]:
    """Return what hides the ties of a request's input and output from the other requests.

    Args:
        salt: of the request.
        witness_root: of the proof, so that no two proofs of a request have the same pads: who saw
            both could take them off.
    """
    first, second = (_pad(salt, witness_root, side) for side in range(2))
    return first, second


def _pad(salt: bytes, witness_root: bytes, side: int) -> Element:
    _check(salt)
    octets = hashlib.sha512(_PAD + salt + witness_root + bytes([side])).digest()
    a, b = (int.from_bytes(octets[i : i + 32], "little") % MODULUS for i in (0, 32))
    return Element(a, b)


def _salted(domain: bytes, salt: bytes, data: bytes) -> bytes:
    _check(salt)
    return hashlib.sha256(domain + salt + data).digest()


def _check(salt: bytes) -> None:
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} octets")


def first_rows(requests: Sequence[RequestDigests]) -> list[int]:
    """Return where the rows of each request begin, and where the last ends."""
    bounds = [0]
    for request in requests:
        bounds.append(bounds[-1] + request.rows)
    return bounds


def require_requests(requests: Sequence[RequestDigests]) -> None:
    """Refuse a list of requests that no proof has.

    Raises:
        MalformedError: `malformed-proof`.
    """
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise _malformed("the number of requests is out of range")
    if first_rows(requests)[-1] > MAX_BATCH:
        raise _malformed("the requests have too many rows")
    if len({request.context for request in requests}) != len(requests):
        raise _malformed("a request is there twice")
    if any(request.input is None for request in requests) and len(requests) > 1:
        raise _malformed("a hidden input shares no proof")


def absorb_requests(
    transcript: Transcript, requests: Sequence[RequestDigests], input_root: bytes | None
) -> None:
    """Take every request into the transcript; a hidden input by its commitment."""
    transcript.absorb("requests", struct.pack("<I", len(requests)))
    for request in requests:
        source = request.input if request.input is not None else input_root
        if source is None:
            raise RuntimeError("a hidden input has a root")
        transcript.absorb(
            "request", struct.pack("<I", request.rows) + request.context + source + request.output
        )
