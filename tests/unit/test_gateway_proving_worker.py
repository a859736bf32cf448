"""Promised proofs made together: shared where they may be, alone where one of them cannot be."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import proof_models
import pytest

from verispect.core.encoding import decode
from verispect.core.receipt import EvidenceEntry
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

    def promise(self, number: int, *, nan: bool = False) -> None:
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
            due_at=FAR,
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
