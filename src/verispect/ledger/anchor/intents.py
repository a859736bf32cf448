"""What an account means to have in the chain, written down before anything is sent.

An intent is one call that shall be in the chain once. An attempt is one signed transaction for
it, kept whole, so that after a crash the same bytes are sent again: the same bytes have the same
hash and the same nonce, and a chain takes a nonce once.

The store refuses a second content under one name, and a tree that is not larger than one that was
ever meant to be anchored, whether or not anything of it was sent. One process has it open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Reason, StoreError, VerificationError
from verispect.ledger.anchor.chain import Fees, Inclusion
from verispect.ledger.locks import sync_directory
from verispect.ledger.schema import store_error

DATABASE_NAME: Final = "anchor.sqlite3"
LOCK_NAME: Final = "anchor.lock"
SCHEMA_VERSION: Final = 1

_TABLES: Final = """
CREATE TABLE intents (
  intent INTEGER PRIMARY KEY,
  chain TEXT NOT NULL,
  account TEXT NOT NULL,
  target TEXT NOT NULL,
  name TEXT NOT NULL,
  data BLOB NOT NULL,
  subject TEXT,
  size INTEGER,
  nonce INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'done', 'refused')),
  block_number INTEGER,
  block_hash BLOB,
  gas_used INTEGER,
  contract TEXT,
  UNIQUE (chain, account, target, name)
) STRICT;

CREATE TABLE attempts (
  attempt INTEGER PRIMARY KEY,
  intent INTEGER NOT NULL REFERENCES intents (intent),
  nonce INTEGER NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  raw BLOB NOT NULL,
  maximum_fee TEXT NOT NULL,
  priority_fee TEXT
) STRICT;

CREATE TRIGGER attempts_are_not_updated BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;

CREATE TRIGGER attempts_are_not_deleted BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;

CREATE TRIGGER intents_are_not_deleted BEFORE DELETE ON intents
BEGIN SELECT RAISE(ABORT, 'intents are append-only'); END;
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that shall be in the chain once."""

    name: str
    """Unique for the account and the target: it says what the call is for."""

    target: str | None
    """Address of the contract; absent where the call creates one."""

    data: bytes
    subject: str | None = None
    """Whose trees are anchored, where a tree is."""

    size: int | None = None
    """Size of the tree."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction."""

    nonce: int
    hash: bytes
    raw: bytes
    fees: Fees


class IntentState(StrEnum):
    """How far an intent has got."""

    OPEN = "open"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Intent:
    """An intent as it is written down."""

    number: int
    call: Call
    nonce: int
    state: IntentState
    inclusion: Inclusion | None
    attempts: tuple[Attempt, ...]


class IntentStore:
    """The intents of one account on one chain, in a directory.

    Raises:
        StoreError: `store-locked` where another process has it, `store-failed`,
            `unsupported-version`.
    """

    def __init__(self, directory: Path, *, chain_id: int, account: str) -> None:
        self._key = (str(chain_id), account)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot open the anchor's state: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._connection = _open(directory / DATABASE_NAME)
            sync_directory(directory)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StoreError(
                "another process is anchoring with this state", reason=Reason.STORE_LOCKED
            ) from error
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of the directory; a second time does nothing."""
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    # -- Reading ------------------------------------------------------------------------------

    def find(self, call: Call) -> Intent | None:
        """Return the intent of that name and target."""
        found = self._select("target = ? AND name = ?", call.target or "", call.name)
        return found[0] if found else None

    def open_intents(self) -> list[Intent]:
        """Return what is not in the chain yet, in the order of nonces."""
        return self._select("state = 'open'")

    def done_intents(self) -> list[Intent]:
        """Return what was seen in the chain, newest first."""
        return self._select("state = 'done'")[::-1]

    def next_nonce(self) -> int:
        """Return the nonce after those of open intents, or 0."""
        with self._errors("read the anchor's state"):
            (highest,) = self._connection.execute(
                "SELECT max(nonce) FROM intents WHERE chain = ? AND account = ? AND state = 'open'",
                self._key,
            ).fetchone()
        return 0 if highest is None else int(highest) + 1

    def check(self, call: Call) -> None:
        """Refuse a call that contradicts what was ever intended.

        Raises:
            VerificationError: `anchor-conflict`.
        """
        known = self.find(call)
        if known is not None and known.call.data != call.data:
            raise VerificationError(
                "another content was meant to be anchored in this place",
                reason=Reason.ANCHOR_CONFLICT,
            )
        if known is not None or call.size is None:
            return
        with self._errors("read the anchor's state"):
            (largest,) = self._connection.execute(
                "SELECT max(size) FROM intents WHERE chain = ? AND target = ? AND subject = ?",
                (self._key[0], call.target or "", call.subject),
            ).fetchone()
        if largest is not None and call.size <= largest:
            raise VerificationError(
                f"a tree of {largest} leaves was meant to be anchored before this of {call.size}",
                reason=Reason.ANCHOR_CONFLICT,
            )

    # -- Writing ------------------------------------------------------------------------------

    def begin(self, call: Call, attempt: Attempt) -> Intent:
        """Write an intent down with its first attempt; when this returns it is durable.

        Raises:
            VerificationError: `anchor-conflict`.
        """
        self.check(call)
        with self._transaction("write an intent"):
            row = (call.target or "", call.name, call.data, call.subject, call.size, attempt.nonce)
            cursor = self._connection.execute(
                "INSERT INTO intents (chain, account, target, name, data, subject, size, nonce,"
                " state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'open')",
                (*self._key, *row),
            )
            number = cursor.lastrowid
            self._add_attempt(number, attempt)
        return self._by_number(number)

    def retry(self, intent: Intent, attempt: Attempt) -> Intent:
        """Write another attempt down: of the same nonce to pay more, of another to start anew."""
        with self._transaction("write an attempt"):
            self._connection.execute(
                "UPDATE intents SET nonce = ?, state = 'open' WHERE intent = ?",
                (attempt.nonce, intent.number),
            )
            self._add_attempt(intent.number, attempt)
        return self._by_number(intent.number)

    def finish(self, intent: Intent, inclusion: Inclusion) -> Intent:
        """Write down that, and where, the call is in the chain."""
        state = IntentState.DONE if inclusion.succeeded else IntentState.REFUSED
        with self._transaction("write an outcome"):
            self._connection.execute(
                "UPDATE intents SET state = ?, block_number = ?, block_hash = ?, gas_used = ?,"
                " contract = ? WHERE intent = ?",
                (
                    state,
                    inclusion.block_number,
                    inclusion.block_hash,
                    inclusion.gas_used,
                    inclusion.contract,
                    intent.number,
                ),
            )
        return self._by_number(intent.number)

    def set_state(self, intent: Intent, state: IntentState) -> Intent:
        """Write down that a call left the chain again, or that the contract refuses it."""
        with self._transaction("write an outcome"):
            self._connection.execute(
                "UPDATE intents SET state = ?, block_number = NULL, block_hash = NULL,"
                " gas_used = NULL, contract = NULL WHERE intent = ?",
                (state, intent.number),
            )
        return self._by_number(intent.number)

    def _add_attempt(self, number: int | None, attempt: Attempt) -> None:
        priority = attempt.fees.priority
        self._connection.execute(
            "INSERT OR IGNORE INTO attempts (intent, nonce, hash, raw, maximum_fee,"
            " priority_fee) VALUES (?, ?, ?, ?, ?, ?)",
            (
                number,
                attempt.nonce,
                attempt.hash,
                attempt.raw,
                str(attempt.fees.maximum),
                None if priority is None else str(priority),
            ),
        )

    # -- Rows ---------------------------------------------------------------------------------

    def _by_number(self, number: int | None) -> Intent:
        return self._select("intent = ?", number)[0]

    def _select(self, condition: str, *values: Any) -> list[Intent]:
        with self._errors("read the anchor's state"):
            rows = self._connection.execute(
                "SELECT intent, target, name, data, subject, size, nonce, state, block_number,"  # noqa: S608
                " block_hash, gas_used, contract FROM intents"
                f" WHERE chain = ? AND account = ? AND {condition} ORDER BY nonce, intent",
                (*self._key, *values),
            ).fetchall()
            return [self._intent(row) for row in rows]

    def _intent(self, row: tuple[Any, ...]) -> Intent:
        number, target, name, data, subject, size, nonce, state, block, block_hash, gas, made = row
        attempts = self._connection.execute(
            "SELECT nonce, hash, raw, maximum_fee, priority_fee FROM attempts WHERE intent = ?"
            " ORDER BY attempt",
            (number,),
        )
        return Intent(
            number,
            Call(name, target or None, data, subject, size),
            nonce,
            IntentState(state),
            None
            if block is None
            else Inclusion(block, block_hash, state == IntentState.DONE, gas, made),
            tuple(
                Attempt(at, key, raw, Fees(int(maximum), None if low is None else int(low)))
                for at, key, raw, maximum, low in attempts
            ),
        )

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        with self._errors(doing):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @staticmethod
    @contextlib.contextmanager
    def _errors(doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(doing, error) from error


def _open(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = DELETE")
        # A commit that has returned is on the disk, its journal's removal included.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA foreign_keys = ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(
                f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise StoreError(
                "the anchor's state is of another version", reason=Reason.UNSUPPORTED_VERSION
            )
    except sqlite3.Error as error:
        raise store_error("open the anchor's state", error) from error
    return connection
