"""The evidence that a gateway makes after its answers, as the log asks for it.

So far that is proofs: each is read from the queue once its job is done. This module makes nothing,
and refuses evidence that was finished after its deadline: a job that is late stays late.
"""

from __future__ import annotations

from pathlib import Path

from verispect.core.receipt import EvidenceEntry
from verispect.gateway.proving import read_entry
from verispect.ledger.proof_jobs import JobState, ProofJobs


class FinishedProofs:
    """The proofs of one queue, as a `LateEvidenceSource`.

    Args:
        database: the queue; where there is none, nothing is promised and nothing found.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._jobs: ProofJobs | None = None

    def find(self, inference: str) -> EvidenceEntry | None:
        """Return the proof of an inference, once it was made in time.

        Raises:
            StoreError: `store-failed`, `store-locked`.
            MalformedError: `malformed-evidence`, `malformed-cbor` where the queue is damaged.
        """
        if self._jobs is None:
            if not self._database.exists():
                return None
            self._jobs = ProofJobs(self._database)
        job = self._jobs.find(bytes.fromhex(inference))
        return read_entry(job) if job is not None and job.state is JobState.DONE else None
