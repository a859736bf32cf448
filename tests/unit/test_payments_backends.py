"""The till over a node of ours and over a facilitator, and what it refuses to open."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from till_shop import CEILING, Clock, Customer, Ed25519Signer, Shop, sheet
from web3 import Web3
from web3.providers.base import BaseProvider

from verispect.core.errors import Error, Reason
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.backends import (
    Backend,
    Wanted,
    facilitator_backend,
    signer_backend,
)
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.development import (
    ASSET,
    TOKEN_ADDRESS,
    TOKEN_NAME,
    TOKEN_VERSION,
    DevelopmentChain,
    development_key,
)
from verispect.payments.chain.facilitator_client import FacilitatorClient
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.chain.vouchers import send_and_wait
from verispect.payments.channels import ChannelStore
from verispect.payments.machine import PaymentMachine
from verispect.payments.pricing import PriceRow, PriceSheet
from verispect.payments.store import PaymentStore, State
from verispect.payments.x402_adapter_facilitator import X402Facilitator
from verispect.payments.x402_till import PaymentMode, TillSettings, X402Till, open_till
from verispect.testing.hostile_facilitator import HostileFacilitator, Treachery

URL = "http://facilitator.test"


class Node(BaseProvider):
    """The development chain as a node far away, which is not known to be embedded."""

    def __init__(self, inner) -> None:
        super().__init__()
        self._inner = inner

    def request_func(self, w3, middleware_onion):
        return self._inner.request_func(w3, middleware_onion)


class FarShop(Shop):
    """A shop whose chain is elsewhere."""

    def __init__(self, folder: Path, make) -> None:
        self.far = DevelopmentChain()
        self.clock = Clock()
        self.payments = PaymentStore(folder / "payments.sqlite3")
        channels = ChannelStore(folder / "channels.sqlite3")
        wanted = Wanted(ASSET, channels, folder, self.far.payee, 1, 0, self.clock)
        backend: Backend = make(self.far, wanted)
        self.till = X402Till(backend, channels, self.payments, sheet(), Ed25519Signer(), self.clock)
        self.machine = PaymentMachine(self.payments, self.till.settlement, now=self.clock)
        self.ran = 0

    @property
    def world(self) -> DevelopmentChain:
        return self.far


def over_a_node(world: DevelopmentChain, wanted: Wanted) -> Backend:
    account = ChainAccount(development_key("facilitator"))
    chain = Chain(Web3(Node(world.chain.web3.provider)))
    return signer_backend(wanted, ChainSigner(chain, account), account)


def over_a_facilitator(treachery: Treachery = Treachery.NONE, *, has_node: bool = True):
    def make(world: DevelopmentChain, wanted: Wanted) -> Backend:
        hostile = HostileFacilitator(X402Facilitator(world.facilitator_signer))
        client = FacilitatorClient(URL, transport=hostile)
        account = ChainAccount(development_key("authoriser"))
        backend = facilitator_backend(wanted, client, world.chain if has_node else None, account)
        hostile.treachery = treachery
        return backend

    return make


@pytest.mark.parametrize("make", [over_a_node, over_a_facilitator()])
def test_it_sells_over_a_node_and_through_a_facilitator(tmp_path, make):
    """Transfers and channels are paid, claimed in one go, and refunded, wherever the chain is."""
    from test_payments_till import refunded
    from till_shop import decoded

    shop = FarShop(tmp_path, make)
    fixed = Customer(shop, "exact", 1).ask(b"fixed")
    assert fixed.payment.state is State.CAPTURED, fixed.error
    customers = [Customer(shop, "batch-settlement", payer) for payer in (2, 3)]
    for customer in customers:
        assert customer.ask(b"one", charge=400).status == 200
        assert customer.ask(b"two", charge=600).status == 200
    assert shop.sweep() == 4
    assert shop.world.balance(shop.world.payee) == CEILING + 2_000
    back = decoded(refunded(shop, customers[0], 1_000))
    assert back["amount"] == str(10 * CEILING - 1_000)
    shop.close()


@pytest.mark.parametrize("treachery", list(Treachery))
def test_a_facilitator_that_betrays_gets_nothing_sold_unpaid(tmp_path, treachery):
    """A deposit that is not on the chain buys nothing, whatever a facilitator says of it."""
    shop = FarShop(tmp_path, over_a_facilitator(treachery))
    customer = Customer(shop, "batch-settlement")
    answer = customer.ask(b"one", charge=400)
    deposited = shop.world.balance(BATCH_SETTLEMENT)
    assert (answer.status == 200) == (deposited > 0)
    assert shop.ran == (1 if deposited else 0)
    shop.close()


def test_without_a_node_a_facilitators_word_captures_nothing(tmp_path):
    """Channels are not offered, and a transfer that it says is settled stays pending."""
    from verispect.payments import backends
    from verispect.payments.merchant import Token

    world_token = Token(TOKEN_ADDRESS, TOKEN_NAME, TOKEN_VERSION)
    known = backends.known_token
    backends.known_token = lambda *_: world_token
    try:
        shop = FarShop(tmp_path, over_a_facilitator(has_node=False))
    finally:
        backends.known_token = known
    assert shop.till.price_list()["schemes"] == ["upto", "exact"]
    answer = Customer(shop, "exact").ask(b"one")
    assert (answer.status, answer.payment.state) == (200, State.PENDING)
    assert answer.settled["errorReason"] == "settlement_pending"
    shop.close()


def test_what_cannot_be_sold_for_is_not_opened(tmp_path):
    """Another chain's token, a missing node, key, payee or facilitator is refused at the start."""
    elsewhere = PriceSheet(
        "eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
        [PriceRow("smollm2", "signed", 1, 1)],
    )
    store = PaymentStore(tmp_path / "payments.sqlite3")
    wrong = [
        (TillSettings(PaymentMode.DEV, elsewhere, tmp_path), Reason.CHAIN_UNEXPECTED),
        (TillSettings(PaymentMode.DEV, sheet(), tmp_path, pay_to="0x1"), Reason.MALFORMED_PAYMENT),
        (TillSettings(PaymentMode.RPC, elsewhere, tmp_path), Reason.MALFORMED_PAYMENT),
        (TillSettings(PaymentMode.FACILITATOR, elsewhere, tmp_path), Reason.MALFORMED_PAYMENT),
    ]
    for settings, reason in wrong:
        with pytest.raises(Error) as refused:
            open_till(settings, store=store, signer=Ed25519Signer(), now=Clock())
        assert refused.value.reason is reason
    store.close()


class Yes(httpx.BaseTransport):
    """A facilitator that says that everything is good, and moves nothing."""

    def __init__(self, world: DevelopmentChain) -> None:
        self._facilitator = X402Facilitator(world.facilitator_signer)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/supported":
            return httpx.Response(200, json=self._facilitator.supported())
        said = {"isValid": True, "success": True, "transaction": "0x" + "ab" * 32}
        return httpx.Response(200, json=said)


@pytest.mark.parametrize("scheme", ["exact", "upto", "batch-settlement"])
def test_a_facilitator_is_not_believed_where_a_node_can_be_asked(tmp_path, scheme):
    """A payer without money buys nothing, though the facilitator says that its payment is good."""

    def make(world: DevelopmentChain, wanted: Wanted) -> Backend:
        client = FacilitatorClient(URL, transport=Yes(world))
        account = ChainAccount(development_key("authoriser"))
        return facilitator_backend(wanted, client, world.chain, account)

    shop = FarShop(tmp_path, make)
    good = Customer(shop, scheme)
    everything = shop.world.balance(good.address)
    data = call_data("transfer(address,uint256)", shop.world.payer(1).address, everything)
    send_and_wait(shop.world.signer("payer-0"), TOKEN_ADDRESS, data)
    answer = good.ask(b"one")
    assert answer.status == 402
    assert shop.ran == 0
    shop.close()
