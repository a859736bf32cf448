"""Policies of a gateway's callers: offered by name, found by digest, refused where wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from running_gateway import run_gateway

from verispect.appraisal.policy import PRESETS, AssurancePolicy, expand
from verispect.attesters.development_enclave import DevelopmentEnclave, DevelopmentEnclaveAttester
from verispect.cli.main import main
from verispect.core.encoding import from_base64url
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.policies import sums_of
from verispect.testing.echo_model import EchoLanguageModel

QUESTION = {"model": "echo", "messages": [{"role": "user", "content": "a secret of mine"}]}
OWN = {"version": 1, "name": "mine", "nonce": True, "claims": {"output": ["asserted"]}}
NONCE = {"verispect-nonce": "bm9uY2Ugb2YgbWluZQ"}


@pytest.fixture
def gateway(tmp_path: Path):
    with run_gateway(tmp_path, EchoLanguageModel()) as running:
        yield running


def ask(gateway, assurance, **headers):
    with gateway.http() as client:
        return client.post(
            "/v1/chat/completions",
            json={**QUESTION, "assurance": assurance},
            headers={**NONCE, **headers},
        )


def test_a_policy_of_the_callers_own_is_found_by_its_digest(gateway, tmp_path, capsys):
    """Who has only the receipt fetches the policy, and its digest is the statement's."""
    answer = ask(gateway, OWN)
    assert answer.status_code == 200, answer.text
    receipt = from_base64url(answer.json()["verispect"]["receipt"])
    digest = InferenceReceipt.parse(receipt).unverified_statement.assurance.hex()
    assert digest == AssurancePolicy.from_document(OWN).digest().hex()
    with gateway.http() as client:
        found = client.get(f"/v1/policies/{digest}")
    assert found.status_code == 200
    path = tmp_path / "found.json"
    path.write_bytes(found.content)
    assert main(["policy", "digest", str(path)]) == 0
    assert capsys.readouterr().out.strip() == digest
    assert b"secret" not in found.content


def test_every_word_is_found_by_its_digest(gateway):
    """Presets and sums need not have been asked for."""
    with gateway.http() as client:
        for name in (*PRESETS, "attested+proven", "logged+proven", "audited+attested"):
            found = client.get(f"/v1/policies/{expand(name).digest().hex()}").json()
            assert AssurancePolicy.from_json(json.dumps(found)).digest() == expand(name).digest()


@pytest.mark.parametrize("digest", ["", "00", "00" * 32, "G" * 64, "A" * 64, "../../secret"])
def test_what_is_no_policy_is_not_found(gateway, digest):
    """Another digest, another case and paths are 404."""
    with gateway.http() as client:
        answer = client.get(f"/v1/policies/{digest}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in ("receipt-not-found", "route-not-found")


def test_a_record_that_is_no_policy_is_not_shown_as_one(gateway):
    """Manifests and engines are kept under digests as well."""
    published = gateway.state.recorder.published
    with gateway.http() as client:
        for record in (b"\xa1\x01\x02", b"not cbor at all", b"\x01", b"\xa0"):
            digest = published.publish(record).hex()
            assert client.get(f"/v1/policies/{digest}").status_code == 404


@pytest.mark.parametrize(
    ("assurance", "code"),
    [
        ({**OWN, "claims": {"output": ["proven"]}}, "assurance-unavailable"),
        ({**OWN, "claims": {}}, "assurance-unavailable"),
        ({**OWN, "service_logged": True}, "assurance-unavailable"),
        ({**OWN, "model_identities": ["remote"]}, "malformed-policy"),
        (
            {**OWN, "claims": {"output": [{"source": "hardware", "classes": ["software"]}]}},
            "policy-contradictory",
        ),
        (
            {
                **OWN,
                "requirements": {"a": {"use": "b"}, "b": {"use": "a"}},
                "claims": {"output": {"use": "a"}},
            },
            "policy-cycle",
        ),
        ({**OWN, "roots": {"a": ["@a"]}}, "policy-cycle"),
        (
            {**OWN, "claims": {"output": [{"source": "logged", "roots": ["@nobody"]}]}},
            "malformed-policy",
        ),
        ({**OWN, "claims": {"output": ["proven"] * 10_000}}, "too-large"),
        (
            {
                **OWN,
                "roots": {"many": [f"{'n' * 240}{number}" for number in range(256)]},
                "requirements": {
                    "a": {"source": "reexecuted", "nodes": 1, "nodes_among": ["@many"]}
                },
                "claims": {
                    "output": {
                        "any_of": [
                            {"source": "reexecuted", "nodes": k, "nodes_among": ["@many"]}
                            for k in range(1, 200)
                        ]
                    }
                },
            },
            "too-large",
        ),
        ({**OWN, "claims": {"output": {"any_of": [{"any_of": []}]}}}, "malformed-policy"),
        ({**OWN, "version": 2}, "malformed-policy"),
        ({**OWN, "service_logged": 1}, "malformed-policy"),
        ("attested+attested-software", "assurance-unavailable"),
        ("signed+sined", "assurance-unknown"),
    ],
)
def test_a_bad_policy_is_refused_before_any_work(gateway, assurance, code):
    """Each mistake has its own code, status 400, and runs nothing."""
    answer = ask(gateway, assurance)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["param"] == "assurance"
    assert "verispect" not in answer.json()


def test_a_policy_nested_without_end_is_refused(gateway):
    """Depth is bounded before anything is made of it."""
    nested: dict = {"any_of": ["asserted"]}
    for _ in range(40):
        nested = {"all_of": [nested]}
    answer = ask(gateway, {**OWN, "claims": {"output": nested}})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too-deep"


def test_header_and_body_must_not_ask_for_different_things(gateway):
    """Neither wins: the request is refused."""
    answer = ask(gateway, OWN, **{"verispect-assurance": "signed"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid-request"


def test_what_is_on_offer_is_listed_with_its_sums(tmp_path):
    """Models and the well-known document name presets and sums that can be asked for."""
    now = time.time_ns() // 1_000_000
    enclave = DevelopmentEnclave.create(tmp_path / "enclave", now - 60_000)
    attester = DevelopmentEnclaveAttester(enclave, clock=lambda: time.time_ns() // 1_000_000)
    with run_gateway(tmp_path, EchoLanguageModel(), attester=attester) as gateway:
        gateway.state.recorder.available["logged"] = PRESETS["logged"]
        with gateway.http() as client:
            (model, *_) = client.get("/v1/models").json()["data"]
            shown = client.get("/.well-known/verispect").json()["assurance"]
    assert model["verispect"]["assurance"] == ["attested-development", "logged", "signed"]
    assert model["verispect"]["assurance_sums"] == ["logged+attested-development"]
    (name,) = shown["sums"]
    assert shown["sums"][name] == expand("attested-development+logged").digest().hex()


def test_sums_leave_out_what_contradicts_itself_and_what_says_no_more():
    """Two attested presets exclude each other, and `signed` adds nothing."""
    sums = sums_of(PRESETS)
    assert "logged+proven" in sums
    assert "audited+attested+proven" in sums
    assert not any("signed" in name.split("+") for name in sums)
    assert not any(name.count("attested") > 1 for name in sums)
    assert len({policy.digest() for policy in sums.values()}) == len(sums)
    assert all(expand(name).digest() == policy.digest() for name, policy in sums.items())
