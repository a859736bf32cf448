"""The receipt store: numbers receipts without a gap and keeps them before any answer leaves.

A store is a directory:

    receipts.sqlite3 (-wal, -shm)   the database (`schema`)
    high-water                      how far it is known to have got (`high_water`)
    setup.lock, owners/             locks of the processes that have it open (`locks`)

Several processes of one machine, and several event loops of one process, may use one store at the
same time. It refuses a network file system's semantics, use after a fork, a database of a later
version and a database that was replaced by an older copy. It never deletes a receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import Reason, StoreError
from verispect.ledger import high_water
from verispect.ledger.check import StoreReport, check
from verispect.ledger.gathering import Gathering
from verispect.ledger.housekeeper import Housekeeper
from verispect.ledger.locks import OwnerLock, setup_lock, sync_directory
from verispect.ledger.records import (
    INFERENCE_ID_BYTES,
    MAX_OPENINGS_BYTES,
    MAX_RECOVERY_BYTES,
    InterruptedStream,
    NewReceipt,
    StoredReceipt,
)
from verispect.ledger.schema import DATABASE_NAME, open_reader, prepare, store_error
from verispect.ledger.transaction import ERASE_SLICE
from verispect.ledger.work import (
    CheckpointStream,
    EraseOpenings,
    Issue,
    OpenStream,
    TakeInterruptedStreams,
    TruncateLog,
    Waiting,
    Work,
)
from verispect.ledger.writer import Writer

MAX_WAITING: Final = 65_536
"""Pieces of work that may wait for the writer; more are refused."""

MAX_KEY_ID_BYTES: Final = 128

_TRUNCATE_ATTEMPTS: Final = 20
_TRUNCATE_PAUSE_SECONDS: Final = 0.01

_FIND: Final = "SELECT sequence, receipt_id, inference_id, receipt, issued_at FROM receipts WHERE "

_log = logging.getLogger(__name__)
_kept_after_fork: list[object] = []


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class ReceiptStore:
    """A durable, numbered, append-only store of receipts. Made by `open`; close it."""

    def __init__(self, directory: Path, writer: Writer, housekeeper: Housekeeper) -> None:
        self._directory = directory
        self._database = directory / DATABASE_NAME
        self._writer = writer
        self._housekeeper = housekeeper
        self._reader = open_reader(self._database)
        self._reader_lock = threading.Lock()
        self._gate = threading.Lock()
        self._closed = False
        self._gathering = Gathering(writer.inbox, self._gate)
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        issuer_key_id: bytes,
        clock: Callable[[], int] = _wall_clock,
        lock_timeout_seconds: float = 5.0,
        unsafe_accept_rollback: bool = False,
    ) -> Self:
        """Open the store in directory `path`, creating both where they do not exist.

        Args:
            path: the directory, on a local file system.
            issuer_key_id: the key whose sequence is continued; each key has its own.
            clock: milliseconds since the epoch, for `StoredReceipt.issued_at`.
            lock_timeout_seconds: how long a batch waits for another process's commit.
            unsafe_accept_rollback: continue although numbers that were issued are missing, and
                issue them again. Outside, this looks like an issuer that signs one number
                twice; a new issuer key is the honest way on.

        Raises:
            StoreError: `store-rolled-back` (see `high_water` for what that detects),
                `unsupported-version`, `store-locked`, `store-failed`.
        """
        if not 0 < len(issuer_key_id) <= MAX_KEY_ID_BYTES:
            raise ValueError(f"expected a key id of 1 to {MAX_KEY_ID_BYTES} bytes")
        directory = Path(path)
        database = directory / DATABASE_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with setup_lock(directory), contextlib.ExitStack() as undo:
                issuer, highest = prepare(database, issuer_key_id)
                noted = high_water.read(directory).get(issuer_key_id, 0)
                if noted > highest:
                    _refuse_rollback(noted, highest, accepted=unsafe_accept_rollback)
                if noted != highest:
                    high_water.replace(directory, issuer_key_id, highest)
                # SQLite syncs the WAL's name into the directory, but not the database's.
                sync_directory(directory)
                owner = OwnerLock(directory)
                undo.callback(owner.release)
                owner.forget_dead()
                housekeeper = Housekeeper(
                    directory, database, issuer_key_id=issuer_key_id, noted=highest
                )
                undo.callback(housekeeper.connection.close)
                writer = Writer(
                    database,
                    issuer=issuer,
                    owner=owner,
                    housekeeper=housekeeper,
                    clock=clock,
                    lock_timeout_seconds=lock_timeout_seconds,
                )
                if writer.connection is not None:
                    undo.callback(writer.connection.close)
                store = cls(directory, writer, housekeeper)
                undo.pop_all()
        except OSError as exc:
            raise StoreError(
                f"cannot open the receipt store: {type(exc).__name__}", reason=Reason.STORE_FAILED
            ) from exc
        _guard_against_fork(store)
        housekeeper.start()
        writer.start()
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- writing ------------------------------------------------------------------------------

    async def issue(self, new: NewReceipt) -> StoredReceipt:
        """Number, mint and keep a receipt; returns only after it is durable.

        An open stream of the same inference ends in the same commit. If the caller is cancelled
        while it waits, the receipt may or may not be issued; `find` tells.

        Raises:
            StoreError: nothing was issued. `store-conflict`: the inference id already has a
                receipt; `store-locked`; `store-failed`: disk full or failing, store closed, or
                too many waiting; `too-large`.
            Exception: whatever `new.mint` raised; no number was spent.
        """
        _check_inference_id(new.inference_id)
        if new.openings is not None:
            _check_size("openings", new.openings, MAX_OPENINGS_BYTES)
        stored: StoredReceipt = await self._submit(Issue(new))
        return stored

    async def open_stream(self, inference_id: bytes, recovery: bytes) -> None:
        """Remember, durably, that a stream begins; `issue` for the same id ends it.

        Args:
            inference_id: 16 bytes, without a receipt or an open stream.
            recovery: what a later process needs to mint the receipt of the interrupted stream.

        Raises:
            StoreError: `store-conflict`, `store-locked`, `store-failed`, `too-large`.
        """
        _check_inference_id(inference_id)
        _check_size("recovery", recovery, MAX_RECOVERY_BYTES)
        await self._submit(OpenStream(inference_id, recovery))

    async def checkpoint_stream(self, inference_id: bytes, recovery: bytes) -> None:
        """Replace, durably, the recovery bytes of a stream that this store has open.

        Raises:
            StoreError: `store-conflict` when no such stream is open here; `store-locked`,
                `store-failed`, `too-large`.
        """
        _check_inference_id(inference_id)
        _check_size("recovery", recovery, MAX_RECOVERY_BYTES)
        await self._submit(CheckpointStream(inference_id, recovery))

    async def interrupted_streams(self) -> list[InterruptedStream]:
        """Take over the open streams of processes that are gone.

        Each stream is handed to exactly one caller, who now owns it and ends it with `issue`. If
        that process dies too, the next caller gets it.

        Raises:
            StoreError: `store-locked`, `store-failed`.
        """
        streams: list[InterruptedStream] = await self._submit(TakeInterruptedStreams())
        return streams

    async def erase_openings(self, *, older_than: int) -> int:
        """Delete the openings of receipts issued before `older_than`, and return how many.

        The bytes are overwritten in the database and the WAL is emptied. What the disk, its
        snapshots or a backup keep is beyond this. The receipts stay.

        Args:
            older_than: milliseconds since the epoch.

        Raises:
            StoreError: `store-locked`, `store-failed`; what was erased before stays erased.
        """
        erased = 0
        while True:
            count: int = await self._submit(EraseOpenings(older_than))
            erased += count
            if count < ERASE_SLICE:
                break
        if erased:
            await self._empty_log()
        return erased

    async def _empty_log(self) -> None:
        for _ in range(_TRUNCATE_ATTEMPTS):
            if await self._submit(TruncateLog()):
                return
            await asyncio.sleep(_TRUNCATE_PAUSE_SECONDS)
        _log.warning("erased openings stay in the write-ahead log until it is reused")

    async def _submit(self, work: Work) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._check_process()
        with self._gate:
            if self._closed:
                raise StoreError("the receipt store is closed", reason=Reason.STORE_FAILED)
            if self._writer.inbox.qsize() + len(self._gathering) >= MAX_WAITING:
                raise StoreError(
                    f"{MAX_WAITING} writes already wait for the receipt store",
                    reason=Reason.STORE_FAILED,
                )
            self._gathering.add(Waiting(work, loop, future))
        return await future

    # -- reading ------------------------------------------------------------------------------

    def find(self, identifier: bytes) -> StoredReceipt | None:
        """Return the receipt with this inference id (16 bytes) or receipt id (32 bytes).

        It reads from its own connection and never waits for the writer. Receipts of every
        issuer key of the store are found.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        if len(identifier) == INFERENCE_ID_BYTES:
            row = self._read_one(_FIND + "inference_id = ?", identifier)
        elif len(identifier) == DIGEST_BYTES:
            row = self._read_one(_FIND + "receipt_id = ?", identifier)
        else:
            return None
        return StoredReceipt(*row) if row else None

    def openings(self, inference_id: bytes) -> bytes | None:
        """Return the openings kept for this inference; `None` if there are none or no more.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        row = self._read_one(
            "SELECT content FROM openings JOIN receipts USING (entry) WHERE inference_id = ?",
            inference_id,
        )
        return row[0] if row else None

    def _read_one(self, query: str, identifier: bytes) -> tuple[Any, ...] | None:
        self._check_process()
        with self._reader_lock:
            if self._closed:
                raise StoreError("the receipt store is closed", reason=Reason.STORE_FAILED)
            try:
                # All rows, so that the statement ends here and holds no snapshot open.
                rows = self._reader.execute(query, (identifier,)).fetchall()
            except sqlite3.Error as exc:
                raise store_error("read the receipt store", exc) from exc
        return rows[0] if rows else None

    def check(self) -> StoreReport:
        """Audit the whole store: see `StoreReport`. Blocks for as long as reading it all takes.

        Raises:
            StoreError: `store-failed` when it cannot be read; `store-locked`.
        """
        self._check_process()
        return check(self._directory, self._database)

    @staticmethod
    def check_directory(path: str | os.PathLike[str]) -> StoreReport:
        """Audit the store in directory `path` without opening it for writing; as `check`."""
        return check(Path(path), Path(path) / DATABASE_NAME)

    # -- ending -------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finish what was asked for, then close; streams still open become interrupted ones."""
        self._check_process()
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._gathering.hand_over_all()
            self._writer.inbox.put(None)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._writer.join()
        with self._reader_lock:
            self._reader.close()
        self._housekeeper.stop()
        self._writer.owner.release()

    # -- forks --------------------------------------------------------------------------------

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a receipt store must be opened again after a fork")

    def abandon_after_fork(self) -> None:
        """Make the copy in a forked child harmless; run by the fork itself."""
        if self._closed:
            return
        self._writer.owner.abandon_after_fork()
        # SQLite forbids that a child closes its parent's connections, and so does not want them
        # collected either.
        _kept_after_fork.append((self._reader, self._writer, self._housekeeper))


def _guard_against_fork(store: ReceiptStore) -> None:
    reference = weakref.ref(store)

    def in_child() -> None:
        forked = reference()
        if forked is not None:
            forked.abandon_after_fork()

    os.register_at_fork(after_in_child=in_child)


def _refuse_rollback(noted: int, highest: int, *, accepted: bool) -> None:
    if not accepted:
        raise StoreError(
            f"the receipt store is older than it was: expected sequence {noted} or above,"
            f" got {highest}",
            reason=Reason.STORE_ROLLED_BACK,
        )
    _log.warning(
        "unsafe: accepting a receipt store rolled back from sequence %d to %d", noted, highest
    )


def _check_inference_id(inference_id: bytes) -> None:
    if len(inference_id) != INFERENCE_ID_BYTES:
        raise ValueError(f"expected an inference id of {INFERENCE_ID_BYTES} bytes")


def _check_size(what: str, content: bytes, limit: int) -> None:
    if len(content) > limit:
        raise StoreError(
            f"expected {what} of at most {limit} bytes, got {len(content)}",
            reason=Reason.TOO_LARGE,
        )
