"""Server-sent events with a hash chain over them and a receipt at the end.

Every payload goes through the chain of its inference before it is sent, so that the receipt of a
stream, whole or cut, covers exactly the payloads that were handed to the caller. The last event
carries the receipt and is the only one outside the chain.

However a stream ends, it ends once: complete, cancelled (the caller went away, or the server
stops) or with an error in-band; each of them settles the inference durably before anything that
follows. This module refuses to know what an event means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from verispect.core.encoding import to_base64url
from verispect.gateway.errors import error_member
from verispect.gateway.inference import Inference, Issued

DONE: Final = b"data: [DONE]\n\n"


class Outcome(StrEnum):
    """How a generation ended; the last two are also finish reasons of the receipt."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    ERROR = "error"


class CallerGoneError(Exception):
    """The caller went away while its answer was made; never an error of the server."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: a JSON payload on one line, and the event's name where it has one."""

    payload: bytes
    name: str | None = None


class StreamedAnswer(Protocol):
    """What a route knows of its own stream; `stream_events` does the rest."""

    ends_with_done: bool
    """Whether `data: [DONE]` follows the last event."""

    def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events as they are made.

        What an event says counts as sent from the moment it is yielded: note it before.

        Raises:
            CallerGoneError: when the caller has gone.
            Error: when the engine fails; the stream then ends with `failed`.
        """
        ...

    async def settle(self, outcome: Outcome) -> Issued:
        """Commit to what was sent and return the durable receipt; called exactly once."""
        ...

    def closing(self, issued: Issued) -> Event:
        """Return the last event of a complete stream, with the receipt."""
        ...

    def failed(self, member: dict[str, Any], issued: Issued | None) -> Event:
        """Return the last event of a stream whose engine failed.

        Args:
            member: the OpenAI-shaped `error` object.
            issued: the receipt of what was sent; `None` where it could not be stored.
        """
        ...


def frame(event: Event) -> bytes:
    """Return the bytes of one event."""
    name = f"event: {event.name}\n".encode() if event.name is not None else b""
    return name + b"data: " + event.payload + b"\n\n"


async def chained_frame(event: Event, inference: Inference) -> bytes:
    """Put one event through the chain; return its bytes, and an interim signature if due."""
    interim = await inference.chain(event.payload)
    if interim is None:
        return frame(event)
    # OpenAI clients skip comments, so that the signature needs no event of its own.
    comment = f": verispect-interim {to_base64url(interim)}\n\n".encode()
    return frame(event) + comment


async def stream_events(answer: StreamedAnswer, inference: Inference) -> AsyncIterator[bytes]:
    """Yield the bytes of a whole stream: chained events, then the receipt.

    Closing this generator, or cancelling the task that runs it, stops the engine and issues the
    receipt of what was sent.
    """
    try:
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield await chained_frame(event, inference)
    except (CallerGoneError, GeneratorExit, asyncio.CancelledError) as gone:
        await _finish(answer, Outcome.CANCELLED)
        if isinstance(gone, CallerGoneError):
            return
        raise
    except Exception as error:  # noqa: BLE001 - the head is out: every failure is told in-band
        _, member = error_member(error)
        issued = await _finish(answer, Outcome.ERROR)
        yield frame(answer.failed(member, issued))
    else:
        try:
            issued = await asyncio.shield(answer.settle(Outcome.COMPLETE))
        except Exception as error:  # noqa: BLE001 - without a receipt the stream must not look whole
            _, member = error_member(error)
            yield frame(answer.failed(member, None))
            return
        yield frame(answer.closing(issued))
    if answer.ends_with_done:
        yield DONE


async def _finish(answer: StreamedAnswer, outcome: Outcome) -> Issued | None:
    """Settle a stream that did not end well; a second failure is logged, not raised."""
    try:
        # Shielded: a server that stops cancels this task, yet the receipt must become durable.
        return await asyncio.shield(answer.settle(outcome))
    except Exception as error:  # noqa: BLE001 - the caller is gone or is told of the first failure
        error_member(error)
        return None
