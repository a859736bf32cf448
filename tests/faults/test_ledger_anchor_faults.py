"""Crashes, lost answers, full disks and rivals while a log is anchored.

What must hold afterwards: nothing was sent twice, no tree has two roots, and whatever was meant to
be in the chain is there once the operator goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import ConnectionError as RequestsConnectionError

from anchor_chain import (
    LOG_KEY,
    AnchoredLog,
    anchored,
    answer_requests,
    other_root_at,
    root_at,
)
from tlog_log import ORIGIN
from verispect.core.errors import Error, NetworkError, Reason, StoreError, VerificationError
from verispect.ledger.anchor import publish
from verispect.ledger.anchor.chain import Chain, Fees
from verispect.ledger.anchor.development_chain import DevelopmentProvider
from verispect.ledger.anchor.intents import IntentStore
from verispect.ledger.anchor.transactions import Patience

__all__ = ["anchored"]

KILLED = 87
STEPS = ("deploy", "register", "publish")
TRANSACTIONS = len(STEPS)


def work(log: AnchoredLog) -> None:
    """Everything that an operator does, once."""
    log.set_up()
    log.publish(7)


def assert_all_is_there_once(log: AnchoredLog) -> None:
    work(log)
    assert log.chain.next_nonce(log.operator.address) == TRANSACTIONS
    assert [each.size for each in log.auditor().audit(root_at)] == [7]
    assert log.store.open_intents() == []


# -- The process is killed ----------------------------------------------------------------------


def _killer(step: int, before: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    calls = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*values: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1 and before:
                os._exit(KILLED)
            result = real(*values, **named)
            if calls == step + 1:
                os._exit(KILLED)
            return result

        return wrapped

    return wrap


@pytest.mark.parametrize("step", range(TRANSACTIONS), ids=STEPS)
@pytest.mark.parametrize(
    ("owner", "method", "before"),
    [
        (IntentStore, "begin", True),
        (IntentStore, "begin", False),
        (DevelopmentProvider, "send", False),
        (Chain, "submit", False),
        (IntentStore, "finish", True),
        (IntentStore, "finish", False),
    ],
    ids=[
        "before the intent",
        "between intent and sending",
        "with the transaction in a block that nobody was told of",
        "between sending and recording",
        "before the record",
        "after the record",
    ],
)
def test_a_kill_at_any_step_neither_loses_nor_doubles(
    tmp_path: Path, owner: type, method: str, before: bool, step: int
) -> None:
    """The process dies for real, its successor goes on with what lies on the disk."""
    child = os.fork()
    if child == 0:
        try:
            log = AnchoredLog(tmp_path / "state", Chain.development(tmp_path / "chain"))
            wrapped = _killer(step, before)(getattr(owner, method))
            setattr(owner, method, wrapped)
            work(log)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED, "the step was never reached"
    log = AnchoredLog(tmp_path / "state", Chain.development(tmp_path / "chain"))
    assert_all_is_there_once(log)
    log.store.close()


# -- The node fails -----------------------------------------------------------------------------


class _FailingNode:
    """Loses one request, before or after it took effect."""

    def __init__(self, chain: Chain, at: int, *, persisted: bool) -> None:
        self.requests = 0
        self._at = at
        self._persisted = persisted
        self._chain = chain
        self._real = chain.web3.provider.make_request
        answer_requests(chain, self._request)

    def _request(self, method: Any, params: Any) -> Any:
        # Of reading nothing persists: only sending is lost in both ways.
        if self._persisted and method != "eth_sendRawTransaction":
            return self._real(method, params)
        self.requests += 1
        if self.requests == self._at and not self._persisted:
            raise RequestsConnectionError
        answer = self._real(method, params)
        if self.requests == self._at:
            raise RequestsConnectionError
        return answer

    def heal(self) -> None:
        answer_requests(self._chain, self._real)


@pytest.mark.slow
@pytest.mark.parametrize(
    "persisted", [False, True], ids=["not persisted", "persisted, then failed"]
)
def test_a_request_lost_at_any_point_neither_loses_nor_doubles(
    tmp_path: Path, persisted: bool
) -> None:
    """Each single request of the whole work is lost in turn; the work is then done once."""
    lost = 0
    for at in range(1, 1000):
        log = AnchoredLog(tmp_path / str(at))
        node = _FailingNode(log.chain, at, persisted=persisted)
        try:
            work(log)
        except NetworkError:
            lost += 1
        node.heal()
        log.restart()
        assert_all_is_there_once(log)
        log.store.close()
        if node.requests < at:
            break
    assert lost == at - 1
    assert lost == TRANSACTIONS if persisted else lost > 30


def test_a_transaction_that_the_network_drops_is_sent_again_and_paid_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stuck below the market, the same nonce is offered more, and only one of them is taken."""
    patience = Patience(deadline_seconds=60, resend_seconds=-1)
    log = AnchoredLog(tmp_path, patience=patience)
    log.set_up()
    real, dropped, market = log.chain.submit, [], log.chain.fees()

    def submit(raw: bytes, transaction_hash: bytes) -> None:
        if len(dropped) < 3:
            dropped.append(transaction_hash)
        else:
            real(raw, transaction_hash)

    monkeypatch.setattr(log.chain, "submit", submit)
    monkeypatch.setattr(
        log.chain, "fees", lambda: Fees(market.maximum * (1 + len(dropped)), market.priority)
    )
    log.publish(7)
    (done, *_) = log.store.done_intents()
    assert len(set(dropped)) == 3
    assert len(done.attempts) >= 4
    assert {attempt.nonce for attempt in done.attempts} == {2}
    fees = [attempt.fees.maximum for attempt in done.attempts]
    assert fees == sorted(set(fees))
    assert log.chain.next_nonce(log.operator.address) == TRANSACTIONS
    log.store.close()


def test_what_was_signed_before_a_crash_is_paid_at_today_s_price(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node refuses the kept bytes as too cheap: its nonce is offered at the market's price."""
    with monkeypatch.context() as patch:
        patch.setattr(anchored.chain, "submit", lambda raw, transaction_hash: None)
        with pytest.raises(NetworkError):
            anchored.publish(7)
    (meant,) = anchored.store.open_intents()
    cheap = meant.attempts[0]
    market = Fees(cheap.fees.maximum * 3, cheap.fees.priority)
    real = anchored.chain.submit

    def submit(raw: bytes, transaction_hash: bytes) -> None:
        if transaction_hash == cheap.hash:
            raise NetworkError("too cheap", reason=Reason.CHAIN_FAILED)
        real(raw, transaction_hash)

    monkeypatch.setattr(anchored.chain, "fees", lambda: market)
    monkeypatch.setattr(anchored.chain, "submit", submit)
    anchored.restart()
    anchored.publish(7)
    (done, *_) = anchored.store.done_intents()
    assert [attempt.nonce for attempt in done.attempts] == [cheap.nonce] * 2
    assert done.attempts[1].fees.maximum >= market.maximum


def test_a_node_that_refuses_at_any_price_is_not_asked_for_ever(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more money changes nothing, the refusal is the answer and the intent stays."""

    def submit(raw: bytes, transaction_hash: bytes) -> None:
        raise NetworkError("no", reason=Reason.CHAIN_FAILED)

    with monkeypatch.context() as patch:
        patch.setattr(anchored.chain, "submit", submit)
        with pytest.raises(NetworkError) as caught:
            anchored.publish(7)
    assert caught.value.reason is Reason.CHAIN_FAILED
    assert len(anchored.store.open_intents()) == 1
    anchored.publish(7)


def test_a_transaction_that_never_arrives_stays_meant(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the deadline the answer is "not yet"; the next run sends the same bytes."""
    with monkeypatch.context() as patch:
        patch.setattr(anchored.chain, "submit", lambda raw, transaction_hash: None)
        with pytest.raises(NetworkError) as caught:
            anchored.publish(7)
    assert caught.value.reason is Reason.CHAIN_UNCONFIRMED
    (meant,) = anchored.store.open_intents()
    anchored.restart()
    anchored.publish(7)
    (done, *_) = anchored.store.done_intents()
    assert done.attempts == meant.attempts


# -- The disk fails -----------------------------------------------------------------------------


def test_nothing_is_sent_that_could_not_be_written_down(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the chain is not touched."""
    sent = anchored.chain.next_nonce(anchored.operator.address)
    # SQLite's own limit stands for the disk's: the next page that is needed is refused.
    anchored.store._connection.execute("PRAGMA max_page_count = 1")
    for size in range(1, 200):
        try:
            anchored.publish(size)
        except StoreError:
            break
        sent += 1
    assert size < 199
    assert anchored.chain.next_nonce(anchored.operator.address) == sent
    anchored.restart()
    anchored.publish(200)


def test_an_outcome_that_could_not_be_written_is_found_again(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent, taken, and the record lost: the next run finds the transaction and sends nothing."""

    with monkeypatch.context() as patch:
        patch.setattr(
            anchored.store,
            "finish",
            _cannot_write,
        )
        with pytest.raises(StoreError):
            anchored.publish(7)
    sent = anchored.chain.next_nonce(anchored.operator.address)
    anchored.restart()
    anchored.publish(7)
    assert anchored.chain.next_nonce(anchored.operator.address) == sent
    assert anchored.store.open_intents() == []


def _cannot_write(*_: Any) -> None:
    raise StoreError("cannot write", reason=Reason.STORE_FAILED)


# -- Two by mistake -----------------------------------------------------------------------------


def test_of_two_publishers_with_one_key_the_chain_takes_one(anchored: AnchoredLog) -> None:
    """A copy of the machine that anchors another tree is refused by the contract."""
    copy = AnchoredLog(anchored.directory.parent / "copy", anchored.chain)
    copy.reference, copy.contract = anchored.reference, anchored.contract
    anchored.publish(7)
    with pytest.raises(VerificationError) as caught:
        publish.publish(copy.sender, copy.reference, 7, other_root_at(7))
    assert caught.value.reason is Reason.ANCHOR_CONFLICT
    copy.publish(9)
    anchored.publish(11)
    assert [each.size for each in anchored.auditor().audit(root_at)] == [11, 9, 7]
    copy.store.close()


def test_a_race_between_two_publishers_ends_with_one_root(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival's transaction comes in after ours was signed: ours is refused, visibly."""
    rival = AnchoredLog(anchored.directory.parent / "rival", anchored.chain)
    rival.reference, rival.contract = anchored.reference, anchored.contract
    real = anchored.store.begin

    def begin(*values: Any) -> Any:
        intent = real(*values)
        rival.publish(7)
        return intent

    monkeypatch.setattr(anchored.store, "begin", begin)
    with pytest.raises(VerificationError) as caught:
        publish.publish(anchored.sender, anchored.reference, 7, other_root_at(7))
    assert caught.value.reason is Reason.CHAIN_REVERTED
    assert anchored.store.open_intents() == []
    assert [each.size for each in rival.auditor().audit(root_at)] == [7]
    rival.store.close()


def test_every_failure_is_one_of_our_own_errors(anchored: AnchoredLog) -> None:
    """A node that answers nonsense is "could not tell", whatever the nonsense is."""
    real = anchored.chain.web3.provider.make_request
    for answer in (
        {"id": 1, "jsonrpc": "2.0", "result": None},
        {"id": 1, "jsonrpc": "2.0", "result": "0x"},
        {"id": 1, "jsonrpc": "2.0", "result": {}},
        {"id": 1, "jsonrpc": "2.0", "result": []},
        {"id": 1, "jsonrpc": "2.0", "result": -1},
        {"id": 1, "jsonrpc": "2.0", "error": {"code": -32000, "message": "key secret"}},
        {"id": 1, "jsonrpc": "2.0", "error": "nonsense"},
        {"id": 1},
        {},
        [],
    ):
        answer_requests(anchored.chain, lambda method, params, answer=answer: answer)
        for attempt in (
            lambda: anchored.auditor().check(7, root_at(7)),
            lambda: anchored.publish(7),
            lambda: publish.register(
                anchored.sender, anchored.reference.contract, origin=ORIGIN, log_key=LOG_KEY
            ),
        ):
            with pytest.raises(Error) as caught:
                attempt()
            assert "secret" not in str(caught.value)
    answer_requests(anchored.chain, real)
    anchored.restart()
    anchored.publish(7)
