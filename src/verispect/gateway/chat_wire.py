"""A request of `/v1/chat/completions` from JSON to what an engine takes.

Every field of OpenAI's interface is honoured, committed as a label without effect (`user`,
`metadata`, `safety_identifier`), or refused by name. `top_k`, `min_p` and `assurance` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from verispect.core.errors import RequestError
from verispect.engines.interface import ChatInput, Sampling
from verispect.gateway.chat_shapes import (
    ChatMessage,
    ChatRequest,
    ContentPart,
    NamedTool,
    ResponseFormat,
    Tool,
)
from verispect.gateway.limits import Limits
from verispect.gateway.wire import (
    check_metadata,
    convert,
    read_logit_bias,
    read_stops,
    refuse_unsupported,
)

_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SYSTEM_ROLES: Final = ("system", "developer")
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def check_request(body: ChatRequest, limits: Limits) -> None:
    """Refuse what types alone do not show.

    Raises:
        RequestError: naming the field.
    """
    _refuse(body)
    check_metadata(body.metadata, limits)
    if body.n is not None and not 1 <= body.n <= limits.maximum_choices:
        raise RequestError(f"n must be 1 to {limits.maximum_choices}", parameter="n")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream", parameter="stream_options")


def _refuse(body: ChatRequest) -> None:
    refuse_unsupported(
        {
            # A completion is not kept here for later reading: saying yes would be untrue.
            "store": (body.store, (False,)),
            "service_tier": (body.service_tier, ("auto", "default")),
            "modalities": (body.modalities, (["text"],)),
            "audio": (body.audio, ()),
            "function_call": (body.function_call, ()),
            "functions": (body.functions, ()),
            "moderation": (body.moderation, ()),
            "prediction": (body.prediction, ()),
            "prompt_cache_key": (body.prompt_cache_key, ()),
            "prompt_cache_options": (body.prompt_cache_options, ()),
            "prompt_cache_retention": (body.prompt_cache_retention, ()),
            "reasoning_effort": (body.reasoning_effort, ()),
            "verbosity": (body.verbosity, ()),
            "web_search_options": (body.web_search_options, ()),
        }
    )


def read_sampling(body: ChatRequest, limits: Limits) -> Sampling:
    """Return the requested sampler settings.

    Raises:
        RequestError: naming the field.
    """
    if None not in (body.max_tokens, body.max_completion_tokens) and (
        body.max_tokens != body.max_completion_tokens
    ):
        raise RequestError(
            "max_tokens and max_completion_tokens differ", parameter="max_completion_tokens"
        )
    top_logprobs = body.top_logprobs
    if top_logprobs is not None:
        if not body.logprobs:
            raise RequestError("top_logprobs needs logprobs", parameter="top_logprobs")
        if not 0 <= top_logprobs <= limits.maximum_top_logprobs:
            raise RequestError(
                f"top_logprobs must be 0 to {limits.maximum_top_logprobs}", parameter="top_logprobs"
            )
    return Sampling(
        maximum_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        stop=read_stops(body.stop, limits),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=read_logit_bias(body.logit_bias, limits),
        top_logprobs=(top_logprobs or 0) if body.logprobs else None,
    )


def read_conversation(body: ChatRequest, limits: Limits) -> ChatInput:
    """Return the conversation, its leading system messages as the system prompt.

    Raises:
        RequestError: naming the field.
    """
    if not 1 <= len(body.messages) <= limits.maximum_messages:
        raise RequestError(
            f"expected 1 to {limits.maximum_messages} messages", parameter="messages"
        )
    system: list[str] = []
    for number, raw in enumerate(body.messages):
        message = convert(raw, ChatMessage, f"messages[{number}]")
        _check_message(message, f"messages[{number}]")
        if message.role in _SYSTEM_ROLES and len(system) == number:
            if message.name is not None:
                raise RequestError(
                    "a leading system message cannot have a name",
                    parameter=f"messages[{number}].name",
                )
            system.append(_text_of(message, f"messages[{number}]"))
    _check_tools(body, limits)
    return ChatInput(
        system_prompt="\n\n".join(system) if system else None,
        messages=body.messages[len(system) :],
        tools=body.tools or (),
        tool_choice=body.tool_choice if body.tool_choice is not None else "auto",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=_read_format(body.response_format),
    )


def _check_message(message: ChatMessage, where: str) -> None:
    if message.role not in _ROLES:
        raise RequestError(f"expected one of {', '.join(_ROLES)}", parameter=f"{where}.role")
    speaks = message.role == "assistant" and (message.tool_calls or message.refusal)
    if message.content is None and not speaks:
        raise RequestError("content is missing", parameter=f"{where}.content")
    if (message.tool_call_id is not None) != (message.role == "tool"):
        raise RequestError(
            "tool_call_id belongs to each message of role tool and to no other",
            parameter=f"{where}.tool_call_id",
        )
    if message.role != "assistant" and (message.tool_calls or message.refusal):
        raise RequestError("only an assistant calls tools or refuses", parameter=f"{where}.role")
    for call in message.tool_calls or ():
        if call.type != "function":
            raise RequestError("expected type function", parameter=f"{where}.tool_calls")
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            _check_part(part, message.role, f"{where}.content[{number}]")


_PARTS: Final = ("text", "refusal", "image_url", "input_audio", "file")


def _check_part(part: ContentPart, role: str, where: str) -> None:
    given = [name for name in _PARTS if getattr(part, name) is not None]
    if part.type not in _PARTS or given != [part.type]:
        raise RequestError("a part must have exactly the member of its type", parameter=where)
    if part.type == "refusal" and role != "assistant":
        raise RequestError("only an assistant refuses", parameter=where)
    if part.type in ("image_url", "input_audio", "file") and role != "user":
        raise RequestError("only a user attaches", parameter=where)


def _text_of(message: ChatMessage, where: str) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = message.content or []
    if any(part.type != "text" for part in parts):
        raise RequestError("a system message holds text only", parameter=f"{where}.content")
    return "".join(part.text or "" for part in parts)


def _check_tools(body: ChatRequest, limits: Limits) -> None:
    if not body.tools:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(body, name) is not None:
                raise RequestError(f"{name} needs tools", parameter=name)
        if body.tools is not None:
            raise RequestError("tools must not be empty", parameter="tools")
        return
    if len(body.tools) > limits.maximum_tools:
        raise RequestError(f"expected at most {limits.maximum_tools} tools", parameter="tools")
    names: set[str] = set()
    for number, raw in enumerate(body.tools):
        tool = convert(raw, Tool, f"tools[{number}]")
        if tool.type != "function":
            raise RequestError("expected type function", parameter=f"tools[{number}].type")
        if not _TOOL_NAME.fullmatch(tool.function.name) or tool.function.name in names:
            raise RequestError(
                "a function's name must be unique, of 1 to 64 letters, digits, - and _",
                parameter=f"tools[{number}].function.name",
            )
        names.add(tool.function.name)
    _check_tool_choice(body.tool_choice, names)


def _check_tool_choice(choice: str | dict[str, Any] | None, names: set[str]) -> None:
    if isinstance(choice, dict):
        named = convert(choice, NamedTool, "tool_choice")
        if named.type != "function" or named.function.name not in names:
            raise RequestError("tool_choice names no function of tools", parameter="tool_choice")
    elif choice not in (None, "none", "auto", "required"):
        raise RequestError(
            "tool_choice must be none, auto, required or a function", parameter="tool_choice"
        )


def _read_format(raw: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if raw is None:
        return None
    shape = convert(raw, ResponseFormat, "response_format")
    if shape.type not in ("text", "json_object", "json_schema"):
        raise RequestError(
            "expected type text, json_object or json_schema", parameter="response_format.type"
        )
    if (shape.json_schema is not None) != (shape.type == "json_schema"):
        raise RequestError(
            "json_schema belongs to type json_schema, and only to it",
            parameter="response_format.json_schema",
        )
    return None if shape.type == "text" else raw


def attachments(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the parts of `messages` that are not text, in order."""
    return [
        part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] not in ("text", "refusal")
    ]
