"""Attempts to have answers for nothing, made by an outsider to the payments: each is charged."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from confidential_gateway import Confidential, a_root, now
from paid_gateway import ASK, CHAT, SHEET, run_paid_gateway

from verispect.appraisal.policy import SIGNED
from verispect.attesters.development_enclave import DevelopmentEnclave, DevelopmentEnclaveAttester
from verispect.core.errors import Reason, StoreError
from verispect.payments.machine import PaymentMachine
from verispect.payments.store import State
from verispect.testing.echo_model import EchoLanguageModel

LONG = {**ASK, "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n o p"}]}
TAKEN = {State.CAPTURING, State.PENDING, State.CAPTURED}
ATTESTED = "attested-development"


@pytest.fixture
def gateway(tmp_path):
    with run_paid_gateway(tmp_path) as running:
        yield running


@pytest.fixture
def slow(tmp_path):
    with run_paid_gateway(tmp_path, EchoLanguageModel(pause_seconds=0.1)) as running:
        yield running


def settled(gateway):
    """Wait until every payment is owed, taken or given up, and return the states."""
    states = set()
    for _ in range(300):
        states = set(gateway.payments.store.totals())
        if states and states <= TAKEN | {State.RELEASED, State.FAILED}:
            break
        time.sleep(0.05)
    return states


def charged(gateway):
    return sum(charge for _, charge in gateway.payments.store.totals().values())


def begin(client, **fields):
    """Open a transaction; return its id, the headers of a part, and those of its end."""
    begun = client.post("/v1/transactions", json=fields).json()
    key = {"Verispect-Transaction-Key": begun["key"]}
    return begun["id"], {"Verispect-Transaction": begun["id"], **key}, key


def own(**fields):
    """Return what `signed` requires, with more of the caller's own."""
    return {**json.loads(json.dumps(SIGNED.to_json())), "name": "mine", **fields}


@contextmanager
def streamed(gateway, client, ask, headers=None, channel=None):
    """Pay for a stream and begin to read it."""
    ask = {**ask, "stream": True}
    asked = client.post(CHAT, json=ask, headers=headers)
    assert asked.status_code == 402, asked.text
    signed = (channel or gateway.channel()).sign(asked)
    given = {**(headers or {}), "PAYMENT-SIGNATURE": signed}
    with client.stream("POST", CHAT, json=ask, headers=given) as answer:
        assert answer.status_code == 200
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        next(lines)
        yield lines


def later(gateway, monkeypatch, seconds):
    """Put the clock of the payments forward."""
    real = gateway.payments._now
    for each in (gateway.payments, gateway.payments.watch, gateway.payments._machine):
        monkeypatch.setattr(each, "_now", lambda: real() + seconds)


@pytest.mark.parametrize("seconds", [600, 1])
def test_a_transaction_that_ends_during_a_stream_is_no_gift(slow, seconds):
    """Who aborts a transaction, or lets it expire, while a part is sent, owes that part."""
    with slow.http() as client, slow.http() as other:
        identifier, headers, key = begin(client, timeout_seconds=seconds)
        with streamed(slow, client, LONG, headers) as lines:
            if seconds == 600:
                ended = other.post(f"/v1/transactions/{identifier}/abort", headers=key)
                assert ended.status_code == 200, ended.text
            assert "data: [DONE]" in list(lines)
        shown = other.get(f"/v1/transactions/{identifier}", headers=key).json()
    assert shown["state"] == "aborted"
    assert settled(slow) <= TAKEN
    assert charged(slow) > 0


@pytest.mark.parametrize("action", ["commit", "abort"])
def test_waiting_makes_no_part_of_a_transaction_fail(gateway, action):
    """A policy that refuses old receipts binds its reader, not the bill."""
    ask = {**ASK, "assurance": own(maximum_age_seconds=1)}
    with gateway.http() as client:
        identifier, headers, key = begin(client)
        asked = client.post(CHAT, json=ask, headers=headers)
        paid = {**headers, "PAYMENT-SIGNATURE": gateway.channel().sign(asked)}
        assert client.post(CHAT, json=ask, headers=paid).status_code == 200
        time.sleep(1.5)
        ended = client.post(f"/v1/transactions/{identifier}/{action}", headers=key)
    assert ended.status_code == 200, ended.text
    assert settled(gateway) <= TAKEN


def test_a_commit_that_the_payments_were_not_told_of_is_paid(gateway, monkeypatch):
    """What became of a transaction is on disk: a lost message, or a death, loses no payment."""

    async def lost(*_arguments):
        return None

    monkeypatch.setattr(gateway.payments.watch, "committed", lost)
    with gateway.http() as client:
        identifier, headers, key = begin(client)
        asked = client.post(CHAT, json=ASK, headers=headers)
        paid = {**headers, "PAYMENT-SIGNATURE": gateway.channel().sign(asked)}
        assert client.post(CHAT, json=ASK, headers=paid).status_code == 200
        ended = client.post(f"/v1/transactions/{identifier}/commit", headers=key)
    assert ended.status_code == 200, ended.text
    assert settled(gateway) <= TAKEN


def test_a_policy_that_names_unknown_roots_is_not_sold(gateway):
    """An alternative that no verifier of ours can judge would leave a streamed answer unpaid."""
    claims = dict(own()["claims"])
    claims["output"] = ["asserted", {"source": "asserted", "roots": ["nobody"]}]
    refused = gateway.ask(stream=True, assurance=own(claims=claims))
    assert refused.json()["error"]["code"] == "assurance-unavailable"


def test_an_attestation_table_that_may_not_hold_is_not_sold(tmp_path):
    """Whether a revocation list is at hand is nothing to find out after the answer has left."""
    enclave = DevelopmentEnclave.create(tmp_path / "enclave", now())
    attester = DevelopmentEnclaveAttester(enclave, clock=now)
    sheet = SHEET.replace('"signed"', f'"{ATTESTED}"')
    claims = {**own()["claims"], "output": ["hardware"]}
    table = {"accepted_classes": ["development"]}
    with run_paid_gateway(tmp_path, sheet=sheet, attester=attester) as running:
        running.payments.watch.trusted = a_root(running.running, enclave)
        sold = running.ask(assurance=own(claims=claims, attestation=table))
        assert sold.status_code == 402, sold.text
        for more in ({"require_revocation": True}, {"minimum_tcb": {"x": 1}}, {"maximum_vmpl": 0}):
            refused = running.ask(assurance=own(claims=claims, attestation={**table, **more}))
            assert refused.json()["error"]["code"] == "assurance-unavailable", more


def test_an_encrypted_request_joins_no_transaction(tmp_path):
    """Nobody could check its references at the end, and the whole would fail, its answers given."""
    enclave = DevelopmentEnclave.create(tmp_path / "enclave", now())
    attester = DevelopmentEnclaveAttester(enclave, clock=now)
    sheet = SHEET.replace('"signed"', f'"{ATTESTED}"')
    with run_paid_gateway(tmp_path, sheet=sheet, attester=attester) as running:
        service = Confidential(running.running, enclave, tmp_path)
        with running.http() as client:
            _, headers, _ = begin(client)
        inner = {name.lower(): value for name, value in headers.items()}
        response = service.post(service.seal(json.dumps(ASK).encode(), **inner).body)
    assert response.json()["error"]["code"] == "confidential-request-invalid"


def test_a_stream_that_takes_long_is_paid_for(slow, monkeypatch):
    """A slow reader, or a slow model, is no reason to be paid nothing."""
    with slow.http() as client, streamed(slow, client, LONG) as lines:
        later(slow, monkeypatch, 300)
        assert "data: [DONE]" in list(lines)
    assert settled(slow) <= TAKEN


def test_a_stream_that_would_outlast_its_payment_is_cut_and_paid_for(slow, monkeypatch):
    """What was sent by then is charged; nothing more is sent."""
    with slow.http() as client, streamed(slow, client, LONG) as lines:
        later(slow, monkeypatch, 3600 + 240 - 60)
        assert "data: [DONE]" not in list(lines)
    assert settled(slow) <= TAKEN
    assert charged(slow) > 0


def test_a_payment_that_could_not_be_given_up_is_given_up_later(tmp_path, monkeypatch):
    """A full disk at the wrong moment holds no payment, and no channel, until a restart."""
    with run_paid_gateway(tmp_path, EchoLanguageModel(fail_after=0)) as gateway:

        def full(*_arguments):
            raise StoreError("disk full", reason=Reason.STORE_FAILED)

        channel = gateway.channel()
        with monkeypatch.context() as patch:
            patch.setattr(PaymentMachine, "release", full)
            assert gateway.ask(channel.sign(gateway.ask())).status_code == 500
        assert set(gateway.payments.store.totals()) == {State.EXECUTING}
        later(gateway, monkeypatch, 240 + 600)
        gateway.payments.watch.give_up_overdue()
        assert set(gateway.payments.store.totals()) == {State.RELEASED}
