"""Credential activation: the proof that an attestation key lives beside an endorsement key.

A verifier hides a secret so that only the TPM with the endorsement key can find it, and only if
it also holds a key of the stated name (TPM 2.0 part 1, section 24). Whoever returns the secret
has shown both. It is a conversation: its outcome is known to the verifier that held it, and
nobody else can believe a record of it. `anchor_for_activated_key` therefore makes an anchor of
that verifier's own, of the class of the root above the endorsement certificate.

The randomness that protects the secret is an argument. This module refuses keys that may leave
their TPM, and attestation keys that sign what they are given from outside.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256 as _hash
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.attestation import Anchor
from verispect.evidence.tpm.certificates import verify_endorsement_certificates
from verispect.evidence.tpm.structures import (
    ALG_SHA256,
    ATTESTATION_KEY_ATTRIBUTES,
    DECRYPT,
    ENDORSEMENT_KEY_ATTRIBUTES,
    SIGN,
    PublicArea,
    PublicKey,
)

TECHNOLOGY: Final = "tpm2-quote"
SECRET_BYTES: Final = 32
SEED_BYTES: Final = 32

_IDENTITY: Final = b"IDENTITY\0"
_STORAGE: Final = b"STORAGE\0"
_INTEGRITY: Final = b"INTEGRITY\0"
_AES_BITS: Final = (128, 192, 256)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the TPM needs to find the secret: the contents of two `TPM2B` structures."""

    identity_object: bytes
    """Of the `TPM2B_ID_OBJECT`."""
    encrypted_secret: bytes
    """Of the `TPM2B_ENCRYPTED_SECRET`."""


def make_credential(
    endorsement_key: PublicArea, attestation_key_name: bytes, *, secret: bytes, seed: bytes
) -> Credential:
    """Hide `secret` for the TPM that holds both keys (the command `TPM2_MakeCredential`).

    Args:
        endorsement_key: the storage key whose TPM is asked.
        attestation_key_name: the name of the key that must be loaded beside it.
        secret: 1 to 32 random bytes that the verifier keeps.
        seed: 32 random bytes, never used twice.

    Raises:
        UnsupportedError: `unsupported-algorithm` for keys outside the TCG's default templates.
        MalformedError: `malformed-key` for a secret or seed of another length.
    """
    if not 1 <= len(secret) <= SECRET_BYTES or len(seed) != SEED_BYTES:
        raise MalformedError(
            f"expected a secret of 1 to {SECRET_BYTES} bytes and a seed of {SEED_BYTES}",
            reason=Reason.MALFORMED_KEY,
        )
    if endorsement_key.name_algorithm != ALG_SHA256 or (
        endorsement_key.symmetric_bits not in _AES_BITS
    ):
        raise UnsupportedError(
            "expected an endorsement key of SHA-256 and AES", reason=Reason.UNSUPPORTED_ALGORITHM
        )
    if isinstance(endorsement_key.key, RSAPublicKey):
        # The padding's own randomness comes from the library.
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), _IDENTITY)
        encrypted_secret = endorsement_key.key.encrypt(seed, oaep)
    else:
        seed, encrypted_secret = _agree(endorsement_key.key, seed)
    bits = endorsement_key.symmetric_bits
    storage_key = _kdfa(seed, _STORAGE, attestation_key_name, bits)
    encryptor = Cipher(algorithms.AES(storage_key), CFB(bytes(16))).encryptor()
    hidden = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity_key = _kdfa(seed, _INTEGRITY, b"", 256)
    integrity = hmac.digest(integrity_key, hidden + attestation_key_name, "sha256")
    return Credential(_sized(integrity) + hidden, encrypted_secret)


def anchor_for_activated_key(
    *,
    attestation_key: PublicArea,
    endorsement_key: PublicArea,
    endorsement_path: Sequence[bytes],
    secret: bytes,
    returned: bytes,
    anchors: Sequence[Anchor],
    at: int,
) -> Anchor:
    """Return the anchor for an attestation key whose activation this verifier has just seen.

    Args:
        attestation_key: the key whose name the credential was made for.
        endorsement_key: the key that the credential was made for.
        endorsement_path: its certificate and the issuers', DER, leaf first, root last.
        secret: what was hidden.
        returned: what the TPM gave back.
        anchors: roots that are trusted for TPMs.
        at: the time of judgement, milliseconds since the epoch.

    Raises:
        VerificationError: `attestation-binding-invalid` where the secret or a key differs,
            `attestation-attributes` where a key may leave its TPM or sign from outside, and the
            reasons of the path.
        MalformedError: for a path that is none.
        UnsupportedError: `unsupported-algorithm`.
    """
    if not hmac.compare_digest(secret, returned) or not secret:
        raise _unbound("the TPM did not find the secret")
    check_attestation_attributes(attestation_key)
    if endorsement_key.attributes & (ENDORSEMENT_KEY_ATTRIBUTES | SIGN) != (
        ENDORSEMENT_KEY_ATTRIBUTES
    ):
        raise VerificationError(
            "the endorsement key is not a storage key of one TPM",
            reason=Reason.ATTESTATION_ATTRIBUTES,
        )
    anchor, leaf = verify_endorsement_certificates(
        endorsement_path, anchors=anchors, technology=TECHNOLOGY, at=at
    )
    if sha256(public_key_info(endorsement_key.key)) != leaf.key_digest:
        raise _unbound("the certificate is of another endorsement key")
    return Anchor(
        technology=TECHNOLOGY,
        key_digest=sha256(public_key_info(attestation_key.key)),
        evidence_class=anchor.evidence_class,
        label=f"attestation key activated beside an endorsement key of {anchor.label}",
    )


def check_attestation_attributes(area: PublicArea) -> None:
    """Check that a key signs only what its TPM made, and never leaves it.

    Raises:
        VerificationError: `attestation-attributes`.
    """
    if area.attributes & (ATTESTATION_KEY_ATTRIBUTES | DECRYPT) != ATTESTATION_KEY_ATTRIBUTES:
        raise VerificationError(
            "the key is not a restricted signing key that stays in its TPM",
            reason=Reason.ATTESTATION_ATTRIBUTES,
        )


def public_key_info(key: PublicKey) -> bytes:
    """Return the DER `SubjectPublicKeyInfo` of a key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _agree(key: ec.EllipticCurvePublicKey, seed: bytes) -> tuple[bytes, bytes]:
    """Return the agreed seed and the ephemeral point (part 1, section C.6.1)."""
    if not isinstance(key.curve, ec.SECP256R1):
        raise UnsupportedError("expected a key on P-256", reason=Reason.UNSUPPORTED_ALGORITHM)
    scalar = int.from_bytes(seed, "big") % (key.curve.group_order - 1) + 1
    ephemeral = ec.derive_private_key(scalar, key.curve)
    numbers = ephemeral.public_key().public_numbers()
    x, y = (number.to_bytes(32, "big") for number in (numbers.x, numbers.y))
    theirs = key.public_numbers().x.to_bytes(32, "big")
    shared = ephemeral.exchange(ec.ECDH(), key)
    # KDFe, part 1 section 11.4.10.3; one block is enough for 256 bits.
    agreed = _hash((1).to_bytes(4, "big") + shared + _IDENTITY + x + theirs).digest()
    return agreed, _sized(x) + _sized(y)


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa, part 1 section 11.4.10.2; one block is enough for 256 bits."""
    message = (1).to_bytes(4, "big") + label + context + bits.to_bytes(4, "big")
    return hmac.digest(key, message, "sha256")[: bits // 8]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _unbound(detail: str) -> VerificationError:
    return VerificationError(detail, reason=Reason.ATTESTATION_BINDING_INVALID)
