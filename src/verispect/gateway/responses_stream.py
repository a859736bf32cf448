"""One response in progress: its events, its receipt, and its place in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from verispect.engines.interface import Delta
from verispect.gateway import responses_answer
from verispect.gateway.generation import Choice, Generation
from verispect.gateway.recording import Inference, Issued
from verispect.gateway.response_store import ResponseStore, StoredResponse
from verispect.gateway.responses_answer import Answer
from verispect.gateway.responses_object import ResponseFrame, usage_object
from verispect.gateway.streaming import CallerGoneError, Event, Outcome
from verispect.gateway.wire import receipt_member


class ResponseInProgress:
    """Makes one response, whole or as a `StreamedAnswer`.

    Args:
        generation: one prepared choice.
        inference: to be settled with the receipt.
        frame: what the response says of itself.
        store: where a finished response is kept, if it is.
        received_at: milliseconds since the epoch; the retention counts from it.
        disconnected: set when the caller has gone.
    """

    ends_with_done = False

    def __init__(
        self,
        *,
        generation: Generation,
        inference: Inference,
        frame: ResponseFrame,
        store: ResponseStore | None,
        received_at: int,
        disconnected: asyncio.Event,
    ) -> None:
        self._generation = generation
        self._inference = inference
        self._frame = frame
        self._store = store
        self._received_at = received_at
        self._deltas = generation.deltas(disconnected)
        self._first: tuple[Choice, Delta] | None = None
        self._finished: dict[str, Any] = {}
        self._answer = Answer(
            inference.identifier,
            generation.choices[0],
            wants_logprobs=frame.request.sampling.top_logprobs is not None,
        )

    async def whole(self) -> bytes:
        """Make the response and return its JSON.

        Raises:
            CallerGoneError: the receipt of a cancelled inference is durable.
            EngineError: the engine failed.
            StoreError: no durable receipt.
        """
        try:
            async with aclosing(self._made()) as made:
                async for _ in made:
                    pass
        except CallerGoneError:
            self._generation.choices[0].forget()
            await self.settle(Outcome.CANCELLED)
            raise
        await self.settle(Outcome.COMPLETE)
        return msgspec.json.encode(self._finished)

    async def start(self) -> None:
        """Wait for the first step of a stream, so that an engine that cannot start is an error.

        Raises:
            CallerGoneError: the receipt of a cancelled inference is durable.
            EngineError: the engine failed.
        """
        try:
            self._first = await anext(self._deltas)
        except CallerGoneError:
            await self.settle(Outcome.CANCELLED)
            raise

    # -- As a stream --------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events; see `StreamedAnswer`."""
        # The engine runs already: it must stop even if the stream is cut at its first event.
        async with aclosing(self._deltas):
            started = self._frame.to_object("in_progress")
            for kind in ("response.created", "response.in_progress"):
                yield _encode(self._answer.event(kind, response=started))
            async with aclosing(self._made()) as made:
                async for event in made:
                    yield _encode(event)

    async def _made(self) -> AsyncGenerator[responses_answer.Event, None]:
        async with aclosing(self._deltas) as deltas:
            if self._first is not None:
                for event in self._answer.absorb(self._first[1]):
                    yield event
            async for _, delta in deltas:
                for event in self._answer.absorb(delta):
                    yield event
        for event in self._answer.close():
            yield event

    async def settle(self, outcome: Outcome) -> Issued:
        """Return the durable receipt of what was sent; store a finished response."""
        issued = await self._generation.finish(self._inference, outcome)
        if outcome is Outcome.COMPLETE:
            status = self._answer.status
            self._finished = self._object(
                status,
                issued,
                completed_at=int(time.time()) if status == "completed" else None,
                incomplete_reason=self._answer.incomplete_reason,
            )
            await self._keep(self._finished)
        return issued

    def closing(self, issued: Issued) -> Event:  # noqa: ARG002 - it is in the response already
        """Return the terminal event; see `StreamedAnswer`."""
        kind = f"response.{self._finished['status']}"
        return _encode(self._answer.event(kind, response=self._finished))

    def failed(self, member: dict[str, Any], issued: Issued | None) -> Event:
        """Return the terminal event of a failure; see `StreamedAnswer`."""
        self._answer.abandon()
        error = {"code": "server_error", "message": member["message"]}
        response = self._object("failed", issued, error=error)
        return _encode(self._answer.event("response.failed", response=response))

    # -- The response -------------------------------------------------------------------------

    def _object(self, status: str, issued: Issued | None, **members: Any) -> dict[str, Any]:
        usage = usage_object(self._generation.prompt_tokens, self._generation.completion_tokens)
        response = self._frame.to_object(
            status, output=self._answer.items(), usage=usage, **members
        )
        if issued is not None:
            response["verispect"] = receipt_member(
                issued.receipt, issued.receipt_id, self._inference.identifier
            )
        return response

    async def _keep(self, response: dict[str, Any]) -> None:
        if self._store is None:
            return
        request = self._frame.request
        await self._store.put(
            StoredResponse(
                identifier=self._frame.identifier,
                previous=request.previous_response_id,
                created_at=self._received_at,
                response=response,
                input_items=request.items,
            )
        )


def _encode(event: responses_answer.Event) -> Event:
    return Event(msgspec.json.encode(event), event["type"])
