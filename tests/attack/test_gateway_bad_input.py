"""Whatever is sent, the answer is a clear OpenAI-shaped error, and the server answers on."""

from __future__ import annotations

import json
import logging
from contextlib import closing

import pytest
from bounded_gateway import (
    ASK,
    CHAT,
    assert_error,
    read_answer,
    run_bounded_gateway,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verispect.gateway.limits import Limits
from verispect.testing.echo_model import EchoLanguageModel

LIMITS = Limits(
    maximum_json_bytes=200_000,
    maximum_tensor_bytes=300_000,
    body_seconds=0.5,
    header_seconds=0.5,
    linger_seconds=0.5,
)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gateway")
    with run_bounded_gateway(directory, EchoLanguageModel(), LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def _alive_afterwards(gateway):
    yield
    gateway.assert_alive()


def post(gateway, content, path=CHAT, **headers):
    """Post bytes or JSON; return what `assert_error` takes."""
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    with gateway.http() as client:
        answer = client.post(
            path, content=content, headers={"content-type": "application/json", **headers}
        )
    return answer.status_code, answer.headers, answer.content


# -- Bodies that are not JSON -----------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        json.dumps(ASK).encode() + b" trailing",
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b'{"model": "echo", "temperature": NaN}',
        b'{"model": "echo", "temperature": Infinity}',
        b'{"model": "echo", "temperature": -Infinity}',
        b'\xef\xbb\xbf{"model": "echo"}',
        json.dumps(ASK).encode("utf-16"),
        b'{"model": "a\nb"}',
    ],
)
def test_bytes_that_are_not_strict_json_are_refused(gateway, body):
    """Truncated, trailing, not UTF-8, lone surrogates, NaN and infinities: `malformed-json`."""
    assert_error(post(gateway, body), 400, "malformed-json")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"messages":[', b'{"metadata":{"a":'])
def test_ten_thousand_nested_values_are_refused(gateway, opening):
    """Depth is bounded, however it is made; nothing overflows."""
    status, _, body = post(gateway, opening * 10_000)
    assert status == 400
    assert json.loads(body)["error"]["code"] in ("too-deep", "malformed-json", "invalid-request")


def test_nesting_beyond_what_a_commitment_takes_is_refused(gateway):
    """A schema one level too deep is refused before any work, the deepest allowed one is not."""

    def schema(depth):
        return {"type": "object", "properties": {"a": schema(depth - 1)}} if depth else {}

    def ask(depth):
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(depth)}}
        return post(gateway, {**ASK, "response_format": shape})

    assert ask(11)[0] == 200
    assert_error(ask(14), 400, "too-deep")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"echo","model":"team/echo","messages":[{"role":"user","content":"a"}]}',
        b'{"model":"echo","messages":[{"role":"user","content":"a","content":"b"}]}',
        b'{"model":"echo","metadata":{"a":"1","\\u0061":"2"},"messages":[]}',
    ],
)
def test_a_key_given_twice_is_refused(gateway, body):
    """Two parsers must not read two requests in one, at any depth, escaped or not."""
    assert "twice" in assert_error(post(gateway, body), 400, "invalid-request")["message"]


@pytest.mark.parametrize("body", [[], "x", 1, None, True, {}, {"model": "echo"}, [ASK]])
def test_json_of_another_shape_is_refused(gateway, body):
    """What is not an object with the required fields says what was expected."""
    assert_error(post(gateway, body), 400, "invalid-request")


# -- Fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temprature": 1}, "temprature"),
        ({"messages": [{"role": "user", "content": "a", "weight": 1}]}, "messages[0].weight"),
        ({"stop": [str(number) for number in range(1000)]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x" * 100_000]}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 9}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 2**63 - 1, "n": 2}, "seed"),
        ({"temperature": -5}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"01": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {str(number): 1 for number in range(2000)}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {"a" * 65: "x"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"user": ""}, "user"),
        ({"user": "x" * 257}, "user"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].custom"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a"}}] * 2},
            "tools[1].function.name",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a"}}],
                "tool_choice": {"type": "function", "function": {"name": "b"}},
            },
            "tool_choice",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}] * 4097}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]},
            "messages[0].content[0]",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            "messages",
        ),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"model": 5}, "model"),
        ({"assurance": 5}, "assurance"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(gateway, fields, parameter):
    """Unknown, ill-typed, out of range or unsupported: refused by name, before any work."""
    started = gateway.model.started
    error = assert_error(post(gateway, {**ASK, **fields}), 400, "invalid-request")
    assert error["param"] == parameter
    assert gateway.model.started == started


def test_an_integer_beyond_64_bits_is_refused_wherever_it_stands(gateway):
    """What a commitment cannot hold is refused before any work."""
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"maximum": 10**20}}}
    assert_error(post(gateway, {**ASK, "response_format": shape}), 400, "invalid-request")


def test_null_is_as_good_as_absent(gateway):
    """A client that sends every field it knows as null asks for nothing."""
    from verispect.gateway.chat_shapes import ChatRequest

    nulls = dict.fromkeys(ChatRequest.__struct_fields__)
    assert post(gateway, {**nulls, **ASK})[0] == 200


def test_an_unknown_model_is_404_and_never_another(gateway):
    """No fallback, no alias, no prefix."""
    for name in ("gpt-4", "ech", "echo ", "ECHO"):
        assert_error(post(gateway, {**ASK, "model": name}), 404, "model_not_found")


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("singed", "assurance-unknown"),
        ("", "assurance-unknown"),
        ("SIGNED", "assurance-unknown"),
        ("proven", "assurance-unavailable"),
        ("attested+proven", "assurance-unavailable"),
    ],
)
def test_assurance_that_is_not_delivered_is_refused_before_any_work(gateway, word, code):
    """In the body or the header; the message lists what there is."""
    started = gateway.model.started
    in_body = assert_error(post(gateway, {**ASK, "assurance": word}), 400, code)
    in_header = assert_error(post(gateway, ASK, **{"verispect-assurance": word}), 400, code)
    assert "signed" in in_body["message"]
    assert "signed" in in_header["message"]
    assert gateway.model.started == started


@pytest.mark.parametrize(
    ("name", "value"),
    [("verispect-lane", "fast"), ("verispect-nonce", "x"), ("verispect-nonce", "")],
)
def test_a_header_of_ours_that_is_wrong_is_refused(gateway, name, value):
    """A lane or nonce that is not understood is never ignored."""
    assert_error(post(gateway, ASK, **{name: value}), 400, "invalid-request")


# -- Completions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 64, "n": 3}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_completion_that_cannot_be_honoured_is_refused_by_name(gateway, fields, parameter):
    """As for chat: the field at fault is named."""
    body = {"model": "echo", "prompt": "a b", **fields}
    error = assert_error(post(gateway, body, "/v1/completions"), 400, "invalid-request")
    assert error["param"] == parameter


# -- HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "size"), [(CHAT, LIMITS.maximum_json_bytes), ("/v2/models/x/infer", 300_000)]
)
def test_an_oversized_body_is_refused_declared_or_not(gateway, path, size):
    """Declared, it is refused before it is read; undeclared, as soon as it is too long."""
    with gateway.http() as client:
        headers = {"content-type": "application/json"}
        declared = client.post(path, content=b" " * (size + 1), headers=headers)
        chunked = client.post(path, content=(b" " * 50_000 for _ in range(20)), headers=headers)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert b"too-large" in answer.content
        assert answer.headers["connection"] == "close"


def test_a_declared_length_alone_is_enough_to_refuse(gateway):
    """Nobody has to send, or read, terabytes to be told."""
    for length in (b"300000", b"9" * 15, b"9" * 18):
        answer = gateway.exchange(HEAD + b"content-length: " + length + b"\r\n\r\n")
        assert_error(answer, 413, "too-large")


def test_a_body_that_does_not_come_is_timed_out(gateway):
    """A slow caller is answered 408 and loses its connection."""
    answer = gateway.exchange(HEAD + b'content-length: 100\r\n\r\n{"model"')
    assert_error(answer, 408, "request-timeout")
    assert answer[1]["connection"] == "close"


def test_a_head_that_does_not_come_is_timed_out(gateway):
    """A slow loris is answered 408; a connection that asks nothing is closed without words."""
    assert_error(gateway.exchange(b"GET /healthz HTTP/1.1\r\nhost: x\r\n"), 408, "request-timeout")
    with closing(gateway.connect()) as silent:
        assert silent.recv(1) == b""


def test_many_slow_callers_do_not_keep_others_out(gateway):
    """While fifty connections dawdle, another caller is answered."""
    slow = [gateway.connect() for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        gateway.assert_alive()
        assert all(read_answer(connection)[0] == 408 for connection in slow)
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"not http at all\r\n\r\n", 400, "invalid-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid-request"),
        (HEAD + b"content-length: -1\r\n\r\n", 400, "invalid-request"),
        (HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, "invalid-request"),
        (
            HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "invalid-request",
        ),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400, "invalid-request"),
        (HEAD + b"x-a: 1\r\nx-a: 2\r\ncontent-length: 2\r\n\r\n{}", 400, "invalid-request"),
        (HEAD + b"".join(b"x-%d: 1\r\n" % n for n in range(70)) + b"\r\n", 431, "too-large"),
        (HEAD + b"x-a: " + b"a" * 17_000 + b"\r\n\r\n", 431, "too-large"),
        (HEAD + b"x-a: " + b"a" * 22_000, 431, "too-large"),
        (
            b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            414,
            "invalid-request",
        ),
    ],
)
def test_a_head_that_is_wrong_is_refused(gateway, data, status, code):
    """Not HTTP, ambiguous in length, doubled headers, or too large."""
    assert_error(gateway.exchange(data), status, code)


def test_a_wrong_method_path_or_media_type_is_told(gateway):
    """405 with what is allowed, 404, and 415 for anything but plain JSON."""
    with gateway.http() as client:
        wrong = client.get(CHAT)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
        assert wrong.json()["error"]["code"] == "method-not-allowed"
        for path in ("/", "/v1", "/v1/chat/completions/", "/v1/models/", "/v1//models", "/%00"):
            assert client.get(path).json()["error"]["code"] == "route-not-found"
        for headers in (
            {"content-type": "text/plain"},
            {},
            {"content-type": "application/json; charset=utf-16"},
            {"content-type": "application/json", "content-encoding": "gzip"},
        ):
            answer = client.post(CHAT, content=b"{}", headers=headers)
            assert answer.status_code == 415
            assert answer.json()["error"]["code"] == "media-type-unsupported"
        assert client.get("/healthz?a=1&a=2").status_code == 400
        assert client.get("/healthz?a=%ff").status_code == 400


def test_one_request_too_many_is_told_to_come_back(tmp_path):
    """Beyond the limit of requests at once the answer is 503 with Retry-After."""
    model = EchoLanguageModel(stall_after=0)
    limits = Limits(concurrent_requests=2)
    body = json.dumps(ASK).encode()
    with run_bounded_gateway(tmp_path, model, limits) as busy:
        waiting = [busy.connect() for _ in range(2)]
        for connection in waiting:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        while model.running < 2:
            pass
        answer = post(busy, ASK)
        for connection in waiting:
            connection.close()
    assert_error(answer, 503, "server-overloaded")
    assert answer[1]["retry-after"] == "1"


# -- Nothing leaks ---------------------------------------------------------------------------------


def test_an_accident_shows_only_a_number_and_logs_no_content(gateway, monkeypatch, caplog):
    """An exception that quotes the prompt reaches neither the answer nor the log."""

    async def accident(source):
        raise ValueError(f"cannot use {source}")

    monkeypatch.setattr(EchoLanguageModel, "prepare", lambda _self, source: accident(source))
    secret = {**ASK, "messages": [{"role": "user", "content": "my-secret-words"}]}
    with caplog.at_level(logging.DEBUG):
        answer = post(gateway, secret)
    monkeypatch.undo()
    error = assert_error(answer, 500, "internal-error")
    number = error["message"].split()[5]
    assert number in caplog.text
    assert "ValueError" in caplog.text
    assert "my-secret-words" not in caplog.text + answer[2].decode()


def test_refusals_do_not_quote_the_request(gateway):
    """A value that is refused is not repeated."""
    for fields in (
        {"messages": [{"role": "my-secret-words", "content": "a"}]},
        {"tool_choice": "my-secret-words"},
        {"temperature": "my-secret-words"},
        {"assurance": "my-secret-words"},
        {"messages": [{"role": "user", "content": [{"type": "my-secret-words"}]}]},
        {"model": "my-secret-words"},
    ):
        status, _, body = post(gateway, {**ASK, **fields})
        assert status in (400, 404)
        assert b"my-secret-words" not in body


# -- Anything ------------------------------------------------------------------------------------

FIELDS = (
    "model", "messages", "n", "seed", "stop", "tools", "tool_choice", "response_format", "logprobs",
    "top_logprobs", "stream", "stream_options", "max_tokens", "temperature", "logit_bias",
    "metadata", "assurance", "prompt", "echo", "input", "instructions", "suffix", "x",
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["echo", "user", "system", "tool", "function", "text", "json_schema", "auto"])
)
KEYS = st.sampled_from(
    [*FIELDS, "role", "content", "type", "text", "function", "name", "tool_calls"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6).flatmap(
    lambda extra: st.sampled_from(
        [{}, ASK, {"model": "echo", "prompt": "a b"}, {"model": "echo", "input": "a b"}]
    ).map(lambda base: {**base, **extra})
)
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(ROUTES), body=BODIES)
def test_no_json_makes_the_server_fail(gateway, path, body):
    """Any JSON is answered, or refused with a code; never with 500."""
    try:
        content = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    with gateway.http() as client:
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404), (path, body, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["code"]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(ROUTES), body=st.binary(max_size=200))
def test_no_bytes_make_the_server_fail(gateway, path, body):
    """Any bytes are refused with a code."""
    with gateway.http() as client:
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("malformed-json", "invalid-request")
