"""A payer's channels, in its journal: what was deposited, what was charged, who uses which.

A channel pays for one request at a time, so that there is a pool of them. Its next voucher is what
was charged, by receipts that were verified, and the ceiling of the request; what a gateway says of
the total counts for nothing. A channel whose last payment has no good receipt is used by nobody
else. The functions run inside a transaction of the journal.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import Final

from verispect.core.errors import Reason, RequestError

MAX_WITHDRAW_SECONDS: Final = 30 * 86_400
"""Longest that a deposit may take to come back."""

_SALT_BYTES: Final = 32

TABLES: Final = (
    """
    CREATE TABLE channels (
      id INTEGER PRIMARY KEY,
      origin TEXT NOT NULL,
      asset TEXT NOT NULL,
      payer TEXT NOT NULL,
      receiver TEXT NOT NULL,
      authoriser TEXT NOT NULL,
      withdraw_seconds INTEGER NOT NULL,
      salt BLOB NOT NULL UNIQUE,
      deposited INTEGER NOT NULL DEFAULT 0,
      held_deposit INTEGER NOT NULL DEFAULT 0,
      charged INTEGER NOT NULL DEFAULT 0,
      signed INTEGER NOT NULL DEFAULT 0,
      turn INTEGER NOT NULL DEFAULT 0,
      used_by INTEGER
    ) STRICT
    """,
    "CREATE INDEX channels_by_origin ON channels (origin, used_by)",
)


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """What a gateway wants of a channel."""

    origin: str
    asset: str
    payer: str
    receiver: str
    authoriser: str
    withdraw_seconds: int
    suggested_deposit: int


@dataclass(frozen=True, slots=True)
class ChannelUse:
    """A channel, held for one request."""

    number: int
    salt: bytes
    cumulative: int
    """The amount of the next voucher."""
    deposit: int
    """What is to be brought to it first."""
    turn: int


def hold_channel(
    connection: sqlite3.Connection, terms: ChannelTerms, amount: int, *, promise: int, most: int
) -> ChannelUse:
    """Hold a free channel, or a new one, for a promise.

    Args:
        connection: in a transaction.
        terms: of the gateway.
        amount: ceiling of the request.
        promise: number of the promise.
        most: how much may lie unused in channels of this gateway.

    Raises:
        RequestError: `spend-limit` where more would have to be deposited.
    """
    number, salt, deposited, charged, turn = connection.execute(
        "SELECT id, salt, deposited, charged, turn FROM channels WHERE origin = ? AND asset = ?"
        " AND payer = ? AND receiver = ? AND authoriser = ? AND withdraw_seconds = ?"
        " AND used_by IS NULL ORDER BY deposited - charged DESC LIMIT 1",
        _identity(terms),
    ).fetchone() or (0, os.urandom(_SALT_BYTES), 0, 0, 0)
    missing = max(charged + amount - deposited, 0)
    deposit = 0
    if missing:
        (unused,) = connection.execute(
            "SELECT COALESCE(sum(deposited - charged), 0) FROM channels"
            " WHERE origin = ? AND asset = ?",
            (terms.origin, terms.asset),
        ).fetchone()
        deposit = min(max(missing, terms.suggested_deposit), most - unused)
        if deposit < missing:
            raise RequestError(
                f"a deposit of {missing} would leave more than the cap of {most} in channels",
                reason=Reason.SPEND_LIMIT,
            )
    if not number:
        made = connection.execute(
            "INSERT INTO channels (origin, asset, payer, receiver, authoriser, withdraw_seconds,"
            " salt) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*_identity(terms), salt),
        )
        number = int(made.lastrowid or 0)
    connection.execute(
        "UPDATE channels SET used_by = ?, deposited = deposited + ?, held_deposit = ? WHERE id = ?",
        (promise, deposit, deposit, number),
    )
    return ChannelUse(number, salt, charged + amount, deposit, turn)


def voucher_signed(connection: sqlite3.Connection, promise: int, cumulative: int) -> None:
    """Note the voucher that may be sent from now on."""
    connection.execute(
        "UPDATE channels SET signed = max(signed, ?), held_deposit = 0 WHERE used_by = ?",
        (cumulative, promise),
    )


def voucher_proven(connection: sqlite3.Connection, promise: int, charge: int, turn: int) -> None:
    """Note what a verified receipt charged; the channel is free for the next request."""
    connection.execute(
        "UPDATE channels SET charged = charged + ?, turn = ?, used_by = NULL WHERE used_by = ?",
        (charge, turn + 1, promise),
    )


def release_unsent(connection: sqlite3.Connection) -> None:
    """Free the channels of promises that were given up before they were sent."""
    connection.execute(
        "UPDATE channels SET deposited = deposited - held_deposit, held_deposit = 0,"
        " used_by = NULL WHERE used_by IN (SELECT id FROM promises WHERE state = 'abandoned')"
    )


def turn_of(connection: sqlite3.Connection, promise: int) -> int:
    """Return the turn of the channel that a promise holds."""
    row = connection.execute("SELECT turn FROM channels WHERE used_by = ?", (promise,)).fetchone()
    return 0 if row is None else int(row[0])


def claimable(connection: sqlite3.Connection, asset: str, origin: str | None) -> int:
    """Return what idle channels' last vouchers allow beyond what was charged."""
    where = "" if origin is None else " AND origin = ?"
    given = (asset,) if origin is None else (asset, origin)
    (most,) = connection.execute(
        f"SELECT COALESCE(sum(signed - charged), 0) FROM channels WHERE asset = ?{where}"  # noqa: S608
        " AND used_by IS NULL AND signed > charged",
        given,
    ).fetchone()
    return int(most)


def _identity(terms: ChannelTerms) -> tuple[str, str, str, str, str, int]:
    return (
        terms.origin,
        terms.asset,
        terms.payer,
        terms.receiver,
        terms.authoriser,
        terms.withdraw_seconds,
    )
