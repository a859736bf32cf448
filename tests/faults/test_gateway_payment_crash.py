"""A paid gateway dies at each step of a payment, and starts again on the same disk.

Whatever the step: the payer pays at most once, for an answer that it then has; and where nothing
was taken, nothing ever is. Dying is simulated by what a step raises; what is on disk is real, the
money is real on the development chain, and no step after it runs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from paid_gateway import opened, run_paid_gateway

from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.machine import PaymentMachine
from verispect.payments.store import State
from verispect.payments.x402_till import X402Till

PRICE = 219
"""Of the request with the scheme `exact`."""

STEPS = {
    "read": (X402Till, "read"),
    "reserve": (PaymentMachine, "reserve"),
    "execute": (PaymentMachine, "execute"),
    "deliver": (PaymentMachine, "deliver"),
    "announce": (X402Till, "delivered"),
    "assurance": (PaymentMachine, "assurance_met"),
    "capture": (PaymentMachine, "capture"),
    "settle": (ChainSettlement, "settle"),
    "answer": (X402Till, "response"),
}
AFTER_DELIVERY = {"announce", "assurance", "capture", "settle", "answer"}


class ProcessDied(BaseException):
    """The process ended here; nothing catches it as an error."""


def die_at(patch: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    """Let the process die at a step, and run nothing of a payment from then on."""
    owner, name = STEPS[step]
    real = getattr(owner, name)

    def dying(*arguments, **named):
        if after:
            real(*arguments, **named)
        # Whoever is dead releases nothing and takes nothing.
        for dead, method in [(PaymentMachine, "release"), (PaymentMachine, "capture")]:
            patch.setattr(dead, method, _dead)
        raise RuntimeError("died")

    patch.setattr(owner, name, dying)


def _dead(*_arguments, **_named):
    raise RuntimeError("dead")


def present(gateway, header):
    """Present a payment until it is known what became of it, as a client is told to."""
    for _ in range(100):
        answer = gateway.ask(header)
        if answer.status_code != 503:
            return answer
        time.sleep(0.05)
    raise AssertionError(answer.text)


def await_assurance(gateway) -> None:
    """Wait until the watch has looked at everything that was delivered."""
    for _ in range(200):
        if State.DELIVERED not in gateway.payments.store.totals():
            return
        time.sleep(0.05)
    raise AssertionError(gateway.payments.store.totals())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_death_at_any_step_costs_at_most_one_answer(tmp_path, step, after):
    """After a restart the same payment gets its answer or was never taken."""
    with run_paid_gateway(tmp_path) as gateway:
        header = gateway.pay()
        before = gateway.balance("payer-0")
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, step, after=after)
            died = gateway.ask(header)
            assert died.status_code == 500
    with run_paid_gateway(tmp_path) as gateway:
        again = present(gateway, header)
        taken = before - gateway.balance("payer-0")
        assert gateway.balance("payee") == taken
        totals = gateway.payments.store.totals()
        if step in AFTER_DELIVERY or (step == "deliver" and after):
            # It was kept: it is paid for and given, whatever was said before.
            assert (again.status_code, taken) == (200, PRICE), again.text
            assert totals.keys() == {State.CAPTURED}
            assert gateway.running.model.started == 0
        elif step == "read" or (step == "reserve" and not after):
            assert (again.status_code, taken) == (200, PRICE)
            assert gateway.running.model.started == 1
        else:
            assert (again.status_code, taken) == (402, 0)
            assert totals.keys() == {State.RELEASED}
            assert opened(again.headers["payment-response"])["success"] is False
        assert gateway.ask(header).content == again.content or again.status_code == 402
        assert gateway.balance("payee") == taken


@pytest.mark.parametrize("step", ["execute", "deliver", "announce", "assurance"])
def test_a_channel_goes_on_after_a_death(tmp_path, step):
    """A channel that was held when the process died pays again, and for what was delivered only."""
    with run_paid_gateway(tmp_path) as gateway:
        channel = gateway.channel()
        first = gateway.ask(channel.sign(gateway.ask()))
        channel.paid(opened(first.headers["payment-response"]))
        header = channel.sign(gateway.ask())
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, step, after=True)
            assert gateway.ask(header).status_code == 500
    with run_paid_gateway(tmp_path) as gateway:
        again = gateway.ask(header)
        assert again.status_code == 200, again.text
        channel.paid(opened(again.headers["payment-response"]))
        third = gateway.ask(channel.sign(gateway.ask()))
        channel.paid(opened(third.headers["payment-response"]))
        await_assurance(gateway)
        gateway.payments.watch._sweep()
        assert gateway.balance("payee") == channel.charged == 3 * 45
