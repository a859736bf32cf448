"""Where transactions stand: one row each, its parts, and the one final statement, durable.

    open -> pending -> committed | failed
      |                        ^
      +------------------------+---> aborted (from open alone)

A state is moved by a single compare-and-set together with the signed statement that belongs to it,
so that of two who decide at once one wins and both read the same bytes, and a crash leaves the
state before or after, never between. No content is kept: parts are inference ids, policies and
places. This module refuses to sign, to judge, and to change what is final.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Reason, RequestError, StoreError
from verispect.core.transaction import MAX_PARTS
from verispect.ledger.process_marks import ProcessMark
from verispect.ledger.schema import open_reader, store_error

MAX_OPEN_TRANSACTIONS: Final = 4096
MAX_LINKS_BYTES: Final = 64 * 1024

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS transactions (
  id BLOB PRIMARY KEY,
  state TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  fixed_count INTEGER NOT NULL,
  nonce BLOB UNIQUE,
  due_at INTEGER,
  decided_at INTEGER,
  envelope BLOB,
  parts BLOB,
  announced INTEGER NOT NULL DEFAULT 0,
  process TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transactions_by_state ON transactions (state, expires_at);
CREATE INDEX IF NOT EXISTS transactions_to_announce ON transactions (decided_at)
  WHERE announced = 0 AND state IN ('committed', 'failed', 'aborted');
CREATE TABLE IF NOT EXISTS parts (
  transaction_id BLOB NOT NULL,
  place INTEGER NOT NULL,
  inference_id BLOB NOT NULL UNIQUE,
  policy TEXT NOT NULL,
  links BLOB NOT NULL,
  nonce BLOB,
  PRIMARY KEY (transaction_id, place)
) WITHOUT ROWID;
"""


class TransactionState(StrEnum):
    """Where a transaction stands."""

    OPEN = "open"
    PENDING = "pending"
    COMMITTED = "committed"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_final(self) -> bool:
        """Whether it never changes again."""
        return self not in (TransactionState.OPEN, TransactionState.PENDING)


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """One transaction. Times are milliseconds since the epoch."""

    transaction_id: bytes
    state: TransactionState
    opened_at: int
    expires_at: int
    fixed_count: int
    """How many parts there will be; 0 where that is open."""
    nonce: bytes | None
    due_at: int | None = None
    decided_at: int | None = None
    envelope: bytes | None = None
    """The signed statement; `None` while it is open."""
    parts: bytes | None = None
    """The encoded rows of its parts."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part that was begun."""

    index: int
    inference_id: bytes
    policy: str
    """The policy that it required, as TOML."""
    links: bytes
    """Its references, encoded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A state to move to, with what belongs to it."""

    state: TransactionState
    decided_at: int
    envelope: bytes
    parts: bytes
    due_at: int | None = None
    kept_parts: Sequence[StoredPart] = ()
    """Parts that are not on disk yet: those of a transaction that ran in one request."""
    expected_parts: int | None = None
    """How many parts there must be; another number means that one came meanwhile."""


_ONE_NONCE: Final = (
    "CREATE UNIQUE INDEX IF NOT EXISTS parts_by_nonce ON parts (transaction_id, nonce)"
    " WHERE nonce IS NOT NULL"
)
_COLUMNS: Final = (
    "id, state, opened_at, expires_at, fixed_count, nonce, due_at, decided_at, envelope, parts"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM transactions WHERE id = ?"  # noqa: S608 - constants
_INSERT_PART: Final = (
    "INSERT INTO parts (transaction_id, place, inference_id, policy, links) VALUES (?, ?, ?, ?, ?)"
)

_TAKE_PLACE: Final = (
    "INSERT INTO parts (transaction_id, place, inference_id, policy, links, nonce)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)


class TransactionStore:
    """Transactions in one file. Safe to use from several threads and processes.

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
            self._connection.executescript(_SCHEMA)
            columns = self._connection.execute("PRAGMA table_info(transactions)").fetchall()
            if all(column[1] != "process" for column in columns):
                self._connection.execute("ALTER TABLE transactions ADD COLUMN process TEXT")
            columns = self._connection.execute("PRAGMA table_info(parts)").fetchall()
            if all(column[1] != "nonce" for column in columns):
                self._connection.execute("ALTER TABLE parts ADD COLUMN nonce BLOB")
            self._connection.execute(_ONE_NONCE)
            self._mark = ProcessMark(database.with_suffix(".processes"))
        except OSError as error:
            raise StoreError(
                f"cannot keep transactions: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        except sqlite3.Error as error:
            raise store_error("open the transactions", error) from error

    def close(self) -> None:
        """Close the file."""
        self._mark.close()
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise store_error("read the transactions", error) from error

    # -- While it is open ---------------------------------------------------------------------

    def open(
        self,
        transaction_id: bytes,
        *,
        now: int,
        expires_at: int,
        fixed_count: int,
        nonce: bytes | None,
    ) -> StoredTransaction:
        """Begin a transaction; durable on return.

        Raises:
            RequestError: `nonce-reused`, `server-overloaded`.
            StoreError: `store-failed`, `store-locked`.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                (running,) = self._connection.execute(
                    "SELECT count(*) FROM transactions WHERE state = 'open'"
                ).fetchone()
                if running >= MAX_OPEN_TRANSACTIONS:
                    self._connection.execute("ROLLBACK")
                    raise RequestError(
                        "too many transactions are open", reason=Reason.SERVER_OVERLOADED
                    )
                self._connection.execute(
                    "INSERT INTO transactions (id, state, opened_at, expires_at, fixed_count,"
                    " nonce, process) VALUES (?, 'open', ?, ?, ?, ?, ?)",
                    (transaction_id, now, expires_at, fixed_count, nonce, self._mark.name),
                )
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError as error:
                self._roll_back()
                raise RequestError(
                    "another transaction carries this nonce", reason=Reason.NONCE_REUSED
                ) from error
            except sqlite3.Error as error:
                self._roll_back()
                raise store_error("open a transaction", error) from error
        return StoredTransaction(
            transaction_id, TransactionState.OPEN, now, expires_at, fixed_count, nonce
        )

    def take(
        self,
        transaction_id: bytes,
        inference_id: bytes,
        *,
        policy: str,
        links: bytes,
        now: int,
        nonce: bytes | None = None,
    ) -> int:
        """Give a part the next index; durable on return, before its receipt names it.

        Raises:
            RequestError: `transaction-closed` where it is not open any more, `too-large` beyond
                `MAX_PARTS`, `nonce-reused` where an earlier part carries the nonce.
            StoreError: `store-failed`, `store-locked`.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                row = self._connection.execute(
                    "SELECT state, expires_at FROM transactions WHERE id = ?", (transaction_id,)
                ).fetchone()
                (place,) = self._connection.execute(
                    "SELECT count(*) FROM parts WHERE transaction_id = ?", (transaction_id,)
                ).fetchone()
                refusal = None
                if row is None or row[0] != TransactionState.OPEN or now >= row[1]:
                    refusal = RequestError(
                        "the transaction is not open any more", reason=Reason.TRANSACTION_CLOSED
                    )
                elif place >= MAX_PARTS or len(links) > MAX_LINKS_BYTES:
                    refusal = RequestError(
                        f"a transaction has at most {MAX_PARTS} parts", reason=Reason.TOO_LARGE
                    )
                if refusal is not None:
                    self._connection.execute("ROLLBACK")
                    raise refusal
                self._connection.execute(
                    _TAKE_PLACE, (transaction_id, place, inference_id, policy, links, nonce)
                )
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError as error:
                self._roll_back()
                raise RequestError(
                    "an earlier part carries this nonce", reason=Reason.NONCE_REUSED
                ) from error
            except sqlite3.Error as error:
                self._roll_back()
                raise store_error("begin a part", error) from error
        return int(place)

    # -- Its end ------------------------------------------------------------------------------

    def decide(
        self, transaction_id: bytes, decision: Decision, *, since: Sequence[TransactionState]
    ) -> tuple[StoredTransaction, bool]:
        """Move a transaction that is in one of these states; durable on return.

        Returns:
            The transaction as it now stands, and whether this decision is the one that stands.

        Raises:
            RequestError: `transaction-not-found`.
            StoreError: `store-failed`, `store-locked`.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                (parts,) = self._connection.execute(
                    "SELECT count(*) FROM parts WHERE transaction_id = ?", (transaction_id,)
                ).fetchone()
                marks = ", ".join("?" * len(since))
                expected = decision.expected_parts
                moved = (
                    self._connection.execute(
                        "UPDATE transactions SET state = ?, decided_at = ?, envelope = ?,"  # noqa: S608
                        f" parts = ?, due_at = ? WHERE id = ? AND state IN ({marks})",
                        (
                            decision.state,
                            decision.decided_at,
                            decision.envelope,
                            decision.parts,
                            decision.due_at,
                            transaction_id,
                            *since,
                        ),
                    ).rowcount
                    if expected is None or expected == parts
                    else 0
                )
                if moved and not parts:
                    self._connection.executemany(
                        _INSERT_PART,
                        [
                            (transaction_id, each.index, each.inference_id, each.policy, each.links)
                            for each in decision.kept_parts
                        ],
                    )
                self._connection.execute("COMMIT")
                row = self._connection.execute(_FIND, (transaction_id,)).fetchone()
            except sqlite3.Error as error:
                self._roll_back()
                raise store_error("decide a transaction", error) from error
        if row is None:
            raise RequestError("no such transaction", reason=Reason.TRANSACTION_NOT_FOUND)
        return _transaction(row), bool(moved)

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # -- For readers --------------------------------------------------------------------------

    def find(self, transaction_id: bytes) -> StoredTransaction | None:
        """Return a transaction."""
        rows = self._read(_FIND, (transaction_id,))
        return _transaction(rows[0]) if rows else None

    def parts(self, transaction_id: bytes) -> list[StoredPart]:
        """Return the parts that were begun, in order."""
        rows = self._read(
            "SELECT place, inference_id, policy, links FROM parts WHERE transaction_id = ?"
            " ORDER BY place",
            (transaction_id,),
        )
        return [StoredPart(*row) for row in rows]

    def expired(self, now: int) -> list[bytes]:
        """Return the open transactions whose time is over."""
        rows = self._read(
            "SELECT id FROM transactions WHERE state = 'open' AND expires_at <= ?", (now,)
        )
        return [row[0] for row in rows]

    def abandoned(self) -> list[bytes]:
        """Return the open transactions of one request whose process is no more."""
        rows = self._read(
            "SELECT process, id FROM transactions WHERE state = 'open' AND fixed_count > 0"
        )
        dead = {name for name in {row[0] for row in rows} if not self._mark.is_alive(name or "")}
        return [identifier for name, identifier in rows if name in dead]

    def pending(self) -> list[bytes]:
        """Return the transactions that wait for evidence."""
        rows = self._read("SELECT id FROM transactions WHERE state = 'pending'")
        return [row[0] for row in rows]

    def unannounced(self) -> list[StoredTransaction]:
        """Return final transactions of which the log and the payments were not told yet."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM transactions WHERE announced = 0"  # noqa: S608 - constants
            " AND state IN ('committed', 'failed', 'aborted') ORDER BY decided_at LIMIT 256"
        )
        return [_transaction(row) for row in rows]

    def announced(self, transaction_id: bytes) -> None:
        """Note that they were told."""
        self._read("UPDATE transactions SET announced = 1 WHERE id = ?", (transaction_id,))


def receipts_since(database: Path, issued_at: int) -> list[bytes]:
    """Return the receipts that a receipt store issued at or after a time, oldest first.

    For a transaction whose process died before its parts were noted: they are found among these.

    Raises:
        StoreError: `store-failed`, `store-locked`.
    """
    found: list[bytes] = []
    connection = open_reader(database)
    try:
        for receipt, at in connection.execute(
            "SELECT receipt, issued_at FROM receipts ORDER BY entry DESC"
        ):
            if at < issued_at:
                break
            found.append(receipt)
    except sqlite3.Error as error:
        raise store_error("search the receipt store", error) from error
    finally:
        connection.close()
    return found[::-1]


def _transaction(row: tuple[Any, ...]) -> StoredTransaction:
    identifier, state, *rest = row
    return StoredTransaction(identifier, TransactionState(state), *rest)
