"""A request of `/v1/responses` from JSON to what an engine takes.

Every field of OpenAI's interface is either honoured, refused by name, or has no influence on the
answer and is committed with the rest. A field that is unknown is refused: a misspelt parameter
must not look as if it had been obeyed. One field is ours besides `assurance`: `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from verispect.core.errors import RequestError
from verispect.engines.interface import ChatInput, Sampling
from verispect.gateway.chat_shapes import Identifier, Probability, Seed, Temperature, TokenLimit
from verispect.gateway.limits import Limits
from verispect.gateway.responses_items import read_items, to_conversation
from verispect.gateway.wire import check_metadata, convert

_WITHOUT_EFFECT: Final[Mapping[str, tuple[Any, ...]]] = {
    "background": (False,),
    "background_options": (),
    "conversation": (),
    "prompt": (),
    "reasoning": ({},),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "context_management": ([],),
    "access_programs": (),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt_cache_options": (),
    "stream_options": ({}, {"include_obfuscation": False}),
}
"""Fields that this server does not implement, with the values that ask for nothing; null is one."""

_LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDABLE: Final = frozenset(
    {
        _LOGPROBS,
        # These belong to built-in tools and reasoning, which are refused or absent: they ask for
        # parts that no answer of this server has.
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
    }
)

_LABELS: Final = (
    "include",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "previous_response_id",
)

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]


class ResponsesBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    model: Identifier
    input: str | list[Any]
    instructions: str | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    max_output_tokens: TokenLimit | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seed: Seed | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    store: bool | None = None
    stream: bool | None = None
    previous_response_id: Identifier | None = None
    assurance: str | dict[str, Any] | None = None
    # Refused unless they ask for nothing; see `_WITHOUT_EFFECT`.
    access_programs: Any = None
    background: Any = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    reasoning: Any = None
    service_tier: Any = None
    stream_options: Any = None
    truncation: Any = None


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Clients send these as null; anything else would change what the model is told.
    allowed_callers: None = None
    defer_loading: None = None
    output_schema: None = None


class _FunctionChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    name: _Name


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class _PlainFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object"]


class _SchemaFormat(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["json_schema"]
    name: _Name
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request that was understood; the conversation before it is not yet resolved."""

    model: str
    items: Sequence[Mapping[str, Any]]
    """The input items of this request alone."""
    instructions: str | None
    tools: Sequence[Mapping[str, Any]]
    """In the flat form of this interface, as they are echoed."""
    tool_choice: str | Mapping[str, Any]
    """As it is echoed."""
    parallel_tool_calls: bool
    text_format: Mapping[str, Any]
    sampling: Sampling
    store: bool | None
    """`None` where the caller did not say."""
    stream: bool
    previous_response_id: str | None
    assurance: str | dict[str, Any] | None
    accepted: Mapping[str, Any]
    """Every other field as it was given; committed with the sampling parameters."""

    def to_chat(
        self, earlier: Sequence[Mapping[str, Any]]
    ) -> tuple[ChatInput, Sequence[Mapping[str, Any]]]:
        """Return the conversation for the engine, and its attachments.

        Args:
            earlier: the items of the conversation that `previous_response_id` stands for.

        Raises:
            RequestError: `invalid-request`.
        """
        conversation = to_conversation([*earlier, *self.items])
        texts = [] if self.instructions is None else [self.instructions]
        texts += conversation.system_texts
        chat = ChatInput(
            system_prompt="\n\n".join(texts) if texts else None,
            messages=conversation.messages,
            tools=[_nest(tool, "function") for tool in self.tools],
            tool_choice=self.tool_choice
            if isinstance(self.tool_choice, str)
            else _nest(self.tool_choice, "function"),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=_to_response_format(self.text_format),
        )
        return chat, conversation.attachments


def read_request(body: ResponsesBody, limits: Limits) -> ResponsesRequest:
    """Return the request that a body states.

    Raises:
        RequestError: `invalid-request` naming the field.
    """
    for name, harmless in _WITHOUT_EFFECT.items():
        _refuse_effect(name, getattr(body, name), harmless)
    check_metadata(body.metadata, limits)
    if not _INCLUDABLE.issuperset(body.include or ()):
        raise RequestError("unknown value", parameter="include")
    tools = _read_tools(body.tools or [], limits)
    return ResponsesRequest(
        model=body.model,
        items=read_items(body.input),
        instructions=body.instructions,
        tools=tools,
        tool_choice=_read_tool_choice(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        text_format=_read_format(body.text or {}),
        sampling=Sampling(
            maximum_tokens=body.max_output_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            top_logprobs=_read_logprobs(body, limits),
        ),
        store=body.store,
        stream=bool(body.stream),
        previous_response_id=body.previous_response_id,
        assurance=body.assurance,
        accepted=_accepted(body),
    )


def _accepted(body: ResponsesBody) -> dict[str, Any]:
    """Return the fields to commit to that no other part of the commitment holds."""
    names = [*_WITHOUT_EFFECT, *_LABELS]
    if not body.tools:
        names += ["tools", "tool_choice", "parallel_tool_calls"]
    return {name: getattr(body, name) for name in names if getattr(body, name) is not None}


# -- Fields -------------------------------------------------------------------------------------


def _refuse_effect(name: str, value: Any, harmless: Sequence[Any]) -> None:
    if isinstance(value, dict):
        value = {key: member for key, member in value.items() if member is not None}
    # The types are compared too, because 0 equals False.
    if value is None or any(type(value) is type(one) and value == one for one in harmless):
        return
    allowed = [str(one) for one in harmless if isinstance(one, (str, bool))]
    hint = f" other than {' or '.join(allowed).lower()}" if allowed else ""
    raise RequestError(f"{name}{hint} is not supported by this server", parameter=name)


def _read_logprobs(body: ResponsesBody, limits: Limits) -> int | None:
    # Asking for alternatives asks for log-probabilities: nothing asked for is left out.
    if not body.top_logprobs and _LOGPROBS not in (body.include or ()):
        return None
    wanted = body.top_logprobs or 0
    if wanted > limits.maximum_top_logprobs:
        raise RequestError(
            f"expected at most {limits.maximum_top_logprobs}", parameter="top_logprobs"
        )
    return wanted


def _read_tools(tools: Sequence[Any], limits: Limits) -> Sequence[Mapping[str, Any]]:
    if len(tools) > limits.maximum_tools:
        raise RequestError(f"expected at most {limits.maximum_tools} tools", parameter="tools")
    read = [_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    if len({tool["name"] for tool in read}) != len(read):
        raise RequestError("two tools have the same name", parameter="tools")
    return read


def _read_tool(tool: Any, path: str) -> Mapping[str, Any]:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise RequestError(
            f"the built-in tool {kind[:64]!r} is not supported, only functions are", parameter=path
        )
    read = convert(tool, _Function, path)
    return {
        "type": "function",
        "name": read.name,
        "description": read.description,
        "parameters": read.parameters,
        "strict": read.strict,
    }


def _read_tool_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | Mapping[str, Any]:
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise RequestError("expected none, auto or required", parameter="tool_choice")
        if choice == "required" and not tools:
            raise RequestError("required needs tools", parameter="tool_choice")
        return choice
    if choice.get("type") != "function":
        raise RequestError(
            "a tool choice other than none, auto, required or one function is not supported",
            parameter="tool_choice",
        )
    named = convert(choice, _FunctionChoice, "tool_choice")
    if named.name not in [tool["name"] for tool in tools]:
        raise RequestError("no tool has this name", parameter="tool_choice.name")
    return {"type": "function", "name": named.name}


def _read_format(text: Mapping[str, Any]) -> Mapping[str, Any]:
    given = convert(text, _Text, "text").format
    if given is None:
        return {"type": "text"}
    shape = _SchemaFormat if given.get("type") == "json_schema" else _PlainFormat
    read: Mapping[str, Any] = msgspec.to_builtins(convert(given, shape, "text.format"))
    return read


# -- The other shape ----------------------------------------------------------------------------


def _nest(flat: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a flat definition in the nested shape of `/v1/chat/completions`."""
    inner = {name: value for name, value in flat.items() if name != "type" and value is not None}
    return {"type": kind, kind: inner}


def _to_response_format(text_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    match text_format["type"]:
        case "text":
            return None
        case "json_schema":
            return _nest(text_format, "json_schema")
        case _:
            return {"type": "json_object"}
