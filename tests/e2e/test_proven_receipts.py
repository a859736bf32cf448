"""Assurance `proven` end to end: promised, proven by a process of its own, verified offline."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from verispect.appraisal.policy import PROVEN
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.signer import Issuer
from verispect.client.session import GatewayClient
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Opening, Part, decode_openings
from verispect.core.encoding import decode
from verispect.core.errors import Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.service import Service, ServiceConfiguration
from verispect.models.integer_model import register_integer
from verispect.models.registry import ModelRegistry
from verispect.proof.provable import encode_weights
from verispect.proof.prover.prove import commit_model
from verispect.proof.prover.stored_commitment import save

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import proof_models

MODEL = "small"


def _graph():
    name = next(name for name in sorted(proof_models.MODELS) if "affine" in name or "mlp" in name)
    return proof_models.MODELS[name]()


def make_home(path, masking_budget=0):
    """Make a key and a registry with one provable model."""
    Issuer.create(path / "keys", name="operator.example", development=False, now=1)
    graph, weights = _graph()
    provable, commitment = commit_model(graph, weights, columns=6, masking_budget=masking_budget)
    if masking_budget:
        save(commitment, path / "commitment.bin")
    register_integer(
        ModelRegistry(path / "models"),
        MODEL,
        provable.encode(),
        encode_weights(weights),
        commitment_holds=lambda *_: True,
        hiding_commitment=path / "commitment.bin" if masking_budget else None,
    )
    return path


@pytest.fixture
def home(tmp_path):
    """A home that no other server proves for."""
    return make_home(tmp_path)


@contextmanager
def serving(home, **options):
    """Run a whole gateway on a free port, and give its address and itself."""
    service = Service(
        ServiceConfiguration(
            keys=str(home / "keys"),
            state=str(home / "state"),
            registry=str(home / "models"),
            **options,
        )
    )
    server = uvicorn.Server(uvicorn.Config(service.application(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with serving(make_home(tmp_path_factory.mktemp("proven"))) as (address, service):
        yield address, service


def tensor_body(address, seed):
    metadata = httpx.get(f"{address}/v2/models/{MODEL}").json()
    shape = [1, *metadata["inputs"][0]["shape"][1:]]
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return {
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": shape, "data": data.ravel().tolist()}
        ]
    }


def ask(address, *, headers=None, assurance="proven", seed=1):
    return httpx.post(
        f"{address}/v2/models/{MODEL}/infer",
        json=tensor_body(address, seed),
        headers={"verispect-assurance": assurance, **(headers or {})},
        timeout=120,
    )


def prover_process(service):
    """Return the process number of the proving process, once there is one."""
    for _ in range(1000):
        process = service.recorder.proving._process
        if process is not None and process.pid is not None:
            return process.pid
        time.sleep(0.01)
    raise AssertionError("no proving process was started")


def proof_state(address, receipt_id):
    return httpx.get(f"{address}/v1/receipts/{receipt_id}/proof").json()


def wait_for(address, receipt_id, *states):
    for _ in range(2400):
        found = proof_state(address, receipt_id)
        if found["state"] in states:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def fetch(address, answer):
    receipt_id = answer.headers["verispect-receipt-id"]
    receipt = httpx.get(f"{address}/v1/receipts/{receipt_id}?evidence=attached").content
    key = {"verispect-opening-key": answer.headers["verispect-opening-key"]}
    openings = httpx.get(f"{address}/v1/receipts/{receipt_id}/openings", headers=key).content
    return InferenceReceipt.parse(receipt), decode_openings(openings)


def appraise(address, receipt, opened, *, now=None):
    root = httpx.get(f"{address}/.well-known/verispect").json()["trustedRoot"]
    verifier = Verifier(TrustedRoot.from_json(json.dumps(root).encode()))
    now = now or time.time_ns() // 1_000_000
    return verifier.appraise(receipt, opened=opened, policy=PROVEN, now=now)


def test_promised_proof_comes_and_verifies(gateway):
    """The answer is there at once; its proof follows, and then the claims are proven."""
    address, _ = gateway
    answer = ask(address)
    assert answer.status_code == 200, answer.text
    receipt_id = answer.headers["verispect-receipt-id"]
    wait_for(address, receipt_id, "done")
    receipt, opened = fetch(address, answer)
    result = appraise(address, receipt, opened)
    assert result.verdict is Verdict.VERIFIED, result.decisive_check()
    for claim in (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION):
        assert Source.PROVEN in result.claims[claim]
    assert result.claims[Claim.TIME] == {Source.ASSERTED}


def test_receipt_without_its_proof_is_pending_and_then_failed(gateway):
    """Before the deadline the answer is not yet; after it, no."""
    address, _ = gateway
    answer = ask(address, seed=2)
    receipt, opened = fetch(address, answer)
    bare = InferenceReceipt.parse(
        httpx.get(f"{address}/v1/receipts/{answer.headers['verispect-receipt-id']}").content
    )
    assert appraise(address, bare, opened).reason is Reason.EVIDENCE_PENDING
    later = receipt.unverified_statement.signed_at + 3_600_000
    overdue = appraise(address, bare, opened, now=later)
    assert (overdue.verdict, overdue.reason) == (Verdict.REFUSED, Reason.EVIDENCE_OVERDUE)


def test_caller_may_wait_for_the_proof(gateway):
    """With `Verispect-Proof: wait` the statement names the evidence by its digest."""
    address, _ = gateway
    answer = ask(address, headers={"verispect-proof": "wait"}, seed=3)
    assert answer.status_code == 200, answer.text
    receipt, opened = fetch(address, answer)
    promise = receipt.unverified_statement.evidence[1]
    assert promise.digest == receipt.evidence[0].digest()
    assert appraise(address, receipt, opened).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("shared", [False, True], ids=["by default", "by the operator's word"])
def test_callers_share_succinct_proofs_by_the_operators_word_only(home, shared):
    """What waits together has one proof where the operator says so; each is verified alone."""
    with serving(home, share_succinct_proofs=shared) as (address, service):
        process = prover_process(service)
        os.kill(process, signal.SIGSTOP)
        answers = [ask(address, seed=seed) for seed in (21, 22, 23)]
        os.kill(process, signal.SIGCONT)
        proofs = set()
        for answer in answers:
            assert answer.status_code == 200, answer.text
            wait_for(address, answer.headers["verispect-receipt-id"], "done")
            receipt, opened = fetch(address, answer)
            result = appraise(address, receipt, opened)
            assert result.verdict is Verdict.VERIFIED, result.decisive_check()
            told = [line for line in result.not_covered if "requests share it" in line]
            assert bool(told) is shared
            proofs.add(decode(receipt.evidence[0].body, limit=1 << 24)["proof"])
        assert len(proofs) == (1 if shared else 3)


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "later"])
def test_client_gets_a_proven_answer(gateway, wait):
    """The client asks an integer model without naming a lane, and gets its proof now or later."""
    address, _ = gateway
    path = f"/v2/models/{MODEL}/infer"
    with GatewayClient(address) as client:
        exchange = client.exchange(path, tensor_body(address, 9), "proven", wait_for_proof=wait)
        wait_for(address, InferenceReceipt.parse(exchange.receipt).receipt_id.hex(), "done")
        exchange = client.renewed(exchange)
    receipt = InferenceReceipt.parse(exchange.receipt)
    assert appraise(address, receipt, exchange.opened()).verdict is Verdict.VERIFIED


def test_client_passes_on_what_a_tensor_route_refuses(gateway):
    """The errors of the Open Inference Protocol are text, and reach the caller as such."""
    address, _ = gateway
    with GatewayClient(address) as client, pytest.raises(RequestError, match="deterministic"):
        client.exchange(
            f"/v2/models/{MODEL}/infer", tensor_body(address, 9), "proven", "throughput"
        )


def test_proof_of_another_inference_is_refused(gateway):
    """A proof moved to another receipt of the same model is about something else."""
    address, _ = gateway
    first, second = ask(address, seed=4), ask(address, seed=5)
    for answer in (first, second):
        wait_for(address, answer.headers["verispect-receipt-id"], "done")
    one, _ = fetch(address, first)
    two, opened = fetch(address, second)
    moved = InferenceReceipt(
        replace(two.envelope, evidence=tuple(entry.to_row() for entry in one.evidence))
    )
    result = appraise(address, moved, opened)
    assert result.verdict is Verdict.REFUSED
    assert result.reason in (Reason.PROOF_WRONG_CONTEXT, Reason.PROOF_WRONG_OUTPUT)


def test_without_openings_a_proof_cannot_tell(gateway):
    """Whoever has not seen input and output cannot say that they were proven."""
    address, _ = gateway
    answer = ask(address, seed=6)
    wait_for(address, answer.headers["verispect-receipt-id"], "done")
    receipt, _ = fetch(address, answer)
    result = appraise(address, receipt, {})
    assert (result.verdict, result.reason) == (Verdict.UNDETERMINED, Reason.CONTENT_NOT_OPENED)


def test_one_changed_output_value_is_refused(gateway):
    """An opened output that differs in one bit is not what was committed to."""
    address, _ = gateway
    answer = ask(address, seed=7)
    wait_for(address, answer.headers["verispect-receipt-id"], "done")
    receipt, opened = fetch(address, answer)
    tensors = opened[Part.OUTPUT].content()
    data = bytearray(tensors[0][3])
    data[0] ^= 1
    tensors[0][3] = bytes(data)
    changed = dict(opened)
    changed[Part.OUTPUT] = Opening.of(Part.OUTPUT, tensors, salt=opened[Part.OUTPUT].salt)
    result = appraise(address, receipt, changed)
    assert result.verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("headers", "assurance"),
    [({"verispect-proof": "soon"}, "proven"), ({"verispect-proof": "wait"}, "signed")],
)
def test_odd_words_are_errors(gateway, headers, assurance):
    """A misspelt word, or waiting for no proof, is refused before any work."""
    answer = ask(gateway[0], headers=headers, assurance=assurance)
    assert answer.status_code == 400


def test_proving_process_that_is_killed_is_started_again(gateway):
    """A job whose prover died is proven by the next one."""
    address, service = gateway
    ids = [ask(address, seed=seed).headers["verispect-receipt-id"] for seed in range(10, 14)]
    os.kill(prover_process(service), signal.SIGKILL)
    for receipt_id in ids:
        assert wait_for(address, receipt_id, "done", "failed")["state"] == "done"


def test_only_the_caller_cancels_a_proof(home):
    """With the opening key a proof is given up; its promise is then not kept."""
    with serving(home) as (address, service):
        os.kill(prover_process(service), signal.SIGSTOP)
        answer = ask(address, seed=30)
        path = f"{address}/v1/receipts/{answer.headers['verispect-receipt-id']}"
        assert httpx.delete(f"{path}/proof").status_code == 403
        key = {"verispect-opening-key": answer.headers["verispect-opening-key"]}
        assert httpx.delete(path, headers=key).status_code == 405
        assert httpx.delete(f"{path}/proof", headers=key).json()["state"] == "cancelled"
        os.kill(prover_process(service), signal.SIGCONT)
        time.sleep(0.3)
        assert proof_state(address, answer.headers["verispect-receipt-id"])["state"] == "cancelled"


def test_jobs_survive_the_server(home):
    """A promise made before a stop is kept after the next start."""
    with serving(home) as (address, service):
        os.kill(prover_process(service), signal.SIGSTOP)
        receipt_id = ask(address, seed=20).headers["verispect-receipt-id"]
    with serving(home) as (address, _):
        wait_for(address, receipt_id, "done")


def test_proof_is_late_after_its_deadline(home):
    """A promise that is not kept in time is shown as late, and the proof is not handed out."""
    with serving(home, proof_seconds=1) as (address, service):
        os.kill(prover_process(service), signal.SIGSTOP)
        answer = ask(address, seed=21)
        time.sleep(1.2)
        os.kill(prover_process(service), signal.SIGCONT)
        found = wait_for(address, answer.headers["verispect-receipt-id"], "late")
        assert found["finished_at"] > found["due_at"]
        receipt, opened = fetch(address, answer)
        assert receipt.evidence == ()
        result = appraise(address, receipt, opened)
        assert result.reason is Reason.EVIDENCE_OVERDUE


def test_hidden_weights_are_proven_as_often_as_they_are_masked(tmp_path):
    """A model in mode zero-knowledge is served, and its masks are never used once too often."""
    with serving(make_home(tmp_path, masking_budget=2)) as (address, _):
        answers, states = [], []
        for seed in (40, 41, 42):  # One after the other: those that wait together share a proof.
            answers.append(ask(address, seed=seed))
            receipt_id = answers[-1].headers["verispect-receipt-id"]
            states.append(wait_for(address, receipt_id, "done", "failed"))
        assert sorted(each["state"] for each in states) == ["done", "done", "failed"]
        failed = next(each for each in states if each["state"] == "failed")
        assert failed["detail"].startswith("masks-exhausted")
        assert failed["attempts"] == 1
        done = answers[[each["state"] for each in states].index("done")]
        receipt, opened = fetch(address, done)
        result = appraise(address, receipt, opened)
        assert result.verdict is Verdict.VERIFIED, result.decisive_check()
        assert not any("does not hide" in line for line in result.not_covered)
