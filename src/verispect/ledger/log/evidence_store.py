"""Evidence by its digest: large bytes that stay outside the log, in any `TileStore`.

What is stored under an entry's digest is what the digest covers: kind, profile, time and body.
Endorsements, which the digest leaves out, are stored under their own. What is read is hashed
again: a blob that was changed is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from verispect.core.encoding import Digest, decode, encode, sha256
from verispect.core.errors import MalformedError, Reason, StoreError
from verispect.core.receipt import MAX_EVIDENCE_BYTES, EvidenceEntry
from verispect.ledger.log.interface import EvidenceRecord, LogState, TileStore
from verispect.tlog.leaf import LateEvidenceLeaf

MAX_BLOB_BYTES: Final = MAX_EVIDENCE_BYTES + 1024
"""A body and what stands before it."""


def evidence_path(digest: bytes) -> str:
    """Return the path of a blob."""
    text = digest.hex()
    return f"evidence/{text[:2]}/{text[2:]}"


class EvidenceStore:
    """The blobs of one log's evidence.

    Args:
        tiles: where the blobs lie.
        state: registers what arrived for which receipt.
    """

    def __init__(self, tiles: TileStore, state: LogState) -> None:
        self._tiles = tiles
        self._state = state

    def put(self, blob: bytes) -> Digest:
        """Store bytes under their digest; durable on return.

        Raises:
            MalformedError: `too-large`.
            StoreError: `store-failed`.
        """
        if len(blob) > MAX_BLOB_BYTES:
            raise MalformedError(
                f"expected evidence of at most {MAX_BLOB_BYTES} bytes", reason=Reason.TOO_LARGE
            )
        digest = sha256(blob)
        self._tiles.put([(evidence_path(digest), blob)])
        return digest

    def get(self, digest: Digest) -> bytes | None:
        """Return the bytes with this digest, or `None`.

        Raises:
            StoreError: `store-failed`, also where the bytes were changed.
        """
        blob = self._tiles.get(evidence_path(digest))
        if blob is not None and sha256(blob) != digest:
            raise StoreError("stored evidence was changed", reason=Reason.STORE_FAILED)
        return blob

    def deliver(
        self, receipt: Digest, entry: EvidenceEntry, *, clock: Callable[[], int]
    ) -> LateEvidenceLeaf:
        """Keep evidence that arrived for a receipt, and return the leaf that says so.

        The leaf is not in the log yet; a delivery that is repeated gives the same leaf.

        Args:
            receipt: the receipt's digest.
            entry: the evidence.
            clock: milliseconds since the epoch.

        Raises:
            MalformedError: `too-large`.
            StoreError: `store-failed`.
        """
        digest = self.put(encode(entry.to_row()[:-1]))
        endorsements = self.put(entry.endorsements) if entry.endorsements else None
        record = EvidenceRecord(receipt, entry.kind, digest, endorsements, len(entry.body), clock())
        self._state.register_evidence(record)
        for known in self._state.evidence_of(receipt):
            if known.evidence == digest:
                record = known
        return LateEvidenceLeaf(receipt, record.kind, digest, record.size, record.delivered_at)

    def entries_of(self, receipt: Digest) -> list[EvidenceEntry]:
        """Return the evidence that arrived for a receipt, in that order.

        Raises:
            StoreError: `store-failed`, also where a blob is gone or was changed.
        """
        return [self._entry(record) for record in self._state.evidence_of(receipt)]

    def _entry(self, record: EvidenceRecord) -> EvidenceEntry:
        blob = self.get(record.evidence)
        endorsements = b"" if record.endorsements is None else self.get(record.endorsements)
        if blob is None or endorsements is None:
            raise StoreError("registered evidence is missing", reason=Reason.STORE_FAILED)
        row: list[Any] = decode(blob, limit=MAX_BLOB_BYTES)
        return EvidenceEntry.from_row([*row, endorsements])
