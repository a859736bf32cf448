"""Paid inferences as a caller sees them: 402, a payment, the answer, its receipt and its bill."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json

import httpx
import pytest
from paid_gateway import ASK, CHAT, closed, opened, run_paid_gateway

from verispect.appraisal.metering import verify_bill
from verispect.core.encoding import from_base64url
from verispect.core.receipt import InferenceReceipt
from verispect.payments.addendum import open_addendum
from verispect.payments.store import State
from verispect.testing.echo_model import EchoLanguageModel


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_paid_gateway(tmp_path_factory.mktemp("paid")) as running:
        yield running


def statement_of(answer):
    """Return the statement of a whole answer's receipt."""
    receipt = from_base64url(answer.json()["verispect"]["receipt"])
    return InferenceReceipt.parse(receipt).unverified_statement


def test_an_unpaid_request_is_told_what_it_costs_and_nothing_runs(gateway):
    """402 names every way to pay, the ceiling of this very request, and is not cached."""
    before = gateway.running.model.started
    asked = gateway.ask()
    assert asked.status_code == 402
    assert asked.json()["error"]["code"] == "payment-required"
    assert asked.headers["cache-control"] == "no-store"
    required = opened(asked.headers["payment-required"])
    schemes = [each["scheme"] for each in required["accepts"]]
    assert list(dict.fromkeys(schemes)) == ["batch-settlement", "upto", "exact"]
    # "user: one two three" has 19 characters, which are tokens here, at 1; 100 more at 2.
    assert {each["amount"] for each in required["accepts"]} == {str(19 + 2 * 100)}
    assert required["resource"]["url"].endswith(CHAT)
    assert gateway.running.model.started == before


def test_a_bad_request_stays_bad_before_any_payment(gateway):
    """What would be refused is refused without a price."""
    assert gateway.ask(temperature=9).status_code == 400
    assert gateway.ask(model="nobody").status_code == 404


def test_what_has_no_price_is_not_sold(gateway):
    """A served model without a row is refused, and not given away."""
    refused = gateway.ask(model="team/echo")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "price-unknown"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_look_at_a_sold_route_is_told_that_it_costs(gateway, method):
    """Tools that probe a resource without a body see 402 and a price."""
    with gateway.http() as client:
        looked = client.request(method, CHAT)
    assert looked.status_code == 402
    assert opened(looked.headers["payment-required"])["accepts"]


def test_an_exact_payment_buys_one_answer_and_its_receipt_is_the_bill(gateway):
    """The money is with the payee before the answer leaves, and the statement commits to it."""
    header = gateway.pay()
    payee, payer = gateway.balance("payee"), gateway.balance("payer-0")
    answer = gateway.ask(header)
    assert answer.status_code == 200, answer.text
    settled = opened(answer.headers["payment-response"])
    assert settled["success"]
    assert gateway.balance("payee") - payee == payer - gateway.balance("payer-0") == 219
    statement = statement_of(answer)
    bill = verify_bill(statement)
    assert (bill.metered, bill.charge) == (19 + 2 * 13, 219)
    gateway.running.verify(answer.json()["verispect"], answer.headers["verispect-opening-key"])
    with gateway.http() as client:
        shown = client.get(f"/v1/payments/{statement.payment.authorisation.hex()}").json()
    assert (shown["state"], shown["charge"]) == ("captured", "219")
    assert shown["transaction"] == settled["transaction"]
    envelope, addendum = open_addendum(from_base64url(shown["addendum"]))
    envelope.verify(gateway.running.state.recorder.issuer.signer.public_key)
    assert addendum.receipt.hex() == answer.json()["verispect"]["receipt_id"]
    assert (addendum.amount, addendum.transaction) == (219, settled["transaction"])


def test_a_payment_presented_again_gets_the_same_bytes_and_pays_once(gateway):
    """A client that lost its answer has it again."""
    header = gateway.pay()
    before = gateway.running.model.started
    first = gateway.ask(header)
    payee = gateway.balance("payee")
    second = gateway.ask(header)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert gateway.running.model.started == before + 1
    assert gateway.balance("payee") == payee


def test_a_payment_pays_for_no_other_request(gateway):
    """The same authorisation with another body is a conflict."""
    header = gateway.pay()
    assert gateway.ask(header).status_code == 200
    other = gateway.ask(header, user="somebody")
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "payment-conflict"


def test_copies_at_once_buy_one_inference(gateway):
    """Of many copies one runs; the others wait for its answer."""
    header = gateway.pay()
    before = gateway.running.model.started
    payee = gateway.balance("payee")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: gateway.ask(header), range(32)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert gateway.running.model.started == before + 1
    assert gateway.balance("payee") - payee == 219


def test_a_payment_below_the_price_buys_nothing(gateway):
    """A cheaper request's payment is refused with the price of this one."""
    header = gateway.pay(max_tokens=1)
    refused = gateway.ask(header)
    assert refused.status_code == 402
    assert opened(refused.headers["payment-required"])["accepts"]


@pytest.mark.parametrize(
    "header", ["", "no", "e30=", "A" * 16_384, "bnVsbA==", closed({"resource": 1}, {}, {})]
)
def test_a_malformed_payment_buys_nothing(gateway, header):
    """What cannot be read is refused, with the price; nothing runs."""
    before = gateway.running.model.started
    refused = gateway.ask(header)
    assert refused.status_code in {400, 402}
    assert "payment-required" in refused.headers
    assert gateway.running.model.started == before


def test_a_payment_larger_than_the_heads_limit_is_refused(gateway):
    """A head of more than the limit never reaches a reader of payments."""
    assert gateway.ask("A" * 60_000).status_code == 431


def test_a_channel_pays_what_was_used(gateway):
    """A voucher is charged the metered amount, and the next continues from it."""
    channel = gateway.channel()
    for _ in range(2):
        answer = gateway.ask(channel.sign(gateway.ask()))
        assert answer.status_code == 200, answer.text
        settled = opened(answer.headers["payment-response"])
        channel.paid(settled)
        assert settled["extra"]["chargedAmount"] == str(19 + 2 * 13)
        statement = statement_of(answer)
        assert verify_bill(statement).charge == 45
        assert statement.payment.scheme == "batch-settlement"


def test_a_swept_channel_is_captured(gateway):
    """What a channel owes is claimed together, and its payments are captured then."""
    channel = gateway.channel(salt=2)
    payee = gateway.balance("payee")
    answer = gateway.ask(channel.sign(gateway.ask()))
    channel.paid(opened(answer.headers["payment-response"]))
    payment_id = statement_of(answer).payment.authorisation
    asyncio.run(asyncio.sleep(0.2))
    gateway.payments.watch._sweep()
    assert gateway.payments.store.get(payment_id).state is State.CAPTURED
    assert gateway.balance("payee") > payee


def stream(gateway, header, **fields):
    """Return the events of a stream."""
    events = []
    with (
        gateway.http() as client,
        client.stream(
            "POST",
            CHAT,
            json={**ASK, "stream": True, **fields},
            headers={"PAYMENT-SIGNATURE": header},
        ) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        events += [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    return events


def test_a_stream_is_sold_only_for_what_is_money_already(gateway):
    """A streamed request can be paid through a channel alone."""
    asked = gateway.ask(stream=True)
    schemes = {e["scheme"] for e in opened(asked.headers["payment-required"])["accepts"]}
    assert schemes == {"batch-settlement"}
    assert gateway.ask(gateway.pay(), stream=True).status_code in {402, 409}


def test_a_stream_ends_with_its_receipt_and_what_became_of_its_payment(gateway):
    """The event before the end says what was charged; presented again, all of it comes again."""
    channel = gateway.channel(salt=3)
    header = channel.sign(gateway.ask(stream=True))
    events = stream(gateway, header)
    assert events[-1] == "[DONE]"
    said = json.loads(events[-2])
    assert said["object"] == "verispect.payment"
    settled = opened(said["payment_response"])
    channel.paid(settled)
    receipt = InferenceReceipt.parse(from_base64url(json.loads(events[-3])["verispect"]["receipt"]))
    bill = verify_bill(receipt.unverified_statement)
    assert str(bill.charge) == settled["extra"]["chargedAmount"]
    again = gateway.ask(header, stream=True)
    lines = [line[6:] for line in again.text.splitlines() if line.startswith("data: ")]
    assert lines == [*events[:-2], "[DONE]"]
    assert opened(again.headers["payment-response"])["extra"]["chargedAmount"] == str(bill.charge)


def test_prices_and_manifest_are_public(gateway):
    """Anybody can read what is sold, how it is paid, and that the money is for development."""
    with gateway.http() as client:
        prices = client.get("/v1/prices").json()
        manifest = client.get("/.well-known/x402").json()
        known = client.get("/.well-known/verispect").json()
    assert prices["sheet"]["prices"][0]["model"] == "echo"
    assert prices["development"] is manifest["development"] is True
    assert manifest["resources"][0].endswith(CHAT)
    assert known["payments"]["prices"] == "/v1/prices"


def test_nothing_is_charged_where_the_engine_fails(tmp_path):
    """A failed inference releases its payment, and nobody can be charged for it."""
    with run_paid_gateway(tmp_path, EchoLanguageModel(fail_after=0)) as gateway:
        header = gateway.pay()
        payer = gateway.balance("payer-0")
        assert gateway.ask(header).status_code == 500
        assert gateway.balance("payer-0") == payer
        assert gateway.payments.store.totals().keys() == {State.RELEASED}
        again = gateway.ask(header)
        assert again.status_code == 402
        assert opened(again.headers["payment-response"])["success"] is False


def test_who_leaves_after_paying_finds_the_answer(tmp_path):
    """A whole answer that was paid for is made although its caller left."""
    with run_paid_gateway(tmp_path, EchoLanguageModel(pause_seconds=0.2)) as gateway:
        header = gateway.pay()
        with gateway.http() as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=ASK, headers={"PAYMENT-SIGNATURE": header}, timeout=0.4)
        answer = gateway.ask(header)
        assert answer.status_code == 200
        assert gateway.running.model.started == 1


def test_a_cut_stream_is_charged_for_what_was_sent(tmp_path):
    """Whoever leaves a stream pays for what came, and can read that again."""
    with run_paid_gateway(tmp_path, EchoLanguageModel(stall_after=2)) as gateway:
        header = gateway.channel().sign(gateway.ask(stream=True))
        with (
            gateway.http() as client,
            client.stream(
                "POST",
                CHAT,
                json={**ASK, "stream": True},
                headers={"PAYMENT-SIGNATURE": header},
            ) as answer,
        ):
            lines = answer.iter_lines()
            while "two" not in next(lines):
                pass
        again = gateway.ask(header, stream=True)
        assert again.status_code == 200
        assert "two" in again.text
        settled = opened(again.headers["payment-response"])
        assert settled["extra"]["chargedAmount"] == str(19 + 2 * len("one two"))


def test_the_same_idempotency_key_gets_the_same_answer_without_a_second_charge(gateway):
    """A client that signs again by mistake pays once."""
    with gateway.http() as client:
        first, second = (
            client.post(
                CHAT,
                json=ASK,
                headers={"PAYMENT-SIGNATURE": gateway.pay(), "Idempotency-Key": "order 7"},
            )
            for _ in range(2)
        )
        other = client.post(
            CHAT,
            json={**ASK, "user": "x"},
            headers={"PAYMENT-SIGNATURE": gateway.pay(user="x"), "Idempotency-Key": "order 7"},
        )
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert other.status_code == 409
