"""Several kinds of evidence on one receipt, all real: a witnessed log, an enclave, and a proof."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn

from verispect.appraisal.policy import AssurancePolicy, expand
from verispect.appraisal.result import AttestationResult, Outcome, Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.signer import Issuer, SoftwareSigner
from verispect.core.claims import Claim, Source
from verispect.core.commitments import decode_openings
from verispect.core.errors import Reason
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.log_service import LogConfiguration, log_settings, operate_log
from verispect.gateway.transaction_trust import own_trust
from verispect.node.state import NodeState
from verispect.node.witness_app import NodeApp, TlogWitness
from verispect.tlog.cosignature import witness_key

sys.path.insert(0, str(Path(__file__).parent))
from test_proven_receipts import MODEL, make_home, serving, tensor_body, wait_for

pytestmark = pytest.mark.slow

SUM = "logged+attested-development+proven"
SECONDS = 60.0
SIGNER = SoftwareSigner(bytes(range(32)))


@contextmanager
def witness_of(trusted, folder):
    """A witness with a state of its own, on a free port."""
    state = NodeState(folder)
    witness = TlogWitness(
        "witness.example",
        SIGNER,
        trusted,
        state,
        clock=lambda: time.time_ns() // 1_000_000,
        on_fork=lambda fork: None,
    )

    app = NodeApp(witness, state, lambda: None)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gateway that proves, attests and logs, and whom its callers trust."""
    home = make_home(tmp_path_factory.mktemp("mixed"))
    issuer = Issuer.load(home / "keys")
    log = {"folder": str(home / "log"), "keys": str(home / "log-keys")}
    trusted = log_settings(LogConfiguration(**log), issuer).folder.trusted
    with witness_of(trusted, home / "witness") as url:
        log["witnesses"] = [f"{url}={witness_key('witness.example', SIGNER).encode()}"]
        attester = f"development:{home / 'enclave'}"
        with serving(home, log=log, attester=attester) as (address, _):
            operation = operate_log(LogConfiguration(**log), issuer, home / "state")
            try:
                shown = httpx.get(f"{address}/.well-known/verispect").json()
                root = TrustedRoot.from_json(json.dumps(shown["trustedRoot"]).encode())
                own = own_trust(None, attester)
                assert own is not None
                yield address, replace(root, attestation=own.attestation), shown
            finally:
                operation.stop()


def ask(address, assurance=None, *, header=None, seed=1):
    body = tensor_body(address, seed)
    if assurance is not None:
        body["parameters"] = {"assurance": assurance}
    headers = {} if header is None else {"verispect-assurance": header}
    return httpx.post(f"{address}/v2/models/{MODEL}/infer", json=body, headers=headers, timeout=120)


def fetch(address, answer, *, attached=True):
    identifier = answer.headers["verispect-receipt-id"]
    query = "?evidence=attached" if attached else ""
    data = httpx.get(f"{address}/v1/receipts/{identifier}{query}").content
    key = {"verispect-opening-key": answer.headers["verispect-opening-key"]}
    openings = httpx.get(f"{address}/v1/receipts/{identifier}/openings", headers=key).content
    return InferenceReceipt.parse(data), decode_openings(openings)


def await_kinds(address, answer, *kinds):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        receipt, opened = fetch(address, answer)
        if {each.kind for each in receipt.evidence} == set(kinds):
            return receipt, opened
        time.sleep(0.1)
    raise AssertionError([each.kind for each in receipt.evidence])


def judge(root, receipt, opened, policy, *, later=0) -> AttestationResult:
    now = time.time_ns() // 1_000_000 + later
    return Verifier(root).appraise(receipt, opened=opened, policy=policy, now=now)


def test_a_sum_is_met_by_the_union_of_real_evidence(world):
    """Log, enclave and proof stand on one receipt; each adds its sources, and all are required."""
    address, root, shown = world
    assert SUM in shown["assurance"]["sums"]
    answer = ask(address, header=SUM)
    assert answer.status_code == 200, answer.text
    early, opened = fetch(address, answer, attached=False)
    promised = {each.kind for each in early.unverified_statement.evidence}
    assert promised == {"signature", "log", "aws-nitro", "proof"}
    wait_for(address, answer.headers["verispect-receipt-id"], "done")
    receipt, opened = await_kinds(address, answer, "log", "aws-nitro", "proof")
    result = judge(root, receipt, opened, expand(SUM))
    assert result.verdict is Verdict.VERIFIED, result.decisive_check()
    assert result.claims[Claim.EXECUTION] == {Source.ASSERTED, Source.HARDWARE, Source.PROVEN}
    assert result.claims[Claim.MODEL] == {Source.ASSERTED, Source.PROVEN}
    assert result.claims[Claim.TIME] == {Source.ASSERTED, Source.LOGGED}
    assert result.conflicts == []
    assert {each.kind for each in result.delivered} == promised
    assert all(each.is_acceptable for each in result.delivered)
    assert early.unverified_statement.assurance == expand(SUM).digest()
    for word in ("logged", "proven", "attested-development"):
        # The development enclave is refused by every policy that does not name its class.
        part = judge(root, receipt, opened, expand(word))
        accepted = word == "attested-development"
        assert (part.verdict is Verdict.VERIFIED) is accepted
        assert accepted or part.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_each_part_of_a_sum_that_lacks_is_pending_and_then_failed(world):
    """Whatever piece is taken away, what is left does not meet the sum."""
    address, root, _ = world
    answer = ask(address, header=SUM, seed=2)
    wait_for(address, answer.headers["verispect-receipt-id"], "done")
    receipt, opened = await_kinds(address, answer, "log", "aws-nitro", "proof")
    for taken, reason in (
        ("log", Reason.EVIDENCE_OVERDUE),
        ("proof", Reason.EVIDENCE_OVERDUE),
        ("aws-nitro", Reason.POLICY_UNMET),
    ):
        rows = tuple(each.to_row() for each in receipt.evidence if each.kind != taken)
        less = InferenceReceipt.parse(replace(receipt.envelope, evidence=rows).encode())
        now = judge(root, less, opened, expand(SUM))
        late = judge(root, less, opened, expand(SUM), later=3_600_000)
        assert late.outcome is Outcome.FAILED
        assert late.reason is reason
        if reason is Reason.EVIDENCE_OVERDUE:
            assert now.outcome is Outcome.PENDING
            assert now.pending_until is not None
        else:
            assert now.outcome is Outcome.FAILED


def test_a_policy_in_the_body_gets_the_least_that_meets_it(world):
    """`proven` or `hardware` for the output, and the log for the time: enclave and log suffice."""
    address, root, _ = world
    document = {
        "version": 1,
        "name": "own",
        "claims": {
            "output": {"any_of": ["proven", {"source": "hardware", "classes": ["development"]}]},
            "time": [{"source": "logged", "witnesses": 1, "within_seconds": 60}],
        },
        "attestation": {"accepted_classes": ["development"], "maximum_age_seconds": 86400},
    }
    answer = ask(address, document, seed=3)
    assert answer.status_code == 200, answer.text
    receipt, opened = await_kinds(address, answer, "log", "aws-nitro")
    policy = AssurancePolicy.from_document(document)
    result = judge(root, receipt, opened, policy)
    assert result.verdict is Verdict.VERIFIED, result.decisive_check()
    digest = receipt.unverified_statement.assurance
    assert digest == policy.digest()
    fetched = httpx.get(f"{address}/v1/policies/{digest.hex()}").text
    assert AssurancePolicy.from_json(fetched).digest() == digest


@pytest.mark.parametrize(
    ("assurance", "code"),
    [
        ("audited+proven", "assurance-unavailable"),
        ("attested+logged", "assurance-unavailable"),
        ("attested-development+attested", "assurance-unavailable"),
        (
            {
                "version": 1,
                "name": "own",
                "claims": {"time": [{"source": "logged", "witnesses": 2}]},
            },
            "assurance-unavailable",
        ),
    ],
)
def test_what_cannot_be_delivered_is_refused_before_work(world, assurance, code):
    """A kind that is not here, and a witness too many, are 400, naming what there is."""
    address, _, _ = world
    answer = ask(address, assurance)
    assert answer.status_code == 400
    error = answer.json()
    assert error["code"] == code
    for word in ("signed", "logged", "proven", "attested-development"):
        assert word in error["error"]
