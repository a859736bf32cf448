"""The answer of `/v1/responses` as it grows: output items, stream events, response object.

One object follows a generation for the plain and for the streamed form, so that both say the same
and the receipt covers exactly what was handed over: each step is entered into the answer at the
moment its event is taken, and an event that is never taken leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from verispect.engines.interface import Delta, TokenLogprob, ToolCall
from verispect.gateway.chat import logprobs_member
from verispect.gateway.generation import Choice
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
        choice: takes up what is handed over, for the receipt.
        wants_logprobs: whether log-probabilities are part of the answer.
    """

    def __init__(self, identifier: str, choice: Choice, *, wants_logprobs: bool) -> None:
        self._identifier = identifier
        self._choice = choice
        self._wants_logprobs = wants_logprobs
        self._sequence = 0
        self._items: list[_Text | _Call] = []

    @property
    def status(self) -> str:
        """`completed` or `incomplete`, once the finish reason is known."""
        return "completed" if self.incomplete_reason is None else "incomplete"

    @property
    def incomplete_reason(self) -> str | None:
        """Why the response is incomplete, in this interface's words."""
        return _INCOMPLETE.get(self._choice.finish_reason or "")

    def items(self) -> list[dict[str, Any]]:
        """Return the output items as they stand."""
        return [item.item() for item in self._items]

    def event(self, kind: str, **members: Any) -> Event:
        """Return the next event of the stream."""
        number = self._sequence
        self._sequence += 1
        return {"type": kind, "sequence_number": number, **members}

    def absorb(self, delta: Delta) -> Iterator[Event]:
        """Enter one step, event by event."""
        self._choice.count(delta)
        logprobs = delta.logprobs if self._wants_logprobs else ()
        if delta.text or logprobs:
            yield from self._absorb_text(delta.text, logprobs)
        for call in delta.tool_calls:
            yield from self._absorb_call(call)
        if delta.finish_reason is not None:
            self._choice.finish_reason = delta.finish_reason

    def close(self) -> Iterator[Event]:
        """End the last item; a model that said nothing has said an empty message."""
        if not self._items:
            yield from self._absorb_text("", ())
        yield from self._close_text(self.status)

    def abandon(self) -> None:
        """Mark what is unfinished as incomplete: the stream was cut or the engine failed."""
        for item in self._items:
            if item.status == "in_progress":
                item.status = "incomplete"

    # -- Items --------------------------------------------------------------------------------

    def _absorb_text(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[Event]:
        item = self._items[-1] if self._items else None
        if not isinstance(item, _Text):
            item = _Text(self._next_id("msg"))
            self._items.append(item)
            yield self._added(message_item(item.identifier, item.status, []))
            part = text_part("", [])
            yield self.event("response.content_part.added", **self._place(item), part=part)
        if not text and not logprobs:
            return
        entries = logprobs_member(logprobs)["content"]
        self._choice.texts.append(text)
        self._choice.logprobs += logprobs
        item.pieces.append(text)
        item.logprobs += entries
        place = self._place(item)
        yield self.event("response.output_text.delta", **place, delta=text, logprobs=entries)

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
        self._choice.tool_calls.append(ToolCall(call.identifier, call.name, ""))
        yield self._added(item.item())
        place = {"item_id": item.identifier, "output_index": len(self._items) - 1}
        # Engines give whole calls, so the arguments are one piece.
        item.arguments = call.arguments
        self._choice.tool_calls[-1] = call
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
