"""One response in progress: its events, its receipt, and its place in the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from verispect.engines.interface import Delta
from verispect.gateway import responses_answer
from verispect.gateway.answer import CALLER_GONE, LanguageAnswer
from verispect.gateway.generation import Choice
from verispect.gateway.http import HttpResponse
from verispect.gateway.inference import Issued
from verispect.gateway.response_store import ResponseStore, StoredResponse
from verispect.gateway.responses_answer import Answer
from verispect.gateway.responses_object import ResponseFrame, usage_object
from verispect.gateway.streaming import CallerGoneError, Event, Outcome


@dataclass(slots=True, kw_only=True)
class ResponseInProgress(LanguageAnswer):
    """An answer in the shape of a response, or of its events."""

    frame: ResponseFrame
    store: ResponseStore | None
    """Where a finished response is kept, if it is."""
    include_usage: bool = False
    ends_with_done: bool = False
    _answer: Answer = field(init=False)
    _finished: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        LanguageAnswer.__post_init__(self)
        self._answer = Answer(
            self.inference.identifier,
            self.generation.choices[0],
            wants_logprobs=self.frame.request.sampling.top_logprobs is not None,
        )

    async def whole(self) -> HttpResponse:
        """Make the response and return it with its receipt.

        Raises:
            EngineError: when the engine fails; nothing was answered, so there is no receipt.
            StoreError: no durable receipt.
        """
        try:
            async with aclosing(self.generation.deltas(self.request.disconnected)) as deltas:
                async for _, delta in deltas:
                    for _event in self._steps(delta):
                        pass
        except CallerGoneError:
            self.generation.choices[0].forget()
            await self.settle(Outcome.CANCELLED)
            return CALLER_GONE
        await self.settle(Outcome.COMPLETE)
        body = msgspec.json.encode(self._finished)
        return HttpResponse(200, body, headers=list(self.inference.headers))

    def opening_events(self) -> Iterator[Event]:
        """Yield that the response exists and is worked on."""
        started = self.frame.to_object("in_progress")
        for kind in ("response.created", "response.in_progress"):
            yield _encode(self._answer.event(kind, response=started))

    def delta_events(self, choice: Choice, delta: Delta) -> Iterator[Event]:  # noqa: ARG002
        """Yield the events of one step; the last step ends the last item."""
        for event in self._steps(delta):
            yield _encode(event)

    def _steps(self, delta: Delta) -> Iterator[responses_answer.Event]:
        yield from self._answer.absorb(delta)
        if delta.finish_reason is not None:
            yield from self._answer.close()

    async def settle(self, outcome: Outcome) -> Issued:
        """Return the durable receipt of what was sent; keep a finished response."""
        issued = await self.generation.finish(self.inference, outcome)
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
        """Return the terminal event, which carries the whole response and its receipt."""
        kind = f"response.{self._finished['status']}"
        return _encode(self._answer.event(kind, response=self._finished))

    def failed(self, member: dict[str, Any], issued: Issued | None) -> Event:
        """Return the terminal event of a failure, with the receipt of what was sent."""
        self._answer.abandon()
        error = {"code": "server_error", "message": member["message"]}
        response = self._object("failed", issued, error=error)
        return _encode(self._answer.event("response.failed", response=response))

    def _object(self, status: str, issued: Issued | None, **members: Any) -> dict[str, Any]:
        usage = usage_object(self.generation.prompt_tokens, self.generation.completion_tokens)
        response = self.frame.to_object(status, output=self._answer.items(), usage=usage, **members)
        if issued is not None:
            response["verispect"] = self._receipt(issued)
        return response

    async def _keep(self, response: dict[str, Any]) -> None:
        if self.store is None:
            return
        stored = StoredResponse(
            identifier=self.frame.identifier,
            previous=self.frame.request.previous_response_id,
            created_at=self.request.received_at,
            response=response,
            input_items=self.frame.request.items,
        )
        await self.store.put(stored)


def _encode(event: responses_answer.Event) -> Event:
    return Event(msgspec.json.encode(event), event["type"])
