"""The till of a server that is paid by x402: opened for a mode, then used through `Till`.

It joins what others know: prices, schemes, channels, a backend, and the key that signs offers. It
refuses to decide when something is run or captured, which is the machine's
(`verispect.payments.machine`), and what it reads from the payments it never moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.keys import Signer
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.authorisation import Scheme
from verispect.payments.backends import (
    Backend,
    Wanted,
    development_backend,
    facilitator_backend,
    rpc_backend,
)
from verispect.payments.chain.facilitator_client import FacilitatorClient
from verispect.payments.channels import ChannelStore
from verispect.payments.pricing import PriceSheet
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.schemes.batch_settlement import Channels
from verispect.payments.schemes.exact import check_exact
from verispect.payments.schemes.refund import Refunds, is_refund
from verispect.payments.schemes.transfers import SingleTransfers
from verispect.payments.schemes.upto import check_upto
from verispect.payments.settlement import Settlement
from verispect.payments.store import Payment, PaymentStore, State
from verispect.payments.till import Demand, Presented, ReceiptNotice
from verispect.payments.till_answers import demand_header, response_header
from verispect.payments.till_settlement import TillSettlement
from verispect.payments.wire import read_header

CHANNELS_FILE: Final = "channels.sqlite3"


class PaymentMode(StrEnum):
    """Who brings payments to which chain."""

    DEV = "dev"
    """A chain in this process, whose money is worth nothing."""
    FACILITATOR = "facilitator"
    """Somebody else's facilitator; with a node of ours as the witness, if there is one."""
    RPC = "rpc"
    """Our own account, through a node."""


@dataclass(frozen=True, slots=True)
class TillSettings:
    """What an operator configures."""

    mode: PaymentMode
    sheet: PriceSheet
    directory: Path
    """Where channels are kept, and the chain of the mode `dev`."""
    pay_to: str | None = None
    """Address that is paid; the development payee in the mode `dev`, needed otherwise."""
    rpc_url: str | None = None
    """Node; needed in the mode `rpc`. It may hold a password and appears in no message."""
    facilitator_url: str | None = None
    """Base address; needed in the mode `facilitator`."""
    key_file: Path | None = None
    """Key of the account that pays for gas and authorises claims of channels."""
    confirmations: int = 1
    """Blocks that must confirm what is believed, its own counted."""
    min_deposit: int = 0
    """Smallest deposit that is brought to the chain, because that costs gas."""


class X402Till:
    """A `Till`. Methods block; threads may share it.

    Args:
        backend: where the money is.
        channels: the channels.
        payments: what is reserved.
        sheet: the prices.
        signer: of offers and receipts.
        now: seconds since 1970.
    """

    def __init__(
        self,
        backend: Backend,
        channels: ChannelStore,
        payments: PaymentStore,
        sheet: PriceSheet,
        signer: Signer,
        now: Callable[[], int],
    ) -> None:
        self.backend = backend
        self._merchant = merchant = backend.merchant
        self._store = channels
        self._payments = payments
        self._sheet = sheet
        self._signer = signer
        self._now = now
        has_chain = backend.chain is not None
        self._settlement = TillSettlement(
            backend.settlement,
            channels,
            look=backend.look if has_chain else None,
            unpaid=backend.unpaid,
            now=now,
        )
        self._transfers = SingleTransfers(
            merchant,
            backend.facilitator,
            payments,
            {Scheme.EXACT: check_exact, Scheme.UPTO: check_upto},
            balance=backend.balance if has_chain else None,
            now=now,
        )
        self._channels = Channels(
            merchant, backend.facilitator, channels, payments, look=backend.look, now=now
        )
        self._refunds = None
        if backend.authoriser is not None and Scheme.BATCH_SETTLEMENT in merchant.schemes:
            self._refunds = Refunds(
                merchant,
                self._channels,
                channels,
                payments,
                backend.facilitator,
                backend.authoriser,
                now,
            )

    @property
    def settlement(self) -> Settlement:
        """Who moves the money, for the payment machine."""
        return self._settlement

    @property
    def is_development(self) -> bool:
        """Whether the money is worth nothing; whoever shows payments MUST say so."""
        return self.backend.is_development

    def price_list(self) -> dict[str, Any]:
        """Return the public price list: sheet, schemes in order, network, token, payee."""
        merchant = self._merchant
        return {
            "development": self.is_development,
            "network": merchant.network,
            "asset": {
                "address": merchant.token.address,
                "name": merchant.token.name,
                "version": merchant.token.version,
            },
            "payTo": merchant.pay_to,
            "schemes": [scheme.value for scheme in merchant.schemes],
            "sheet": self._sheet.to_json(),
        }

    def demand(self, demand: Demand, refused: Error | None = None) -> str:
        """Return the value of `PAYMENT-REQUIRED`; see `Till.demand`."""
        return demand_header(self._merchant, self._signer, demand, refused, now=self._now())

    def read(self, header: str, demand: Demand) -> Presented:
        """Read and verify the value of `PAYMENT-SIGNATURE`; see `Till.read`."""
        read = read_header(header)
        if is_refund(read):
            raise RefusedPaymentError("a refund buys nothing", "unsupported_scheme")
        if read.scheme not in self._merchant.schemes:
            raise RefusedPaymentError(
                "the payment is of a scheme that is not offered", "unsupported_scheme"
            )
        if read.scheme is Scheme.BATCH_SETTLEMENT:
            authorisation, payer = self._channels.read(read, demand)
        else:
            authorisation, payer = self._transfers.read(read, demand)
        return Presented(authorisation, payer, read.identifier, demand)

    def refund(self, header: str) -> str | None:
        """Refund what is left in a channel, where that is asked for; see `Till.refund`."""
        read = read_header(header)
        if not is_refund(read):
            return None
        if self._refunds is None:
            raise RefusedPaymentError("channels are not taken here", "unsupported_scheme")
        return self._refunds.refund(read)

    def released(self, payment: Payment) -> None:
        """Free the channel of a payment that was given up; see `Till.released`."""
        if payment.authorisation.scheme is not Scheme.BATCH_SETTLEMENT:
            return
        stored = self._payments.get(payment.payment_id)
        if stored is None:
            # Whoever read a copy may be about to reserve it.
            self._store.give_up(payment.payment_id)
        elif stored.state is State.RELEASED:
            self._store.free(payment.payment_id)

    def delivered(self, payment: Payment) -> None:
        """Move the charged total of a channel; see `Till.delivered`."""
        is_voucher = payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        if is_voucher and payment.charge is not None and payment.state is not State.RELEASED:
            self._store.announce(payment.payment_id, payment.charge)

    def response(self, payment: Payment, notice: ReceiptNotice | None) -> str:
        """Return the value of `PAYMENT-RESPONSE`; see `Till.response`."""
        turn = channel = None
        if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
            self.delivered(payment)
            turn = self._store.turn_of(payment.payment_id)
            channel = None if turn is None else self._store.get(turn.channel_id)
        return response_header(self._signer, payment, notice, turn, channel, now=self._now())

    def sweep(self, owed: Sequence[Payment]) -> int:
        """Claim what channels owe; see `Till.sweep`."""
        return self._settlement.sweep(owed, self._merchant.pay_to, self._merchant.token.address)

    def close(self) -> None:
        """Close files and connections."""
        self._store.close()
        for close in self.backend.closing:
            close()


def open_till(
    settings: TillSettings, *, store: PaymentStore, signer: Signer, now: Callable[[], int]
) -> X402Till:
    """Open the till of a mode. It blocks, and MUST be closed by `close`.

    Args:
        settings: what the operator configured.
        store: the payments; the till reads where they stand, and never moves them.
        signer: signs offers and receipts; never the key that is paid.
        now: seconds since 1970.

    Raises:
        MalformedError: `malformed-payment`, `malformed-key`.
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
        NetworkError: `network-failed`, `chain-failed`.
        TrustError: `chain-unexpected`, `development-chain`.
    """
    channels = ChannelStore(settings.directory / CHANNELS_FILE)
    try:
        backend = _backend(settings, channels, now)
    except BaseException:
        channels.close()
        raise
    return X402Till(backend, channels, store, settings.sheet, signer, now)


def _backend(settings: TillSettings, channels: ChannelStore, now: Callable[[], int]) -> Backend:
    wanted = Wanted(
        settings.sheet.asset,
        channels,
        settings.directory,
        settings.pay_to,
        settings.confirmations,
        settings.min_deposit,
        now,
    )
    if settings.mode is PaymentMode.DEV:
        return development_backend(wanted)
    key = settings.key_file
    account = None if key is None else ChainAccount.load(key)
    if settings.mode is PaymentMode.RPC:
        if settings.rpc_url is None or account is None:
            raise _missing("a node and the key of an account are")
        return rpc_backend(wanted, settings.rpc_url, account)
    if settings.facilitator_url is None:
        raise _missing("the address of a facilitator is")
    chain = None
    if settings.rpc_url is not None:
        chain = Chain.connect(settings.rpc_url, expected_id=int(wanted.network.partition(":")[2]))
    client = FacilitatorClient(settings.facilitator_url)
    try:
        return facilitator_backend(wanted, client, chain, account)
    except BaseException:
        client.close()
        raise


def _missing(what: str) -> MalformedError:
    return MalformedError(f"{what} needed for this mode", reason=Reason.MALFORMED_PAYMENT)
