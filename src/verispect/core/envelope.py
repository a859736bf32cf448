"""The envelope: COSE_Sign1 (RFC 9052 section 4.2) with CWT claims (RFC 9597), Ed25519.

Sign and open the exact bytes. The protected header holds algorithm, content type, key
identifier, issuer and subject and nothing else; the unprotected header is empty or holds the
evidence that travels with the statement. Everything is deterministic CBOR, so one envelope has
one form, except for the algorithm: we write -8 (EdDSA) and read -19 (Ed25519, RFC 9864) too. An
issuer of very many statements may sign a batch of them at once (`verispect.core.batch`).

`open_envelope` believes nothing: the signature is checked by `SignedEnvelope.verify` with a key
that the caller already trusts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from verispect.core.batch import (
    BATCH_ALGORITHM,
    has_batch_form,
    sign_batch_messages,
    verify_batch_signature,
)
from verispect.core.encoding import DIGEST_BYTES, Digest, byte_string, decode, encode, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.core.keys import SIGNATURE_BYTES, KeyId, PublicKey, Signer

STATEMENT_TYPE: Final = "application/verispect-statement+cbor"
STREAM_TYPE: Final = "application/verispect-stream+cbor"
"""An interim signature over the chunks of a stream that were sent so far."""

MAX_ENVELOPE_BYTES: Final = 16 * 1024 * 1024
MAX_ENVELOPE_ITEMS: Final = 256
"""More than four fields and the largest number of evidence entries need."""

MAX_EVIDENCE_ENTRIES: Final = 32
MAX_ISSUER_CHARACTERS: Final = 128
MAX_SUBJECT_CHARACTERS: Final = 64

EVIDENCE_LABEL: Final = -70001
"""Our unprotected header parameter, in the private-use range of RFC 9052 section 3.1."""

_ALGORITHM, _CRITICAL, _CONTENT_TYPE, _KEY_ID, _CWT_CLAIMS = 1, 2, 3, 4, 15
_ISSUER, _SUBJECT = 1, 2
_EDDSA, _ED25519 = -8, -19
_SIGN1_TAG: Final = b"\xd2"
_SIGN1_START: Final = _SIGN1_TAG + b"\x84"
_SIGNATURE_CONTEXT: Final = b"\x84\x6aSignature1"
_SIGN1_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class SignedEnvelope:
    """A parsed COSE_Sign1: untrusted until `verify`."""

    content_type: str
    key_id: KeyId
    issuer: str
    subject: str
    payload: bytes
    signature: bytes
    protected: bytes
    """The protected header as it was signed."""
    evidence: Sequence[Any] = ()
    """The unprotected evidence entries, not yet parsed."""

    def encode(self) -> bytes:
        """Return the tagged COSE_Sign1."""
        unprotected = encode({EVIDENCE_LABEL: list(self.evidence)}) if self.evidence else b"\xa0"
        return (
            _SIGN1_START
            + byte_string(self.protected)
            + unprotected
            + byte_string(self.payload)
            + byte_string(self.signature)
        )

    def digest(self) -> Digest:
        """Return the SHA-256 of this envelope without evidence: the identity of what was signed."""
        bare = replace(self, evidence=()) if self.evidence else self
        return sha256(bare.encode())

    def verify(self, key: PublicKey) -> None:
        """Check the signature with `key`.

        Raises:
            VerificationError: `signature-invalid`.
        """
        message = signed_bytes(self.protected, self.payload)
        if len(self.signature) == SIGNATURE_BYTES:
            key.verify(message, self.signature)
        else:
            verify_batch_signature(message, self.signature, key)


def signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """Return the `Sig_structure` of RFC 9052 section 4.4, without external data."""
    return _SIGNATURE_CONTEXT + byte_string(protected) + b"\x40" + byte_string(payload)


def sign_envelope(
    payload: bytes, *, content_type: str, issuer: str, subject: str, signer: Signer
) -> SignedEnvelope:
    """Sign `payload`.

    Args:
        payload: deterministic CBOR.
        content_type: what the payload is; part of what is signed.
        issuer: the CWT `iss` claim, the name under which a trusted root lists the key.
        subject: the CWT `sub` claim, the inference that the payload speaks of.
        signer: holder of the private key.
    """
    key_id = signer.public_key.key_id
    protected = encode_protected(content_type, key_id, issuer, subject)
    signature = signer.sign(signed_bytes(protected, payload))
    return SignedEnvelope(content_type, key_id, issuer, subject, payload, signature, protected)


def sign_envelopes(
    payloads: Sequence[tuple[bytes, str]], *, content_type: str, issuer: str, signer: Signer
) -> list[SignedEnvelope]:
    """Sign many payloads with one signature (`verispect.core.batch`).

    Args:
        payloads: each payload, deterministic CBOR, with its subject.
        content_type: what the payloads are.
        issuer: the CWT `iss` claim.
        signer: holder of the private key.

    Raises:
        ValueError: for none, or more than `MAX_BATCH_STATEMENTS`.
    """
    key_id = signer.public_key.key_id
    headers = [
        _protected_start(content_type, key_id, issuer, BATCH_ALGORITHM) + encode(subject)
        for _, subject in payloads
    ]
    messages = [
        signed_bytes(protected, payload)
        for protected, (payload, _) in zip(headers, payloads, strict=True)
    ]
    return [
        SignedEnvelope(content_type, key_id, issuer, subject, payload, signature, protected)
        for protected, (payload, subject), signature in zip(
            headers, payloads, sign_batch_messages(messages, signer), strict=True
        )
    ]


def encode_protected(content_type: str, key_id: KeyId, issuer: str, subject: str) -> bytes:
    """Return the protected header."""
    return _protected_start(content_type, key_id, issuer, _EDDSA) + encode(subject)


@lru_cache(maxsize=64)
def _protected_start(content_type: str, key_id: KeyId, issuer: str, algorithm: int) -> bytes:
    """Return the header up to its last item, the subject: the same for all of an issuer's."""
    header = {
        _ALGORITHM: algorithm,
        _CONTENT_TYPE: content_type,
        _KEY_ID: key_id,
        _CWT_CLAIMS: {_ISSUER: issuer, _SUBJECT: ""},
    }
    return encode(header)[:-1]  # Without the empty text.


def open_envelope(data: bytes, *, content_type: str) -> SignedEnvelope:
    """Parse a tagged COSE_Sign1 whose content type is `content_type`.

    Raises:
        MalformedError: `malformed-envelope`, `malformed-cbor`, `too-large` or `too-deep`.
        UnsupportedError: `unsupported-algorithm` or `unsupported-critical-field`.
    """
    if data[:1] != _SIGN1_TAG:
        raise _malformed("not a tagged COSE_Sign1")
    fields = decode(data[1:], limit=MAX_ENVELOPE_BYTES, maximum_items=MAX_ENVELOPE_ITEMS)
    if type(fields) is not list or len(fields) != _SIGN1_FIELDS:
        raise _malformed("COSE_Sign1 is not an array of four")
    protected, unprotected, payload, signature = fields
    if type(protected) is not bytes or type(payload) is not bytes or type(signature) is not bytes:
        raise _malformed("protected header, payload and signature must be byte strings")
    header = _parse_protected(protected)
    is_single = len(signature) == SIGNATURE_BYTES
    if not (has_batch_form(signature) if header[_ALGORITHM] == BATCH_ALGORITHM else is_single):
        raise _malformed("the signature has the wrong length")
    if header[_CONTENT_TYPE] != content_type:
        raise _malformed(f"expected content type {content_type}")
    claims = header[_CWT_CLAIMS]
    return SignedEnvelope(
        content_type=content_type,
        key_id=KeyId(header[_KEY_ID]),
        issuer=claims[_ISSUER],
        subject=claims[_SUBJECT],
        payload=payload,
        signature=signature,
        protected=protected,
        evidence=_parse_unprotected(unprotected),
    )


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_ENVELOPE)


def _parse_protected(protected: bytes) -> dict[int, Any]:
    header = decode(protected, limit=1024)
    if type(header) is not dict:
        raise _malformed("protected header is not a map")
    if _CRITICAL in header:
        raise UnsupportedError(
            "no critical header parameter is known", reason=Reason.UNSUPPORTED_CRITICAL_FIELD
        )
    if header.keys() != {_ALGORITHM, _CONTENT_TYPE, _KEY_ID, _CWT_CLAIMS}:
        raise _malformed("a protected header parameter is missing or unknown")
    if header[_ALGORITHM] not in (_EDDSA, _ED25519, BATCH_ALGORITHM):
        raise UnsupportedError(
            f"expected algorithm -8 or -19 (Ed25519), or {BATCH_ALGORITHM} (batch)",
            reason=Reason.UNSUPPORTED_ALGORITHM,
        )
    key_id, claims = header[_KEY_ID], header[_CWT_CLAIMS]
    if type(key_id) is not bytes or len(key_id) != DIGEST_BYTES:
        raise _malformed("key identifier is not a thumbprint of 32 bytes")
    if type(claims) is not dict or claims.keys() != {_ISSUER, _SUBJECT}:
        raise _malformed("CWT claims are not issuer and subject")
    for claim, limit in ((_ISSUER, MAX_ISSUER_CHARACTERS), (_SUBJECT, MAX_SUBJECT_CHARACTERS)):
        text = claims[claim]
        # Printable, because names are shown: one with control characters could forge a line.
        if type(text) is not str or not 0 < len(text) <= limit or not text.isprintable():
            raise _malformed(f"a CWT claim is not printable text of 1 to {limit} characters")
    return header


def _parse_unprotected(unprotected: Any) -> tuple[Any, ...]:
    if type(unprotected) is not dict:
        raise _malformed("unprotected header is not a map")
    if not unprotected:
        return ()
    entries = unprotected.get(EVIDENCE_LABEL)
    if unprotected.keys() != {EVIDENCE_LABEL} or type(entries) is not list or not entries:
        raise _malformed("unprotected header holds something other than evidence")
    if len(entries) > MAX_EVIDENCE_ENTRIES:
        raise _malformed(f"expected at most {MAX_EVIDENCE_ENTRIES} evidence entries")
    return tuple(entries)
