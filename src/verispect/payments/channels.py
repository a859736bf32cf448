"""Channels on disk: what each was charged, what it owes, and which request it pays for just now.

Two totals are kept. `announced` is what the payer was told that it was charged, from which its
next voucher continues. `owed` is what may be claimed: charges whose assurance was delivered, and
nothing else. A charge that was announced and then released stays between the two, and goes back to
the payer with its refund.

SQLite in WAL mode with `synchronous=FULL`: losing a voucher that was not claimed is losing money.
The store refuses to talk to a chain, and to judge a signature.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError, VerificationError
from verispect.ledger.schema import is_locked, open_writer
from verispect.payments.chain.channel_state import ChannelState
from verispect.payments.chain.terms import VoucherTerms
from verispect.payments.chain.vouchers import Claim
from verispect.payments.channel_records import (
    CHANNEL_TABLES,
    Channel,
    Turn,
    busy,
    correction,
    payment_holder,
)
from verispect.payments.pricing import MAX_AMOUNT
from verispect.payments.refusals import StaleVoucherError
from verispect.payments.store import Payment

CHANNELS_APPLICATION_ID: Final = 0x56535043
"""ASCII `VSPC`."""

CHANNELS_VERSION: Final = 1
BUSY_MILLISECONDS: Final = 30_000
CHECKPOINT_PAGES: Final = 1000

_CHANNEL: Final = (
    "id, payer, payer_authoriser, receiver, receiver_authoriser, token, withdraw_delay, salt,"
    " deposited, claimed, withdraw_requested_at, refund_nonce, synced_at, announced, owed,"
    " most, signature, turn, claimed_by"
)
_TURN: Final = (
    "channel, number, payment, cumulative, request, begun_at, open, deposit, charge,"
    " announced, total"
)


class ChannelStore:
    """The channels of one server, for any number of threads.

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
                for statement in CHANNEL_TABLES:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {CHANNELS_APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {CHANNELS_VERSION}")
            elif application != CHANNELS_APPLICATION_ID:
                raise StoreError("the file holds no channels", reason=Reason.STORE_FAILED)
            elif version != CHANNELS_VERSION:
                raise StoreError(
                    f"expected channel store version {CHANNELS_VERSION}, got {version}",
                    reason=Reason.UNSUPPORTED_VERSION,
                )

    def close(self) -> None:
        """Close the file; nothing is lost where this is not called."""
        with self._lock:
            self._connection.close()

    # -- Reading ------------------------------------------------------------------------------

    def get(self, channel_id: bytes) -> Channel | None:
        """Return a channel, if it is known."""
        with self._turn("read"):
            return self._channel(channel_id)

    def turn_of(self, payment_id: Digest) -> Turn | None:
        """Return the turn that a payment had, if it had one."""
        with self._turn("read"):
            return self._one("payment = ?", payment_id)

    def open_turn(self, channel_id: bytes) -> Turn | None:
        """Return the turn that a channel is held for, if it is."""
        with self._turn("read"):
            return self._one("channel = ? AND open = 1", channel_id)

    def latest_turn(self, channel_id: bytes, cumulative: int, request: Digest) -> Turn | None:
        """Return the last turn in which this voucher paid for this request, if there is one."""
        with self._turn("read"):
            return self._one(
                "channel = ? AND cumulative = ? AND request = ? ORDER BY number DESC LIMIT 1",
                channel_id,
                cumulative,
                request,
            )

    def given_up(self, channel_id: bytes) -> list[Turn]:
        """Return the last turns for which a channel is no longer held, and that charged nothing."""
        with self._turn("read"):
            rows = self._connection.execute(
                f"SELECT {_TURN} FROM turns WHERE channel = ?"  # noqa: S608  the words are ours
                " AND open = 0 AND charge IS NULL AND number >="
                " (SELECT turn FROM channels WHERE id = channel) - 4",
                (channel_id,),
            ).fetchall()
        return [_turn(row) for row in rows]

    def awaiting(self, channel_id: bytes) -> list[Turn]:
        """Return the turns whose charge was announced and is not owed; they may be released."""
        with self._turn("read"):
            rows = self._connection.execute(
                f"SELECT {_TURN} FROM turns WHERE channel = ?"  # noqa: S608  the words are ours
                " AND charge > 0 AND total IS NULL",
                (channel_id,),
            ).fetchall()
        return [_turn(row) for row in rows]

    # -- Before and after a request -----------------------------------------------------------

    def sync(
        self, terms: VoucherTerms, state: ChannelState, *, at: int, claimed_by: str | None = None
    ) -> Channel:
        """Write down what the chain says of a channel; it is known from then on.

        Args:
            terms: of a voucher whose signature was checked.
            state: as the chain says.
            at: when it was asked, in seconds since 1970.
            claimed_by: the transaction that claimed it, where that is news.
        """
        with self._turn("write"):
            self._connection.execute(
                f"INSERT INTO channels ({_CHANNEL}) VALUES (?{', ?' * 18})"  # noqa: S608
                " ON CONFLICT (id) DO UPDATE SET deposited = excluded.deposited,"
                " claimed = excluded.claimed,"
                " withdraw_requested_at = excluded.withdraw_requested_at,"
                " refund_nonce = excluded.refund_nonce, synced_at = excluded.synced_at,"
                # What is claimed was owed, whoever kept the book then.
                " announced = max(announced, excluded.claimed), owed = max(owed, excluded.claimed),"
                " claimed_by = coalesce(excluded.claimed_by, claimed_by)",
                (
                    terms.channel_id,
                    *terms.channel,
                    min(state.deposited, MAX_AMOUNT),
                    min(state.claimed, MAX_AMOUNT),
                    state.withdraw_requested_at,
                    min(state.refund_nonce, MAX_AMOUNT),
                    at,
                    min(state.claimed, MAX_AMOUNT),
                    min(state.claimed, MAX_AMOUNT),
                    terms.most,
                    terms.signature,
                    0,
                    claimed_by,
                ),
            )
            return self._known(terms.channel_id)

    def hold(
        self,
        terms: VoucherTerms,
        payment_id: Digest,
        request: Digest,
        *,
        number: int,
        ceiling: int,
        at: int,
        deposit: str | None,
    ) -> Turn:
        """Hold a channel for one request.

        Args:
            terms: of its voucher.
            payment_id: of the payment that it will be reserved as.
            request: digest of the request.
            number: of the turn, which the payment's key has.
            ceiling: the most that the request may cost.
            at: seconds since 1970.
            deposit: the transaction that brought its deposit.

        Raises:
            RequestError: `payment-busy` where the channel is held, or was a moment ago.
            StaleVoucherError: `payment-stale` where the voucher does not continue from what
                was charged.
        """
        with self._turn("write"):
            channel = self._known(terms.channel_id)
            if self._one("channel = ? AND open = 1", terms.channel_id) or channel.turn != number:
                raise busy()
            if terms.most != channel.announced + ceiling:
                raise StaleVoucherError(correction(channel))
            self._connection.execute(
                f"INSERT INTO turns ({_TURN}, readers)"  # noqa: S608  the words are ours
                " VALUES (?, ?, ?, ?, ?, ?, 1, ?, NULL, NULL, NULL, 1)",
                (terms.channel_id, number, payment_id, terms.most, request, at, deposit),
            )
            self._connection.execute(
                "UPDATE channels SET turn = turn + 1 WHERE id = ?", (terms.channel_id,)
            )
            self._connection.execute(
                "UPDATE channels SET most = ?, signature = ? WHERE id = ? AND most <= ?",
                (terms.most, terms.signature, terms.channel_id, terms.most),
            )
            turn = self._one("payment = ?", payment_id)
        if turn is None:
            raise StoreError("a turn was not kept", reason=Reason.STORE_FAILED)
        return turn

    def join(self, payment_id: Digest) -> bool:
        """Note that a copy was read, too, of a payment that nobody has reserved yet.

        Returns:
            Whether its channel is still held for it.
        """
        with self._turn("write"):
            joined = self._connection.execute(
                "UPDATE turns SET readers = readers + 1 WHERE payment = ? AND open = 1",
                (payment_id,),
            )
            return joined.rowcount == 1

    def give_up(self, payment_id: Digest) -> None:
        """Note that one reader will not reserve; the channel is free once none of them will."""
        with self._turn("write"):
            self._connection.execute(
                "UPDATE turns SET readers = max(readers - 1, 0), open = (readers > 1)"
                " WHERE payment = ? AND open = 1",
                (payment_id,),
            )

    def announce(self, payment_id: Digest, charge: int) -> None:
        """Note what a payment charges, and free its channel; the second time changes nothing."""
        with self._turn("write"):
            self._announce(payment_id, charge)

    def _announce(self, payment_id: Digest, charge: int) -> None:
        turn = self._one("payment = ?", payment_id)
        if turn is None or turn.charge is not None:
            return
        self._connection.execute(
            "UPDATE channels SET announced = announced + ? WHERE id = ?", (charge, turn.channel_id)
        )
        self._connection.execute(
            "UPDATE turns SET open = 0, charge = ?,"
            " announced = (SELECT announced FROM channels WHERE id = channel) WHERE payment = ?",
            (charge, payment_id),
        )

    def free(self, payment_id: Digest) -> None:
        """Free the channel that is held for a payment which was given up."""
        with self._turn("write"):
            self._connection.execute("UPDATE turns SET open = 0 WHERE payment = ?", (payment_id,))

    # -- What is owed -------------------------------------------------------------------------

    def claim(self, payment: Payment, charge: int) -> Claim:
        """Return the claim that takes a payment, which is owed from then on (`ChannelBook`).

        Raises:
            VerificationError: `payment-invalid` where the channel is not known, or no voucher
                covers what it owes.
        """
        payment_id = payment.payment_id
        with self._turn("write"):
            turn = self._one("payment = ?", payment_id)
            if turn is None:
                raise VerificationError(
                    "the channel of the payment is not known", reason=Reason.PAYMENT_INVALID
                )
            if turn.total is None:
                self._announce(payment_id, charge)
                self._connection.execute(
                    "UPDATE channels SET owed = owed + ? WHERE id = ?", (charge, turn.channel_id)
                )
                self._connection.execute(
                    "UPDATE turns SET total = (SELECT owed FROM channels WHERE id = channel)"
                    " WHERE payment = ?",
                    (payment_id,),
                )
                turn = self._one("payment = ?", payment_id)
            channel = self._known(payment_holder(payment))
        if turn is None or turn.total is None or turn.total > channel.terms.most:
            raise VerificationError(
                "no voucher covers what the channel owes", reason=Reason.PAYMENT_INVALID
            )
        return Claim(channel.terms, turn.total)

    def refunded(
        self, terms: VoucherTerms, state: ChannelState, *, at: int, whole: bool
    ) -> Channel:
        """Write down that a payer got money back.

        Args:
            terms: of its voucher.
            state: as the chain says afterwards.
            at: when it was asked, in seconds since 1970.
            whole: whether everything went back: then the channel begins again from what it owes.
        """
        channel = self.sync(terms, state, at=at)
        if not whole:
            return channel
        with self._turn("write"):
            self._connection.execute(
                "UPDATE channels SET announced = owed WHERE id = ?", (terms.channel_id,)
            )
            return self._known(terms.channel_id)

    # -- Rows ---------------------------------------------------------------------------------

    def _known(self, channel_id: bytes) -> Channel:
        channel = self._channel(channel_id)
        if channel is None:
            raise VerificationError("no such channel", reason=Reason.PAYMENT_INVALID)
        return channel

    def _channel(self, channel_id: bytes) -> Channel | None:
        row = self._connection.execute(
            f"SELECT {_CHANNEL} FROM channels WHERE id = ?",  # noqa: S608  the words are ours
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        terms = VoucherTerms(tuple(row[1:8]), row[0], row[15], row[16])
        state = ChannelState(row[8], row[9], row[10], row[11])
        return Channel(terms, state, row[12], row[13], row[14], row[17], row[18])

    def _one(self, where: str, *values: Any) -> Turn | None:
        row = self._connection.execute(
            f"SELECT {_TURN} FROM turns WHERE {where}",  # noqa: S608  the words are ours
            values,
        ).fetchone()
        return None if row is None else _turn(row)

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
            raise StoreError(f"cannot {doing} the channels: {name}", reason=reason) from error


def _turn(row: tuple[Any, ...]) -> Turn:
    channel, number, payment, cumulative, request, begun_at, is_open, *rest = row
    return Turn(channel, number, payment, cumulative, request, begun_at, bool(is_open), *rest)
