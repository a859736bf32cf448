"""The operator dies at every step of delivering evidence, taking verdicts and admitting a miss.

One receipt's proof comes, one receipt's is withheld, one is audited by two nodes. Whichever change
fails, before or after it was made, and also where the process is killed by SIGKILL at that very
call: what is done again ends in the same log, audited and replayed, with every leaf in it once.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from log_faults import Faults, FaultyBook, FaultyState, FaultyTiles, in_child
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
from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError
from verispect.core.receipt import InferenceReceipt
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.status_table import State

RECEIPTS = [
    promising(1, promise("proof")),
    promising(2, promise("proof")),
    promising(3, promise("verdicts")),
]
DIGESTS = [InferenceReceipt.parse(each).receipt_id for each in RECEIPTS]
PAST = DUE + MISSED_AFTER + 1

STEPS = 54
"""Changes of one run; `test_the_steps_are_all_tried` holds it."""

CLOCK = "clock"
"""The file that keeps how far a run is: its clock must not fall when the process is killed."""


class Run:
    """The operator's work, in stages that are begun again until they end."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self.operator = Promiser(folder)
        self.faults = faults
        self.operator.state = FaultyState(self.operator.state, faults)
        self.operator.tiles = FaultyTiles(self.operator.tiles, faults)
        self.operator.book = FaultyBook(self.operator.book, faults)
        self.operator.attach()
        self.clock = folder / CLOCK

    def go(self) -> None:
        stages = [
            (SIGNED_AT, self.operator.turn),
            (SIGNED_AT + 1, self.prove),
            (SIGNED_AT + 2, lambda: self.judge("node-a")),
            (SIGNED_AT + 3, lambda: self.judge("node-b")),
            (PAST, self.operator.turn),
        ]
        reached = int(self.clock.read_text()) if self.clock.exists() else 0
        for at, stage in stages:
            if at >= reached:
                self.clock.write_text(str(at))
                self.operator.now = at
                self.until_done(stage)

    def until_done(self, stage) -> None:
        for _ in range(2):
            try:
                stage()
            except StoreError as error:
                if error.message != "injected":
                    raise
            else:
                return
        raise AssertionError("one fault made two failures")

    def prove(self) -> None:
        self.operator.ready.entries[f"{1:032x}"] = an_entry_of()
        self.operator.turn()

    def judge(self, node: str) -> None:
        self.operator.submissions.take(verdict(DIGESTS[2], node))
        self.operator.integrate()


def check(folder: Path) -> bytes:
    """Audit and replay what is there, and return the digest of the table."""
    operator = Promiser(folder)
    operator.integrate()
    first, second, third = operator.statuses(DIGESTS)
    assert (first.state, third.state) == (State.MET, State.MET)
    assert (second.state, second.reason) == (State.FAILED, Reason.EVIDENCE_OVERDUE)
    kinds = Counter(type(decode_leaf(leaf)).__name__ for leaf in operator.leaves())
    assert kinds == {
        "ReceiptLeaf": 3,
        "LateEvidenceLeaf": 1,
        "MissedDeadlineLeaf": 1,
        "SignedLeaf": 2,
    }
    assert operator.submissions.evidence_of(DIGESTS[0]) == [an_entry_of()]
    assert [each.kind for each in operator.submissions.evidence_of(DIGESTS[2])] == ["verdicts"]
    assert operator.book.due(PAST * 2, 10) == []
    table = operator.table()
    operator.close()
    return Digest(table.digest())


@pytest.fixture(scope="module")
def issued(tmp_path_factory) -> Path:
    """A gateway's receipts, to be copied."""
    folder = tmp_path_factory.mktemp("issued")
    operator = Promiser(folder)
    assert operator.issue(*RECEIPTS) == DIGESTS
    operator.close()
    return folder / "receipts"


@pytest.fixture(scope="module")
def expected(issued, tmp_path_factory) -> bytes:
    """The table of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(issued, folder / "receipts")
    Run(folder, Faults(0, "never")).go()
    return check(folder)


def test_the_steps_are_all_tried(issued, tmp_path):
    """A run without faults makes as many changes as the other tests let fail."""
    shutil.copytree(issued, tmp_path / "receipts")
    run = Run(tmp_path, Faults(0, "never"))
    run.go()
    assert run.faults.calls == STEPS


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_change_that_fails_is_made_again_and_once(issued, expected, tmp_path, how):
    """Whichever change fails, and whether it was made or not, the log is the same in the end."""
    for at in range(1, STEPS + 1):
        folder = tmp_path / str(at)
        shutil.copytree(issued, folder / "receipts")
        Run(folder, Faults(at, how)).go()
        assert check(folder) == expected


@pytest.mark.parametrize("how", ["kill before", "kill after"])
def test_an_operator_that_is_killed_at_any_step_goes_on(issued, expected, tmp_path, how):
    """After SIGKILL at any change the next process ends with the same log."""
    for at in range(1, STEPS + 1):
        folder = tmp_path / str(at)
        shutil.copytree(issued, folder / "receipts")
        work = lambda folder=folder, at=at: Run(folder, Faults(at, how)).go()  # noqa: E731
        assert in_child(work) == signal.SIGKILL
        Run(folder, Faults(0, "never")).go()
        assert check(folder) == expected
