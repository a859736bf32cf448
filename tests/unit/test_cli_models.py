"""`verispect models` as a user meets it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from verispect.cli import models
from verispect.core.encoding import sha256
from verispect.core.errors import ModelError, Reason, RequestError
from verispect.models.manifest import parse_manifest
from verispect.testing.tiny_gguf import write_tiny_gguf


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `verispect models …` and return standard output."""

    def run(*arguments: str) -> str:
        parser = argparse.ArgumentParser()
        models.add_parser(parser.add_subparsers())
        registry = ["--registry", str(tmp_path / "registry")]
        assert models.run(parser.parse_args(["models", *arguments, *registry])) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny_gguf(tmp_path / "tiny.gguf"))


def test_add_list_and_show(command, tiny: str) -> None:
    """An added model is listed and shown with one and the same identity."""
    model_id = command("add", "--name", "tiny", "--file", tiny, "--licence", "Apache-2.0").strip()
    assert re.fullmatch("[0-9a-f]{64}", model_id)
    header, line = command("list").splitlines()
    assert header.split()[0] == "name"
    assert line.split()[:4] == ["tiny", "gguf", "local-weights", "unqualified"]
    (listed,) = json.loads(command("list", "--json"))
    shown = json.loads(command("show", "tiny", "--json", "--check"))
    assert listed["modelId"] == shown["modelId"] == shown["manifest"]["model_id"] == model_id
    assert "provenance.licence: Apache-2.0" in command("show", "tiny")


def test_remote_model_shows_what_it_is(command) -> None:
    """A remote model is listed as reported by an upstream and has no size."""
    command(
        "add", "--name", "far", "--remote", "https://api.example.com/v1", "--upstream-model", "big"
    )
    assert "upstream-reported" in command("list")
    assert "remote.upstream_model: big" in command("show", "far")
    with pytest.raises(RequestError):
        command("qualify", "far")


def test_chat_template_can_be_replaced(command, tiny: str, tmp_path: Path) -> None:
    """An override is another model, and says that it is one."""
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    plain = command("add", "--name", "tiny", "--file", tiny)
    other = command("add", "--name", "o", "--file", tiny, "--chat-template", str(template))
    assert plain != other
    assert "chat_template.origin: override" in command("show", "o")


def test_qualify_prints_both_identities(command) -> None:
    """The name is re-pointed, and the user sees from what to what."""
    before = command("add", "--name", "magika", "--catalogue", "magika").strip()
    lines = dict(line.split() for line in command("qualify", "magika").splitlines())
    assert lines["before"] == before
    assert lines["after"] == json.loads(command("show", "magika", "--json"))["modelId"] != before
    assert "unqualified" not in command("list")
    assert re.search("run two threads: [0-4] of 4 equal", command("show", "magika"))


def test_combinations_that_make_no_sense_are_refused(command, tiny: str) -> None:
    """Half a remote model and a remote model with a qualification are usage errors."""
    for arguments in (
        ["--remote", "https://api.example.com/v1"],
        ["--file", tiny, "--upstream-model", "big"],
        ["--remote", "https://a.example/v1", "--upstream-model", "b", "--qualify"],
    ):
        with pytest.raises(RequestError):
            command("add", "--name", "x", *arguments)
    with pytest.raises(ModelError) as caught:
        command("add", "--name", "x", "--catalogue", "magica")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert "magika" in str(caught.value)


def test_specification_example_is_a_manifest() -> None:
    """The example in the specification parses and has the identity it states."""
    text = (Path(__file__).parents[2] / "spec" / "model-manifest.md").read_text()
    block = text.rpartition("```\nmanifest\n")[2].partition("```")[0]
    encoded, _, model_id = block.partition("model_id\n")
    content = bytes.fromhex(encoded.replace("\n", ""))
    manifest = parse_manifest(content)
    assert manifest.remote is not None
    assert manifest.remote.upstream_model == "big"
    assert sha256(content).hex() == model_id.strip()


def test_calibrate_prints_both_identities_and_show_what_was_measured(command, tiny: str) -> None:
    """A language model is qualified first; then its record tells honest answers from wrong ones."""
    command("add", "--name", "tiny", "--file", tiny)
    with pytest.raises(RequestError):
        command("calibrate", "tiny")
    qualified = dict(line.split() for line in command("qualify", "tiny").splitlines())["after"]
    lines = dict(
        line.split() for line in command("calibrate", "tiny", "--prompts", "2").splitlines()
    )
    assert lines["before"] == qualified
    assert lines["after"] != qualified
    assert json.loads(command("show", "tiny", "--json"))["modelId"] == lines["after"]
    shown = command("show", "tiny")
    assert re.search(r"^greedy: 6 honest answers of \d+ tokens", shown, re.MULTILINE)
    assert "sampled, answer to another prompt: " in shown
    with pytest.raises(RequestError):
        command("calibrate", "tiny", "--prompts", "1")


def test_calibrate_takes_language_models_only(command) -> None:
    """A tensor model is compared by numbers, not by tokens."""
    command("add", "--name", "magika", "--catalogue", "magika")
    with pytest.raises(RequestError):
        command("calibrate", "magika")
