"""The one thread that writes: gathers work into batches and makes each durable with one commit.

Invariants:

- a future resolves only after the commit that holds its work has been fsynced (WAL with
  `synchronous=FULL`), or after that commit failed and was rolled back;
- the database decides the next sequence number, inside the transaction and under its write lock,
  so that several processes share one gapless sequence. A writer that found nobody else's numbers
  since its last commit proposes the one after its own, and the database refuses any other than
  the next; a writer that was refused, or is not alone, reads the number first;
- there is no delay on purpose: what arrives while a commit runs is the next batch.

A commit that reports failure may still be found on disk after a crash, if the disk failed after
it had taken the bytes. Its caller was told that it failed, so no answer left; its number is then
taken by the receipt that is found, and by no other.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError
from verispect.ledger.housekeeper import Housekeeper
from verispect.ledger.locks import OwnerLock
from verispect.ledger.schema import is_locked, open_inserter, store_error
from verispect.ledger.transaction import Transaction
from verispect.ledger.work import Issue, TruncateLog, Waiting, deliver

MAX_BATCH: Final = 128
"""Pieces of work in one commit."""

MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""Content gathered into one commit before it is closed to more."""

_FIRST_RETRY_SECONDS: Final = 0.000_1
_LAST_RETRY_SECONDS: Final = 0.005

_log = logging.getLogger(__name__)


class Writer(threading.Thread):
    """The writer thread. It owns its connection; nothing else may touch that."""

    def __init__(
        self,
        database: Path,
        *,
        issuer: int,
        owner: OwnerLock,
        housekeeper: Housekeeper,
        clock: Callable[[], int],
        lock_timeout_seconds: float,
    ) -> None:
        super().__init__(name="verispect-receipts", daemon=True)
        self.inbox: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        """Work in the order in which it came; `None` says that no more follows."""

        self.connection: sqlite3.Connection | None = open_inserter(database)
        self._database = database
        self._issuer = issuer
        self.owner = owner
        self._housekeeper = housekeeper
        self._clock = clock
        self._lock_timeout_seconds = lock_timeout_seconds
        self._streams: set[bytes] = set()
        self._highest: int | None = None
        self._alone = False
        self._stopping = False

    def run(self) -> None:
        """Write batches until the inbox is closed and empty."""
        while not self._stopping:
            batch = self._gather()
            if batch:
                self._process(batch)
                deliver(batch)
                # Not in `_process`: a checkpoint must not stand between a commit and its callers.
                if self._housekeeper.checkpoint_is_nearly_done():
                    self._checkpoint("PASSIVE")
        if self.connection is not None:
            self.connection.close()

    def _gather(self) -> list[Waiting]:
        first = self.inbox.get()
        batch: list[Waiting] = []
        size = 0
        while first is not None:
            batch.append(first)
            size += first.size
            if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
                return batch
            try:
                first = self.inbox.get_nowait()
            except queue.Empty:
                return batch
        self._stopping = True
        return batch

    def _process(self, batch: list[Waiting]) -> None:
        for waiting in batch:
            if isinstance(waiting.work, TruncateLog):
                waiting.outcome = self._checkpoint("TRUNCATE")
        writes = [waiting for waiting in batch if not isinstance(waiting.work, TruncateLog)]
        if not writes:
            return
        try:
            self._commit(writes)
        except StoreError as error:
            outcome = error
        except Exception:  # noqa: BLE001
            # A thread that dies would leave every caller waiting for ever.
            _log.exception("the receipt writer met an unexpected error")
            outcome = StoreError("cannot write the batch", reason=Reason.STORE_FAILED)
        else:
            return
        for waiting in writes:
            # One each: a raised exception is changed by the frames that it passes.
            waiting.outcome = StoreError(outcome.message, reason=outcome.reason)
            waiting.outcome.__cause__ = outcome.__cause__

    def _commit(self, batch: list[Waiting]) -> None:
        try:
            if not self._attempt_at_once(batch):
                self._attempt(batch, careful=False)
        except sqlite3.IntegrityError:
            # Some id of the batch is taken. Ask before each row this time, so that only its own
            # caller is refused; the ids are random, so this is not worth a look-up every time.
            try:
                self._attempt(batch, careful=True)
            except sqlite3.Error as exc:
                raise store_error("write the batch", exc) from exc
        except sqlite3.Error as exc:
            raise store_error("write the batch", exc) from exc

    def _attempt_at_once(self, batch: list[Waiting]) -> bool:
        """Commit a batch of receipts with one statement, where that may do; tell whether it did.

        Three calls less of SQLite, and so three waits less for the interpreter lock.
        """
        connection, after = self.connection, self._highest
        if connection is None or after is None or not self._alone:
            return False
        for waiting in batch:
            work = waiting.work
            if type(work) is not Issue or work.new.inference_id in self._streams:
                return False
        transaction = self._transaction(connection, careful=False)
        try:
            transaction.stage(batch, after=after)
        except BaseException as exc:
            self._alone = False
            refused = isinstance(exc, sqlite3.IntegrityError)
            if refused or (isinstance(exc, sqlite3.Error) and is_locked(exc)):
                return False
            self._roll_back(exc)
            raise
        self._committed(transaction)
        return True

    def _attempt(self, batch: list[Waiting], *, careful: bool) -> None:
        connection = self._begin()
        transaction = self._transaction(connection, careful=careful)
        try:
            transaction.stage(batch)
            connection.execute("COMMIT")
        except BaseException as exc:
            self._alone = False
            self._roll_back(exc)
            raise
        self._alone = transaction.found == self._highest
        self._committed(transaction)

    def _transaction(self, connection: sqlite3.Connection, *, careful: bool) -> Transaction:
        return Transaction(
            connection, self._issuer, self.owner, self._streams, self._clock, careful
        )

    def _committed(self, transaction: Transaction) -> None:
        self._highest = transaction.highest
        self._streams |= transaction.opened
        self._streams -= transaction.closed
        if transaction.forgotten_owners:
            self.owner.forget(transaction.forgotten_owners)
        self._housekeeper.committed(transaction.highest, transaction.written)

    def _begin(self) -> sqlite3.Connection:
        """Take the write lock, waiting for other processes up to the bound."""
        deadline = time.monotonic() + self._lock_timeout_seconds
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                if self.connection is None:
                    self.connection = open_inserter(self._database)
                self.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as exc:
                if not is_locked(exc) or time.monotonic() > deadline:
                    raise
            except StoreError as exc:
                if exc.reason is not Reason.STORE_LOCKED or time.monotonic() > deadline:
                    raise
            else:
                return self.connection
            # SQLite's own busy handler starts at 1 ms and ends at 100: too coarse for a lock
            # that is held for a few hundred microseconds.
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_RETRY_SECONDS)

    def _roll_back(self, cause: BaseException) -> None:
        connection = self.connection
        if connection is None:
            return
        usable = isinstance(cause, sqlite3.IntegrityError)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            usable = False
        if not usable:
            # After a failed write, a fresh connection reads what is on disk, not what was cached.
            self.connection = None
            connection.close()

    def _checkpoint(self, mode: str) -> bool:
        """Checkpoint the WAL; tell whether no reader or other writer was in the way."""
        if self.connection is None:
            return False
        try:
            busy, _, _ = self.connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as exc:
            _log.warning("%s", store_error("checkpoint the receipt store", exc))
            return False
        return not busy
