"""Renders a conversation with the model's own chat template, in a sandbox without a clock.

The rendered prompt comes in segments, so that the tokeniser can tell the template's own control
tokens from the same characters in a message. To find the segments the conversation is rendered a
second time with marks around every string of the caller; where taking the marks away does not
give the first text (a template may trim or compare content), the conversation is refused if a
string of it spells a control token, and is otherwise one segment.

This module refuses `strftime_now`: what the clock says would be in no receipt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox

from verispect.core.errors import ModelError, Reason, RequestError

MAX_TEMPLATE_CHARACTERS: Final = 256 * 1024
MAX_RENDERED_CHARACTERS: Final = 16 * 1024 * 1024

Segment = tuple[str, bool]
"""Text, and whether it is the template's own."""

# Private-use characters: no tokeniser's control tokens hold them.
_OPEN: Final = "\uf8f0"
_CLOSE: Final = "\uf8f1"

# Fields whose values a template compares; they come from fixed lists.
_PLAIN_FIELDS: Final = frozenset({"role", "type"})


class _TemplateRefusalError(Exception):
    """`raise_exception` was called by the template."""


# What a template can raise that is not a fault of ours: its own refusal, and the ordinary errors
# of an expression over a conversation it did not expect.
_RENDERING_ERRORS: Final = (
    jinja2.TemplateError,
    _TemplateRefusalError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """One compiled template.

    Args:
        source: the Jinja text.
        bos: text of the beginning-of-sequence token.
        eos: text of the end-of-sequence token.
        control_texts: texts of the vocabulary's control tokens.

    Raises:
        ModelError: `malformed-model` where the text is not a template.
    """

    def __init__(self, source: str, *, bos: str, eos: str, control_texts: Sequence[str]) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError("the chat template is too long", reason=Reason.TOO_LARGE)
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise ModelError(
                "the chat template cannot be parsed", reason=Reason.MALFORMED_MODEL
            ) from error
        self._control_texts = tuple(text for text in control_texts if text)
        self._constants = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        self.renders_tools: bool = "tools" in variables and "<tool_call>" in source
        """The template writes tool definitions itself, in the form that `tool_calls` reads."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[Segment]:
        """Return the prompt in segments.

        Args:
            messages: role and text content, and for a template that renders tools also tool calls.
            tools: definitions, only for a template that renders them.

        Raises:
            RequestError: where the template refuses the conversation, or control tokens in its
                text cannot be kept apart.
        """
        text = self._render(messages, tools)
        strings = list(_strings(messages)) + list(_strings(tools))
        if not any(_OPEN in string or _CLOSE in string for string in strings):
            segments = self._segments(text, messages, tools)
            if segments is not None:
                return segments
        if any(control in string for string in strings for control in self._control_texts):
            raise RequestError(
                "a message spells a control token, and the model's template cannot keep it apart",
                parameter="messages",
            )
        return [(text, True)]

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> str:
        variables: dict[str, Any] = {**self._constants, "messages": messages}
        if tools:
            variables["tools"] = tools
        try:
            text = self._template.render(variables)
        except _RENDERING_ERRORS as error:
            # The error's own text may hold the conversation.
            raise RequestError(
                "the model's chat template refuses this conversation", parameter="messages"
            ) from error
        if len(text) > MAX_RENDERED_CHARACTERS:
            raise RequestError("the rendered prompt is too long", parameter="messages")
        return text

    def _segments(
        self,
        text: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
    ) -> list[Segment] | None:
        try:
            marked = self._render(_mark(messages), _mark(tools))
        except RequestError:
            return None
        if marked.replace(_OPEN, "").replace(_CLOSE, "") != text:
            return None
        segments: list[Segment] = []
        for number, part in enumerate(marked.split(_OPEN)):
            content, closed, rest = part.partition(_CLOSE)
            if number == 0:
                content, rest = "", part
            elif not closed:
                return None
            if _CLOSE in rest:
                return None
            segments.extend(
                (piece, own) for piece, own in ((content, False), (rest, True)) if piece
            )
        return segments


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return f"{_OPEN}{value}{_CLOSE}" if value else value
    if isinstance(value, Mapping):
        return {key: item if key in _PLAIN_FIELDS else _mark(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mark(item) for item in value]
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _refuse(_message: object = None) -> NoReturn:
    raise _TemplateRefusalError


def _to_json(value: Any, indent: int | None = None, **_ignored: Any) -> str:
    """Jinja's own filter escapes for HTML, which models were not trained on."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
