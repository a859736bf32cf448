"""The durable queue of proofs that were promised: one job per inference, until it is proven.

A job is on disk before the receipt that promises it, and is queued only when that receipt is, so
that no promise lacks its job and no job lacks its promise. A job that ran when the process died is
queued again. Finished jobs keep the evidence and lose the request's input.

This module refuses to run anything, and to let one inference have two proofs.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Error, Reason, StoreError
from verispect.ledger.schema import store_error

MAX_ATTEMPTS: Final = 3
"""How often a job is tried before it has failed."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
  inference_id BLOB PRIMARY KEY,
  model TEXT NOT NULL,
  context BLOB NOT NULL,
  rows INTEGER NOT NULL,
  input BLOB,
  due_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  progress REAL NOT NULL DEFAULT 0,
  finished_at INTEGER,
  detail TEXT,
  entry BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, due_at);
"""


class JobState(StrEnum):
    """Where a job stands."""

    PREPARED = "prepared"
    """On disk; its receipt is not known to be."""
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Tried `MAX_ATTEMPTS` times, or the request cannot be proven."""
    LATE = "late"
    """Not proven by its deadline; it is not tried again."""
    CANCELLED = "cancelled"


FINAL_STATES: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.LATE, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class ProofJob:
    """One promised proof."""

    inference_id: bytes
    model: str
    """The name under which the model is served."""
    context: bytes
    rows: int
    input: bytes
    """The input's octets; empty once the job is finished."""
    due_at: int
    """Milliseconds since the epoch."""
    created_at: int
    state: JobState
    attempts: int
    progress: float
    """From 0 to 1."""
    finished_at: int | None
    detail: str | None
    """Why it failed, in words that hold no content."""
    entry: bytes | None
    """The encoded evidence entry."""


_COLUMNS: Final = (
    "inference_id, model, context, rows, input, due_at, created_at, state, attempts, progress,"
    " finished_at, detail, entry"
)


# Made of constants only.
_NEXT: Final = "SELECT inference_id FROM jobs WHERE state = ? ORDER BY due_at LIMIT 1"
_TAKE: Final = (
    "UPDATE jobs SET state = ?, attempts = attempts + 1, progress = 0"  # noqa: S608
    f" WHERE inference_id = ({_NEXT}) RETURNING {_COLUMNS}"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM jobs WHERE inference_id = ?"  # noqa: S608


class ProofJobs:
    """The queue in one file. Safe to use from several threads and processes.

    Args:
        database: the file.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """

    def __init__(self, database: Path) -> None:
        self._lock = threading.Lock()
        try:
            database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = sqlite3.connect(
                database, timeout=10, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.executescript(_SCHEMA)
        except OSError as error:
            raise StoreError(
                f"cannot keep proof jobs: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        except sqlite3.Error as error:
            raise store_error("open the queue of proofs", error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _execute(self, doing: str, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise store_error(doing, error) from error

    # -- From the request ---------------------------------------------------------------------

    def prepare(
        self,
        inference_id: bytes,
        *,
        model: str,
        context: bytes,
        rows: int,
        input_octets: bytes,
        due_at: int,
        now: int,
    ) -> None:
        """Put a job on disk, before the receipt that promises it.

        Raises:
            StoreError: `store-failed`; nothing may be promised then.
        """
        self._execute(
            "prepare a proof",
            "INSERT INTO jobs (inference_id, model, context, rows, input, due_at, created_at,"
            " state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (inference_id, model, context, rows, input_octets, due_at, now, JobState.PREPARED),
        )

    def release(self, inference_id: bytes) -> None:
        """Queue a prepared job: its receipt is on disk."""
        self._execute(
            "queue a proof",
            "UPDATE jobs SET state = ? WHERE inference_id = ? AND state = ?",
            (JobState.QUEUED, inference_id, JobState.PREPARED),
        )

    def recover(self, has_receipt: Callable[[bytes], bool]) -> None:
        """Put right what a process that died left behind.

        Args:
            has_receipt: tells whether an inference has a receipt.
        """
        prepared = self._execute(
            "read the queue",
            "SELECT inference_id FROM jobs WHERE state = ?",
            (JobState.PREPARED,),
        )
        for (inference_id,) in prepared:
            if has_receipt(inference_id):
                self.release(inference_id)
            else:
                self._execute(
                    "drop a job", "DELETE FROM jobs WHERE inference_id = ?", (inference_id,)
                )
        self._execute(
            "queue interrupted proofs",
            "UPDATE jobs SET state = ?, progress = 0 WHERE state = ?",
            (JobState.QUEUED, JobState.RUNNING),
        )

    # -- For the prover -----------------------------------------------------------------------

    def take(self, now: int) -> ProofJob | None:
        """Return the job whose deadline is nearest, now running; jobs past theirs become late."""
        self._execute(
            "note late proofs",
            "UPDATE jobs SET state = ?, finished_at = ?, input = NULL,"
            " detail = 'not proven by the deadline' WHERE state = ? AND due_at < ?",
            (JobState.LATE, now, JobState.QUEUED, now),
        )
        rows = self._execute(
            "take a proof",
            _TAKE,
            (JobState.RUNNING, JobState.QUEUED),
        )
        return _job(rows[0]) if rows else None

    def report(self, inference_id: bytes, progress: float) -> bool:
        """Note how far a running job is; `False` where it was cancelled."""
        found = self._execute(
            "note the progress of a proof",
            "UPDATE jobs SET progress = ? WHERE inference_id = ? AND state = ?"
            " RETURNING inference_id",
            (progress, inference_id, JobState.RUNNING),
        )
        return bool(found)

    def finish(self, inference_id: bytes, entry: bytes, now: int) -> None:
        """Keep the evidence; after the deadline it is kept as late."""
        self._execute(
            "keep a proof",
            "UPDATE jobs SET state = CASE WHEN due_at < ? THEN ? ELSE ? END, entry = ?,"
            " finished_at = ?, progress = 1, input = NULL WHERE inference_id = ? AND state = ?",
            (now, JobState.LATE, JobState.DONE, entry, now, inference_id, JobState.RUNNING),
        )

    def fail(self, inference_id: bytes, error: Error, now: int, *, final: bool = False) -> None:
        """Queue a job again that failed, or give it up."""
        state = JobState.FAILED if final else JobState.QUEUED
        self._execute(
            "note a failed proof",
            "UPDATE jobs SET state = CASE WHEN attempts >= ? THEN ? ELSE ? END, detail = ?,"
            " finished_at = ? WHERE inference_id = ? AND state = ?",
            (
                MAX_ATTEMPTS,
                JobState.FAILED,
                state,
                f"{error.reason.value}: {error.message}",
                now,
                inference_id,
                JobState.RUNNING,
            ),
        )

    def cancel(self, inference_id: bytes, now: int) -> bool:
        """Give up a job that is not finished; `False` where there is none."""
        found = self._execute(
            "cancel a proof",
            "UPDATE jobs SET state = ?, finished_at = ?, input = NULL WHERE inference_id = ?"
            " AND state IN (?, ?, ?) RETURNING inference_id",
            (
                JobState.CANCELLED,
                now,
                inference_id,
                JobState.PREPARED,
                JobState.QUEUED,
                JobState.RUNNING,
            ),
        )
        return bool(found)

    # -- For readers --------------------------------------------------------------------------

    def find(self, inference_id: bytes) -> ProofJob | None:
        """Return the job of an inference."""
        rows = self._execute(
            "read a proof job",
            _FIND,
            (inference_id,),
        )
        return _job(rows[0]) if rows else None

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        return dict(
            self._execute("count proof jobs", "SELECT state, count(*) FROM jobs GROUP BY state")
        )


def _job(row: tuple[Any, ...]) -> ProofJob:
    (inference, model, context, rows, given, due, created, state, attempts, progress, *rest) = row
    finished, detail, entry = rest
    return ProofJob(
        inference_id=inference,
        model=model,
        context=context,
        rows=rows,
        input=given or b"",
        due_at=due,
        created_at=created,
        state=JobState(state),
        attempts=attempts,
        progress=progress,
        finished_at=finished,
        detail=detail,
        entry=entry,
    )
