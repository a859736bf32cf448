"""The scheme `batch-settlement`: vouchers of a channel, checked without asking a chain each time.

A voucher names all that may be claimed so far, and is money as soon as it is here: nothing has to
move for a request. It is checked that its channel is ours, holds enough on the chain, is not being
left by its payer, and pays for no other request just now; and that the voucher continues exactly
from what was charged, so that an older one, or one that was signed twice, buys nothing.

A deposit that comes with a voucher is brought to the chain here, after everything else is right.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import WeakValueDictionary

from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    VerificationError,
)
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme
from verispect.payments.chain.addresses import NO_ADDRESS
from verispect.payments.chain.channel_state import ChannelState
from verispect.payments.chain.terms import VoucherTerms, voucher_terms
from verispect.payments.channel_records import Channel, Turn, busy, channel_state, correction
from verispect.payments.channels import ChannelStore
from verispect.payments.facilitator import Facilitating
from verispect.payments.merchant import Merchant
from verispect.payments.pricing import MAX_AMOUNT
from verispect.payments.refusals import RefusedPaymentError, StaleVoucherError
from verispect.payments.schemes.signatures import (
    channel_id_of,
    check_form,
    signer_of,
    voucher_digest,
)
from verispect.payments.store import PaymentStore, State
from verispect.payments.till import Demand
from verispect.payments.wire import X402_VERSION, PaymentHeader, to_json

SYNC_SECONDS: Final = 60
"""How long what the chain said of a channel is relied on; far less than its withdrawal takes."""

HOLD_SECONDS: Final = 30
"""How long a channel is held for a payment that nobody reserves."""

WAIT_SECONDS: Final = 10.0
"""How long one request waits while another one brings a deposit of the same channel."""

_PREFIX: Final = "invalid_batch_settlement_evm_"


class Channels:
    """Reads payments of the scheme `batch-settlement`. Methods block; threads may share it.

    Args:
        merchant: who is paid.
        facilitator: who brings deposits to the chain.
        store: the channels.
        payments: what is reserved.
        look: asks the chain about a channel.
        now: seconds since 1970.
    """

    def __init__(
        self,
        merchant: Merchant,
        facilitator: Facilitating,
        store: ChannelStore,
        payments: PaymentStore,
        *,
        look: Callable[[bytes], ChannelState],
        now: Callable[[], int],
    ) -> None:
        self._merchant = merchant
        self._facilitator = facilitator
        self._store = store
        self._payments = payments
        self._look = look
        self._now = now
        self._lock = threading.Lock()
        self._doors: WeakValueDictionary[bytes, _Door] = WeakValueDictionary()

    def read(self, header: PaymentHeader, demand: Demand) -> tuple[Authorisation, str]:
        """Read and verify a voucher, and hold its channel for the request.

        Returns:
            The payment, and its payer.

        Raises:
            MalformedError, VerificationError, RequestError, NetworkError: as `Till.read`.
        """
        terms = self.checked_terms(header)
        payer = terms.channel[0].lower()
        known = self._copy_of(terms, header, demand)
        if known is None:
            with self.door(terms.channel_id):
                known = self._copy_of(terms, header, demand)
                if known is None:
                    known = self._accept(terms, header, demand)
        return known, payer

    def checked_terms(self, header: PaymentHeader) -> VoucherTerms:
        """Return a voucher that its payer signed, of a channel that pays us.

        Raises:
            MalformedError: `malformed-payment`.
            RefusedPaymentError: `payment-invalid`.
        """
        terms = _terms(header.payload)
        merchant = self._merchant
        payer, authoriser, receiver, receiver_authoriser, token, delay, _ = terms.channel
        if channel_id_of(merchant.chain_id, terms.channel) != terms.channel_id:
            raise RefusedPaymentError("the channel has another id", _PREFIX + "channel_id_mismatch")
        for ours, theirs, code in (
            (merchant.pay_to, receiver, "receiver_mismatch"),
            (merchant.authoriser or "", receiver_authoriser, "receiver_authorizer_mismatch"),
            (merchant.token.address, token, "token_mismatch"),
        ):
            if ours.lower() != theirs.lower():
                raise RefusedPaymentError("the channel is not one of ours", _PREFIX + code)
        if delay != merchant.withdraw_seconds:
            raise RefusedPaymentError(
                "the channel has another withdrawal delay", _PREFIX + "withdraw_delay_mismatch"
            )
        if NO_ADDRESS in {payer.lower(), authoriser.lower()}:
            raise RefusedPaymentError(
                "channels of smart wallets are not taken", _PREFIX + "voucher_signature"
            )
        check_form(terms.signature, _PREFIX + "voucher_signature")
        digest = voucher_digest(merchant.chain_id, terms.channel_id, terms.most)
        if signer_of(digest, terms.signature) != authoriser.lower():
            raise RefusedPaymentError(
                "the voucher is not signed by its payer", _PREFIX + "voucher_signature"
            )
        return terms

    @contextlib.contextmanager
    def door(self, channel_id: bytes) -> Iterator[None]:
        """Let one thread at a time decide about a channel.

        Raises:
            RequestError: `payment-busy` where that takes too long.
        """
        with self._lock:
            door = self._doors.get(channel_id)
            if door is None:
                door = self._doors[channel_id] = _Door()
        if not door.lock.acquire(timeout=WAIT_SECONDS):
            raise busy()
        try:
            yield
        finally:
            door.lock.release()

    def clear(self, channel_id: bytes) -> None:
        """Free a channel of a payment that ended without this room being told.

        Raises:
            RequestError: `payment-busy` where it still pays for one.
        """
        for lapsed in self._store.given_up(channel_id):
            late = self._payments.get(lapsed.payment_id)
            if late is not None and late.charge is None and late.state is not State.RELEASED:
                # It was reserved after its hold had ended, and the next voucher would be too low.
                raise busy()
        turn = self._store.open_turn(channel_id)
        if turn is None:
            return
        payment = self._payments.get(turn.payment_id)
        if payment is None:
            if self._now() < turn.begun_at + HOLD_SECONDS:
                raise busy()
            self._store.free(turn.payment_id)
        elif payment.state is State.RELEASED:
            self._store.free(turn.payment_id)
        elif payment.charge is not None:
            self._store.announce(turn.payment_id, payment.charge)
        else:
            raise busy()

    def synced(self, terms: VoucherTerms) -> ChannelState:
        """Return what the chain says of a channel now, and write it down where it is known."""
        at = self._now()
        state = self._look(terms.channel_id)
        if self._store.get(terms.channel_id) is not None:
            self._store.sync(terms, state, at=at)
        return state

    # -- Copies -------------------------------------------------------------------------------

    def _copy_of(
        self, terms: VoucherTerms, header: PaymentHeader, demand: Demand
    ) -> Authorisation | None:
        """Return the payment that this is a copy of, with its answer stored or on its way."""
        turn = self._store.latest_turn(terms.channel_id, terms.most, demand.request)
        if turn is None:
            return None
        payment = self._payments.get(turn.payment_id)
        if payment is not None:
            return None if payment.state is State.RELEASED else payment.authorisation
        if self._now() >= turn.begun_at + HOLD_SECONDS or not self._store.join(turn.payment_id):
            return None
        return self._authorisation(terms, turn.number, header, demand)

    # -- New payments -------------------------------------------------------------------------

    def _accept(self, terms: VoucherTerms, header: PaymentHeader, demand: Demand) -> Authorisation:
        entry = self._merchant.meant(header, demand)
        ceiling = demand.quote.ceiling
        self.clear(terms.channel_id)
        channel = self._store.get(terms.channel_id)
        if channel is None or self._now() >= channel.synced_at + SYNC_SECONDS:
            state = self.synced(terms)
            channel = self._store.get(terms.channel_id)
        else:
            state = channel.state
        announced = state.claimed if channel is None else channel.announced
        if terms.most != announced + ceiling:
            raise StaleVoucherError(_correction(terms, state, channel))
        if state.withdraw_requested_at:
            raise RefusedPaymentError(
                "the payer is leaving the channel", _PREFIX + "withdrawal_pending"
            )
        asked_at = self._now() if channel is None else channel.synced_at
        if asked_at + self._merchant.withdraw_seconds <= self._now() + demand.lasting_seconds:
            raise RequestError(
                "the channel does not last until the deadline", reason=Reason.PAYMENT_OVERDUE
            )
        deposit = None
        if header.payload.get("type") == "deposit":
            deposit, state = self._deposit(terms, header, entry, state)
        if terms.most > state.deposited:
            raise RefusedPaymentError(
                "the channel does not hold enough", _PREFIX + "cumulative_exceeds_balance"
            )
        if channel is None or deposit is not None:
            channel = self._store.sync(terms, state, at=self._now())
        authorisation = self._authorisation(terms, channel.turn, header, demand, channel)
        self._hold(terms, authorisation, channel, demand, deposit)
        return authorisation

    def _hold(
        self,
        terms: VoucherTerms,
        authorisation: Authorisation,
        channel: Channel,
        demand: Demand,
        deposit: str | None,
    ) -> Turn:
        return self._store.hold(
            terms,
            authorisation.key.digest(),
            demand.request,
            number=channel.turn,
            ceiling=demand.quote.ceiling,
            at=self._now(),
            deposit=deposit,
        )

    def _authorisation(
        self,
        terms: VoucherTerms,
        turn: int,
        header: PaymentHeader,
        demand: Demand,
        channel: Channel | None = None,
    ) -> Authorisation:
        merchant = self._merchant
        channel = channel or self._store.get(terms.channel_id)
        asked_at = self._now() if channel is None else channel.synced_at
        key = AuthorisationKey.of_voucher(
            merchant.network,
            merchant.token.address,
            "0x" + terms.channel_id.hex(),
            terms.most,
            turn,
        )
        ceiling = demand.quote.ceiling
        value = {
            "x402Version": X402_VERSION,
            "resource": {"url": demand.resource},
            "accepted": merchant.channel_way(ceiling, demand.lasting_seconds),
            "payload": {name: header.payload[name] for name in ("channelConfig", "voucher")},
        }
        ends = asked_at + merchant.withdraw_seconds
        return Authorisation(key, Scheme.BATCH_SETTLEMENT, ceiling, ends, to_json(value))

    # -- Deposits -----------------------------------------------------------------------------

    def _deposit(
        self,
        terms: VoucherTerms,
        header: PaymentHeader,
        entry: dict[str, Any],
        state: ChannelState,
    ) -> tuple[str | None, ChannelState]:
        """Bring a deposit to the chain; return its transaction and what the chain says then."""
        amount = _amount(header.payload)
        if amount < self._merchant.min_deposit:
            raise RefusedPaymentError(
                "the deposit is below the least that is taken",
                _PREFIX + "deposit_below_min_deposit",
            )
        if state.deposited + amount < terms.most:
            raise RefusedPaymentError(
                "the deposit does not cover the voucher", _PREFIX + "cumulative_exceeds_balance"
            )
        value = {"x402Version": X402_VERSION, "accepted": entry, "payload": header.payload}
        try:
            transaction: str | None = self._facilitator.settle(value, entry)
        except (VerificationError, NetworkError):
            # It may have been brought before, by a request that died, or just now without a word.
            state = self.synced(terms)
            if state.deposited < terms.most:
                raise
            return None, state
        return transaction, self.synced(terms)


class _Door:
    """A lock that is forgotten when nobody stands at it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _terms(payload: dict[str, Any]) -> VoucherTerms:
    if payload.get("type") not in ("voucher", "deposit", "refund"):
        raise _malformed()
    terms = voucher_terms(payload)
    if terms.most > MAX_AMOUNT or not 0 <= terms.channel[5] < 1 << 40:
        raise _malformed()
    return terms


def _amount(payload: dict[str, Any]) -> int:
    deposit = payload.get("deposit")
    amount = deposit.get("amount") if type(deposit) is dict else None
    if type(amount) is not str or not (amount.isascii() and amount.isdigit() and len(amount) < 19):
        raise _malformed()
    return int(amount)


def _correction(
    terms: VoucherTerms, state: ChannelState, channel: Channel | None
) -> dict[str, Any]:
    if channel is not None:
        return correction(channel)
    return {"channelState": channel_state(terms.channel_id, state, state.claimed)}


def _malformed() -> MalformedError:
    return MalformedError(
        "the payload of the payment is of another form", reason=Reason.MALFORMED_PAYMENT
    )
