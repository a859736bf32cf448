"""Makes the messages that a chat template renders out of a conversation.

Templates differ in what they know: here every message becomes a role and text. Tool definitions,
earlier calls and tool results are written into the text, unless the template writes them itself.

This module refuses images, audio and files, and roles it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from verispect.core.errors import RequestError
from verispect.engines.interface import ChatInput
from verispect.engines.tool_calls import ToolUse, tool_section, written_calls

MAX_MESSAGES: Final = 4096

_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def template_messages(
    source: ChatInput, use: ToolUse, *, renders_tools: bool
) -> list[dict[str, Any]]:
    """Return the messages to render.

    Args:
        source: the conversation.
        use: the tools that may be called.
        renders_tools: the template writes tools, calls and tool results itself.

    Raises:
        RequestError: for content that a text model cannot take.
    """
    if len(source.messages) > MAX_MESSAGES:
        raise RequestError(f"expected at most {MAX_MESSAGES} messages", parameter="messages")
    system = source.system_prompt
    if use and not renders_tools:
        section = tool_section(use)
        system = f"{system}\n\n{section}" if system else section
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.extend(_message(message, renders_tools=renders_tools) for message in source.messages)
    return messages


def _message(message: Mapping[str, Any], *, renders_tools: bool) -> dict[str, Any]:
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise RequestError("a message has a role that is not known", parameter="messages")
    text = _text(message.get("content"))
    calls = message.get("tool_calls") or ()
    if renders_tools:
        rendered: dict[str, Any] = {"role": role, "content": text}
        if calls:
            written_calls(calls)
            rendered["tool_calls"] = [_parsed_call(call) for call in calls]
        return rendered
    if calls:
        written = written_calls(calls)
        text = f"{text}\n{written}" if text else written
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
    return {"role": role, "content": text}


def _parsed_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Templates write `arguments | tojson`, so they want the object and not its text."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError as error:
        raise RequestError("a tool call's arguments are not JSON", parameter="messages") from error
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError("a message's content is not understood", parameter="messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text", "refusal"):
            raise RequestError("this model takes text content only", parameter="messages")
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise RequestError("a content part has no text", parameter="messages")
        texts.append(text)
    return "".join(texts)
