"""Whom a gateway tells how a transaction ended, and what it finds after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from typing import Any

import msgspec
import pytest
from running_gateway import EchoPool

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.errors import Reason, RequestError, StoreError
from verispect.core.transaction import TransactionOutcome
from verispect.gateway.completions import create_completion
from verispect.gateway.http import HttpRequest
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.state import GatewayState
from verispect.gateway.transaction_bundle import bundle_of
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
    bundle = bundle_of(state, stored)
    assert (bundle.statement.count, bundle.statement.failure.reason) == (2, "request-timeout")
    assert bundle.statement.outcome is TransactionOutcome.ABORTED


async def test_a_development_key_commits_and_is_refused_by_others(state):
    """The operator accepts its own development key; a verifier does only where its policy says."""
    answer = await run(state, "echo")
    assert answer["state"] == "committed"
    stored = state.transactions.store.find(bytes.fromhex(answer["id"]))
    root = TrustedRoot([state.recorder.issuer.trusted_key()])
    result = TransactionVerifier(root).appraise(bundle_of(state, stored), policy=SIGNED, now=10**13)
    assert result.reason is Reason.DEVELOPMENT_KEY


def receipts_of(tmp_path):
    """Return a connection to the receipts that may change them, as whoever has the disk can."""
    connection = sqlite3.connect(tmp_path / "receipts" / DATABASE_NAME, isolation_level=None)
    triggers = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'receipts'"
    ).fetchall()
    for (name,) in triggers:
        connection.execute(f'DROP TRIGGER "{name}"')
    return contextlib.closing(connection)


async def test_what_a_dead_process_left_is_aborted_at_once(state, tmp_path, monkeypatch):
    """A transaction of one request is left alone while its process lives, and given up after it."""
    left = TransactionStore(tmp_path / "transactions.sqlite")
    with monkeypatch.context() as patched:
        patched.setattr(state.transactions, "store", left)
        patched.setattr(state.transactions, "decide", _die)
        with pytest.raises(SystemExit):
            await run(state, "echo", "echo")
    await state.transactions.look(state)
    ((identifier, word),) = left._read("SELECT id, state FROM transactions")
    assert word == "open", "its process lives, and may still decide"
    left.close()
    await state.transactions.look(state)
    stored = state.transactions.store.find(identifier)
    assert stored.state is TransactionState.ABORTED
    statement = bundle_of(state, stored).statement
    assert (statement.count, statement.failure.reason) == (2, "transaction-incomplete")


async def _die(*_arguments, **_options):
    raise SystemExit


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("receipt = CAST(receipt || x'00' AS BLOB)", "malformed-cbor"),
        (
            "receipt = CAST(substr(receipt, 1, length(receipt) - 1) || x'ff' AS BLOB)",
            "signature-invalid",
        ),
    ],
)
async def test_a_receipt_that_was_changed_fails_its_part_at_commit(state, tmp_path, change, reason):
    """What an open transaction's parts say is verified again when it is committed."""
    opened = await state.transactions.open(seconds=60, fixed_count=0, nonce=None)
    ticket = state.transactions.ticket(opened, [])
    body = msgspec.json.encode({"model": "echo", "prompt": "hi"})
    headers = {"content-type": "application/json"}
    request = HttpRequest("POST", "/v1/completions", {}, headers, body, asyncio.Event(), 1)
    request.transaction = ticket
    await create_completion(state, request)
    with receipts_of(tmp_path) as connection:
        connection.execute(f"UPDATE receipts SET {change}")
    stored = await state.transactions.commit(state, opened)
    assert stored.state is TransactionState.FAILED
    failure = bundle_of(state, stored).statement.failure
    assert (failure.index, failure.reason) == (0, reason)


async def test_a_policy_of_the_callers_own_is_required_of_a_part(state):
    """A part's receipt and leaf name the caller's policy; one that cannot be met is refused."""
    own = json.loads(json.dumps(SIGNED.to_json()))
    answer = await run_parts(state, [own, {**own, "claims": {"execution": ["proven"]}}])
    assert answer["failure"] == {"part": 1, "reason": "assurance-unavailable"}
    stored = state.transactions.store.find(bytes.fromhex(answer["id"]))
    (part,) = bundle_of(state, stored).parts
    assert part.part.assurance == SIGNED.digest()
    body = {"model": "echo", "prompt": "hi", "assurance": "signed"}
    refused = await attempt_parts(state, [{"body": body, "assurance": own}])
    assert refused is Reason.INVALID_REQUEST


async def run_parts(state, policies):
    """Run completions with these assurances."""
    parts = [{"body": {"model": "echo", "prompt": "hi"}, "assurance": each} for each in policies]
    return msgspec.json.decode((await post_parts(state, parts)).body)


async def attempt_parts(state, parts):
    """Return why parts are refused before anything runs."""
    with pytest.raises(RequestError) as caught:
        await post_parts(state, parts)
    return caught.value.reason


async def post_parts(state, parts):
    """Send completions as one transaction."""
    body = {"parts": [{"path": "/v1/completions", **each} for each in parts]}
    headers = {"content-type": "application/json"}
    data = msgspec.json.encode(body)
    now = time.time_ns() // 1_000_000
    return await create_transaction(
        state, HttpRequest("POST", "/v1/transactions", {}, headers, data, asyncio.Event(), now)
    )
