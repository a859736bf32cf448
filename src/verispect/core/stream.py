"""The hash chain over a streamed answer, and interim signatures over it (spec/stream.md).

`head(0) = SHA-256("verispect-stream-v1" || inference id)` and
`head(i) = SHA-256(head(i-1) || SHA-256(chunk i))`, where a chunk is the exact bytes of one event's
data. A caller that kept the chunks it was shown recomputes the head and finds out whether the
operator signed what was shown.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode
from verispect.core.envelope import STREAM_TYPE, SignedEnvelope, open_envelope, sign_envelope
from verispect.core.errors import MalformedError, Reason
from verispect.core.keys import Signer
from verispect.core.statement import StreamBinding

_DOMAIN: Final = b"verispect-stream-v1"
MAX_INTERIM_BYTES: Final = 1024


class StreamChain:
    """The running head of one stream."""

    def __init__(self, inference_id: bytes) -> None:
        self._head = hashlib.sha256(_DOMAIN + inference_id).digest()
        self._chunks = 0

    def absorb(self, chunk: bytes) -> None:
        """Add the exact bytes of the next chunk."""
        self._head = hashlib.sha256(self._head + hashlib.sha256(chunk).digest()).digest()
        self._chunks += 1

    def binding(self) -> StreamBinding:
        """Return the count and head so far."""
        return StreamBinding(self._chunks, Digest(self._head))


def sign_interim(
    binding: StreamBinding, *, issuer: str, subject: str, signer: Signer
) -> SignedEnvelope:
    """Sign the chunks sent so far."""
    return sign_envelope(
        encode([binding.chunks, binding.head]),
        content_type=STREAM_TYPE,
        issuer=issuer,
        subject=subject,
        signer=signer,
    )


def open_interim(data: bytes) -> tuple[SignedEnvelope, StreamBinding]:
    """Parse an interim signature; `SignedEnvelope.verify` is the caller's to call.

    Raises:
        MalformedError: `malformed-statement`, `malformed-envelope` or `malformed-cbor`.
        UnsupportedError: as `open_envelope`.
    """
    if len(data) > MAX_INTERIM_BYTES:
        raise MalformedError("interim signature is too large", reason=Reason.TOO_LARGE)
    envelope = open_envelope(data, content_type=STREAM_TYPE)
    row: Any = decode(envelope.payload, limit=MAX_INTERIM_BYTES)
    if (
        type(row) is not list
        or len(row) != 2
        or type(row[0]) is not int
        or row[0] < 0
        or type(row[1]) is not bytes
        or len(row[1]) != DIGEST_BYTES
    ):
        raise MalformedError(
            "interim signature is not [chunks, head]", reason=Reason.MALFORMED_STATEMENT
        )
    return envelope, StreamBinding(row[0], Digest(row[1]))
