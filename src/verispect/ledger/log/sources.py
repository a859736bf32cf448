"""Where entries come from: the receipts of this machine's own gateway, and whoever submits leaves.

The receipt store is the outbox of receipts. It is followed in commit order through a connection of
its own, read-only, and how far it was followed is kept in the same commit as the entries it gave:
a receipt is never lost between the two, and never there twice. Nothing is added to the path of an
answer. What is followed is held against its digest and against the signature: a store that
somebody changed stops the log, and its bytes never get into it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from verispect.core.encoding import sha256
from verispect.core.errors import Reason, StoreError
from verispect.core.keys import PublicKey
from verispect.core.receipt import InferenceReceipt
from verispect.ledger.log.entries import entry_of_leaf, entry_of_receipt
from verispect.ledger.log.interface import Cursor, LogState, Placed
from verispect.ledger.schema import open_reader, store_error
from verispect.tlog.receipt_leaf import Disclosure

MAX_FOLLOWED: Final = 2048
"""Receipts that one call takes."""


class Source(Protocol):
    """Something that has entries for the log."""

    def follow(self, state: LogState) -> int:
        """Give the log what is new, at most one batch, and return how much that was."""
        ...


class Notice(Protocol):
    """Somebody who is told of every receipt before the log has it."""

    def position(self) -> int:
        """Return how many receipts of the outbox were told."""
        ...

    def receipts(self, receipts: Sequence[InferenceReceipt], *, position: int) -> None:
        """Take note of receipts, durably; `position` is that of the last. May come twice."""
        ...


class ReceiptOutbox:
    """The receipts of one `ReceiptStore`, as a `Source`.

    Args:
        database: the store's database.
        disclose: what leaves show in the clear, by the log's description.
        name: of the cursor; another for each store that one log follows.
        keys: the issuer's; a receipt under one of them must carry its signature.
        notice: told of every receipt, before the log has it.
    """

    def __init__(
        self,
        database: Path,
        *,
        disclose: Disclosure = Disclosure.NOTHING,
        name: str = "receipts",
        keys: Sequence[PublicKey] = (),
        notice: Notice | None = None,
    ) -> None:
        self._database = database
        self._disclose = disclose
        self._name = name
        self._keys = {key.key_id: key for key in keys}
        self._notice = notice
        self._connection: sqlite3.Connection | None = None

    def follow(self, state: LogState) -> int:
        """Give the log the receipts that it has not seen.

        Raises:
            StoreError: `store-rolled-back` where the store has fewer receipts than were followed;
                `store-failed`, also for a receipt that was changed; `store-locked`.
            MalformedError: for a receipt that is damaged; nothing after it is followed.
            VerificationError: `signature-invalid`; nothing after it is followed.
        """
        after = state.cursor(self._name)
        if self._notice is not None:
            self._catch_up(self._notice, after)
        receipts = self._receipts(after, MAX_FOLLOWED)
        if not receipts:
            return 0
        position = after + len(receipts)
        if self._notice is not None:
            self._notice.receipts(receipts, position=position)
        entries = [entry_of_receipt(receipt, disclose=self._disclose) for receipt in receipts]
        state.accept(entries, cursor=Cursor(self._name, position))
        return len(receipts)

    def _catch_up(self, notice: Notice, followed: int) -> None:
        """Tell of receipts that the log has and that were never told of."""
        while (told := notice.position()) < followed:
            receipts = self._receipts(told, min(MAX_FOLLOWED, followed - told))
            notice.receipts(receipts, position=told + len(receipts))

    def _receipts(self, after: int, limit: int) -> list[InferenceReceipt]:
        receipts = []
        for position, (entry, receipt_id, data) in enumerate(self._read(after, limit), after + 1):
            if entry != position:
                raise StoreError("a receipt is missing", reason=Reason.STORE_FAILED)
            if sha256(data) != receipt_id:
                raise StoreError(f"stored receipt {entry} was changed", reason=Reason.STORE_FAILED)
            receipt = InferenceReceipt.parse(data)
            key = self._keys.get(receipt.envelope.key_id)
            if key is not None:
                receipt.envelope.verify(key)
            receipts.append(receipt)
        return receipts

    def _read(self, after: int, limit: int) -> list[tuple[int, bytes, bytes]]:
        try:
            if self._connection is None:
                self._connection = open_reader(self._database)
            (last,) = self._connection.execute(
                "SELECT coalesce(max(entry), 0) FROM receipts"
            ).fetchone()
            rows = self._connection.execute(
                "SELECT entry, receipt_id, receipt FROM receipts WHERE entry > ?"
                " ORDER BY entry LIMIT ?",
                (after, limit),
            ).fetchall()
        except sqlite3.Error as error:
            raise store_error("follow the receipt store", error) from error
        if last < after:
            raise StoreError(
                f"{after} receipts were followed and {last} are there",
                reason=Reason.STORE_ROLLED_BACK,
            )
        return rows

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()


def submit(state: LogState, leaves: Sequence[bytes]) -> Sequence[Placed]:
    """Give the log leaves of any kind but receipts; durable on return.

    What they say, and who signed it, the caller has checked.

    Args:
        state: the log.
        leaves: late evidence, verdicts, refusals, missed deadlines, prompt versions, coverage,
            forks; one that the log has keeps its place.

    Raises:
        MalformedError: `malformed-leaf` and others; then none is taken.
        UnsupportedError: `unsupported-leaf`, `unsupported-version`, `unsupported-algorithm`.
        StoreError: `store-failed`, `store-locked`.
    """
    return state.accept([entry_of_leaf(leaf) for leaf in leaves])
