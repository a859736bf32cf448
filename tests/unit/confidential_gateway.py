"""A gateway that takes encrypted requests, a relay that sees every byte, and messages by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import ATTESTED_DEVELOPMENT
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.development_enclave import DevelopmentEnclave, DevelopmentEnclaveAttester
from verispect.client.confidential import ConfidentialChannel, GatewayKey, seal_request
from verispect.client.session import Exchange, GatewayClient, verify_exchange
from verispect.core.confidential import REQUEST_TYPE
from verispect.testing.echo_model import EchoLanguageModel

WORDS = ("quokka", "wombat", "numbat", "potoroo")
MESSAGES = [{"role": "user", "content": " ".join(WORDS)}]
ASSURANCE = "attested-development"
CHAT = "/v1/chat/completions"
REGISTERS = ("pcr0", "pcr1", "pcr2")


def now() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Confidential:
    """A gateway, and what its callers trust."""

    gateway: RunningGateway
    enclave: DevelopmentEnclave
    directory: Path

    @property
    def key(self) -> GatewayKey:
        door = self.gateway.state.confidential
        assert door is not None
        return GatewayKey(door.public_key, door.key_digest)

    def root(self, **changes: Any) -> TrustedRoot:
        return a_root(self.gateway, self.enclave, **changes)

    def channel(self, **changes: Any) -> ConfidentialChannel:
        return ConfidentialChannel(self.root(**changes), ATTESTED_DEVELOPMENT)

    def verify(self, exchange: Exchange) -> VerifiedReceipt:
        return verify_exchange(
            exchange, trusted_root=self.root(), policy=ATTESTED_DEVELOPMENT, now=now()
        )

    def post(self, body: bytes, path: str = CHAT, **options: Any) -> httpx.Response:
        with self.gateway.http() as client:
            headers = {"content-type": REQUEST_TYPE}
            return client.post(path, content=body, headers=headers, **options)

    def seal(self, body: bytes, path: str = CHAT, *, sent_at: int | None = None, **headers: str):
        inner = {"verispect-assurance": ASSURANCE, **headers}
        return seal_request(self.key, path, body, inner, now=sent_at or now())


def a_root(
    gateway: RunningGateway,
    enclave: DevelopmentEnclave,
    *,
    anchored: bool = True,
    registers: dict[str, str] | None = None,
) -> TrustedRoot:
    values = enclave.registers() if registers is None else registers
    measurements = {name: frozenset({values[name]}) for name in REGISTERS if name in values}
    trust = AttestationTrust(
        anchors=(enclave.anchor(),) if anchored else (),
        measurements={"aws-nitro": measurements} if measurements else {},
    )
    return TrustedRoot([gateway.state.recorder.issuer.trusted_key()], attestation=trust)


@contextmanager
def run_confidential(
    directory: Path, model: EchoLanguageModel | None = None, **options: Any
) -> Iterator[Confidential]:
    """Serve with an emulated enclave until the block ends."""
    place = directory / "enclave"
    if place.exists():
        enclave = DevelopmentEnclave.load(place)
    else:
        enclave = DevelopmentEnclave.create(place, now())
    attester = DevelopmentEnclaveAttester(enclave, clock=now)
    with run_gateway(
        directory, model or EchoLanguageModel(), attester=attester, **options
    ) as gateway:
        yield Confidential(gateway, enclave, directory)


@dataclass
class Relay(httpx.BaseTransport):
    """Stands in between, sees every byte, and changes what a test says."""

    target: str
    alter_request: Callable[[httpx.Request, bytes], bytes] = lambda _request, body: body
    alter: Callable[[httpx.Request, httpx.Response, bytes], tuple[int, bytes]] = (
        lambda _request, response, body: (response.status_code, body)
    )
    requests: list[httpx.Request] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    """Bodies of what was posted."""
    seen: list[bytes] = field(default_factory=list)
    """Everything: targets, headers and bodies, in both directions."""
    answer_headers: list[str] = field(default_factory=list)
    """Names of the headers of what was answered to a post."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = self.alter_request(request, request.read())
        self.requests.append(request)
        if request.method == "POST":
            self.sent.append(body)
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        headers["content-length"] = str(len(body))
        with httpx.Client(base_url=self.target, timeout=30) as client:
            response = client.request(
                request.method,
                request.url.raw_path.decode(),
                content=body or None,
                headers=headers if body else {**headers, "content-length": "0"},
            )
        answer = response.content
        if request.method == "POST":
            self.answer_headers += [name.lower() for name in response.headers]
        for raw in (request.headers.raw, response.headers.raw):
            self.seen += [part for pair in raw for part in pair]
        self.seen += [request.url.raw_path, body, answer]
        status, answer = self.alter(request, response, answer)
        kept = [pair for pair in response.headers.raw if pair[0].lower() == b"content-type"]
        return httpx.Response(status, headers=kept, stream=httpx.ByteStream(answer))


def ask(
    channel: ConfidentialChannel, relay: Relay, *, stream: bool = False, **options: Any
) -> Exchange:
    with GatewayClient("http://gateway.test", confidential=channel, transport=relay) as client:
        return client.chat(
            "echo", MESSAGES, stream=stream, assurance=ASSURANCE, options=options or None
        )
