"""Payments on disk: one row for each authorisation, whose state moves along allowed edges only.

SQLite in WAL mode with `synchronous=FULL`, so that a state that was returned survives a crash.
The edges stand in the database too, as a trigger: a captured payment can become nothing else, and
no row is deleted. The module refuses to move money.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, RequestError, StoreError
from verispect.ledger.schema import is_locked, open_writer
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme

APPLICATION_ID: Final = 0x56535059
"""ASCII `VSPY`."""

SCHEMA_VERSION: Final = 1
BUSY_MILLISECONDS: Final = 30_000
CHECKPOINT_PAGES: Final = 1000


class State(StrEnum):
    """Where a payment is in its life. A quote has no row: it binds no money and costs no disk."""

    RESERVED = "reserved"
    """The authorisation is taken for one request; nothing ran."""
    EXECUTING = "executing"
    DELIVERED = "delivered"
    """The answer is stored; its assurance is awaited."""
    CAPTURING = "capturing"
    """Assurance was met; the money may be on its way."""
    PENDING = "pending"
    """What became of the money is not known; only the chain can tell."""
    CAPTURED = "captured"
    RELEASED = "released"
    """Nothing was taken and nothing will be."""
    FAILED = "failed"
    """It was owed, and the chain no longer lets it be taken."""


EDGES: Final[Mapping[State, frozenset[State]]] = {
    State.RESERVED: frozenset({State.EXECUTING, State.RELEASED}),
    State.EXECUTING: frozenset({State.DELIVERED, State.RELEASED}),
    State.DELIVERED: frozenset({State.CAPTURING, State.RELEASED}),
    State.CAPTURING: frozenset({State.CAPTURED, State.PENDING, State.FAILED}),
    State.PENDING: frozenset({State.CAPTURED, State.CAPTURING, State.FAILED}),
    State.CAPTURED: frozenset(),
    State.RELEASED: frozenset(),
    State.FAILED: frozenset(),
}

_ALLOWED: Final = " OR ".join(
    f"(OLD.state = '{old}' AND NEW.state = '{new}')" for old, news in EDGES.items() for new in news
)

_FINALS: Final = ", ".join(f"'{state}'" for state, news in EDGES.items() if not news)

_TABLES: Final = (
    """
CREATE TABLE payments (
  id BLOB PRIMARY KEY CHECK (length(id) = 32),
  network TEXT NOT NULL, asset TEXT NOT NULL, holder TEXT NOT NULL, mark TEXT NOT NULL,
  scheme TEXT NOT NULL,
  amount INTEGER NOT NULL,
  valid_before INTEGER NOT NULL,
  wire BLOB NOT NULL,
  request BLOB NOT NULL CHECK (length(request) = 32),
  sheet BLOB NOT NULL CHECK (length(sheet) = 32),
  ceiling INTEGER NOT NULL CHECK (ceiling <= amount),
  deadline INTEGER NOT NULL,
  state TEXT NOT NULL,
  charge INTEGER CHECK (charge BETWEEN 0 AND ceiling),
  answer BLOB,
  settled TEXT,
  UNIQUE (network, asset, holder, mark),
  CHECK (state NOT IN ('delivered', 'capturing', 'pending', 'captured')
         OR (charge IS NOT NULL AND answer IS NOT NULL))
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE identifiers (
  id BLOB PRIMARY KEY CHECK (length(id) = 32),
  payment BLOB NOT NULL REFERENCES payments (id)
) STRICT, WITHOUT ROWID
""",
    (
        "CREATE INDEX unfinished_payments ON payments (holder, amount) WHERE state NOT IN"
        f" ({_FINALS})"
    ),
    "CREATE INDEX payments_by_deadline ON payments (deadline)",
    (
        "CREATE TRIGGER payments_are_not_deleted BEFORE DELETE ON payments"
        " BEGIN SELECT RAISE(ABORT, 'payments are not deleted'); END"
    ),
    (
        "CREATE TRIGGER payments_begin_reserved BEFORE INSERT ON payments"
        " WHEN NEW.state <> 'reserved' BEGIN SELECT RAISE(ABORT, 'a payment begins reserved'); END"
    ),
    (
        "CREATE TRIGGER payments_keep_their_terms BEFORE UPDATE OF"
        " id, network, asset, holder, mark, scheme, amount, valid_before, wire, request, sheet,"
        " ceiling, deadline ON payments BEGIN SELECT RAISE(ABORT, 'the terms stand'); END"
    ),
    (
        "CREATE TRIGGER payments_follow_the_edges BEFORE UPDATE OF state ON payments"
        f" WHEN NOT ({_ALLOWED}) BEGIN SELECT RAISE(ABORT, 'no such edge'); END"
    ),
)

_COLUMNS: Final = (
    "network, asset, holder, mark, scheme, amount, valid_before, wire,"
    " request, sheet, ceiling, deadline, state, charge, answer, settled"
)


@dataclass(frozen=True, slots=True)
class Payment:
    """One row."""

    authorisation: Authorisation
    request: Digest
    sheet: Digest
    ceiling: int
    deadline: int
    """Seconds since 1970, by which its assurance must be met."""
    state: State = State.RESERVED
    charge: int | None = None
    answer: bytes | None = None
    settled: str | None = None
    """Hash of the transaction that moved the money, where it is known."""

    @property
    def payment_id(self) -> Digest:
        """The digest of the authorisation's key."""
        return self.authorisation.key.digest()


class PaymentStore:
    """The payments of one server, for any number of threads.

    Raises:
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = open_writer(path, busy_milliseconds=BUSY_MILLISECONDS)
        with self._turn("open"):
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (application, version, tables) == (0, 0, 0):
                for statement in _TABLES:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID:
                raise StoreError("the file holds no payments", reason=Reason.STORE_FAILED)
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"expected payment store version {SCHEMA_VERSION}, got {version}",
                    reason=Reason.UNSUPPORTED_VERSION,
                )

    def close(self) -> None:
        """Close the file; nothing is lost where this is not called."""
        with self._lock:
            self._connection.close()

    def reserve(self, payment: Payment, identifier: Digest | None = None) -> tuple[Payment, bool]:
        """Take an authorisation for a request, unless it is taken already.

        Args:
            payment: as it is to be reserved.
            identifier: the payer's own name for it, which no other payment may then bear, unless
                the one that bears it was released.

        Returns:
            What stands in the store, and whether this call put it there.

        Raises:
            RequestError: `payment-conflict` where the identifier is another payment's.
        """
        authorisation = payment.authorisation
        key = authorisation.key
        with self._turn("reserve a payment in"):
            inserted = self._connection.execute(
                f"INSERT INTO payments (id, {_COLUMNS}) VALUES (?{', ?' * 16})"  # noqa: S608
                " ON CONFLICT DO NOTHING",
                (
                    payment.payment_id,
                    key.network,
                    key.asset,
                    key.holder,
                    key.mark,
                    authorisation.scheme.value,
                    authorisation.amount,
                    authorisation.valid_before,
                    authorisation.wire,
                    payment.request,
                    payment.sheet,
                    payment.ceiling,
                    payment.deadline,
                    State.RESERVED.value,
                    None,
                    None,
                    None,
                ),
            )
            if identifier is not None:
                self._name(identifier, payment.payment_id)
            return self._row(payment.payment_id), inserted.rowcount == 1

    def _name(self, identifier: Digest, payment_id: Digest) -> None:
        named = self._connection.execute(
            "INSERT INTO identifiers (id, payment) VALUES (?, ?) ON CONFLICT (id) DO UPDATE"
            " SET payment = excluded.payment WHERE payment <> excluded.payment"
            " AND (SELECT state FROM payments WHERE payments.id = payment) = ?",
            (identifier, payment_id, State.RELEASED.value),
        )
        if named.rowcount == 1:
            return
        (bearer,) = self._connection.execute(
            "SELECT payment FROM identifiers WHERE id = ?", (identifier,)
        ).fetchone()
        if bearer != payment_id:
            raise RequestError(
                "the payment identifier is another payment's", reason=Reason.PAYMENT_CONFLICT
            )

    def move(
        self,
        payment_id: Digest,
        old: State,
        new: State,
        *,
        charge: int | None = None,
        answer: bytes | None = None,
        settled: str | None = None,
    ) -> Payment:
        """Move a payment along an edge; whoever comes second is told.

        Raises:
            StoreError: `store-conflict` where it is not in the old state.
        """
        with self._turn("move a payment in"):
            moved = self._connection.execute(
                "UPDATE payments SET state = ?, charge = coalesce(?, charge),"
                " answer = coalesce(?, answer), settled = coalesce(?, settled)"
                " WHERE id = ? AND state = ?",
                (new.value, charge, answer, settled, payment_id, old.value),
            )
            if moved.rowcount != 1:
                raise StoreError(f"the payment is not {old}", reason=Reason.STORE_CONFLICT)
            return self._row(payment_id)

    def get(self, payment_id: Digest) -> Payment | None:
        """Return a payment, if it was ever reserved."""
        with self._turn("read"):
            row = self._select("WHERE id = ?", payment_id).fetchone()
        return None if row is None else _payment(row)

    def named(self, identifier: Digest) -> Payment | None:
        """Return the payment that bears a payer's own name, if one does."""
        with self._turn("read"):
            row = self._select(
                "WHERE id = (SELECT payment FROM identifiers WHERE identifiers.id = ?)", identifier
            ).fetchone()
        return None if row is None else _payment(row)

    def unfinished(self) -> list[Payment]:
        """Return every payment that is in no final state."""
        with self._turn("read"):
            rows = self._select(f"WHERE state NOT IN ({_FINALS}) ORDER BY id").fetchall()
        return [_payment(row) for row in rows]

    def outstanding(self, network: str, asset: str, holder: str) -> int:
        """Return how much a holder has promised in payments that are in no final state."""
        with self._turn("read"):
            (amount,) = self._connection.execute(
                f"SELECT coalesce(sum(amount), 0) FROM payments WHERE state NOT IN ({_FINALS})"  # noqa: S608
                " AND holder = ? AND network = ? AND asset = ?",
                (holder, network, asset),
            ).fetchone()
        return int(amount)

    def due_between(self, after: int, until: int) -> list[Payment]:
        """Return the payments whose deadlines are after one time and not after another."""
        with self._turn("read"):
            rows = self._select("WHERE deadline > ? AND deadline <= ?", after, until).fetchall()
        return [_payment(row) for row in rows]

    def keep_less(self, payment_id: Digest, answer: bytes) -> None:
        """Keep something else of an answer; the payment stands as it stood.

        Args:
            payment_id: whose answer.
            answer: what is kept instead.
        """
        with self._turn("write"):
            self._connection.execute(
                "UPDATE payments SET answer = ? WHERE id = ? AND answer IS NOT NULL",
                (answer, payment_id),
            )

    def totals(self) -> dict[State, tuple[int, int]]:
        """Return, for each state, how many payments there are and what they charge."""
        with self._turn("read"):
            rows = self._connection.execute(
                "SELECT state, count(*), coalesce(sum(charge), 0) FROM payments GROUP BY state"
            ).fetchall()
        return {State(state): (count, charge) for state, count, charge in rows}

    def _row(self, payment_id: Digest) -> Payment:
        return _payment(self._select("WHERE id = ?", payment_id).fetchone())

    def _select(self, where: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {_COLUMNS} FROM payments {where}",  # noqa: S608  the words are ours
            values,
        )

    @contextlib.contextmanager
    def _turn(self, doing: str) -> Iterator[None]:
        """Hold the connection for one transaction."""
        try:
            with self._lock:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            # Without SQLite's text, which may quote values.
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            reason = Reason.STORE_LOCKED if is_locked(error) else Reason.STORE_FAILED
            raise StoreError(f"cannot {doing} the payments: {name}", reason=reason) from error


def _payment(row: tuple[Any, ...]) -> Payment:
    key = AuthorisationKey(*row[:4])
    authorisation = Authorisation(key, Scheme(row[4]), *row[5:8])
    request, sheet, ceiling, deadline, state, charge, answer, settled = row[8:]
    return Payment(
        authorisation, request, sheet, ceiling, deadline, State(state), charge, answer, settled
    )
