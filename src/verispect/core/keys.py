"""Ed25519 public keys, their identifiers, and the protocol of a signer.

A key identifier is the COSE Key Thumbprint (RFC 9679, SHA-256) of the public key, so that any
COSE library computes the same one. Verification is libsodium's: it refuses non-canonical
signatures and keys of small order. This module holds no private key and makes none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NewType, Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError, CryptoError

from verispect.core.encoding import from_base64url, sha256, to_base64url
from verispect.core.errors import MalformedError, Reason, VerificationError

KeyId = NewType("KeyId", bytes)
"""COSE Key Thumbprint, 32 bytes."""

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# {1: 1 (OKP), -1: 6 (Ed25519), -2: x}: RFC 9679 section 3 wants the required parameters only, in
# deterministic order.
_COSE_KEY_PREFIX: Final = bytes.fromhex("a30101200621 5820")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key (RFC 8032).

    Raises:
        MalformedError: `malformed-key` unless `raw` is 32 bytes.
    """

    raw: bytes
    key_id: KeyId = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise MalformedError(
                f"expected a public key of {PUBLIC_KEY_BYTES} bytes, got {len(self.raw)}",
                reason=Reason.MALFORMED_KEY,
            )
        object.__setattr__(self, "key_id", KeyId(sha256(_COSE_KEY_PREFIX + self.raw)))

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read the base64url form.

        Raises:
            MalformedError: `malformed-key`.
        """
        try:
            return cls(from_base64url(text, limit=PUBLIC_KEY_BYTES))
        except MalformedError as error:
            raise MalformedError(error.message, reason=Reason.MALFORMED_KEY) from error

    def to_text(self) -> str:
        """Return the base64url form."""
        return to_base64url(self.raw)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check `signature` over `message`.

        Raises:
            VerificationError: `signature-invalid`.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise VerificationError(
                f"expected a signature of {SIGNATURE_BYTES} bytes, got {len(signature)}",
                reason=Reason.SIGNATURE_INVALID,
            )
        try:
            crypto_sign_open(signature + message, self.raw)
        except (BadSignatureError, CryptoError) as error:
            raise VerificationError(
                "signature does not match", reason=Reason.SIGNATURE_INVALID
            ) from error


class Signer(Protocol):
    """Whoever holds the private key: a file, a device, an enclave."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` returns."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over `message`."""
        ...
