"""`/v1/models` as the official client sees it."""

from __future__ import annotations

from urllib.parse import quote

import openai
import pytest
from running_gateway import run_gateway

from verispect.core.encoding import sha256
from verispect.testing.echo_model import EchoLanguageModel


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


def test_every_served_model_is_listed_with_its_identity(gateway):
    """A caller sees each model's digest and how it is known, in OpenAI's list."""
    models = list(gateway.openai().models.list())
    assert [model.id for model in models] == ["echo", "team/echo"]
    assert models[0].created == 1_700_000_000
    assert models[0].owned_by == "tests"
    assert models[0].verispect == {
        "model_id": sha256(b"echo").hex(),
        "kind": "language",
        "identity": "local-weights",
        "determinism": "exact",
        "lanes": ["throughput", "deterministic"],
        "assurance": ["signed"],
        "assurance_sums": [],
    }


def test_a_name_with_a_slash_is_found_escaped_or_not(gateway):
    """The official client escapes the slash of a name and others do not."""
    assert gateway.openai().models.retrieve("team/echo").id == "team/echo"
    with gateway.http() as client:
        for name in ("team/echo", quote("team/echo", safe="")):
            assert client.get(f"/v1/models/{name}").json()["id"] == "team/echo"


@pytest.mark.parametrize("name", ["unknown", "team/unknown", "echo/", "ECHO", "é"])
def test_an_unknown_model_is_404_and_never_another(gateway, name):
    """Only the exact name finds a model."""
    with pytest.raises(openai.NotFoundError) as refusal:
        gateway.openai().models.retrieve(name)
    assert refusal.value.code == "model_not_found"
