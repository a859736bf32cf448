"""`POST /v1/chat/completions`, plain and streamed.

The order is fixed: the request is understood and its assurance granted before a model is touched;
what will run is committed before it runs; the receipt is durable before the answer ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from verispect.core.commitments import Part
from verispect.engines.interface import ChatInput, Delta, TokenLogprob, ToolCall
from verispect.gateway.answer import CALLER_GONE as CALLER_GONE
from verispect.gateway.answer import LanguageAnswer
from verispect.gateway.chat_shapes import ChatRequest
from verispect.gateway.chat_wire import (
    attachments,
    check_request,
    read_conversation,
    read_sampling,
)
from verispect.gateway.generation import Choice, Generation, prepare_generation
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.inference import Inference
from verispect.gateway.services import find_served, place
from verispect.gateway.state import GatewayState
from verispect.gateway.streaming import Event
from verispect.gateway.wire import decode_body, read_lane

OPERATION: Final = "chat.completions"


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
    served, version = await find_served(state, request, body.model)
    conversation = place(conversation, version)
    inference = state.recorder.begin(
        request,
        operation=OPERATION,
        served=served,
        requested_model=body.model,
        lane=lane,
        assurance=body.assurance,
        service=version,
    )
    model = await state.pool.language(served, lane)
    generation = await prepare_generation(
        model, [conversation], sampling, count=body.n or 1, inference=inference
    )
    _commit_request(inference, body, conversation, generation)
    await generation.pay(inference, streamed=bool(body.stream))
    options = body.stream_options
    include_usage = options is not None and bool(options.include_usage)
    answer = ChatAnswer(request, inference, generation, body.model, include_usage)
    return await answer.stream() if body.stream else await answer.whole()


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


class ChatAnswer(LanguageAnswer):
    """An answer in the shape of `chat.completion`, or of its chunks."""

    __slots__ = ()

    def envelope(self, *, streamed: bool) -> dict[str, Any]:
        """Return `id` and `object`."""
        kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": f"chatcmpl-{self.inference.identifier}", "object": kind}

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        """Return the message and why it ended."""
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

    def opening_events(self) -> Iterator[Event]:
        """Yield the role of each choice."""
        for choice in self.generation.choices:
            delta = {"role": "assistant", "content": "", "refusal": None}
            yield self._choice_chunk(choice, delta)

    def delta_events(self, choice: Choice, delta: Delta) -> Iterator[Event]:
        """Yield text, tool calls and the end, each as a chunk of its own."""
        choice.count(delta)
        if delta.text or delta.logprobs:
            choice.texts.append(delta.text)
            choice.logprobs += delta.logprobs
            logprobs = logprobs_member(delta.logprobs) if delta.logprobs else None
            yield self._choice_chunk(choice, {"content": delta.text}, logprobs=logprobs)
        for call in delta.tool_calls:
            member = {"index": len(choice.tool_calls), **tool_call_member(call)}
            choice.tool_calls.append(call)
            yield self._choice_chunk(choice, {"tool_calls": [member]})
        if delta.finish_reason is not None:
            choice.finish_reason = delta.finish_reason
            yield self._choice_chunk(choice, {}, finish_reason=delta.finish_reason)

    def _choice_chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> Event:
        return self.chunk(
            {
                "index": choice.index,
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }
        )


def tool_call_member(call: ToolCall) -> dict[str, Any]:
    """Return one entry of `tool_calls`."""
    return {
        "id": call.identifier,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
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
