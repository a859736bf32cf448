"""The upstream engine against a real local HTTP server, honest and hostile."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
import pytest_asyncio
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import ChatInput, Delta, PromptInput, Sampling
from verispect.engines.upstream import UpstreamModel, UpstreamSettings
from verispect.engines.upstream_stream import (
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    MAX_RESPONSE_BYTES,
    Assembler,
    EventReader,
    parse_json,
)

in_one_loop = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-very-secret-key"
SSE = "text/event-stream"


class Upstream:
    """A small ASGI application that plays an upstream; a test says what it answers."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict] = []
        self.status = 200
        self.content_type = SSE
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.breaks_off = False
        self.hold: asyncio.Event | None = None
        self.left = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.requests.append(
            {"path": scope["path"], "headers": dict(scope["headers"]), "body": body}
        )
        headers = [(b"content-type", self.content_type.encode()), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.hold is not None:
            waiting = [
                asyncio.ensure_future(self.hold.wait()),
                asyncio.ensure_future(receive()),
            ]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            self.left.set()
        if self.breaks_off:
            raise ConnectionResetError
        await send({"type": "http.response.body", "body": b""})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[tuple[Upstream, str]]:
    application = Upstream()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            application, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
    )
    server.install_signal_handlers = lambda: None
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.01)
    yield application, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    await task


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(server) -> AsyncIterator[tuple[Upstream, str]]:
    application, url = server
    application.reset()
    yield application, url
    if application.hold is not None:
        application.hold.set()


@pytest_asyncio.fixture(loop_scope="module")
async def model(upstream) -> AsyncIterator[UpstreamModel]:
    model = UpstreamModel(UpstreamSettings(upstream[1], "far-model", api_key=KEY))
    yield model
    await model.close()


def event(**members: object) -> bytes:
    chunk = {
        "id": "r-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "far-model-2026",
        "system_fingerprint": "fp_1",
        "choices": [],
        **members,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def choice(delta: dict | None = None, finish: str | None = None, **more: object) -> bytes:
    return event(choices=[{"index": 0, "delta": delta or {}, "finish_reason": finish, **more}])


USAGE = event(usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
DONE = b"data: [DONE]\n\n"
END = [choice(finish="stop"), USAGE, DONE]
CHAT = ChatInput("be kind", [{"role": "user", "content": "hé"}])


async def collect(model: UpstreamModel, source=CHAT, sampling: Sampling | None = None):
    sampling = model.resolve(sampling or Sampling(), prompt_tokens=0)
    prepared = model.finalize(await model.prepare(source), sampling)
    return prepared, [delta async for delta in model.generate(prepared, sampling)]


@in_one_loop
async def test_committed_bytes_are_the_bytes_sent(upstream, model):
    """The body that arrives upstream is byte for byte the committed record."""
    application, url = upstream
    application.pieces = [choice({"role": "assistant", "content": "yes"}), *END]
    sampling = Sampling(
        maximum_tokens=5,
        temperature=0.5,
        seed=3,
        stop=("a", "b"),
        logit_bias={5: -1.5},
        top_logprobs=2,
    )
    source = ChatInput(
        "be kind",
        [{"role": "user", "content": "hé"}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="required",
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
    )
    prepared, _ = await collect(model, source, sampling)
    (request,) = application.requests
    assert request["body"] == prepared.record["upstream_request"]
    assert request["path"] == prepared.record["url_path"] == "/v1/chat/completions"
    assert prepared.record["url_host"] in url
    assert json.loads(request["body"]) == {
        "model": "far-model",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hé"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["a", "b"],
        "logit_bias": {"5": -1.5},
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert request["headers"][b"authorization"] == b"Bearer " + KEY.encode()


@in_one_loop
async def test_text_arrives_with_usage_and_what_the_upstream_reports(upstream, model):
    """Deltas carry the text; the last one the reason, the usage and the upstream's own words."""
    upstream[0].pieces = [
        b": a comment\n\n",
        choice({"role": "assistant", "content": ""}),
        choice({"content": "Hel"}),
        choice({"content": "lo"}),
        *END,
    ]
    prepared, deltas = await collect(model)
    assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
    assert deltas[-1] == Delta(
        tool_calls=[],
        finish_reason="stop",
        prompt_tokens=7,
        completion_tokens=2,
        upstream={
            "endpoint_host": prepared.record["url_host"],
            "reported_model": "far-model-2026",
            "response_id": "r-1",
            "system_fingerprint": "fp_1",
            "created": 1_700_000_000,
            "usage_reported": True,
        },
    )


@in_one_loop
async def test_stream_survives_any_cut(upstream, model):
    """Events split in the middle of a character or a line are the same events."""
    whole = choice({"content": "é漢"}) + b"".join(END)
    upstream[0].pieces = [whole[index : index + 1] for index in range(len(whole))]
    _, deltas = await collect(model)
    assert "".join(delta.text for delta in deltas) == "é漢"


@in_one_loop
async def test_missing_usage_is_marked(upstream, model):
    """An upstream that reports no usage gets zero, marked as not reported."""
    upstream[0].pieces = [choice({"content": "x"}), choice(finish="stop"), DONE]
    _, deltas = await collect(model)
    assert deltas[-1].prompt_tokens == 0
    assert deltas[-1].upstream["usage_reported"] is False


@in_one_loop
async def test_tool_calls_are_put_together(upstream, model):
    """Fragments of parallel tool calls become whole calls, each once."""
    upstream[0].pieces = [
        choice({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "add"}}]}),
        choice({"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "sub"}}]}),
        choice({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        choice({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
        choice({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        choice(finish="tool_calls"),
        USAGE,
        DONE,
    ]
    _, deltas = await collect(model)
    calls = [(call.identifier, call.name, call.arguments) for call in deltas[-1].tool_calls]
    assert calls == [("c0", "add", '{"a":1}'), ("c1", "sub", "{}")]
    assert deltas[-1].finish_reason == "tool_calls"


@in_one_loop
async def test_chat_logprobs_are_passed_on(upstream, model):
    """Log-probabilities and their alternatives arrive with the text they belong to."""
    logprobs = {
        "content": [
            {
                "token": "é",
                "logprob": -0.5,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "e", "logprob": -1, "bytes": [101]}],
            }
        ]
    }
    upstream[0].pieces = [choice({"content": "é"}, logprobs=logprobs), *END]
    _, deltas = await collect(model, sampling=Sampling(top_logprobs=1))
    (item,) = deltas[0].logprobs
    assert (item.token, item.logprob, item.token_bytes) == ("é", -0.5, "é".encode())
    assert list(item.alternatives) == [("e", None, -1.0)]


@in_one_loop
async def test_completions_use_their_own_interface(upstream, model):
    """A bare prompt goes to `/completions`, with its own names and log-probabilities."""
    upstream[0].pieces = [
        event(
            choices=[
                {
                    "index": 0,
                    "text": "b",
                    "finish_reason": None,
                    "logprobs": {
                        "tokens": ["b"],
                        "token_logprobs": [-0.25],
                        "top_logprobs": [{"c": -2.0, "b": -0.25}],
                    },
                }
            ]
        ),
        event(choices=[{"index": 0, "text": "", "finish_reason": "length"}]),
        USAGE,
        DONE,
    ]
    source, sampling = PromptInput([1, 2]), Sampling(maximum_tokens=1, top_logprobs=2)
    _, deltas = await collect(model, source, sampling)
    (request,) = upstream[0].requests
    assert request["path"] == "/v1/completions"
    body = json.loads(request["body"])
    assert (body["prompt"], body["max_tokens"], body["logprobs"]) == ([1, 2], 1, 2)
    assert [delta.text for delta in deltas] == ["b", ""]
    assert list(deltas[0].logprobs[0].alternatives) == [("b", None, -0.25), ("c", None, -2.0)]
    assert deltas[-1].finish_reason == "length"


BROKEN: list[tuple[str, list[bytes]]] = [
    ("no end", [choice({"content": "x"})]),
    ("no [DONE]", [choice({"content": "x"}), choice(finish="stop"), USAGE]),
    ("no reason", [choice({"content": "x"}), DONE]),
    ("nothing", []),
    ("not JSON", [b"data: {]\n\n", *END]),
    ("not UTF-8", [b"data: \xff\n\n", *END]),
    ("not an object", [b"data: [1]\n\n", *END]),
    ("deep", [b"data: " + b"[" * 100_000 + b"\n\n", *END]),
    ("error event", [b'data: {"error":{"message":"the prompt was hunter2"}}\n\n']),
    ("two choices", [event(choices=[{"index": 0}, {"index": 1}]), *END]),
    ("other choice", [event(choices=[{"index": 1, "delta": {}}]), *END]),
    ("no choices", [b'data: {"id":"r-1"}\n\n', *END]),
    ("text is a number", [choice({"content": 5}), *END]),
    ("text is a surrogate", [b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n', *END]),
    ("delta is text", [event(choices=[{"index": 0, "delta": "x"}]), *END]),
    ("strange reason", [choice(finish="because"), DONE]),
    ("reason is a list", [choice(finish=["stop"]), DONE]),  # type: ignore[arg-type]
    ("text after the end", [choice(finish="stop"), choice({"content": "x"}), DONE]),
    ("model changes", [choice({"content": "x"}), event(model="cheaper"), *END]),
    ("model is hostile", [event(model="m" * 257), *END]),
    ("model is no text", [event(model={"a": 1}), *END]),
    ("usage is text", [event(usage="many"), *END]),
    ("usage is negative", [event(usage={"prompt_tokens": -1, "completion_tokens": 0}), *END]),
    ("usage is a fraction", [event(usage={"prompt_tokens": 1.5, "completion_tokens": 0}), *END]),
    ("usage is true", [event(usage={"prompt_tokens": True, "completion_tokens": 0}), *END]),
    ("tool call without name", [choice({"tool_calls": [{"index": 0, "id": "a"}]}), *END]),
    ("tool call far out", [choice({"tool_calls": [{"index": 10**9}]}), *END]),
    ("tool call is text", [choice({"tool_calls": ["x"]}), *END]),
    (
        "logprob is NaN",
        [b'data: {"choices":[{"logprobs":{"content":[{"token":"a","logprob":NaN}]}}]}\n\n', *END],
    ),
    ("logprob is text", [choice({}, logprobs={"content": [{"token": "a", "logprob": "x"}]}), *END]),
    ("huge line", [b"data: " + b"x" * (MAX_LINE_BYTES + 1)]),
]


@pytest.mark.parametrize("pieces", [pieces for _, pieces in BROKEN], ids=[n for n, _ in BROKEN])
@in_one_loop
async def test_broken_streams_are_upstream_failures(upstream, model, pieces):
    """A stream that is cut, malformed or contradicts itself fails, without the upstream's words."""
    upstream[0].pieces = pieces
    with pytest.raises(EngineError) as failed:
        await collect(model)
    assert failed.value.reason is Reason.UPSTREAM_FAILED
    assert "hunter2" not in str(failed.value)


@in_one_loop
async def test_text_before_a_break_has_been_yielded(upstream, model):
    """What arrived before the connection broke was given on; then the failure shows."""
    upstream[0].pieces = [choice({"content": "half"})]
    upstream[0].breaks_off = True
    sampling = model.resolve(Sampling(), prompt_tokens=0)
    prepared = model.finalize(await model.prepare(CHAT), sampling)
    seen = []
    deltas = model.generate(prepared, sampling)
    seen.append((await anext(deltas)).text)
    with pytest.raises(EngineError) as failed:
        await anext(deltas)
    assert failed.value.reason is Reason.UPSTREAM_FAILED
    assert seen == ["half"]
    assert len(upstream[0].requests) == 1


STATUSES = [
    (429, EngineError, Reason.ENGINE_OVERLOADED),
    (400, RequestError, Reason.INVALID_REQUEST),
    (422, RequestError, Reason.INVALID_REQUEST),
    (401, EngineError, Reason.UPSTREAM_FAILED),
    (404, EngineError, Reason.UPSTREAM_FAILED),
    (302, EngineError, Reason.UPSTREAM_FAILED),
    (500, EngineError, Reason.UPSTREAM_FAILED),
    (503, EngineError, Reason.UPSTREAM_FAILED),
    (204, EngineError, Reason.UPSTREAM_FAILED),
]


@pytest.mark.parametrize(("status", "kind", "reason"), STATUSES)
@in_one_loop
async def test_refusals_are_mapped_and_never_repeated(upstream, model, status, kind, reason):
    """Each status has its error; nothing is retried, redirected or quoted."""
    upstream[0].status = status
    upstream[0].headers = [(b"location", b"http://127.0.0.1:1/elsewhere")]
    upstream[0].pieces = [] if status == 204 else [b'{"error":{"message":"hunter2"}}']
    with pytest.raises(kind) as failed:
        await collect(model)
    assert failed.value.reason is reason
    assert "hunter2" not in str(failed.value)
    assert len(upstream[0].requests) == 1


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [("application/json", []), ("text/html", []), (SSE, [(b"content-encoding", b"gzip")])],
)
@in_one_loop
async def test_other_answers_are_failures(upstream, model, content_type, headers):
    """An answer that is not a plain event stream is not read."""
    upstream[0].content_type, upstream[0].headers = content_type, headers
    upstream[0].pieces = END
    with pytest.raises(EngineError) as failed:
        await collect(model)
    assert failed.value.reason is Reason.UPSTREAM_FAILED


@in_one_loop
async def test_unreachable_upstream_is_a_failure():
    """A closed port is an upstream failure that does not show the key."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    model = UpstreamModel(UpstreamSettings(f"http://127.0.0.1:{port}/v1", "m", api_key=KEY))
    with pytest.raises(EngineError) as failed:
        await collect(model)
    assert failed.value.reason is Reason.UPSTREAM_FAILED
    assert failed.value.__cause__ is None
    await model.close()
    with pytest.raises(EngineError):
        await collect(model)


@pytest.mark.parametrize("member", ["read_seconds", "total_seconds"])
@in_one_loop
async def test_slow_upstream_is_a_failure(upstream, member):
    """Silence beyond the read limit, and any answer beyond the total, end the wait."""
    application, url = upstream
    application.hold = asyncio.Event()
    application.pieces = [choice({"content": "x"})] * 3
    model = UpstreamModel(UpstreamSettings(url, "m", **{member: 0.05, "connect_seconds": 5}))
    if member == "total_seconds":
        application.hold = None
        application.pieces = [choice({"content": "x"}), *END]
        model = UpstreamModel(UpstreamSettings(url, "m", total_seconds=-1))
    with pytest.raises(EngineError, match="too long") as failed:
        await collect(model)
    assert failed.value.reason is Reason.UPSTREAM_FAILED
    await model.close()


@in_one_loop
async def test_closing_the_iterator_hangs_up(upstream, model):
    """When nobody wants more, the connection to the upstream ends, so that it stops too."""
    application, _ = upstream
    application.hold = asyncio.Event()
    application.pieces = [choice({"content": "x"})]
    sampling = model.resolve(Sampling(), prompt_tokens=0)
    prepared = model.finalize(await model.prepare(CHAT), sampling)
    async with aclosing(model.generate(prepared, sampling)) as deltas:
        assert (await anext(deltas)).text == "x"
    async with asyncio.timeout(30):
        await application.left.wait()


@in_one_loop
async def test_concurrency_is_bounded(upstream):
    """One request more than allowed is refused as overload, and the slot comes back."""
    application, url = upstream
    application.hold = asyncio.Event()
    application.pieces = [choice({"content": "x"})]
    model = UpstreamModel(UpstreamSettings(url, "m", concurrency=1))
    sampling = model.resolve(Sampling(), prompt_tokens=0)
    prepared = model.finalize(await model.prepare(CHAT), sampling)
    async with aclosing(model.generate(prepared, sampling)) as deltas:
        await anext(deltas)
        with pytest.raises(EngineError) as refused:
            await collect(model)
        assert refused.value.reason is Reason.ENGINE_OVERLOADED
    application.hold.set()
    application.pieces = [*END]
    assert (await collect(model))[1][-1].finish_reason == "stop"
    await model.close()


@in_one_loop
async def test_hostile_model_name_stays_inside_its_member(upstream):
    """A model name with quotes and line breaks is one JSON string, and nothing else."""
    application, url = upstream
    application.pieces = END
    name = 'm","stream":false,\r\nx-injected: 1\0é'
    model = UpstreamModel(UpstreamSettings(url, name))
    await collect(model)
    (request,) = application.requests
    assert json.loads(request["body"])["model"] == name
    assert b"x-injected" not in request["headers"]
    assert b"authorization" not in request["headers"]
    await model.close()


@in_one_loop
async def test_key_is_shown_nowhere(upstream, model, caplog):
    """The key is in no log line, representation, identity or record."""
    caplog.set_level(logging.DEBUG)
    upstream[0].pieces = END
    prepared, _ = await collect(model)
    settings = UpstreamSettings(upstream[1], "m", api_key=KEY)
    shown = f"{caplog.text}{settings!r}{model!r}{model.identity!r}{prepared!r}"
    assert KEY not in shown
    assert "be kind" not in caplog.text


def test_identity_is_remote(model):
    """The engine says that it is remote, and which endpoint it asks."""
    content = model.identity.to_content()
    assert content["kernel_class"] == "remote"
    assert content["library_sha256"] is None
    assert content["settings"]["model"] == "far-model"


REFUSED_SAMPLING = [
    ("top_k", Sampling(top_k=40)),
    ("min_p", Sampling(min_p=0.1)),
    ("max_tokens", Sampling(maximum_tokens=0)),
    ("temperature", Sampling(temperature=2.5)),
    ("temperature", Sampling(temperature=math.nan)),
    ("top_p", Sampling(top_p=-0.1)),
    ("seed", Sampling(seed=2**63)),
    ("presence_penalty", Sampling(presence_penalty=3)),
    ("frequency_penalty", Sampling(frequency_penalty=-3)),
    ("top_logprobs", Sampling(top_logprobs=21)),
    ("stop", Sampling(stop=("a",) * 5)),
    ("logit_bias", Sampling(logit_bias={1: 101})),
]


@pytest.mark.parametrize(("name", "sampling"), REFUSED_SAMPLING)
def test_sampling_that_cannot_be_honoured_is_refused(model, name, sampling):
    """A parameter that the interface lacks, or out of range, is refused by name."""
    with pytest.raises(RequestError) as refused:
        model.resolve(sampling, prompt_tokens=0)
    assert refused.value.parameter == name


@in_one_loop
async def test_nothing_is_sent_that_was_not_asked_for(model):
    """Defaults stay the upstream's: none is invented in the body."""
    sampling = model.resolve(Sampling(), prompt_tokens=0)
    prepared = model.finalize(await model.prepare(PromptInput("p")), sampling)
    assert set(json.loads(prepared.record["upstream_request"])) == {
        "model",
        "prompt",
        "stream",
        "stream_options",
    }


@in_one_loop
async def test_only_a_finalized_request_is_sent(upstream, model):
    """A request whose body was not committed for this sampling is a programming error."""
    sampling = Sampling(temperature=1.0)
    drafted = await model.prepare(CHAT)
    final = model.finalize(drafted, Sampling(temperature=0.0))
    for prepared in (drafted, final):
        with pytest.raises(RuntimeError):
            await anext(model.generate(prepared, sampling))
    assert upstream[0].requests == []


@pytest.mark.parametrize(
    "content", ["\ud800", float("nan"), object()], ids=["surrogate", "NaN", "object"]
)
@in_one_loop
async def test_content_that_is_not_json_is_refused(model, content):
    """What cannot be written as JSON in UTF-8 is refused before anything is sent."""
    prepared = await model.prepare(ChatInput(None, [{"role": "user", "content": content}]))
    with pytest.raises(RequestError):
        model.finalize(prepared, Sampling())


@in_one_loop
async def test_prompts_cannot_be_scored(model):
    """Scoring is refused, because the interface has none."""
    with pytest.raises(RequestError):
        await model.score(await model.prepare(PromptInput("p")), top_logprobs=0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/v1",
        "ftp://example.com",
        "https://",
        "https://user:pass@example.com/v1",
        "https://example.com/v1?key=1",
        "https://example.com/v1#x",
        "http://example.com/v1",
        "http://127.0.0.1.example.com/v1",
        "http://[::1",
    ],
)
def test_unusable_addresses_are_refused(url):
    """An address without TLS, with credentials or that is no URL is refused at once."""
    with pytest.raises(EngineError) as refused:
        UpstreamModel(UpstreamSettings(url, "m"))
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx: 1", "é"])
def test_keys_that_could_break_a_header_are_refused(key):
    """A key is plain text; a refusal does not show it."""
    with pytest.raises(EngineError) as refused:
        UpstreamModel(UpstreamSettings("https://example.com/v1", "m", api_key=key))
    assert repr(key) not in str(refused.value)


def embeddings(*vectors: object, **members: object) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 5}, **members}).encode()


@in_one_loop
async def test_embeddings_are_normalised_and_in_order(upstream, model):
    """Vectors come in the order of the inputs, with length one."""
    upstream[0].content_type = "application/json"
    upstream[0].pieces = [
        embeddings(
            data=[
                {"index": 1, "embedding": [0.0, 1.0]},
                {"index": 0, "embedding": [3.0, 4.0]},
            ]
        )
    ]
    assert await model.embed(["a", "b"]) == ([[0.6, 0.8], [0.0, 1.0]], 5)
    assert json.loads(upstream[0].requests[0]["body"])["input"] == ["a", "b"]


BROKEN_EMBEDDINGS = [
    b"{}",
    b"[]",
    b"{",
    embeddings([1.0]),
    embeddings([1.0], [0.0]),
    embeddings([1.0], [1.0, 0.0]),
    embeddings([1.0], "x"),
    embeddings([1.0], ["x"]),
    embeddings([1.0], [True]),
    b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[NaN]}]}',
    b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1e999]}]}',
    b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}',
    embeddings([1.0], [1.0], usage={"prompt_tokens": "x"}),
]


@pytest.mark.parametrize("answer", BROKEN_EMBEDDINGS)
@in_one_loop
async def test_broken_embeddings_are_upstream_failures(upstream, model, answer):
    """Too few, ill-typed, unequal, zero or doubled vectors are refused."""
    upstream[0].content_type = "application/json"
    upstream[0].pieces = [answer]
    with pytest.raises(EngineError) as failed:
        await model.embed(["a", "b"])
    assert failed.value.reason is Reason.UPSTREAM_FAILED


@in_one_loop
async def test_texts_and_tokens_do_not_mix(model):
    """The interface takes texts or token lists, not both in one request."""
    with pytest.raises(RequestError):
        await model.embed(["a", [1]])


@pytest.mark.parametrize(
    "flood",
    [
        lambda: (b":" + b"x" * 65534 + b"\n" for _ in range(MAX_RESPONSE_BYTES // 65536 + 1)),
        lambda: (b"data: " + b"x" * 65536 + b"\n" for _ in range(MAX_EVENT_BYTES // 65536 + 1)),
        lambda: (b"x" * 65536 for _ in range(MAX_LINE_BYTES // 65536 + 1)),
    ],
    ids=["response", "event", "line"],
)
def test_floods_end_at_a_limit(flood: Callable):
    """Endless comments, an endless event and an endless line end at their named limits."""
    reader = EventReader()
    with pytest.raises(EngineError, match="more than"):
        [event for chunk in flood() for event in reader.feed(chunk)]


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_are_events_or_failures(chunks):
    """Whatever an upstream sends is read or refused with our own error."""
    reader, assembler = EventReader(), Assembler(endpoint_host="h", chat=True)
    try:
        for chunk in chunks:
            for data in reader.feed(b"data: " + chunk + b"\n\n"):
                assembler.absorb(parse_json(data))
    except EngineError:
        return


MEMBERS = st.sampled_from(
    [
        *("index", "delta", "content", "refusal", "tool_calls", "function", "name", "arguments"),
        *("id", "logprobs", "top_logprobs", "token", "logprob", "bytes", "finish_reason"),
        *("text", "tokens", "token_logprobs", "prompt_tokens", "completion_tokens"),
    ]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(MEMBERS, JSON_VALUES, max_size=6), JSON_VALUES, st.booleans())
def test_any_json_is_a_chunk_or_a_failure(choices, usage, chat):
    """JSON of any shape in any place is read or refused with our own error."""
    assembler = Assembler(endpoint_host="h", chat=chat)
    try:
        for value in ([choices], choices):
            assembler.absorb({"choices": value, "usage": usage, "model": usage})
        assembler.finish()
    except EngineError:
        return
