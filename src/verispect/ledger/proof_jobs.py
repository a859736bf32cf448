"""The durable queue of proofs that were promised: one job per inference, until it is proven.

A job is on disk before the receipt that promises it, and is queued only when that receipt is, so
that no promise lacks its job and no job lacks its promise. A job that ran when the process died is
queued again. Finished jobs keep the evidence and lose the request's input. Jobs may share a proof,
which is kept once.

This module refuses to run anything, and to let one inference have two proofs.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import encode
from verispect.core.errors import Error, Reason, StoreError
from verispect.evidence.proof import ProofBody, proof_entry
from verispect.ledger.schema import store_error

MAX_ATTEMPTS: Final = 3
"""How often a job is tried before it has failed."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS proofs (
  number INTEGER PRIMARY KEY,
  proof BLOB NOT NULL,
  manifest BLOB NOT NULL,
  model BLOB NOT NULL,
  collected_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS promises (
  inference_id BLOB PRIMARY KEY,
  model TEXT NOT NULL,
  context BLOB NOT NULL,
  salt BLOB,
  rows INTEGER NOT NULL,
  input BLOB,
  due_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  progress REAL NOT NULL DEFAULT 0,
  finished_at INTEGER,
  detail TEXT,
  proof INTEGER REFERENCES proofs (number),
  outputs BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS promises_by_state ON promises (state, due_at);
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
    salt: bytes
    """Of the request's digests in the proof; empty once the job is finished."""
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


@dataclass(frozen=True, slots=True)
class MadeProof:
    """One proof, for one job or several."""

    proof: bytes
    manifest: bytes
    model: bytes
    """The provable model."""
    collected_at: int


_COLUMNS: Final = (
    "inference_id, model, context, salt, rows, input, due_at, created_at, state, attempts,"
    " progress, finished_at, detail, proof, outputs"
)


# Made of constants only.
_NEXT: Final = "SELECT inference_id FROM promises WHERE state = ? ORDER BY due_at LIMIT 1"
_TAKE: Final = (
    "UPDATE promises SET state = ?, attempts = attempts + 1, progress = 0"  # noqa: S608
    f" WHERE inference_id = ({_NEXT}) RETURNING {_COLUMNS}"
)
_ALIKE: Final = (
    "SELECT inference_id, rows FROM promises WHERE state = ? AND model = ? AND attempts = 0"
    " ORDER BY due_at LIMIT ?"
)
_TAKE_ONE: Final = (
    "UPDATE promises SET state = ?, attempts = attempts + 1, progress = 0"  # noqa: S608
    f" WHERE inference_id = ? AND state = ? RETURNING {_COLUMNS}"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM promises WHERE inference_id = ?"  # noqa: S608


class ProofJobs:
    """The queue in one file. Safe to use from several threads and processes.

    Args:
        database: the file.

    Raises:
        StoreError: `store-failed`, `store-locked`; `unsupported-version` for a file of another
            version, which is left as it is.
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
            self._refuse_other_version(database.name)
            self._connection.executescript(_SCHEMA)
        except OSError as error:
            raise StoreError(
                f"cannot keep proof jobs: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        except sqlite3.Error as error:
            raise store_error("open the queue of proofs", error) from error

    def _refuse_other_version(self, name: str) -> None:
        """Refuse a file whose tables are other ones, before anything is written to it."""
        found = {row[1] for row in self._connection.execute("PRAGMA table_info(promises)")}
        if found and found != set(_COLUMNS.split(", ")):
            self._connection.close()
            raise StoreError(
                f"the queue of proofs in {name} is of another version: move it away, and what it"
                " promised is not proven",
                reason=Reason.UNSUPPORTED_VERSION,
            )

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
        salt: bytes,
        rows: int,
        input_octets: bytes,
        due_at: int,
        now: int,
    ) -> None:
        """Put a job on disk, before the receipt that promises it.

        Raises:
            StoreError: `store-failed`; nothing may be promised then.
        """
        values = (inference_id, model, context, salt, rows, input_octets, due_at, now)
        self._execute(
            "prepare a proof",
            "INSERT INTO promises (inference_id, model, context, salt, rows, input, due_at,"
            " created_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, JobState.PREPARED),
        )

    def release(self, inference_id: bytes) -> None:
        """Queue a prepared job: its receipt is on disk."""
        self._execute(
            "queue a proof",
            "UPDATE promises SET state = ? WHERE inference_id = ? AND state = ?",
            (JobState.QUEUED, inference_id, JobState.PREPARED),
        )

    def recover(self, has_receipt: Callable[[bytes], bool]) -> None:
        """Put right what a process that died left behind.

        Args:
            has_receipt: tells whether an inference has a receipt.
        """
        prepared = self._execute(
            "read the queue",
            "SELECT inference_id FROM promises WHERE state = ?",
            (JobState.PREPARED,),
        )
        for (inference_id,) in prepared:
            if has_receipt(inference_id):
                self.release(inference_id)
            else:
                self._execute(
                    "drop a job", "DELETE FROM promises WHERE inference_id = ?", (inference_id,)
                )
        self._execute(
            "queue interrupted proofs",
            "UPDATE promises SET state = ?, progress = 0 WHERE state = ?",
            (JobState.QUEUED, JobState.RUNNING),
        )

    # -- For the prover -----------------------------------------------------------------------

    def take(self, now: int) -> ProofJob | None:
        """Return the job whose deadline is nearest, now running; jobs past theirs become late."""
        self._execute(
            "note late proofs",
            "UPDATE promises SET state = ?, finished_at = ?, input = NULL, salt = NULL,"
            " detail = 'not proven by the deadline' WHERE state = ? AND due_at < ?",
            (JobState.LATE, now, JobState.QUEUED, now),
        )
        rows = self._execute(
            "take a proof",
            _TAKE,
            (JobState.RUNNING, JobState.QUEUED),
        )
        return self._job(rows[0]) if rows else None

    def take_alike(self, model: str, *, most: int, rows: int) -> list[ProofJob]:
        """Return further queued jobs of a model, now running; none that was tried before.

        Args:
            model: the name under which it is served.
            most: how many at most.
            rows: how many rows they may have together.
        """
        waiting = self._execute("find proofs", _ALIKE, (JobState.QUEUED, model, most))
        taken: list[ProofJob] = []
        for inference_id, count in waiting:
            rows -= count
            if rows < 0:
                break
            found = self._execute(
                "take a proof", _TAKE_ONE, (JobState.RUNNING, inference_id, JobState.QUEUED)
            )
            taken += [self._job(row) for row in found]
        return taken

    def report(self, inference_id: bytes, progress: float) -> bool:
        """Note how far a running job is; `False` where it was cancelled."""
        found = self._execute(
            "note the progress of a proof",
            "UPDATE promises SET progress = ? WHERE inference_id = ? AND state = ?"
            " RETURNING inference_id",
            (progress, inference_id, JobState.RUNNING),
        )
        return bool(found)

    def finish(self, made: MadeProof, outputs: Mapping[bytes, bytes], now: int) -> None:
        """Keep a proof for the running jobs it covers; after a job's deadline as late.

        Args:
            made: the proof.
            outputs: by inference the output's integers.
            now: milliseconds since the epoch.
        """
        row = (made.proof, made.manifest, made.model, made.collected_at)
        ((number,),) = self._execute(
            "keep a proof",
            "INSERT INTO proofs (proof, manifest, model, collected_at) VALUES (?, ?, ?, ?)"
            " RETURNING number",
            row,
        )
        late = (now, JobState.LATE, JobState.DONE)
        for inference_id, integers in outputs.items():
            self._execute(
                "keep a proof",
                "UPDATE promises SET state = CASE WHEN due_at < ? THEN ? ELSE ? END, proof = ?,"
                " outputs = ?, finished_at = ?, progress = 1, input = NULL, salt = NULL"
                " WHERE inference_id = ? AND state = ?",
                (*late, number, integers, now, inference_id, JobState.RUNNING),
            )
        # Nobody may be left who wants it.
        self._execute(
            "drop a proof",
            "DELETE FROM proofs WHERE number = ?"
            " AND NOT EXISTS (SELECT 1 FROM promises WHERE proof = ?)",
            (number, number),
        )

    def fail(self, inference_id: bytes, error: Error, now: int, *, final: bool = False) -> None:
        """Queue a job again that failed, or give it up."""
        state = JobState.FAILED if final else JobState.QUEUED
        self._execute(
            "note a failed proof",
            "UPDATE promises SET state = CASE WHEN attempts >= ? THEN ? ELSE ? END, detail = ?,"
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
            "UPDATE promises SET state = ?, finished_at = ?, input = NULL, salt = NULL"
            " WHERE inference_id = ? AND state IN (?, ?, ?) RETURNING inference_id",
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
        return self._job(rows[0]) if rows else None

    def _job(self, row: tuple[Any, ...]) -> ProofJob:
        *_, number, outputs = row
        if number is None:
            return _job(row, None)
        found = self._execute(
            "read a proof",
            "SELECT proof, manifest, model, collected_at FROM proofs WHERE number = ?",
            (number,),
        )
        made = MadeProof(*found[0])
        body = ProofBody(made.proof, outputs)
        entry = proof_entry(
            body, manifest=made.manifest, model=made.model, collected_at=made.collected_at
        )
        return _job(row, encode(entry.to_row()))

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        return dict(
            self._execute("count proof jobs", "SELECT state, count(*) FROM promises GROUP BY state")
        )


def _job(row: tuple[Any, ...], entry: bytes | None) -> ProofJob:
    (inference, model, context, salt, rows, given, due, created, state, *rest) = row
    attempts, progress, finished, detail, *_ = rest
    return ProofJob(
        inference_id=inference,
        model=model,
        context=context,
        salt=salt or b"",
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
