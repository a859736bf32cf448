"""What a node must not forget: where it stands, what it still has to do, what it has to say.

One SQLite database, each step one transaction with `synchronous=FULL`: a node that is killed
anywhere goes on from its last step. A verdict enters the outbox in the transaction that ends its
job, so that none is lost and none is made twice. The latest checkpoint that it co-signed is
compared and replaced in one transaction, as a witness must.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError

STATE_FILE: Final = "node.sqlite3"
_BUSY_MILLISECONDS: Final = 10_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS followed (
  one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, note BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
  origin TEXT PRIMARY KEY, size INTEGER NOT NULL, note BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS jobs (
  leaf INTEGER PRIMARY KEY,
  checkpoint TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS open_jobs ON jobs (due_at) WHERE done = 0;
CREATE TABLE IF NOT EXISTS outbox (
  entry INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE,
  body BLOB NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER NOT NULL DEFAULT 0,
  answer TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS reports (digest BLOB PRIMARY KEY, report BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS forks (digest BLOB PRIMARY KEY, evidence BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One leaf to look at."""

    leaf: int
    checkpoint: str
    """Text of the first checkpoint in which the node saw it."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Letter:
    """Something signed that waits to be delivered."""

    key: bytes
    body: bytes


class NodeState:
    """The durable state of one node; may be used from several threads.

    Args:
        folder: made where it does not exist.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        with _our_errors("open"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = sqlite3.connect(
                folder / STATE_FILE, isolation_level=None, check_same_thread=False
            )
            self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one durable step, alone.

        Raises:
            StoreError: `store-failed`, `store-locked`; then nothing was changed.
        """
        with self._lock, _our_errors("change"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock, _our_errors("read"):
            return self._connection.execute(query, values).fetchall()

    def followed(self) -> tuple[int, bytes] | None:
        """Return the size of the mirror and the checkpoint that it was verified against."""
        rows = self._rows("SELECT size, note FROM followed")
        return None if not rows else (_int(rows[0][0]), _bytes(rows[0][1]))

    def advance(self, old_size: int, size: int, note: bytes, text: str) -> None:
        """Move to a larger tree, and note a job for each new leaf, in one step.

        Raises:
            StoreError: `store-conflict` where another process moved this state.
        """
        with self.transaction() as connection:
            row = connection.execute("SELECT size FROM followed").fetchone()
            if (row[0] if row else 0) != old_size:
                raise StoreError("another process moved", reason=Reason.STORE_CONFLICT)
            connection.execute(
                "INSERT INTO followed VALUES (1, ?, ?)"
                " ON CONFLICT (one) DO UPDATE SET size = excluded.size, note = excluded.note",
                (size, note),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO jobs (leaf, checkpoint) VALUES (?, ?)",
                ((index, text) for index in range(old_size, size)),
            )

    def jobs(self, now: int, limit: int) -> Sequence[Job]:
        """Return jobs that are due, oldest first."""
        rows = self._rows(
            "SELECT leaf, checkpoint, attempts FROM jobs WHERE done = 0 AND due_at <= ?"
            " ORDER BY leaf LIMIT ?",
            now,
            limit,
        )
        return [Job(_int(leaf), str(text), _int(attempts)) for leaf, text, attempts in rows]

    def postpone(self, job: Job, *, until: int) -> None:
        """Try a job again later; the attempt is counted."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET attempts = attempts + 1, due_at = ? WHERE leaf = ?",
                (until, job.leaf),
            )

    def finish(
        self, job: Job | None, letters: Sequence[Letter], reports: Sequence[tuple[Digest, bytes]]
    ) -> None:
        """End a job, and put what it led to into the outbox, in one step."""
        with self.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO reports VALUES (?, ?)", reports)
            connection.executemany(
                "INSERT OR IGNORE INTO outbox (key, body) VALUES (?, ?)",
                ((letter.key, letter.body) for letter in letters),
            )
            if job is not None:
                connection.execute("UPDATE jobs SET done = 1 WHERE leaf = ?", (job.leaf,))

    def has_letter(self, key: bytes) -> bool:
        """Tell whether a letter with this key was written."""
        return bool(self._rows("SELECT 1 FROM outbox WHERE key = ?", key))

    def letters(self, now: int, limit: int) -> Sequence[tuple[int, Letter, int]]:
        """Return letters to deliver now: entry, letter, attempts so far."""
        rows = self._rows(
            "SELECT entry, key, body, attempts FROM outbox"
            " WHERE answer IS NULL AND due_at <= ? ORDER BY entry LIMIT ?",
            now,
            limit,
        )
        return [(_int(r[0]), Letter(_bytes(r[1]), _bytes(r[2])), _int(r[3])) for r in rows]

    def delivered(self, entry: int, answer: str) -> None:
        """Note that a letter arrived, or was refused for good."""
        with self.transaction() as connection:
            connection.execute("UPDATE outbox SET answer = ? WHERE entry = ?", (answer, entry))

    def deliver_later(self, entry: int, *, until: int) -> None:
        """Try a letter again later."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET attempts = attempts + 1, due_at = ? WHERE entry = ?",
                (until, entry),
            )

    def undelivered(self) -> int:
        """Return how many letters wait."""
        return _int(self._rows("SELECT count(*) FROM outbox WHERE answer IS NULL")[0][0])

    def report(self, digest: bytes) -> bytes | None:
        """Return the report with this digest."""
        rows = self._rows("SELECT report FROM reports WHERE digest = ?", digest)
        return _bytes(rows[0][0]) if rows else None

    def add_fork(self, digest: Digest, evidence: bytes, letter: Letter) -> bool:
        """Keep evidence of a fork and the letter that publishes it; tell whether it is new."""
        with self.transaction() as connection:
            changed = connection.execute(
                "INSERT OR IGNORE INTO forks VALUES (?, ?)", (digest, evidence)
            ).rowcount
            connection.execute(
                "INSERT OR IGNORE INTO outbox (key, body) VALUES (?, ?)",
                (letter.key, letter.body),
            )
            return changed == 1

    def forks(self) -> Sequence[bytes]:
        """Return all evidence of forks."""
        return [_bytes(row[0]) for row in self._rows("SELECT evidence FROM forks")]

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._connection.close()


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        locked = name in ("SQLITE_BUSY", "SQLITE_LOCKED")
        reason = Reason.STORE_LOCKED if locked else Reason.STORE_FAILED
        raise StoreError(f"cannot {doing} the node's state: {name}", reason=reason) from error


def _int(value: object) -> int:
    assert isinstance(value, int)  # The schema is strict.
    return value


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
