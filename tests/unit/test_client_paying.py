"""The paying client against a real paid gateway: offers, caps, receipts, bills."""

from __future__ import annotations

import concurrent.futures
from dataclasses import replace

import httpx
import pytest
from paid_gateway import ASK, run_paid_gateway
from payment_wires import approve_permit2

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.exchange import verify_exchange
from verispect.client.paying import Payer
from verispect.client.paying_journal import PaymentJournal, PromiseState, SpendCaps
from verispect.client.session import GatewayClient
from verispect.client.wallet import Wallet
from verispect.core.errors import (
    Error,
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    StoreError,
)
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.development import ASSET, development_key
from verispect.payments.wire import read_answer_header

CAPS = SpendCaps(ASSET, per_request=1_000, per_day=100_000, per_host=100_000)
CEILING = 19 + 2 * 100


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_paid_gateway(tmp_path_factory.mktemp("paid")) as running:
        yield running


@pytest.fixture
def journal(tmp_path):
    opened = PaymentJournal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def make_payer(gateway, journal, caps=CAPS, payer=3, **options):
    root = TrustedRoot([gateway.running.state.recorder.issuer.trusted_key()])
    wallet = Wallet(development_key(f"payer-{payer}"))
    options = {"schemes": (Scheme.EXACT,), "patience": (0.0, 0.0)} | options
    return Payer(wallet, journal, caps, root, **options)


def ask(gateway, payer, transport=None, words="one two three", stream=False, **options):
    with GatewayClient(gateway.running.base_url, payer=payer, transport=transport) as client:
        messages = [{"role": "user", "content": words}]
        options = {"max_tokens": ASK["max_tokens"], **options}
        return client.chat("echo", messages, stream=stream, options=options)


def origin(gateway):
    return gateway.running.base_url


class Cutting(httpx.BaseTransport):
    """A network that loses the answers of paid requests, as often as it is told."""

    def __init__(self, losses):
        self.losses = losses
        self.paid = []
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request):
        answer = self._inner.handle_request(request)
        signature = request.headers.get("payment-signature")
        if signature is not None:
            self.paid.append(signature)
            if self.losses:
                self.losses -= 1
                answer.read()
                raise httpx.ReadError("lost", request=request)
        return answer


def test_a_paid_answer_is_verified_and_billed(gateway, journal):
    """The caller gets the answer, the payee the money, and the journal the proof."""
    payer = make_payer(gateway, journal)
    payee = gateway.balance("payee")
    exchange = ask(gateway, payer)
    verify_exchange(exchange, trusted_root=payer.trusted_root, policy=payer.policy, now=10**13)
    assert gateway.balance("payee") - payee == CEILING
    assert payer.last_bill.charge == CEILING
    assert payer.last_bill.metered == 19 + 2 * 13
    assert journal.spent(ASSET, now=payer.now()) == CEILING
    assert journal.state(1) is PromiseState.PROVEN


def test_a_gateway_that_asks_for_nothing_is_paid_nothing(gateway, journal):
    """A payer asks the price first, so that what is free stays free."""
    payer = make_payer(gateway, journal)
    with GatewayClient(gateway.running.base_url, payer=payer) as client, pytest.raises(Error):
        client.chat("nobody", [{"role": "user", "content": "x"}])
    assert journal.spent(ASSET, now=payer.now()) == 0


@pytest.mark.parametrize(
    "caps",
    [
        replace(CAPS, per_request=CEILING - 1),
        replace(CAPS, per_day=CEILING - 1),
        replace(CAPS, per_host=CEILING - 1),
    ],
    ids=["request", "day", "host"],
)
def test_a_cap_is_kept_before_anything_is_signed(gateway, journal, caps):
    """What is dearer than a cap is not paid, and counts nothing."""
    payer = make_payer(gateway, journal, caps)
    with pytest.raises(RequestError) as caught:
        ask(gateway, payer)
    assert caught.value.reason is Reason.SPEND_LIMIT
    assert journal.spent(ASSET, now=payer.now()) == 0


def test_caps_hold_among_threads(gateway, journal):
    """Of many requests at once as many are paid as the cap allows, and no more."""
    payer = make_payer(gateway, journal, replace(CAPS, per_day=3 * CEILING + 1))

    def one(number):
        try:
            ask(gateway, payer, seed=number)
        except RequestError as error:
            return error.reason
        return None

    payee = gateway.balance("payee")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(one, range(8)))
    assert outcomes.count(None) == 3
    assert outcomes.count(Reason.SPEND_LIMIT) == 5
    assert gateway.balance("payee") - payee == 3 * CEILING


def test_caps_hold_over_a_restart(gateway, tmp_path):
    """A journal that is opened again still counts what was promised."""
    path = tmp_path / "journal.sqlite"
    for expected in (None, Reason.SPEND_LIMIT):
        journal = PaymentJournal(path)
        payer = make_payer(gateway, journal, replace(CAPS, per_day=CEILING))
        try:
            ask(gateway, payer, user=str(expected))
            reason = None
        except RequestError as error:
            reason = error.reason
        assert reason is expected
        journal.close()


def test_a_lost_answer_is_asked_for_with_the_same_payment(gateway, journal):
    """One authorisation is signed and presented again; it is paid once and shown once."""
    payer = make_payer(gateway, journal)
    payee = gateway.balance("payee")
    network = Cutting(losses=2)
    ask(gateway, payer, network)
    assert len(network.paid) == 3
    assert len(set(network.paid)) == 1
    assert gateway.balance("payee") - payee == CEILING


def test_a_payment_survives_its_payers_death(gateway, tmp_path):
    """After a crash the same request presents what was signed, from the journal."""
    path = tmp_path / "journal.sqlite"
    journal = PaymentJournal(path)
    network = Cutting(losses=9)
    payee = gateway.balance("payee")
    with pytest.raises(NetworkError):
        ask(gateway, make_payer(gateway, journal), network)
    journal.close()
    journal = PaymentJournal(path)
    payer = make_payer(gateway, journal)
    again = Cutting(losses=0)
    exchange = ask(gateway, payer, again)
    verify_exchange(exchange, trusted_root=payer.trusted_root, policy=payer.policy, now=10**13)
    assert set(again.paid) == set(network.paid)
    assert gateway.balance("payee") - payee == CEILING
    assert journal.spent(ASSET, now=payer.now()) == CEILING
    journal.close()


def test_no_valid_receipt_no_next_payment(gateway, journal):
    """Another request is not paid for while an earlier payment has no good receipt."""
    payer = make_payer(gateway, journal)
    with pytest.raises(NetworkError):
        ask(gateway, payer, Cutting(losses=9))
    other = Cutting(losses=0)
    with pytest.raises(RequestError) as caught:
        ask(gateway, payer, other, words="something else")
    assert caught.value.reason is Reason.PAYMENT_UNPROVEN
    assert other.paid == []
    assert payer.forgive(origin(gateway)) == 1
    ask(gateway, payer, other, words="something else")
    assert journal.spent(ASSET, now=payer.now()) > CEILING


def test_only_the_payers_own_token_is_paid_with(gateway, journal):
    """An offer in another token is refused, whatever its amount."""
    caps = replace(CAPS, asset=ASSET[:-1] + "f")
    with pytest.raises(RequestError, match="another token"):
        ask(gateway, make_payer(gateway, journal, caps))


def test_an_offer_of_a_stranger_is_refused(gateway, journal):
    """Nothing is signed for an offer whose key the caller does not trust."""
    payer = make_payer(gateway, journal)
    payer.trusted_root = TrustedRoot([])
    with pytest.raises(Error) as caught:
        ask(gateway, payer)
    assert caught.value.reason is Reason.OFFER_INVALID


def test_a_journal_has_one_process(tmp_path, journal):
    """Two payers of one journal could each spend what the other counted."""
    with pytest.raises(StoreError) as caught:
        PaymentJournal(tmp_path / "journal.sqlite")
    assert caught.value.reason is Reason.STORE_LOCKED


def test_a_key_is_read_where_nobody_else_reads(tmp_path, monkeypatch):
    """A key comes from a private file or the environment, and is in no representation."""
    key = development_key("payer-0").hex()
    path = tmp_path / "key"
    path.write_text(f"0x{key}\n")
    path.chmod(0o644)
    with pytest.raises(RequestError, match="others may read"):
        Wallet.load(path)
    path.chmod(0o600)
    monkeypatch.setenv("VERISPECT_WALLET_KEY", key)
    assert Wallet.load(path).address == Wallet.load().address
    assert key not in repr(Wallet.load())
    monkeypatch.setenv("VERISPECT_WALLET_KEY", "0" * 64)
    with pytest.raises(MalformedError) as caught:
        Wallet.load()
    assert "0000" not in str(caught.value)


def test_content_is_erased_once_it_is_proven(gateway, tmp_path):
    """The journal holds no request; what it keeps of its headers goes with the good receipt."""
    journal = PaymentJournal(tmp_path / "journal.sqlite")
    ask(gateway, make_payer(gateway, journal), words="numbat quokka")
    journal.close()
    assert b"numbat" not in (tmp_path / "journal.sqlite").read_bytes()


METERED = 19 + 2 * 13
CHANNELS = {"schemes": (Scheme.BATCH_SETTLEMENT,)}


def test_a_channel_is_deposited_once_and_pays_what_was_used(gateway, journal):
    """Each voucher goes on from the charges of verified receipts, streamed or whole."""
    payer = make_payer(gateway, journal, **CHANNELS)
    network = Cutting(losses=0)
    for number, stream in enumerate((False, True, False)):
        exchange = ask(gateway, payer, network, stream=stream, seed=number)
        verify_exchange(exchange, trusted_root=payer.trusted_root, policy=payer.policy, now=10**13)
        assert payer.last_bill.charge == METERED
    payloads = [read_answer_header(each)["payload"] for each in network.paid]
    assert [each["type"] for each in payloads] == ["deposit", "voucher", "voucher"]
    amounts = [int(each["voucher"]["maxClaimableAmount"]) for each in payloads]
    assert amounts == [CEILING, METERED + CEILING, 2 * METERED + CEILING]
    assert journal.spent(ASSET, now=payer.now()) == 3 * METERED


def test_a_lost_answer_of_a_channel_is_asked_for_with_the_same_voucher(gateway, journal):
    """A voucher is presented again, and the next one goes on from its charge."""
    payer = make_payer(gateway, journal, **CHANNELS)
    network = Cutting(losses=2)
    ask(gateway, payer, network, stream=True)
    assert len(set(network.paid)) == 1
    ask(gateway, payer, network, words="and more")
    assert len(set(network.paid)) == 2


def test_requests_at_once_have_channels_of_their_own(gateway, journal):
    """A channel pays for one request at a time; the next ones reuse what is there."""
    payer = make_payer(gateway, journal, **CHANNELS)
    network = Cutting(losses=0)
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda n: ask(gateway, payer, network, seed=n), range(3)))
    payloads = [read_answer_header(each)["payload"] for each in network.paid]
    opened = {each["voucher"]["channelId"] for each in payloads if each["type"] == "deposit"}
    assert {each["voucher"]["channelId"] for each in payloads} == opened
    assert 1 <= len(opened) <= 3


def test_a_deposit_beyond_the_cap_is_not_made(gateway, journal):
    """Where channels may hold too little, a single payment is made, or none."""
    caps = replace(CAPS, deposits=CEILING - 1)
    payer = make_payer(gateway, journal, caps, **CHANNELS)
    with pytest.raises(RequestError) as caught:
        ask(gateway, payer)
    assert caught.value.reason is Reason.SPEND_LIMIT
    payer.schemes = (Scheme.BATCH_SETTLEMENT, Scheme.EXACT)
    ask(gateway, payer)
    assert payer.last_bill.charge == CEILING


def test_what_idle_vouchers_allow_counts_against_the_caps(gateway, journal):
    """A gateway can claim its last voucher whole; no cap is left open by that."""
    caps = replace(CAPS, per_day=2 * CEILING - 1)
    payer = make_payer(gateway, journal, caps, **CHANNELS)
    ask(gateway, payer)
    payer.schemes = (Scheme.EXACT,)
    with pytest.raises(RequestError) as caught:
        ask(gateway, payer, words="two one three")
    assert caught.value.reason is Reason.SPEND_LIMIT


def test_a_metered_transfer_takes_what_was_used(gateway, journal):
    """`upto` moves the metered amount, and the whole promise stays counted."""
    approve_permit2(gateway.world, 3)
    payer = make_payer(gateway, journal, schemes=(Scheme.UPTO,))
    payee = gateway.balance("payee")
    ask(gateway, payer)
    assert gateway.balance("payee") - payee == payer.last_bill.charge == METERED
    assert journal.spent(ASSET, now=payer.now()) == CEILING
