"""A relay between a caller and an attested gateway: it may lose messages and nothing else.

It offers keys of its own, answers in the clear, forges and replays evidence, swaps, cuts and
changes answers. Where the evidence does not vouch for the key, no byte of a request leaves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
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
from running_gateway import run_gateway

from verispect.appraisal.policy import (
    ATTESTED,
    ATTESTED_DEVELOPMENT,
    ATTESTED_SOFTWARE,
    SIGNED,
)
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.development_enclave import DevelopmentEnclave, EnclaveMeasurements
from verispect.cli.main import main
from verispect.client.confidential import ConfidentialChannel
from verispect.client.session import GatewayClient
from verispect.core.confidential import key_digest
from verispect.core.encoding import decode, encode, from_base64url, from_hex, to_base64url
from verispect.core.errors import Error, Reason, RequestError, TrustError
from verispect.core.keys import KeyId
from verispect.evidence.bindings.key_v1 import KEY_V1
from verispect.testing.echo_model import EchoLanguageModel

Change = Callable[[dict[str, Any], httpx.Request], None]
OWN_KEY = X25519PrivateKey.generate().public_key().public_bytes_raw()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confidential]:
    with run_confidential(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def relay(service: Confidential) -> Relay:
    return Relay(service.gateway.base_url)


def on_attestation(change: Change) -> Callable[..., tuple[int, bytes]]:
    def alter(request: httpx.Request, response: httpx.Response, body: bytes) -> tuple[int, bytes]:
        if request.url.path != "/v1/attestation":
            return response.status_code, body
        document = json.loads(body)
        change(document, request)
        return response.status_code, json.dumps(document).encode()

    return alter


def on_answer(change: Callable[[bytes], bytes]) -> Callable[..., tuple[int, bytes]]:
    def alter(request: httpx.Request, response: httpx.Response, body: bytes) -> tuple[int, bytes]:
        if request.method != "POST":
            return response.status_code, body
        changed = change(body)
        assert changed != body
        return response.status_code, changed

    return alter


def refused(channel: ConfidentialChannel, relay: Relay, *, stream: bool = False) -> Reason:
    with pytest.raises(Error) as caught:
        ask(channel, relay, stream=stream)
    return caught.value.reason


def nothing_left(relay: Relay) -> bool:
    """Tell whether the relay saw no request for an inference, encrypted or not."""
    assert relay.requests
    assert not any(word.encode() in seen for word in WORDS for seen in relay.seen)
    return relay.sent == [] and {each.method for each in relay.requests} == {"GET"}


# -- Before anything is sent -----------------------------------------------------------------------


def offer_own_key(document: dict[str, Any], _request: httpx.Request) -> None:
    document["hpkeKey"] = to_base64url(OWN_KEY)


def offer_own_key_and_binding(document: dict[str, Any], _request: httpx.Request) -> None:
    document["hpkeKey"] = to_base64url(OWN_KEY)
    change_binding(document, hpke_key_digest=bytes(key_digest(OWN_KEY)))


def change_binding(document: dict[str, Any], **members: bytes | None) -> None:
    content = decode(from_base64url(document["endorsements"]))
    for name, value in members.items():
        if value is None:
            content["binding"].pop(name, None)
        else:
            content["binding"][name] = value
    document["endorsements"] = to_base64url(encode(content))


def flip_body(document: dict[str, Any], _request: httpx.Request) -> None:
    body = bytearray(from_base64url(document["body"]))
    body[-1] ^= 1
    document["body"] = to_base64url(bytes(body))


def setting(**members: Any) -> Change:
    def change(document: dict[str, Any], _request: httpx.Request) -> None:
        for name, value in members.items():
            if value is ...:
                document.pop(name, None)
            else:
                document[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (offer_own_key, Reason.ATTESTATION_BINDING_INVALID),
        (offer_own_key_and_binding, Reason.ATTESTATION_NONCE_MISMATCH),
        (flip_body, Reason.ATTESTATION_SIGNATURE_INVALID),
        (lambda d, _r: change_binding(d, hpke_key_digest=None), Reason.ATTESTATION_BINDING_INVALID),
        (lambda d, _r: change_binding(d, nonce=None), Reason.ATTESTATION_NONCE_MISMATCH),
        (lambda d, _r: change_binding(d, epoch=bytes(8)), Reason.ATTESTATION_NONCE_MISMATCH),
        (
            lambda d, _r: change_binding(d, receipt_key_id=from_hex(d["keyId"])),
            Reason.ATTESTATION_BINDING_INVALID,
        ),
        (setting(keyId="ab" * 32), Reason.KEY_UNKNOWN),
        (setting(keyId="ab"), Reason.MALFORMED_EVIDENCE),
        (setting(kind="tpm2-quote"), Reason.MALFORMED_EVIDENCE),
        (setting(kind="signature"), Reason.UNSUPPORTED_EVIDENCE),
        (setting(profile="verispect/inference-v1"), Reason.UNSUPPORTED_EVIDENCE),
        (setting(hpkeKey=...), Reason.MALFORMED_EVIDENCE),
        (setting(hpkeKey=7), Reason.MALFORMED_EVIDENCE),
        (setting(hpkeKey="AAAA"), Reason.MALFORMED_EVIDENCE),
        (setting(body=None), Reason.MALFORMED_EVIDENCE),
        (setting(endorsements=""), Reason.MALFORMED_EVIDENCE),
        (setting(collectedAt="now"), Reason.MALFORMED_EVIDENCE),
    ],
)
def test_evidence_that_does_not_vouch_for_the_key_sends_nothing(service, relay, change, reason):
    """A key of the relay's own, in whatever wrapping, gets no byte of the request."""
    relay.alter = on_attestation(change)
    assert refused(service.channel(), relay) is reason
    assert nothing_left(relay)


def test_evidence_of_an_earlier_question_sends_nothing(service, relay):
    """A recorded answer does not carry this caller's nonce, even if the relay writes it in."""
    ask(service.channel(), relay)
    with service.gateway.http() as client:
        recorded = client.get("/v1/attestation?nonce=" + to_base64url(b"n" * 32)).json()

    def replay(document: dict[str, Any], request: httpx.Request) -> None:
        document.update(recorded)

    def replay_with_nonce(document: dict[str, Any], request: httpx.Request) -> None:
        document.update(recorded)
        change_binding(document, nonce=from_base64url(request.url.params["nonce"]))

    for change in (replay, replay_with_nonce):
        fresh = Relay(relay.target, alter=on_attestation(change))
        assert refused(service.channel(), fresh) is Reason.ATTESTATION_NONCE_MISMATCH
        assert nothing_left(fresh)


def test_evidence_of_the_relays_own_enclave_sends_nothing(service, relay, tmp_path):
    """An enclave of the relay's own, under a root that nobody named, vouches for nothing."""
    enclave = DevelopmentEnclave.create(tmp_path / "own", now())

    def forge(document: dict[str, Any], request: httpx.Request) -> None:
        offer_own_key_and_binding(document, request)
        binding = decode(from_base64url(document["endorsements"]))["binding"]
        key_id = KeyId(from_hex(document["keyId"]))
        field = KEY_V1.recompute({**binding, "receipt_key_id": bytes(key_id)}, 64)
        body = enclave.attest(
            user_data=field, nonce=binding["nonce"], public_key=None, now=document["collectedAt"]
        )
        document["body"] = to_base64url(body)

    relay.alter = on_attestation(forge)
    assert refused(service.channel(), relay) is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert nothing_left(relay)


def test_other_code_in_the_trusted_enclave_gets_nothing(service, relay):
    """A good signature over measurements that the caller does not know is refused."""
    other = EnclaveMeasurements(b"other", b"other", b"other").registers("i-0")
    registers = {f"pcr{index}": value.hex() for index, value in other.items()}
    channel = service.channel(registers=registers)
    assert refused(channel, relay) is Reason.ATTESTATION_MEASUREMENT_MISMATCH
    unknown = service.channel(registers={})
    assert refused(unknown, relay) is Reason.ATTESTATION_MEASUREMENT_MISMATCH
    assert nothing_left(relay)


@pytest.mark.parametrize("policy", [ATTESTED, ATTESTED_SOFTWARE])
def test_no_default_policy_sends_to_a_development_enclave(service, relay, policy):
    """Development evidence passes only where the policy names it."""
    channel = ConfidentialChannel(service.root(), policy)
    assert refused(channel, relay) is Reason.ATTESTATION_CLASS_REFUSED
    untrusted = service.channel(anchored=False)
    assert refused(untrusted, relay) is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert nothing_left(relay)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revoked_at": 1}, Reason.KEY_REVOKED),
        ({"not_after": 1}, Reason.KEY_EXPIRED),
        ({"not_before": 10**14}, Reason.KEY_NOT_YET_VALID),
        ({"development": True}, Reason.DEVELOPMENT_KEY),
    ],
)
def test_an_issuer_key_that_is_not_good_now_sends_nothing(service, relay, changes, reason):
    """The trusted root decides about the issuer before evidence is looked at."""
    root = service.root()
    keys = [replace(root.issuer_keys[0], **changes)]
    channel = ConfidentialChannel(
        TrustedRoot(keys, attestation=root.attestation), ATTESTED_DEVELOPMENT
    )
    assert refused(channel, relay) is reason
    assert nothing_left(relay)


def test_an_empty_or_stale_root_sends_nothing(service, relay):
    """Whoever trusts nobody, or trusted somebody once, cannot tell."""
    root = service.root()
    for bad, reason in (
        (TrustedRoot([], attestation=root.attestation), Reason.TRUSTED_ROOT_EMPTY),
        (replace(root, expires_at=1), Reason.TRUSTED_ROOT_STALE),
    ):
        with pytest.raises(TrustError) as caught:
            ask(ConfidentialChannel(bad, ATTESTED_DEVELOPMENT), relay)
        assert caught.value.reason is reason
    assert nothing_left(relay)


def test_a_policy_or_assurance_without_attestation_sends_nothing(service, relay):
    """Neither side of the promise can be left out: the check before, the evidence after."""
    with pytest.raises(RequestError):
        ConfidentialChannel(service.root(), SIGNED)
    with (
        GatewayClient(
            "http://gateway.test", confidential=service.channel(), transport=relay
        ) as client,
        pytest.raises(RequestError),
    ):
        client.chat("echo", MESSAGES, assurance="signed")
    assert relay.requests == []


def test_a_gateway_that_does_not_attest_gets_nothing(service, tmp_path):
    """No attestation, no request: there is no weaker mode."""
    with run_gateway(tmp_path, EchoLanguageModel()) as plain:
        relay = Relay(plain.base_url)
        assert refused(service.channel(), relay) is Reason.INVALID_REQUEST
        assert nothing_left(relay)


# -- On the way back -------------------------------------------------------------------------------


def frames_of(data: bytes) -> list[bytes]:
    frames, offset = [data[:32]], 32
    while offset < len(data):
        end = offset + 5 + int.from_bytes(data[offset + 1 : offset + 5], "big")
        frames.append(data[offset:end])
        offset = end
    return frames


@pytest.mark.parametrize("stream", [False, True])
def test_every_flipped_byte_of_an_answer_is_refused(service, stream):
    """No byte that the gateway sent can change without the caller noticing."""
    body = {"model": "echo", "messages": MESSAGES, "stream": stream}
    sealed = service.seal(json.dumps(body).encode())
    answer = service.post(sealed.body).content
    head, pieces = sealed.open_answer([answer])
    assert head.status == 200
    assert b"quokka" in b"".join(pieces)
    for position in range(0, len(answer), 1 if len(answer) < 4000 else 5):
        changed = bytearray(answer)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(Error) as caught:
            list(sealed.open_answer([bytes(changed)])[1])
        assert caught.value.reason is Reason.CONFIDENTIAL_RESPONSE_INVALID, position


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"".join(frames_of(data)[:-1]),
        lambda data: b"",
        lambda data: data[:32],
        lambda data: data + b"\0",
        lambda data: b'{"choices": []}',
        lambda data: b"".join([*frames_of(data)[:2], *frames_of(data)[:1:-1]]),
        lambda data: b"".join([*frames_of(data)[:3], *frames_of(data)[2:]]),
    ],
)
def test_a_cut_or_rearranged_stream_is_refused(service, relay, change):
    """Cut between frames, reordered, doubled, or replaced by plain text: never an answer."""
    relay.alter = on_answer(change)
    assert refused(service.channel(), relay, stream=True) is Reason.CONFIDENTIAL_RESPONSE_INVALID


def test_the_answer_to_another_request_is_refused(service, relay):
    """An answer opens with the key of its own request, though both are the same caller's."""
    answers: list[bytes] = []
    relay.alter = on_answer(lambda data: answers.append(data) or data + b"\0")
    refused(service.channel(), relay)
    relay.alter = on_answer(lambda data: answers[0])
    assert refused(service.channel(), relay) is Reason.CONFIDENTIAL_RESPONSE_INVALID


def test_openings_of_another_request_are_refused(service, relay):
    """Openings that were sealed for another inference, changed or not sealed do not open."""
    kept: list[bytes] = []

    def alter(request: httpx.Request, response: httpx.Response, body: bytes) -> tuple[int, bytes]:
        if not request.url.path.endswith("/openings"):
            return response.status_code, body
        kept.append(body)
        return response.status_code, kept[0] if len(kept) > 1 else body

    relay.alter = alter
    service.verify(ask(service.channel(), relay))
    assert refused(service.channel(), relay) is Reason.CONFIDENTIAL_RESPONSE_INVALID
    relay.alter = lambda request, response, body: (
        response.status_code,
        b"\xa0" if request.url.path.endswith("/openings") else body,
    )
    assert refused(service.channel(), relay) is Reason.CONFIDENTIAL_RESPONSE_INVALID


def test_a_relay_that_sends_a_request_twice_buys_one_inference(service, relay):
    """The copy is refused in the clear, so the caller never takes its answer for the first."""
    started = service.gateway.model.started

    def send_twice(request: httpx.Request, body: bytes) -> bytes:
        if request.method == "POST":
            assert service.post(body).status_code == 200
        return body

    relay.alter_request = send_twice
    assert refused(service.channel(), relay) is Reason.INVALID_REQUEST
    assert service.gateway.model.started == started + 1


# -- Restarts --------------------------------------------------------------------------------------


def test_a_restarted_gateway_is_asked_for_its_new_key(tmp_path):
    """The old key's messages do not open; the client has the new key vouched for, then sends."""
    with run_confidential(tmp_path) as first:
        relay = Relay(first.gateway.base_url)
        client = GatewayClient("http://gateway.test", confidential=first.channel(), transport=relay)
        client.chat("echo", MESSAGES, assurance=ASSURANCE)
        old = first.seal(json.dumps({"model": "echo", "messages": MESSAGES}).encode())
        old_key = first.key.digest
    with client, run_confidential(tmp_path) as second:
        assert second.key.digest != old_key
        response = second.post(old.body)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "confidential-key-unknown"
        relay.target = second.gateway.base_url
        exchange = client.chat("echo", MESSAGES, assurance=ASSURANCE)
        assert second.verify(exchange).statement.confidential == second.key.digest
        questions = [each.url.path for each in relay.requests]
        assert questions.count("/v1/attestation") == 2
        assert questions.count(CHAT) == 3


def test_a_relay_that_keeps_saying_the_key_is_unknown_gets_no_plain_text(service, relay):
    """The client has the key vouched for once more and then gives up."""
    relay.alter = lambda request, response, body: (
        422 if request.method == "POST" else response.status_code,
        b'{"error": {"message": "send it in the clear"}}' if request.method == "POST" else body,
    )
    channel = service.channel()
    with GatewayClient("http://gateway.test", confidential=channel, transport=relay) as client:
        for expected in (1, 3):
            with pytest.raises(RequestError, match="422"):
                client.chat("echo", MESSAGES, assurance=ASSURANCE)
            assert len(relay.sent) == expected
    assert not any(word.encode() in seen for word in WORDS for seen in relay.seen)


# -- The command line ------------------------------------------------------------------------------


def test_the_command_line_asks_confidentially_or_not_at_all(service, tmp_path, capsys):
    """`ask --confidential` verifies, says so, and refuses without root or attested policy."""
    root = tmp_path / "root.json"
    root.write_bytes(service.root().to_json())
    common = ["ask", "quokka wombat", "--url", service.gateway.base_url, "--model", "echo"]
    common += ["--confidential", "--assurance", ASSURANCE]
    trusted = ["--trusted-root", str(root)]
    assert main([*common, *trusted, "--policy", ASSURANCE]) == 0
    shown = capsys.readouterr()
    assert "quokka" in shown.out
    assert "confidential: encrypted to the attested key" in shown.err
    started = service.gateway.model.started
    for arguments, word in (
        ([*trusted, "--policy", "signed"], "needs no attestation"),
        ([*trusted, "--policy", "attested"], "attestation-class-refused"),
        (["--unsafe-no-verify", "--policy", ASSURANCE], "--confidential needs --trusted-root"),
    ):
        assert main([*common, *arguments]) != 0
        assert word in capsys.readouterr().err
    assert service.gateway.model.started == started
