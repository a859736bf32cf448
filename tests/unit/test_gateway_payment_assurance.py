"""Capture follows assurance: transactions take all or nothing, transfers come before answers."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import httpx
import pytest
from confidential_gateway import WORDS, Confidential, a_root, now
from paid_gateway import ASK, CHAT, SHEET, opened, run_paid_gateway

from verispect.attesters.development_enclave import DevelopmentEnclave, DevelopmentEnclaveAttester
from verispect.core.encoding import from_base64url
from verispect.core.errors import NetworkError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import PartOutcome
from verispect.gateway import transactions
from verispect.gateway.limits import Limits
from verispect.gateway.transaction_parts import Judgement
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.machine import PaymentMachine
from verispect.payments.nonce import request_digest
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
def test_parts_of_a_transaction_are_owed_once_it_ends(gateway, action):
    """Nothing is owed while it is open; whoever aborts it has the answers, and owes them too."""
    with gateway.http() as client:
        headers, channel = paid_parts(gateway, client, 3)
        assert await_states(gateway, State.DELIVERED) == {State.DELIVERED: 3}
        where = f"/v1/transactions/{headers.pop('Verispect-Transaction')}/{action}"
        ended = client.post(where, headers=headers)
    assert ended.status_code == 200, ended.text
    await_states(gateway, State.PENDING, State.CAPTURED)
    gateway.payments.watch._sweep()
    assert await_states(gateway, State.CAPTURED) == {State.CAPTURED: 3}
    assert gateway.balance("payee") == channel.charged > 0


def test_nothing_of_a_transaction_is_taken_that_failed(gateway, monkeypatch):
    """Where one part does not meet its assurance the others are released with it."""

    async def judged(_state, record, _root, _now):
        outcome = PartOutcome.FAILED if record.index == 1 else PartOutcome.MET
        return Judgement(outcome, Reason.POLICY_UNMET if record.index == 1 else None)

    monkeypatch.setattr(transactions, "judge", judged)
    with gateway.http() as client:
        headers, _ = paid_parts(gateway, client, 3)
        where = f"/v1/transactions/{headers.pop('Verispect-Transaction')}/commit"
        assert client.post(where, headers=headers).status_code == 422
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


def test_no_event_of_a_stream_waits_for_its_capture(gateway):
    """All of a stream arrives while capturing is held up, which it does not wait for."""
    channel = gateway.channel()
    asked = gateway.ask(stream=True)
    held = threading.Event()
    real = PaymentMachine.capture

    def waits(*arguments):
        assert held.wait(60)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaymentMachine, "capture", waits)
        answer = gateway.ask(channel.sign(asked), stream=True)
        assert answer.status_code == 200
        assert answer.text.endswith("data: [DONE]\n\n")
        held.set()
    await_states(gateway, State.PENDING)


ATTESTED = SHEET.replace('assurance = "signed"', 'assurance = "attested-development"')


@pytest.fixture
def attested(tmp_path):
    """A gateway in an emulated enclave that sells attested inferences."""
    enclave = DevelopmentEnclave.create(tmp_path / "enclave", now())
    attester = DevelopmentEnclaveAttester(enclave, clock=now)
    with run_paid_gateway(tmp_path, sheet=ATTESTED, attester=attester) as running:
        running.payments.watch.trusted = a_root(running.running, enclave)
        yield running, enclave


def test_an_attested_answer_is_sold_at_its_own_price(attested):
    """The price is that of the assurance, and the operator's own appraisal is what earns it."""
    gateway, _ = attested
    header = gateway.pay(assurance="attested-development")
    answer = gateway.ask(header, assurance="attested-development")
    assert answer.status_code == 200, answer.text
    assert gateway.balance("payee") == 219
    assert gateway.ask().json()["error"]["code"] == "price-unknown"


def test_assurance_that_the_operator_cannot_show_is_not_charged(attested):
    """A gateway that does not trust its own evidence gives no answer and takes no money."""
    gateway, enclave = attested
    gateway.payments.watch.trusted = a_root(gateway.running, enclave, anchored=False)
    header = gateway.pay(assurance="attested-development")
    answer = gateway.ask(header, assurance="attested-development")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "assurance-unavailable"
    assert await_states(gateway, State.RELEASED) == {State.RELEASED: 1}
    assert gateway.balance("payee") == 0


def test_nothing_of_a_paid_encrypted_request_is_kept_in_the_clear(tmp_path, attested):
    """Price, payment and answer pass inside; neither words nor a digest of them stay here."""
    gateway, enclave = attested
    service = Confidential(gateway.running, enclave, tmp_path)
    message = {"role": "user", "content": " ".join(WORDS)}
    body = json.dumps({**ASK, "messages": [message]}).encode()

    def post(**headers):
        sealed = service.seal(body, **headers)
        response = service.post(sealed.body)
        assert response.status_code == 200
        head, pieces = sealed.open_answer([response.content])
        return head, b"".join(pieces)

    head, _ = post()
    assert head.status == 402
    required = httpx.Response(402, headers=dict(head.headers))
    signed = gateway.sign(required)
    head, answer = post(**{"payment-signature": signed})
    assert head.status == 200, answer
    assert all(word.encode() in answer for word in WORDS)
    assert gateway.balance("payee") > 0
    head, _ = post(**{"payment-signature": signed})
    assert head.status == 409
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    digest = request_digest("POST", CHAT, body)
    assert not any(digest in data for data in kept)
    assert not any(word.encode() in data for data in kept for word in WORDS)
