"""`/v1/chat/completions` as the official client and an offline verifier see it."""

from __future__ import annotations

import asyncio
import json
import re
import time

import httpx
import openai
import pytest
import uvicorn
from running_gateway import EchoPool, chain_of, run_gateway

from verispect.attesters.signer import Issuer
from verispect.core.commitments import Part, decode_openings
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.app import create_app
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.state import GatewayState
from verispect.ledger import ReceiptStore
from verispect.testing.echo_model import EchoLanguageModel

ASK = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("alpha", "beta")
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.fixture
def client(gateway):
    with gateway.openai() as client:
        yield client


def ask(gateway, **fields):
    """Post a question; return the answer and what its receipt commits to, verified."""
    with gateway.http() as http:
        answer = http.post("/v1/chat/completions", json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    key = answer.headers["verispect-opening-key"]
    verified = gateway.verify(document["verispect"], key)
    return document, verified, opened(gateway, document["verispect"]["inference"])


def opened(gateway, inference):
    """Return the opened content of an inference by part."""
    key = gateway.state.recorder.opening_key(bytes.fromhex(inference))
    with gateway.http() as http:
        answer = http.get(
            f"/v1/receipts/{inference}/openings", headers={"verispect-opening-key": key}
        )
    return {part: item.content() for part, item in decode_openings(answer.content).items()}


def read_stream(gateway, **fields):
    """Return the payloads of a whole stream, in order, and its headers."""
    payloads = []
    with (
        gateway.http() as http,
        http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True, **fields}) as r,
    ):
        assert r.status_code == 200, r.read()
        for line in r.iter_lines():
            if line.startswith("data: "):
                payloads.append(line.removeprefix("data: ").encode())
    return payloads, r.headers


def test_a_plain_answer_has_openais_shape_and_a_verified_receipt(client, gateway):
    """The official client reads the answer, and the receipt covers request and answer."""
    answer = client.chat.completions.create(**ASK, seed=1)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "two three one")
    assert choice.finish_reason == "stop"
    assert answer.id == "chatcmpl-" + answer.verispect["inference"]
    assert answer.model == "echo"
    assert answer.system_fingerprint == "fp_" + gateway.model.identity.digest().hex()[:12]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    _, verified, parts = ask(gateway, seed=1)
    assert verified.statement.operation == "chat.completions"
    assert list(verified.statement.finish_reasons) == ["stop"]
    assert parts[Part.OUTPUT] == ["two three one"]
    assert parts[Part.MESSAGES] == ASK["messages"]
    assert parts[Part.EFFECTIVE_INPUT]["text"] == "user: one two three"
    assert Part.SYSTEM_PROMPT not in parts
    assert Part.TOOLS not in parts


def test_leading_system_messages_are_the_system_prompt(gateway):
    """System and developer messages at the head are opened apart; a later one stays in place."""
    later = {"role": "system", "content": "later"}
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
        {"role": "user", "content": "one"},
        later,
        {"role": "user", "content": "two"},
    ]
    _, _, parts = ask(gateway, messages=messages)
    assert parts[Part.SYSTEM_PROMPT] == "be brief\n\nbe kind"
    assert parts[Part.MESSAGES] == messages[2:]


def test_every_accepted_field_is_committed(gateway):
    """Labels without effect and resolved sampler settings are all in the parameters."""
    fields = {
        "user": "u1",
        "safety_identifier": "s1",
        "metadata": {"k": "v"},
        "store": False,
        "n": 2,
        "seed": 5,
        "temperature": 0.5,
        "stop": ["zzz"],
        "max_completion_tokens": 40,
        "logit_bias": {"5": -1},
        "top_k": 3,
        "min_p": 0.1,
    }
    _, verified, parts = ask(gateway, **fields)
    committed = parts[Part.PARAMETERS]
    assert committed["maximum_tokens"] == 40
    assert committed["top_p"] == 1.0
    for name in fields.keys() - {"max_completion_tokens", "logit_bias"}:
        assert committed[name] == fields[name]
    assert committed["logit_bias"] == {"5": -1.0}
    assert committed["stream"] is False
    assert list(verified.statement.finish_reasons) == ["stop", "stop"]


def test_choices_differ_in_their_seed(client, gateway):
    """Choice i runs with seed + i, and the receipt covers all of them."""
    answer = client.chat.completions.create(**ASK, n=3, seed=0)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["one two three", "two three one", "three one two"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert opened(gateway, answer.verispect["inference"])[Part.OUTPUT] == texts


def test_a_limit_ends_an_answer_with_length(client):
    """Either name of the limit is honoured."""
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(**ASK, **{name: 5})
        assert answer.choices[0].message.content == "one t"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5


def test_stop_strings_are_honoured(client):
    """The answer ends before the stop string, one or several."""
    for stop in ("two", ["three", "two"]):
        answer = client.chat.completions.create(**ASK, stop=stop)
        assert answer.choices[0].message.content == "one "


def test_a_tool_call_is_answered_and_committed(client, gateway):
    """A demanded tool is called; tools, choice and call are in the receipt."""
    choice = {"type": "function", "function": {"name": "beta"}}
    answer = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=choice)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (call.type, call.function.name) == ("function", "beta")
    parts = opened(gateway, answer.verispect["inference"])
    assert parts[Part.TOOLS] == {
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": True,
    }
    assert parts[Part.TOOL_CALLS] == [
        [{"id": call.id, "name": "beta", "arguments": call.function.arguments}]
    ]


def test_an_answer_can_be_sent_back_as_it_came(client):
    """The history of a tool call, as the client dumps it, is accepted."""
    first = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice="required")
    message = first.choices[0].message
    messages = [
        *ASK["messages"],
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"},
    ]
    answer = client.chat.completions.create(model="echo", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "done"


def test_json_is_asked_for_by_object_and_by_schema(client, gateway):
    """A response format reaches the model and the receipt; `text` is none."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**ASK, response_format=shape)
    assert json.loads(answer.choices[0].message.content) == {"n": 7}
    assert opened(gateway, answer.verispect["inference"])[Part.RESPONSE_FORMAT] == shape
    plain = client.chat.completions.create(**ASK, response_format={"type": "text"})
    assert Part.RESPONSE_FORMAT not in opened(gateway, plain.verispect["inference"])


def test_logprobs_have_openais_shape(client, gateway):
    """Each token has its log-probability, its bytes and as many alternatives as asked for."""
    ask_é = {"model": "echo", "messages": [{"role": "user", "content": "é!"}]}
    answer = client.chat.completions.create(**ask_é, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["é", "!"]
    assert tokens[0].bytes == [0xC3, 0xA9]
    assert [len(token.top_logprobs) for token in tokens] == [2, 2]
    committed = opened(gateway, answer.verispect["inference"])[Part.LOGPROBS]
    assert [item["logprob"] for item in committed[0]] == [-0.5, -0.5]
    bare = client.chat.completions.create(**ask_é, logprobs=True)
    assert bare.choices[0].logprobs.content[0].top_logprobs == []


def test_a_stream_is_parsed_by_the_official_client(client):
    """Role first, then text, the finish, the usage if asked for, and our chunk at the end."""
    chunks = list(
        client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in deltas) == "one two three"
    assert chunks[-3].choices[0].finish_reason == "stop"
    assert chunks[-2].usage.completion_tokens == 13
    assert chunks[-2].choices == []
    assert chunks[-1].choices == []
    assert set(chunks[-1].verispect) == {"receipt_id", "receipt", "inference"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_receipt_of_a_stream_binds_every_payload(gateway):
    """Chaining the payloads a caller saw gives the signed binding; the last one is outside."""
    payloads, headers = read_stream(gateway, n=2)
    assert payloads[-1] == b"[DONE]"
    member = json.loads(payloads[-2])["verispect"]
    verified = gateway.verify(member, headers["verispect-opening-key"])
    assert verified.statement.stream == chain_of(member["inference"], payloads[:-2])
    assert verified.statement.stream != chain_of(member["inference"], payloads[1:-2])
    texts = opened(gateway, member["inference"])[Part.OUTPUT]
    assert texts == ["one two three", "two three one"]


def test_a_streamed_tool_call_has_its_index(client, gateway):
    """Two calls in one answer are told apart by their index."""
    messages = [{"role": "user", "content": "call all"}]
    chunks = list(
        client.chat.completions.create(model="echo", messages=messages, tools=TOOLS, stream=True)
    )
    calls = [
        call
        for chunk in chunks
        if chunk.choices
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert [(call.index, call.function.name) for call in calls] == [(0, "alpha"), (1, "beta")]
    committed = opened(gateway, chunks[-1].verispect["inference"])[Part.TOOL_CALLS]
    assert [call["name"] for call in committed[0]] == ["alpha", "beta"]
    assert committed[0][0]["arguments"] == calls[0].function.arguments


def test_streamed_logprobs_add_up_to_the_plain_ones(client):
    """A chunk's log-probabilities are those of its text."""
    plain = client.chat.completions.create(**ASK, logprobs=True)
    chunks = list(client.chat.completions.create(**ASK, logprobs=True, stream=True))
    streamed = [
        token
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == plain.choices[0].logprobs.content


def test_a_long_stream_has_interim_signatures_in_comments(gateway):
    """Signatures come between the events, as comments that clients skip."""
    words = " ".join(["word"] * 100)
    with (
        gateway.http() as http,
        http.stream(
            "POST",
            "/v1/chat/completions",
            json={
                **ASK,
                "messages": [{"role": "user", "content": words}],
                "stream": True,
                "max_tokens": 1000,
            },
        ) as answer,
    ):
        comments = [line for line in answer.iter_lines() if line.startswith(":")]
    assert len(comments) == 3
    assert all(line.startswith(": verispect-interim ") for line in comments)


def wait_for_receipt(gateway, inference):
    """Return the receipt of an inference whose caller has gone, once it is stored."""
    with gateway.http() as http:
        for _ in range(500):
            answer = http.get(f"/v1/receipts/{inference}")
            if answer.status_code == 200:
                return answer.content
            time.sleep(0.02)
    raise AssertionError("no receipt was stored")


def check_cancelled(gateway, inference, receipt, payloads):
    """A cut stream's receipt says so and covers at least what arrived, as a prefix."""
    statement = InferenceReceipt.parse(receipt).unverified_statement
    assert list(statement.finish_reasons) == ["cancelled"]
    parts = opened(gateway, inference)
    sent = "".join(
        json.loads(payload)["choices"][0]["delta"].get("content") or "" for payload in payloads
    )
    (committed,) = parts[Part.OUTPUT]
    assert committed.startswith(sent)
    return committed


@pytest.mark.parametrize("seen", [1, 3])
def test_a_cut_stream_leaves_a_receipt_of_what_was_sent(tmp_path, seen):
    """The engine stops at once and the receipt covers what was sent, and nothing more."""
    model = EchoLanguageModel(stall_after=4)
    words = " ".join(str(number) for number in range(50))
    with run_gateway(tmp_path, model) as gateway:
        payloads = []
        body = {**ASK, "messages": [{"role": "user", "content": words}], "stream": True}
        with gateway.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as r:
            inference = r.headers["verispect-inference"]
            for line in r.iter_lines():
                if line.startswith("data: "):
                    payloads.append(line.removeprefix("data: "))
                if len(payloads) == seen:
                    break
        receipt = wait_for_receipt(gateway, inference)
        committed = check_cancelled(gateway, inference, receipt, payloads)
        assert words.startswith(committed)
        assert len(committed) < len(words)
        assert model.running == 0


def test_a_server_that_stops_leaves_a_receipt_of_a_stream_it_cuts(tmp_path):
    """Stopping cancels the stream; its receipt is written before the store closes."""
    body = json.dumps({**ASK, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    issuer = Issuer.create(tmp_path / "keys", name="tests", development=False, now=0)
    key_id = issuer.signer.public_key.key_id

    async def serve_and_stop():
        store = ReceiptStore.open(tmp_path / "receipts", issuer_key_id=key_id)
        state = GatewayState(
            pool=EchoPool(EchoLanguageModel(stall_after=2)),
            recorder=Recorder(
                issuer,
                store,
                opening_secret=bytes(32),
                published=PublishedRecords(tmp_path / "records"),
            ),
            on_stop=store.close,
        )
        config = uvicorn.Config(
            create_app(state), port=0, log_level="critical", timeout_graceful_shutdown=0
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        seen = await reader.readuntil(b'"content":" two"')
        server.should_exit = True
        await serving
        writer.close()
        return re.search(rb"verispect-inference: ([0-9a-f]{32})", seen)[1].decode()

    inference = asyncio.run(serve_and_stop())
    store = ReceiptStore.open(tmp_path / "receipts", issuer_key_id=key_id)
    stored = store.find(bytes.fromhex(inference))
    openings = decode_openings(store.openings(bytes.fromhex(inference)))
    asyncio.run(store.close())
    statement = InferenceReceipt.parse(stored.receipt).unverified_statement
    assert list(statement.finish_reasons) == ["cancelled"]
    assert openings[Part.OUTPUT].content() == ["one two"]


def test_a_caller_who_leaves_a_plain_answer_stops_the_engine(tmp_path, monkeypatch):
    """Nothing was sent, so the receipt covers an empty answer, and the engine has stopped."""
    model = EchoLanguageModel(stall_after=1)
    with run_gateway(tmp_path, model) as gateway:
        recorder, begun = gateway.state.recorder, []
        begin = recorder.begin
        monkeypatch.setattr(
            recorder, "begin", lambda *a, **k: begun.append(begin(*a, **k)) or begun[-1]
        )
        with gateway.http() as http, pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=ASK, timeout=0.5)
        inference = begun[0].identifier
        statement = InferenceReceipt.parse(wait_for_receipt(gateway, inference))
        assert list(statement.unverified_statement.finish_reasons) == ["cancelled"]
        assert opened(gateway, inference)[Part.OUTPUT] == [""]
        assert (model.started, model.running) == (1, 0)


def test_an_engine_that_fails_in_a_stream_is_told_in_band(tmp_path):
    """The error event has OpenAI's shape and the receipt of what was sent before it."""
    with run_gateway(tmp_path, EchoLanguageModel(fail_after=2)) as gateway:
        payloads, headers = read_stream(gateway)
        last = json.loads(payloads[-2])
        assert last["error"]["code"] == "engine-failed"
        assert last["error"]["type"] == "server_error"
        member = last["verispect"]
        verified = gateway.verify(member, headers["verispect-opening-key"])
        assert list(verified.statement.finish_reasons) == ["error"]
        assert verified.statement.stream == chain_of(member["inference"], payloads[:-2])
        assert opened(gateway, member["inference"])[Part.OUTPUT] == ["one two"]
        with gateway.openai() as client, pytest.raises(openai.APIError) as failure:
            list(client.chat.completions.create(**ASK, stream=True))
        assert failure.value.code == "engine-failed"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_its_first_word_is_a_plain_error(tmp_path, stream):
    """Nothing was answered, so there is an HTTP error and no receipt."""
    with run_gateway(tmp_path, EchoLanguageModel(fail_after=0)) as gateway, gateway.http() as http:
        answer = http.post("/v1/chat/completions", json={**ASK, "stream": stream})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine-failed"


def test_nonce_and_lane_are_in_the_statement(gateway):
    """What the caller sends in headers is signed."""
    with gateway.http() as http:
        answer = http.post(
            "/v1/chat/completions",
            json={**ASK, "assurance": "signed"},
            headers={"verispect-nonce": "AAECAwQFBgc", "verispect-lane": "deterministic"},
        )
    key = answer.headers["verispect-opening-key"]
    verified = gateway.verify(answer.json()["verispect"], key, nonce=bytes(range(8)))
    assert verified.statement.model.lane.name == "DETERMINISTIC"
