"""`/v1/completions` as the official client and an offline verifier see it."""

from __future__ import annotations

import json

import pytest
from running_gateway import chain_of, run_gateway

from verispect.core.commitments import Part, decode_openings
from verispect.testing.echo_model import EchoLanguageModel


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.fixture
def client(gateway):
    with gateway.openai() as client:
        yield client


def opened(gateway, inference):
    """Return the opened content of an inference by part."""
    key = gateway.state.recorder.opening_key(bytes.fromhex(inference))
    with gateway.http() as http:
        answer = http.get(
            f"/v1/receipts/{inference}/openings", headers={"verispect-opening-key": key}
        )
    return {part: item.content() for part, item in decode_openings(answer.content).items()}


def test_a_prompt_is_continued_with_a_verified_receipt(gateway):
    """The shape is OpenAI's, and prompt, parameters and text are in the receipt."""
    with gateway.http() as http:
        answer = http.post(
            "/v1/completions", json={"model": "echo", "prompt": "a b c", "seed": 1, "user": "u"}
        )
    document = answer.json()
    assert document["object"] == "text_completion"
    assert document["id"] == "cmpl-" + document["verispect"]["inference"]
    assert document["choices"] == [
        {"index": 0, "text": "b c a", "logprobs": None, "finish_reason": "stop"}
    ]
    assert document["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    verified = gateway.verify(document["verispect"], answer.headers["verispect-opening-key"])
    assert verified.statement.operation == "completions"
    parts = opened(gateway, document["verispect"]["inference"])
    assert parts[Part.OUTPUT] == ["b c a"]
    assert parts[Part.MESSAGES] == [{"prompt": "a b c"}]
    assert parts[Part.PARAMETERS]["maximum_tokens"] == 16
    assert parts[Part.PARAMETERS]["user"] == "u"
    assert parts[Part.PARAMETERS]["echo"] is False


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a b", ["a b"]),
        (["a b", "c d"], ["a b", "c d"]),
        ([97, 32, 98], ["a b"]),
        ([[97], [98, 99]], ["a", "bc"]),
    ],
)
def test_every_form_of_prompt_is_taken(client, gateway, prompt, texts):
    """Text, texts, token ids, lists of token ids; every choice has its place."""
    answer = client.completions.create(model="echo", prompt=prompt)
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    parts = opened(gateway, answer.verispect["inference"])
    assert parts[Part.OUTPUT] == texts
    effective = parts[Part.EFFECTIVE_INPUT]
    records = effective["choices"] if len(texts) > 1 else [effective]
    assert ["".join(map(chr, record["token_ids"])) for record in records] == texts


def test_choices_are_counted_prompt_by_prompt(client):
    """Two prompts with two choices each are four, each prompt's together; prompts count once."""
    answer = client.completions.create(model="echo", prompt=["a b", "c d"], n=2, best_of=2, seed=0)
    assert [choice.text for choice in answer.choices] == ["a b", "b a", "c d", "d c"]
    assert answer.usage.prompt_tokens == 6


def test_logprobs_have_the_legacy_shape(client):
    """Tokens, their log-probabilities, alternatives with the token itself, and offsets."""
    answer = client.completions.create(model="echo", prompt="abc", logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["a", "b", "c"]
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    assert logprobs.text_offset == [0, 1, 2]
    assert all(token in top for token, top in zip("abc", logprobs.top_logprobs, strict=True))
    none = client.completions.create(model="echo", prompt="abc", logprobs=0)
    assert none.choices[0].logprobs.top_logprobs == [{token: -0.5} for token in "abc"]


@pytest.mark.parametrize("prompt", ["xyz", [120, 121, 122]])
def test_echo_scores_the_prompt_without_generating(client, gateway, prompt):
    """With `max_tokens` 0 the prompt comes back with a log-probability for all but its first."""
    started = gateway.model.started
    answer = client.completions.create(
        model="echo", prompt=prompt, echo=True, logprobs=1, max_tokens=0
    )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("xyz", "length")
    assert choice.logprobs.tokens == ["x", "y", "z"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5]
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset == [0, 1, 2]
    assert answer.usage.completion_tokens == 0
    assert gateway.model.started == started
    parts = opened(gateway, answer.verispect["inference"])
    assert parts[Part.OUTPUT] == ["xyz"]
    assert len(parts[Part.LOGPROBS][0]) == 2
    assert parts[Part.PARAMETERS]["maximum_tokens"] == 0


def test_echo_comes_before_what_is_generated(client):
    """Text, tokens and offsets run through prompt and completion."""
    answer = client.completions.create(model="echo", prompt="ab ", echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == "ab ab"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    bare = client.completions.create(model="echo", prompt="ab ", echo=True)
    assert (bare.choices[0].text, bare.choices[0].logprobs) == ("ab ab", None)


def test_a_stream_adds_up_to_the_plain_answer(client, gateway):
    """Text, log-probabilities and offsets are the same; the receipt binds the payloads."""
    fields = {"model": "echo", "prompt": ["a b", "c"], "echo": True, "logprobs": 1}
    plain = client.completions.create(**fields)
    payloads = []
    with (
        gateway.http() as http,
        http.stream("POST", "/v1/completions", json={**fields, "stream": True}) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: "):
                payloads.append(line.removeprefix("data: ").encode())
    chunks = [json.loads(payload) for payload in payloads[:-1]]
    for choice in plain.choices:
        parts = [c["choices"][0] for c in chunks if c["choices"]]
        parts = [part for part in parts if part["index"] == choice.index]
        assert "".join(part["text"] for part in parts) == choice.text
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            streamed = [item for part in parts for item in (part["logprobs"] or {}).get(name, [])]
            assert streamed == getattr(choice.logprobs, name)
        assert [part["finish_reason"] for part in parts][-1] == choice.finish_reason
    member = chunks[-1]["verispect"]
    verified = gateway.verify(member, answer.headers["verispect-opening-key"])
    assert verified.statement.stream == chain_of(member["inference"], payloads[:-2])
    assert opened(gateway, member["inference"])[Part.OUTPUT] == [c.text for c in plain.choices]


def test_the_official_client_reads_a_stream_with_usage(client):
    """Usage comes in a chunk without choices, the receipt in the last one."""
    chunks = list(
        client.completions.create(
            model="echo", prompt="a b", stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "a b"
    assert chunks[-2].usage.total_tokens == 6
    assert chunks[-1].verispect["receipt_id"]
