"""Answers as they came over HTTP, read back into what the receipt commits to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.event_stream import EventReader, read_events
from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import AttestationResult, Verdict
from verispect.appraisal.transcript import read_answer
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.client.session import Exchange, GatewayClient
from verispect.core.commitments import Part
from verispect.core.encoding import from_hex
from verispect.core.errors import MalformedError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.testing.echo_model import EchoLanguageModel

_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
_SAID = [{"role": "user", "content": "quokka wombat numbat"}]
_CALLING = [{"role": "user", "content": "call all"}]
_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}},
}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": _SAID}),
    "chat-settings": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "system", "content": "be brief"}, *_SAID],
            "temperature": 0,
            "top_p": 0.7,
            "seed": 3,
            "max_tokens": 50,
            "stop": "zzz",
            "n": 3,
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {"7": 1},
            "user": "u",
            "metadata": {"a": "b"},
        },
    ),
    "chat-tools": ("/v1/chat/completions", {"messages": _CALLING, "tools": [_TOOL]}),
    "chat-format": ("/v1/chat/completions", {"messages": _SAID, "response_format": _FORMAT}),
    "completion": ("/v1/completions", {"prompt": "quokka wombat numbat"}),
    "completion-many": (
        "/v1/completions",
        {"prompt": ["one two", "three"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 9},
    ),
    "response": ("/v1/responses", {"input": "quokka wombat numbat"}),
    "response-tools": (
        "/v1/responses",
        {
            "input": "call all",
            "instructions": "be brief",
            "tools": [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}],
            "temperature": 0.5,
        },
    ),
}
CASES = [(name, stream) for name in REQUESTS for stream in (False, True)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


def ask(gateway: RunningGateway, name: str, *, stream: bool, **changes: Any) -> Exchange:
    path, body = REQUESTS[name]
    body = {"model": "echo", **body, **changes}
    if stream:
        body["stream"] = True
    with GatewayClient(gateway.base_url) as client:
        return client.exchange(path, body, "signed")


def judge(
    gateway: RunningGateway,
    exchange: Exchange,
    *,
    response: bytes | None = None,
    request: bytes | None = None,
) -> AttestationResult:
    receipt = InferenceReceipt.parse(exchange.receipt)
    root = TrustedRoot([gateway.state.recorder.issuer.trusted_key()])
    expected = expect(
        read_request(exchange.request if request is None else request),
        read_answer(exchange.response if response is None else response),
        inference_id=from_hex(receipt.claimed_inference),
        nonce=exchange.nonce,
        assurance=SIGNED.digest(),
    )
    return Verifier(root).appraise(
        receipt, opened=exchange.opened(), policy=SIGNED, now=10**13, expected=expected
    )


@pytest.mark.parametrize(("name", "stream"), CASES)
def test_what_the_gateway_sends_is_what_its_receipt_says(
    gateway: RunningGateway, name: str, stream: bool
) -> None:
    """Request, answer, model, assurance, reasons and usage of every operation agree."""
    result = judge(gateway, ask(gateway, name, stream=stream))
    assert [check for check in result.checks if check.reason] == []
    assert result.verdict is Verdict.VERIFIED
    names = {check.name for check in result.checks}
    assert {"content:output", "requested-model", "assurance"} <= names
    assert ("stream" in names) is stream


@pytest.mark.parametrize(("name", "stream"), CASES)
def test_the_receipt_comes_with_the_answer(
    gateway: RunningGateway, name: str, stream: bool
) -> None:
    """The answer carries the same receipt that the gateway keeps."""
    exchange = ask(gateway, name, stream=stream)
    assert read_answer(exchange.response).receipt == exchange.receipt


def _content_positions(answer: bytes) -> list[int]:
    """Return where the words of the shown text stand."""
    found: list[int] = []
    for word in (b"quokka", b"wombat", b"numbat"):
        start = answer.find(word)
        while start >= 0:
            found.append(start)
            start = answer.find(word, start + 1)
    return found


@pytest.mark.parametrize("name", ["chat", "completion", "response"])
@pytest.mark.parametrize("stream", [False, True])
def test_any_changed_letter_of_the_answer_is_refused(
    gateway: RunningGateway, name: str, stream: bool
) -> None:
    """Wherever the text stands in the answer, one changed letter refuses it."""
    exchange = ask(gateway, name, stream=stream)
    positions = _content_positions(exchange.response)
    assert positions
    for position in positions:
        changed = bytearray(exchange.response)
        changed[position] ^= 0x01
        result = judge(gateway, exchange, response=bytes(changed))
        assert result.verdict is Verdict.REFUSED
        assert result.reason in (Reason.CONTENT_MISMATCH, Reason.STREAM_MISMATCH)


@pytest.mark.parametrize("name", ["chat-tools", "response-tools"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("word", [b"look_up", b"call all", b"call_0"])
def test_a_changed_tool_call_is_refused(
    gateway: RunningGateway, name: str, stream: bool, word: bytes
) -> None:
    """Name, arguments and id of a call are covered."""
    exchange = ask(gateway, name, stream=stream)
    # Behind the output the response repeats the tools of the request.
    position = exchange.response.rfind(word, 0, exchange.response.rfind(b'"tools":['))
    assert position > 0
    changed = bytearray(exchange.response)
    changed[position] ^= 0x01
    assert judge(gateway, exchange, response=bytes(changed)).verdict is Verdict.REFUSED


@pytest.mark.parametrize("stream", [False, True])
def test_a_hidden_tool_call_is_refused(gateway: RunningGateway, stream: bool) -> None:
    """An answer from which the calls were taken is not the one that was signed."""
    exchange = ask(gateway, "chat-tools", stream=stream)
    hidden = exchange.response.replace(b'"tool_calls":[', b'"tool_calls_":[')
    if stream:
        result = judge(gateway, exchange, response=hidden)
        assert result.verdict is Verdict.REFUSED
        return
    document = json.loads(exchange.response)
    del document["choices"][0]["message"]["tool_calls"]
    result = judge(gateway, exchange, response=json.dumps(document).encode())
    assert result.reason is Reason.CONTENT_MISMATCH


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("choices", 0, "finish_reason"), "length"),
        (("usage", "completion_tokens"), 999),
        (("usage", "prompt_tokens"), 1),
        (("model",), "team/echo"),
        (("choices", 0, "message", "content"), None),
    ],
)
def test_what_stands_beside_the_text_is_compared(
    gateway: RunningGateway, path: tuple[Any, ...], value: Any
) -> None:
    """Finish reason, usage and model name of a whole answer are the signed ones."""
    exchange = ask(gateway, "chat", stream=False)
    document = json.loads(exchange.response)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    result = judge(gateway, exchange, response=json.dumps(document).encode())
    assert result.reason is Reason.CONTENT_MISMATCH


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "team/echo"),
        ("temperature", 0.5),
        ("top_p", 1),
        ("seed", 4),
        ("max_tokens", 40),
        ("stop", "y"),
        ("n", 2),
        ("logprobs", False),
        ("logit_bias", {"7": 2}),
        ("logit_bias", {}),
        ("user", "v"),
        ("metadata", {"a": "c"}),
        ("messages", _SAID),
        ("messages", [{"role": "system", "content": "be brief"}, *_CALLING]),
        ("messages", [{"role": "system", "content": "be long"}, *_SAID]),
        ("tools", [_TOOL]),
        ("response_format", _FORMAT),
    ],
)
def test_a_setting_changed_on_the_way_is_refused(
    gateway: RunningGateway, name: str, value: Any
) -> None:
    """A receipt for other settings than those that were sent is refused."""
    exchange = ask(gateway, "chat-settings", stream=False)
    sent = {**json.loads(exchange.request), name: value}
    if name == "logprobs":
        del sent["top_logprobs"]
    result = judge(gateway, exchange, request=json.dumps(sent).encode())
    assert result.verdict is Verdict.REFUSED
    assert result.reason in (Reason.CONTENT_MISMATCH, Reason.CONTENT_NOT_OPENED)


@pytest.mark.parametrize("name", ["system", "tools", "response_format"])
def test_what_was_not_sent_must_not_be_committed_to(gateway: RunningGateway, name: str) -> None:
    """A system prompt, tools or a format that the caller never sent are refused."""
    added: dict[str, dict[str, Any]] = {
        "system": {"messages": [{"role": "system", "content": "sell!"}, *_SAID]},
        "tools": {"tools": [_TOOL]},
        "response_format": {"response_format": _FORMAT},
    }
    exchange = ask(gateway, "chat", stream=False, **added[name])
    sent = {"model": "echo", "messages": _SAID}
    result = judge(gateway, exchange, request=json.dumps(sent).encode())
    assert result.reason is Reason.CONTENT_MISMATCH


def test_null_in_a_request_is_not_sent(gateway: RunningGateway) -> None:
    """Clients send null for what they leave to the server."""
    exchange = ask(gateway, "chat", stream=False, temperature=None, tools=None, stop=None)
    assert judge(gateway, exchange).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_compared(gateway: RunningGateway, encoding: str) -> None:
    """Vectors verify in both encodings, and a changed one is refused."""
    body = {"model": "echo", "input": ["one", "two"], "encoding_format": encoding}
    with GatewayClient(gateway.base_url) as client:
        exchange = client.exchange("/v1/embeddings", body, "signed")
    assert judge(gateway, exchange).verdict is Verdict.VERIFIED
    document = json.loads(exchange.response)
    first, second = document["data"]
    first["embedding"], second["embedding"] = second["embedding"], first["embedding"]
    swapped = judge(gateway, exchange, response=json.dumps(document).encode())
    assert swapped.reason is Reason.CONTENT_MISMATCH


def test_tensors_are_read_with_their_bytes() -> None:
    """An Open Inference answer gives name, datatype, shape and bytes of every output."""
    document = {
        "model_name": "m",
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[1.0, 2.0]]},
            {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", "yz"]},
            {"name": "c", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        ],
    }
    answer = read_answer(json.dumps(document).encode())
    assert answer.model == "m"
    assert answer.parts[Part.OUTPUT] == [
        ["a", "FP32", [1, 2], bytes.fromhex("0000803f00000040")],
        ["b", "BYTES", [2], b"\x01\0\0\0x\x02\0\0\0yz"],
        ["c", "BOOL", [2], b"\x01\0"],
    ]


# -- Streams as bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_pieces_of_a_stream_make_no_difference(gateway: RunningGateway, size: int) -> None:
    """Events are the same however the network cuts them."""
    stream = ask(gateway, "chat", stream=True).response
    reader = EventReader()
    events = [
        event
        for start in range(0, len(stream), size)
        for event in reader.feed(stream[start : start + size])
    ]
    reader.finish()
    assert events == read_events(stream)
    assert len(events) > 5


def test_line_ends_comments_and_fields_of_the_standard_are_read(
    gateway: RunningGateway,
) -> None:
    """CRLF, comments, event and id lines, and a missing space change nothing that was sent."""
    exchange = ask(gateway, "chat", stream=True)
    other = exchange.response.replace(b"\n", b"\r\n").replace(b"data: {", b"data:{")
    other = b"\xef\xbb\xbf: hello\r\n\r\nevent: x\r\nid: 7\r\nretry: 5\r\n" + other
    assert judge(gateway, exchange, response=other).verdict is Verdict.VERIFIED


def test_several_data_lines_are_one_event() -> None:
    """Data lines of one event are joined with a line feed."""
    assert read_events(b"data: a\ndata: b\n\ndata: c\n\n") == [b"a\nb", b"c"]


_TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"EVIL"}}]}\n\n'


@pytest.mark.parametrize(
    "place",
    ["after the end", "behind the receipt", "unfinished", "in the event with the receipt"],
)
def test_text_that_no_receipt_covers_is_malformed(gateway: RunningGateway, place: str) -> None:
    """Nothing can be added where a reader would show it and the chain would not cover it."""
    stream = ask(gateway, "chat", stream=True).response
    end = b"data: [DONE]\n\n"
    assert stream.endswith(end)
    added = {
        "after the end": stream + _TEXT,
        "behind the receipt": stream.removesuffix(end) + _TEXT + end,
        "unfinished": stream + _TEXT.rstrip(b"\n"),
        "in the event with the receipt": stream.replace(
            b'"choices":[],', b'"choices":[{"index":0,"delta":{"reasoning":"EVIL"}}],'
        ),
    }[place]
    assert added != stream
    with pytest.raises(MalformedError) as caught:
        read_answer(added)
    assert caught.value.reason is Reason.MALFORMED_TRANSCRIPT


def test_the_last_event_of_a_response_must_repeat_what_was_streamed(
    gateway: RunningGateway,
) -> None:
    """The unchained last event holds the whole response, which most callers read."""
    exchange = ask(gateway, "response", stream=True)
    head, separator, last = exchange.response.rpartition(b"event: ")
    assert b"quokka wombat numbat" in last
    forged = head + separator + last.replace(b"quokka wombat numbat", b"quokka wombat numbaT")
    result = judge(gateway, exchange, response=forged)
    assert result.reason is Reason.CONTENT_MISMATCH


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xd2\x84",
        b"{}",
        b"{",
        b"[]",
        b'{"object":"chat.completion"}',
        b'{"object":"chat.completion","choices":[{"index":0}]}',
        b'{"object":"chat.completion","choices":[],"choices":[]}',
        (
            b'{"object":"chat.completion","choices":[{"index":0,"message":'
            b'{"content":"a","refusal":"b"}}]}'
        ),
        (
            b'{"object":"chat.completion","choices":[{"index":0,"message":'
            b'{"content":"a","reasoning_content":"b"}}]}'
        ),
        b'{"object":"response","output":[{"type":"reasoning"}]}',
        (
            b'{"object":"response","output":[{"type":"message","content":'
            b'[{"type":"refusal","refusal":"no"}]}]}'
        ),
        b'{"object":"list","data":[{"index":0,"embedding":["a"]}]}',
        b'{"object":"list","data":[{"index":0,"embedding":"!"}]}',
        b'{"model_name":"m","outputs":[{"name":"a","datatype":"FP99","shape":[],"data":[]}]}',
        b'{"model_name":"m","outputs":[{"name":"a","datatype":"INT8","shape":[],"data":[999]}]}',
        b"data: {}\n\ndata: x\n\n",
        b"data: 7\n\n",
        b'data: {"choices":[{"index":0,"delta":{"content":7}}]}\n\n',
        b'data: {"a":1}\rdata: {"b":1}\n\n',
        b'{"object":' + b"[" * 100_000,
        b"\xff\xfe{\0}\0",
    ],
)
def test_what_is_no_answer_is_malformed(data: bytes) -> None:
    """Bytes that are not an answer are refused with our own error."""
    with pytest.raises(MalformedError):
        read_answer(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages":[]}',
        b'{"model":"m","messages":7}',
        b'{"model":"m","messages":[{}]}',
        b'{"model":"m","model":"n","messages":[]}',
        b'{"inputs":[{"name":"x"}]}',
        b'{"model":' + b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_malformed(data: bytes) -> None:
    """Bytes that are not a request are refused with our own error."""
    with pytest.raises(MalformedError):
        read_request(data)
