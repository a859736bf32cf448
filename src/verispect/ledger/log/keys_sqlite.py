"""Which keys a log has, in SQLite: an index of short names, and the keys themselves in order.

Keys are digests, so they come at random places of any index, and the smaller its rows are, the
fewer pages a commit touches. A key's name is its first eight bytes as an integer, which SQLite
keeps in a third of the space of the key. A name decides nothing: each answer is compared with the
whole key, and a key whose name is taken, which takes somebody 2^32 trials to bring about, is kept
in a table of its own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.ledger.log.interface import GROUP_ENTRIES

TABLES: Final = """
CREATE TABLE leaf_names (name INTEGER PRIMARY KEY, leaf INTEGER NOT NULL) STRICT;

-- Keys whose name another key has.
CREATE TABLE leaf_keys_apart (
  key BLOB PRIMARY KEY CHECK (length(key) = 32), leaf INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- All keys, in groups that start at that index.
CREATE TABLE leaf_keys (start INTEGER PRIMARY KEY, keys BLOB NOT NULL) STRICT;

CREATE TRIGGER names_are_not_updated BEFORE UPDATE ON leaf_names
BEGIN SELECT RAISE(ABORT, 'an entry keeps its index'); END;

CREATE TRIGGER keys_are_not_updated BEFORE UPDATE ON leaf_keys
BEGIN SELECT RAISE(ABORT, 'an entry keeps its key'); END;
"""

_ROWS_PER_STATEMENT: Final = 512
_NAME_BYTES: Final = 8


class KeyIndex:
    """The keys of one log; used inside the transactions of its state.

    Args:
        connection: of the state.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def try_add(self, keys: Sequence[Digest], start: int) -> bool:
        """Give keys the indexes from `start` on, or none of them if the name of one is taken.

        Nearly all keys are new, and to try is cheaper than to ask first.
        """
        self._connection.execute("SAVEPOINT keys")
        try:
            self._add_names(zip(_names(keys), range(start, start + len(keys)), strict=True))
            self._keep(keys, start)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise
            self._connection.execute("ROLLBACK TO keys")
            return False
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("RELEASE keys")
        return True

    def add(self, keys: Sequence[Digest], start: int) -> None:
        """Give distinct keys of which none is known the indexes from `start` on."""
        taken = {name for name, _ in self._look_up(_names(keys))}
        named, apart = [], []
        for leaf, (key, name) in enumerate(zip(keys, _names(keys), strict=True), start):
            if name in taken:
                apart.append((key, leaf))
            else:
                taken.add(name)
                named.append((name, leaf))
        self._add_names(named)
        self._connection.executemany("INSERT INTO leaf_keys_apart VALUES (?, ?)", apart)
        self._keep(keys, start)

    def find(self, keys: Sequence[Digest]) -> dict[bytes, int]:
        """Return the index of each key that is known."""
        groups: dict[int, tuple[int, bytes]] = {}
        leaves = dict(self._look_up(_names(keys)))
        known: dict[bytes, int] = {}
        for key, name in zip(keys, _names(keys), strict=True):
            leaf = leaves.get(name)
            if leaf is None:
                continue
            if self._key(leaf, groups) == key:
                known[key] = leaf
                continue
            row = self._connection.execute(
                "SELECT leaf FROM leaf_keys_apart WHERE key = ?", (key,)
            ).fetchone()
            if row is not None and self._key(row[0], groups) == key:
                known[key] = int(row[0])
        return known

    def count(self) -> int:
        """Return how many keys there are."""
        (count,) = self._connection.execute(
            "SELECT (SELECT count(*) FROM leaf_names) + (SELECT count(*) FROM leaf_keys_apart)"
        ).fetchone()
        return int(count)

    def _add_names(self, rows: Iterator[tuple[int, int]] | Sequence[tuple[int, int]]) -> None:
        # In the order of the index, neighbours go to one page while it is at hand; and many rows
        # to a statement, because between two the interpreter lock has to be won back.
        ordered = sorted(rows)
        for first in range(0, len(ordered), _ROWS_PER_STATEMENT):
            part = ordered[first : first + _ROWS_PER_STATEMENT]
            marks = ",".join(("(?,?)",) * len(part))
            self._connection.execute(
                f"INSERT INTO leaf_names VALUES {marks}",  # noqa: S608
                list(chain.from_iterable(part)),
            )

    def _keep(self, keys: Sequence[Digest], start: int) -> None:
        self._connection.executemany(
            "INSERT INTO leaf_keys VALUES (?, ?)",
            [
                (start + first, b"".join(keys[first : first + GROUP_ENTRIES]))
                for first in range(0, len(keys), GROUP_ENTRIES)
            ],
        )

    def _look_up(self, names: Sequence[int]) -> Iterator[tuple[int, int]]:
        for first in range(0, len(names), _ROWS_PER_STATEMENT):
            part = names[first : first + _ROWS_PER_STATEMENT]
            marks = ",".join("?" * len(part))
            query = f"SELECT name, leaf FROM leaf_names WHERE name IN ({marks})"  # noqa: S608
            yield from self._connection.execute(query, part)

    def _key(self, leaf: int, groups: dict[int, tuple[int, bytes]]) -> bytes:
        """Return the key of an entry, empty where there is none; groups that were read are kept."""
        start, keys = groups.get(leaf, (0, b""))
        if not keys:
            row = self._connection.execute(
                "SELECT start, keys FROM leaf_keys WHERE start BETWEEN ? AND ?"
                " ORDER BY start DESC LIMIT 1",
                (leaf - GROUP_ENTRIES + 1, leaf),
            ).fetchone()
            start, keys = row or (leaf, b"")
            groups.update(
                dict.fromkeys(range(start, start + len(keys) // DIGEST_BYTES), (start, keys))
            )
        place = (leaf - start) * DIGEST_BYTES
        return keys[place : place + DIGEST_BYTES]


def _names(keys: Sequence[Digest]) -> Sequence[int]:
    return struct.unpack(f">{len(keys)}q", b"".join([key[:_NAME_BYTES] for key in keys]))
