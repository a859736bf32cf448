"""What this operator's own history says of latency and of proofs: measured, or not measured yet.

Figures are derived from what is stored anyway, the newest receipts and the finished proofs, so that
they survive a restart and nobody can set them. Answers are told apart by model and required policy.
This module refuses to estimate: what never ran has no figure.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import Error
from verispect.core.receipt import InferenceReceipt
from verispect.ledger.proof_jobs import JobState
from verispect.ledger.schema import open_reader, store_error

MAX_SAMPLES: Final = 256
"""The newest so many count."""
MAX_READ: Final = 4096
"""Receipts that one look reads; of more that came since the last one, the newest."""
_MAX_SUBJECTS: Final = 1024
_INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True)
class Spread:
    """How measurements spread."""

    samples: int
    median: int
    high: int
    """19 of 20 are at most this."""

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread | None:
        """Return the spread of values, none where there are none."""
        ranked = sorted(values)
        if not ranked:
            return None
        count = len(ranked)
        return cls(
            count, ranked[(count - 1) // 2], ranked[min(count - 1, -(-count * 19 // 20) - 1)]
        )

    def to_json(self) -> dict[str, int]:
        """Return the form shown to callers."""
        return {"samples": self.samples, "median": self.median, "high": self.high}


@dataclass(frozen=True, slots=True)
class MeasuredProofs:
    """The promised proofs of one model."""

    milliseconds: Spread | None
    """From the request to the finished proof, waiting included; none where none was finished."""
    octets: Spread | None
    missed: int
    """Of the newest promised proofs, how many failed or came late."""
    promised: int


class MeasuredHistory:
    """Reads one gateway's stores; safe to use from several threads.

    Args:
        receipts: the receipt store's database.
        proofs: the queue of proofs; need not exist.
    """

    def __init__(self, receipts: Path, proofs: Path) -> None:
        self._receipts = receipts
        self._proofs = proofs
        self._lock = threading.Lock()
        self._entry = -1
        self._answers: OrderedDict[tuple[Digest, Digest], deque[int]] = OrderedDict()

    def answers(self, model: Digest, assurance: Digest) -> Spread | None:
        """Return milliseconds from request to answer of a model under a policy.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        with self._lock:
            self._follow()
            return Spread.of(self._answers.get((model, assurance), ()))

    def proofs(self, model: str) -> MeasuredProofs | None:
        """Return what the proofs of a served model took; nothing where none was due yet.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        if not self._proofs.exists():
            return None
        done = self._query(
            self._proofs,
            "SELECT finished_at - created_at, length(proofs.proof) FROM promises"
            " JOIN proofs ON proofs.number = promises.proof"
            " WHERE state = ? AND promises.model = ? ORDER BY due_at DESC LIMIT ?",
            (JobState.DONE, model, MAX_SAMPLES),
        )
        states = self._query(
            self._proofs,
            "SELECT state FROM promises WHERE promises.model = ? AND state IN (?, ?, ?)"
            " ORDER BY due_at DESC LIMIT ?",
            (model, JobState.DONE, JobState.FAILED, JobState.LATE, MAX_SAMPLES),
        )
        milliseconds = Spread.of(max(0, row[0]) for row in done)
        octets = Spread.of(row[1] for row in done)
        if not states:
            return None
        missed = sum(1 for (state,) in states if state != JobState.DONE)
        return MeasuredProofs(milliseconds, octets, missed, len(states))

    def _follow(self) -> None:
        rows = self._query(
            self._receipts,
            "SELECT entry, receipt FROM receipts WHERE entry > ? ORDER BY entry DESC LIMIT ?",
            (self._entry, MAX_READ),
        )
        for entry, data in reversed(rows):
            self._entry = entry
            try:
                statement = InferenceReceipt.parse(data).unverified_statement
            except Error:
                continue  # Of a version that this one does not know.
            if _INTERRUPTED in statement.finish_reasons:
                continue
            key = statement.model.model_id, statement.assurance
            taken = self._answers.setdefault(key, deque(maxlen=MAX_SAMPLES))
            taken.append(max(0, statement.completed_at - statement.received_at))
            self._answers.move_to_end(key)
            if len(self._answers) > _MAX_SUBJECTS:
                self._answers.popitem(last=False)

    def _query(self, database: Path, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            with closing(open_reader(database)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise store_error("read what was measured", error) from error
