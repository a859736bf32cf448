"""Audit of a receipt store: derives every number and digest again from the stored bytes.

It trusts neither the triggers nor the indices, and repairs nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verispect.core.encoding import sha256
from verispect.ledger import high_water
from verispect.ledger.schema import open_reader, store_error

MAX_PROBLEMS: Final = 100
"""Problems listed; a store that has more is not better described by more of them."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What the audit found."""

    receipts: int
    """Receipts in the store, of all issuers."""

    highest: dict[bytes, int]
    """Highest sequence number of each issuer key id."""

    openings: int
    open_streams: int

    problems: tuple[str, ...]
    """Sentences without content of receipts; empty when all is well. At most `MAX_PROBLEMS`."""


def check(directory: Path, database: Path) -> StoreReport:
    """Read the whole store, in one snapshot, and report.

    Raises:
        StoreError: `store-failed` when it cannot be read at all; `store-locked`.
    """
    # Read before the snapshot is taken: a note taken after it may rightly be ahead of it.
    notes = high_water.read(directory)
    with contextlib.closing(open_reader(database)) as connection:
        try:
            connection.execute("BEGIN")
            return _check(connection, notes)
        except sqlite3.Error as exc:
            raise store_error("check the receipt store", exc) from exc


def _check(connection: sqlite3.Connection, notes: dict[bytes, int]) -> StoreReport:
    problems = [
        f"database: {line}"
        for (line,) in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})")
        if line != "ok"
    ]
    keys = dict(connection.execute("SELECT issuer, key_id FROM issuers").fetchall())
    highest = dict.fromkeys(keys, 0)
    receipts = 0
    rows = connection.execute(
        "SELECT entry, issuer, sequence, receipt_id, receipt FROM receipts ORDER BY entry"
    )
    for entry, issuer, sequence, receipt_id, receipt in rows:
        receipts += 1
        if entry != receipts:
            problems.append(f"entry: expected {receipts}, got {entry}")
        if issuer not in highest:
            problems.append(f"entry {entry}: issuer {issuer} is not known")
        expected = highest.get(issuer, 0) + 1
        if sequence != expected:
            problems.append(f"entry {entry}: expected sequence {expected}, got {sequence}")
        highest[issuer] = sequence
        if sha256(receipt) != receipt_id:
            problems.append(f"entry {entry}: receipt id is not the digest of the receipt")
        if len(problems) >= MAX_PROBLEMS:
            break
    (openings,) = connection.execute("SELECT count(*) FROM openings").fetchone()
    (open_streams,) = connection.execute("SELECT count(*) FROM open_streams").fetchone()
    by_key = {key: highest[issuer] for issuer, key in keys.items()}
    problems += [
        f"high-water note {noted} is above the highest sequence {by_key.get(key, 0)}"
        for key, noted in notes.items()
        if noted > by_key.get(key, 0)
    ]
    return StoreReport(receipts, by_key, openings, open_streams, tuple(problems[:MAX_PROBLEMS]))
