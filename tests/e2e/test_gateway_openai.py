"""The official OpenAI client, unchanged, against `verispect serve` with a real language model.

Every answer is kept as the bytes that went over the wire, and verified offline with its receipt
and openings: nonce, request, answer, chunks of a stream.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest

from verispect.client.session import Exchange
from verispect.core.commitments import Part
from verispect.core.encoding import to_base64url
from verispect.core.errors import VerificationError
from verispect.testing.served import ServedGateway, verify_signed

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
HELLO = [
    {"role": "system", "content": "Answer shortly."},
    {"role": "user", "content": "Name a colour."},
]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass
class Kept:
    """One request and its answer, as they went over the wire."""

    request: bytes
    nonce: bytes
    headers: httpx.Headers
    pieces: list[bytes] = field(default_factory=list)


class KeptStream(httpx.SyncByteStream):
    def __init__(self, stream, pieces):
        self._stream, self._pieces = stream, pieces

    def __iter__(self):
        for piece in self._stream:
            self._pieces.append(piece)
            yield piece

    def close(self):
        self._stream.close()


class KeepingTransport(httpx.BaseTransport):
    """The network, with a nonce on every request and a copy of what passes."""

    def __init__(self):
        self._network = httpx.HTTPTransport()
        self.kept: list[Kept] = []

    def handle_request(self, request):
        nonce = os.urandom(16)
        request.headers["verispect-nonce"] = to_base64url(nonce)
        request.headers["accept-encoding"] = "identity"
        response = self._network.handle_request(request)
        kept = Kept(request.read(), nonce, response.headers)
        self.kept.append(kept)
        stream = KeptStream(response.stream, kept.pieces)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)


@dataclass
class Caller:
    """The client, and what it takes to verify what it was shown."""

    gateway: ServedGateway
    root: object
    client: openai.OpenAI
    transport: KeepingTransport

    def exchange(self) -> Exchange:
        """Return the last exchange with its receipt and openings."""
        kept = self.transport.kept[-1]
        inference = kept.headers["verispect-inference"]
        return Exchange(
            kept.request,
            b"".join(kept.pieces),
            self.gateway.receipt(inference),
            self.gateway.openings(inference, kept.headers["verispect-opening-key"]),
            kept.nonce,
            "signed",
        )

    def verified(self):
        """Verify the last answer and return its statement and its opened parts."""
        exchange = self.exchange()
        statement = verify_signed(exchange, self.root).statement
        opened = {part: opening.content() for part, opening in exchange.opened().items()}
        assert set(statement.commitments) == set(opened)
        return statement, opened


@pytest.fixture(scope="module")
def caller(tmp_path_factory) -> Iterator[Caller]:
    gateway = ServedGateway(tmp_path_factory.mktemp("gateway"), "--threads", "1")
    gateway.run("models", "add", "--name", MODEL, "--catalogue", MODEL)
    with gateway:
        transport = KeepingTransport()
        client = openai.OpenAI(
            base_url=f"{gateway.url}/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.Client(transport=transport, timeout=120),
        )
        yield Caller(gateway, gateway.trusted_root(), client, transport)


def test_a_chat(caller):
    """A chat's receipt opens to the prompt, the parameters and the text that were shown."""
    answer = caller.client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=8, temperature=0.3, seed=7
    )
    statement, opened = caller.verified()
    assert statement.operation == "chat.completions"
    assert opened[Part.SYSTEM_PROMPT] == "Answer shortly."
    assert opened[Part.OUTPUT] == [answer.choices[0].message.content]
    assert opened[Part.PARAMETERS]["seed"] == 7
    assert statement.usage["output_tokens"] == answer.usage.completion_tokens
    assert list(statement.finish_reasons) == [answer.choices[0].finish_reason]
    assert answer.verispect["inference"] in answer.id


def test_a_streamed_chat(caller):
    """The receipt of a stream binds every chunk that the client saw, usage included."""
    stream = caller.client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_completion_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    statement, opened = caller.verified()
    assert opened[Part.OUTPUT] == [text]
    assert statement.stream.chunks > 2
    assert any(chunk.usage for chunk in chunks)


def test_a_changed_answer_is_refused(caller):
    """One letter of the answer changed on the way, and the receipt no longer verifies."""
    answer = caller.client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=4
    )
    exchange = caller.exchange()
    shown = json.dumps(answer.choices[0].message.content)[1:-1].encode()
    assert exchange.response.count(shown) == 1
    forged = exchange.response.replace(shown, shown + b"!")
    changed = Exchange(
        exchange.request, forged, exchange.receipt, exchange.openings, exchange.nonce, "signed"
    )
    with pytest.raises(VerificationError):
        verify_signed(changed, caller.root)


def test_a_required_tool(caller):
    """With `tool_choice` required the model calls the tool, with arguments of its schema."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    answer = caller.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_completion_tokens=64,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert answer.choices[0].finish_reason == "tool_calls"
    _, opened = caller.verified()
    assert opened[Part.TOOLS]["tool_choice"] == "required"
    assert opened[Part.TOOL_CALLS][0][0]["arguments"] == call.function.arguments


def test_a_json_schema(caller):
    """An answer in a schema is JSON of that schema, and the schema is committed to."""
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER, "strict": True}}
    answer = caller.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A city, as JSON."}],
        response_format=form,
        max_completion_tokens=40,
        temperature=0,
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}
    _, opened = caller.verified()
    assert opened[Part.RESPONSE_FORMAT]["json_schema"]["schema"] == WEATHER


def test_log_probabilities_and_several_choices(caller):
    """Two choices with log-probabilities are both covered by one receipt."""
    answer = caller.client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_completion_tokens=4,
        n=2,
        logprobs=True,
        top_logprobs=2,
        temperature=0.9,
        seed=3,
    )
    _, opened = caller.verified()
    assert opened[Part.OUTPUT] == [choice.message.content for choice in answer.choices]
    shown = [item.logprob for item in answer.choices[1].logprobs.content]
    assert [item["logprob"] for item in opened[Part.LOGPROBS][1]] == shown
    assert all(len(item.top_logprobs) == 2 for item in answer.choices[0].logprobs.content)


def test_a_completion_with_echo(caller):
    """An echoed completion begins with its prompt, scored token by token."""
    answer = caller.client.completions.create(
        model=MODEL, prompt="The sky is", max_tokens=4, echo=True, logprobs=1, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text.startswith("The sky is")
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1] < 0
    statement, _ = caller.verified()
    assert statement.operation == "completions"


def test_responses_follow_each_other(caller):
    """A second response, streamed, goes on from the first, and each has its receipt."""
    first = caller.client.responses.create(
        model=MODEL, instructions="Answer shortly.", input="Name a colour.", max_output_tokens=16
    )
    statement, opened = caller.verified()
    assert statement.operation == "responses"
    assert opened[Part.OUTPUT] == [first.output_text]
    with caller.client.responses.stream(
        model=MODEL,
        input="And another one.",
        previous_response_id=first.id,
        max_output_tokens=16,
    ) as stream:
        events = list(stream)
    # A small model seldom ends by itself within so few tokens; both endings carry the response.
    assert events[-1].type in ("response.completed", "response.incomplete")
    second = events[-1].response
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert second.previous_response_id == first.id
    assert second.output_text == "".join(deltas)
    _, opened = caller.verified()
    assert opened[Part.OUTPUT] == [second.output_text]
    assert first.output_text in json.dumps(opened[Part.MESSAGES], ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(caller, encoding):
    """Embeddings arrive in either encoding, and are covered element by element."""
    answer = caller.client.embeddings.create(
        model=MODEL, input=["red", "green"], encoding_format=encoding
    )
    assert len(answer.data) == 2
    statement, _ = caller.verified()
    assert statement.operation == "embeddings"


def test_models(caller):
    """The list of models holds what is served, and one can be retrieved by name."""
    assert MODEL in [model.id for model in caller.client.models.list()]
    assert caller.client.models.retrieve(MODEL).id == MODEL


def test_refusals_are_the_clients_own_errors(caller):
    """Unknown models, assurance and parameters are the client's exceptions, with our codes."""
    create = caller.client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="gpt-4o", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match=r"available here: .*signed") as misspelt:
        create(model=MODEL, messages=HELLO, extra_body={"assurance": "sigend"})
    assert misspelt.value.code == "assurance-unknown"
    with pytest.raises(openai.BadRequestError, match=r"available here: .*signed"):
        create(model=MODEL, messages=HELLO, extra_headers={"Verispect-Assurance": "proven"})
    with pytest.raises(openai.BadRequestError) as parameter:
        create(model=MODEL, messages=HELLO, extra_body={"temprature": 1})
    assert "temprature" in str(parameter.value)
    with pytest.raises(openai.NotFoundError):
        caller.client.models.retrieve("gpt-4o")


def test_an_upstream_name_is_never_taken_for_weights(caller):
    """The statement names the weights' own manifest, which the trusted root knows."""
    caller.client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=1)
    statement, _ = caller.verified()
    listed = json.loads(caller.gateway.run("models", "list", "--json"))
    (entry,) = [each for each in listed if each["name"] == MODEL]
    assert statement.model.model_id.hex() in json.dumps(entry)
    assert statement.model.identity.label == "local-weights"
