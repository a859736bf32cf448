"""Capture follows assurance: transactions take all or nothing, transfers come before answers."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from paid_gateway import ASK, CHAT, SHEET, opened, run_paid_gateway

from verispect.core.encoding import from_base64url
from verispect.core.errors import NetworkError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.limits import Limits
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.store import State
from verispect.testing.echo_model import EchoLanguageModel


@pytest.fixture
def gateway(tmp_path):
    with run_paid_gateway(tmp_path) as running:
        yield running


def await_states(gateway, *states):
    """Wait until every payment is in one of these states, and return how many are in which."""
    totals = {}
    for _ in range(200):
        totals = {state: count for state, (count, _) in gateway.payments.store.totals().items()}
        if totals.keys() <= set(states):
            return totals
        time.sleep(0.05)
    raise AssertionError(totals)


def paid_parts(gateway, client, count):
    """Open a transaction and pay its parts from one channel; return its headers and its channel."""
    begun = client.post("/v1/transactions", json={}).json()
    headers = {
        "Verispect-Transaction": begun["id"],
        "Verispect-Transaction-Key": begun["key"],
    }
    channel = gateway.channel()
    for number in range(count):
        ask = {**ASK, "seed": number}
        asked = client.post(CHAT, json=ask, headers=headers)
        schemes = {e["scheme"] for e in opened(asked.headers["payment-required"])["accepts"]}
        assert schemes == {"batch-settlement"}, "what waits for a whole is sold through channels"
        answer = client.post(
            CHAT, json=ask, headers={**headers, "PAYMENT-SIGNATURE": channel.sign(asked)}
        )
        assert answer.status_code == 200, answer.text
        channel.paid(opened(answer.headers["payment-response"]))
    return headers, channel


@pytest.mark.parametrize("action", ["commit", "abort"])
def test_parts_of_a_transaction_are_taken_together_or_not_at_all(gateway, action):
    """Nothing is owed while it is open; a commit owes all parts, an abort none."""
    with gateway.http() as client:
        headers, channel = paid_parts(gateway, client, 3)
        assert await_states(gateway, State.DELIVERED) == {State.DELIVERED: 3}
        where = f"/v1/transactions/{headers.pop('Verispect-Transaction')}/{action}"
        ended = client.post(where, headers=headers)
    assert ended.status_code == 200, ended.text
    if action == "commit":
        await_states(gateway, State.PENDING, State.CAPTURED)
        gateway.payments.watch._sweep()
        assert await_states(gateway, State.CAPTURED) == {State.CAPTURED: 3}
        assert gateway.balance("payee") == channel.charged > 0
    else:
        assert await_states(gateway, State.RELEASED) == {State.RELEASED: 3}
        gateway.payments.watch._sweep()
        assert gateway.balance("payee") == 0


def test_a_transaction_of_one_request_runs_nothing_for_free(gateway):
    """Parts that nobody can pay for one by one are refused before any of them runs."""
    with gateway.http() as client:
        answer = client.post("/v1/transactions", json={"parts": [{"path": CHAT, "body": ASK}]})
    assert answer.status_code == 402
    assert answer.json()["error"]["code"] == "payment-required"
    assert gateway.running.model.started == 0


def test_no_answer_leaves_while_nobody_knows_of_the_transfer(gateway):
    """A client is told to present the same payment again, and has its answer once it is there."""
    header = gateway.pay()

    def hangs(*_arguments):
        raise NetworkError("timed out", reason=Reason.NETWORK_FAILED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainSettlement, "settle", hangs)
        waiting = gateway.ask(header)
        assert waiting.status_code == 503
        assert waiting.json()["error"]["code"] == "payment-pending"
        assert "payment-required" not in waiting.headers, "nothing invites to sign a second one"
        assert opened(waiting.headers["payment-response"])["errorReason"] == "settlement_pending"
        assert gateway.ask(header).status_code == 503
    answer = gateway.ask(header)
    assert answer.status_code == 200
    assert gateway.running.model.started == 1
    assert gateway.balance("payee") == 219


def test_a_transfer_that_settled_behind_a_lost_answer_is_taken_once(gateway):
    """Where settling worked and nobody said so, the chain says it, and the answer leaves."""
    header = gateway.pay()
    real = ChainSettlement.settle

    def settles_and_hangs(*arguments):
        real(*arguments)
        raise NetworkError("timed out", reason=Reason.NETWORK_FAILED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainSettlement, "settle", settles_and_hangs)
        assert gateway.ask(header).status_code == 200
    assert gateway.balance("payee") == 219


def test_a_price_that_rose_after_the_quote_is_asked_for_again(tmp_path):
    """A payment of yesterday's price buys nothing today; an answer that was bought stays bought."""
    with run_paid_gateway(tmp_path) as gateway:
        quoted = gateway.pay()
        bought = gateway.pay()
        answer = gateway.ask(bought)
        assert answer.status_code == 200
    dearer = SHEET.replace("input_per_million = 1_000_000", "input_per_million = 3_000_000")
    with run_paid_gateway(tmp_path, sheet=dearer) as gateway:
        refused = gateway.ask(quoted)
        assert refused.status_code == 402
        amounts = {e["amount"] for e in opened(refused.headers["payment-required"])["accepts"]}
        assert amounts == {str(3 * 19 + 2 * 100)}
        assert gateway.ask(bought).content == answer.content
        assert gateway.running.model.started == 0
        assert gateway.balance("payee") == 219


def test_a_thousand_copies_of_one_payment_buy_one_inference(tmp_path):
    """However many come at once, one runs, all get its bytes, and the payer pays once."""
    limits = Limits(concurrent_requests=2000)
    with run_paid_gateway(tmp_path, EchoLanguageModel(), limits=limits) as gateway:
        header = gateway.pay()

        body = json.dumps(ASK).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n"
            f"payment-signature: {header}\r\n\r\n"
        )
        url = httpx.URL(gateway.running.base_url)

        async def one() -> tuple[bytes, bytes]:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(head.encode() + body)
            answer = await reader.read()
            writer.close()
            status, _, rest = answer.partition(b"\r\n")
            return status, rest.partition(b"\r\n\r\n")[2]

        async def all_at_once():
            return await asyncio.gather(*[one() for _ in range(1000)])

        answers = asyncio.run(all_at_once())
        assert {status for status, _ in answers} == {b"HTTP/1.1 200 OK"}
        assert len({body for _, body in answers}) == 1
        assert gateway.running.model.started == 1
        assert gateway.balance("payee") == 219


def test_embeddings_and_completions_and_responses_are_sold(gateway):
    """Every interface to a language model asks for its price and is paid in the same way."""
    bodies = {
        "/v1/completions": {"model": "echo", "prompt": "one two", "max_tokens": 5},
        "/v1/embeddings": {"model": "echo", "input": ["one", "two"]},
        "/v1/responses": {"model": "echo", "input": "one two", "max_output_tokens": 20},
    }
    with gateway.http() as client:
        for path, body in bodies.items():
            asked = client.post(path, json=body)
            assert asked.status_code == 402, path
            headers = {"PAYMENT-SIGNATURE": gateway.sign(asked)}
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            receipt = from_base64url(answer.json()["verispect"]["receipt"])
            statement = InferenceReceipt.parse(receipt).unverified_statement
            assert statement.price.charge == statement.price.ceiling > 0
    assert await_states(gateway, State.CAPTURED) == {State.CAPTURED: 3}


def test_the_content_of_answers_is_erased_after_its_retention(gateway):
    """An old payment still says what it bought, and nobody finds the words any more."""
    header = gateway.pay()
    answer = gateway.ask(header)
    watch = gateway.payments.watch
    watch._now = lambda: int(time.time()) + 86_400 + 3600
    watch.erase()
    again = gateway.ask(header)
    assert again.status_code == 409
    assert opened(again.headers["payment-response"])["success"]
    statement = InferenceReceipt.parse(
        from_base64url(answer.json()["verispect"]["receipt"])
    ).unverified_statement
    payment = gateway.payments.store.get(statement.payment.authorisation)
    assert payment.state is State.CAPTURED
    assert b"three" not in payment.answer
