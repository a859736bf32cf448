"""What a caller holds: an answer as it came over HTTP, read into the parts a receipt commits to.

A receipt that verifies says that *some* answer was signed. This module reads the answer that the
caller was really shown, whole or streamed, so that the verifier can compare the two. It reads
OpenAI-shaped answers (chat, completions, responses, embeddings) and Open Inference Protocol ones
in JSON. It refuses anything it would have to guess about, and anything that a reader could be
shown although no receipt covers it: a member given twice, text behind the receipt, a message with
members of unknown meaning.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.appraisal.event_stream import read_events
from verispect.core.commitments import Part
from verispect.core.encoding import from_base64url
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import StreamBinding
from verispect.core.stream import StreamChain

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MEMBER: Final = "verispect"
PAYMENT_EVENT: Final = "verispect.payment"
"""The one event that may follow the receipt."""

_PAYMENT_MEMBERS: Final = {"type", "object", "choices", "payment", "payment_response"}
"""The member of an answer that carries the receipt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as the caller was shown it."""

    parts: Mapping[Part, Any]
    """Content to compare with what was committed to."""
    chunks: Sequence[bytes] | None = None
    """The data of every event before the one with the receipt; `None` for a whole answer."""
    receipt: bytes | None = None
    """The receipt that came with it, if it came whole."""
    absent: frozenset[Part] = frozenset()
    """Parts that it has a place for and does not hold."""
    model: str | None = None
    """The model's name in it; `None` where it names none."""
    finish_reasons: Sequence[str] | None = None
    """One per choice; `None` where not every choice shows one."""
    usage: Mapping[str, int] | None = None
    """In the statement's words; `None` where it shows none."""
    uncompared: Sequence[str] = ()
    """What it shows beside, and nothing here compares."""

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
            return _read_document(read_json(data))
        return _read_stream(data)
    except MalformedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _malformed("the answer is not of a shape known here") from error
    except (struct.error, OverflowError, binascii.Error) as error:
        raise _malformed("the answer holds a number of another type") from error


def read_json(data: bytes) -> Any:
    """Read JSON in which no object gives a member twice: readers would differ on its value.

    Raises:
        ValueError: for anything else.
    """
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)


def _unique_members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


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
    receipt = _receipt_of(document)
    if kind in ("chat.completion", "text_completion"):
        return _read_choices(document, receipt)
    if kind == "response":
        return Answer(
            _response_parts(document["output"]),
            receipt=receipt,
            absent=_no_calls(document["output"]),
            model=document.get("model"),
            usage=_usage(document, "input_tokens", "output_tokens"),
        )
    if kind == "list":
        items = sorted(document["data"], key=lambda item: item["index"])
        vectors: dict[Part, Any] = {Part.OUTPUT: [_vector(item["embedding"]) for item in items]}
        return Answer(vectors, receipt=receipt, model=document.get("model"))
    if "outputs" in document and "model_name" in document:
        outputs: dict[Part, Any] = {Part.OUTPUT: [*map(tensor_content, document["outputs"])]}
        return Answer(outputs, receipt=receipt, model=document["model_name"])
    raise _malformed("the answer is not of a shape known here")


def _read_choices(document: dict[str, Any], receipt: bytes | None) -> Answer:
    choices = sorted(document["choices"], key=lambda choice: choice["index"])
    calls: list[Any] = []
    if document["object"] == "text_completion":
        texts = [choice["text"] for choice in choices]
    else:
        texts = [_text_of_message(choice["message"]) for choice in choices]
        calls = [_calls(choice["message"].get("tool_calls") or []) for choice in choices]
    parts: dict[Part, Any] = {Part.OUTPUT: texts}
    if any(calls):
        parts[Part.TOOL_CALLS] = calls
    scored = any(choice.get("logprobs") for choice in choices)
    reasons = [choice.get("finish_reason") for choice in choices]
    return Answer(
        parts,
        receipt=receipt,
        absent=frozenset() if any(calls) else frozenset({Part.TOOL_CALLS}),
        model=document.get("model"),
        finish_reasons=reasons,
        usage=_usage(document, "prompt_tokens", "completion_tokens"),
        uncompared=["the log-probabilities shown: not compared"] if scored else (),
    )


_MESSAGE_MEMBERS: Final = {"role", "content", "tool_calls"}


def _text_of_message(message: dict[str, Any]) -> Any:
    given = {name for name, value in message.items() if value not in (None, [])}
    if not given <= _MESSAGE_MEMBERS:
        raise _malformed("a message holds what no receipt covers")
    content = message.get("content")
    return "" if content is None else content


def _usage(document: dict[str, Any], input_name: str, output_name: str) -> dict[str, int] | None:
    usage = document.get("usage")
    if usage is None:
        return None
    return {"input_tokens": usage[input_name], "output_tokens": usage[output_name]}


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
    said = [part for item in items if item["type"] == "message" for part in item["content"]]
    if any(part["type"] != "output_text" for part in said):
        raise _malformed("a message holds what no receipt covers")
    text = "".join(part["text"] for part in said)
    calls = [
        {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
        for item in items
        if item["type"] == "function_call"
    ]
    parts: dict[Part, Any] = {Part.OUTPUT: [text]}
    if calls:
        parts[Part.TOOL_CALLS] = [calls]
    return parts


_ITEM_KINDS: Final = {"message", "function_call"}


def _no_calls(items: list[dict[str, Any]]) -> frozenset[Part]:
    kinds = {item["type"] for item in items}
    if not kinds <= _ITEM_KINDS:
        raise _malformed("the answer holds an item that no receipt covers")
    return frozenset() if "function_call" in kinds else frozenset({Part.TOOL_CALLS})


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


def tensor_content(tensor: dict[str, Any]) -> list[Any]:
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
    receipt, is_paid = None, False
    for chunk in read_events(data):
        event = read_json(chunk)
        if receipt is not None:
            # What became of a payment is told last, since it follows from the receipt.
            if is_paid or not _is_payment(event):
                raise _malformed("an event comes after the one with the receipt")
            is_paid = True
            continue
        receipt = _receipt_of(event) or _receipt_of(event.get("response") or {})
        # The event that carries the receipt is the last one, and not part of the chain.
        if receipt is None:
            chunks.append(chunk)
        elif event.get("choices"):
            raise _malformed("the event with the receipt holds a part of the answer")
        events.append(event)
    if not events:
        raise _malformed("the answer is neither JSON nor a stream of events")
    is_response = str(events[0].get("type", "")).startswith("response.")
    parts = _response_stream_parts(events) if is_response else _stream_parts(events)
    absent = frozenset() if Part.TOOL_CALLS in parts else frozenset({Part.TOOL_CALLS})
    return Answer(parts, chunks, receipt, absent, model=_model_of(events[0]))


def _is_payment(event: dict[str, Any]) -> bool:
    """Tell whether an event says what became of a payment, and nothing of the answer."""
    return (
        event.keys() == _PAYMENT_MEMBERS
        and event["type"] == event["object"] == PAYMENT_EVENT
        and event["choices"] == []
    )


def _model_of(event: dict[str, Any]) -> Any:
    return event.get("model", (event.get("response") or {}).get("model"))


def _stream_parts(events: list[dict[str, Any]]) -> dict[Part, Any]:
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
    parts = {**_response_parts(items), Part.OUTPUT: [text]}
    whole = (events[-1].get("response") or {}).get("output") or []
    # The last event repeats everything, is what most callers read, and is not in the chain. Where
    # it says something else, both were shown, and so both must have been committed to.
    for part, content in (_response_parts(whole) if whole else {}).items():
        if parts.get(part) != content:
            parts[part] = [*parts.get(part, []), *content]
    return parts
