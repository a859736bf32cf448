"""What receipts promised for later, until it came or was missed: the operator's own book of it.

Promises are noted from receipts before the log accepts these, so that none is in the log unwatched.
`PromiseKeeper` brings evidence that is ready to the log and, where a deadline passed without it,
writes the leaf that says so: an operator admits what it did not keep, and does not wait to be told.

Each step may be repeated after a crash: evidence that is delivered twice is one leaf, and the time
at which a miss was noted is on disk before its leaf. The book decides nothing about a receipt: its
status is a function of the log alone. It refuses promises of kind `log`, which the receipt's own
leaf keeps.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from verispect.core.claims import Claim
from verispect.core.encoding import Digest
from verispect.core.envelope import open_envelope
from verispect.core.errors import Error
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.interface import EvidenceRecord, LogState, TileStore
from verispect.ledger.log.sources import submit
from verispect.ledger.log.submission import NODE_VERDICT_KIND
from verispect.ledger.schema import open_writer, store_error
from verispect.tlog.leaf import LateEvidenceLeaf, MissedDeadlineLeaf
from verispect.tlog.status import LOG_KIND, REEXECUTION_SOURCES, VERDICTS_KIND
from verispect.tlog.status_table import NodePolicy
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict, Outcome

MISSED_AFTER_MILLISECONDS: Final = 5_000
"""How long after a deadline evidence that came in time may still be on its way into the log."""

MAX_WATCHED: Final = 256
"""Promises of each sort that one turn looks at."""

BUSY_MILLISECONDS: Final = 30_000

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS promises (
  receipt BLOB NOT NULL,
  kind TEXT NOT NULL,
  inference TEXT NOT NULL,
  due_at INTEGER NOT NULL,
  pieces INTEGER NOT NULL,
  noted_at INTEGER,
  PRIMARY KEY (receipt, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS promises_by_deadline ON promises (due_at);
CREATE TABLE IF NOT EXISTS progress (
  one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL
) STRICT;
"""
_COLUMNS: Final = "receipt, kind, inference, due_at, pieces"


class Promise(NamedTuple):
    """Evidence of one kind that a receipt promised."""

    receipt: Digest
    kind: str
    inference: str
    """As the envelope names it."""
    due_at: int
    """The latest deadline among the promises of the kind: that one counts."""
    pieces: int
    """How many pieces of evidence."""


def promises_of(receipt: InferenceReceipt) -> list[Promise]:
    """Return what a receipt promised for later, by kind."""
    open_kinds: dict[str, list[int]] = {}
    for each in receipt.unverified_statement.evidence:
        if each.digest is None and each.due_at is not None and each.kind != LOG_KIND:
            open_kinds.setdefault(each.kind, []).append(each.due_at)
    return [
        Promise(receipt.receipt_id, kind, receipt.claimed_inference, max(due), len(due))
        for kind, due in open_kinds.items()
    ]


class PromiseBook:
    """The open promises of one log's receipts, in one file; used from one thread at a time.

    Args:
        database: the file, made where there is none.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """

    def __init__(self, database: Path) -> None:
        self._connection = open_writer(database, busy_milliseconds=BUSY_MILLISECONDS)
        try:
            self._connection.executescript(_TABLES)
        except sqlite3.Error as error:
            raise store_error("open the book of promises", error) from error

    def position(self) -> int:
        """Return up to which receipt of the outbox promises were noted."""
        rows = self._execute("SELECT position FROM progress")
        return int(rows[0][0]) if rows else 0

    def receipts(self, receipts: Sequence[InferenceReceipt], *, position: int) -> None:
        """Note what receipts promised, and how far the outbox was read; durable on return.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        promises = [promise for receipt in receipts for promise in promises_of(receipt)]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                f"INSERT OR IGNORE INTO promises ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                promises,
            )
            self._connection.execute(
                "INSERT INTO progress VALUES (1, ?)"
                " ON CONFLICT (one) DO UPDATE SET position = max(position, excluded.position)",
                (position,),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise store_error("note promises", error) from error

    def due(self, before: int, limit: int) -> list[Promise]:
        """Return promises whose deadline was before a time, the oldest first."""
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM promises WHERE due_at < ? ORDER BY due_at, receipt LIMIT ?",  # noqa: S608
            (before, limit),
        )
        return [Promise(*row) for row in rows]

    def of_kinds(self, kinds: Sequence[str], after: bytes, limit: int) -> list[Promise]:
        """Return promises of these kinds whose receipt comes after `after`, in their order."""
        marks = ", ".join("?" * len(kinds))
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM promises WHERE kind IN ({marks}) AND receipt > ?"  # noqa: S608
            " ORDER BY receipt LIMIT ?",
            (*kinds, after, limit),
        )
        return [Promise(*row) for row in rows]

    def missed(self, promise: Promise, now: int) -> int:
        """Note that a promise was missed, and return when that was noted first."""
        rows = self._execute(
            "UPDATE promises SET noted_at = coalesce(noted_at, ?) WHERE receipt = ? AND kind = ?"
            " RETURNING noted_at",
            (now, promise.receipt, promise.kind),
        )
        return int(rows[0][0]) if rows else now

    def close_promise(self, promise: Promise) -> None:
        """Take a promise out: the log has what there is to say of it."""
        self._execute(
            "DELETE FROM promises WHERE receipt = ? AND kind = ?", (promise.receipt, promise.kind)
        )

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise store_error("use the book of promises", error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


class LateEvidenceSource(Protocol):
    """Where the operator's own late evidence of one kind is, once it was made."""

    def find(self, inference: str) -> EvidenceEntry | None:
        """Return the evidence of an inference, or `None` while there is none.

        Raises:
            Error: it cannot be read.
        """
        ...


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class PromiseKeeper:
    """Delivers what was promised and admits what was missed, as a `Source` of the log.

    Args:
        book: the promises.
        tiles: where evidence is kept.
        evidence: by kind, where evidence comes from that this operator makes.
        auditors: whose verdicts keep a promise of kind `verdicts`.
        clock: milliseconds since the epoch.
        missed_after: milliseconds after a deadline before it counts as missed.
    """

    def __init__(
        self,
        book: PromiseBook,
        tiles: TileStore,
        *,
        evidence: Mapping[str, LateEvidenceSource],
        auditors: NodePolicy,
        clock: Callable[[], int] = _wall_clock,
        missed_after: int = MISSED_AFTER_MILLISECONDS,
    ) -> None:
        self._book = book
        self._tiles = tiles
        self._sources = evidence
        self._auditors = auditors
        self._clock = clock
        self._missed_after = missed_after
        self._looked_at = b""

    def follow(self, state: LogState) -> int:
        """Deliver and admit what there is, and return how many leaves that made.

        Raises:
            Error: the first failure, after everything else was tried.
        """
        made = 0
        failure: Error | None = None
        for promise, is_due in self._watched(state):
            try:
                made += self._look(state, promise, is_due=is_due)
            except Error as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return made

    def _watched(self, state: LogState) -> list[tuple[Promise, bool]]:
        """Return promises to look at whose receipts are in the log, and whether each is missed."""
        due = self._book.due(self._clock() - self._missed_after, MAX_WATCHED)
        ready: list[Promise] = []
        if self._sources:
            # Not the same ones every time: those that wait longest are no nearer than others.
            ready = self._book.of_kinds([*self._sources], self._looked_at, MAX_WATCHED)
            self._looked_at = ready[-1].receipt if len(ready) == MAX_WATCHED else b""
        is_due = dict.fromkeys(ready, False) | dict.fromkeys(due, True)
        known = state.find([promise.receipt for promise in is_due])
        return [row for row, index in zip(is_due.items(), known, strict=True) if index is not None]

    def _look(self, state: LogState, promise: Promise, *, is_due: bool) -> int:
        evidence = EvidenceStore(self._tiles, state)
        made = 0
        source = self._sources.get(promise.kind)
        entry = None if source is None else source.find(promise.inference)
        if entry is not None and entry.kind == promise.kind:
            leaf = evidence.deliver(promise.receipt, entry, clock=self._clock)
            made += _append(state, leaf.encode())
        elif not is_due:
            return 0
        records = state.evidence_of(promise.receipt)
        if promise.kind == VERDICTS_KIND:
            kept = self._affirmed(evidence, records)
        else:
            timely = [
                each
                for each in records
                if each.kind == promise.kind and each.delivered_at <= promise.due_at
            ]
            # Whoever delivered may have died before the leaf; it is the same leaf.
            made += sum(_append(state, _leaf_of(each)) for each in timely)
            kept = len(timely) >= promise.pieces
        if not kept and is_due:
            noted_at = self._book.missed(promise, max(self._clock(), promise.due_at + 1))
            leaf_of_miss = MissedDeadlineLeaf(
                promise.receipt, promise.kind, promise.due_at, noted_at
            )
            made += _append(state, leaf_of_miss.encode())
        if kept or is_due:
            self._book.close_promise(promise)
        return made

    def _affirmed(self, evidence: EvidenceStore, records: Sequence[EvidenceRecord]) -> bool:
        """Tell whether enough listed nodes found the execution good."""
        names = set()
        for record in records:
            blob = evidence.get(record.evidence) if record.kind == NODE_VERDICT_KIND else None
            if blob is None:
                continue
            envelope = open_envelope(blob, content_type=VERDICT_TYPE)
            node = self._auditors.author(envelope)
            if node is not None and _affirms(NodeVerdict.decode(envelope.payload)):
                names.add(node.name)
        return 0 < self._auditors.threshold <= len(names)

    def close(self) -> None:
        """Let go of the book."""
        self._book.close()


def _append(state: LogState, leaf: bytes) -> int:
    (placed,) = submit(state, [leaf])
    return int(placed.is_new)


def _leaf_of(record: EvidenceRecord) -> bytes:
    return LateEvidenceLeaf(
        record.receipt, record.kind, record.evidence, record.size, record.delivered_at
    ).encode()


def _affirms(verdict: NodeVerdict) -> bool:
    return any(
        found.claim is Claim.EXECUTION
        and found.outcome is Outcome.AFFIRMED
        and found.source in REEXECUTION_SOURCES
        for found in verdict.findings
    )
