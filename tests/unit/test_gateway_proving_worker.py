"""Promised proofs made together: shared where they may be, alone where one of them cannot be."""

from __future__ import annotations

import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import proof_models
import pytest

from verispect.core.encoding import decode
from verispect.core.errors import Reason, VerificationError
from verispect.core.receipt import EvidenceEntry
from verispect.gateway import proving_worker
from verispect.gateway.proving_worker import ProvingWorker
from verispect.ledger.proof_jobs import JobState, ProofJobs
from verispect.models.integer_model import register_integer
from verispect.models.registry import ModelRegistry
from verispect.proof.exchange import caller_shape, input_integers, output_integers
from verispect.proof.parameters import Mode
from verispect.proof.provable import ProvableModel, encode_weights
from verispect.proof.prover.prove import commit_model
from verispect.proof.prover.stored_commitment import save
from verispect.proof.verifier import verify_proof

FAR = 1 << 50


class Served:
    """A registered model with its queue and worker."""

    def __init__(self, place: Path, *, budget: int, share_succinct: bool = False) -> None:
        graph, weights = proof_models.MODELS["mlp"]()
        self.model, commitment = commit_model(graph, weights, columns=6, masking_budget=budget)
        registry = ModelRegistry(place / "registry")
        register_integer(
            registry,
            "small",
            self.model.encode(),
            encode_weights(weights),
            commitment_holds=lambda *_: True,
        )
        if budget:
            (place / "commitments").mkdir()
            save(commitment, place / "commitments" / self.model.digest.hex())
        self.jobs = ProofJobs(place / "proofs.sqlite")
        self.worker = ProvingWorker(
            registry, self.jobs, commitments=place / "commitments", share_succinct=share_succinct
        )
        self.inputs: dict[int, bytes] = {}

    def promise(self, number: int, *, nan: bool = False, due_at: int = FAR) -> None:
        graph = self.model.graph
        shape = (1, *caller_shape(graph))
        drawn = np.random.default_rng(number).integers(
            graph.input.minimum, graph.input.maximum + 1, shape
        )
        octets = (drawn * float(graph.input.scale)).astype("<f4").tobytes()
        if nan:
            octets = struct.pack("<f", float("nan")) + octets[4:]
        self.inputs[number] = octets
        self.jobs.prepare(
            bytes([number] * 16),
            model="small",
            context=bytes([number] * 32),
            salt=bytes([number, 1] * 16),
            rows=1,
            input_octets=octets,
            due_at=due_at,
            now=time.time_ns() // 1_000_000,
        )
        self.jobs.release(bytes([number] * 16))

    def verified(self, number: int) -> int:
        """Verify a job's proof alone, and return how many requests it covers."""
        job = self.jobs.find(bytes([number] * 16))
        assert job is not None
        assert job.state is JobState.DONE, job.detail
        entry = EvidenceEntry.from_row(decode(job.entry, limit=1 << 24))
        body = decode(entry.body, limit=1 << 24)
        model = ProvableModel.decode(decode(entry.endorsements)["model"])
        return verify_proof(
            body["proof"],
            model=model,
            mode=Mode.ZERO_KNOWLEDGE if model.budget else Mode.SUCCINCT,
            context=bytes([number] * 32),
            salt=bytes([number, 1] * 16),
            inputs=input_integers(model.graph, self.inputs[number], 1).integers,
            outputs=output_integers(model.graph, body["outputs"], 1),
        ).requests


@pytest.mark.parametrize(("budget", "share"), [(2, False), (0, True)])
def test_waiting_jobs_of_a_model_share_one_proof(tmp_path: Path, budget: int, share: bool) -> None:
    """In mode zero-knowledge, or by the operator's word; each is verified alone."""
    served = Served(tmp_path, budget=budget, share_succinct=share)
    for number in range(3):
        served.promise(number)
    assert served.worker.run_one()
    assert not served.worker.run_one()
    assert [served.verified(number) for number in range(3)] == [3, 3, 3]


def test_callers_share_no_succinct_proof_by_default(tmp_path: Path) -> None:
    """A proof in mode succinct would show them to each other."""
    served = Served(tmp_path, budget=0)
    served.promise(0)
    served.promise(1)
    while served.worker.run_one():
        pass
    assert [served.verified(number) for number in range(2)] == [1, 1]


def test_one_that_cannot_be_proven_fails_no_other(tmp_path: Path) -> None:
    """The rest are proven alone; the one is told what is wrong with it."""
    served = Served(tmp_path, budget=0, share_succinct=True)
    served.promise(0)
    served.promise(1, nan=True)
    served.promise(2)
    assert served.worker.run_one()
    assert [served.verified(number) for number in (0, 2)] == [1, 1]
    job = served.jobs.find(bytes([1] * 16))
    assert job is not None
    assert job.state is JobState.FAILED


def _state(served: Served, number: int) -> JobState:
    job = served.jobs.find(bytes([number] * 16))
    assert job is not None
    return job.state


def _proofs(place: Path) -> int:
    with closing(sqlite3.connect(place / "proofs.sqlite")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM proofs").fetchone()
    return int(count)


def _halfway(served: Served, monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do something once, when a proof is half made."""
    report, done = served.jobs.report, []

    def reporting(inference_id: bytes, progress: float) -> bool:
        if progress >= 0.5 and not done:
            done.append(True)
            do()
        return report(inference_id, progress)

    monkeypatch.setattr(served.jobs, "report", reporting)


def test_who_cancels_in_the_middle_gets_none_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' proof goes on; what was cancelled stays so."""
    served = Served(tmp_path, budget=2)
    for number in range(3):
        served.promise(number)
    _halfway(served, monkeypatch, lambda: served.jobs.cancel(bytes([1] * 16), 1) or None)
    assert served.worker.run_one()
    assert [served.verified(number) for number in (0, 2)] == [3, 3]
    assert _state(served, 1) is JobState.CANCELLED
    assert not served.worker.run_one()


def test_a_proof_that_all_gave_up_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one to cancel stops it, and nothing is kept."""
    served = Served(tmp_path, budget=2)
    served.promise(0)
    served.promise(1)

    def cancel() -> None:
        for number in range(2):
            served.jobs.cancel(bytes([number] * 16), 1)

    _halfway(served, monkeypatch, cancel)
    assert served.worker.run_one()
    assert {_state(served, number) for number in range(2)} == {JobState.CANCELLED}
    assert _proofs(tmp_path) == 0


def test_a_deadline_that_passes_in_the_middle_is_one_jobs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late is who was promised it earlier; the others have their proof in time."""
    served = Served(tmp_path, budget=2)
    soon = time.time_ns() // 1_000_000 + 60_000
    served.promise(0, due_at=soon)
    served.promise(1)
    _halfway(
        served,
        monkeypatch,
        lambda: monkeypatch.setattr(proving_worker, "_now", lambda: soon + 1),
    )
    assert served.worker.run_one()
    assert _state(served, 0) is JobState.LATE
    assert served.verified(1) == 2


_DIES_HALFWAY = """
import os, signal, sys
from pathlib import Path
from verispect.gateway.proving_worker import ProvingWorker
from verispect.ledger.proof_jobs import ProofJobs
from verispect.models.registry import ModelRegistry

class Dying(ProofJobs):
    def report(self, inference_id, progress):
        alive = super().report(inference_id, progress)
        if progress >= 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return alive

place = Path(sys.argv[1])
worker = ProvingWorker(
    ModelRegistry(place / "registry"), Dying(place / "proofs.sqlite"),
    commitments=place / "commitments",
)
worker.run_one()
"""


def test_a_process_that_dies_in_a_shared_proof_loses_none_of_its_jobs(tmp_path: Path) -> None:
    """Each is proven afterwards, alone: what took a process down takes no company along."""
    served = Served(tmp_path, budget=8)
    for number in range(3):
        served.promise(number)
    died = subprocess.run([sys.executable, "-c", _DIES_HALFWAY, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert {_state(served, number) for number in range(3)} == {JobState.RUNNING}
    served.jobs.recover(lambda _inference: True)
    while served.worker.run_one():
        pass
    assert [served.verified(number) for number in range(3)] == [1, 1, 1]
    used = (tmp_path / "commitments" / f"{served.model.digest.hex()}.openings").stat().st_size
    assert used == 4  # The one that died with the process counts: its octets may be anywhere.


def test_a_neighbours_integers_or_proof_are_not_ones_own(tmp_path: Path) -> None:
    """The proof is the same octets for both; the salt and the context of one open no other's."""
    served = Served(tmp_path, budget=2)
    served.promise(0)
    served.promise(1)
    assert served.worker.run_one()
    bodies = []
    for number in range(2):
        job = served.jobs.find(bytes([number] * 16))
        assert job is not None
        entry = EvidenceEntry.from_row(decode(job.entry, limit=1 << 24))
        bodies.append(decode(entry.body, limit=1 << 24))
    assert bodies[0]["proof"] == bodies[1]["proof"]
    assert _proofs(tmp_path) == 1
    graph = served.model.graph
    own = {
        "model": served.model,
        "mode": Mode.ZERO_KNOWLEDGE,
        "context": bytes([0] * 32),
        "salt": bytes([0, 1] * 16),
        "inputs": input_integers(graph, served.inputs[0], 1).integers,
        "outputs": output_integers(graph, bodies[0]["outputs"], 1),
    }
    verify_proof(bodies[0]["proof"], **own)
    for change, reason in (
        ({"outputs": output_integers(graph, bodies[1]["outputs"], 1)}, Reason.PROOF_WRONG_OUTPUT),
        ({"inputs": input_integers(graph, served.inputs[1], 1).integers}, Reason.PROOF_WRONG_INPUT),
        ({"salt": bytes([1, 1] * 16)}, Reason.PROOF_WRONG_CONTEXT),
        ({"context": bytes([1] * 32)}, Reason.PROOF_WRONG_CONTEXT),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_proof(bodies[0]["proof"], **{**own, **change})
        assert caught.value.reason is reason
