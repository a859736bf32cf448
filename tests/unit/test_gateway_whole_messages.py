"""Requests and answers that pass in one step are, byte for byte, those that pass in messages."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from running_gateway import run_gateway
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from verispect.gateway import connection
from verispect.gateway.connection import make_protocol
from verispect.gateway.http import WHOLE_MESSAGES, HttpResponse
from verispect.gateway.limits import Limits
from verispect.testing.echo_model import EchoLanguageModel

ASK = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "one two"}]}).encode()
WRONG = json.dumps({"model": "nobody", "messages": []}).encode()


def request(start: str, body: bytes = b"", *further: str) -> bytes:
    """Return a request; `start` is method and target, HTTP/1.1 unless it says otherwise."""
    line = start if "HTTP/" in start else f"{start} HTTP/1.1"
    lines = [line, "host: gateway", *further]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHAT = "POST /v1/chat/completions"
EXCHANGES = {
    "get": [request("GET /v1/models")],
    "head": [request("HEAD /v1/models")],
    "options": [request("OPTIONS /v1/models")],
    "query": [request("GET /v1/models?a=b")],
    "unknown-path": [request("GET /nowhere")],
    "refused-body": [request(CHAT, WRONG)],
    "answered-body": [request(CHAT, ASK)],
    "body-of-a-get": [request("GET /v1/models", b"{}")],
    "in-pieces": [request(CHAT, ASK)[:-20], request(CHAT, ASK)[-20:]],
    "body-later": [request(CHAT, ASK)[: -len(ASK)], ASK],
    "too-large": [request(CHAT, b"[" + b" " * 4096 + b"]")],
    "chunked": [
        request(CHAT, b"", "content-type: application/json", "transfer-encoding: chunked")
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(WRONG), WRONG)
    ],
    "chunked-too-large": [
        request(CHAT, b"", "content-type: application/json", "transfer-encoding: chunked")
        + b"1001\r\n%s\r\n0\r\n\r\n" % (b" " * 4097)
    ],
    "expecting": [request(CHAT, ASK, "expect: 100-continue")],
    "closing": [request("GET /v1/models", b"", "connection: close")],
    "old": [request("GET /v1/models HTTP/1.0")],
    "pipelined": [request("GET /v1/models") + request(CHAT, ASK) + request("GET /healthz")],
    "one-after-another": [request("GET /healthz"), request("GET /v1/models/echo")],
}
_CHANGING = re.compile(
    rb'(?m)^(date|verispect-[a-z-]+|content-length): .*\r$|"(id|receipt|receipt_id|inference)":'
    rb'"[^"]*"|"created":\d+'
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    limits = Limits(maximum_json_bytes=4096)
    directory = tmp_path_factory.mktemp("gateway")
    with run_gateway(directory, EchoLanguageModel(), limits=limits) as running:
        yield running


def exchange(gateway, pieces: list[bytes]) -> bytes:
    """Send the pieces one by one and return all that comes back."""
    host, port = gateway.base_url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as caller:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.05)
            caller.sendall(piece)
        caller.settimeout(1)
        try:
            while data := caller.recv(1 << 16):
                answer += data
        except TimeoutError:
            answer += b"<open>"
    return answer


def sweep(gateway) -> dict[str, bytes]:
    """Return what comes back of every exchange; they run side by side."""
    with ThreadPoolExecutor(len(EXCHANGES)) as pool:
        answers = pool.map(lambda pieces: exchange(gateway, pieces), EXCHANGES.values())
        return dict(zip(EXCHANGES, answers, strict=True))


@pytest.fixture(scope="module")
def both(gateway):
    """Every exchange as it is, and as it is where nothing passes in one step."""
    at_once = sweep(gateway)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection._WholeMessages, "take_body", lambda _self: None)
        patch.setattr(connection._WholeMessages, "answer", lambda _self, _response: False)
        return at_once, sweep(gateway)


@pytest.mark.parametrize("name", EXCHANGES)
def test_one_step_and_several_messages_give_the_same_bytes(both, name):
    """Head, body and whether the connection stays open do not depend on the way taken."""
    at_once, in_messages = (_CHANGING.sub(b"*", answers[name]) for answers in both)
    assert at_once.startswith(b"HTTP/1.1 ")
    assert at_once == in_messages


@pytest.mark.parametrize(
    ("name", "bodies", "answers"),
    [
        ("get", 0, 1),
        ("answered-body", 1, 1),
        ("refused-body", 1, 0),
        ("body-later", 0, 1),
        ("head", 0, 0),
        ("closing", 0, 0),
        ("pipelined", 1, 3),
    ],
)
def test_what_is_usual_passes_in_one_step(gateway, monkeypatch, name, bodies, answers):
    """A body that has arrived is taken at once, and a good answer is written at once."""
    counts = {"take_body": 0, "answer": 0}
    for method in counts:
        own = getattr(connection._WholeMessages, method)

        def counting(self, *arguments, own=own, method=method):
            outcome = own(self, *arguments)
            counts[method] += outcome is not None and outcome is not False
            return outcome

        monkeypatch.setattr(connection._WholeMessages, method, counting)
    exchange(gateway, EXCHANGES[name])
    assert counts == {"take_body": bodies, "answer": answers}


async def _answered(headers: list[tuple[str, str]]) -> bytes:
    """Return what is written for an answer with `headers`, each way tried as the server does."""
    written: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            written.append(bytes(data))

        def is_closing(self) -> bool:
            return False

        def get_extra_info(self, name, default=None):
            return default

        def resume_reading(self) -> None:
            pass

        def close(self) -> None:
            pass

    async def application(scope, receive, send) -> None:
        assert not scope[WHOLE_MESSAGES].answer(HttpResponse(200, b"{}", headers=headers))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(application, http=make_protocol(Limits()), lifespan="off")
    config.load()
    protocol = config.http_protocol_class(config, uvicorn.server.ServerState(), {})
    protocol.connection_made(Transport())
    protocol.data_received(request("GET /"))
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    return b"".join(written)


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0", "a\x7f"])
async def test_a_header_with_control_characters_is_not_written(value):
    """It is left to the server's own way, which refuses it; nothing was written before."""
    written = await _answered([("verispect-inference", value)])
    assert written.startswith(b"HTTP/1.1 204")
    assert b"verispect-inference" not in written


def test_the_server_s_cycle_is_as_it_is_known_here():
    """An uvicorn whose cycle has other attributes is found by this test and not by callers."""
    names = RequestResponseCycle.__init__.__code__.co_names
    assert {
        "disconnected",
        "keep_alive",
        "waiting_for_100_continue",
        "body",
        "more_body",
        "response_started",
        "response_complete",
        "chunked_encoding",
    } <= set(names)
