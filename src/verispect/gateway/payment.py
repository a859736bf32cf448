"""Paid inference at the gateway: 402, reserve, run, keep the answer, charge, and only then answer.

The order is the money's safety. A payment is reserved before anything runs, so that of any number
of copies one runs and the others get its answer. The answer is on disk before it leaves, so that
whoever paid can have it again. A single transfer is captured before its answer leaves; a voucher
of a channel is money already, so that its answer may be streamed, and may come before its
assurance. What blocks runs on threads of its own, never on the event loop.

This module refuses to know of chains and wire forms, which are the till's, and to decide whether
assurance was met, which is the verifier's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from verispect.core.encoding import Digest
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    RequestError,
    VerificationError,
)
from verispect.gateway.errors import HttpError, error_member
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.payment_answer import RESPONSE_HEADER, StoredAnswer
from verispect.gateway.payment_request import PaidBeforeError, PaidRequest, base_address
from verispect.gateway.payment_stream import paid_stream
from verispect.gateway.payment_watch import RETENTION_SECONDS, Met, PaymentWatch
from verispect.payments.authorisation import Scheme
from verispect.payments.machine import PaymentMachine
from verispect.payments.nonce import request_digest
from verispect.payments.pricing import PriceSheet
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.store import Payment, PaymentStore, State
from verispect.payments.till import Demand, Presented, Till

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

REQUIRED_HEADER: Final = "payment-required"
SHOWN_TOKENS: Final = 1000
"""Of input and of output, in the price that a request without a body is shown."""

CUT_SECONDS: Final = 120
"""Before the deadline of its payment, when a stream is cut; longer than one chunk may take."""
_THREADS: Final = 8
_OWED: Final = frozenset({State.CAPTURING, State.PENDING})
_Result = TypeVar("_Result")
_Handler = Callable[["GatewayState", HttpRequest], Awaitable[HttpResponse | StreamedResponse]]


class Payments:
    """Sells the inferences of one gateway process; no other process may share its store.

    Args:
        till: knows x402 and the chain.
        store: the payments.
        sheet: the prices.
        now: seconds since 1970.
        base: the address under which this server is asked; that of each request where `None`.
        is_development: whether the money is worth nothing.
        serves_pending: whether an answer leaves whose transfer was asked for and is not seen: for
            servers that can ask no chain, and never see any. One that was refused does not leave.
        sweep_seconds: how often what channels owe is claimed.
        retention_seconds: how long after their deadlines the content of answers is kept.
    """

    def __init__(
        self,
        till: Till,
        store: PaymentStore,
        sheet: PriceSheet,
        *,
        now: Callable[[], int] = lambda: int(time.time()),
        base: str | None = None,
        is_development: bool = False,
        serves_pending: bool = False,
        sweep_seconds: float = 3600.0,
        retention_seconds: int = RETENTION_SECONDS,
    ) -> None:
        self.till = till
        self.store = store
        self.sheet = sheet
        self.base = base
        self.is_development = is_development
        self._serves_pending = serves_pending
        self._now = now
        self._machine = PaymentMachine(store, till.settlement, now=now)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="payments")
        self.watch = PaymentWatch(
            self._machine,
            till,
            store,
            self.do,
            now=now,
            sweep_seconds=sweep_seconds,
            retention_seconds=retention_seconds,
        )
        self._lock = threading.Lock()
        self._running: dict[Digest, asyncio.Future[None]] = {}

    async def do(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run what blocks on a thread of the payments."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def start(self, state: GatewayState) -> None:
        """Give up what a process that died was at, and begin to watch; before anything is served.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        await self.do(self.watch.recover)
        self.watch.start(state)

    async def stop(self) -> None:
        """End the watch and close till and store; what is owed is still owed at the next start."""
        await self.watch.stop()
        await self.do(self.till.close)
        self._pool.shutdown()
        self.store.close()

    # -- A request ----------------------------------------------------------------------------

    def open(self, request: HttpRequest) -> PaidRequest:
        """Give a request its ticket, while its body is still as it came."""
        ticket = PaidRequest(request, self.sheet, self._buy, base=self.base)
        request.payment = ticket
        return ticket

    async def serve(
        self, state: GatewayState, ticket: PaidRequest, handler: _Handler
    ) -> HttpResponse | StreamedResponse:
        """Answer a request that has to be paid for.

        Raises:
            RequestError: `payment-required` and the others of a payment; what the handler raises.
        """
        if ticket.header is not None:
            refund = await self._refund(ticket.header)
            if refund is not None:
                return refund
        try:
            response = await handler(state, ticket.request)
            if ticket.payment is None:
                return response
            if isinstance(response, StreamedResponse):
                response.body = paid_stream(
                    ticket,
                    response,
                    response.body,
                    settle=partial(self._settle, state, ticket),
                    release=partial(self._release, ticket),
                    is_over=partial(self._is_over, ticket.payment),
                )
                return response
            if response.status != 200 or not ticket.is_issued:
                await asyncio.shield(self._release(ticket))
                return response
            return await asyncio.shield(self._whole(state, ticket, response))
        except PaidBeforeError as before:
            return await self._again(state, before)
        except BaseException:
            await asyncio.shield(self._release(ticket))
            raise

    async def unpaid(self, method: str, path: str, host: str) -> HttpError:
        """Return the refusal of a request without a body on a route that is sold."""
        for row in self.sheet.rows:
            quote = self.sheet.quote(
                row.model,
                row.assurance,
                max_input_tokens=SHOWN_TOKENS,
                max_output_tokens=SHOWN_TOKENS,
            )
            if quote.ceiling:
                resource = (self.base or base_address(host)) + path
                digest = request_digest(method, path, b"")
                return await self._required(Demand(quote, resource, digest, False, 0), None)
        return HttpError("nothing is sold here", status=404, reason=Reason.PRICE_UNKNOWN)

    async def _refund(self, header: str) -> HttpResponse | None:
        """Refund a channel, where that is asked for; what is malformed is told with the price."""
        try:
            answer = await self.do(self.till.refund, header)
        except MalformedError:
            return None
        except (VerificationError, RequestError) as error:
            raise HttpError(error.message, status=402, reason=error.reason) from error
        if answer is None:
            return None
        headers = [(RESPONSE_HEADER, answer), ("cache-control", "private, no-store")]
        return HttpResponse(200, b"{}", headers=headers)

    async def _required(self, demand: Demand, refused: Error | None) -> HttpError:
        header = await self.do(self.till.demand, demand, refused)
        headers = [(REQUIRED_HEADER, header), ("cache-control", "no-store")]
        if refused is None:
            return HttpError(
                "this has to be paid for",
                status=402,
                reason=Reason.PAYMENT_REQUIRED,
                headers=headers,
            )
        status = 400 if isinstance(refused, MalformedError) else 402
        return HttpError(refused.message, status=status, reason=refused.reason, headers=headers)

    # -- Before it runs -----------------------------------------------------------------------

    async def _buy(self, ticket: PaidRequest, demand: Demand) -> Payment:
        if ticket.header is None:
            raise await self._required(demand, None)
        running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            payment, other = await asyncio.shield(
                self.do(self._reserve, ticket.header, ticket.identifier, demand, running)
            )
        except (MalformedError, VerificationError, RequestError) as error:
            if error.reason is Reason.PAYMENT_CONFLICT:
                raise
            raise await self._required(demand, error) from error
        if other is running:
            return payment
        raise PaidBeforeError(payment, demand, other)

    def _reserve(
        self,
        header: str,
        idempotency_key: str | None,
        demand: Demand,
        running: asyncio.Future[None],
    ) -> tuple[Payment, asyncio.Future[None] | None]:
        """Take the payment; return it, and what ends with the request that it runs."""
        presented = self.till.read(header, demand)
        if presented.identifier is None and idempotency_key is not None:
            # A colon stands in no identifier of x402, so that the two are never taken for another.
            presented = replace(presented, identifier=f"idempotency-key:{idempotency_key}")
        identifier = presented.identifier_digest
        with self._lock:
            named = None if identifier is None else self.store.named(identifier)
            if (
                named is not None
                and named.request == demand.request
                and named.state is not State.RELEASED
            ):
                if named.payment_id != presented.authorisation.key.digest():
                    self.till.released(_unreserved(presented))
                return named, self._running.get(named.payment_id)
            reservation = self._machine.reserve(
                presented.authorisation,
                request=demand.request,
                sheet=demand.quote.sheet,
                ceiling=demand.quote.ceiling,
                deadline=self._now() + demand.lasting_seconds,
                identifier=identifier,
            )
            payment = reservation.payment
            if not reservation.is_new:
                return payment, self._running.get(payment.payment_id)
            self._running[payment.payment_id] = running
        try:
            self._machine.execute(payment.payment_id)
        except BaseException:
            self.watch.give_up(payment.payment_id)
            running.get_loop().call_soon_threadsafe(self._end, payment.payment_id)
            raise
        return payment, running

    async def _again(self, state: GatewayState, before: PaidBeforeError) -> HttpResponse:
        """Give the answer of a payment that came before, once it is there."""
        if before.running is not None:
            await asyncio.shield(before.running)
        # It may have been delivered just before a process died.
        await self.watch.look_now(state, before.payment.payment_id)
        payment, stored, header = await self.do(self._look_up, before.payment.payment_id)
        return await self._given(payment, stored, header, before.demand)

    def _look_up(self, payment_id: Digest) -> tuple[Payment, StoredAnswer | None, str]:
        payment = self.store.get(payment_id)
        assert payment is not None
        if payment.state in _OWED and payment.authorisation.scheme is not Scheme.BATCH_SETTLEMENT:
            payment = self._machine.capture(payment_id)
        if payment.answer is None:
            return payment, None, self.till.response(payment, None)
        stored = StoredAnswer.decode(payment.answer)
        return payment, stored, self.till.response(payment, stored.notice(payment.charge or 0))

    async def _given(
        self, payment: Payment, stored: StoredAnswer | None, header: str, demand: Demand
    ) -> HttpResponse:
        """Return the answer, where it may leave; say why not otherwise."""
        state = payment.state
        if state is State.FAILED or (state is State.RELEASED and payment.charge != 0):
            taken = "can no longer be taken" if state is State.FAILED else "was given up"
            code = "transaction_failed" if state is State.FAILED else "payment_released"
            refused = await self._required(
                demand, RefusedPaymentError(f"the payment {taken}", code)
            )
            refused.headers = [*refused.headers, (RESPONSE_HEADER, header)]
            raise refused
        is_voucher = payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        serves = self._serves_pending and not self._machine.was_refused(payment.payment_id)
        unpaid = state is State.DELIVERED or (state in _OWED and not serves)
        waits = unpaid and not is_voucher
        if stored is None or waits:
            raise HttpError(
                "whether the payment was taken is not known yet; present the same one again",
                status=503,
                reason=Reason.PAYMENT_PENDING,
                headers=[(RESPONSE_HEADER, header), ("cache-control", "no-store")],
            )
        return stored.response(header)

    def _is_over(self, payment: Payment) -> bool:
        """Tell whether a stream has to end so that it is settled before its payment is overdue."""
        return self._now() >= payment.deadline - CUT_SECONDS

    # -- After it ran -------------------------------------------------------------------------

    async def _whole(
        self, state: GatewayState, ticket: PaidRequest, response: HttpResponse
    ) -> HttpResponse:
        assert ticket.demand is not None
        stored = ticket.answer(response, response.body)
        payment, header = await self._settle(state, ticket, stored)
        if not ticket.is_settled:
            await self._release(ticket)
            raise HttpError(
                "this server cannot show the assurance that it promised; nothing was charged",
                status=503,
                reason=Reason.ASSURANCE_UNAVAILABLE,
                headers=[(RESPONSE_HEADER, header)],
            )
        kept = replace(stored, body=response.body)
        return await self._given(payment, kept, header, ticket.demand)

    async def _settle(
        self, state: GatewayState, ticket: PaidRequest, stored: StoredAnswer
    ) -> tuple[Payment, str]:
        """Keep the answer and charge for it as far as its assurance is there."""
        assert ticket.payment is not None
        payment_id = ticket.payment.payment_id
        met = await self.watch.judge(state, stored)
        if met is Met.NEVER:
            return ticket.payment, self.till.response(ticket.payment, None)
        payment, header = await self.do(self._deliver, payment_id, stored, ticket.charge, met)
        ticket.is_settled = True
        self._end(payment_id)
        if payment.state is State.DELIVERED:
            self.watch.add(payment_id, stored)
        elif payment.state in _OWED:
            self.watch.owe(payment)
        return payment, header

    def _deliver(
        self, payment_id: Digest, stored: StoredAnswer, charge: int, met: Met
    ) -> tuple[Payment, str]:
        payment = self._machine.deliver(payment_id, stored.encode(), charge=charge)
        self.till.delivered(payment)
        if met is Met.NOW or charge == 0:
            payment = self._machine.assurance_met(payment_id)
        if payment.state is State.RELEASED:
            self.till.released(payment)
        is_voucher = payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        if payment.state is State.CAPTURING and not is_voucher:
            payment = self._machine.capture(payment_id)
        return payment, self.till.response(payment, stored.notice(payment.charge or 0))

    async def _release(self, ticket: PaidRequest) -> None:
        """Give up the payment of a request that came to nothing."""
        if ticket.payment is None or ticket.is_settled:
            return
        ticket.is_settled = True
        payment_id = ticket.payment.payment_id
        try:
            await self.do(self.watch.give_up, payment_id)
        except Error as error:
            error_member(error)  # The watch gives it up some time after its deadline.
        finally:
            self._end(payment_id)

    def _end(self, payment_id: Digest) -> None:
        """Wake the copies that wait for the answer."""
        with self._lock:
            running = self._running.pop(payment_id, None)
        if running is not None and not running.done():
            running.set_result(None)


def _unreserved(presented: Presented) -> Payment:
    """Return a payment that is not taken, so that its channel can be freed."""
    quote = presented.demand.quote
    return Payment(presented.authorisation, presented.demand.request, quote.sheet, quote.ceiling, 0)
