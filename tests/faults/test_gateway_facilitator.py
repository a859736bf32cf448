"""A paid gateway whose facilitator betrays: nothing is served unpaid, and nothing is paid twice."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from paid_gateway import SHEET, PaidGateway, opened
from running_gateway import run_gateway

from verispect.gateway.limits import Limits
from verispect.gateway.payment_service import PaymentConfiguration, open_payments, paid_limits
from verispect.ledger.anchor.chain import Chain
from verispect.payments import backends, x402_till
from verispect.payments.chain.development import DevelopmentChain
from verispect.payments.chain.facilitator_client import FacilitatorClient
from verispect.payments.merchant import Token
from verispect.payments.store import State
from verispect.payments.x402_adapter_facilitator import X402Facilitator
from verispect.testing.echo_model import EchoLanguageModel
from verispect.testing.hostile_facilitator import HostileFacilitator, Treachery

PRICE = 219


class FarGateway(PaidGateway):
    """A gateway whose chain and facilitator are elsewhere."""

    far: DevelopmentChain
    hostile: HostileFacilitator

    @property
    def world(self) -> DevelopmentChain:
        return self.far


@contextmanager
def run_with_facilitator(directory: Path, *, has_node: bool):
    """Serve through somebody else's facilitator, with a node of our own or without."""
    world = DevelopmentChain()
    hostile = HostileFacilitator(X402Facilitator(world.facilitator_signer))
    prices = directory / "prices.toml"
    prices.write_text(SHEET)
    configuration = PaymentConfiguration(
        "facilitator",
        str(prices),
        pay_to=world.payee,
        facilitator="http://facilitator.test",
        rpc="http://node.test" if has_node else None,
    )
    token = Token(world.token.address, world.token.name, world.token.version)
    with pytest.MonkeyPatch.context() as patch:
        # In the place of the network, and of a token that everybody knows.
        patch.setattr(
            x402_till, "FacilitatorClient", lambda url: FacilitatorClient(url, transport=hostile)
        )
        patch.setattr(Chain, "connect", lambda *_arguments, **_named: world.chain)
        patch.setattr(backends, "known_token", lambda *_arguments: token)
        with run_gateway(
            directory,
            EchoLanguageModel(),
            sell=lambda issuer: open_payments(configuration, directory, issuer.signer),
            limits=paid_limits(Limits()),
        ) as running:
            assert running.state.payments is not None
            gateway = FarGateway(running, running.state.payments)
            gateway.far, gateway.hostile = world, hostile
            yield gateway


@pytest.mark.parametrize("treachery", list(Treachery))
def test_an_answer_leaves_when_the_chain_has_the_money(tmp_path, treachery):
    """Whatever a facilitator says, the node decides; later the same payment has its answer."""
    with run_with_facilitator(tmp_path, has_node=True) as gateway:
        header = gateway.pay()
        gateway.hostile.treachery = treachery
        first = gateway.ask(header)
        paid = gateway.balance("payee")
        assert (first.status_code, paid) in {(200, PRICE), (503, 0), (503, PRICE)}, first.text
        gateway.hostile.treachery = Treachery.NONE
        second = _ask_until_known(gateway, header)
        assert second.status_code == 200, second.text
        assert first.status_code == 503 or second.content == first.content
        assert opened(second.headers["payment-response"])["success"]
        assert gateway.running.model.started == 1
        assert gateway.balance("payee") == PRICE
        assert gateway.payments.store.totals().keys() == {State.CAPTURED}


def _ask_until_known(gateway, header):
    """Present a payment as often as the server asks: its watch may be at the same one."""
    deadline = time.monotonic() + 30
    answer = gateway.ask(header)
    while answer.status_code == 503 and time.monotonic() < deadline:
        assert answer.json()["error"]["code"] == "payment-pending", answer.text
        time.sleep(0.05)
        answer = gateway.ask(header)
    return answer


def test_without_a_node_the_answer_leaves_and_the_payment_stays_pending(tmp_path):
    """Such a server never sees its money: it says so, and captures on nobody's word."""
    with run_with_facilitator(tmp_path, has_node=False) as gateway:
        header = gateway.pay()
        answer = gateway.ask(header)
        assert answer.status_code == 200, answer.text
        said = opened(answer.headers["payment-response"])
        assert (said["success"], said["errorReason"]) == (False, "settlement_pending")
        assert gateway.ask(header).content == answer.content
        assert gateway.payments.store.totals().keys() == {State.PENDING}
        assert gateway.balance("payee") == PRICE
        assert gateway.running.model.started == 1


def test_without_a_node_a_transfer_that_is_refused_buys_no_answer(tmp_path, monkeypatch):
    """A payer that spent its money after it was looked at, or promised it twice, gets nothing."""
    with run_with_facilitator(tmp_path, has_node=False) as gateway:
        header = gateway.pay()
        refusal = {
            "success": False,
            "errorReason": "insufficient_funds",
            "transaction": "",
            "network": "eip155:1",
        }
        with monkeypatch.context() as patch:
            patch.setattr(gateway.hostile, "_really_settle", lambda *_: refusal)
            for _ in range(2):
                answer = gateway.ask(header)
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] == "payment-pending"
        assert gateway.balance("payee") == 0
        assert gateway.ask(header).status_code == 200
        assert gateway.balance("payee") == PRICE
        assert gateway.running.model.started == 1
