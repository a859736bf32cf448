"""A gateway that signs one thing and shows, or was asked, another is refused by the client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.transaction import (
    TransactionClient,
    TransactionExchange,
    verify_transaction,
)
from verispect.core.errors import Error, Reason
from verispect.testing.echo_model import EchoLanguageModel

OUTPUT = {"$from": {"part": 0, "path": "/choices/0/text"}}
PARTS = [
    {"path": "/v1/completions", "body": {"model": "echo", "prompt": "one two"}},
    {"path": "/v1/completions", "body": {"model": "echo", "prompt": OUTPUT}},
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the echo model."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.fixture(scope="module")
def exchange(gateway: RunningGateway) -> TransactionExchange:
    """A transaction as it was asked and answered."""
    with TransactionClient(gateway.base_url) as client:
        return client.run(PARTS)


def verify(gateway: RunningGateway, exchange: TransactionExchange) -> None:
    """Verify with the gateway's own key."""
    root = TrustedRoot([gateway.state.recorder.issuer.trusted_key()])
    verify_transaction(exchange, trusted_root=root, policy=SIGNED, now=10**13)


def _shown(exchange: TransactionExchange, index: int, text: str) -> TransactionExchange:
    answers: list[Any] = deepcopy(list(exchange.answers))
    answers[index]["choices"][0]["text"] = text
    return replace(exchange, answers=answers)


def _asked(exchange: TransactionExchange, index: int, **fields: Any) -> TransactionExchange:
    asked: list[Any] = deepcopy(list(exchange.asked))
    asked[index]["body"] |= fields
    return replace(exchange, asked=asked)


def _required(exchange: TransactionExchange, word: str) -> TransactionExchange:
    asked: list[Any] = deepcopy(list(exchange.asked))
    asked[1]["assurance"] = word
    return replace(exchange, asked=asked)


LIES: dict[str, Callable[[TransactionExchange], TransactionExchange]] = {
    "another answer to the first part": lambda each: _shown(each, 0, "one three"),
    "another answer to the second part": lambda each: _shown(each, 1, "one three"),
    "another prompt than the one that was sent": lambda each: _asked(each, 0, prompt="two one"),
    "another model": lambda each: _asked(each, 1, model="other"),
    "another setting": lambda each: _asked(each, 1, max_tokens=1),
    "a fed prompt where the caller sent its own": lambda each: _asked(each, 1, prompt="mine"),
    "a part less than was asked for": lambda each: replace(
        each, asked=[*each.asked, each.asked[0]]
    ),
    "less assurance than was asked for": lambda each: _required(each, "audited"),
}


def test_what_was_asked_and_shown_verifies(
    gateway: RunningGateway, exchange: TransactionExchange
) -> None:
    """The honest exchange is accepted: what the lies change is what refuses them."""
    verify(gateway, exchange)


@pytest.mark.parametrize("lie", LIES)
def test_a_receipt_of_something_else_is_refused(
    gateway: RunningGateway, exchange: TransactionExchange, lie: str
) -> None:
    """Whatever was signed, it must be what this caller asked and was shown, at that place."""
    with pytest.raises(Error) as caught:
        verify(gateway, LIES[lie](exchange))
    assert caught.value.reason in (Reason.CONTENT_MISMATCH, Reason.TRANSACTION_MISMATCH)
