"""Where entries come from: the receipts of this machine's own gateway, and whoever submits leaves.

The receipt store is the outbox of receipts. It is followed in commit order through a connection of
its own, read-only, and how far it was followed is kept in the same commit as the entries it gave:
a receipt is never lost between the two, and never there twice. Nothing is added to the path of an
answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from verispect.core.errors import Reason, StoreError
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


class ReceiptOutbox:
    """The receipts of one `ReceiptStore`, as a `Source`.

    Args:
        database: the store's database.
        disclose: what leaves show in the clear, by the log's description.
        name: of the cursor; another for each store that one log follows.
    """

    def __init__(
        self,
        database: Path,
        *,
        disclose: Disclosure = Disclosure.NOTHING,
        name: str = "receipts",
    ) -> None:
        self._database = database
        self._disclose = disclose
        self._name = name
        self._connection: sqlite3.Connection | None = None

    def follow(self, state: LogState) -> int:
        """Give the log the receipts that it has not seen.

        Raises:
            StoreError: `store-rolled-back` where the store has fewer receipts than were followed;
                `store-failed`, `store-locked`.
            MalformedError: for a receipt that is damaged; nothing after it is followed.
        """
        after = state.cursor(self._name)
        rows = self._read(after)
        if not rows:
            return 0
        entries = []
        for position, (entry, data) in enumerate(rows, after + 1):
            if entry != position:
                raise StoreError("a receipt is missing", reason=Reason.STORE_FAILED)
            receipt = InferenceReceipt.parse(data)
            entries.append(entry_of_receipt(receipt, disclose=self._disclose))
        state.accept(entries, cursor=Cursor(self._name, after + len(rows)))
        return len(rows)

    def _read(self, after: int) -> list[tuple[int, bytes]]:
        try:
            if self._connection is None:
                self._connection = open_reader(self._database)
            (last,) = self._connection.execute(
                "SELECT coalesce(max(entry), 0) FROM receipts"
            ).fetchone()
            rows = self._connection.execute(
                "SELECT entry, receipt FROM receipts WHERE entry > ? ORDER BY entry LIMIT ?",
                (after, MAX_FOLLOWED),
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
