"""The state of a log in PostgreSQL, where one machine is outgrown.

The row of the head is locked by whoever accepts, so indexes are given in commit order; the fence of
the appender is a condition of its update. A server that may forget commits (`fsync` or
`synchronous_commit` off) is refused. A connection that broke is opened again at the next call;
whatever was not committed is as if it never was.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import psycopg
from psycopg import sql

from verispect.core.encoding import Digest
from verispect.core.errors import Error, Reason, StoreError
from verispect.ledger.log.groups import join, new_entries, split
from verispect.ledger.log.interface import (
    GROUP_ENTRIES,
    CheckpointRecord,
    Cursor,
    EvidenceRecord,
    Head,
    NewEntry,
    Placed,
)

SCHEMA_VERSION: Final = 1
LOCK_TIMEOUT_MILLISECONDS: Final = 30_000

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)

_TABLES: Final = """
CREATE TABLE version (version INTEGER NOT NULL);
CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  generation BIGINT NOT NULL,
  sequenced BIGINT NOT NULL CHECK (sequenced >= size),
  size BIGINT NOT NULL,
  root BYTEA NOT NULL,
  integrated_at BIGINT NOT NULL
);
CREATE TABLE waiting (start BIGINT PRIMARY KEY, count INTEGER NOT NULL, leaves BYTEA NOT NULL);
CREATE TABLE receipts (start BIGINT PRIMARY KEY, count INTEGER NOT NULL, receipts BYTEA NOT NULL);
CREATE TABLE leaf_index (key BYTEA PRIMARY KEY CHECK (length(key) = 32), leaf BIGINT NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, position BIGINT NOT NULL);
CREATE TABLE checkpoints (
  size BIGINT PRIMARY KEY,
  root BYTEA NOT NULL,
  note BYTEA NOT NULL,
  cose_protected BYTEA NOT NULL,
  cose_signature BYTEA NOT NULL,
  integrated_at BIGINT NOT NULL
);
CREATE TABLE cosignatures (
  size BIGINT NOT NULL REFERENCES checkpoints (size), line TEXT NOT NULL, PRIMARY KEY (size, line)
);
CREATE TABLE evidence (
  receipt BYTEA NOT NULL,
  kind TEXT NOT NULL,
  evidence BYTEA NOT NULL,
  endorsements BYTEA,
  size BIGINT NOT NULL,
  delivered_at BIGINT NOT NULL,
  PRIMARY KEY (receipt, evidence)
);
"""

_LOCKED: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        # Without the server's text, which may quote values.
        reason = Reason.STORE_LOCKED if isinstance(error, _LOCKED) else Reason.STORE_FAILED
        name = type(error).__name__
        raise StoreError(f"cannot {doing} the log's state: {name}", reason=reason) from error


class PostgresState:
    """A `LogState` in one schema of a database.

    Args:
        connection: libpq's connection string.
        schema: made where there is none; one for each log.

    Raises:
        StoreError: `store-failed`, also where the server may forget commits;
            `unsupported-version`.
    """

    def __init__(self, connection: str, *, schema: str = "verispect_log") -> None:
        if not _NAME.fullmatch(schema):
            raise ValueError("a schema is named by lower-case letters, digits and underscores")
        self._information = connection
        self._schema = schema
        self._current: psycopg.Connection[Any] | None = None
        with _our_errors("open"), self._transaction() as execute:
            self._create_or_check(execute)

    def _open(self) -> psycopg.Connection[Any]:
        if self._current is None or self._current.closed:
            connection = psycopg.connect(self._information, autocommit=True)
            try:
                connection.execute(
                    sql.SQL("SET search_path = {}").format(sql.Identifier(self._schema))
                )
                connection.execute(
                    sql.SQL("SET lock_timeout = {}").format(LOCK_TIMEOUT_MILLISECONDS)
                )
                for setting in ("fsync", "synchronous_commit"):
                    row = connection.execute(
                        "SELECT setting FROM pg_settings WHERE name = %s", (setting,)
                    ).fetchone()
                    if row is None or row[0] in ("off", "local"):
                        raise StoreError(
                            f"the database may forget commits: {setting}",
                            reason=Reason.STORE_FAILED,
                        )
            except BaseException:
                connection.close()
                raise
            self._current = connection
        return self._current

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[_Execute]:
        connection = self._open()
        try:
            with connection.transaction():
                yield connection.execute
        except Error:
            raise
        except BaseException:
            if connection.broken:
                connection.close()
            raise

    def _create_or_check(self, execute: _Execute) -> None:
        # Two that start at once wait for each other here.
        execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._schema,))
        name = sql.Identifier(self._schema)
        execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        found = execute("SELECT to_regclass(%s)", (f"{self._schema}.version",)).fetchone()
        if found is None or found[0] is None:
            execute(sql.SQL(_TABLES))
            execute("INSERT INTO version VALUES (%s)", (SCHEMA_VERSION,))
            execute("INSERT INTO head VALUES (1, 0, 0, 0, %s, 0)", (Head().root,))
            return
        version = execute("SELECT version FROM version").fetchone()
        if version is None or version[0] != SCHEMA_VERSION:
            raise StoreError(
                f"expected log state version {SCHEMA_VERSION}", reason=Reason.UNSUPPORTED_VERSION
            )

    # -- the appender ---------------------------------------------------------------------------

    def take_over(self) -> int:
        """Return a generation above all before (`LogState.take_over`)."""
        with _our_errors("take over"), self._transaction() as execute:
            row = execute(
                "UPDATE head SET generation = generation + 1 RETURNING generation"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def head(self) -> Head:
        """Return where the log stands."""
        with _our_errors("read"), self._transaction() as execute:
            row = execute(
                "SELECT generation, sequenced, size, root, integrated_at FROM head"
            ).fetchone()
        assert row is not None
        return Head(*row)

    def waiting(self, start: int, limit: int) -> Sequence[bytes]:
        """Return leaves that are not in the tree yet (`LogState.waiting`)."""
        leaves: list[bytes] = []
        groups = limit // GROUP_ENTRIES + 2
        while len(leaves) < limit:
            with _our_errors("read"), self._transaction() as execute:
                rows = execute(
                    "SELECT start, leaves FROM waiting WHERE start + count > %s"
                    " AND start > %s ORDER BY start LIMIT %s",
                    (start + len(leaves), start + len(leaves) - GROUP_ENTRIES, groups),
                ).fetchall()
            before = len(leaves)
            for first, group in rows:
                if first > start + len(leaves):
                    return leaves  # What should be here was put into the tree meanwhile.
                leaves += split(group)[start + len(leaves) - first :]
            if len(leaves) == before:
                break
        return leaves[:limit]

    def advance(self, generation: int, old_size: int, record: CheckpointRecord) -> None:
        """Move the head (`LogState.advance`).

        Raises:
            StoreError: `store-conflict` where another appender is at work.
        """
        with _our_errors("advance"), self._transaction() as execute:
            moved = execute(
                "UPDATE head SET size = %s, root = %s, integrated_at = %s"
                " WHERE generation = %s AND size = %s",
                (record.size, record.root, record.integrated_at, generation, old_size),
            )
            if moved.rowcount != 1:
                raise StoreError("another appender took over", reason=Reason.STORE_CONFLICT)
            execute(
                "INSERT INTO checkpoints VALUES (%s, %s, %s, %s, %s, %s)",
                (
                    record.size,
                    record.root,
                    record.note,
                    record.cose_protected,
                    record.cose_signature,
                    record.integrated_at,
                ),
            )
            execute(
                "DELETE FROM waiting WHERE start < %s AND start + count <= %s",
                (record.size, record.size),
            )

    # -- entries --------------------------------------------------------------------------------

    def accept(
        self, entries: Sequence[NewEntry], *, cursor: Cursor | None = None
    ) -> Sequence[Placed]:
        """Give each entry an index (`LogState.accept`)."""
        with _our_errors("accept into"), self._transaction() as execute:
            row = execute("SELECT sequenced FROM head FOR UPDATE").fetchone()
            assert row is not None
            known = _find(execute, [entry.key for entry in entries])
            placed, fresh = new_entries(entries, known, row[0])
            if fresh:
                _insert(execute, fresh, row[0])
            if cursor is not None:
                execute(
                    "INSERT INTO cursors VALUES (%s, %s)"
                    " ON CONFLICT (name) DO UPDATE SET position = excluded.position",
                    cursor,
                )
        return placed

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; 0 where it never moved."""
        with _our_errors("read"), self._transaction() as execute:
            row = execute("SELECT position FROM cursors WHERE name = %s", (name,)).fetchone()
        return int(row[0]) if row else 0

    def find(self, keys: Sequence[Digest]) -> Sequence[int | None]:
        """Return the index of each key."""
        with _our_errors("read"), self._transaction() as execute:
            known = _find(execute, keys)
        return [known.get(key) for key in keys]

    def count(self) -> tuple[int, int]:
        """Return how many keys the index has and how many entries there are."""
        with _our_errors("read"), self._transaction() as execute:
            row = execute(
                "SELECT (SELECT count(*) FROM leaf_index), sequenced FROM head"
            ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def receipt(self, index: int) -> bytes | None:
        """Return the receipt that was accepted with the entry at `index`, if one was."""
        with _our_errors("read"), self._transaction() as execute:
            row = execute(
                "SELECT start, receipts FROM receipts WHERE start BETWEEN %s AND %s"
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
        columns = "SELECT size, root, note, cose_protected, cose_signature, integrated_at"
        with _our_errors("read"), self._transaction() as execute:
            if at_least:
                row = execute(
                    columns + " FROM checkpoints WHERE size >= %s ORDER BY size LIMIT 1",
                    (at_least,),
                ).fetchone()
            else:
                row = execute(columns + " FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else CheckpointRecord(*row)

    def add_cosignatures(self, size: int, lines: Sequence[str]) -> None:
        """Keep signature lines of witnesses over the checkpoint of this size."""
        with _our_errors("write"), self._transaction() as execute:
            for line in lines:
                execute(
                    "INSERT INTO cosignatures VALUES (%s, %s) ON CONFLICT DO NOTHING", (size, line)
                )

    def cosignatures(self, size: int) -> Sequence[str]:
        """Return the lines kept for this size."""
        with _our_errors("read"), self._transaction() as execute:
            rows = execute(
                'SELECT line FROM cosignatures WHERE size = %s ORDER BY line COLLATE "C"', (size,)
            ).fetchall()
        return [line for (line,) in rows]

    # -- evidence -------------------------------------------------------------------------------

    def register_evidence(self, record: EvidenceRecord) -> None:
        """Note that evidence arrived; once is as good as twice."""
        with _our_errors("write"), self._transaction() as execute:
            execute(
                "INSERT INTO evidence VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
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
        with _our_errors("read"), self._transaction() as execute:
            rows = execute(
                "SELECT receipt, kind, evidence, endorsements, size, delivered_at FROM evidence"
                " WHERE receipt = %s ORDER BY delivered_at, evidence",
                (receipt,),
            ).fetchall()
        return [EvidenceRecord(*row) for row in rows]

    def close(self) -> None:
        """Let go of the database."""
        if self._current is not None:
            self._current.close()


def _find(execute: _Execute, keys: Sequence[Digest]) -> dict[bytes, int]:
    rows = execute("SELECT key, leaf FROM leaf_index WHERE key = ANY(%s)", (list(keys),))
    return dict(rows.fetchall())


def _insert(execute: _Execute, fresh: Sequence[NewEntry], start: int) -> None:
    execute(
        "INSERT INTO leaf_index SELECT * FROM unnest(%s::bytea[], %s::bigint[])",
        ([entry.key for entry in fresh], list(range(start, start + len(fresh)))),
    )
    for first in range(0, len(fresh), GROUP_ENTRIES):
        group = fresh[first : first + GROUP_ENTRIES]
        row = (start + first, len(group))
        leaves = join([entry.leaf for entry in group])
        execute("INSERT INTO waiting VALUES (%s, %s, %s)", (*row, leaves))
        if any(entry.receipt for entry in group):
            kept = join([entry.receipt or b"" for entry in group])
            execute("INSERT INTO receipts VALUES (%s, %s, %s)", (*row, kept))
    execute("UPDATE head SET sequenced = %s", (start + len(fresh),))


class _Execute(Protocol):
    """`psycopg.Connection.execute` inside a transaction."""

    def __call__(
        self, query: psycopg.abc.QueryNoTemplate, params: psycopg.abc.Params | None = None
    ) -> psycopg.Cursor[Any]: ...
