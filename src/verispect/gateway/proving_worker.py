"""The process that makes promised proofs, one after the other, from the queue on disk.

It is a process of its own so that proving never slows an answer, and so that its death is a job
tried again and nothing else. It loads a model through the registry, which hashes every byte, and
commits to the weights again where no commitment is kept. It refuses to prove for a model whose
provable digest is not the manifest's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.core.encoding import encode
from verispect.core.errors import EngineError, Error, ModelError, Reason
from verispect.evidence.proof import ProofBody, proof_entry
from verispect.ledger.proof_jobs import ProofJob, ProofJobs
from verispect.models.integer_model import COMMITMENTS_FOLDER, WEIGHTS_FILE
from verispect.models.registry import ModelRegistry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verispect.proof.provable import ProvableModel
    from verispect.proof.prover.prove import Prover

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


def work(registry: str, database: str, parent: int) -> None:
    """Prove until the parent process is gone.

    Args:
        registry: the model registry's folder.
        database: the queue.
        parent: the process that started this one.
    """
    folder = Path(registry)
    worker = ProvingWorker(
        ModelRegistry(folder), ProofJobs(Path(database)), commitments=folder / COMMITMENTS_FOLDER
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
    """

    def __init__(self, registry: ModelRegistry, jobs: ProofJobs, *, commitments: Path) -> None:
        self._registry = registry
        self._commitments = commitments
        self._jobs = jobs
        self._provers: dict[bytes, tuple[Prover, bytes]] = {}

    def run_one(self) -> bool:
        """Prove the next job; `False` where there is none."""
        job = self._jobs.take(_now())
        if job is None:
            return False
        try:
            self._jobs.finish(job.inference_id, self._prove(job), _now())
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
        return True

    def _prove(self, job: ProofJob) -> bytes:
        from verispect.proof.exchange import input_integers
        from verispect.proof.parameters import Mode
        from verispect.proof.prover.prove import prove

        prover, manifest = self._prover(job.model)

        def report(_step: str, share: float) -> None:
            if not self._jobs.report(job.inference_id, share):
                raise _Cancelled

        read = input_integers(prover.model.graph, job.input, job.rows)
        mode = Mode.ZERO_KNOWLEDGE if prover.model.budget else Mode.SUCCINCT
        result = prove(prover, read.integers, mode=mode, context=job.context, progress=report)
        body = ProofBody(result.proof.encode(), result.trace.output.astype("<i8").tobytes())
        entry = proof_entry(
            body, manifest=manifest, model=prover.model.encode(), collected_at=_now()
        )
        return encode(entry.to_row())

    def _prover(self, name: str) -> tuple[Prover, bytes]:
        registered = self._registry.resolve(name)
        known = self._provers.get(registered.model_id)
        if known is not None:
            return known
        from verispect.proof.provable import ProvableModel, decode_weights
        from verispect.proof.prover.prove import commit_model, make_prover

        with self._registry.open_verified(registered) as files:
            model = ProvableModel.decode(files.main_content)
            weights = decode_weights(model.graph, files.content(WEIGHTS_FILE))
        if registered.manifest.prover_commitment != model.digest:
            raise ModelError(
                f"model {name} is registered with another commitment", reason=Reason.MODEL_CHANGED
            )
        if model.budget:
            prover = self._hiding_prover(name, model, weights)
        else:
            _, commitment = commit_model(
                model.graph, weights, columns=model.columns, rate_bits=model.rate_bits
            )
            prover = make_prover(model, weights, commitment)
        made = prover, registered.manifest.to_bytes()
        self._provers[registered.model_id] = made
        return made

    def _hiding_prover(
        self, name: str, model: ProvableModel, weights: Sequence[NDArray[Any]]
    ) -> Prover:
        """Return a prover with the stored commitment: its masks cannot be drawn twice."""
        from verispect.proof.layout import weights_layout
        from verispect.proof.parameters import Code
        from verispect.proof.prover.prove import make_prover
        from verispect.proof.prover.stored_commitment import StoredBudget, load
        from verispect.proof.prover.witness import weight_group

        # Resolved, because openings are counted beside the file itself, whoever opens it.
        stored = (self._commitments / model.digest.hex()).resolve()
        if not stored.exists():
            raise ModelError(
                f"model {name} hides its weights, and its commitment is not kept here",
                reason=Reason.MODEL_NOT_FOUND,
            )
        matrix = weight_group(weights_layout(model.graph.weights, model.columns), weights).rows()
        commitment = load(stored, matrix, Code(model.columns, model.rate_bits, model.budget))
        return make_prover(model, weights, commitment, StoredBudget(stored, model.budget).take)


def _now() -> int:
    return time.time_ns() // 1_000_000
