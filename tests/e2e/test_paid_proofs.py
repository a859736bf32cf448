"""A proof that was paid for: the money is owed when it came in time, and never when it did not."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from paid_gateway import PaidGateway, opened
from running_gateway import RunningGateway
from test_proven_receipts import MODEL, make_home, prover_process, serving, tensor_body

from verispect.appraisal.metering import verify_bill
from verispect.core.receipt import InferenceReceipt
from verispect.payments.chain.development import ASSET
from verispect.payments.store import State
from verispect.testing.echo_model import EchoLanguageModel

pytestmark = pytest.mark.slow

PRICES = f"""
version = 1
asset = "{ASSET}"

[[price]]
model = "{MODEL}"
assurance = "proven"
input_per_million = 500_000_000
output_per_million = 0
"""


def selling(home: Path, **options):
    """Serve the provable model for money."""
    (home / "prices.toml").write_text(PRICES)
    payments = {"mode": "dev", "prices": str(home / "prices.toml")}
    return serving(home, payments=payments, **options)


def buy(address: str, service, *, wait: bool = False, scheme: str = "batch-settlement"):
    """Ask, pay and return the answer with the gateway as payers see it."""
    running = RunningGateway(address, EchoLanguageModel(), service.state)
    gateway = PaidGateway(running, service.state.payments)
    url = f"{address}/v2/models/{MODEL}/infer"
    headers = {"verispect-assurance": "proven", **({"verispect-proof": "wait"} if wait else {})}
    body = tensor_body(address, 1)
    asked = httpx.post(url, json=body, headers=headers, timeout=120)
    assert asked.status_code == 402, asked.text
    required = opened(asked.headers["payment-required"])
    offered = {each["scheme"] for each in required["accepts"]}
    assert offered == ({"batch-settlement", "upto", "exact"} if wait else {"batch-settlement"})
    channel = gateway.channel()
    signed = channel.sign(asked) if scheme == "batch-settlement" else gateway.sign(asked, scheme)
    paid = {**headers, "PAYMENT-SIGNATURE": signed}
    answer = httpx.post(url, json=body, headers=paid, timeout=120)
    assert answer.status_code == 200, answer.text
    return gateway, answer


def statement_of(address: str, answer: httpx.Response):
    receipt = httpx.get(f"{address}/v1/receipts/{answer.headers['verispect-receipt-id']}").content
    return InferenceReceipt.parse(receipt).unverified_statement


def await_state(gateway: PaidGateway, payment, *states: State) -> State:
    state = None
    for _ in range(1200):
        state = gateway.payments.store.get(payment).state
        if state in states:
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_a_proof_is_paid_for_once_it_is_there(tmp_path):
    """The answer is there at once; its charge is owed when the proof verified, and not before."""
    with selling(make_home(tmp_path)) as (address, service):
        gateway, answer = buy(address, service)
        statement = statement_of(address, answer)
        assert verify_bill(statement).charge == statement.price.charge > 0
        settled = opened(answer.headers["payment-response"])
        assert settled["extra"]["chargedAmount"] == str(statement.price.charge)
        payment = statement.payment.authorisation
        await_state(gateway, payment, State.PENDING)
        status = httpx.get(f"{address}/v1/receipts/{answer.headers['verispect-receipt-id']}/proof")
        assert status.json()["state"] == "done"
        gateway.payments.watch._sweep()
        assert await_state(gateway, payment, State.CAPTURED) is State.CAPTURED
        assert gateway.balance("payee") == statement.price.charge


def test_who_waits_for_the_proof_can_pay_by_a_transfer(tmp_path):
    """A proof that comes with the answer leaves nothing open, so that any scheme pays for it."""
    with selling(make_home(tmp_path)) as (address, service):
        gateway, answer = buy(address, service, wait=True, scheme="exact")
        payment = statement_of(address, answer).payment.authorisation
        assert gateway.payments.store.get(payment).state is State.CAPTURED


def test_a_proof_that_does_not_come_is_not_paid_for(tmp_path):
    """Where the prover is stopped until after the deadline nothing is taken."""
    with selling(make_home(tmp_path), proof_seconds=2) as (address, service):
        prover = prover_process(service)
        os.kill(prover, signal.SIGSTOP)
        try:
            gateway, answer = buy(address, service)
            payment = statement_of(address, answer).payment.authorisation
            receipt_id = answer.headers["verispect-receipt-id"]
            key = {"verispect-opening-key": answer.headers["verispect-opening-key"]}
            kept = httpx.delete(f"{address}/v1/receipts/{receipt_id}/proof", headers=key)
            assert kept.status_code == 409, "whoever cancels what it ordered pays for it"
            assert await_state(gateway, payment, State.RELEASED) is State.RELEASED
        finally:
            os.kill(prover, signal.SIGCONT)
        gateway.payments.watch._sweep()
        assert gateway.balance("payee") == 0
        again = httpx.get(f"{address}/v1/payments/{payment.hex()}").json()
        assert (again["state"], again.get("addendum")) == ("released", None)
