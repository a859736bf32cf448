"""Promised proofs: from a request that requires one to the evidence on its receipt.

The job is on disk before the receipt that promises it; a process of its own proves
(`verispect.gateway.proving_worker`), and is started again where it died. A caller that waits gets
its answer with the evidence named in the statement, or an error and no answer. This module refuses
to promise a proof of a model that cannot be proven.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from verispect.core.commitments import Opening, Part
from verispect.core.encoding import decode
from verispect.core.errors import EngineError, Reason, RequestError
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import InferenceStatement, PromisedEvidence
from verispect.evidence.bindings.inference_v1 import inference_digest
from verispect.evidence.proof import KIND, MAX_ROWS, proof_context, proof_salt
from verispect.gateway.proving_worker import work
from verispect.ledger.proof_jobs import FINAL_STATES, JobState, ProofJob, ProofJobs

PROOF_HEADER: Final = "verispect-proof"
PROOF_SECONDS: Final = 600
"""When a promised proof is due, after the answer, unless the operator says otherwise."""

MAX_ENTRY_BYTES: Final = 9 * 1024 * 1024
_POLL_SECONDS: Final = 0.01
_WATCH_SECONDS: Final = 0.5


def can_prove() -> bool:
    """Tell whether the prover's extra is installed."""
    return find_spec("numba") is not None


def wants_to_wait(headers: Mapping[str, str], *, proven: bool) -> bool:
    """Tell whether the caller waits for its proof.

    Args:
        headers: request headers, names in lower case.
        proven: whether the required assurance needs a proof.

    Raises:
        RequestError: `invalid-request` for another word, or where no proof is required.
    """
    word = headers.get(PROOF_HEADER)
    if word is None or (word == "later" and proven):
        return False
    if word != "wait" or not proven:
        raise RequestError(
            "expected wait or later, together with an assurance that needs a proof",
            parameter="Verispect-Proof",
        )
    return True


class Proving:
    """Makes and keeps the proofs of one gateway.

    Args:
        registry: the model registry's folder.
        database: the queue.
        seconds: when a proof is due after its answer.
        share_succinct: whether requests of different callers share proofs in mode succinct too,
            which show them to each other.

    Raises:
        StoreError: `store-failed`.
    """

    def __init__(
        self,
        registry: Path,
        database: Path,
        *,
        seconds: int = PROOF_SECONDS,
        share_succinct: bool = False,
    ) -> None:
        self.jobs = ProofJobs(database)
        self.seconds = seconds
        self._arguments = (str(registry), str(database), os.getpid(), share_succinct)
        self._process: Any = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the proving process, and watch it."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            if self._process is None or not self._process.is_alive():
                await asyncio.to_thread(self._spawn)
            await asyncio.sleep(_WATCH_SECONDS)

    def _spawn(self) -> None:
        # What a dead process had begun is begun again; its receipts are there.
        self.jobs.recover(lambda _inference_id: True)
        # Idle threads of matrix products spin for longer than they would compute.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=work, args=self._arguments, daemon=True)
        self._process.start()

    async def stop(self) -> None:
        """Stop the proving process; what it was at is done again at the next start."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        self.jobs.close()

    async def promise(
        self,
        subject: str,
        draft: InferenceStatement,
        openings: Mapping[Part, Opening],
        *,
        model: str,
        wait: bool,
    ) -> tuple[InferenceStatement, bool]:
        """Have a proof made of this inference, and say so in its statement.

        Args:
            subject: the inference, as the envelope names it.
            draft: the statement so far.
            openings: those of effective input and output.
            model: the name under which the model is served.
            wait: whether to return only when the proof is there.

        Returns:
            The statement that promises or names the proof, and whether the job is still to be
            released once the receipt is on disk.

        Raises:
            EngineError: `proof-failed` where the caller waits and no proof could be made.
            RequestError: `invalid-request` for an input that cannot be proven.
            StoreError: `store-failed`; nothing is promised then.
        """
        rows, octets = _input(openings)
        inference_id = bytes.fromhex(subject)
        now = time.time_ns() // 1_000_000
        due_at = now + self.seconds * 1000
        await asyncio.to_thread(
            self.jobs.prepare,
            inference_id,
            model=model,
            context=proof_context([inference_digest(subject, draft)]),
            salt=proof_salt(openings[Part.EFFECTIVE_INPUT].salt, openings[Part.OUTPUT].salt),
            rows=rows,
            input_octets=octets,
            due_at=due_at,
            now=now,
        )
        if not wait:
            promised = PromisedEvidence(KIND, due_at=due_at)
            return replace(draft, evidence=(*draft.evidence, promised)), True
        await asyncio.to_thread(self.jobs.release, inference_id)
        entry = await self._wait(inference_id)
        named = PromisedEvidence(KIND, entry.digest())
        return replace(draft, evidence=(*draft.evidence, named)), False

    async def release(self, subject: str) -> None:
        """Queue the job of an inference whose receipt is on disk."""
        await asyncio.to_thread(self.jobs.release, bytes.fromhex(subject))

    async def _wait(self, inference_id: bytes) -> EvidenceEntry:
        try:
            while True:
                job = await asyncio.to_thread(self.jobs.find, inference_id)
                if job is None or job.state in FINAL_STATES:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        except asyncio.CancelledError:
            self.jobs.cancel(inference_id, time.time_ns() // 1_000_000)
            raise
        entry = None if job is None or job.state is not JobState.DONE else read_entry(job)
        if entry is None:
            raise EngineError(
                "no proof of this inference could be made", reason=Reason.PROOF_FAILED
            )
        return entry

    def find(self, inference_id: bytes) -> EvidenceEntry | None:
        """Return the proof of an inference, where it was made in time."""
        job = self.jobs.find(inference_id)
        return read_entry(job) if job is not None and job.state is JobState.DONE else None

    def cancel(self, inference_id: bytes) -> None:
        """Give up a proof that nobody wants any more, unless it is finished."""
        self.jobs.cancel(inference_id, time.time_ns() // 1_000_000)

    def status(self, inference_id: bytes) -> dict[str, Any] | None:
        """Return where the proof of an inference stands, in JSON's terms; `None` for no job."""
        job = self.jobs.find(inference_id)
        if job is None:
            return None
        return {
            "state": job.state.value,
            "progress": job.progress,
            "attempts": job.attempts,
            "due_at": job.due_at,
            "finished_at": job.finished_at,
            "detail": job.detail,
        }


def read_entry(job: ProofJob) -> EvidenceEntry | None:
    """Return the evidence that a job holds."""
    if job.entry is None:
        return None
    return EvidenceEntry.from_row(decode(job.entry, limit=MAX_ENTRY_BYTES))


def _input(openings: Mapping[Part, Opening]) -> tuple[int, bytes]:
    """Return the number of rows and the octets of the one input tensor."""
    opening = openings.get(Part.EFFECTIVE_INPUT)
    tensors: Sequence[Any] = opening.content() if opening is not None else []
    if len(tensors) != 1:
        raise RequestError("only an inference on one tensor can be proven", parameter="assurance")
    _, _, shape, data = tensors[0]
    if not shape or not 1 <= shape[0] <= MAX_ROWS:
        raise RequestError(f"a proof covers 1 to {MAX_ROWS} rows", parameter="inputs")
    return shape[0], data
