"""The attestation of this server's signing key, and of single inferences.

At start the attester vouches for the key under which receipts are signed; that evidence is kept
and named by every receipt whose caller asked for it, and made anew before it is too old. A server
that was told to attest and cannot does not start: there is no warning and no weaker mode. Evidence
is on disk before a statement names it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from verispect.appraisal.policy import (
    ATTESTED,
    ATTESTED_DEVELOPMENT,
    ATTESTED_SECONDS,
    ATTESTED_SOFTWARE,
    AssurancePolicy,
)
from verispect.attesters.interface import AttestationEvidence, Attester
from verispect.core.encoding import Digest, decode, encode
from verispect.core.errors import AttesterError, Error, MalformedError, Reason, StoreError
from verispect.core.keys import KeyId
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import InferenceStatement
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.attested import FIELD_BYTES
from verispect.evidence.bindings.inference_v1 import INFERENCE_V1, inference_digest
from verispect.evidence.bindings.key_v1 import KEY_V1, KeyBinding
from verispect.models.blobs import write_atomically

RENEW_SECONDS: Final = ATTESTED_SECONDS // 4
"""The session's evidence is made anew when it is this old."""

ATTEST_SECONDS: Final = 60.0
"""How long a device, and whoever endorses its answer, may take."""

_WITH_NONCE_FIELD: Final = frozenset({"aws-nitro"})

MAX_NONCE_BYTES: Final = 64
MAX_ENTRY_BYTES: Final = 9 * 1024 * 1024

_POLICIES: Final[Mapping[EvidenceClass, AssurancePolicy]] = {
    EvidenceClass.HARDWARE: ATTESTED,
    EvidenceClass.SOFTWARE: ATTESTED_SOFTWARE,
    EvidenceClass.DEVELOPMENT: ATTESTED_DEVELOPMENT,
}


class KeyAttestation:
    """Attests one signing key with one attester.

    Args:
        attester: what vouches.
        evidence_class: what the operator runs; it decides only which preset is offered, never
            what a verifier finds.
        key_id: the key that signs receipts.
        directory: where evidence is kept.
        hpke_key_digest: of the key for encrypted requests, where there is one.

    Raises:
        StoreError: `store-failed`.
    """

    def __init__(
        self,
        attester: Attester,
        evidence_class: EvidenceClass,
        key_id: KeyId,
        directory: Path,
        *,
        hpke_key_digest: Digest | None = None,
    ) -> None:
        self.policy = _POLICIES[evidence_class]
        self.evidence_class = evidence_class
        self._attester = attester
        self._key_id = key_id
        self._epoch = _now()
        self._hpke_key_digest = hpke_key_digest
        self._directory = directory
        self._session: EvidenceEntry | None = None
        self._lock = asyncio.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise _failed(directory, error) from error

    async def session(self) -> EvidenceEntry:
        """Return the evidence of the key, made anew where it is too old.

        Raises:
            Error: where the attester cannot attest or the evidence cannot be kept.
        """
        async with self._lock:
            session = self._session
            if session is None or _now() - session.collected_at > RENEW_SECONDS * 1000:
                session = self._session = await self._make(KEY_V1.name, {}, None)
            return session

    async def fresh(self, nonce: bytes) -> EvidenceEntry:
        """Return evidence of the key that carries the caller's nonce.

        No statement names it, so it is not kept: callers could fill the disk with it.
        """
        return await self._make(KEY_V1.name, {"nonce": nonce}, nonce, keep=False)

    async def inference(self, subject: str, draft: InferenceStatement) -> EvidenceEntry:
        """Return evidence of one inference alone."""
        own = {"inference_digest": bytes(inference_digest(subject, draft))}
        return await self._make(INFERENCE_V1.name, {}, None, own=own)

    async def _ask(self, field: bytes, nonce: bytes | None) -> AttestationEvidence:
        # Where a technology has one field for both, the field commits to the nonce already.
        own = nonce if self._attester.technology in _WITH_NONCE_FIELD else None
        work = asyncio.to_thread(self._attester.attest, field, own)
        try:
            return await asyncio.wait_for(work, ATTEST_SECONDS)
        except TimeoutError as error:
            raise AttesterError(
                f"the attester did not answer in {ATTEST_SECONDS:.0f} s",
                reason=Reason.ATTESTER_UNAVAILABLE,
            ) from error

    async def _make(
        self,
        profile: str,
        members: Mapping[str, bytes],
        nonce: bytes | None,
        *,
        own: Mapping[str, bytes] | None = None,
        keep: bool = True,
    ) -> EvidenceEntry:
        bound = KeyBinding(self._key_id, self._epoch, hpke_key_digest=self._hpke_key_digest)
        binding = bound.members()
        binding.update(members)
        rule = KEY_V1 if profile == KEY_V1.name else INFERENCE_V1
        field = rule.recompute({**binding, **(own or {})}, FIELD_BYTES)
        evidence = await self._ask(field, nonce)
        collected_at = _now()
        del binding["receipt_key_id"]  # The verifier takes the receipt's own.
        files = decode(evidence.endorsements) if evidence.endorsements else {}
        entry = EvidenceEntry(
            kind=evidence.kind,
            profile=profile,
            collected_at=collected_at,
            body=evidence.body,
            endorsements=encode({"binding": binding, "files": files}),
        )
        if keep:
            path = self._path(entry.digest())
            await asyncio.to_thread(write_atomically, path, encode(entry.to_row()))
        return entry

    def find(self, digest: bytes) -> EvidenceEntry | None:
        """Return the evidence that a statement names by this digest, checked against it.

        Raises:
            StoreError: `store-failed` where it is damaged.
        """
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self._directory, error) from error
        try:
            entry = EvidenceEntry.from_row(decode(data, limit=MAX_ENTRY_BYTES))
        except MalformedError as error:
            raise _damaged() from error
        if entry.digest() != digest:
            raise _damaged()
        return entry

    def _path(self, digest: bytes) -> Path:
        return self._directory / f"{digest.hex()}.cbor"


def _now() -> int:
    return time.time_ns() // 1_000_000


def _failed(directory: Path, error: OSError) -> Error:
    return StoreError(f"cannot use {directory}: {error.strerror}", reason=Reason.STORE_FAILED)


def _damaged() -> Error:
    return StoreError("kept evidence is damaged", reason=Reason.STORE_FAILED)
