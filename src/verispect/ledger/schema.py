"""The tables of the receipt store, and how a connection to them is opened.

Every connection that may write has `journal_mode=WAL` and `synchronous=FULL`, which is what makes
a commit durable; `open_writer` refuses to return one that has not. Checkpoints of the WAL are
never left to SQLite, which would run them inside somebody's commit (see `housekeeper`).

The room's rule that receipts are append-only and numbered without a gap stands in the database
too, as triggers: a mistake elsewhere, or a hand in a SQL shell, is refused. They do not stop
somebody who means it; the public log does.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError

DATABASE_NAME: Final = "receipts.sqlite3"

SCHEMA_VERSION: Final = 1
"""Written to `user_version`; a store of a later version is refused, never guessed at."""

APPLICATION_ID: Final = 0x56535054
"""ASCII `VSPT`, written to the file header so that `file` and we know whose it is."""

SETUP_BUSY_MILLISECONDS: Final = 10_000

_WAL_RETRY_SECONDS: Final = 0.002

CACHE_KIBIBYTES: Final = 32 * 1024
"""Receipt ids are random, so that every insert meets another page of their index."""

_TABLES: Final = """
CREATE TABLE issuers (
  issuer INTEGER PRIMARY KEY,
  key_id BLOB NOT NULL UNIQUE
) STRICT;

-- `entry` counts every receipt of the store in commit order, so that a follower can resume.
CREATE TABLE receipts (
  entry INTEGER PRIMARY KEY,
  issuer INTEGER NOT NULL REFERENCES issuers (issuer),
  sequence INTEGER NOT NULL,
  inference_id BLOB NOT NULL UNIQUE CHECK (length(inference_id) = 16),
  receipt_id BLOB NOT NULL UNIQUE CHECK (length(receipt_id) = 32),
  issued_at INTEGER NOT NULL,
  receipt BLOB NOT NULL,
  UNIQUE (issuer, sequence)
) STRICT;

CREATE TABLE openings (
  entry INTEGER PRIMARY KEY REFERENCES receipts (entry),
  issued_at INTEGER NOT NULL,
  content BLOB NOT NULL
) STRICT;
CREATE INDEX openings_by_age ON openings (issued_at);

CREATE TABLE open_streams (
  inference_id BLOB PRIMARY KEY CHECK (length(inference_id) = 16),
  owner TEXT NOT NULL,
  recovery BLOB NOT NULL
) STRICT;

CREATE TRIGGER receipts_are_not_updated BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;

CREATE TRIGGER receipts_are_not_deleted BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;

CREATE TRIGGER receipts_have_no_gap BEFORE INSERT ON receipts
WHEN NEW.sequence <> 1 + coalesce(
  (SELECT max(sequence) FROM receipts WHERE issuer = NEW.issuer), 0)
BEGIN SELECT RAISE(ABORT, 'sequence is not the next one'); END;
"""


_INCOMING: Final = """
CREATE TEMP VIEW incoming AS
  SELECT issuer, sequence, inference_id, receipt_id, issued_at, receipt, NULL AS content
  FROM receipts;

CREATE TEMP TRIGGER incoming_is_kept INSTEAD OF INSERT ON incoming
BEGIN
  INSERT INTO receipts (issuer, sequence, inference_id, receipt_id, issued_at, receipt) VALUES
    (NEW.issuer, NEW.sequence, NEW.inference_id, NEW.receipt_id, NEW.issued_at, NEW.receipt);
  INSERT INTO openings (entry, issued_at, content)
    SELECT last_insert_rowid(), NEW.issued_at, NEW.content WHERE NEW.content IS NOT NULL;
END;
"""
"""Receipts with their openings as one row each, so that a whole batch is one statement.

It is a thing of the connection and not of the file. The entry number is SQLite's: one more than
the highest, because no receipt is ever deleted.
"""


def is_locked(error: sqlite3.Error) -> bool:
    """Tell whether `error` means that another connection holds the lock (BUSY or LOCKED)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def store_error(doing: str, error: sqlite3.Error) -> StoreError:
    """Return our error for SQLite's, without its text, which may quote values."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    reason = Reason.STORE_LOCKED if is_locked(error) else Reason.STORE_FAILED
    return StoreError(f"cannot {doing}: {name}", reason=reason)


def open_writer(database: Path, *, busy_milliseconds: int = 0) -> sqlite3.Connection:
    """Open a connection whose commits are durable.

    The caller MUST use it from one thread at a time.

    Raises:
        StoreError: `store-failed`, also where the file system cannot hold a WAL; `store-locked`.
    """
    try:
        connection = sqlite3.connect(
            database,
            timeout=busy_milliseconds / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.Error as exc:
        raise store_error("open the receipt store", exc) from exc
    try:
        mode = enter_wal(connection, busy_milliseconds=busy_milliseconds)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        # A large statement's own journal is no file: it is lost with the process, as it should be.
        connection.execute("PRAGMA temp_store = MEMORY")
        # Erased openings are overwritten in the file, not only unlinked.
        connection.execute("PRAGMA secure_delete = ON")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
    except sqlite3.Error as exc:
        connection.close()
        raise store_error("open the receipt store", exc) from exc
    if mode != "wal" or level != 2:
        connection.close()
        raise StoreError(
            f"expected journal mode wal with synchronous 2, got {mode} with {level}",
            reason=Reason.STORE_FAILED,
        )
    return connection


def enter_wal(connection: sqlite3.Connection, *, busy_milliseconds: int) -> str:
    """Put a database into WAL mode, where it is not, and return the mode that it has.

    A connection that has to change the mode while another one writes is told BUSY at once: SQLite
    does not ask its busy handler there. So two that open one new file would fail, and wait here.

    Raises:
        sqlite3.Error: also where the time was not enough.
    """
    deadline = time.monotonic() + busy_milliseconds / 1000
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.Error as error:
            if not is_locked(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return str(mode)


def open_inserter(database: Path) -> sqlite3.Connection:
    """Open a writer that also has the view `incoming`.

    Raises:
        StoreError: as `open_writer`.
    """
    connection = open_writer(database)
    try:
        connection.executescript(_INCOMING)
    except sqlite3.Error as exc:
        connection.close()
        raise store_error("open the receipt store", exc) from exc
    return connection


def open_reader(database: Path) -> sqlite3.Connection:
    """Open a read-only connection; under WAL it neither blocks the writer nor waits for it."""
    try:
        connection = sqlite3.connect(
            f"{database.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=SETUP_BUSY_MILLISECONDS / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as exc:
        raise store_error("open the receipt store", exc) from exc
    return connection


def prepare(database: Path, issuer_key_id: bytes) -> tuple[int, int]:
    """Create the tables where there are none, and register the issuer.

    The caller MUST hold the directory's lock.

    Returns:
        The issuer's number in this store, and its highest sequence number (0 for none).

    Raises:
        StoreError: `unsupported-version` for a later schema; `store-failed` for a file that is
            not a receipt store; `store-locked`.
    """
    with contextlib.closing(
        open_writer(database, busy_milliseconds=SETUP_BUSY_MILLISECONDS)
    ) as connection:
        try:
            _create_or_check(connection)
            connection.execute(
                "INSERT OR IGNORE INTO issuers (key_id) VALUES (?)", (issuer_key_id,)
            )
            (issuer,) = connection.execute(
                "SELECT issuer FROM issuers WHERE key_id = ?", (issuer_key_id,)
            ).fetchone()
            (highest,) = connection.execute(
                "SELECT coalesce(max(sequence), 0) FROM receipts WHERE issuer = ?", (issuer,)
            ).fetchone()
        except sqlite3.Error as exc:
            raise store_error("prepare the receipt store", exc) from exc
    return int(issuer), int(highest)


def _create_or_check(connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        # One transaction: a crash in the middle leaves an empty file, which is created again.
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        return
    if application != APPLICATION_ID:
        raise StoreError("the file is not a receipt store", reason=Reason.STORE_FAILED)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"expected receipt store version {SCHEMA_VERSION}, got {version}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
