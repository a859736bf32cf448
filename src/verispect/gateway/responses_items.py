"""Items of `/v1/responses` and the conversation they stand for.

A conversation is a list of items (messages, function calls and their outputs). Engines take
messages, so the items become messages in one fixed way: a message item is a message, function
calls join the assistant message before them, and an output is a `tool` message. System and
developer messages at the head join the system prompt; later ones stay where they are.

Item kinds that only mean something beside a built-in tool, reasoning items and references to
items are refused by name: an item that was silently dropped would change the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.core.errors import RequestError

MAX_ITEMS: Final = 2048
"""Items of one conversation, those of `previous_response_id` included."""

MAX_CONTENT_PARTS: Final = 256
"""Content parts of one message."""

_ROLES: Final = ("user", "assistant", "system", "developer")
_SYSTEM_ROLES: Final = ("system", "developer")
_TEXT_PARTS: Final = ("input_text", "output_text", "text")
_ATTACHMENT_FIELDS: Final = {
    "input_image": ("image_url", "file_id", "detail"),
    "input_file": ("file_data", "file_id", "file_url", "filename"),
    "input_audio": ("input_audio",),
}
_PART_FIELDS: Final = {
    **_ATTACHMENT_FIELDS,
    # Annotations and log-probabilities come back with our own output; they say nothing new.
    **dict.fromkeys(_TEXT_PARTS, ("text", "annotations", "logprobs")),
    "refusal": ("refusal",),
}
_ITEM_FIELDS: Final = {
    "message": {"type", "id", "role", "content", "status", "phase"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "status"},
    "function_call_output": {"type", "id", "call_id", "output", "status"},
}


@dataclass(slots=True)
class Conversation:
    """Items resolved into what an engine takes."""

    system_texts: list[str] = field(default_factory=list)
    """System and developer messages at the head, in order."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)


def read_items(value: str | Sequence[Any]) -> list[dict[str, Any]]:
    """Return the `input` of a request as whole items, each with an id.

    Args:
        value: text, which is one user message, or a list of items.

    Raises:
        RequestError: `invalid-request` naming the item that is ill-formed or not supported.
    """
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not items:
        raise RequestError("expected at least one input item", parameter="input")
    if len(items) > MAX_ITEMS:
        raise RequestError(
            f"expected at most {MAX_ITEMS} input items, got {len(items)}", parameter="input"
        )
    return [_read_item(item, f"input[{index}]") for index, item in enumerate(items)]


def to_conversation(items: Sequence[Mapping[str, Any]]) -> Conversation:
    """Return the messages that `items` stand for.

    Args:
        items: from `read_items`, or the output of a stored response.

    Raises:
        RequestError: `invalid-request` for an output without its call, or too many items.
    """
    if len(items) > MAX_ITEMS:
        raise RequestError(
            f"expected at most {MAX_ITEMS} items in a conversation", parameter="input"
        )
    conversation = Conversation()
    called: set[str] = set()
    for item in items:
        match item["type"]:
            case "message":
                _add_message(conversation, item)
            case "function_call":
                called.add(item["call_id"])
                _add_call(conversation, item)
            case _:
                if item["call_id"] not in called:
                    raise RequestError(
                        "a function call output names a call that is not in the conversation",
                        parameter="input",
                    )
                conversation.messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": item["call_id"],
                        "content": _plain_text(item["output"]),
                    }
                )
    return conversation


def message_item(identifier: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the output item of text by the model."""
    return {
        "id": identifier,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    """Return one part of output text."""
    return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}


# -- Reading ------------------------------------------------------------------------------------


def _read_item(item: Any, path: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise RequestError("expected an object", parameter=path)
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind == "item_reference" or (kind is None and set(item) == {"id"}):
        raise RequestError(
            "item references are not supported; send the item itself or previous_response_id",
            parameter=path,
        )
    if not isinstance(kind, str):
        raise RequestError("expected a string", parameter=f"{path}.type")
    if kind not in _ITEM_FIELDS:
        raise RequestError(f"input items of type {kind[:64]!r} are not supported", parameter=path)
    for name in item:
        if name not in _ITEM_FIELDS[kind] and item[name] is not None:
            raise RequestError("unknown field of an input item", parameter=f"{path}.{name[:64]}")
    if kind == "message":
        return _read_message(item, path)
    if kind == "function_call":
        return {
            "id": _item_id(item, "fc"),
            "type": kind,
            "status": "completed",
            "call_id": _string(item, "call_id", path),
            "name": _string(item, "name", path),
            "arguments": _string(item, "arguments", path),
        }
    return {
        "id": _item_id(item, "fco"),
        "type": kind,
        "status": "completed",
        "call_id": _string(item, "call_id", path),
        "output": _read_output(item.get("output"), f"{path}.output"),
    }


def _read_message(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    role = _string(item, "role", path)
    if role not in _ROLES:
        raise RequestError(f"expected one of {', '.join(_ROLES)}", parameter=f"{path}.role")
    kind = "output_text" if role == "assistant" else "input_text"
    content = item.get("content")
    if isinstance(content, str):
        parts = [_text(kind, content)]
    else:
        parts = _read_parts(content, f"{path}.content")
    if role != "user" and any(part["type"] in _ATTACHMENT_FIELDS for part in parts):
        raise RequestError("only user messages may hold attachments", parameter=f"{path}.content")
    if role != "assistant" and any(part["type"] == "refusal" for part in parts):
        raise RequestError(
            "only assistant messages may hold a refusal", parameter=f"{path}.content"
        )
    return {
        "id": _item_id(item, "msg"),
        "type": "message",
        "status": "completed",
        "role": role,
        "content": parts,
    }


def _read_output(value: Any, path: str) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        return value
    parts = _read_parts(value, path)
    if any(part["type"] not in _TEXT_PARTS for part in parts):
        raise RequestError("a function's output must be text", parameter=path)
    return parts


def _read_parts(value: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RequestError("expected text or a list of content parts", parameter=path)
    if len(value) > MAX_CONTENT_PARTS:
        raise RequestError(f"expected at most {MAX_CONTENT_PARTS} parts", parameter=path)
    return [_read_part(part, f"{path}[{index}]") for index, part in enumerate(value)]


def _read_part(part: Any, path: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise RequestError("expected an object", parameter=path)
    kind = _string(part, "type", path)
    allowed = _PART_FIELDS.get(kind)
    if allowed is None:
        raise RequestError(f"content parts of type {kind[:64]!r} are not supported", parameter=path)
    for name in part:
        if name != "type" and name not in allowed and part[name] is not None:
            raise RequestError("unknown field of a content part", parameter=f"{path}.{name[:64]}")
    if kind in _TEXT_PARTS:
        return _text(kind, _string(part, "text", path))
    if kind == "refusal":
        return {"type": kind, "refusal": _string(part, "refusal", path)}
    return dict(part)


def _text(kind: str, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, "text": text}
    if kind == "output_text":
        part["annotations"] = []
    return part


def _string(container: Mapping[str, Any], name: str, path: str) -> str:
    value = container.get(name)
    if not isinstance(value, str):
        raise RequestError("expected a string", parameter=f"{path}.{name}")
    return value


def _item_id(item: Mapping[str, Any], prefix: str) -> str:
    given = item.get("id")
    return given if isinstance(given, str) and 0 < len(given) <= 64 else _new_id(prefix)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


# -- Converting ---------------------------------------------------------------------------------


def _add_message(conversation: Conversation, item: Mapping[str, Any]) -> None:
    role, parts = item["role"], item["content"]
    if role in _SYSTEM_ROLES and not conversation.messages:
        conversation.system_texts.append(_plain_text(parts))
        return
    attachments = [_to_attachment(part) for part in parts if part["type"] in _ATTACHMENT_FIELDS]
    if not attachments:
        conversation.messages.append({"role": role, "content": _plain_text(parts)})
        return
    conversation.attachments.extend(attachments)
    content = [
        _to_attachment(part)
        if part["type"] in _ATTACHMENT_FIELDS
        else {"type": "text", "text": part["text"]}
        for part in parts
    ]
    conversation.messages.append({"role": role, "content": content})


def _add_call(conversation: Conversation, item: Mapping[str, Any]) -> None:
    call = {
        "id": item["call_id"],
        "type": "function",
        "function": {"name": item["name"], "arguments": item["arguments"]},
    }
    last = conversation.messages[-1] if conversation.messages else None
    if last is not None and last["role"] == "assistant":
        last.setdefault("tool_calls", []).append(call)
        return
    conversation.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _plain_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        part["refusal"] if part["type"] == "refusal" else part["text"] for part in content
    )


def _to_attachment(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part in the form of `/v1/chat/completions`, which engines take."""
    match part["type"]:
        case "input_image":
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            if part.get("file_id") is not None:
                image["file_id"] = part["file_id"]
            return {
                "type": "image_url",
                "image_url": {name: value for name, value in image.items() if value is not None},
            }
        case "input_file":
            return {
                "type": "file",
                "file": {name: value for name, value in part.items() if name != "type"},
            }
        case _:
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
