"""`POST /v1/chat/completions`, plain and streamed.

The order is fixed: the request is understood and its assurance granted before a model is touched;
what will run is committed before it runs; the receipt is durable before the answer ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from verispect.core.commitments import Part
from verispect.engines.interface import ChatInput, Delta, TokenLogprob, ToolCall
from verispect.gateway.chat_shapes import ChatRequest
from verispect.gateway.chat_wire import (
    attachments,
    check_request,
    read_conversation,
    read_sampling,
)
from verispect.gateway.generation import Choice, Generation, prepare_generation
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.recording import Inference, Issued
from verispect.gateway.state import GatewayState
from verispect.gateway.streaming import (
    CallerGoneError,
    Event,
    Outcome,
    stream_events,
)
from verispect.gateway.wire import decode_body, read_lane, receipt_member, system_fingerprint

OPERATION: Final = "chat.completions"
CALLER_GONE: Final = HttpResponse(499, b"")
"""Never read by anyone: the caller has left."""


async def create_chat_completion(
    state: GatewayState, request: HttpRequest
) -> HttpResponse | StreamedResponse:
    """Answer a conversation.

    Raises:
        RequestError: for anything that cannot be honoured, before the model runs.
        ModelError: `model-not-found`.
        EngineError: when the engine fails before the first word of a stream, or in a plain answer.
    """
    body = decode_body(request.body, ChatRequest, state.limits)
    check_request(body, state.limits)
    sampling = read_sampling(body, state.limits)
    conversation = read_conversation(body, state.limits)
    lane = read_lane(request)
    served = state.pool.find(body.model)
    inference = state.recorder.begin(
        request,
        operation=OPERATION,
        served=served,
        requested_model=body.model,
        lane=lane,
        assurance=body.assurance,
    )
    model = await state.pool.language(served, lane)
    generation = await prepare_generation(
        model, [conversation], sampling, count=body.n or 1, inference=inference
    )
    _commit_request(inference, body, conversation, generation)
    chat = ChatAnswer(request, body, inference, generation, system_fingerprint(model.identity))
    return await chat.stream() if body.stream else await chat.whole()


def _commit_request(
    inference: Inference, body: ChatRequest, conversation: ChatInput, generation: Generation
) -> None:
    if conversation.system_prompt is not None:
        inference.commit(Part.SYSTEM_PROMPT, conversation.system_prompt)
    inference.commit(Part.MESSAGES, list(conversation.messages))
    if conversation.tools:
        tools = {
            "tools": list(conversation.tools),
            "tool_choice": conversation.tool_choice,
            "parallel_tool_calls": conversation.parallel_tool_calls,
        }
        inference.commit(Part.TOOLS, tools)
    if conversation.response_format is not None:
        inference.commit(Part.RESPONSE_FORMAT, conversation.response_format)
    attached = attachments(conversation.messages)
    if attached:
        inference.commit(Part.ATTACHMENTS, attached)
    sampling = generation.runs[0].sampling.to_content()
    inference.commit(Part.PARAMETERS, {**sampling, **body.parameters()})


@dataclass(slots=True)
class ChatAnswer:
    """One answer in the making; also the `StreamedAnswer` of its stream."""

    request: HttpRequest
    body: ChatRequest
    inference: Inference
    generation: Generation
    fingerprint: str
    ends_with_done: bool = True
    _deltas: AsyncGenerator[tuple[Choice, Delta], None] | None = None
    _first: tuple[Choice, Delta] | None = None

    async def whole(self) -> HttpResponse:
        """Make the answer and return it with its receipt."""
        try:
            await self.generation.collect(self.request.disconnected)
        except CallerGoneError:
            for choice in self.generation.choices:
                choice.forget()
            await self.settle(Outcome.CANCELLED)
            return CALLER_GONE
        issued = await self.settle(Outcome.COMPLETE)
        answer = self._envelope("chat.completion")
        answer["choices"] = [_whole_choice(choice) for choice in self.generation.choices]
        answer["usage"] = usage_member(self.generation)
        answer["verispect"] = self._receipt(issued)
        return HttpResponse(200, msgspec.json.encode(answer), headers=list(self.inference.headers))

    async def stream(self) -> StreamedResponse | HttpResponse:
        """Start the engine and return the stream; an engine that cannot start is a plain error."""
        self._deltas = self.generation.deltas(self.request.disconnected)
        try:
            self._first = await anext(self._deltas)
        except CallerGoneError:
            await self.settle(Outcome.CANCELLED)
            return CALLER_GONE
        return StreamedResponse(
            200, stream_events(self, self.inference), headers=list(self.inference.headers)
        )

    async def settle(self, outcome: Outcome) -> Issued:
        """Commit to the answer as far as it went and return the durable receipt."""
        return await self.generation.finish(self.inference, outcome)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the chunks: the role, what is generated, the finish, the usage if asked for."""
        assert self._deltas is not None
        assert self._first is not None
        async with aclosing(self._deltas) as deltas:
            for choice in self.generation.choices:
                yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})
            for event in self._delta_events(*self._first):
                yield event
            async for choice, delta in deltas:
                for event in self._delta_events(choice, delta):
                    yield event
        options = self.body.stream_options
        if options is not None and options.include_usage:
            chunk = self._envelope("chat.completion.chunk")
            yield Event(
                msgspec.json.encode(
                    {**chunk, "choices": [], "usage": usage_member(self.generation)}
                )
            )

    def _delta_events(self, choice: Choice, delta: Delta) -> Iterator[Event]:
        """Yield the chunks of one delta, noting each piece of content as it goes out."""
        choice.count(delta)
        if delta.text or delta.logprobs:
            choice.texts.append(delta.text)
            choice.logprobs += delta.logprobs
            logprobs = logprobs_member(delta.logprobs) if delta.logprobs else None
            yield self._chunk(choice, {"content": delta.text}, logprobs=logprobs)
        for call in delta.tool_calls:
            member = {"index": len(choice.tool_calls), **tool_call_member(call)}
            choice.tool_calls.append(call)
            yield self._chunk(choice, {"tool_calls": [member]})
        if delta.finish_reason is not None:
            choice.finish_reason = delta.finish_reason
            yield self._chunk(choice, {}, finish_reason=delta.finish_reason)

    def closing(self, issued: Issued) -> Event:
        """Return the chunk that carries the receipt."""
        chunk = self._envelope("chat.completion.chunk")
        return Event(
            msgspec.json.encode({**chunk, "choices": [], "verispect": self._receipt(issued)})
        )

    def failed(self, member: dict[str, Any], issued: Issued | None) -> Event:
        """Return the error event of a broken stream, with the receipt of what was sent."""
        content: dict[str, Any] = {"error": member}
        if issued is not None:
            content["verispect"] = self._receipt(issued)
        return Event(msgspec.json.encode(content))

    def _receipt(self, issued: Issued) -> dict[str, str]:
        return receipt_member(issued.receipt, issued.receipt_id, self.inference.identifier)

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.inference.identifier}",
            "object": kind,
            "created": self.request.received_at // 1000,
            "model": self.body.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> Event:
        part = {
            "index": choice.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        chunk = self._envelope("chat.completion.chunk")
        return Event(msgspec.json.encode({**chunk, "choices": [part]}))


def _whole_choice(choice: Choice) -> dict[str, Any]:
    text = choice.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not choice.tool_calls else None,
        "refusal": None,
    }
    if choice.tool_calls:
        message["tool_calls"] = [tool_call_member(call) for call in choice.tool_calls]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs_member(choice.logprobs) if choice.logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def tool_call_member(call: ToolCall) -> dict[str, Any]:
    """Return one entry of `tool_calls`."""
    return {
        "id": call.identifier,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def usage_member(generation: Generation) -> dict[str, int]:
    """Return the `usage` object."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def logprobs_member(items: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` object of a choice or a chunk."""
    content = [
        {
            "token": item.token,
            "logprob": item.logprob,
            "bytes": _bytes_of(item.token, item.token_bytes),
            "top_logprobs": [
                {"token": token, "logprob": logprob, "bytes": _bytes_of(token, None)}
                for token, _identifier, logprob in item.alternatives
            ],
        }
        for item in items
    ]
    return {"content": content, "refusal": None}


def _bytes_of(token: str, exact: bytes | None) -> list[int]:
    return list(exact if exact is not None else token.encode("utf-8", "replace"))
