"""Encrypts a request to a gateway's key once attestation evidence vouches for that key.

Nothing of a request is encrypted, let alone sent, before the evidence was appraised under the
caller's own trusted root and policy (spec/confidential.md section 2). This module refuses policies
that need no attestation: their receipts could not show afterwards what was promised.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import CLOCK_SKEW_MILLISECONDS
from verispect.core.claims import Source
from verispect.core.confidential import (
    KEY_BYTES,
    SUITE,
    ConfidentialRequest,
    ResponseHead,
    ResponseOpener,
    encode_header,
    key_digest,
    open_openings,
    request_info,
)
from verispect.core.encoding import Digest, from_base64url, from_hex
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    RequestError,
    TrustError,
    UnsupportedError,
    VerificationError,
)
from verispect.core.keys import KeyId
from verispect.core.receipt import EvidenceEntry
from verispect.evidence.attested import FIELD_BYTES, KINDS, appraise_field, read_entry
from verispect.evidence.bindings.key_v1 import KEY_V1

MAX_ATTESTATION_BYTES: Final = 16 * 1024 * 1024
NONCE_BYTES: Final = 32

_BY_EVIDENCE: Final = frozenset({Source.HARDWARE, Source.PROVEN})


def requires_attestation(policy: AssurancePolicy) -> bool:
    """Tell whether some claim of a policy is met by attestation evidence, or a proof, only."""
    return bool(policy.needs_beyond(frozenset(Source) - _BY_EVIDENCE)) and not policy.is_empty()


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A gateway's key for confidential requests; evidence vouched for it."""

    raw: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class ConfidentialChannel:
    """Whose gateways may read what is encrypted.

    Raises:
        RequestError: `invalid-request` for a policy that needs no attestation.
    """

    trusted_root: TrustedRoot
    policy: AssurancePolicy
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Milliseconds since the epoch."""

    def __post_init__(self) -> None:
        if not requires_attestation(self.policy):
            raise RequestError(
                f"policy {self.policy.name} needs no attestation: choose an attested one",
                parameter="policy",
            )

    def check_key(self, document: bytes, nonce: bytes) -> GatewayKey:
        """Return the key that an answer of `/v1/attestation` vouches for.

        Args:
            document: the answer.
            nonce: what was sent with the question.

        Raises:
            VerificationError: the evidence is not good, not of this key or not fresh.
            TrustError: the trusted root is empty or stale.
            UnsupportedError: the evidence is of a kind that is not known here.
            MalformedError: the answer is none.
        """
        now = self.clock()
        key_id, public_key, entry = _read_document(document)
        self._check_issuer(key_id, now)
        if entry.kind not in KINDS or entry.profile != KEY_V1.name:
            raise UnsupportedError(
                "the gateway's evidence is of an unknown kind or profile",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        files, members = read_entry(entry)
        digest = key_digest(public_key)
        if members.get("hpke_key_digest") != digest:
            raise _unbound("the evidence is not of the key that the gateway offers")
        if members.get("nonce") != nonce:
            raise VerificationError(
                "the evidence does not carry the nonce sent",
                reason=Reason.ATTESTATION_NONCE_MISMATCH,
            )
        if "receipt_key_id" in members:
            raise _unbound("the binding claims the signing key")
        field = KEY_V1.recompute({**members, "receipt_key_id": bytes(key_id)}, FIELD_BYTES)
        appraisal = appraise_field(
            entry.kind,
            files,
            field,
            anchors=self.trusted_root,
            policy=self.policy.attestation,
            # The nonce shows that it is fresh; a clock a little ahead must not make it too new.
            at=min(max(now, entry.collected_at), now + CLOCK_SKEW_MILLISECONDS),
        )
        if not appraisal.acceptable:
            failed = next((c for c in appraisal.checks if c.reason is appraisal.reason), None)
            raise VerificationError(
                failed.detail if failed else "the evidence is not acceptable",
                reason=appraisal.reason or Reason.EVIDENCE_INVALID,
            )
        return GatewayKey(public_key, digest)

    def _check_issuer(self, key_id: KeyId, now: int) -> None:
        root = self.trusted_root
        if not root.issuer_keys:
            raise TrustError(
                "the trusted root lists no issuer key", reason=Reason.TRUSTED_ROOT_EMPTY
            )
        if root.expires_at is not None and now >= root.expires_at:
            raise TrustError("the trusted root has expired", reason=Reason.TRUSTED_ROOT_STALE)
        key = root.issuer_key(key_id)
        if key is None:
            raise _refused("the trusted root does not list the signing key", Reason.KEY_UNKNOWN)
        if key.revoked_at is not None:
            raise _refused("the signing key is revoked", Reason.KEY_REVOKED)
        if now < key.not_before:
            raise _refused("the signing key is not yet valid", Reason.KEY_NOT_YET_VALID)
        if key.not_after is not None and now >= key.not_after:
            raise _refused("the signing key has expired", Reason.KEY_EXPIRED)
        if key.development and not self.policy.development_keys:
            raise _refused("the signing key is for development", Reason.DEVELOPMENT_KEY)


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request that only the holder of the attested key can read, and how to read its answer."""

    body: bytes
    key_digest: Digest
    enc: bytes
    response_key: bytes

    def __repr__(self) -> str:
        return "SealedRequest()"  # The response key belongs into no log.

    def open_answer(self, pieces: Iterable[bytes]) -> tuple[ResponseHead, Iterator[bytes]]:
        """Return the head of the answer, and its body as it arrives.

        Raises:
            VerificationError: `confidential-response-invalid`, also while the body is read.
        """
        frames = self._frames(pieces)
        return ResponseHead.decode(next(frames, b"")), frames

    def _frames(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        opener = ResponseOpener(self.response_key, self.enc)
        for piece in pieces:
            yield from opener.feed(piece)
        opener.finish()

    def open_openings(self, sealed: bytes, inference: str) -> bytes:
        """Return the openings of this request's inference.

        Raises:
            VerificationError: `confidential-response-invalid`.
        """
        return open_openings(
            sealed,
            response_key=self.response_key,
            enc=self.enc,
            inference_id=bytes.fromhex(inference),
        )


def seal_request(
    key: GatewayKey, path: str, body: bytes, headers: Mapping[str, str], *, now: int
) -> SealedRequest:
    """Encrypt a request for `POST path`.

    Args:
        key: whose evidence was checked.
        path: where it will be sent, and nowhere else.
        body: as it would be in the clear.
        headers: ours; they go inside.
        now: milliseconds since the epoch.
    """
    response_key = os.urandom(KEY_BYTES)
    header = encode_header(key.digest)
    plaintext = ConfidentialRequest(body, headers, now, response_key).encode()
    try:
        public_key = X25519PublicKey.from_public_bytes(key.raw)
        sealed = SUITE.encrypt(plaintext, public_key, request_info("POST", path, header))
    except ValueError as error:
        raise VerificationError(
            "the gateway's key is no X25519 key", reason=Reason.EVIDENCE_INVALID
        ) from error
    return SealedRequest(header + sealed, key.digest, sealed[:KEY_BYTES], response_key)


def _read_document(data: bytes) -> tuple[KeyId, bytes, EvidenceEntry]:
    try:
        document: Any = json.loads(data.decode())
        texts = {name: document[name] for name in ("kind", "profile", "keyId", "hpkeKey")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise _no_evidence()
        entry = EvidenceEntry.from_row(
            [
                texts["kind"],
                texts["profile"],
                document["collectedAt"],
                from_base64url(document["body"]),
                from_base64url(document["endorsements"]),
            ]
        )
        public_key = from_base64url(texts["hpkeKey"])
        key_id = KeyId(from_hex(texts["keyId"], length=32))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Error) as error:
        raise _no_evidence() from error
    if len(public_key) != KEY_BYTES:
        raise _no_evidence()
    return key_id, public_key, entry


def _no_evidence() -> MalformedError:
    return MalformedError(
        "the gateway's attestation is not of the form that vouches for a key",
        reason=Reason.MALFORMED_EVIDENCE,
    )


def _refused(what: str, reason: Reason) -> VerificationError:
    return VerificationError(what, reason=reason)


def _unbound(what: str) -> VerificationError:
    return _refused(what, Reason.ATTESTATION_BINDING_INVALID)
