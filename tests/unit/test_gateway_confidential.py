"""Encrypted requests at a real gateway: read by it alone, answered once, refused when altered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from confidential_gateway import (
    ASSURANCE,
    CHAT,
    MESSAGES,
    WORDS,
    Confidential,
    Relay,
    ask,
    now,
    run_confidential,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from running_gateway import run_gateway

from verispect.appraisal.policy import ATTESTED_DEVELOPMENT, SIGNED
from verispect.appraisal.verifier import Verifier
from verispect.client.confidential import GatewayKey, seal_request
from verispect.client.session import GatewayClient, verify_exchange
from verispect.core.claims import Claim, Source
from verispect.core.confidential import (
    HEADER_BYTES,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    SUITE,
    ResponseHead,
    ResponseOpener,
    _pad,
    encode_header,
    key_digest,
    request_info,
)
from verispect.core.encoding import encode
from verispect.core.errors import Reason, RequestError, VerificationError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import EvidenceClass
from verispect.gateway.confidential import ConfidentialDoor, _RequestMemory
from verispect.gateway.http import HttpRequest
from verispect.gateway.limits import Limits
from verispect.testing.echo_model import EchoLanguageModel

RESPONSE_KEY = bytes(range(32))
BODY = json.dumps({"model": "echo", "messages": MESSAGES}).encode()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confidential]:
    with run_confidential(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def opened(sealed, response: httpx.Response):
    """Return status, body and headers of an encrypted answer."""
    assert response.status_code == 200
    assert response.headers["content-type"] == RESPONSE_TYPE
    head, pieces = sealed.open_answer([response.content])
    return head.status, b"".join(pieces), dict(head.headers)


# -- What works ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_receipt_shows_that_the_request_was_confidential(service, stream):
    """Plain and streamed, the caller alone reads the answer and hardware stands behind it."""
    relay = Relay(service.gateway.base_url)
    exchange = ask(service.channel(), relay, stream=stream)
    verified = service.verify(exchange)
    assert verified.result.claims[Claim.CONFIDENTIALITY] == {Source.HARDWARE}
    assert verified.result.evidence_classes == (EvidenceClass.DEVELOPMENT,)
    assert verified.statement.confidential == service.key.digest
    assert (verified.statement.stream is not None) is stream
    assert set(WORDS) <= set(exchange.answer.parts[8][0].split())
    for word in WORDS:
        assert not any(word.encode() in seen for seen in relay.seen)
    assert [name for name in relay.answer_headers if name.startswith("verispect")] == []


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_the_content_is_kept_in_the_clear(tmp_path, stream):
    """No file of the gateway, openings and recovery records included, holds prompt or answer."""
    with run_confidential(tmp_path) as service:
        service.verify(ask(service.channel(), Relay(service.gateway.base_url), stream=stream))
        with GatewayClient(service.gateway.base_url) as client:
            client.chat("echo", [{"role": "user", "content": "bilby"}])
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(b"bilby" in data for data in kept.values())
    for word in WORDS:
        assert [path for path, data in kept.items() if word.encode() in data] == []


def test_text_is_shown_as_it_arrives(service):
    """A caller sees the same text piece by piece as one who asks in the clear."""
    shown: list[str] = []
    with GatewayClient(service.gateway.base_url, confidential=service.channel()) as client:
        exchange = client.chat(
            "echo", MESSAGES, stream=True, assurance=ASSURANCE, on_text=shown.append
        )
    assert len(shown) > 2
    assert "".join(shown) == exchange.answer.parts[8][0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "echo", "prompt": "quokka wombat"}),
        ("/v1/embeddings", {"model": "echo", "input": "quokka wombat"}),
        ("/v1/responses", {"model": "echo", "input": "quokka wombat", "store": False}),
        ("/v1/responses", {"model": "echo", "input": "quokka wombat", "stream": True}),
    ],
)
def test_every_route_of_text_takes_encrypted_requests(service, path, body):
    """Completions, embeddings and responses are confidential in the same way."""
    with GatewayClient(service.gateway.base_url, confidential=service.channel()) as client:
        exchange = client.exchange(path, body, ASSURANCE)
    verified = service.verify(exchange)
    assert verified.result.claims[Claim.CONFIDENTIALITY] == {Source.HARDWARE}


def test_evidence_of_one_inference_shows_confidentiality_too(service):
    """The premium level binds the key as the session's evidence does."""
    sealed = service.seal(BODY, **{"verispect-attestation": "inference"})
    status, body, headers = opened(sealed, service.post(sealed.body))
    assert status == 200
    with service.gateway.http() as client:
        where = f"/v1/receipts/{headers['verispect-inference']}?evidence=attached"
        receipt = InferenceReceipt.parse(client.get(where).content)
    result = Verifier(service.root()).appraise(
        receipt, opened={}, policy=ATTESTED_DEVELOPMENT, now=now()
    )
    assert receipt.evidence[0].profile == "verispect/inference-v1"
    assert result.claims[Claim.CONFIDENTIALITY] == {Source.HARDWARE}
    assert b"quokka" in body


def test_a_request_in_the_clear_is_not_confidential(service):
    """The same gateway, asked in the clear, proves no confidentiality and says why."""
    with GatewayClient(service.gateway.base_url) as client:
        exchange = client.chat("echo", MESSAGES, assurance=ASSURANCE)
    result = service.verify(exchange).result
    assert result.claims[Claim.CONFIDENTIALITY] == {Source.UNSTATED}
    assert "aws-nitro: confidentiality: the request came in the clear" in result.not_covered


# -- Errors stay inside ----------------------------------------------------------------------------


def test_errors_after_opening_are_encrypted(service):
    """An unknown model is told to the caller alone."""
    body = json.dumps({"model": "gpt-thylacine", "messages": MESSAGES}).encode()
    sealed = service.seal(body)
    response = service.post(sealed.body)
    status, inner, _ = opened(sealed, response)
    assert status == 404
    assert json.loads(inner)["error"]["code"] == "model_not_found"
    assert b"thylacine" not in response.content
    with (
        GatewayClient(service.gateway.base_url, confidential=service.channel()) as client,
        pytest.raises(RequestError, match="404"),
    ):
        client.chat("gpt-thylacine", MESSAGES, assurance=ASSURANCE)


def test_the_inner_content_type_is_checked(service):
    """What would be refused in the clear is refused inside."""
    for content_type, expected in (("text/plain", 415), ("application/json", 200)):
        message = by_hand(service, good_fields(content_type=content_type))
        opener = ResponseOpener(RESPONSE_KEY, message[HEADER_BYTES : HEADER_BYTES + 32])
        head = next(opener.feed(service.post(message).content))
        assert ResponseHead.decode(head).status == expected


def test_outer_headers_are_not_read(service):
    """Assurance, lane and nonce are the caller's inner ones, whatever a relay adds."""
    sealed = service.seal(BODY)
    with service.gateway.http() as client:
        headers = {
            "content-type": REQUEST_TYPE,
            "verispect-assurance": "nonsense",
            "verispect-lane": "nonsense",
            "verispect-nonce": "!",
        }
        response = client.post(CHAT, content=sealed.body, headers=headers)
    assert opened(sealed, response)[0] == 200


def test_answers_are_not_stored(service):
    """Storing would keep the answer in the clear, so it is refused when asked for."""
    for store, expected in ((True, 400), (None, 200), (False, 200)):
        body = {"model": "echo", "input": "hi"} | ({} if store is None else {"store": store})
        sealed = service.seal(json.dumps(body).encode(), "/v1/responses")
        status, inner, _ = opened(sealed, service.post(sealed.body, "/v1/responses"))
        assert status == expected
        if expected == 200:
            with service.gateway.http() as client:
                found = client.get(f"/v1/responses/{json.loads(inner)['id']}")
            assert found.status_code == 404


def test_a_model_of_an_upstream_service_is_refused(service):
    """Somebody else would read the request."""
    served = service.gateway.state.pool.served
    known = served["team/echo"]
    served["team/echo"] = replace(known, identity=ModelIdentity.UPSTREAM_REPORTED)
    started = service.gateway.model.started
    try:
        body = json.dumps({"model": "team/echo", "messages": MESSAGES}).encode()
        sealed = service.seal(body)
        status, inner, _ = opened(sealed, service.post(sealed.body))
    finally:
        served["team/echo"] = known
    assert status == 400
    assert "upstream" in json.loads(inner)["error"]["message"]
    assert service.gateway.model.started == started


# -- What is refused before it is opened -----------------------------------------------------------


def by_hand(service: Confidential, fields: object, *, padded: bool = True) -> bytes:
    header = encode_header(service.key.digest)
    content = fields if isinstance(fields, bytes) else encode(fields)
    key = X25519PublicKey.from_public_bytes(service.key.raw)
    plaintext = _pad(content) if padded else content
    return header + SUITE.encrypt(plaintext, key, request_info("POST", CHAT, header))


def good_fields(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "body": BODY,
        "headers": {},
        "sent_at": now(),
        "content_type": "application/json",
        "response_key": RESPONSE_KEY,
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    "changes",
    [
        {"body": "text"},
        {"body": ...},
        {"extra": 1},
        {"headers": {"authorization": "x"}},
        {"headers": {"verispect-nonce": 1}},
        {"headers": []},
        {"sent_at": -1},
        {"sent_at": True},
        {"sent_at": "now"},
        {"content_type": 1},
        {"response_key": bytes(31)},
        {"response_key": "key"},
    ],
)
def test_content_of_another_form_is_refused(service, changes):
    """A field that is missing, unknown or of another type is an error before any work."""
    started = service.gateway.model.started
    assert service.post(by_hand(service, good_fields())).status_code == 200
    refused = service.post(by_hand(service, good_fields(**changes)))
    assert code_of(refused) == (400, "confidential-request-invalid")
    assert service.gateway.model.started == started + 1


def test_padding_is_strict(service):
    """No padding, another length and something in place of zeros are refused."""
    content = encode(good_fields())
    padded = _pad(content)
    bad = [b"", b"\0" * 3, content, padded + bytes(512), padded[:-1] + b"\1", padded[:-1]]
    bad.append((len(content) + 5000).to_bytes(4, "big") + padded[4:])
    for plaintext in bad:
        refused = service.post(by_hand(service, plaintext, padded=False))
        assert code_of(refused) == (400, "confidential-request-invalid")
    for content in (b"", b"\xff", encode([1])):
        refused = service.post(by_hand(service, content))
        assert code_of(refused) == (400, "confidential-request-invalid")


def test_a_request_opens_only_where_it_was_sent(service):
    """A relay cannot send a chat to another route, nor with a query, nor elsewhere at all."""
    sealed = service.seal(BODY)
    wrong = service.post(sealed.body, "/v1/completions")
    assert code_of(wrong) == (400, "confidential-request-invalid")
    with_query = service.post(sealed.body, CHAT + "?a=b")
    assert code_of(with_query) == (400, "confidential-request-invalid")
    elsewhere = service.post(sealed.body, "/v1/models/echo")
    assert elsewhere.status_code == 405
    assert opened(sealed, service.post(sealed.body))[0] == 200


def test_a_request_to_another_key_says_what_to_do(service):
    """The code tells a client to fetch the attestation again; nothing was opened."""
    other = X25519PrivateKey.generate().public_key().public_bytes_raw()
    sealed = seal_request(
        GatewayKey(other, key_digest(other)), CHAT, BODY, {"verispect-assurance": ASSURANCE},
        now=now(),
    )  # fmt: skip
    response = service.post(sealed.body)
    assert code_of(response) == (422, "confidential-key-unknown")
    assert "/v1/attestation" in response.json()["error"]["message"]
    renamed = encode_header(service.key.digest) + sealed.body[HEADER_BYTES:]
    assert code_of(service.post(renamed)) == (400, "confidential-request-invalid")


def test_the_same_request_is_answered_once(service):
    """A copy is refused, also of a request whose answer was an error."""
    started = service.gateway.model.started
    sealed = service.seal(BODY)
    assert opened(sealed, service.post(sealed.body))[0] == 200
    assert code_of(service.post(sealed.body)) == (409, "confidential-replayed")
    assert service.gateway.model.started == started + 1
    failing = service.seal(b"{")
    assert opened(failing, service.post(failing.body))[0] == 400
    assert code_of(service.post(failing.body)) == (409, "confidential-replayed")


@pytest.mark.parametrize("seconds", [-600, -301, 310, 10**9])
def test_old_and_future_requests_are_refused(service, seconds):
    """What was made too far from now could have been answered before it was forgotten."""
    sealed = service.seal(BODY, sent_at=now() + seconds * 1000)
    assert code_of(service.post(sealed.body)) == (409, "confidential-replayed")


def test_oversized_requests_are_refused_unread(service):
    """The limit of the route holds for what comes encrypted."""
    limit = service.gateway.state.limits.maximum_json_bytes
    response = service.post(encode_header(service.key.digest) + bytes(limit))
    assert code_of(response) == (413, "too-large")


def test_every_flipped_byte_of_a_request_is_refused(service):
    """No byte of header, key share or ciphertext can change; the model never starts."""
    started = service.gateway.model.started
    sealed = service.seal(BODY)
    size = len(sealed.body)
    positions = [*range(HEADER_BYTES + 32), *range(HEADER_BYTES + 32, size, 37), size - 1]
    with service.gateway.http() as client:
        for position in positions:
            changed = bytearray(sealed.body)
            changed[position] ^= 1 << (position % 8)
            response = client.post(
                CHAT, content=bytes(changed), headers={"content-type": REQUEST_TYPE}
            )
            assert code_of(response) in {
                (400, "confidential-request-invalid"),
                (422, "confidential-key-unknown"),
            }, position
    assert service.gateway.model.started == started
    assert opened(sealed, service.post(sealed.body))[0] == 200


def test_truncated_and_extended_requests_are_refused(service):
    """A request that was cut, or has bytes behind it, does not open."""
    sealed = service.seal(BODY)
    size = len(sealed.body)
    lengths = [0, 1, 6, 7, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 32, size - 16, size - 1]
    for body in [*(sealed.body[:length] for length in lengths), sealed.body + b"\0"]:
        assert service.post(body).status_code in (400, 422)
        assert service.post(body).json()["error"]["code"].startswith("confidential-")


def test_a_gateway_that_does_not_attest_takes_none(tmp_path):
    """Without an attested key there is nothing to encrypt to."""
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway, gateway.http() as client:
        headers = {"content-type": REQUEST_TYPE}
        response = client.post(CHAT, content=b"\1" * 100, headers=headers)
        assert code_of(response) == (415, "media-type-unsupported")
        assert client.get("/v1/attestation").status_code == 404


# -- Memory ----------------------------------------------------------------------------------------


def request_of(body: bytes) -> HttpRequest:
    return HttpRequest("POST", CHAT, {}, {}, body, asyncio.Event(), now())


def test_a_full_memory_refuses_rather_than_forgets():
    """At its limit the gateway answers that it is overloaded; no copy slips through."""
    door = ConfidentialDoor(Limits(maximum_confidential_remembered=2))
    key = GatewayKey(door.public_key, door.key_digest)
    messages = [seal_request(key, CHAT, BODY, {}, now=now()).body for _ in range(3)]
    for body in messages[:2]:
        door.open(request_of(body))
    with pytest.raises(RequestError) as caught:
        door.open(request_of(messages[2]))
    assert caught.value.reason is Reason.SERVER_OVERLOADED
    for body in messages[:2]:
        with pytest.raises(RequestError) as caught:
            door.open(request_of(body))
        assert caught.value.reason is Reason.CONFIDENTIAL_REPLAYED


def test_memory_is_bounded_in_time_and_a_clock_set_back_renews_nothing():
    """What is forgotten can no longer pass, whatever the clock does afterwards."""
    memory = _RequestMemory(Limits(confidential_seconds=10, maximum_confidential_remembered=1))
    memory.admit(b"a", 100_000, 105_000)
    memory.admit(b"b", 110_001, 110_001)
    assert memory._seen == {b"b"}
    for later in (110_002, 100_000, 0):
        with pytest.raises(RequestError) as caught:
            memory.admit(b"a", 100_000, later)
        assert caught.value.reason is Reason.CONFIDENTIAL_REPLAYED


def test_each_process_has_a_key_of_its_own():
    """A key is never derived from anything that stays."""
    assert ConfidentialDoor(Limits()).key_digest != ConfidentialDoor(Limits()).key_digest


def test_a_caller_who_leaves_a_stream_ends_it(tmp_path: Path):
    """Encrypting does not hide that the caller is gone: the engine stops and a receipt is left."""
    model = EchoLanguageModel(pause_seconds=0.05)
    with run_confidential(tmp_path, model) as service:
        long = {"model": "echo", "messages": [{"role": "user", "content": "quokka " * 400}]}
        sealed = service.seal(json.dumps({**long, "stream": True}).encode())
        with (
            service.gateway.http() as client,
            client.stream(
                "POST", CHAT, content=sealed.body, headers={"content-type": REQUEST_TYPE}
            ) as response,
        ):
            head, pieces = sealed.open_answer(response.iter_raw())
            next(pieces)
        inference = bytes.fromhex(dict(head.headers)["verispect-inference"])
        stored = None
        for _ in range(200):
            stored = service.gateway.state.recorder.store.find(inference)
            if stored is not None and not model.running:
                break
            time.sleep(0.05)
        assert model.running == 0
        assert stored is not None
        statement = InferenceReceipt.parse(stored.receipt).unverified_statement
        assert list(statement.finish_reasons) == ["cancelled"]
        assert statement.confidential == service.key.digest


def test_an_exchange_is_held_to_what_was_promised(service):
    """A receipt that names another key, or none, is not that of this encrypted request."""
    exchange = ask(service.channel(), Relay(service.gateway.base_url))
    for other in (bytes(32), b"k" * 32):
        with pytest.raises(VerificationError) as caught:
            service.verify(replace(exchange, confidential=other))
        assert caught.value.reason is Reason.CONTENT_MISMATCH


def test_a_weaker_policy_afterwards_does_not_hide_missing_evidence(service):
    """Without its evidence the receipt is good as a signed one, and not for what was promised."""
    exchange = ask(service.channel(), Relay(service.gateway.base_url))
    receipt = InferenceReceipt.parse(exchange.receipt)
    stripped = replace(exchange, receipt=replace(receipt.envelope, evidence=()).encode())
    arguments = {"trusted_root": service.root(), "policy": SIGNED, "now": now()}
    verify_exchange(replace(stripped, confidential=None), **arguments)
    with pytest.raises(VerificationError, match="was confidential") as caught:
        verify_exchange(stripped, **arguments)
    assert caught.value.reason is Reason.POLICY_UNMET
