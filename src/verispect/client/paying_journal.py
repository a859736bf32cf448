"""What a payer promised, on disk before it is sent: for caps, and for asking again after a crash.

Money is counted before anything is signed, and the signed payment is kept before it is sent. So
no crash makes a payer forget what it promised: it presents the same payment again and never makes
a second one. A journal is one process's at a time. The content of a request is kept until its
receipt was found good, and erased then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.client import paying_channels as channels
from verispect.core.encoding import Digest
from verispect.core.errors import Reason, RequestError, StoreError
from verispect.ledger.schema import open_writer

APPLICATION_ID: Final = 0x5653504A
"""ASCII `VSPJ`."""

JOURNAL_VERSION: Final = 1
DAY_SECONDS: Final = 86_400

_TABLES: Final = (
    """
    CREATE TABLE promises (
      id INTEGER PRIMARY KEY,
      origin TEXT NOT NULL,
      request BLOB NOT NULL,
      headers TEXT NOT NULL,
      asset TEXT NOT NULL,
      scheme TEXT NOT NULL,
      amount INTEGER NOT NULL CHECK (amount > 0),
      counted INTEGER NOT NULL CHECK (counted BETWEEN 0 AND amount),
      rates TEXT NOT NULL,
      day INTEGER NOT NULL,
      state TEXT NOT NULL,
      payment_id BLOB,
      salt BLOB,
      header TEXT,
      reason TEXT,
      receipt BLOB
    ) STRICT
    """,
    "CREATE INDEX promises_by_day ON promises (asset, day)",
    "CREATE INDEX promises_by_origin ON promises (origin, state)",
)


class PromiseState(StrEnum):
    """Where a promise of money is in its life."""

    RESERVED = "reserved"
    """Counted; nothing was signed, or what was signed was lost before it was sent."""
    SIGNED = "signed"
    """Signed, and perhaps sent; no good receipt yet."""
    PROVEN = "proven"
    """The receipt was good and the bill right."""
    REFUSED = "refused"
    """What came was no good receipt of this payment."""
    FORGIVEN = "forgiven"
    """The owner decided not to wait for a good receipt."""
    ABANDONED = "abandoned"
    """Never sent."""


@dataclass(frozen=True, slots=True)
class SpendCaps:
    """How much of one token may be promised; amounts in its smallest unit.

    Args:
        asset: CAIP-19 identifier of the token; nothing else is paid with.
        per_request: the most that one request may cost.
        per_day: the most of all promises of a day (UTC).
        per_host: the most of a day's promises to one gateway.
        deposits: the most that may lie unused in channels of one gateway; as `per_host` without.
    """

    asset: str
    per_request: int
    per_day: int
    per_host: int
    deposits: int | None = None

    def __post_init__(self) -> None:
        if min(self.per_request, self.per_day, self.per_host) < 0:
            raise RequestError("a spend cap is not negative", parameter="caps")
        object.__setattr__(self, "asset", self.asset.lower())


@dataclass(frozen=True, slots=True)
class Promise:
    """One row."""

    number: int
    origin: str
    request: Digest
    headers: Mapping[str, str]
    scheme: str
    amount: int
    rates: tuple[int, int]
    state: PromiseState
    payment_id: Digest | None
    header: str | None
    """The value of `PAYMENT-SIGNATURE`, once signed."""


_COLUMNS: Final = "id, origin, request, headers, scheme, amount, rates, state, payment_id, header"


class PaymentJournal:
    """The promises of one payer, for any number of threads of one process.

    Args:
        path: the file; it is made where there is none.

    Raises:
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Before SQLite makes it, with the rights of everybody.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError as error:
            os.close(self._owner)
            raise StoreError(
                "another process pays from this journal", reason=Reason.STORE_LOCKED
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot open the payer's journal: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        try:
            self._connection = open_writer(path)
            self._open()
        except BaseException:
            os.close(self._owner)
            raise

    def _open(self) -> None:
        with self._turn() as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (application, version, tables) == (0, 0, 0):
                for statement in (*_TABLES, *channels.TABLES):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {JOURNAL_VERSION}")
            elif application != APPLICATION_ID:
                raise StoreError("the file holds no promises", reason=Reason.STORE_FAILED)
            elif version != JOURNAL_VERSION:
                raise StoreError(
                    f"expected journal version {JOURNAL_VERSION}, got {version}",
                    reason=Reason.UNSUPPORTED_VERSION,
                )
            # What a process that died had signed and not kept was never sent.
            connection.execute(
                "UPDATE promises SET state = ?, counted = 0 WHERE state = ?",
                (PromiseState.ABANDONED, PromiseState.RESERVED),
            )
            channels.release_unsent(connection)

    def close(self) -> None:
        """Close the file and let others open it."""
        with self._lock:
            self._connection.close()
            os.close(self._owner)

    def reserve(
        self,
        promise: Promise,
        caps: SpendCaps,
        *,
        now: int,
        live: Collection[int],
        channel: channels.ChannelTerms | None = None,
    ) -> tuple[int, channels.ChannelUse | None]:
        """Count a promise before it is signed; return its number, and the channel it holds.

        Args:
            promise: its number is ignored.
            caps: what may be promised.
            now: seconds since 1970.
            live: promises of this process whose answers are awaited.
            channel: what is wanted of a channel, where it is paid by one.

        Raises:
            RequestError: `spend-limit`; `payment-unproven` where an earlier payment to this
                gateway has no good receipt.
        """
        day = now // DAY_SECONDS
        with self._turn() as connection:
            for (number,) in connection.execute(
                "SELECT id FROM promises WHERE origin = ? AND state IN (?, ?)",
                (promise.origin, PromiseState.SIGNED, PromiseState.REFUSED),
            ):
                if number not in live:
                    raise RequestError(
                        "an earlier payment to this gateway has no good receipt; ask the same "
                        "again, or forgive it",
                        reason=Reason.PAYMENT_UNPROVEN,
                    )
            if promise.amount > caps.per_request:
                raise _limit(f"the request may cost {promise.amount}", caps.per_request)
            cursor = connection.execute(
                "INSERT INTO promises (origin, request, headers, asset, scheme, amount, counted,"
                " rates, day, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    promise.origin,
                    promise.request,
                    json.dumps(dict(promise.headers)),
                    caps.asset,
                    promise.scheme,
                    promise.amount,
                    promise.amount,
                    json.dumps(promise.rates),
                    day,
                    PromiseState.RESERVED,
                ),
            )
            number = cursor.lastrowid
            assert number is not None
            use = None
            if channel is not None:
                use = channels.hold_channel(
                    connection,
                    channel,
                    promise.amount,
                    promise=number,
                    most=caps.per_host if caps.deposits is None else caps.deposits,
                )
            # Beyond what was charged, the last voucher of every idle channel can be claimed.
            for cap, origin in ((caps.per_day, None), (caps.per_host, promise.origin)):
                risked = channels.claimable(connection, caps.asset, origin)
                if self._spent(connection, caps.asset, day, origin) + risked > cap:
                    raise _limit(f"with {promise.amount} it would be more", cap)
            return number, use

    def signed(
        self,
        number: int,
        *,
        payment_id: Digest,
        salt: bytes,
        header: str,
        cumulative: int | None = None,
    ) -> None:
        """Keep a signed payment; it may be sent afterwards and not before."""
        with self._turn() as connection:
            if cumulative is not None:
                channels.voucher_signed(connection, number, cumulative)
            connection.execute(
                "UPDATE promises SET state = ?, payment_id = ?, salt = ?, header = ?"
                " WHERE id = ? AND state = ?",
                (PromiseState.SIGNED, payment_id, salt, header, number, PromiseState.RESERVED),
            )

    def abandoned(self, number: int) -> None:
        """Give up a promise that was not signed."""
        with self._turn() as connection:
            connection.execute(
                "UPDATE promises SET state = ?, counted = 0 WHERE id = ? AND state = ?",
                (PromiseState.ABANDONED, number, PromiseState.RESERVED),
            )
            channels.release_unsent(connection)

    def turn(self, number: int) -> int:
        """Return the turn of the channel that a promise holds."""
        with self._turn() as connection:
            return channels.turn_of(connection, number)

    def proven(self, number: int, *, counted: int, charge: int, turn: int, receipt: bytes) -> None:
        """Note that receipt and bill were good.

        Args:
            number: of the promise.
            counted: how much of it is still counted: what can have been taken.
            charge: of the bill.
            turn: of the voucher, where it is one.
            receipt: kept, since it is the proof of the bill.
        """
        with self._turn() as connection:
            channels.voucher_proven(connection, number, charge, turn)
            connection.execute(
                "UPDATE promises SET state = ?, counted = ?, receipt = ?, headers = '{}'"
                " WHERE id = ?",
                (PromiseState.PROVEN, counted, receipt, number),
            )

    def refused(self, number: int, *, reason: Reason, receipt: bytes) -> None:
        """Note that what came was no good receipt; it is kept as evidence."""
        with self._turn() as connection:
            connection.execute(
                "UPDATE promises SET state = ?, reason = ?, receipt = ? WHERE id = ?",
                (PromiseState.REFUSED, reason.value, receipt, number),
            )

    def forgive(self, origin: str) -> int:
        """Let a gateway be paid again; return how many promises stay without a good receipt."""
        with self._turn() as connection:
            return connection.execute(
                "UPDATE promises SET state = ? WHERE origin = ? AND state IN (?, ?)",
                (PromiseState.FORGIVEN, origin, PromiseState.SIGNED, PromiseState.REFUSED),
            ).rowcount

    def awaited(self, origin: str, request: Digest) -> Promise | None:
        """Return the payment that was signed for a request and has no good receipt."""
        with self._turn() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM promises"  # noqa: S608
                " WHERE origin = ? AND request = ? AND state = ? ORDER BY id LIMIT 1",
                (origin, request, PromiseState.SIGNED),
            ).fetchone()
        return None if row is None else _promise(row)

    def state(self, number: int) -> PromiseState:
        """Return where a promise is in its life."""
        with self._turn() as connection:
            (state,) = connection.execute(
                "SELECT state FROM promises WHERE id = ?", (number,)
            ).fetchone()
        return PromiseState(state)

    def spent(self, asset: str, *, now: int, origin: str | None = None) -> int:
        """Return what the promises of today count.

        Args:
            asset: CAIP-19 identifier of the token.
            now: seconds since 1970.
            origin: of one gateway; of all where `None`.
        """
        with self._turn() as connection:
            return self._spent(connection, asset.lower(), now // DAY_SECONDS, origin)

    @staticmethod
    def _spent(connection: sqlite3.Connection, asset: str, day: int, origin: str | None) -> int:
        where = "" if origin is None else " AND origin = ?"
        given: tuple[Any, ...] = (asset, day) if origin is None else (asset, day, origin)
        (spent,) = connection.execute(
            "SELECT COALESCE(sum(counted), 0) FROM promises"  # noqa: S608
            f" WHERE asset = ? AND day = ?{where}",
            given,
        ).fetchone()
        return int(spent)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[sqlite3.Connection]:
        """One transaction; durable when the block ends."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise StoreError(
                        "cannot write the payer's journal", reason=Reason.STORE_FAILED
                    ) from error
                raise


def _promise(row: tuple[Any, ...]) -> Promise:
    number, origin, request, headers, scheme, amount, rates, state, payment_id, header = row
    return Promise(
        number,
        origin,
        Digest(request),
        json.loads(headers),
        scheme,
        amount,
        tuple(json.loads(rates)),
        PromiseState(state),
        None if payment_id is None else Digest(payment_id),
        header,
    )


def _limit(what: str, cap: int) -> RequestError:
    return RequestError(f"{what} than the cap of {cap}", reason=Reason.SPEND_LIMIT)
