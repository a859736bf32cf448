"""What a gateway accepted, could not deliver, and said so: signed refusals on their way to the log.

A request that is refused before any work leaves nothing here: it costs its caller nothing, and
anybody could fill a log with such. A refusal is kept where work had begun and the promised evidence
could not be had, so that the answer was withheld rather than sent with less.

The book is append-only. It holds no words of a caller: an inference's number, an interface, a
reason and the digest of a policy.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Final

from verispect.attesters.signer import Issuer
from verispect.core.envelope import open_envelope, sign_envelope
from verispect.ledger.log.entries import entry_of_leaf
from verispect.ledger.log.interface import Cursor, LogState
from verispect.ledger.schema import open_writer, store_error
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.publications import REFUSAL_TYPE, Refusal

REFUSALS_FILE: Final = "refusals.sqlite3"
"""In the log's folder."""

MAX_REFUSALS_FOLLOWED: Final = 256
"""What one turn brings to the log."""

BUSY_MILLISECONDS: Final = 10_000

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS refusals (
  entry INTEGER PRIMARY KEY, inference TEXT NOT NULL UNIQUE, envelope BLOB NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS refusals_are_not_deleted BEFORE DELETE ON refusals
BEGIN SELECT RAISE(ABORT, 'refusals are append-only'); END;
CREATE TRIGGER IF NOT EXISTS refusals_are_not_changed BEFORE UPDATE ON refusals
BEGIN SELECT RAISE(ABORT, 'refusals are append-only'); END;
"""


class RefusalBook:
    """The refusals of one gateway, in one file; several processes may write to it.

    Args:
        database: the file, made where there is none.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """

    def __init__(self, database: Path) -> None:
        self._lock = threading.Lock()
        self._connection = open_writer(database, busy_milliseconds=BUSY_MILLISECONDS)
        try:
            self._connection.executescript(_TABLES)
            self._connection.execute("PRAGMA wal_autocheckpoint = 64")
        except sqlite3.Error as error:
            raise store_error("open the book of refusals", error) from error

    def add(self, refusal: Refusal, *, inference: str, issuer: Issuer) -> None:
        """Sign a refusal and keep it, the first of each inference; on disk when this returns.

        Args:
            refusal: what was refused and why.
            inference: the inference that had begun.
            issuer: who signs.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        envelope = sign_envelope(
            refusal.encode(),
            content_type=REFUSAL_TYPE,
            issuer=issuer.name,
            subject=inference,
            signer=issuer.signer,
        )
        try:
            with self._lock:
                self._connection.execute(
                    "INSERT OR IGNORE INTO refusals (inference, envelope) VALUES (?, ?)",
                    (inference, envelope.encode()),
                )
        except sqlite3.Error as error:
            raise store_error("keep a refusal", error) from error

    def after(self, entry: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the refusals after `entry`, oldest first, each with its number.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        try:
            with self._lock:
                return self._connection.execute(
                    "SELECT entry, envelope FROM refusals WHERE entry > ? ORDER BY entry LIMIT ?",
                    (entry, limit),
                ).fetchall()
        except sqlite3.Error as error:
            raise store_error("read refusals", error) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()


class RefusalOutbox:
    """The refusals of one book, as a source of entries for the log.

    Args:
        database: the book's file; it need not exist.
    """

    CURSOR: Final = "refusals"

    def __init__(self, database: Path) -> None:
        self._database = database
        self._book: RefusalBook | None = None

    def follow(self, state: LogState) -> int:
        """Give the log the refusals that it has not seen.

        Raises:
            MalformedError: `malformed-envelope` where the book is damaged.
            StoreError: `store-failed`, `store-locked`.
        """
        if self._book is None:
            if not self._database.exists():
                return 0
            self._book = RefusalBook(self._database)
        rows = self._book.after(state.cursor(self.CURSOR), MAX_REFUSALS_FOLLOWED)
        if rows:
            read = [open_envelope(row, content_type=REFUSAL_TYPE) for _, row in rows]
            entries = [entry_of_leaf(SignedLeaf.of(each).encode()) for each in read]
            state.accept(entries, cursor=Cursor(self.CURSOR, rows[-1][0]))
        return len(rows)
