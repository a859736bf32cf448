"""`/v1/embeddings` as the official client sees it, and what its receipt covers."""

from __future__ import annotations

import base64
import math
import struct

import openai
import pytest
from running_gateway import run_gateway

from verispect.core.commitments import Part
from verispect.gateway.embeddings import MAX_INPUTS, MAX_TOKENS
from verispect.testing.echo_model import EchoLanguageModel


class BrokenModel(EchoLanguageModel):
    """Gives what no caller may be shown."""

    async def embed(self, inputs):
        broken = {"nan": [[math.nan]], "huge": [[1e300]], "few": [], "empty": [[]]}
        return broken[inputs[0]], 1


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.mark.parametrize("given", ["hi", ["hi", "there"], [104, 105], [[104, 105], [106]]])
def test_the_official_client_reads_its_vectors(gateway, given):
    """The client asks for base64 by default and gets the same numbers as with float."""
    client = gateway.openai()
    count = len(given) if isinstance(given[0], (str, list)) and not isinstance(given, str) else 1
    plain = client.embeddings.create(model="echo", input=given, encoding_format="float")
    packed = client.embeddings.create(model="echo", input=given)
    assert [entry.embedding for entry in packed.data] == [entry.embedding for entry in plain.data]
    assert [entry.index for entry in packed.data] == list(range(count))
    assert packed.model == "echo"
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


def test_the_receipt_covers_inputs_parameters_and_vectors(gateway):
    """What was signed is the float32 bytes that the caller decodes."""
    body = {
        "model": "echo",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 8,
        "user": "u",
    }
    with gateway.http() as client:
        answer = client.post("/v1/embeddings", json=body)
    shown = [base64.b64decode(entry["embedding"]) for entry in answer.json()["data"]]
    verified = gateway.verify(
        answer.json()["verispect"],
        answer.headers["verispect-opening-key"],
        parts={Part.OUTPUT: shown, Part.EFFECTIVE_INPUT: {"inputs": ["a", "b"]}},
    )
    assert verified.statement.operation == "embeddings"
    assert verified.statement.usage == {"input_tokens": 2, "output_tokens": 0}
    assert verified.opened[Part.PARAMETERS] == {
        "encoding_format": "base64",
        "dimensions": 8,
        "user": "u",
    }
    assert len(struct.unpack("<8f", shown[0])) == 8


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[1], ["a"]]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": [1] * (MAX_TOKENS + 1)}, "input"),
        ({"dimensions": 4}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimension": 8}, "dimension"),
        ({"model": 5}, "model"),
    ],
)
def test_bad_input_is_refused_by_name(gateway, fields, parameter):
    """A field that is wrong, unknown or too large is named."""
    with gateway.http() as client:
        answer = client.post("/v1/embeddings", json={"model": "echo", "input": "hi", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == parameter
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_and_assurance_are_refused(gateway):
    """Neither a model nor an assurance is ever replaced by another."""
    client = gateway.openai()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="unknown", input="hi")
    with pytest.raises(openai.BadRequestError) as refusal:
        client.embeddings.create(model="echo", input="hi", extra_body={"assurance": "proven"})
    assert refusal.value.code == "assurance-unavailable"


@pytest.mark.parametrize("fault", ["nan", "huge", "few", "empty"])
def test_vectors_that_are_none_are_an_engine_error(tmp_path, fault):
    """An engine that breaks its contract is an error, never an answer."""
    with run_gateway(tmp_path, BrokenModel()) as gateway, gateway.http() as client:
        answer = client.post("/v1/embeddings", json={"model": "echo", "input": fault})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine-failed"
