"""Attempts on transactions by an outsider: two ends, one nonce, too many parts, many processes."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from running_gateway import run_gateway

from log_leaves import T0, nodes
from tlog_log import SIGNER
from verispect.attesters.signer import SoftwareSigner
from verispect.cli import status
from verispect.core.encoding import sha256, to_base64url
from verispect.core.envelope import sign_envelope
from verispect.core.errors import Reason, RequestError
from verispect.core.transaction import (
    TRANSACTION_TYPE,
    Failure,
    TransactionOutcome,
    TransactionStatement,
)
from verispect.ledger.transactions import Decision, TransactionState, TransactionStore
from verispect.testing.echo_model import EchoLanguageModel
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.status import replay_status

CHAT = "/v1/chat/completions"
BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}
COMMITTED = TransactionStatement(
    transaction_id=b"t" * 16,
    opened_at=T0,
    decided_at=T0 + 1,
    outcome=TransactionOutcome.COMMITTED,
    policy=sha256(b"policies"),
    count=2,
    root=sha256(b"root"),
)
FAILED = replace(
    COMMITTED, outcome=TransactionOutcome.FAILED, failure=Failure(Reason.POLICY_UNMET.value, 1)
)
PENDING = replace(COMMITTED, outcome=TransactionOutcome.PENDING, due_at=T0 + 2)


def leaf(statement, signer=SIGNER):
    signed = sign_envelope(
        statement.encode(),
        content_type=TRANSACTION_TYPE,
        issuer="operator",
        subject=statement.transaction_id.hex(),
        signer=signer,
    )
    return SignedLeaf.of(signed).encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.mark.parametrize(
    "other",
    [
        FAILED,
        replace(COMMITTED, root=sha256(b"other")),
        replace(COMMITTED, decided_at=T0 + 9),
        replace(
            COMMITTED,
            outcome=TransactionOutcome.ABORTED,
            failure=Failure(Reason.TRANSACTION_ABORTED.value),
        ),
    ],
)
def test_two_ends_of_one_transaction_are_flagged(other):
    """Whoever commits for one reader and fails for another is seen by everybody who replays."""
    table = replay_status([leaf(PENDING), leaf(COMMITTED), b"junk", leaf(other)], nodes=nodes(2))
    (found,) = table.contradicted
    assert found.transaction_id == COMMITTED.transaction_id
    assert (found.leaves, found.reason) == ((1, 3), Reason.TRANSACTION_CONTRADICTED)
    whole = replay_status([leaf(PENDING), leaf(COMMITTED), b"junk"], nodes=nodes(2))
    assert not whole.contradicted
    assert table.digest() != replace(table, contradicted=()).digest()


def test_the_status_of_a_log_with_two_ends_is_a_failure(monkeypatch, capsys):
    """The command line says so, names both leaves, and its exit code is not zero."""
    for leaves, code in (([COMMITTED], 0), ([COMMITTED, FAILED], 1)):
        table = replay_status([leaf(each) for each in leaves], nodes=nodes(2))
        monkeypatch.setattr(status, "_table", lambda _arguments, table=table: table)
        assert status.run(argparse.Namespace(subject="log")) == code
    shown = json.loads(capsys.readouterr().out.partition("}\n{")[2].join(("{", "")))
    (found,) = shown["contradicted"]
    assert (found["leaves"], found["reason"]) == ([0, 1], "transaction-contradicted")


def test_one_end_that_is_logged_again_or_by_a_stranger_contradicts_nothing():
    """The same words twice are one end; another key speaks for another issuer."""
    stranger = SoftwareSigner(bytes(32))
    leaves = [leaf(COMMITTED), leaf(COMMITTED), leaf(FAILED, stranger), leaf(PENDING)]
    assert not replay_status(leaves, nodes=nodes(2)).contradicted


def test_two_parts_of_an_open_transaction_carry_no_common_nonce(gateway):
    """The second is refused before it takes a place, so that the whole still verifies."""
    nonce = {"verispect-nonce": to_base64url(b"n" * 16)}
    with gateway.http() as client:
        begun = client.post("/v1/transactions", json={}, headers=nonce).json()
        part = {
            "verispect-transaction": begun["id"],
            "verispect-transaction-key": begun["key"],
        }
        own = {"verispect-nonce": to_base64url(b"p" * 16)}
        assert client.post(CHAT, json=BODY, headers={**part, **own}).status_code == 200
        for again in (own, nonce):
            refused = client.post(CHAT, json=BODY, headers={**part, **again})
            assert refused.json()["error"]["code"] == "nonce-reused"
        assert client.post(CHAT, json=BODY, headers=part).status_code == 200
        key = {"verispect-transaction-key": begun["key"]}
        done = client.post(f"/v1/transactions/{begun['id']}/commit", headers=key).json()
    assert (done["state"], done["count"]) == ("committed", 2)


def test_ten_thousand_parts_are_refused_before_any_runs(gateway):
    """Neither a request nor an open transaction takes more parts than a statement can name."""
    started = gateway.model.started
    parts = [{"path": "/v1/completions", "body": {"model": "echo", "prompt": "a"}}] * 10_000
    with gateway.http() as client:
        answer = client.post("/v1/transactions", json={"parts": parts})
    assert answer.json()["error"]["code"] == "too-large"
    assert gateway.model.started == started


def test_of_many_processes_that_end_it_at_once_one_end_stands(tmp_path):
    """Commits and aborts from several stores on one file agree on the bytes of the first."""
    stores = [TransactionStore(tmp_path / "transactions.sqlite3") for _ in range(6)]
    identifier = b"i" * 16
    stores[0].open(identifier, now=1, expires_at=10**15, fixed_count=0, nonce=None)
    start, found = threading.Barrier(len(stores)), []

    def end(number, store):
        state = TransactionState.ABORTED if number % 2 else TransactionState.COMMITTED
        decision = Decision(state, number, b"envelope %d" % number, b"parts")
        start.wait()
        found.append(store.decide(identifier, decision, since=(TransactionState.OPEN,)))

    threads = [threading.Thread(target=end, args=each) for each in enumerate(stores)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(moved for _, moved in found) == 1
    assert len({stored.envelope for stored, _ in found}) == 1
    with pytest.raises(RequestError) as caught:
        stores[1].take(identifier, b"j" * 16, policy="", links=b"", now=2)
    assert caught.value.reason is Reason.TRANSACTION_CLOSED
    for store in stores:
        store.close()


def test_a_store_of_an_earlier_version_learns_of_nonces(tmp_path):
    """Transactions that are open while the software is exchanged go on."""
    path = tmp_path / "transactions.sqlite3"
    TransactionStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX parts_by_nonce")
        connection.execute("ALTER TABLE parts DROP COLUMN nonce")
    connection.close()
    store = TransactionStore(path)
    store.open(b"i" * 16, now=1, expires_at=10**15, fixed_count=0, nonce=None)
    options = {"policy": "", "links": b"", "now": 2}
    assert store.take(b"i" * 16, b"j" * 16, nonce=b"n" * 16, **options) == 0
    with pytest.raises(RequestError) as caught:
        store.take(b"i" * 16, b"k" * 16, nonce=b"n" * 16, **options)
    assert caught.value.reason is Reason.NONCE_REUSED
    assert store.take(b"i" * 16, b"l" * 16, nonce=None, **options) == 1
    assert store.take(b"i" * 16, b"m" * 16, nonce=None, **options) == 2
    store.close()
