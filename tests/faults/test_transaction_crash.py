"""Transactions through crashes: nothing half-committed, one final statement, nothing taken back."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time

import httpx
import pytest

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import TransactionVerifier
from verispect.client.session import now_milliseconds
from verispect.core.errors import Reason, RequestError, StoreError
from verispect.core.transaction_files import TransactionBundle
from verispect.ledger.transactions import (
    Decision,
    StoredPart,
    TransactionState,
    TransactionStore,
)
from verispect.testing.served import ServedGateway
from verispect.testing.tiny_gguf import write_tiny_gguf

ID = b"t" * 16
OPEN = (TransactionState.OPEN,)
COMMIT = Decision(TransactionState.COMMITTED, 5, b"signed", b"parts")
ROUNDS = 5


class _Breaking:
    """A connection that fails at one statement: before it is done, or after."""

    def __init__(self, connection, word, *, after):
        self._connection, self._word, self._after = connection, word, after

    def execute(self, query, *values):
        if query.startswith(self._word):
            if self._after:
                self._connection.execute(query, *values)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(query, *values)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def opened(path):
    store = TransactionStore(path)
    store.open(ID, now=1, expires_at=1000, fixed_count=0, nonce=None)
    store.take(ID, b"i" * 16, policy="p", links=b"\x80", now=2)
    return store


@pytest.mark.parametrize("word", ["BEGIN", "SELECT count", "UPDATE", "COMMIT"])
@pytest.mark.parametrize("after", [False, True])
def test_a_decision_that_fails_is_made_or_not(tmp_path, word, after):
    """Whatever step fails, the state is the one before or the one after, with its bytes."""
    store = opened(tmp_path / "t.sqlite")
    store._connection = _Breaking(store._connection, word, after=after)
    with pytest.raises(StoreError):
        store.decide(ID, COMMIT, since=OPEN)
    again = TransactionStore(tmp_path / "t.sqlite")
    found = again.find(ID)
    made = word == "COMMIT" and after
    assert found.state is (TransactionState.COMMITTED if made else TransactionState.OPEN)
    assert found.envelope == (b"signed" if made else None)
    other = Decision(TransactionState.ABORTED, 6, b"other", b"parts")
    final, won = again.decide(ID, other, since=OPEN)
    assert won != made
    assert final.envelope == (b"signed" if made else b"other")


def test_what_is_final_never_changes(tmp_path):
    """A second decision of any kind reads the first one's bytes."""
    store = opened(tmp_path / "t.sqlite")
    assert store.decide(ID, COMMIT, since=OPEN)[1]
    for state in TransactionState:
        other = Decision(state, 9, b"other", b"other")
        final, won = store.decide(
            ID, other, since=(TransactionState.OPEN, TransactionState.PENDING)
        )
        assert (final.state, final.envelope, won) == (TransactionState.COMMITTED, b"signed", False)


def test_a_part_that_comes_while_it_is_decided_stops_the_decision(tmp_path):
    """A commit over two parts does not pass where there are three by then."""
    store = opened(tmp_path / "t.sqlite")
    store.take(ID, b"j" * 16, policy="p", links=b"\x80", now=2)
    decision = Decision(TransactionState.COMMITTED, 5, b"signed", b"parts", expected_parts=1)
    final, won = store.decide(ID, decision, since=OPEN)
    assert (final.state, won) == (TransactionState.OPEN, False)


def test_places_are_taken_once_and_only_while_it_is_open(tmp_path):
    """Indexes have no gap; after the time-out or the end there are no more."""
    store = opened(tmp_path / "t.sqlite")
    assert [part.index for part in store.parts(ID)] == [0]
    with pytest.raises(RequestError) as late:
        store.take(ID, b"k" * 16, policy="p", links=b"\x80", now=1000)
    assert late.value.reason is Reason.TRANSACTION_CLOSED
    store.decide(ID, COMMIT, since=OPEN)
    with pytest.raises(RequestError):
        store.take(ID, b"k" * 16, policy="p", links=b"\x80", now=3)
    assert store.parts(ID) == [StoredPart(0, b"i" * 16, "p", b"\x80")]


def _load(url, seen, stop):
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say."}],
        "max_completion_tokens": 3,
    }
    part = {"path": "/v1/chat/completions", "body": chat}
    with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=url, timeout=20) as http:
        while not stop.is_set():
            answer = http.post("/v1/transactions", json={"parts": [part] * 3, "timeout_seconds": 2})
            if answer.status_code == 200:
                seen[answer.json()["id"]] = answer.json()["receipt_id"]
            opened = http.post("/v1/transactions", json={"timeout_seconds": 2}).json()
            key = {"verispect-transaction-key": opened["key"]}
            joined = {**key, "verispect-transaction": opened["id"]}
            http.post(part["path"], json=chat, headers=joined).raise_for_status()
            answer = http.post(f"/v1/transactions/{opened['id']}/commit", headers=key)
            if answer.status_code == 200:
                seen[opened["id"]] = answer.json()["receipt_id"]


@pytest.mark.slow
def test_a_killed_gateway_leaves_no_transaction_undecided(tmp_path):
    """After kills at random moments each is final; what was seen committed is so, byte for byte."""
    chance = random.Random(20261124)
    gateway = ServedGateway(tmp_path, "--threads", "1")
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    gateway.run("models", "add", "--name", "tiny", "--file", str(tiny or tmp_path / "tiny.gguf"))
    root = gateway.trusted_root()
    seen: dict[str, str] = {}
    for _ in range(ROUNDS):
        gateway.start()
        stop = threading.Event()
        threads = [threading.Thread(target=_load, args=(gateway.url, seen, stop)) for _ in range(2)]
        for thread in threads:
            thread.start()
        before = len(seen)
        for _ in range(600):
            if len(seen) > before:
                break
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 0.3))
        gateway.kill()
        stop.set()
        for thread in threads:
            thread.join()
    assert seen, "nothing was committed: the test proves too little"
    with gateway:
        check_all(gateway, root, _decided(tmp_path / "state" / "transactions.sqlite"), seen)


def _decided(database):
    """Return every transaction's state, once all are final."""
    for _ in range(200):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT id, state FROM transactions").fetchall()
        if all(state not in ("open", "pending") for _, state in rows):
            break
        time.sleep(0.1)
    return {identifier.hex(): state for identifier, state in rows}


def check_all(gateway, root, states, seen):
    """Hold every transaction against its file and against what callers saw."""
    assert set(states.values()) <= {"committed", "aborted"}
    assert "aborted" in states.values(), "no kill fell into a transaction"
    for identifier, state in states.items():
        data = httpx.get(f"{gateway.url}/v1/transactions/{identifier}/receipt").content
        bundle = TransactionBundle.parse(data)
        result = TransactionVerifier(root).appraise(bundle, policy=SIGNED, now=now_milliseconds())
        committed = state == "committed"
        assert (result.verdict is Verdict.VERIFIED) == committed, result.decisive_check()
        assert committed or result.reason is Reason.TRANSACTION_ABORTED
        if identifier in seen:
            assert committed
            assert bundle.envelope.digest().hex() == seen[identifier]
