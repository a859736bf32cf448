"""Whom a gateway tells how a transaction ended, and what it finds after a crash."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest
from running_gateway import EchoPool

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.errors import Reason, StoreError
from verispect.core.transaction import TransactionOutcome
from verispect.gateway.http import HttpRequest
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.state import GatewayState
from verispect.gateway.transaction_routes import create_transaction
from verispect.gateway.transactions import Transactions
from verispect.ledger import ReceiptStore
from verispect.ledger.schema import DATABASE_NAME
from verispect.ledger.transactions import TransactionState, TransactionStore
from verispect.testing.echo_model import EchoLanguageModel


class Till:
    """A listener that remembers, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.told: list[tuple[str, bytes, int, str | None]] = []

    async def committed(self, transaction_id, parts):
        self._note("committed", transaction_id, parts, None)

    async def failed(self, transaction_id, parts, reason):
        self._note("failed", transaction_id, parts, reason)

    def _note(self, word, transaction_id, parts, reason):
        if self.failures:
            self.failures -= 1
            raise StoreError("the till is closed", reason=Reason.STORE_FAILED)
        self.told.append((word, transaction_id, len(parts), reason))


@pytest.fixture
async def state(tmp_path):
    """A gateway's state without a server."""
    issuer = Issuer.create(tmp_path / "keys", name="tests", development=True, now=0)
    key_id = issuer.signer.public_key.key_id
    store = ReceiptStore.open(tmp_path / "receipts", issuer_key_id=key_id)
    recorder = Recorder(
        issuer,
        store,
        opening_secret=os.urandom(32),
        published=PublishedRecords(tmp_path / "records"),
    )
    transactions = Transactions(
        TransactionStore(tmp_path / "transactions.sqlite"),
        receipts=tmp_path / "receipts" / DATABASE_NAME,
        listeners=[Till(failures=1)],
    )
    yield GatewayState(
        pool=EchoPool(EchoLanguageModel()), recorder=recorder, transactions=transactions
    )
    await transactions.stop()
    await store.close()


async def run(state: GatewayState, *models: str, **fields: Any) -> dict[str, Any]:
    """Run a transaction of completions of these models."""
    parts = [
        {"path": "/v1/completions", "body": {"model": model, "prompt": "hi"}} for model in models
    ]
    answer = await create_transaction(
        state,
        HttpRequest(
            "POST",
            "/v1/transactions",
            {},
            {"content-type": "application/json"},
            msgspec.json.encode({"parts": parts, **fields}),
            asyncio.Event(),
            time.time_ns() // 1_000_000,
        ),
    )
    document: dict[str, Any] = msgspec.json.decode(answer.body)
    return document


async def test_listeners_are_told_of_each_end_until_they_took_it(state):
    """What a listener could not take is told again; what it took is told once."""
    good, bad = await run(state, "echo", "echo"), await run(state, "echo", "nobody")
    till = state.transactions._listeners[0]
    await state.transactions.look(state)
    assert len(till.told) == 1, "the first was refused, and kept the second from nothing"
    for _ in range(3):
        await state.transactions.look(state)
    assert sorted(till.told) == sorted(
        [
            ("committed", bytes.fromhex(good["id"]), 2, None),
            ("failed", bytes.fromhex(bad["id"]), 1, "model-not-found"),
        ]
    )


async def test_a_transaction_whose_process_died_is_aborted_with_the_parts_it_had(
    state, monkeypatch
):
    """Parts that were answered before the crash stand in the statement that aborts it."""
    transactions = state.transactions

    async def die(*_arguments, **_options):
        raise SystemExit

    monkeypatch.setattr(transactions, "decide", die)
    with pytest.raises(SystemExit):
        await run(state, "echo", "echo", timeout_seconds=1)
    monkeypatch.undo()
    (identifier,) = transactions.store.expired(10**15)
    monkeypatch.setattr(transactions, "now", lambda: time.time_ns() // 1_000_000 + 5000)
    await transactions.look(state)
    stored = transactions.store.find(identifier)
    assert stored.state is TransactionState.ABORTED
    bundle = transactions.bundle(state, stored)
    assert (bundle.statement.count, bundle.statement.failure.reason) == (2, "request-timeout")
    assert bundle.statement.outcome is TransactionOutcome.ABORTED


async def test_a_development_key_commits_and_is_refused_by_others(state):
    """The operator accepts its own development key; a verifier does only where its policy says."""
    answer = await run(state, "echo")
    assert answer["state"] == "committed"
    stored = state.transactions.store.find(bytes.fromhex(answer["id"]))
    root = TrustedRoot([state.recorder.issuer.trusted_key()])
    result = TransactionVerifier(root).appraise(
        state.transactions.bundle(state, stored), policy=SIGNED, now=10**13
    )
    assert result.reason is Reason.DEVELOPMENT_KEY
