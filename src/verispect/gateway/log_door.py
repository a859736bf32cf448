"""The log as one gateway process serves it: checkpoint, tiles, proofs, evidence, submissions.

All work happens on a thread of its own with connections of its own, so that neither the event loop
nor the path of an answer waits for it. The appender is elsewhere (`ledger.log.operation`): this
module integrates nothing, and refuses to hold the log's private key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, RequestError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence
from verispect.evidence.log_inclusion import make_log_evidence
from verispect.evidence.log_trust import LogTrust
from verispect.ledger.log.appender import with_cosignatures
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.interface import DESCRIPTION_PATH
from verispect.ledger.log.proofs import Proofs
from verispect.ledger.log.submission import Parties, Submissions
from verispect.tlog.cosignature import WitnessPolicy
from verispect.tlog.status import LOG_KIND, VERDICTS_KIND
from verispect.tlog.tiles import parse_path
from verispect.tlog.tlog_proof import TlogProof

LOG_PROMISE_MILLISECONDS: Final = 60_000
"""Until when a receipt that promises it is in a tree that enough witnesses co-signed."""
VERDICTS_PROMISE_MILLISECONDS: Final = 3_600_000
MAX_CHECKPOINTS_TRIED: Final = 256
"""Between a leaf and the first checkpoint with enough cosignatures."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What an operator decided about its log."""

    folder: LogFolder
    parties: Parties
    witnesses: WitnessPolicy
    development: bool = False
    """Whether the log's key is for development only."""

    def trust(self) -> LogTrust:
        """Return what a reader would list who decides to trust this log and whom it names."""
        return LogTrust([self.folder.trusted], self.witnesses, self.parties.auditors)


class LogDoor:
    """Serves one log. Its methods without `async` run on the door's own thread only."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="log-door")
        self._state = settings.folder.open_state()
        tiles = settings.folder.tiles
        origin, key = settings.folder.origin, settings.folder.key.key
        self._proofs = Proofs(self._state, tiles, origin=origin, key=key)
        evidence = EvidenceStore(tiles, self._state)
        self._evidence = evidence
        self.submissions = Submissions(
            self._state,
            evidence,
            log=settings.folder.trusted,
            parties=settings.parties,
            clock=lambda: time.time_ns() // 1_000_000,
        )

    @property
    def settings(self) -> LogSettings:
        """What the operator decided."""
        return self._settings

    def promises(self, word: str, *, now: int) -> tuple[PromisedEvidence, ...]:
        """Return the evidence that an inference of assurance `word` promises for later."""
        promised = [PromisedEvidence(LOG_KIND, None, now + LOG_PROMISE_MILLISECONDS)]
        if word == "audited":
            due = now + VERDICTS_PROMISE_MILLISECONDS
            promised.append(PromisedEvidence(VERDICTS_KIND, None, due))
        return tuple(promised)

    async def do(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` on the door's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def has_leaf(self, leaf: Digest) -> bool:
        """Tell whether a leaf, by its hash, has its place in the log for ever.

        Raises:
            StoreError: `store-failed`.
        """
        return self._state.find([leaf])[0] is not None

    def checkpoint(self) -> bytes:
        """Return the latest checkpoint with the cosignatures that there are.

        Raises:
            RequestError: `leaf-pending` where the log has not begun.
            StoreError: `store-failed`.
        """
        record = self._state.checkpoint()
        if record is None:
            raise RequestError("the log has not begun", reason=Reason.LEAF_PENDING)
        return with_cosignatures(self._state, record).encode()

    def description(self) -> bytes | None:
        """Return what the log says of itself."""
        return self._settings.folder.tiles.get(DESCRIPTION_PATH)

    def tile(self, path: str) -> bytes | None:
        """Return a tile or a bundle of entries.

        Raises:
            MalformedError: `malformed-tile` for another path.
        """
        parse_path(path)
        return self._settings.folder.tiles.get(path)

    def evidence(self, digest: Digest) -> bytes | None:
        """Return bytes of evidence by their digest.

        Raises:
            StoreError: `store-failed`, also where they were changed.
        """
        return self._evidence.get(digest)

    def proof(self, receipt: Digest) -> TlogProof:
        """Return the proof in the first tree that enough witnesses co-signed, else the latest.

        Raises:
            RequestError: `receipt-not-found`, `leaf-pending`.
            StoreError: `store-failed`.
        """
        size = self._cosigned_size(receipt)
        return self._proofs.inclusion(receipt, at_least=size)

    def cose_receipt(self, receipt: Digest) -> bytes:
        """Return the same proof as a COSE receipt.

        Raises:
            RequestError: `receipt-not-found`, `leaf-pending`.
            StoreError: `store-failed`.
        """
        size = self._cosigned_size(receipt)
        return self._proofs.cose_receipt(receipt, at_least=size).encode()

    def _cosigned_size(self, receipt: Digest) -> int:
        index = self._proofs.index_of(receipt)
        policy = self._settings.witnesses
        size = index + 1
        for _ in range(MAX_CHECKPOINTS_TRIED):
            record = self._state.checkpoint(at_least=size)
            if record is None:
                break
            if len(self._state.cosignatures(record.size)) >= policy.threshold:
                return record.size
            size = record.size + 1
        latest = self._state.checkpoint()
        return 0 if latest is None else latest.size

    def attached(self, receipt: InferenceReceipt) -> list[EvidenceEntry]:
        """Return what there is of the evidence that a receipt promised for later.

        Raises:
            StoreError: `store-failed`.
        """
        digest = receipt.receipt_id
        kinds = {each.kind for each in receipt.unverified_statement.evidence if each.due_at}
        entries = [each for each in self.submissions.evidence_of(digest) if each.kind in kinds]
        if LOG_KIND in kinds:
            try:
                index = self._proofs.index_of(digest)
                proof = self.proof(digest)
                size = proof.checkpoint.unverified.size
                record = self._state.checkpoint(at_least=size)
                assert record is not None
                # With too few witnesses it would refuse the receipt; until more of them sign, the
                # promise is open.
                signed = len(self._state.cosignatures(record.size))
                if signed >= self._settings.witnesses.threshold:
                    leaf = self._proofs.leaf(index)
                    at = record.integrated_at
                    entries.append(make_log_evidence(leaf, proof, collected_at=at))
            except RequestError:
                pass  # Not in a tree yet: the promise is open.
        return entries

    async def attach(self, data: bytes) -> bytes:
        """Return a receipt with the evidence that it promised for later, as far as it is here.

        What is attached already is not attached again.
        """
        receipt = InferenceReceipt.parse(data)
        here = {entry.digest() for entry in receipt.evidence}
        later = await self.do(lambda: self.attached(receipt))
        new = [entry.to_row() for entry in later if entry.digest() not in here]
        return replace(receipt.envelope, evidence=(*receipt.envelope.evidence, *new)).encode()

    def close(self) -> None:
        """End the thread and let go of the database."""
        self._pool.shutdown()
        self._state.close()
