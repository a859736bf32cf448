"""What a caller holds: an answer as it came over HTTP, read into the parts a receipt commits to.

A receipt that verifies says that *some* answer was signed. This module reads the answer that the
caller was really shown, whole or streamed, so that the verifier can compare the two. It reads
OpenAI-shaped answers (chat, completions, responses, embeddings) and Open Inference Protocol ones
in JSON. It refuses anything it would have to guess about.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.commitments import Part
from verispect.core.encoding import from_base64url
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import StreamBinding
from verispect.core.stream import StreamChain

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_SYSTEM_ROLES: Final = ("system", "developer")
MEMBER: Final = "verispect"
"""The member of an answer that carries the receipt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as the caller was shown it."""

    parts: Mapping[Part, Any]
    """Content to compare with what was committed to."""
    chunks: Sequence[bytes] | None
    """The data of every event before the one with the receipt; `None` for a whole answer."""
    receipt: bytes | None
    """The receipt that came with it, if it came whole."""

    def stream(self, inference_id: bytes) -> StreamBinding | None:
        """Return count and head of the chain over the chunks that were shown."""
        if self.chunks is None:
            return None
        chain = StreamChain(inference_id)
        for chunk in self.chunks:
            chain.absorb(chunk)
        return chain.binding()


def read_answer(data: bytes) -> Answer:
    """Read the body of an answer: a JSON document, or a server-sent event stream.

    Raises:
        MalformedError: `malformed-transcript` or `too-large`.
    """
    if len(data) > MAX_ANSWER_BYTES:
        raise MalformedError("the answer is too large", reason=Reason.TOO_LARGE)
    try:
        if data.lstrip()[:1] == b"{":
            return _read_document(json.loads(data))
        return _read_stream(data)
    except MalformedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _malformed("the answer is not of a shape known here") from error
    except (struct.error, OverflowError, binascii.Error) as error:
        raise _malformed("the answer holds a number of another type") from error


def read_request(data: bytes) -> dict[Part, Any]:
    """Read the body of a chat request into the parts that its receipt must commit to.

    System and developer messages at the head are the system prompt, joined by an empty line.

    Raises:
        MalformedError: `malformed-transcript` or `too-large`.
    """
    if len(data) > MAX_ANSWER_BYTES:
        raise MalformedError("the request is too large", reason=Reason.TOO_LARGE)
    try:
        messages = json.loads(data)["messages"]
        system = list(itertools.takewhile(lambda each: each["role"] in _SYSTEM_ROLES, messages))
        parts: dict[Part, Any] = {Part.MESSAGES: messages[len(system) :]}
        if system:
            parts[Part.SYSTEM_PROMPT] = "\n\n".join(_text(each["content"]) for each in system)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _malformed("the request is not a chat request") from error
    return parts


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TRANSCRIPT)


def _receipt_of(document: Mapping[str, Any]) -> bytes | None:
    member = document.get(MEMBER)
    if member is not None:
        return from_base64url(member["receipt"])
    text = document.get("parameters", {}).get("verispect_receipt")
    return None if text is None else from_base64url(text)


def _read_document(document: dict[str, Any]) -> Answer:
    kind = document.get("object")
    if kind == "chat.completion":
        parts = _chat_parts(document["choices"])
    elif kind == "text_completion":
        choices = sorted(document["choices"], key=lambda choice: choice["index"])
        parts = {Part.OUTPUT: [choice["text"] for choice in choices]}
    elif kind == "response":
        parts = _response_parts(document["output"])
    elif kind == "list":
        vectors = sorted(document["data"], key=lambda item: item["index"])
        parts = {Part.OUTPUT: [_vector(item["embedding"]) for item in vectors]}
    elif "outputs" in document and "model_name" in document:
        parts = {Part.OUTPUT: [_tensor(tensor) for tensor in document["outputs"]]}
    else:
        raise _malformed("the answer is not of a shape known here")
    return Answer(parts, None, _receipt_of(document))


def _chat_parts(choices: list[dict[str, Any]]) -> dict[Part, Any]:
    messages = [choice["message"] for choice in sorted(choices, key=lambda item: item["index"])]
    parts: dict[Part, Any] = {Part.OUTPUT: [message.get("content") or "" for message in messages]}
    calls = [_calls(message.get("tool_calls") or []) for message in messages]
    if any(calls):
        parts[Part.TOOL_CALLS] = calls
    return parts


def _calls(calls: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        }
        for call in calls
    ]


def _response_parts(items: list[dict[str, Any]]) -> dict[Part, Any]:
    text = "".join(
        part["text"]
        for item in items
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
    calls = [
        {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
        for item in items
        if item["type"] == "function_call"
    ]
    parts: dict[Part, Any] = {Part.OUTPUT: [text]}
    if calls:
        parts[Part.TOOL_CALLS] = [calls]
    return parts


def _vector(embedding: Any) -> bytes:
    if isinstance(embedding, str):
        return base64.b64decode(embedding, validate=True)
    return struct.pack(f"<{len(embedding)}f", *embedding)


_ELEMENT_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}


def _tensor(tensor: dict[str, Any]) -> list[Any]:
    """Return `[name, datatype, shape, bytes]` as it is committed to."""
    flat: list[Any] = []
    _flatten(tensor["data"], flat)
    datatype = tensor["datatype"]
    if datatype == "BYTES":
        texts = [text.encode() for text in flat]
        data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        data = struct.pack(f"<{len(flat)}{_ELEMENT_FORMATS[datatype]}", *flat)
    return [tensor["name"], datatype, tensor["shape"], data]


def _flatten(data: Any, flat: list[Any]) -> None:
    for item in data:
        if isinstance(item, list):
            _flatten(item, flat)
        else:
            flat.append(item)


# -- Streams --------------------------------------------------------------------------------------


def _read_stream(data: bytes) -> Answer:
    chunks: list[bytes] = []
    events: list[dict[str, Any]] = []
    receipt = None
    for line in data.split(b"\n"):
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        chunk = line.removeprefix(b"data: ")
        event = json.loads(chunk)
        receipt = _receipt_of(event) or _receipt_of(event.get("response") or {})
        if receipt is not None:
            # The event that carries the receipt is the last one, and not part of the chain.
            events.append(event)
            break
        chunks.append(chunk)
        events.append(event)
    if not events:
        raise _malformed("the answer is neither JSON nor a stream of events")
    return Answer(_stream_parts(events), chunks, receipt)


def _stream_parts(events: list[dict[str, Any]]) -> dict[Part, Any]:
    if str(events[0].get("type", "")).startswith("response."):
        return _response_stream_parts(events)
    texts: dict[int, list[str]] = {}
    calls: dict[int, dict[int, dict[str, str]]] = {}
    for event in events:
        for choice in event.get("choices", []):
            index = choice["index"]
            delta = choice.get("delta", choice)
            piece = delta.get("content") or delta.get("text") or ""
            texts.setdefault(index, []).append(piece)
            for call in delta.get("tool_calls") or []:
                _add_call(calls.setdefault(index, {}), call)
    order = sorted(texts)
    parts: dict[Part, Any] = {Part.OUTPUT: ["".join(texts[index]) for index in order]}
    if calls:
        parts[Part.TOOL_CALLS] = [
            [calls[index][number] for number in sorted(calls[index])] if index in calls else []
            for index in order
        ]
    return parts


def _add_call(calls: dict[int, dict[str, str]], call: dict[str, Any]) -> None:
    whole = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
    function = call.get("function") or {}
    whole["id"] += call.get("id") or ""
    whole["name"] += function.get("name") or ""
    whole["arguments"] += function.get("arguments") or ""


def _response_stream_parts(events: list[dict[str, Any]]) -> dict[Part, Any]:
    text = "".join(
        event["delta"] for event in events if event["type"] == "response.output_text.delta"
    )
    items = [
        event["item"]
        for event in events
        if event["type"] == "response.output_item.done" and event["item"]["type"] != "message"
    ]
    parts = _response_parts(items)
    return {**parts, Part.OUTPUT: [text]}
