"""Pays a gateway: within caps, for signed offers only, and never twice for one request.

The order is the caller's safety. An offer is verified, the money counted, the payment signed and
kept on disk, and only then sent. Where it is not known what became of it, the same payment is
presented again; a second one is never signed. No further payment is made to a gateway until the
receipt of the one before was verified and its bill computed again: no valid receipt, no next
payment. This module refuses to trust what a gateway says of its own charge.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from verispect.appraisal.metering import VerifiedBill, verify_bill
from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.exchange import Exchange, verify_exchange
from verispect.client.paying_journal import PaymentJournal, Promise, PromiseState, SpendCaps
from verispect.client.paying_offer import Offer, read_offers
from verispect.client.paying_schemes import (
    channel_terms,
    is_payable,
    sign_payment,
    turn_of_payment,
)
from verispect.client.wallet import Wallet
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import Error, Reason, RequestError, VerificationError
from verispect.core.receipt import InferenceReceipt
from verispect.payments.authorisation import Scheme
from verispect.payments.nonce import request_digest
from verispect.payments.wire import X402_VERSION, read_answer_header, write_header

if TYPE_CHECKING:
    from verispect.core.statement import InferenceStatement

PATIENCE: Final = (0.2, 1.0, 3.0, 6.0)
"""Seconds before each further presentation of a payment whose end is not known."""

DEFAULT_SCHEMES: Final = (Scheme.BATCH_SETTLEMENT, Scheme.EXACT)
"""`upto` needs an approval on the chain, which only the wallet's owner can give."""

MAX_KEPT_BYTES: Final = 1024 * 1024
"""Of a receipt that was refused, in the journal."""

_OWN_TO_EACH_ASKING: Final = frozenset({"verispect-nonce"})


@dataclass(slots=True)
class Payer:
    """Pays for requests; one journal, any number of gateways and threads.

    Args:
        wallet: the account.
        journal: what was promised before.
        caps: what may be promised.
        trusted_root: whose offers and receipts are believed.
        policy: what a receipt has to meet before the gateway is paid again.
        schemes: the ways to pay, best first.
        patience: seconds before each further presentation of a payment.
        now: seconds since 1970.
    """

    wallet: Wallet
    journal: PaymentJournal
    caps: SpendCaps
    trusted_root: TrustedRoot
    policy: AssurancePolicy = SIGNED
    schemes: Sequence[Scheme] = DEFAULT_SCHEMES
    patience: Sequence[float] = PATIENCE
    now: Callable[[], int] = lambda: int(time.time())
    last_bill: VerifiedBill | None = None
    """Of the payment that was proven last."""
    _live: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, origin: str, path: str, body: bytes, headers: Mapping[str, str]) -> Purchase:
        """Return the purchase of a request: the one that waits for its answer, or a new one.

        Args:
            origin: scheme, host and port of the gateway.
            path: of the request, without query.
            body: as it will be sent.
            headers: ours.

        Raises:
            RequestError: `payment-pending` where another thread awaits the same one.
        """
        asked = request_digest("POST", path, body)
        own = sorted((k, v) for k, v in headers.items() if k not in _OWN_TO_EACH_ASKING)
        request = sha256(encode(["verispect-purchase-v1", asked, [list(pair) for pair in own]]))
        with self._lock:
            earlier = self.journal.awaited(origin, request)
            if earlier is not None:
                if earlier.number in self._live:
                    raise RequestError(
                        "the same request is being paid for", reason=Reason.PAYMENT_PENDING
                    )
                self._live.add(earlier.number)
        purchase = Purchase(self, origin, path, asked, request, dict(headers))
        if earlier is not None:
            purchase.promise, purchase.headers = earlier, dict(earlier.headers)
        return purchase

    def forgive(self, origin: str) -> int:
        """Let a gateway be paid again although a payment to it has no good receipt.

        Args:
            origin: scheme, host and port of the gateway.

        Returns:
            How many payments stay without one; they stay counted.
        """
        return self.journal.forgive(origin)


@dataclass(slots=True)
class Purchase:
    """One request on its way to being paid for; `Payer.begin` makes it."""

    payer: Payer
    origin: str
    path: str
    asked: Digest
    request: Digest
    headers: dict[str, str]
    """Ours, as they were when the payment was signed."""
    promise: Promise | None = None

    @property
    def signature(self) -> str | None:
        """The value of `PAYMENT-SIGNATURE`, once there is one."""
        return None if self.promise is None else self.promise.header

    def sign(self, required: str) -> None:
        """Sign a payment for what a 402 asks, and keep it.

        Args:
            required: the value of `PAYMENT-REQUIRED`.

        Raises:
            MalformedError: `malformed-payment`.
            VerificationError: `offer-invalid`.
            RequestError: `spend-limit`, `payment-unproven`, or no way to pay is known here.
            StoreError: the journal cannot be written; nothing was sent.
        """
        if self.promise is not None:
            raise ValueError("a request is paid for once")
        payer = self.payer
        now = payer.now()
        offers = read_offers(
            required, url=self.origin + self.path, trusted_root=payer.trusted_root, now=now
        )
        chosen = self._choose(offers)
        for offer, further in zip(chosen, [*chosen[1:], None], strict=True):
            try:
                self._promise(offer, now)
                return
            except RequestError as error:
                # A deposit may be too much where a single payment is not.
                is_channel = offer.scheme is Scheme.BATCH_SETTLEMENT
                if further is None or not is_channel or error.reason is not Reason.SPEND_LIMIT:
                    raise

    def _choose(self, offers: Sequence[Offer]) -> list[Offer]:
        """Return what can be paid here, best first."""
        ours = [offer for offer in offers if offer.asset == self.payer.caps.asset]
        if not ours:
            raise RequestError("the gateway takes another token than this payer's")
        chosen = [
            offer
            for scheme in self.payer.schemes
            for offer in ours
            if offer.scheme is scheme and is_payable(offer)
        ]
        if not chosen:
            raise RequestError("the gateway offers no way to pay that this payer uses")
        return chosen

    def _promise(self, offer: Offer, now: int) -> None:
        """Count a payment of an offer, sign it, and keep it."""
        payer = self.payer
        planned = Promise(
            0,
            self.origin,
            self.request,
            self.headers,
            offer.scheme.value,
            offer.amount,
            (offer.input_per_million, offer.output_per_million),
            PromiseState.RESERVED,
            None,
            None,
        )
        with payer._lock:  # noqa: SLF001 - a purchase is the payer's own half
            number, use = payer.journal.reserve(
                planned,
                payer.caps,
                now=now,
                live=payer._live,  # noqa: SLF001
                channel=channel_terms(offer, self.origin, payer.wallet.address),
            )
            payer._live.add(number)  # noqa: SLF001
        try:
            made = sign_payment(payer.wallet, offer, self.asked, use, now)
            header = write_header(
                {
                    "x402Version": X402_VERSION,
                    "resource": dict(offer.resource),
                    "accepted": dict(offer.entry),
                    "payload": made.payload,
                }
            )
            key = made.key.digest()
            payer.journal.signed(
                number, payment_id=key, salt=made.salt, header=header, cumulative=made.cumulative
            )
        except BaseException:
            payer.journal.abandoned(number)
            self._end(number)
            raise
        self.promise = replace(
            planned, number=number, state=PromiseState.SIGNED, payment_id=key, header=header
        )

    def settle(self, exchange: Exchange, response: str | None) -> VerifiedBill | None:
        """Verify receipt and bill of the answer; the gateway may be paid again afterwards.

        Args:
            exchange: what came.
            response: the value of `PAYMENT-RESPONSE`, where it came.

        Returns:
            The bill; nothing where the request was not paid for.

        Raises:
            VerificationError: the receipt or the bill is not right; the gateway is not paid again.
            Error: it could not be told; asking the same again tries it again.
        """
        promise = self.promise
        if promise is None:
            return None
        journal = self.payer.journal
        try:
            bill, turn = self._verified(promise, exchange, response)
        except VerificationError as error:
            kept = exchange.receipt[:MAX_KEPT_BYTES]
            journal.refused(promise.number, reason=error.reason, receipt=kept)
            raise
        # A single transfer can be taken whole until it ends, whatever was charged.
        is_voucher = promise.scheme == Scheme.BATCH_SETTLEMENT
        counted = bill.charge if is_voucher else promise.amount
        envelope = InferenceReceipt.parse(exchange.receipt).envelope
        receipt = replace(envelope, evidence=()).encode()
        journal.proven(
            promise.number, counted=counted, charge=bill.charge, turn=turn, receipt=receipt
        )
        self.payer.last_bill = bill
        return bill

    def _verified(
        self, promise: Promise, exchange: Exchange, response: str | None
    ) -> tuple[VerifiedBill, int]:
        """Return the bill, and the turn of its voucher where it is one."""
        payer = self.payer
        verified = verify_exchange(
            exchange,
            trusted_root=payer.trusted_root,
            policy=payer.policy,
            now=payer.now() * 1000,
        )
        bill = verify_bill(verified.statement)
        statement = verified.statement
        turn = payer.journal.turn(promise.number)
        if promise.scheme == Scheme.BATCH_SETTLEMENT and statement.payment is not None:
            assert promise.header is not None
            presented = read_answer_header(promise.header)
            named = turn_of_payment(presented, statement.payment.authorisation, turn)
            if named is not None:
                turn = named
                promise = replace(promise, payment_id=statement.payment.authorisation)
        _check_bound(statement, promise, payer.caps.asset)
        said = _said_to_be_taken(response)
        if said is not None and said != bill.charge:
            raise VerificationError(
                "the gateway took another amount than the receipt says",
                reason=Reason.METERING_MISMATCH,
            )
        return bill, turn

    def end(self) -> None:
        """Let go of the purchase; a payment without a good receipt waits in the journal."""
        if self.promise is not None:
            self._end(self.promise.number)

    def _end(self, number: int) -> None:
        with self.payer._lock:  # noqa: SLF001
            self.payer._live.discard(number)  # noqa: SLF001


def _check_bound(statement: InferenceStatement, promise: Promise, asset: str) -> None:
    """Hold a statement to the payment that was made and the offer that it was made for."""
    payment, price = statement.payment, statement.price
    if payment is None or (payment.scheme, payment.authorisation) != (
        promise.scheme,
        promise.payment_id,
    ):
        raise VerificationError(
            "the receipt is not of the payment that was made", reason=Reason.PAYMENT_INVALID
        )
    assert price is not None
    if price.asset.lower() != asset or price.ceiling != promise.amount:
        raise VerificationError(
            "the receipt states another ceiling or token than was paid with",
            reason=Reason.METERING_MISMATCH,
        )
    if (price.input_per_million, price.output_per_million) != promise.rates:
        raise VerificationError(
            "the receipt bills at other rates than were offered", reason=Reason.METERING_MISMATCH
        )


def _said_to_be_taken(response: str | None) -> int | None:
    """Return what a gateway says it took, where it says so."""
    if response is None:
        return None
    try:
        value: dict[str, Any] = read_answer_header(response)
    except Error:
        return None
    extra = value.get("extra")
    charged = extra.get("chargedAmount") if type(extra) is dict else None
    amount = charged if charged is not None else value.get("amount")
    plain = type(amount) is str and amount.isascii() and amount.isdigit() and len(amount) < 20
    return int(str(amount)) if plain and value.get("success") is True else None
