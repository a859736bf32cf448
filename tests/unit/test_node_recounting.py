"""Counting tokens again: by the tokenizer where a text is written as usual, by a run elsewhere.

The model is a tiny one with random weights, whose texts are hardly ever written as usual.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from verispect.attesters.signer import Issuer
from verispect.client.session import GatewayClient
from verispect.core.commitments import Opening, Part, decode_openings
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Error, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.models.registry import ModelRegistry
from verispect.node.recounting import count_tokens
from verispect.testing.served import ServedGateway
from verispect.testing.tiny_gguf import TinyModel, write_tiny_gguf


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("served")
    gateway = ServedGateway(home, "--threads", "1")
    tiny = write_tiny_gguf(home / "tiny.gguf", TinyModel(stops_by_itself=False))
    gateway.run("models", "add", "--name", "tiny", "--file", str(tiny))
    with gateway:
        yield gateway


@pytest.fixture(scope="module")
def asked(gateway):
    with GatewayClient(gateway.url) as client:
        return client.chat(
            "tiny",
            [{"role": "user", "content": "Say something."}],
            lane="deterministic",
            options={"max_tokens": 12, "seed": 5},
        )


def count(gateway, receipt, opened):
    registry = ModelRegistry(gateway.home / "models")
    return asyncio.run(count_tokens(receipt, opened, registry))


def refused(gateway, receipt, opened) -> Reason:
    with pytest.raises(Error) as caught:
        count(gateway, receipt, opened)
    return caught.value.reason


def changed(gateway, receipt, opened, part, change):
    """Return a receipt that commits to another content of one part, and its openings."""
    opening = Opening.of(part, change(opened[part].content()), salt=opened[part].salt)
    statement = receipt.unverified_statement
    commitments = {**statement.commitments, part: opening.commitment()}
    return signed(gateway, receipt, replace(statement, commitments=commitments)), {
        **opened,
        part: opening,
    }


def signed(gateway, receipt, statement):
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer=receipt.envelope.issuer,
        subject=receipt.envelope.subject,
        signer=Issuer.load(gateway.home / "keys").signer,
    )
    return InferenceReceipt.parse(envelope.encode())


@pytest.fixture(scope="module")
def honest(asked):
    return InferenceReceipt.parse(asked.receipt), decode_openings(asked.openings)


def test_an_unusual_sequence_is_counted_by_running_it(gateway, honest):
    """What was generated in other tokens than the usual ones is still counted exactly."""
    counts = count(gateway, *honest)
    usage = honest[0].unverified_statement.usage
    assert (counts.input_tokens, counts.output_tokens) == (usage["input_tokens"], 12)


def test_a_wrong_count_does_not_change_what_is_counted(gateway, honest):
    """The count is made from the content, whatever the statement says of it."""
    receipt, opened = honest
    statement = receipt.unverified_statement
    for said in (1, 11, 13, 4000):
        usage = {**statement.usage, "output_tokens": said}
        forged = signed(gateway, receipt, replace(statement, usage=usage))
        assert count(gateway, forged, opened).output_tokens == 12


def test_an_input_that_is_not_its_text_is_refused(gateway, honest):
    """Tokens that nobody wrote cannot be billed."""

    def padded(record):
        return {**record, "token_ids": [*record["token_ids"], *[1] * 900]}

    receipt, opened = changed(gateway, *honest, Part.EFFECTIVE_INPUT, padded)
    assert refused(gateway, receipt, opened) is Reason.METERING_MISMATCH


def test_an_output_that_is_not_repeated_is_not_counted(gateway, honest):
    """Where running it again gives another text, the count could not be told."""
    receipt, opened = changed(gateway, *honest, Part.OUTPUT, lambda _: ["zq jx zq jx"])
    assert refused(gateway, receipt, opened) is Reason.UNSUPPORTED_MODEL


@pytest.mark.parametrize("part", [Part.EFFECTIVE_INPUT, Part.OUTPUT])
def test_what_was_not_opened_is_not_counted(gateway, honest, part):
    """No count is taken from the seller."""
    receipt, opened = honest
    rest = {name: each for name, each in opened.items() if name is not part}
    assert refused(gateway, receipt, rest) is Reason.CONTENT_NOT_OPENED


def test_content_of_another_shape_is_refused(gateway, honest):
    """A record that no language model is given is a false one, and no crash."""
    receipt, opened = changed(gateway, *honest, Part.EFFECTIVE_INPUT, lambda _: {"text": 3})
    assert refused(gateway, receipt, opened) is Reason.CONTENT_MISMATCH


def test_openings_of_something_else_are_refused(gateway, honest):
    """An opening has to open the commitment of this statement."""
    receipt, opened = honest
    other = Opening.of(Part.OUTPUT, ["other"], salt=bytes(32))
    assert refused(gateway, receipt, {**opened, Part.OUTPUT: other}) is Reason.OPENING_MISMATCH
