"""The tables of a log's state in SQLite.

That an entry keeps its index and a checkpoint its tree stands in the database too, as triggers: a
mistake elsewhere, or a hand in a SQL shell, is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from verispect.ledger.log.keys_sqlite import TABLES as KEY_TABLES

_TABLES: Final = """
CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  generation INTEGER NOT NULL,
  sequenced INTEGER NOT NULL CHECK (sequenced >= size),
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  integrated_at INTEGER NOT NULL
) STRICT;

-- Leaves that have an index and are not yet in the tree.
CREATE TABLE waiting (
  start INTEGER PRIMARY KEY, count INTEGER NOT NULL, leaves BLOB NOT NULL
) STRICT;

-- Receipts that came with their entries, in groups that start at that index.
CREATE TABLE receipts (
  start INTEGER PRIMARY KEY, count INTEGER NOT NULL, receipts BLOB NOT NULL
) STRICT;

CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
  size INTEGER PRIMARY KEY,
  root BLOB NOT NULL,
  note BLOB NOT NULL,
  cose_protected BLOB NOT NULL,
  cose_signature BLOB NOT NULL,
  integrated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE cosignatures (
  size INTEGER NOT NULL REFERENCES checkpoints (size), line TEXT NOT NULL,
  PRIMARY KEY (size, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE evidence (
  receipt BLOB NOT NULL,
  kind TEXT NOT NULL,
  evidence BLOB NOT NULL,
  endorsements BLOB,
  size INTEGER NOT NULL,
  delivered_at INTEGER NOT NULL,
  PRIMARY KEY (receipt, evidence)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER checkpoints_are_not_updated BEFORE UPDATE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
"""


def statements() -> Iterator[str]:
    """Return the statements one by one, because `executescript` commits what is open first."""
    statement = ""
    for line in (_TABLES + KEY_TABLES).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
