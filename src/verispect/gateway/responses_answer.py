"""The answer of `/v1/responses` as it grows: output items, stream events, response object.

One object follows a generation for the plain and for the streamed form, so that both say the same
and the receipt covers exactly what was handed over: each step is entered into the answer at the
moment its event is taken, and an event that is never taken leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from verispect.engines.interface import Delta, ToolCall
from verispect.gateway.responses_items import message_item, text_part

_INCOMPLETE: Final[Mapping[str, str]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}

Event: TypeAlias = dict[str, Any]
"""One stream event with `type` and `sequence_number`."""


@dataclass(slots=True)
class _Text:
    """One message item; the model may speak again after a function call."""

    identifier: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    status: str = "in_progress"

    def part(self) -> dict[str, Any]:
        return text_part("".join(self.pieces), self.logprobs)

    def item(self) -> dict[str, Any]:
        return message_item(self.identifier, self.status, [self.part()])


@dataclass(slots=True)
class _Call:
    """One function call item."""

    identifier: str
    call_id: str
    name: str
    arguments: str = ""
    status: str = "in_progress"

    def item(self) -> dict[str, Any]:
        return {
            "id": self.identifier,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }


class Answer:
    """What the model has said so far, in the shape of this interface.

    Args:
        identifier: 32 hexadecimal characters, from the inference.
    """

    def __init__(self, identifier: str) -> None:
        self._identifier = identifier
        self._sequence = 0
        self._items: list[_Text | _Call] = []
        self.finish_reason: str | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.upstream: Mapping[str, Any] | None = None

    @property
    def response_id(self) -> str:
        """The response's id."""
        return f"resp_{self._identifier}"

    @property
    def text(self) -> str:
        """All text handed over."""
        return "".join(
            piece for item in self._items if isinstance(item, _Text) for piece in item.pieces
        )

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """The log-probabilities handed over."""
        return [one for item in self._items if isinstance(item, _Text) for one in item.logprobs]

    @property
    def calls(self) -> list[dict[str, str]]:
        """The function calls handed over, as a receipt commits to them."""
        return [
            {"id": item.call_id, "name": item.name, "arguments": item.arguments}
            for item in self._items
            if isinstance(item, _Call)
        ]

    @property
    def status(self) -> str:
        """`completed` or `incomplete`, once the finish reason is known."""
        return "incomplete" if self.finish_reason in _INCOMPLETE else "completed"

    @property
    def incomplete_reason(self) -> str | None:
        """Why the response is incomplete, in this interface's words."""
        return _INCOMPLETE.get(self.finish_reason or "")

    def items(self) -> list[dict[str, Any]]:
        """Return the output items as they stand."""
        return [item.item() for item in self._items]

    def event(self, kind: str, **members: Any) -> Event:
        """Return the next event of the stream."""
        number = self._sequence
        self._sequence += 1
        return {"type": kind, "sequence_number": number, **members}

    def absorb(self, delta: Delta, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """Enter one step, event by event.

        Args:
            delta: the step.
            logprobs: its log-probabilities in the form of the answer, none if not asked for.
        """
        if delta.text or logprobs:
            yield from self._absorb_text(delta.text, logprobs)
        for call in delta.tool_calls:
            yield from self._absorb_call(call)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.input_tokens = delta.prompt_tokens
            self.output_tokens = delta.completion_tokens
            self.upstream = delta.upstream

    def close(self) -> Iterator[Event]:
        """End the last item; a model that said nothing has said an empty message."""
        if not self._items:
            yield from self._absorb_text("", [])
        yield from self._close_text(self.status)

    def abandon(self) -> None:
        """Mark what is unfinished as incomplete: the stream was cut or the engine failed."""
        for item in self._items:
            if item.status == "in_progress":
                item.status = "incomplete"

    # -- Items --------------------------------------------------------------------------------

    def _absorb_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        item = self._items[-1] if self._items else None
        if not isinstance(item, _Text):
            item = _Text(self._next_id("msg"))
            self._items.append(item)
            place = self._place(item)
            added = message_item(item.identifier, item.status, [])
            yield self._added(added)
            yield self.event("response.content_part.added", **place, part=text_part("", []))
            if not text and not logprobs:
                return
        item.pieces.append(text)
        item.logprobs += logprobs
        yield self.event(
            "response.output_text.delta", **self._place(item), delta=text, logprobs=logprobs
        )

    def _close_text(self, status: str) -> Iterator[Event]:
        item = self._items[-1] if self._items else None
        if not isinstance(item, _Text):
            return
        place = self._place(item)
        part = item.part()
        yield self.event(
            "response.output_text.done", **place, text=part["text"], logprobs=item.logprobs
        )
        yield self.event("response.content_part.done", **place, part=part)
        item.status = status
        yield self._done(item)

    def _absorb_call(self, call: ToolCall) -> Iterator[Event]:
        yield from self._close_text("completed")
        item = _Call(self._next_id("fc"), call.identifier, call.name)
        self._items.append(item)
        yield self._added(item.item())
        place = {"item_id": item.identifier, "output_index": len(self._items) - 1}
        # Engines give whole calls, so the arguments are one piece.
        item.arguments = call.arguments
        kind = "response.function_call_arguments"
        yield self.event(f"{kind}.delta", **place, delta=call.arguments)
        yield self.event(f"{kind}.done", **place, name=call.name, arguments=call.arguments)
        item.status = "completed"
        yield self._done(item)

    def _next_id(self, prefix: str) -> str:
        return f"{prefix}_{self._identifier}{len(self._items):02x}"

    def _place(self, item: _Text) -> dict[str, Any]:
        return {
            "item_id": item.identifier,
            "output_index": len(self._items) - 1,
            "content_index": 0,
        }

    def _added(self, item: dict[str, Any]) -> Event:
        return self.event(
            "response.output_item.added", output_index=len(self._items) - 1, item=item
        )

    def _done(self, item: _Text | _Call) -> Event:
        return self.event(
            "response.output_item.done", output_index=len(self._items) - 1, item=item.item()
        )
