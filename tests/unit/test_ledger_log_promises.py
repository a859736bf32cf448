"""What an operator promised: brought to the log when it is there, admitted when it was missed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from log_promises import (
    DUE,
    MISSED_AFTER,
    Promiser,
    an_entry_of,
    promise,
    promising,
    verdict,
)
from log_receipts import SIGNED_AT
from verispect.core.encoding import sha256
from verispect.core.errors import Reason, StoreError, VerificationError
from verispect.ledger.log.promises import PromiseBook
from verispect.tlog.leaf import LateEvidenceLeaf, MissedDeadlineLeaf, decode_leaf
from verispect.tlog.status_table import State

PAST = DUE + MISSED_AFTER + 1


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Promiser]:
    operator = Promiser(tmp_path)
    yield operator
    operator.close()


def inference(sequence: int) -> str:
    return f"{sequence:032x}"


def test_evidence_that_is_ready_reaches_the_log_once(operator):
    """A receipt whose promised proof was made is met, and the proof is there for everyone."""
    (receipt,) = operator.issue(promising(1, promise("proof")))
    operator.turn()
    assert operator.statuses([receipt])[0].state is State.PENDING
    operator.ready.entries[inference(1)] = an_entry_of()
    for later in (1_000, 2_000, PAST - SIGNED_AT):
        operator.turn(SIGNED_AT + later)
    assert operator.statuses([receipt])[0].state is State.MET
    (leaf,) = [decode_leaf(each) for each in operator.leaves()][1:]
    assert isinstance(leaf, LateEvidenceLeaf)
    assert (leaf.evidence, leaf.delivered_at) == (an_entry_of().digest(), SIGNED_AT + 1_000)
    assert operator.submissions.evidence_of(receipt) == [an_entry_of()]


def test_a_deadline_that_passed_is_admitted_once(operator):
    """Without evidence the operator's own leaf fails the receipt; nobody has to find it out."""
    (receipt,) = operator.issue(promising(1, promise("proof")))
    operator.turn(DUE + MISSED_AFTER)
    assert operator.statuses([receipt])[0].state is State.PENDING
    for now in (PAST, PAST + 1_000, PAST + 2_000):
        operator.turn(now)
    status = operator.statuses([receipt])[0]
    assert (status.state, status.reason) == (State.FAILED, Reason.EVIDENCE_OVERDUE)
    assert [decode_leaf(each) for each in operator.leaves()][1:] == [
        MissedDeadlineLeaf(receipt, "proof", DUE, PAST)
    ]


def test_evidence_that_came_too_late_is_kept_and_still_missed(operator):
    """What comes after its deadline is there to read, and does not save the receipt."""
    (receipt,) = operator.issue(promising(1, promise("proof")))
    operator.turn()
    operator.ready.entries[inference(1)] = an_entry_of()
    operator.turn(DUE + 1)
    operator.turn(PAST)
    assert operator.statuses([receipt])[0].reason is Reason.EVIDENCE_OVERDUE
    assert operator.submissions.evidence_of(receipt) == [an_entry_of()]
    assert len(operator.leaves()) == 3


def test_every_piece_that_was_promised_counts(operator):
    """Two pieces of a kind were promised and one came: that is a promise missed."""
    (receipt,) = operator.issue(promising(1, promise("proof", DUE - 1), promise("proof")))
    operator.ready.entries[inference(1)] = an_entry_of()
    operator.turn()
    operator.turn(PAST)
    assert operator.statuses([receipt])[0].reason is Reason.EVIDENCE_OVERDUE


def test_verdicts_of_enough_nodes_keep_their_promise(operator):
    """k listed nodes are enough, one fewer is a deadline missed."""
    two, one = operator.issue(promising(1, promise("verdicts")), promising(2, promise("verdicts")))
    operator.turn()
    for receipt, node in ((two, "node-a"), (two, "node-b"), (one, "node-a")):
        operator.submissions.take(verdict(receipt, node))
    operator.turn(PAST)
    kept, missed = operator.statuses([two, one])
    assert kept.state is State.MET
    assert (missed.state, missed.reason) == (State.FAILED, Reason.EVIDENCE_OVERDUE)
    leaves = [decode_leaf(each) for each in operator.leaves()]
    assert [each.receipt for each in leaves if isinstance(each, MissedDeadlineLeaf)] == [one]


def test_evidence_that_somebody_else_delivered_counts(operator):
    """Evidence of a kind that this operator's log does not make itself keeps a promise too."""
    (receipt,) = operator.issue(promising(1, promise("audit-report")))
    operator.turn()
    operator.submissions.deliver(receipt, an_entry_of("audit-report"))
    operator.turn(PAST)
    assert operator.statuses([receipt])[0].state is State.MET
    assert len(operator.leaves()) == 2


def test_no_receipt_is_in_the_log_unwatched(operator):
    """Promises are noted first, and nothing is delivered for a receipt that the log has not."""
    operator.issue(promising(1, promise("proof")))
    operator.ready.entries[inference(1)] = an_entry_of()

    class Unwilling:
        def __getattr__(self, name):
            return getattr(operator.state, name)

        def accept(self, entries, *, cursor=None):
            raise StoreError("injected", reason=Reason.STORE_FAILED)

    with pytest.raises(StoreError, match="injected"):
        operator.outbox.follow(Unwilling())
    assert operator.book.position() == 1
    assert operator.keeper.follow(operator.state) == 0
    operator.turn()
    assert len(operator.leaves()) == 2


def test_a_book_that_was_lost_is_written_again(operator):
    """Without its book the operator reads its receipts again, and goes on watching."""
    receipts = operator.issue(promising(1, promise("proof")), promising(2, promise("proof")))
    operator.turn()
    operator.book.close()
    (operator.folder / "promises.sqlite3").unlink()
    for suffix in ("-wal", "-shm"):
        (operator.folder / f"promises.sqlite3{suffix}").unlink(missing_ok=True)
    operator.open()
    operator.ready.entries[inference(2)] = an_entry_of()
    operator.turn(SIGNED_AT + 1)
    operator.turn(PAST)
    missed, met = operator.statuses(receipts)
    assert (missed.reason, met.state) == (Reason.EVIDENCE_OVERDUE, State.MET)


def test_evidence_that_cannot_be_read_holds_up_no_other(operator):
    """The failure shows, the other promises are kept, and the damaged one is missed in the end."""
    broken, whole = operator.issue(promising(1, promise("proof")), promising(2, promise("proof")))
    operator.turn()
    operator.ready.entries[inference(2)] = an_entry_of()
    found = operator.ready.find

    def find(name):
        if name == inference(1):
            raise StoreError("the queue is damaged", reason=Reason.STORE_FAILED)
        return found(name)

    operator.ready.find = find
    with pytest.raises(StoreError, match="damaged"):
        operator.keeper.follow(operator.state)
    operator.ready.find = found
    operator.turn(PAST)
    failed, met = operator.statuses([broken, whole])
    assert (failed.reason, met.state) == (Reason.EVIDENCE_OVERDUE, State.MET)


def test_a_promise_of_the_log_itself_is_not_watched(operator):
    """The receipt's own leaf keeps it."""
    operator.issue(promising(1, promise("log")))
    operator.turn(PAST)
    assert operator.book.due(PAST * 2, 10) == []
    assert len(operator.leaves()) == 1


def test_more_promises_than_one_turn_looks_at_are_all_kept(operator, monkeypatch):
    """Nobody's evidence waits for ever behind that of others which is not ready."""
    monkeypatch.setattr("verispect.ledger.log.promises.MAX_WATCHED", 3)
    receipts = operator.issue(*(promising(n, promise("proof")) for n in range(1, 11)))
    operator.turn()
    operator.ready.entries[inference(7)] = an_entry_of()
    for _ in range(5):
        operator.turn()
    assert operator.statuses(receipts)[6].state is State.MET
    for _ in range(5):
        operator.turn(PAST)
    assert [row.state for row in operator.statuses(receipts)].count(State.FAILED) == 9


def change(operator: Promiser, data: bytes, receipt_id: bytes) -> None:
    """Write over receipt 2 as somebody with the operator's disk can."""
    with sqlite3.connect(operator.folder / "receipts" / "receipts.sqlite3") as connection:
        connection.execute("DROP TRIGGER receipts_are_not_updated")
        connection.execute(
            "UPDATE receipts SET receipt = ?, receipt_id = ? WHERE entry = 2", (data, receipt_id)
        )
    connection.close()


def test_a_receipt_that_was_changed_on_disk_is_caught_and_not_logged(operator):
    """Neither other bytes, nor other bytes with their digest, get into the log."""
    first, second = promising(1), promising(2)
    operator.issue(first, second)
    forged = bytearray(second)
    forged[-1] ^= 1
    change(operator, bytes(forged), sha256(second))
    with pytest.raises(StoreError) as changed:
        operator.outbox.follow(operator.state)
    assert changed.value.reason is Reason.STORE_FAILED
    with sqlite3.connect(operator.folder / "receipts" / "receipts.sqlite3") as connection:
        connection.execute(
            "UPDATE receipts SET receipt_id = ? WHERE entry = 2", (sha256(bytes(forged)),)
        )
    connection.close()
    with pytest.raises(VerificationError) as unsigned:
        operator.outbox.follow(operator.state)
    assert unsigned.value.reason is Reason.SIGNATURE_INVALID
    assert operator.state.head().sequenced == 0


def test_a_promise_that_was_missed_has_one_time(tmp_path):
    """Noted again after a crash, a miss keeps the time at which it was noted first."""
    book = PromiseBook(tmp_path / "promises.sqlite3")
    operator = Promiser(tmp_path / "log")
    operator.issue(promising(1, promise("proof")))
    operator.outbox.follow(operator.state)
    (row,) = operator.book.due(PAST, 10)
    assert operator.book.missed(row, PAST) == PAST
    assert operator.book.missed(row, PAST + 5) == PAST
    operator.close()
    book.close()
