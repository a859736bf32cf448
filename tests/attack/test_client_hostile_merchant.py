"""A gateway that wants more money than it earns: whatever it tries, the payer signs nothing more.

A network stands between the payer and an honest paid gateway, and changes what passes. It holds
the operator's key as well where a test says so: a false bill is then signed, and refused all the
same.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from paid_gateway import run_paid_gateway

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.paying import Payer
from verispect.client.paying_journal import PaymentJournal, PromiseState, SpendCaps
from verispect.client.session import GatewayClient
from verispect.client.wallet import Wallet
from verispect.core.encoding import Digest, from_base64url, to_base64url
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Error, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import PaymentBinding
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.development import ASSET, development_key

CAPS = SpendCaps(ASSET, per_request=1_000, per_day=100_000, per_host=100_000)
CEILING = 19 + 2 * 100
SCHEMES = [Scheme.EXACT, Scheme.BATCH_SETTLEMENT]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_paid_gateway(tmp_path_factory.mktemp("paid")) as running:
        yield running


@pytest.fixture
def journal(tmp_path):
    opened = PaymentJournal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


class Between(httpx.BaseTransport):
    """The network; a test sets what it changes."""

    def __init__(self, *, price=None, answer=None, receipt=None):
        self.price = price
        self.answer = answer
        self.receipt = receipt
        self.paid = []
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request):
        changed = self._changed(request)
        headers = [(k, v) for k, v in changed.headers.raw if k.lower() != b"content-length"]
        stream = httpx.ByteStream(changed.content)
        return httpx.Response(changed.status_code, headers=headers, stream=stream)

    def _changed(self, request):
        answer = self._inner.handle_request(request)
        headers = [(k, v) for k, v in answer.headers.raw if k.lower() != b"content-length"]
        passing = httpx.Response(answer.status_code, headers=headers, content=answer.read())
        if "payment-signature" in request.headers:
            self.paid.append(request.headers["payment-signature"])
            return self.answer(passing) if self.answer else passing
        if self.price and passing.status_code == 402:
            required = json.loads(base64.b64decode(passing.headers["payment-required"]))
            self.price(required)
            changed = base64.b64encode(json.dumps(required).encode()).decode()
            passing.headers["payment-required"] = changed
        if (
            self.receipt
            and "/v1/receipts/" in request.url.path
            and "opening" not in str(request.url)
        ):
            return httpx.Response(200, content=self.receipt(passing.content))
        return passing


def make_payer(gateway, journal, scheme=Scheme.EXACT, **options):
    root = TrustedRoot([gateway.running.state.recorder.issuer.trusted_key()])
    wallet = Wallet(development_key("payer-5"))
    options = {"patience": (0.0, 0.0, 0.0)} | options
    return Payer(wallet, journal, CAPS, root, schemes=(scheme,), **options)


def ask(gateway, payer, network, words="one two three"):
    with GatewayClient(gateway.running.base_url, payer=payer, transport=network) as client:
        messages = [{"role": "user", "content": words}]
        return client.chat("echo", messages, options={"max_tokens": 100})


def refused(gateway, payer, network, words="one two three") -> Reason:
    with pytest.raises(Error) as caught:
        ask(gateway, payer, network, words)
    return caught.value.reason


def every_entry(**changes):
    def change(required):
        for entry in required["accepts"]:
            entry.update(changes)

    return change


def other_resource(required):
    required["resource"]["url"] += "/other"


def no_signatures(required):
    del required["extensions"]["offer-receipt"]


def cheap_rates(required):
    required["extensions"]["verispect"]["info"]["inputPerMillion"] = "1"


def swapped_offers(required):
    offers = required["extensions"]["offer-receipt"]["info"]["offers"]
    for offer in offers:
        offer["acceptIndex"] = len(offers) - 1 - offer["acceptIndex"]


@pytest.mark.parametrize(
    "price",
    [
        every_entry(amount="220"),
        every_entry(amount="1"),
        every_entry(payTo="0x" + "ab" * 20),
        every_entry(network="eip155:1"),
        every_entry(asset="0x" + "cd" * 20),
        other_resource,
        no_signatures,
        cheap_rates,
        swapped_offers,
    ],
    ids=["dearer", "cheaper", "payee", "chain", "token", "resource", "unsigned", "rates", "order"],
)
def test_a_changed_offer_is_not_paid(gateway, journal, price):
    """Nothing is signed unless a trusted key offered exactly this for exactly this resource."""
    payer, network = make_payer(gateway, journal), Between(price=price)
    assert refused(gateway, payer, network) is Reason.OFFER_INVALID
    assert network.paid == []
    assert journal.spent(ASSET, now=payer.now()) == 0


def test_an_old_offer_is_not_paid(gateway, journal):
    """An offer that was kept until prices changed is worth nothing."""
    late = make_payer(gateway, journal)
    honest_now = late.now()
    late.now = lambda: honest_now + 3_600
    assert refused(gateway, late, Between()) is Reason.OFFER_INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [("withdrawDelay", 10**9), ("receiverAuthorizer", "nobody"), ("minDeposit", "-5")],
)
def test_a_channel_that_keeps_its_deposit_is_not_opened(gateway, journal, field, value):
    """What of a channel's terms is not signed is held to bounds."""

    def price(required):
        required["accepts"][0]["extra"][field] = value

    payer, network = make_payer(gateway, journal, Scheme.BATCH_SETTLEMENT), Between(price=price)
    assert refused(gateway, payer, network) is Reason.INVALID_REQUEST
    assert network.paid == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("status", [202, 402, 409, 500, 503])
def test_a_gateway_that_takes_and_gives_nothing_gets_one_payment(gateway, journal, scheme, status):
    """Whatever it says after the payment, it is never given another one."""
    payer = make_payer(gateway, journal, scheme)
    network = Between(answer=lambda _: httpx.Response(status, json={"error": "later"}))
    refused(gateway, payer, network)
    assert len(set(network.paid)) == 1
    assert refused(gateway, payer, network, words="two one three") is Reason.PAYMENT_UNPROVEN
    assert len(set(network.paid)) == 1
    honest = Between()
    ask(gateway, payer, honest)
    assert set(honest.paid) == set(network.paid)
    ask(gateway, payer, honest, words="two one three")
    assert journal.state(1) is PromiseState.PROVEN


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_answer_without_receipt_is_not_enough(gateway, journal, scheme):
    """No valid receipt, no next payment; the same request still gets its receipt."""

    def strip(passing):
        del passing.headers["verispect-inference"]
        return passing

    payer, network = make_payer(gateway, journal, scheme), Between(answer=strip)
    assert refused(gateway, payer, network) is Reason.MALFORMED_TRANSCRIPT
    assert refused(gateway, payer, network, words="two one three") is Reason.PAYMENT_UNPROVEN
    ask(gateway, payer, Between())
    assert journal.state(1) is PromiseState.PROVEN


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_old_answer_does_not_earn_a_new_payment(gateway, journal, scheme):
    """The answer and receipt of an earlier payment are those of another request."""
    payer, kept = make_payer(gateway, journal, scheme), []

    def replay(passing):
        kept.append(passing)
        return kept[0]

    network = Between(answer=replay)
    ask(gateway, payer, network)
    assert refused(gateway, payer, network, words="two one three") in {
        Reason.NONCE_MISMATCH,
        Reason.CONTENT_MISMATCH,
    }
    assert journal.state(2) is PromiseState.REFUSED
    assert refused(gateway, payer, Between(), words="yet another") is Reason.PAYMENT_UNPROVEN


def test_a_gateway_that_took_more_than_it_billed_is_found_out(gateway, journal):
    """What it says that it took is held to the signed charge."""

    def more(passing):
        said = json.loads(base64.b64decode(passing.headers["payment-response"]))
        said["amount"] = str(CEILING + 1)
        passing.headers["payment-response"] = base64.b64encode(json.dumps(said).encode()).decode()
        return passing

    payer = make_payer(gateway, journal)
    assert refused(gateway, payer, Between(answer=more)) is Reason.METERING_MISMATCH
    assert journal.state(1) is PromiseState.REFUSED


def forging(gateway, change):
    """Return a network whose receipts the operator's own key signs anew."""
    signer = gateway.running.state.recorder.issuer.signer

    def forge(data):
        receipt = InferenceReceipt.parse(data)
        return sign_envelope(
            change(receipt.unverified_statement).encode(),
            content_type=STATEMENT_TYPE,
            issuer=receipt.envelope.issuer,
            subject=receipt.envelope.subject,
            signer=signer,
        ).encode()

    def answer(passing):
        body = passing.json()
        forged = forge(from_base64url(body["verispect"]["receipt"]))
        body["verispect"]["receipt"] = to_base64url(forged)
        headers = {k: v for k, v in passing.headers.items() if k != "content-length"}
        return httpx.Response(200, headers=headers, json=body)

    return Between(answer=answer, receipt=forge)


def priced(**changes):
    return lambda statement: replace(statement, price=replace(statement.price, **changes))


def other_payment(statement):
    other = PaymentBinding(statement.payment.scheme, Digest(bytes(32)))
    return replace(statement, payment=other)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda each: replace(each, price=None), Reason.METERING_MISSING),
        (priced(charge=CEILING - 1), Reason.METERING_MISMATCH),
        (priced(ceiling=CEILING + 7), Reason.METERING_MISMATCH),
        (priced(charge=0, asset=ASSET[:-1] + "f"), Reason.METERING_MISMATCH),
        (priced(charge=0, output_per_million=2_500_000), Reason.METERING_MISMATCH),
        (lambda each: replace(each, payment=None), Reason.METERING_MISMATCH),
        (
            lambda each: replace(
                each,
                payment=PaymentBinding(each.payment.scheme, type(each.model.model_id)(bytes(32))),
            ),
            Reason.PAYMENT_INVALID,
        ),
    ],
    ids=["unpriced", "charge", "ceiling", "token", "rate", "unbound", "other-payment"],
)
def test_a_false_bill_ends_the_business(gateway, journal, scheme, change, reason):
    """The operator signs it, and gets no further payment for it."""
    payer = make_payer(gateway, journal, scheme)
    found = refused(gateway, payer, forging(gateway, change))
    assert found is reason or (reason, found) == (Reason.METERING_MISMATCH, Reason.PAYMENT_INVALID)
    assert journal.state(1) is PromiseState.REFUSED
    assert refused(gateway, payer, Between(), words="two one three") is Reason.PAYMENT_UNPROVEN


def test_a_signature_that_was_never_kept_was_never_sent(gateway, tmp_path):
    """A payer that dies between counting and keeping owes nothing, and counts nothing."""
    path = tmp_path / "journal.sqlite"
    journal = PaymentJournal(path)
    payer, network = make_payer(gateway, journal), Between()

    def die(*_args, **_options):
        raise KeyboardInterrupt

    journal.signed = die
    journal.abandoned = lambda _number: None
    with pytest.raises(KeyboardInterrupt):
        ask(gateway, payer, network)
    assert network.paid == []
    journal.close()
    journal = PaymentJournal(path)
    assert journal.spent(ASSET, now=payer.now()) == 0
    ask(gateway, make_payer(gateway, journal), network)
    assert len(network.paid) == 1
    journal.close()
