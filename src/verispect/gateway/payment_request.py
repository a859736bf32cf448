"""One request that has to be paid for: what it wants, what paid for it, what it charges.

It is the `PaymentTicket` of its inference. What it decides is only how much is charged: usage x
price, nothing where the engine failed, and never more than the ceiling. It refuses to run, to
store and to take anything; `verispect.gateway.payment` does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.statement import PaymentBinding, Price
from verispect.gateway.http import HttpRequest, HttpResponse, Purchase, StreamedResponse
from verispect.gateway.inference import Issued
from verispect.gateway.payment_answer import StoredAnswer
from verispect.payments.nonce import request_digest
from verispect.payments.pricing import PriceSheet, Quote
from verispect.payments.store import Payment
from verispect.payments.till import Demand

PAYMENT_HEADER: Final = "payment-signature"
"""x402's: the payment itself."""
IDEMPOTENCY_HEADER: Final = "idempotency-key"
UNCHARGED_REASONS: Final = frozenset({"error", "interrupted"})
"""An answer that the server cut costs nothing."""

STREAM_SECONDS: Final = 3600
"""How much longer than a whole answer a stream may take: its reader sets the pace too."""

_MAX_HOST_CHARACTERS: Final = 255
_BLIND_BYTES: Final = 32


class PaidBeforeError(Exception):
    """The payment came before: its answer is waited for and given, and nothing runs."""

    def __init__(
        self, payment: Payment, demand: Demand, running: asyncio.Future[None] | None
    ) -> None:
        super().__init__("paid before")
        self.payment = payment
        self.demand = demand
        self.running = running
        """Ends with the request that runs for this payment, where one does."""


class PaidRequest:
    """A `PaymentTicket`.

    Args:
        request: as it came, before anything in it is replaced.
        sheet: the prices.
        buy: takes the payment of a demand; raises where there is none, or a copy of one.
        base: the address under which this server is asked; that of the request where `None`.
    """

    def __init__(
        self,
        request: HttpRequest,
        sheet: PriceSheet,
        buy: Callable[[PaidRequest, Demand], Awaitable[Payment]],
        *,
        base: str | None,
    ) -> None:
        self.request = request
        # What is kept of an encrypted request tells nobody whether a guess of it is right.
        body = request.body if request.confidential is None else os.urandom(_BLIND_BYTES)
        self.digest: Final[Digest] = request_digest(request.method, request.path, body)
        self.header = request.headers.get(PAYMENT_HEADER)
        self.identifier = request.headers.get(IDEMPOTENCY_HEADER)
        self.base = base or base_address(request.headers.get("host", ""))
        self.payment: Payment | None = None
        """There once it is paid for."""
        self.purchase: Purchase | None = None
        self.demand: Demand | None = None
        self.charge = 0
        self.is_settled = False
        """Whether what becomes of the payment is decided here, or was left to the watch."""
        self._sheet = sheet
        self._buy = buy
        self._quote: Quote | None = None
        self._issued: tuple[bytes, Issued, dict[str, int]] | None = None

    @property
    def is_issued(self) -> bool:
        """Whether the receipt of the inference is on disk."""
        return self._issued is not None

    async def require(self, purchase: Purchase) -> None:
        """Return once the request is paid for; see `PaymentTicket.require`."""
        self.purchase = purchase
        self._quote = quote = self._sheet.quote(
            purchase.model,
            purchase.assurance,
            max_input_tokens=purchase.max_input_tokens,
            max_output_tokens=purchase.max_output_tokens,
        )
        if quote.ceiling == 0:
            return
        seconds = purchase.assurance_seconds
        if purchase.streamed:
            seconds += STREAM_SECONDS
        if self.request.transaction is not None:
            seconds += self.request.transaction.seconds
        self.demand = Demand(
            quote,
            self.base + self.request.path,
            self.digest,
            purchase.streamed or purchase.is_late or self.request.transaction is not None,
            seconds,
        )
        self.payment = await self._buy(self, self.demand)
        if not purchase.streamed:
            # It is paid for: whoever leaves can come back with the payment and have the answer.
            self.request.disconnected = asyncio.Event()

    def bill(
        self, usage: Mapping[str, int], finish_reasons: Sequence[str]
    ) -> tuple[Price, PaymentBinding | None] | None:
        """Return what the receipt says of price, charge and payment."""
        quote, payment = self._quote, self.payment
        if quote is None:
            return None
        self.charge = self._charge(quote, usage, finish_reasons)
        row = quote.row
        price = Price(
            quote.asset, row.input_per_million, row.output_per_million, self.charge, quote.ceiling
        )
        if payment is None:
            return price, None
        return price, PaymentBinding(payment.authorisation.scheme.value, payment.payment_id)

    def _charge(self, quote: Quote, usage: Mapping[str, int], finish_reasons: Sequence[str]) -> int:
        if self.payment is None or not UNCHARGED_REASONS.isdisjoint(finish_reasons):
            return 0
        metered = quote.row.charge(usage.get("input_tokens", 0), usage.get("output_tokens", 0))
        if metered > quote.ceiling:
            return 0  # More was used than was sold; that is not the caller's to pay.
        is_fixed = self.payment.authorisation.scheme.is_fixed
        return quote.ceiling if metered and is_fixed else metered

    def issued(
        self,
        inference_id: bytes,
        issued: Issued,
        usage: Mapping[str, int],
        finish_reasons: Sequence[str],  # noqa: ARG002 - the charge was made of them
    ) -> None:
        """Note that the receipt is on disk."""
        self._issued = (inference_id, issued, dict(usage))

    def answer(self, response: HttpResponse | StreamedResponse, body: bytes) -> StoredAnswer:
        """Return the answer as it is kept, once the receipt is on disk.

        Args:
            response: whose head is kept.
            body: all that leaves.
        """
        assert self._issued is not None
        assert self.purchase is not None
        inference_id, issued, usage = self._issued
        return StoredAnswer(
            status=response.status,
            content_type=response.content_type,
            headers=list(response.headers),
            body=body if self.request.confidential is None else None,
            inference_id=inference_id,
            receipt_id=issued.receipt_id,
            receipt_url=f"{self.base}/v1/receipts/{issued.receipt_id}",
            usage=usage,
            policy=self.purchase.policy.to_toml(),
            in_transaction=self.request.transaction is not None,
        )


def base_address(host: str) -> str:
    """Return the address under which a request came."""
    plain = host.isascii() and host.isprintable() and not set(host) & set(' "/\\<>?#@')
    if not host or len(host) > _MAX_HOST_CHARACTERS or not plain:
        host = "localhost"
    return f"http://{host}"
