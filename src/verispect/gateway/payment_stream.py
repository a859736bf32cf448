"""A stream that is paid for: passed on as it comes, and settled before its last event.

The receipt is on disk before the last event of a stream is made, so that what comes after it is
the end. Before that end leaves, the answer is kept and charged for; capturing it is not waited
for. Of a stream that is cut what was sent is charged. This module refuses to change a byte of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from verispect.appraisal.transcript import PAYMENT_EVENT
from verispect.core.errors import Error
from verispect.gateway.errors import error_member
from verispect.gateway.http import StreamedResponse
from verispect.gateway.payment_answer import StoredAnswer
from verispect.gateway.payment_request import PaidRequest
from verispect.gateway.streaming import Event, frame
from verispect.payments.store import Payment

"""Name of the event in which a stream says what became of its payment."""

Settle = Callable[[StoredAnswer], Awaitable[tuple[Payment, str]]]
"""Keeps an answer and charges for it; returns the payment and the value of `PAYMENT-RESPONSE`."""


async def paid_stream(
    ticket: PaidRequest,
    response: StreamedResponse,
    body: AsyncIterator[bytes],
    *,
    settle: Settle,
    release: Callable[[], Awaitable[None]],
    is_over: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Yield a stream, and before its last event what became of its payment.

    Closing this generator, or cancelling the task that runs it, charges for what was sent.

    Args:
        ticket: of the request.
        response: the stream, whose head is kept.
        body: what it was before this is put in its place.
        settle: keeps an answer and charges for it.
        release: gives the payment up, where it was not settled.
        is_over: whether the payment will soon be overdue. The stream is then cut: whoever reads
            slowly pays for what he read.
    """
    sent: list[bytes] = []
    try:
        async for chunk in body:
            if not ticket.is_issued:
                if is_over():
                    return
                sent.append(chunk)
                yield chunk
                continue
            # Its receipt is on disk: this is the last event, and a mark of the end may follow.
            rest = [each async for each in body]
            stored = ticket.answer(response, b"".join([*sent, chunk, *rest]))
            payment, header = await asyncio.shield(asyncio.ensure_future(settle(stored)))
            yield chunk
            yield frame(payment_event(payment, header))
            for each in rest:
                yield each
            return
    finally:
        await asyncio.shield(_cut(ticket, response, body, sent, settle, release))


async def _cut(
    ticket: PaidRequest,
    response: StreamedResponse,
    body: AsyncIterator[bytes],
    sent: list[bytes],
    settle: Settle,
    release: Callable[[], Awaitable[None]],
) -> None:
    """Charge for what was sent of a stream that did not come to its end."""
    close = getattr(body, "aclose", None)
    if close is not None:
        with contextlib.suppress(Exception):
            await close()
    if ticket.is_issued and not ticket.is_settled:
        try:
            await settle(ticket.answer(response, b"".join(sent)))
        except Error as error:
            error_member(error)
    await release()


def payment_event(payment: Payment, header: str) -> Event:
    """Return the event in which a stream says what became of its payment."""
    document = {
        "type": PAYMENT_EVENT,
        "object": PAYMENT_EVENT,
        "choices": [],
        "payment": payment.payment_id.hex(),
        "payment_response": header,
    }
    return Event(msgspec.json.encode(document), PAYMENT_EVENT)
