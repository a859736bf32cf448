"""A request of `/v1/responses` from JSON to what an engine takes.

Every field of OpenAI's interface is either honoured, refused by name, or has no influence on the
answer and is committed with the rest. A field that is unknown is refused: a misspelt parameter
must not look as if it had been obeyed. One field is ours besides `assurance`: `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from verispect.core.errors import RequestError
from verispect.engines.interface import ChatInput, Sampling
from verispect.gateway.limits import Limits
from verispect.gateway.responses_items import read_items, to_conversation

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

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Shape = TypeVar("_Shape")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a request that are honoured or committed, with their types and ranges."""

    model: str
    input: str | list[Any]
    instructions: str | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    store: bool | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    assurance: str | None = None


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
    assurance: str | None
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


def read_request(body: Mapping[str, Any], limits: Limits) -> ResponsesRequest:
    """Return the request that a JSON body states.

    Raises:
        RequestError: `invalid-request` naming the field.
    """
    fields = dict(body)
    for name, harmless in _WITHOUT_EFFECT.items():
        _refuse_effect(name, fields.pop(name, None), harmless)
    read = _convert(fields, _Body, "")
    _check_texts(read, limits)
    tools = _read_tools(read.tools or [], limits)
    return ResponsesRequest(
        model=read.model,
        items=read_items(read.input),
        instructions=read.instructions,
        tools=tools,
        tool_choice=_read_tool_choice(read.tool_choice, tools),
        parallel_tool_calls=read.parallel_tool_calls is not False,
        text_format=_read_format(read.text or {}),
        sampling=Sampling(
            maximum_tokens=read.max_output_tokens,
            temperature=read.temperature,
            top_p=read.top_p,
            seed=read.seed,
            top_logprobs=_read_logprobs(read, limits),
        ),
        store=read.store,
        stream=bool(read.stream),
        previous_response_id=read.previous_response_id,
        assurance=read.assurance,
        accepted={
            name: getattr(read, name)
            for name in (
                "include",
                "metadata",
                "user",
                "safety_identifier",
                "prompt_cache_key",
                "prompt_cache_retention",
                "previous_response_id",
            )
            if getattr(read, name) is not None
        },
    )


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


def _convert(value: Any, shape: type[_Shape], path: str) -> _Shape:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _field_error(error, path) from None


def _field_error(error: msgspec.ValidationError, prefix: str) -> RequestError:
    """Return our error for one of msgspec's, whose text ends in the path of the field."""
    message, _, path = str(error).partition(" - at `$")
    parameter = path.rstrip("`").lstrip(".")
    if message.startswith("Object contains unknown field"):
        parameter = message.split("`")[1][:64]
        message = "unknown parameter"
    elif message.startswith("Object missing required field"):
        parameter = message.split("`")[1]
        message = "missing required parameter"
    elif message.startswith("Invalid enum value"):
        message = "unknown value"
    return RequestError(
        message[0].lower() + message[1:],
        parameter=".".join(part for part in (prefix, parameter) if part) or None,
    )


def _check_texts(read: _Body, limits: Limits) -> None:
    longest = limits.maximum_identifier_characters
    for name in ("model", "user", "safety_identifier", "prompt_cache_key", "previous_response_id"):
        value = getattr(read, name)
        if value is not None and not 0 < len(value) <= longest:
            raise RequestError(f"expected 1 to {longest} characters", parameter=name)
    for name in read.include or ():
        if name not in _INCLUDABLE:
            raise RequestError("unknown value", parameter="include")
    metadata = read.metadata or {}
    if len(metadata) > limits.maximum_metadata_entries:
        raise RequestError(
            f"expected at most {limits.maximum_metadata_entries} entries", parameter="metadata"
        )
    for key, text in metadata.items():
        if (
            len(key) > limits.maximum_metadata_key_characters
            or len(text) > limits.maximum_metadata_value_characters
        ):
            raise RequestError("a key or value is too long", parameter="metadata")


def _read_logprobs(read: _Body, limits: Limits) -> int | None:
    # Asking for alternatives asks for log-probabilities: nothing asked for is left out.
    if not read.top_logprobs and _LOGPROBS not in (read.include or ()):
        return None
    wanted = read.top_logprobs or 0
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
    read = _convert(tool, _Function, path)
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
    named = _convert(choice, _FunctionChoice, "tool_choice")
    if named.name not in [tool["name"] for tool in tools]:
        raise RequestError("no tool has this name", parameter="tool_choice.name")
    return {"type": "function", "name": named.name}


def _read_format(text: Mapping[str, Any]) -> Mapping[str, Any]:
    given = _convert(text, _Text, "text").format
    if given is None:
        return {"type": "text"}
    shape = _SchemaFormat if given.get("type") == "json_schema" else _PlainFormat
    read: Mapping[str, Any] = msgspec.to_builtins(_convert(given, shape, "text.format"))
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
