"""The HTTP front: health, metrics, lifespan, and streams whose caller goes away."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from running_gateway import run_gateway

from verispect.gateway.app import create_app
from verispect.gateway.connection import make_protocol
from verispect.gateway.http import HttpResponse, StreamedResponse
from verispect.gateway.limits import Limits
from verispect.gateway.routes import Route, RouteTable, make_route_table
from verispect.gateway.state import GatewayState
from verispect.testing.echo_model import EchoLanguageModel

ASK = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


def test_health_is_told_by_get_and_head(gateway):
    """HEAD has the headers of GET and no body."""
    with gateway.http() as http:
        got, head = http.get("/healthz"), http.head("/healthz")
    assert got.json() == {"status": "ok"}
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


def test_options_says_what_is_allowed(gateway):
    """Without doing anything."""
    with gateway.http() as http:
        answer = http.options("/v1/models")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_metrics_count_by_route_and_never_by_path(gateway):
    """What a caller writes into a path makes no new series."""
    with gateway.http() as http:
        http.post("/v1/chat/completions", json=ASK)
        http.get("/my-secret-path")
        http.get("/v1/models/my-secret-model")
        text = http.get("/metrics").text
    assert 'verispect_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'verispect_requests_total{route="other",status="404"}' in text
    assert 'verispect_requests_total{route="/v1/models/{id}",status="404"}' in text
    assert 'verispect_request_seconds_bucket{le="0.5",route="/v1/chat/completions"}' in text
    assert "my-secret" not in text


def test_errors_under_v2_have_the_protocols_shape(gateway):
    """The Open Inference Protocol's error is one string, whoever refuses."""
    with gateway.http() as http:
        answer = http.delete("/v2/models/x")
    assert answer.status_code == 405
    assert isinstance(answer.json()["error"], str)


def test_every_documented_route_is_in_the_table():
    """Exact paths before families, and a family needs a name."""
    table = make_route_table()
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models",
        "/.well-known/verispect", "/v2", "/healthz", "/metrics",
    ):  # fmt: skip
        assert table.find(path).pattern == path
    for path in ("/v1/models/a/b", "/v1/receipts/00", "/v1/responses/resp_1", "/v2/models/x/infer"):
        assert table.find(path).is_prefix
    assert table.find("/v1/models/") is None
    assert table.find("/v1/receipts") is None


def test_the_bounded_protocol_can_be_sent_to_worker_processes():
    """uvicorn pickles its configuration for every worker."""
    protocol = pickle.loads(pickle.dumps(make_protocol(Limits(header_seconds=3))))
    assert protocol.keywords == {"limits": Limits(header_seconds=3)}


# -- The dispatcher by itself, over a caller made of queues ---------------------------------------


class Caller:
    """An ASGI caller whose every message the test decides."""

    def __init__(self, method="POST", path="/x", body=b"{}"):
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
        self.sent = []
        self.incoming = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def receive(self):
        return await self.incoming.get()

    async def send(self, message):
        self.sent.append(message)

    def leave(self):
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def call(self, monkeypatch, handler, **limits):
        route = Route("/x", {"POST": handler}, watches_caller=True)
        monkeypatch.setattr(
            "verispect.gateway.app.make_route_table", lambda: RouteTable({"/x": route}, ())
        )
        app = create_app(GatewayState(pool=None, recorder=None, limits=Limits(**limits)))
        await asyncio.wait_for(app(self.scope, self.receive, self.send), 30)


async def test_a_stream_is_closed_as_soon_as_its_caller_leaves(monkeypatch):
    """The body is told where it stands, and may end its work."""
    caller, ended = Caller(), []

    async def body():
        try:
            yield b"first"
            caller.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            yield b"second"
            yield b"third"
        except GeneratorExit:
            ended.append(True)
            raise

    async def handler(state, request):
        return StreamedResponse(200, body())

    await caller.call(monkeypatch, handler)
    assert ended == [True]
    assert b"third" not in [message.get("body") for message in caller.sent]


async def test_a_stream_that_does_not_notice_is_cancelled(monkeypatch):
    """A body that waits for ever gets its time and is then cancelled, and still closes."""
    caller, ended = Caller(), []

    async def body():
        try:
            yield b"first"
            caller.leave()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    async def handler(state, request):
        return StreamedResponse(200, body())

    with pytest.raises(asyncio.CancelledError):
        await caller.call(monkeypatch, handler, disconnect_seconds=0.01)
    assert ended == [True]


async def test_a_caller_who_does_not_read_is_given_up(monkeypatch):
    """A send that blocks is the same as a caller who left."""
    caller, ended = Caller(), []

    async def send(message):
        caller.sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    caller.send = send

    async def body():
        try:
            yield b"first"
        except GeneratorExit:
            ended.append(True)
            raise

    async def handler(state, request):
        return StreamedResponse(200, body())

    await caller.call(monkeypatch, handler, send_seconds=0.01)
    assert ended == [True]


async def test_a_caller_who_leaves_while_sending_is_not_answered(monkeypatch):
    """The route never sees a half request."""
    caller = Caller()
    caller.incoming = asyncio.Queue()
    caller.incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    caller.leave()

    async def handler(state, request):
        raise AssertionError("called with half a request")

    await caller.call(monkeypatch, handler)
    assert caller.sent == []


async def test_a_plain_route_is_told_that_its_caller_left(monkeypatch):
    """`disconnected` is set while the route works."""
    caller = Caller()
    caller.leave()

    async def handler(state, request):
        await asyncio.wait_for(request.disconnected.wait(), 10)
        return HttpResponse(200, b"{}")

    await caller.call(monkeypatch, handler)
    assert caller.sent[0]["status"] == 200


async def test_start_and_stop_are_awaited_once_and_in_order():
    """The lifespan of the application is that of what it stands on."""
    calls, sent = [], []

    async def note(what):
        calls.append(what)

    state = GatewayState(
        pool=None, recorder=None, on_start=lambda: note("start"), on_stop=lambda: note("stop")
    )
    incoming = asyncio.Queue()
    for kind in ("lifespan.startup", "lifespan.shutdown"):
        incoming.put_nowait({"type": kind})

    async def send(message):
        sent.append(message["type"])

    await create_app(state)({"type": "lifespan"}, incoming.get, send)
    assert calls == ["start", "stop"]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_start_that_fails_is_told_to_the_server():
    """A server whose store does not open must not accept requests."""
    sent = []

    async def fail():
        raise RuntimeError("no store")

    incoming = asyncio.Queue()
    incoming.put_nowait({"type": "lifespan.startup"})

    async def send(message):
        sent.append(message["type"])

    app = create_app(GatewayState(pool=None, recorder=None, on_start=fail))
    with pytest.raises(RuntimeError):
        await app({"type": "lifespan"}, incoming.get, send)
    assert sent == ["lifespan.startup.failed"]
