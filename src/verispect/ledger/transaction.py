"""One group commit: stage every piece of work of a batch in one transaction, or none of it.

What fails for its own reasons (a mint that raises, an id used twice) fails alone and takes no
number. What fails for the store's reasons (disk full, lock held) fails the whole batch, and no
number of it is spent.

Every SQLite call hands the interpreter lock over and has to win it back from a busy event loop.
All receipts of a batch are therefore one statement, and a batch of nothing else can be a
transaction of its own with that statement alone: see `Transaction.stage`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from verispect.core.encoding import sha256
from verispect.core.errors import Error, Reason, StoreError
from verispect.ledger.locks import OwnerLock
from verispect.ledger.records import (
    MAX_RECEIPT_BYTES,
    InterruptedStream,
    NewReceipt,
    StoredReceipt,
)
from verispect.ledger.work import (
    CheckpointStream,
    EraseOpenings,
    Issue,
    OpenStream,
    TakeInterruptedStreams,
    Waiting,
)

ERASE_SLICE: Final = 256
"""Openings deleted in one transaction, so that erasing does not hold up the receipts."""

COMMIT_LOG_BYTES: Final = 8 * 1024
RECEIPT_LOG_BYTES: Final = 8 * 1024
"""Measured: what a commit, and each receipt beside its content, adds to the WAL in whole pages."""

_HIGHEST: Final = "SELECT coalesce(max(sequence), 0) FROM receipts WHERE issuer = ?"
_COLUMNS: Final = 7
_INFERENCE_ID: Final = 2


@cache
def _insertion(rows: int) -> str:
    row = f"({', '.join('?' * _COLUMNS)})"
    return f"INSERT INTO incoming VALUES {', '.join([row] * rows)}"  # noqa: S608 - no values


class _Refusal(Exception):  # noqa: N818
    """Carries the error of one piece of work out of its step; never leaves this module."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@dataclass(slots=True)
class Transaction:
    """The staging of one batch. Use once: `stage`, then commit, then read what it changed."""

    connection: sqlite3.Connection
    issuer: int
    owner: OwnerLock
    streams: AbstractSet[bytes]
    """Inference ids of the streams that this process holds open; not changed here."""

    clock: Callable[[], int]
    careful: bool = False
    """Look each id up before it is used: for repeating a batch that met a used one."""

    found: int = 0
    """The issuer's highest sequence number before this."""

    highest: int = 0
    """The issuer's highest sequence number once this is committed."""

    written: int = COMMIT_LOG_BYTES
    """Bytes that this adds to the WAL, roughly, for pacing checkpoints."""

    opened: set[bytes] = field(default_factory=set)
    closed: set[bytes] = field(default_factory=set)
    forgotten_owners: set[str] = field(default_factory=set)
    _rows: int = 0
    _values: list[Any] = field(default_factory=list)
    _staged_ids: set[bytes] = field(default_factory=set)

    def stage(self, batch: Sequence[Waiting], *, after: int | None = None) -> None:
        """Write the batch and set each outcome.

        Args:
            batch: what to write.
            after: `None` in an open transaction; the issuer's highest number is then read in it.
                A number outside of one: the batch, of receipts only, goes on from there and is
                committed when this returns. The number is what was last seen and may be wrong;
                the database then refuses the statement, and nothing was written.

        Raises:
            sqlite3.Error: when nothing of the batch can be committed.
        """
        if after is None:
            (after,) = self.connection.execute(_HIGHEST, (self.issuer,)).fetchone()
        self.found = self.highest = after
        for waiting in batch:
            try:
                waiting.outcome = self._stage_one(waiting)
            except _Refusal as refusal:
                waiting.outcome = refusal.error
        if self._rows:
            self.connection.execute(_insertion(self._rows), self._values)
        for inference_id in self.closed:
            self.connection.execute(
                "DELETE FROM open_streams WHERE inference_id = ?", (inference_id,)
            )

    def _stage_one(self, waiting: Waiting) -> Any:
        match waiting.work:
            case Issue(new):
                return self._issue(new)
            case OpenStream(inference_id, recovery):
                return self._open_stream(inference_id, recovery)
            case CheckpointStream(inference_id, recovery):
                return self._checkpoint_stream(inference_id, recovery)
            case TakeInterruptedStreams():
                return self._take_interrupted_streams()
            case EraseOpenings(older_than):
                return self._erase_openings(older_than)
            case _:
                raise AssertionError(waiting.work)

    def _issue(self, new: NewReceipt) -> StoredReceipt:
        if self.careful:
            self._refuse_if_used("inference_id", new.inference_id)
        sequence = self.highest + 1
        try:
            receipt = new.mint(sequence)
        except Exception as exc:
            raise _Refusal(exc) from exc
        if type(receipt) is not bytes or not receipt:
            raise _Refusal(TypeError("mint must return bytes, at least one"))
        if len(receipt) > MAX_RECEIPT_BYTES:
            raise _Refusal(
                StoreError(
                    f"expected a receipt of at most {MAX_RECEIPT_BYTES} bytes, got {len(receipt)}",
                    reason=Reason.TOO_LARGE,
                )
            )
        receipt_id = sha256(receipt)
        if self.careful:
            self._refuse_if_used("receipt_id", receipt_id)
            self._staged_ids.update((new.inference_id, receipt_id))
        now = self.clock()
        self.highest = sequence
        self._rows += 1
        inference_id, openings = new.inference_id, new.openings
        self._values += (
            self.issuer,
            sequence,
            inference_id,
            receipt_id,
            now,
            receipt,
            openings,
        )
        self.written += len(receipt) + RECEIPT_LOG_BYTES
        if openings is not None:
            self.written += len(openings)
        if inference_id in self.streams or inference_id in self.opened:
            self.closed.add(inference_id)
        return StoredReceipt(sequence, receipt_id, inference_id, receipt, now)

    def _refuse_if_used(self, column: str, identifier: bytes) -> None:
        used = (
            identifier in self._staged_ids
            or self.connection.execute(
                f"SELECT 1 FROM receipts WHERE {column} = ?",  # noqa: S608 - one of two literals
                (identifier,),
            ).fetchone()
        )
        if used:
            raise _Refusal(_conflict(f"this {column.replace('_', ' ')} already has a receipt"))

    def _open_stream(self, inference_id: bytes, recovery: bytes) -> None:
        used = self.connection.execute(
            "SELECT 1 FROM receipts WHERE inference_id = ?1"
            " UNION ALL SELECT 1 FROM open_streams WHERE inference_id = ?1",
            (inference_id,),
        ).fetchone()
        if used or inference_id in self._values[_INFERENCE_ID::_COLUMNS]:
            raise _Refusal(_conflict("this inference id already has a stream or a receipt"))
        self.connection.execute(
            "INSERT INTO open_streams (inference_id, owner, recovery) VALUES (?, ?, ?)",
            (inference_id, self.owner.token, recovery),
        )
        self.opened.add(inference_id)
        self.written += len(recovery)

    def _checkpoint_stream(self, inference_id: bytes, recovery: bytes) -> None:
        changed = self.connection.execute(
            "UPDATE open_streams SET recovery = ? WHERE inference_id = ? AND owner = ?",
            (recovery, inference_id, self.owner.token),
        ).rowcount
        if changed != 1:
            raise _Refusal(_conflict("no such stream is open here"))
        self.written += len(recovery)

    def _take_interrupted_streams(self) -> list[InterruptedStream]:
        owners = self.connection.execute("SELECT DISTINCT owner FROM open_streams").fetchall()
        taken = []
        for (token,) in owners:
            if not self.owner.is_dead(token):
                continue
            taken += self.connection.execute(
                "SELECT inference_id, recovery FROM open_streams WHERE owner = ?", (token,)
            ).fetchall()
            self.connection.execute(
                "UPDATE open_streams SET owner = ? WHERE owner = ?", (self.owner.token, token)
            )
            self.forgotten_owners.add(token)
        self.opened.update(inference_id for inference_id, _ in taken)
        return [InterruptedStream(*row) for row in taken]

    def _erase_openings(self, older_than: int) -> int:
        # The rowid list is materialised first: deleting while walking the index is not defined.
        return self.connection.execute(
            "DELETE FROM openings WHERE entry IN"
            " (SELECT entry FROM openings WHERE issued_at < ? ORDER BY issued_at LIMIT ?)",
            (older_than, ERASE_SLICE),
        ).rowcount


def _conflict(message: str) -> Error:
    return StoreError(message, reason=Reason.STORE_CONFLICT)
