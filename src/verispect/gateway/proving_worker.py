"""The process that makes promised proofs, from the queue on disk.

Jobs for one model that wait together share a proof, where the proof hides them from each other: a
proof in mode succinct shows every request in it, so that there they share only by the operator's
word. A proof that fails for several is made for each alone, and no job tried before is in company.

It is a process of its own so that proving never slows an answer, and so that its death is a job
tried again and nothing else. It loads a model through the registry, which hashes every byte, and
commits to the weights again where no commitment is kept. It refuses to prove for a model whose
provable digest is not the manifest's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.core.errors import EngineError, Error, ModelError, Reason
from verispect.evidence.proof import MAX_ROWS
from verispect.ledger.proof_jobs import MadeProof, ProofJob, ProofJobs
from verispect.models.integer_model import COMMITMENTS_FOLDER, WEIGHTS_FILE
from verispect.models.registry import ModelRegistry

if TYPE_CHECKING:
    from verispect.proof.prover.prove import Prover

MOST_REQUESTS: Final = 32
"""Requests that share a proof, at most."""
MOST_BYTES: Final = 1 << 30
"""Memory that a shared proof may take, as estimated."""
MOST_PROOF_BYTES: Final = 1 << 22
WINDOW_SECONDS: Final = 0.05
"""How long a job waits for others to share its proof with."""
MOST_SECONDS: Final = 5
"""A job nearer to its deadline than twice this waits for nobody."""
_IDLE_SECONDS: Final = 0.05
_CANNOT_CHANGE: Final = frozenset(
    {
        Reason.INVALID_REQUEST,
        Reason.MALFORMED_MODEL,
        Reason.MODEL_CHANGED,
        Reason.MODEL_NOT_FOUND,
        Reason.MASKS_EXHAUSTED,
    }
)
"""Reasons for which trying again is of no use."""


class _Cancelled(Exception):  # noqa: N818
    """Nobody waits for the proof any more."""


def work(registry: str, database: str, parent: int, share_succinct: bool = False) -> None:
    """Prove until the parent process is gone.

    Args:
        registry: the model registry's folder.
        database: the queue.
        parent: the process that started this one.
        share_succinct: as `ProvingWorker`.
    """
    folder = Path(registry)
    worker = ProvingWorker(
        ModelRegistry(folder),
        ProofJobs(Path(database)),
        commitments=folder / COMMITMENTS_FOLDER,
        share_succinct=share_succinct,
    )
    while os.getppid() == parent:
        if not worker.run_one():
            time.sleep(_IDLE_SECONDS)


class ProvingWorker:
    """Takes jobs and proves them.

    Args:
        registry: where the models are.
        jobs: the queue.
        commitments: where hiding commitments are, by the provable model's digest.
        share_succinct: whether requests share proofs in mode succinct, which show them to each
            other; in mode zero-knowledge they always may.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        jobs: ProofJobs,
        *,
        commitments: Path,
        share_succinct: bool = False,
    ) -> None:
        self._share_succinct = share_succinct
        self._registry = registry
        self._commitments = commitments
        self._jobs = jobs
        self._provers: dict[bytes, tuple[Prover, bytes]] = {}

    def run_one(self) -> bool:
        """Prove the next job; `False` where there is none."""
        job = self._jobs.take(_now())
        if job is None:
            return False
        jobs = [job, *self._company(job)]
        if len(jobs) == 1 or not self._run_together(jobs):
            for each in jobs:
                self._run_alone(each)
        return True

    def _company(self, job: ProofJob) -> list[ProofJob]:
        """Return the jobs that share a job's proof."""
        if job.attempts > 1:
            return []  # What failed, or took the process down, does so alone.
        try:
            prover, _ = self._prover(job.model)
        except Error:
            return []
        if not (prover.model.budget or self._share_succinct):
            return []
        if job.due_at - _now() > 2 * MOST_SECONDS * 1000:
            time.sleep(WINDOW_SECONDS)
        rows = _rows_in_bounds(prover) - job.rows
        return self._jobs.take_alike(job.model, most=MOST_REQUESTS - 1, rows=rows)

    def _run_together(self, jobs: list[ProofJob]) -> bool:
        """Make one proof for several jobs; `False` where it failed for whatever reason."""
        try:
            self._prove(jobs)
        except _Cancelled:
            return True
        except Exception:  # noqa: BLE001 - each alone tells what is wrong with it.
            return False
        return True

    def _run_alone(self, job: ProofJob) -> None:
        try:
            self._prove([job])
        except _Cancelled:
            pass
        except Error as error:
            final = error.reason in _CANNOT_CHANGE
            self._jobs.fail(job.inference_id, error, _now(), final=final)
        except Exception as error:  # noqa: BLE001
            # What the prover's libraries raise holds shapes and values: only its type is told.
            told = EngineError(
                f"the prover failed: {type(error).__name__}", reason=Reason.ENGINE_FAILED
            )
            self._jobs.fail(job.inference_id, told, _now())

    def _prove(self, jobs: list[ProofJob]) -> None:
        from verispect.proof.exchange import input_integers
        from verispect.proof.parameters import Mode
        from verispect.proof.prover.prove import prove_requests
        from verispect.proof.prover.requested import Request

        prover, manifest = self._prover(jobs[0].model)

        def report(_step: str, share: float) -> None:
            wanted = [self._jobs.report(job.inference_id, share) for job in jobs]
            if not any(wanted):
                raise _Cancelled

        graph = prover.model.graph
        requests = [
            Request(input_integers(graph, job.input, job.rows).integers, job.context, job.salt)
            for job in jobs
        ]
        mode = Mode.ZERO_KNOWLEDGE if prover.model.budget else Mode.SUCCINCT
        result = prove_requests(prover, requests, mode=mode, progress=report)
        outputs, first = {}, 0
        for job in jobs:
            rows = result.trace.output[first : first + job.rows]
            first += job.rows
            outputs[job.inference_id] = rows.astype("<i8").tobytes()
        now = _now()
        made = MadeProof(result.proof.encode(), manifest, prover.model.encode(), now)
        self._jobs.finish(made, outputs, now)

    def _prover(self, name: str) -> tuple[Prover, bytes]:
        registered = self._registry.resolve(name)
        known = self._provers.get(registered.model_id)
        if known is not None:
            return known
        from verispect.proof.provable import ProvableModel, decode_weights
        from verispect.proof.prover.loading import load_prover

        with self._registry.open_verified(registered) as files:
            model = ProvableModel.decode(files.main_content)
            weights = decode_weights(model.graph, files.content(WEIGHTS_FILE))
        if registered.manifest.prover_commitment != model.digest:
            raise ModelError(
                f"model {name} is registered with another commitment", reason=Reason.MODEL_CHANGED
            )
        prover = load_prover(model, weights, self._commitments / model.digest.hex())
        made = prover, registered.manifest.to_bytes()
        self._provers[registered.model_id] = made
        return made


def _rows_in_bounds(prover: Prover) -> int:
    """Return how many rows a shared proof may have: a power of two, for what is padded is paid."""
    from verispect.proof.prover.estimate import estimate

    rows = 1
    while rows < MAX_ROWS:
        cost = estimate(prover.model.graph, prover.code, 2 * rows, speed=1.0)
        if cost.memory_bytes > MOST_BYTES or cost.proof_bytes > MOST_PROOF_BYTES:
            break
        rows *= 2
    return rows


def _now() -> int:
    return time.time_ns() // 1_000_000
