"""Facilitators that betray: money moves at most once, and what moved is what was earned."""

from __future__ import annotations

import dataclasses
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from payment_wires import AMOUNT, Channel, EverythingIsOwed, exact_payment

from verispect.core.encoding import sha256
from verispect.core.errors import Error, NetworkError, VerificationError
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.development import TOKEN_ADDRESS, DevelopmentChain
from verispect.payments.chain.facilitator_client import (
    FacilitatorClient,
    FacilitatorSettlement,
    observer,
)
from verispect.payments.chain.facilitator_service import FacilitatorService
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.machine import PaymentMachine
from verispect.payments.settlement import Standing
from verispect.payments.store import PaymentStore, State
from verispect.payments.x402_adapter_facilitator import X402Facilitator
from verispect.testing.hostile_facilitator import HostileFacilitator, Treachery

URL = "http://facilitator.test"


class Shop:
    """A payment machine whose money a hostile facilitator moves."""

    def __init__(self, folder: Path, treachery: Treachery) -> None:
        self.world = DevelopmentChain()
        facilitator = X402Facilitator(self.world.facilitator_signer)
        self.hostile = HostileFacilitator(facilitator, treachery)
        client = FacilitatorClient(URL, transport=self.hostile)
        authoriser = self.world.account("authoriser")
        settlement = FacilitatorSettlement(
            client,
            observer(self.world.chain, book=EverythingIsOwed()),
            book=EverythingIsOwed(),
            authoriser=authoriser,
        )
        self.machine = PaymentMachine(
            PaymentStore(folder / "payments.sqlite"), settlement, now=lambda: int(time.time())
        )

    def sell(self, payment, charge: int):
        """Serve one paid request to the point where its money is owed."""
        reserved = self.machine.reserve(
            payment.authorisation,
            request=payment.request,
            sheet=payment.sheet,
            ceiling=payment.ceiling,
            deadline=int(time.time()) + 300,
        )
        assert reserved.is_new
        self.machine.execute(payment.payment_id)
        self.machine.deliver(payment.payment_id, b"answer", charge=charge)
        return self.machine.assurance_met(payment.payment_id)


@pytest.mark.parametrize("treachery", list(Treachery))
def test_money_moves_once_whatever_the_facilitator_does(tmp_path, treachery):
    """Captured is what the chain shows; a betrayed capture is made good when the betrayal ends."""
    shop = Shop(tmp_path, treachery)
    world = shop.world
    payment = exact_payment(world)
    before = world.balance(world.payer().address)
    shop.sell(payment, AMOUNT)
    first = shop.machine.capture(payment.payment_id)
    moved = world.balance(world.payee)
    assert (first.state is State.CAPTURED) == (moved == AMOUNT)
    assert first.state in {State.CAPTURED, State.PENDING}
    shop.hostile.treachery = Treachery.NONE
    shop.machine.reconcile()
    last = shop.machine.capture(payment.payment_id)
    assert last.state is State.CAPTURED
    assert world.balance(world.payee) == AMOUNT
    assert before - world.balance(world.payer().address) == AMOUNT
    assert shop.hostile.settled == 1


def test_a_channel_is_claimed_once_whatever_the_facilitator_does(tmp_path):
    """What payers lost is what the payee got and what is left in the channel."""
    shop = Shop(tmp_path, Treachery.FAILS_AFTER_SETTLING)
    world = shop.world
    before = world.balance(world.payer().address)
    channel = Channel(world, deposit=50_000)
    for number, treachery in enumerate(Treachery):
        shop.hostile.treachery = treachery
        payment = channel.payment(100 + number)
        shop.sell(payment, 100 + number)
        shop.machine.capture(payment.payment_id)
    shop.hostile.treachery = Treachery.NONE
    assert all(payment.state is State.CAPTURED for payment in shop.machine.reconcile())
    ChainSettlement(world.facilitator_signer).pay_out(world.payee, TOKEN_ADDRESS)
    earned = sum(100 + number for number in range(len(Treachery)))
    assert world.balance(world.payee) == earned
    left = world.balance(BATCH_SETTLEMENT)
    assert before - world.balance(world.payer().address) == earned + left


def test_without_a_chain_nobodys_word_captures(tmp_path):
    """A facilitator that says that it settled leaves the payment pending."""
    world = DevelopmentChain()
    hostile = HostileFacilitator(
        X402Facilitator(world.facilitator_signer), Treachery.LIES_THAT_IT_SETTLED
    )
    settlement = FacilitatorSettlement(FacilitatorClient(URL, transport=hostile), None)
    payment = exact_payment(world)
    settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNKNOWN


def test_a_facilitator_that_says_no_is_an_error():
    """Refusals and failures are our errors, and each is the right one."""
    world = DevelopmentChain()
    hostile = HostileFacilitator(X402Facilitator(world.facilitator_signer))
    client = FacilitatorClient(URL, transport=hostile)
    payment = exact_payment(world)
    bad = dataclasses.replace(payment.authorisation, wire=payment.authorisation.wire)
    import json

    payload = json.loads(bad.wire)
    client.verify(payload, payload["accepted"])
    payload["payload"]["authorization"]["value"] = "1"
    with pytest.raises(VerificationError):
        client.verify(payload, payload["accepted"])
    hostile.treachery = Treachery.ANSWERS_202
    with pytest.raises(NetworkError):
        client.settle(payload, payload["accepted"])
    assert {kind["scheme"] for kind in client.supported()["kinds"]} == {
        "exact",
        "upto",
        "batch-settlement",
    }


def test_copies_brought_at_once_move_money_once():
    """Many threads that settle one payment move it once, and the chain counts it once."""
    world = DevelopmentChain()
    settlement = ChainSettlement(world.facilitator_signer)
    payment = exact_payment(world)

    def bring(_: int) -> bool:
        try:
            settlement.settle(payment, AMOUNT)
        except Error:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        brought = list(threads.map(bring, range(8)))
    assert any(brought)
    assert world.balance(world.payee) == AMOUNT
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID


async def test_our_own_facilitator_settles_a_copy_once():
    """Copies that come at once over HTTP get one answer, and one transaction is sent."""
    import asyncio
    import json

    world = DevelopmentChain()
    service = FacilitatorService(X402Facilitator(world.facilitator_signer))
    payload = json.loads(exact_payment(world).authorisation.wire)
    body = {
        "x402Version": 2,
        "paymentPayload": payload,
        "paymentRequirements": payload["accepted"],
    }
    nonce = world.chain.next_nonce(world.facilitator_signer.address)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url=URL) as client:
        good = await client.post("/verify", json=body)
        assert good.json()["isValid"] is True
        answers = await asyncio.gather(*(client.post("/settle", json=body) for _ in range(5)))
        assert (await client.post("/settle", content=b"[")).status_code == 400
        assert (await client.post("/settle", content=b" " * 100_000)).status_code == 400
        assert (await client.get("/settle")).status_code == 404
        supported = (await client.get("/supported")).json()
    service.close()
    assert len({sha256(answer.content) for answer in answers}) == 1
    assert answers[0].json()["success"] is True
    assert world.balance(world.payee) == AMOUNT
    assert world.chain.next_nonce(world.facilitator_signer.address) == nonce + 1
    assert supported["signers"]["eip155:*"] == [world.facilitator_signer.address]
