"""The state of a log in SQLite: the embedded default, one file beside the tiles.

`synchronous=FULL` in WAL mode makes a commit durable; `BEGIN IMMEDIATE` makes acceptance and the
fence of the appender atomic across processes. Leaves wait in groups and are dropped once they are
in the tree, where the tiles hold them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError
from verispect.ledger.log.groups import join, new_entries, split
from verispect.ledger.log.interface import (
    GROUP_ENTRIES,
    MAX_ACCEPTED,
    CheckpointRecord,
    Cursor,
    EvidenceRecord,
    Head,
    NewEntry,
    Placed,
)
from verispect.ledger.log.keys_sqlite import KeyIndex
from verispect.ledger.log.tables_sqlite import statements
from verispect.ledger.log.turns import turns_at
from verispect.ledger.schema import is_locked, open_writer

APPLICATION_ID: Final = 0x5653504C
"""ASCII `VSPL`."""

SCHEMA_VERSION: Final = 2
BUSY_MILLISECONDS: Final = 30_000
CACHE_KIBIBYTES: Final = 256 * 1024
CHECKPOINT_PAGES: Final = 16_384
"""The index grows at random places: the longer a page waits in the WAL, the more it gathers."""


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # Without SQLite's text, which may quote values.
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        reason = Reason.STORE_LOCKED if is_locked(error) else Reason.STORE_FAILED
        raise StoreError(f"cannot {doing} the log's state: {name}", reason=reason) from error


class SqliteState:
    """A `LogState` in one file.

    Args:
        path: the database, made where there is none.
        cache_kibibytes: memory for pages of the index.

    Raises:
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
    """

    def __init__(self, path: Path, *, cache_kibibytes: int = CACHE_KIBIBYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = open_writer(path, busy_milliseconds=BUSY_MILLISECONDS)
        self._keys = KeyIndex(self._connection)
        self._turns = turns_at(path)
        with _our_errors("open"):
            self._connection.execute(f"PRAGMA cache_size = -{cache_kibibytes}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            self._connection.execute("PRAGMA secure_delete = OFF")
            with self._transaction():
                self._create_or_check()

    def _create_or_check(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (application, version, tables) == (0, 0, 0):
            for statement in statements():
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO head VALUES (1, 0, 0, 0, ?, 0)", (Head().root,))
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif application != APPLICATION_ID:
            raise StoreError("the file is not a log's state", reason=Reason.STORE_FAILED)
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"expected log state version {SCHEMA_VERSION}, got {version}",
                reason=Reason.UNSUPPORTED_VERSION,
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._turns.turn():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    # -- the appender ---------------------------------------------------------------------------

    def take_over(self) -> int:
        """Return a generation above all before (`LogState.take_over`)."""
        with _our_errors("take over"), self._transaction():
            (generation,) = self._connection.execute(
                "UPDATE head SET generation = generation + 1 RETURNING generation"
            ).fetchone()
        return int(generation)

    def head(self) -> Head:
        """Return where the log stands."""
        with _our_errors("read"):
            row = self._connection.execute(
                "SELECT generation, sequenced, size, root, integrated_at FROM head"
            ).fetchone()
        return Head(*row)

    def waiting(self, start: int, limit: int) -> Sequence[bytes]:
        """Return leaves that are not in the tree yet (`LogState.waiting`)."""
        leaves: list[bytes] = []
        with _our_errors("read"):
            rows = self._connection.execute(
                "SELECT start, leaves FROM waiting WHERE start > ? ORDER BY start",
                (start - GROUP_ENTRIES,),
            )
            for first, group in rows:
                if first > start + len(leaves):
                    break  # What should be here was put into the tree meanwhile.
                leaves += split(group)[start + len(leaves) - first :]
                if len(leaves) >= limit:
                    break
            rows.close()
        return leaves[:limit]

    def advance(self, generation: int, old_size: int, record: CheckpointRecord) -> None:
        """Move the head (`LogState.advance`).

        Raises:
            StoreError: `store-conflict` where another appender is at work.
        """
        with _our_errors("advance"), self._transaction():
            moved = self._connection.execute(
                "UPDATE head SET size = ?, root = ?, integrated_at = ?"
                " WHERE generation = ? AND size = ?",
                (record.size, record.root, record.integrated_at, generation, old_size),
            )
            if moved.rowcount != 1:
                raise StoreError("another appender took over", reason=Reason.STORE_CONFLICT)
            self._connection.execute(
                "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)",
                (
                    record.size,
                    record.root,
                    record.note,
                    record.cose_protected,
                    record.cose_signature,
                    record.integrated_at,
                ),
            )
            self._connection.execute(
                "DELETE FROM waiting WHERE start < ? AND start + count <= ?",
                (record.size, record.size),
            )

    # -- entries --------------------------------------------------------------------------------

    def accept(
        self, entries: Sequence[NewEntry], *, cursor: Cursor | None = None
    ) -> Sequence[Placed]:
        """Give each entry an index (`LogState.accept`)."""
        if len(entries) > MAX_ACCEPTED:
            raise ValueError(f"expected at most {MAX_ACCEPTED} entries, got {len(entries)}")
        with _our_errors("accept into"), self._transaction():
            (start,) = self._connection.execute("SELECT sequenced FROM head").fetchone()
            if self._keys.try_add([entry.key for entry in entries], start):
                placed = [Placed(index, True) for index in range(start, start + len(entries))]
                fresh: Sequence[NewEntry] = entries
            else:
                known = self._keys.find([entry.key for entry in entries])
                placed, fresh = new_entries(entries, known, start)
                self._keys.add([entry.key for entry in fresh], start)
            self._keep(fresh, start)
            if cursor is not None:
                self._connection.execute(
                    "INSERT INTO cursors VALUES (?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET position = excluded.position",
                    cursor,
                )
        return placed

    def _keep(self, fresh: Sequence[NewEntry], start: int) -> None:
        """Keep the leaves until they are in the tree, and the receipts."""
        if not fresh:
            return
        execute = self._connection.execute
        for first in range(0, len(fresh), GROUP_ENTRIES):
            group = fresh[first : first + GROUP_ENTRIES]
            row = (start + first, len(group))
            leaves = join([entry.leaf for entry in group])
            execute("INSERT INTO waiting VALUES (?, ?, ?)", (*row, leaves))
            if any(entry.receipt for entry in group):
                kept = join([entry.receipt or b"" for entry in group])
                execute("INSERT INTO receipts VALUES (?, ?, ?)", (*row, kept))
        execute("UPDATE head SET sequenced = ?", (start + len(fresh),))

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; 0 where it never moved."""
        with _our_errors("read"):
            row = self._connection.execute(
                "SELECT position FROM cursors WHERE name = ?", (name,)
            ).fetchone()
        return int(row[0]) if row else 0

    def find(self, keys: Sequence[Digest]) -> Sequence[int | None]:
        """Return the index of each key."""
        with _our_errors("read"):
            known = self._keys.find(keys)
        return [known.get(key) for key in keys]

    def count(self) -> tuple[int, int]:
        """Return how many keys the index has and how many entries there are."""
        with _our_errors("read"):
            (entries,) = self._connection.execute("SELECT sequenced FROM head").fetchone()
            return self._keys.count(), int(entries)

    def receipt(self, index: int) -> bytes | None:
        """Return the receipt that was accepted with the entry at `index`, if one was."""
        with _our_errors("read"):
            row = self._connection.execute(
                "SELECT start, receipts FROM receipts WHERE start BETWEEN ? AND ?"
                " ORDER BY start DESC LIMIT 1",
                (index - GROUP_ENTRIES + 1, index),
            ).fetchone()
        if row is None:
            return None
        kept = split(row[1])
        place = index - row[0]
        return (kept[place] or None) if place < len(kept) else None

    # -- checkpoints ----------------------------------------------------------------------------

    def checkpoint(self, *, at_least: int = 0) -> CheckpointRecord | None:
        """Return the latest checkpoint, or the first of at least a size."""
        columns = "size, root, note, cose_protected, cose_signature, integrated_at"
        query = f"SELECT {columns} FROM checkpoints "  # noqa: S608
        with _our_errors("read"):
            if at_least:
                query += "WHERE size >= ? ORDER BY size LIMIT 1"
                row = self._connection.execute(query, (at_least,)).fetchone()
            else:
                row = self._connection.execute(query + "ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else CheckpointRecord(*row)

    def add_cosignatures(self, size: int, lines: Sequence[str]) -> None:
        """Keep signature lines of witnesses over the checkpoint of this size."""
        with _our_errors("write"), self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO cosignatures VALUES (?, ?)", [(size, line) for line in lines]
            )

    def cosignatures(self, size: int) -> Sequence[str]:
        """Return the lines kept for this size."""
        with _our_errors("read"):
            rows: list[Any] = self._connection.execute(
                "SELECT line FROM cosignatures WHERE size = ? ORDER BY line", (size,)
            ).fetchall()
        return [line for (line,) in rows]

    # -- evidence -------------------------------------------------------------------------------

    def register_evidence(self, record: EvidenceRecord) -> None:
        """Note that evidence arrived; once is as good as twice."""
        with _our_errors("write"):
            self._connection.execute(
                "INSERT OR IGNORE INTO evidence VALUES (?, ?, ?, ?, ?, ?)",
                (
                    record.receipt,
                    record.kind,
                    record.evidence,
                    record.endorsements,
                    record.size,
                    record.delivered_at,
                ),
            )

    def evidence_of(self, receipt: Digest) -> Sequence[EvidenceRecord]:
        """Return what arrived for a receipt."""
        with _our_errors("read"):
            rows = self._connection.execute(
                "SELECT receipt, kind, evidence, endorsements, size, delivered_at FROM evidence"
                " WHERE receipt = ? ORDER BY delivered_at, evidence",
                (receipt,),
            ).fetchall()
        return [EvidenceRecord(*row) for row in rows]

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()
