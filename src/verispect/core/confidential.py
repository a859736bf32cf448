"""The bytes of confidential requests and answers (spec/confidential.md).

Both sides share what is deterministic: headers, padding, keys and frames. Encrypting to the
gateway's key belongs to the client, opening to the gateway. This module refuses to draw random
numbers, so that it stays in the offline verifier's rooms, and to hold a private key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode, sha256
from verispect.core.errors import Error, Reason, RequestError, VerificationError

REQUEST_TYPE: Final = "application/verispect-hpke"
RESPONSE_TYPE: Final = "application/verispect-hpke-response"
SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32
"""Of the random bytes in front of an answer."""
MAX_CONTENT_BYTES: Final = 1024 * 1024
PADDING_BYTES: Final = 512

INNER_HEADERS: Final = frozenset(
    {
        "verispect-assurance",
        "verispect-nonce",
        "verispect-lane",
        "verispect-attestation",
        "payment-signature",
    }
)

_PREFIX: Final = b"\x01" + struct.pack(">HHH", 0x0020, 0x0001, 0x0003)
HEADER_BYTES: Final = len(_PREFIX) + DIGEST_BYTES
_DOMAIN: Final = b"verispect/confidential-v1 "
_LENGTH: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">BI")
_TAG_BYTES: Final = 16
_SEAL_NONCE_BYTES: Final = 12
_MAX_CIPHERTEXT_BYTES: Final = MAX_CONTENT_BYTES + PADDING_BYTES + _TAG_BYTES
_REQUEST_FIELDS: Final = {"body", "headers", "sent_at", "content_type", "response_key"}


def key_digest(key: bytes) -> Digest:
    """Return the digest by which evidence and statements name a gateway's public key."""
    return sha256(key)


def encode_header(digest: Digest) -> bytes:
    """Return the header of a request to the key with this digest."""
    return _PREFIX + digest


def split_request(body: bytes) -> tuple[bytes, Digest, bytes]:
    """Return header, key digest, and `enc` with the ciphertext.

    Raises:
        RequestError: `confidential-request-invalid`.
    """
    header, sealed = body[:HEADER_BYTES], body[HEADER_BYTES:]
    if not header.startswith(_PREFIX) or len(sealed) < KEY_BYTES + _TAG_BYTES:
        raise invalid_request("not a confidential request of version 1 and its suite")
    return header, Digest(header[len(_PREFIX) :]), sealed


def request_info(method: str, path: str, header: bytes) -> bytes:
    """Return the HPKE `info` that binds a request to where it is sent."""
    return _DOMAIN + b"request\x00" + encode([method, path, header])


def invalid_request(what: str) -> RequestError:
    """Return the error for a confidential request that cannot be opened or read."""
    return RequestError(what, reason=Reason.CONFIDENTIAL_REQUEST_INVALID)


@dataclass(frozen=True, slots=True)
class ConfidentialRequest:
    """What a confidential request holds."""

    body: bytes
    headers: Mapping[str, str]
    sent_at: int
    """Milliseconds since the epoch."""
    response_key: bytes
    content_type: str = "application/json"

    def __repr__(self) -> str:
        return "ConfidentialRequest()"  # Neither a prompt nor a key belongs into a log.

    def encode(self) -> bytes:
        """Return the padded plaintext."""
        return _pad(
            encode(
                {
                    "body": self.body,
                    "headers": dict(self.headers),
                    "sent_at": self.sent_at,
                    "content_type": self.content_type,
                    "response_key": self.response_key,
                }
            )
        )

    @classmethod
    def decode(cls, plaintext: bytes) -> ConfidentialRequest:
        """Read a padded plaintext.

        Raises:
            RequestError: `confidential-request-invalid`.
        """
        content = _unpad(plaintext)
        try:
            fields = None if content is None else decode(content, maximum_items=64)
        except Error as error:
            raise invalid_request("the confidential request is not deterministic CBOR") from error
        if type(fields) is not dict or fields.keys() != _REQUEST_FIELDS:
            raise invalid_request("the confidential request has a missing or unknown field")
        body, headers, sent_at = fields["body"], fields["headers"], fields["sent_at"]
        response_key, content_type = fields["response_key"], fields["content_type"]
        if (
            type(body) is not bytes
            or type(sent_at) is not int
            or sent_at < 0
            or type(content_type) is not str
            or type(response_key) is not bytes
            or len(response_key) != KEY_BYTES
        ):
            raise invalid_request("a field of the confidential request has another form")
        if (
            type(headers) is not dict
            or not headers.keys() <= INNER_HEADERS
            or not all(type(value) is str for value in headers.values())
        ):
            raise invalid_request("a header inside the confidential request is unknown")
        return cls(body, headers, sent_at, response_key, content_type)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The first frame of an answer."""

    status: int
    content_type: str
    headers: Sequence[tuple[str, str]]

    def encode(self) -> bytes:
        """Return the content of frame 0."""
        return encode([self.status, self.content_type, [list(pair) for pair in self.headers]])

    @classmethod
    def decode(cls, content: bytes) -> ResponseHead:
        """Read the content of frame 0.

        Raises:
            VerificationError: `confidential-response-invalid`.
        """
        try:
            row = decode(content, maximum_items=256)
        except Error as error:
            raise _invalid_response("the head is not deterministic CBOR") from error
        if type(row) is not list or len(row) != 3:
            raise _invalid_response("the head has another form")
        status, content_type, pairs = row
        if type(status) is not int or type(content_type) is not str or type(pairs) is not list:
            raise _invalid_response("the head has another form")
        return cls(status, content_type, [_pair(pair) for pair in pairs])


def _pair(value: Any) -> tuple[str, str]:
    if type(value) is not list or len(value) != 2 or not all(type(text) is str for text in value):
        raise _invalid_response("a header has another form")
    return value[0], value[1]


class ResponseSealer:
    """Seals the frames of one answer, in order.

    Args:
        response_key: the caller's.
        enc: of the request.
        nonce: 32 random bytes, fresh for this answer.
    """

    def __init__(self, response_key: bytes, enc: bytes, nonce: bytes) -> None:
        self.nonce: Final = nonce
        self._aead = ChaCha20Poly1305(_derive(response_key, enc + nonce, b"response"))
        self._count = 0

    def frame(self, content: bytes, *, last: bool = False) -> bytes:
        """Return the next frame; `content` is at most `MAX_CONTENT_BYTES`."""
        padded = _pad(content)
        front = _FRAME.pack(last, len(padded) + _TAG_BYTES)
        sealed = self._aead.encrypt(_frame_nonce(self._count), padded, front)
        self._count += 1
        return front + sealed

    def frames(self, content: bytes, *, last: bool) -> Iterator[bytes]:
        """Yield the frames of a content of any length."""
        starts = range(0, len(content), MAX_CONTENT_BYTES) or (0,)
        for start in starts:
            piece = content[start : start + MAX_CONTENT_BYTES]
            yield self.frame(piece, last=last and start == starts[-1])


class ResponseOpener:
    """Opens an answer as it arrives, and knows whether it is whole.

    Args:
        response_key: the caller's own.
        enc: of the request.
    """

    def __init__(self, response_key: bytes, enc: bytes) -> None:
        self._secret = response_key
        self._enc = enc
        self._aead: ChaCha20Poly1305 | None = None
        self._buffer = bytearray()
        self._count = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of every frame that is whole by now; the first is the head.

        Raises:
            VerificationError: `confidential-response-invalid`.
        """
        self._buffer += data
        if self._aead is None:
            if len(self._buffer) < NONCE_BYTES:
                return
            nonce = bytes(self._buffer[:NONCE_BYTES])
            del self._buffer[:NONCE_BYTES]
            self._aead = ChaCha20Poly1305(_derive(self._secret, self._enc + nonce, b"response"))
        while self._buffer:
            if self._ended:
                raise _invalid_response("bytes follow the last frame")
            if len(self._buffer) < _FRAME.size:
                return
            front = bytes(self._buffer[: _FRAME.size])
            last, length = _FRAME.unpack(front)
            if last > 1 or length > _MAX_CIPHERTEXT_BYTES:
                raise _invalid_response("the beginning of a frame has another form")
            if len(self._buffer) < _FRAME.size + length:
                return
            sealed = bytes(self._buffer[_FRAME.size : _FRAME.size + length])
            del self._buffer[: _FRAME.size + length]
            yield self._open(self._aead, front, sealed)
            self._ended = bool(last)

    def _open(self, aead: ChaCha20Poly1305, front: bytes, sealed: bytes) -> bytes:
        try:
            padded = aead.decrypt(_frame_nonce(self._count), sealed, front)
        except InvalidTag as error:
            raise _invalid_response("a frame was changed, or is not the next one") from error
        self._count += 1
        content = _unpad(padded)
        if content is None:
            raise _invalid_response("a frame is padded in another way")
        return content

    def finish(self) -> None:
        """Check that the answer was whole.

        Raises:
            VerificationError: `confidential-response-invalid`.
        """
        if not self._ended:
            raise _invalid_response("the answer was cut: it ends before its last frame")


def seal_openings(
    openings: bytes, *, response_key: bytes, enc: bytes, inference_id: bytes, nonce: bytes
) -> bytes:
    """Return the openings as only the caller can read them.

    Args:
        openings: in the clear.
        response_key: the caller's.
        enc: of the request.
        inference_id: 16 bytes.
        nonce: 12 random bytes, fresh each time.
    """
    aead = ChaCha20Poly1305(_derive(response_key, enc, b"openings"))
    return encode(nonce + aead.encrypt(nonce, openings, inference_id))


def open_openings(sealed: bytes, *, response_key: bytes, enc: bytes, inference_id: bytes) -> bytes:
    """Reverse `seal_openings`.

    Raises:
        VerificationError: `confidential-response-invalid`.
    """
    try:
        row = decode(sealed, maximum_items=1)
    except Error as error:
        raise _invalid_response("the openings are not sealed") from error
    if type(row) is not bytes or len(row) < _SEAL_NONCE_BYTES + _TAG_BYTES:
        raise _invalid_response("the openings are not sealed")
    aead = ChaCha20Poly1305(_derive(response_key, enc, b"openings"))
    try:
        return aead.decrypt(row[:_SEAL_NONCE_BYTES], row[_SEAL_NONCE_BYTES:], inference_id)
    except InvalidTag as error:
        raise _invalid_response("the openings were changed, or are of another request") from error


def _derive(response_key: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, _DOMAIN + purpose).derive(response_key)


def _frame_nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")


def _pad(content: bytes) -> bytes:
    padded = _LENGTH.pack(len(content)) + content
    return padded + bytes(-len(padded) % PADDING_BYTES)


def _unpad(padded: bytes) -> bytes | None:
    if len(padded) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(padded)
    content = padded[_LENGTH.size : _LENGTH.size + length]
    return content if _pad(content) == padded else None


def _invalid_response(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.CONFIDENTIAL_RESPONSE_INVALID)
