"""The JSON shapes of `/v1/chat/completions`: types and ranges, nothing more.

Unknown fields are forbidden everywhere. What types alone do not show is checked in
`verispect.gateway.chat_wire`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

Identifier: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Penalty: TypeAlias = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Temperature: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=2)]
Probability: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
TokenLimit: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seed: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    """Padding against traffic analysis is not made; asking for it is refused."""


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model may ask to be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of `tools`."""

    type: str
    function: Function


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """The function of a `tool_choice`."""

    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """A `tool_choice` that names its function."""

    type: str
    function: NamedFunction


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """The schema of a `response_format`."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """The shape that the answer must have."""

    type: str
    json_schema: JsonSchema | None = None


class CalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    """A call in the history of a conversation."""

    name: str
    arguments: str


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of an assistant's `tool_calls`."""

    id: str
    type: str
    function: CalledFunction


class ContentPart(msgspec.Struct, forbid_unknown_fields=True):
    """One part of a message's content; which member it must have follows from its type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: dict[str, Any] | None = None
    input_audio: dict[str, Any] | None = None
    file: dict[str, Any] | None = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """One message of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    """As OpenAI's own answers carry it, so that an answer can be sent back as it came."""
    audio: None = None
    function_call: None = None


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    model: Identifier
    messages: list[dict[str, Any]]
    n: int | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Count | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    assurance: str | dict[str, Any] | None = None
    # Refused unless null or without meaning; see `chat_wire.check_request`.
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    service_tier: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    def parameters(self) -> dict[str, Any]:
        """Return the fields that go into the commitment beside the resolved sampling."""
        labels = {
            "user": self.user,
            "safety_identifier": self.safety_identifier,
            "metadata": self.metadata,
            "store": self.store,
            "service_tier": self.service_tier,
            "modalities": self.modalities,
        }
        content = {name: value for name, value in labels.items() if value is not None}
        content["n"] = self.n or 1
        content["stream"] = bool(self.stream)
        if self.stream_options is not None:
            content["stream_options"] = {"include_usage": bool(self.stream_options.include_usage)}
        return content
