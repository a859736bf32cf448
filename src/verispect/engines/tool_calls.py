"""Tools and response formats for models that only write text.

The model is told of the tools in a section of the system prompt, and a grammar makes what it
writes either plain text or well-formed calls:

    <tool_call>
    {"name": "…", "arguments": {…}}
    </tool_call>

Section and grammar are part of the effective input, so a receipt shows both. `arguments` follow
the tool's JSON Schema. For a tool with `"strict": true`, and for a response format, a keyword
that the grammar cannot enforce is refused; for other tools it is left to the model, as with
OpenAI's interface.

This module refuses to run a tool.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.errors import RequestError
from verispect.engines.interface import ToolCall

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 32
"""Calls in one answer."""
MAX_SCHEMA_CHARACTERS: Final = 64 * 1024
"""Of all tools together, and of a response format."""

MAX_REPETITION: Final = 4096

_REPETITIONS: Final = frozenset({"minItems", "maxItems", "minProperties", "maxProperties"})
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OPEN: Final = "<tool_call>\n"
_CLOSE: Final = "\n</tool_call>"
_HEAD: Final = re.compile(r'\{"name": "([A-Za-z0-9_-]{1,64})", "arguments": ')
_NO_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
# Without fixed separators a small model may write white space for ever.
_COMPACT: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool

    def definition(self) -> dict[str, Any]:
        """Return the OpenAI-shaped definition that the model is shown."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools may be called in one request."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True

    def __bool__(self) -> bool:
        return bool(self.tools)


def read_tools(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any], *, parallel: bool
) -> ToolUse:
    """Read OpenAI-shaped tool definitions and the choice among them.

    Raises:
        RequestError: for a definition or choice that is not understood.
    """
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"expected at most {MAX_TOOLS} tools", parameter="tools")
    read = tuple(_read_tool(tool) for tool in tools)
    if len({tool.name for tool in read}) != len(read):
        raise RequestError("two tools have one name", parameter="tools")
    _check_size([tool.definition() for tool in read], "tools")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise RequestError("tool_choice is not known", parameter="tool_choice")
        if choice == "required" and not read:
            raise RequestError("tool_choice requires tools", parameter="tool_choice")
        if choice == "none":
            return ToolUse()
        return ToolUse(read, required=choice == "required", parallel=parallel)
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    chosen = tuple(tool for tool in read if tool.name == name)
    if choice.get("type") != "function" or not chosen:
        raise RequestError("tool_choice names no tool of this request", parameter="tool_choice")
    return ToolUse(chosen, required=True, parallel=False)


def _read_tool(tool: Any) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise RequestError("a tool must be of type function", parameter="tools")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(
            "a tool's name must be 1 to 64 letters, digits, underscores or dashes",
            parameter="tools",
        )
    description = function.get("description") or ""
    parameters = function.get("parameters")
    if parameters is None:
        parameters = _NO_PARAMETERS
    strict = function.get("strict") or False
    if (
        not isinstance(description, str)
        or not isinstance(parameters, Mapping)
        or not isinstance(strict, bool)
    ):
        raise RequestError("a tool's definition is not understood", parameter="tools")
    if parameters.get("type", "object") != "object":
        raise RequestError("a tool's parameters must be an object", parameter="tools")
    return Tool(name, description, {"type": "object", **parameters}, strict)


def tool_section(use: ToolUse) -> str:
    """Return what the system prompt says of the tools."""
    lines = "\n".join(json.dumps(tool.definition(), ensure_ascii=False) for tool in use.tools)
    number = "one or more functions" if use.parallel else "one function"
    duty = f"You must call {number}." if use.required else f"You may call {number}."
    return (
        f"{duty} These functions are available:\n<tools>\n{lines}\n</tools>\n"
        "A call is written like this, with nothing before or after it:\n"
        f'{_OPEN}{{"name": <function name>, "arguments": <arguments as a JSON object>}}{_CLOSE}'
    )


def written_calls(calls: Sequence[Mapping[str, Any]]) -> str:
    """Return earlier calls of the assistant as the model would have written them.

    Raises:
        RequestError: for calls that are not OpenAI-shaped.
    """
    written = []
    for call in calls:
        function = call.get("function")
        if not isinstance(function, Mapping):
            raise RequestError("a tool call is not understood", parameter="messages")
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise RequestError("a tool call is not understood", parameter="messages")
        written.append(f'{_OPEN}{{"name": {json.dumps(name)}, "arguments": {arguments}}}{_CLOSE}')
    return "\n".join(written)


def build_grammar(use: ToolUse, response_format: Mapping[str, Any] | None) -> str | None:
    """Return the Lark grammar of the answer, or `None` where any text will do.

    Raises:
        RequestError: for a response format that is not understood.
    """
    schema = _response_schema(response_format)
    if not use and schema is None:
        return None
    rules = []
    if schema is not None:
        rules.append(f"answer: {_json_rule(schema, lenient=False)}")
    if not use:
        return "start: answer\n" + "\n".join(rules) + "\n"
    if schema is None and not use.required:
        rules.append(f"answer: TEXT\nTEXT: /(?s:.*)/ & ~/(?s:{_OPEN.strip()}.*)/")
    names = [f"call{number}" for number in range(len(use.tools))]
    for name, tool in zip(names, use.tools, strict=True):
        head = json.dumps(f'{_OPEN}{{"name": "{tool.name}", "arguments": ')
        rules.append(f"{name}: {head} {name}arguments {json.dumps('}' + _CLOSE)}")
        rules.append(f"{name}arguments: {_json_rule(tool.parameters, lenient=not tool.strict)}")
    rules.append(f"call: {' | '.join(names)}")
    more = MAX_CALLS - 1
    rules.append(f'calls: call ("\\n" call){{0,{more}}}' if use.parallel else "calls: call")
    start = "start: calls\n" if use.required else "start: answer | calls\n"
    return start + "\n".join(rules) + "\n"


def _json_rule(schema: Mapping[str, Any], *, lenient: bool) -> str:
    guided = {**schema, "x-guidance": {**_COMPACT, "lenient": lenient}}
    return f"%json {json.dumps(guided)}"


def _response_schema(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise RequestError("response_format is not understood", parameter="response_format")
    _check_size(schema, "response_format")
    return schema


def _check_size(value: Any, parameter: str) -> None:
    try:
        length = len(json.dumps(value))
    except (RecursionError, TypeError, ValueError) as error:
        raise RequestError("the schema is not understood", parameter=parameter) from error
    if length > MAX_SCHEMA_CHARACTERS:
        raise RequestError("the schema is too long", parameter=parameter)
    if _largest_repetition(value) > MAX_REPETITION:
        raise RequestError(
            f"a schema may repeat at most {MAX_REPETITION} times", parameter=parameter
        )


def _largest_repetition(value: Any) -> int:
    """Compiling a repetition takes time in proportion to its bounds."""
    if isinstance(value, Mapping):
        own = [item for key, item in value.items() if key in _REPETITIONS and type(item) is int]
        return max([0, *own, *map(_largest_repetition, value.values())])
    if isinstance(value, (list, tuple)):
        return max([0, *map(_largest_repetition, value)])
    return 0


class ToolCallReader:
    """Separates calls from text while the answer is being generated.

    Args:
        active: the grammar allows calls.
        context: bytes that with a call's number make its identifier, so that re-execution gives
            the same ones.
    """

    def __init__(self, *, active: bool, context: bytes) -> None:
        self._context = context
        self._held = ""
        self._is_text = not active
        self.count = 0
        """Calls given so far."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Take generated text; return the part that is plain text, and the calls completed."""
        if self._is_text:
            return text, []
        self._held += text
        if self.count == 0 and not _agree(self._held, _OPEN):
            self._is_text = True
            return self.finish(), []
        calls = []
        while (call := self._take_call()) is not None:
            calls.append(call)
        return "", calls

    def finish(self) -> str:
        """Return what was held back and is no whole call; nothing generated is hidden."""
        rest, self._held = self._held, ""
        return rest if rest.strip() else ""

    def _take_call(self) -> ToolCall | None:
        start = self._held.find(_OPEN)
        head = _HEAD.match(self._held, start + len(_OPEN)) if start >= 0 else None
        if head is None:
            return None
        try:
            _, end = json.JSONDecoder().raw_decode(self._held, head.end())
        except ValueError:
            return None
        tail = "}" + _CLOSE
        if not self._held.startswith(tail, end):
            return None
        arguments = self._held[head.end() : end]
        self._held = self._held[end + len(tail) :]
        material = self._context + self.count.to_bytes(4, "big") + arguments.encode()
        self.count += 1
        return ToolCall(
            f"call_{hashlib.sha256(material).hexdigest()[:24]}", head.group(1), arguments
        )


def _agree(left: str, right: str) -> bool:
    return left.startswith(right) or right.startswith(left)
