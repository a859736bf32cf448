"""An OpenAI-shaped answer of a language model in the making, whole or streamed.

Chat and completions differ in the shape of their choices and chunks; everything that a receipt
depends on is here, once: what counts as sent, when the receipt is made, where it goes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from verispect.engines.interface import Delta
from verispect.gateway.generation import Choice, Generation
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.inference import Inference, Issued
from verispect.gateway.streaming import CallerGoneError, Event, Outcome, stream_events
from verispect.gateway.wire import receipt_member, system_fingerprint

CALLER_GONE: Final = HttpResponse(499, b"")
"""Never read by anyone: the caller has left."""


@dataclass(slots=True)
class LanguageAnswer:
    """One answer; a subclass gives the shapes. Also the `StreamedAnswer` of its own stream."""

    request: HttpRequest
    inference: Inference
    generation: Generation
    requested_model: str
    include_usage: bool
    """Whether a stream has a chunk with the usage."""
    ends_with_done: bool = True
    _fingerprint: str = field(init=False)
    _deltas: AsyncGenerator[tuple[Choice, Delta], None] | None = None
    _first: tuple[Choice, Delta] | None = None

    def __post_init__(self) -> None:
        self._fingerprint = system_fingerprint(self.generation.model.identity)

    # -- What a subclass gives ------------------------------------------------------------------

    def envelope(self, *, streamed: bool) -> dict[str, Any]:
        """Return `id` and `object` of the answer or of one chunk."""
        raise NotImplementedError

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        """Return one entry of `choices` of a whole answer."""
        raise NotImplementedError

    def opening_events(self) -> Iterable[Event]:
        """Yield the events before the first delta."""
        return ()

    def delta_events(self, choice: Choice, delta: Delta) -> Iterable[Event]:
        """Yield the events of one delta, noting in `choice` each piece before it goes out."""
        raise NotImplementedError

    # -- The answer ------------------------------------------------------------------------------

    async def whole(self) -> HttpResponse:
        """Make the answer and return it with its receipt.

        Raises:
            EngineError: when the engine fails; nothing was answered, so there is no receipt.
        """
        try:
            await self.generation.collect(self.request.disconnected)
        except CallerGoneError:
            for choice in self.generation.choices:
                choice.forget()
            await self.settle(Outcome.CANCELLED)
            return CALLER_GONE
        issued = await self.settle(Outcome.COMPLETE)
        choices = [self.whole_choice(choice) for choice in self.generation.choices]
        answer = self._document(choices, streamed=False)
        answer["usage"] = self._usage()
        answer["verispect"] = self._receipt(issued)
        return HttpResponse(200, msgspec.json.encode(answer), headers=list(self.inference.headers))

    async def stream(self) -> StreamedResponse | HttpResponse:
        """Start the engine and return the stream.

        Raises:
            EngineError: when the engine fails before its first word.
        """
        self._deltas = self.generation.deltas(self.request.disconnected)
        try:
            self._first = await anext(self._deltas)
        except CallerGoneError:
            await self.settle(Outcome.CANCELLED)
            return CALLER_GONE
        body = stream_events(self, self.inference)
        return StreamedResponse(200, body, headers=list(self.inference.headers))

    async def settle(self, outcome: Outcome) -> Issued:
        """Commit to the answer as far as it went and return the durable receipt."""
        return await self.generation.finish(self.inference, outcome)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the chunks: what comes first, what is generated, the usage if asked for."""
        assert self._deltas is not None
        assert self._first is not None
        async with aclosing(self._deltas) as deltas:
            for event in self.opening_events():
                yield event
            for event in self.delta_events(*self._first):
                yield event
            async for choice, delta in deltas:
                for event in self.delta_events(choice, delta):
                    yield event
        if self.include_usage:
            document = self._document([], streamed=True)
            yield Event(msgspec.json.encode({**document, "usage": self._usage()}))

    def closing(self, issued: Issued) -> Event:
        """Return the chunk that carries the receipt."""
        document = self._document([], streamed=True)
        return Event(msgspec.json.encode({**document, "verispect": self._receipt(issued)}))

    def failed(self, member: dict[str, Any], issued: Issued | None) -> Event:
        """Return the error event of a broken stream, with the receipt of what was sent."""
        content: dict[str, Any] = {"error": member}
        if issued is not None:
            content["verispect"] = self._receipt(issued)
        return Event(msgspec.json.encode(content))

    def chunk(self, part: dict[str, Any]) -> Event:
        """Return the chunk with one choice."""
        return Event(msgspec.json.encode(self._document([part], streamed=True)))

    def _document(self, choices: list[dict[str, Any]], *, streamed: bool) -> dict[str, Any]:
        return {
            **self.envelope(streamed=streamed),
            "created": self.request.received_at // 1000,
            "model": self.requested_model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    def _receipt(self, issued: Issued) -> dict[str, str]:
        return receipt_member(issued.receipt, issued.receipt_id, self.inference.identifier)

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.generation.prompt_tokens, self.generation.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
