"""What a caller asked for, read from the request it sent, to compare with what the receipt says.

An operator that changes the temperature, drops a tool or puts a system prompt in front signs that
it did; only a comparison with the request shows it. Settings that were not sent are the model's
and the engine's to resolve, so they are not compared, but for those whose absence is a statement:
no system prompt, no tools, no response format, one choice, no stops, no bias.

Reads chat, completion, response and embedding requests and Open Inference Protocol ones. What of a
request cannot be compared is said so in the result.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from verispect.appraisal.policy import AssurancePolicy, expand, is_sum_of_presets
from verispect.appraisal.service_history import SERVICE_PARTS, SERVICE_PREFIX
from verispect.appraisal.transcript import MAX_ANSWER_BYTES, Answer, read_json, tensor_content
from verispect.appraisal.verifier import Expected
from verispect.core.commitments import Part
from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason

_SYSTEM_ROLES: Final = ("system", "developer")
_TEXT_PARTS: Final = ("text", "refusal")
_NOT_SENT: Final = frozenset({Part.SYSTEM_PROMPT, Part.TOOLS, Part.RESPONSE_FORMAT})
_RENAMED: Final = {
    "max_tokens": "maximum_tokens",
    "max_completion_tokens": "maximum_tokens",
    "max_output_tokens": "maximum_tokens",
}
_SAME_NAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "safety_identifier",
    "metadata",
    "echo",
    "best_of",
    "encoding_format",
    "dimensions",
)


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """A request in the words of the receipt."""

    parts: Mapping[Part, Any]
    absent: frozenset[Part] = frozenset()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    assurance: Digest | None = None
    uncompared: Sequence[str] = ()


def read_request(data: bytes) -> AskedRequest:
    """Read the body of a request into what its receipt must say.

    System and developer messages at the head are the system prompt, joined by an empty line.

    Raises:
        MalformedError: `malformed-transcript` or `too-large`.
    """
    if len(data) > MAX_ANSWER_BYTES:
        raise MalformedError("the request is too large", reason=Reason.TOO_LARGE)
    try:
        # A member that is null is one that was not sent.
        body = {name: value for name, value in read_json(data).items() if value is not None}
        return _read(body)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _malformed() from error
    except (struct.error, OverflowError) as error:
        raise _malformed() from error


def expect(
    request: AskedRequest | None,
    answer: Answer | None,
    *,
    inference_id: bytes,
    nonce: bytes | None,
    assurance: Digest | None = None,
) -> Expected:
    """Return what a receipt must say to be of this request and of this answer.

    Args:
        request: what was sent, where it is at hand.
        answer: what was shown, where it is at hand.
        inference_id: the inference that the receipt names.
        nonce: the nonce that was sent.
        assurance: digest of the policy that was asked for, where the request's body does not say.
    """
    parts = {**(request.parts if request else {}), **(answer.parts if answer else {})}
    absent = (request.absent if request else frozenset()) | (
        answer.absent if answer else frozenset()
    )
    models = {each.model for each in (request, answer) if each is not None and each.model}
    asked_for = request.assurance if request else None
    return Expected(
        nonce=nonce,
        parts=parts,
        absent=absent,
        parameters=request.parameters if request else {},
        models=frozenset(models),
        assurance=asked_for or assurance,
        finish_reasons=answer.finish_reasons if answer else None,
        usage=answer.usage if answer else None,
        stream=answer.stream(inference_id) if answer else None,
        uncompared=[
            *(request.uncompared if request else ()),
            *(answer.uncompared if answer else ()),
        ],
    )


def _malformed() -> MalformedError:
    return MalformedError(
        "the request is not of a shape known here", reason=Reason.MALFORMED_TRANSCRIPT
    )


def _read(body: dict[str, Any]) -> AskedRequest:
    if isinstance(body.get("inputs"), list):
        return _read_tensors(body["inputs"])
    word = body.get("assurance")
    asked = _asked_policy(word)
    uncompared: list[str] = []
    if "messages" in body:
        parts = _chat_parts(body)
        parameters = {**_choice_settings(body), "top_logprobs": _chat_logprobs(body)}
        absent = _NOT_SENT | {Part.ATTACHMENTS}
    elif "prompt" in body:
        parts = {Part.MESSAGES: [{"prompt": body["prompt"]}]}
        parameters = {**_choice_settings(body), "top_logprobs": body.get("logprobs")}
        absent = _NOT_SENT | {Part.ATTACHMENTS}
    else:
        parts, parameters = {}, {}
        absent = _absent_beside_input(body)
        uncompared.append("the input that was sent: not compared")
    if body["model"].startswith(SERVICE_PREFIX):
        absent -= set(SERVICE_PARTS)  # The service's own, compared with its published version.
    return AskedRequest(
        parts,
        frozenset(absent - parts.keys()),
        {**_settings(body), **parameters},
        body["model"],
        asked.digest() if asked else None,
        uncompared,
    )


def _asked_policy(word: Any) -> AssurancePolicy | None:
    if isinstance(word, dict):
        return AssurancePolicy.from_document(word)
    return expand(word) if isinstance(word, str) and is_sum_of_presets(word) else None


def _chat_parts(body: Mapping[str, Any]) -> dict[Part, Any]:
    messages = body["messages"]
    system = list(takewhile(lambda each: each["role"] in _SYSTEM_ROLES, messages))
    rest = messages[len(system) :]
    parts: dict[Part, Any] = {Part.MESSAGES: rest}
    if system:
        parts[Part.SYSTEM_PROMPT] = "\n\n".join(_text(each["content"]) for each in system)
    attached = [
        part
        for message in rest
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] not in _TEXT_PARTS
    ]
    if attached:
        parts[Part.ATTACHMENTS] = attached
    if "tools" in body:
        parts[Part.TOOLS] = {
            "tools": body["tools"],
            "tool_choice": body.get("tool_choice", "auto"),
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
        }
    shape = body.get("response_format", {"type": "text"})
    if shape["type"] != "text":
        parts[Part.RESPONSE_FORMAT] = shape
    return parts


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _absent_beside_input(body: Mapping[str, Any]) -> frozenset[Part]:
    # An embedding and a response are asked for in the same words; both lack these.
    if not isinstance(body["input"], str) or "previous_response_id" in body:
        return frozenset()
    given = {Part.SYSTEM_PROMPT: "instructions", Part.TOOLS: "tools", Part.RESPONSE_FORMAT: "text"}
    return frozenset(part for part, name in given.items() if name not in body)


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were sent, under the names they are committed to."""
    settings = {name: body[name] for name in _SAME_NAME if name in body}
    return settings | {_RENAMED[name]: body[name] for name in _RENAMED if name in body}


def _choice_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    stop = body.get("stop", [])
    return {
        "n": body.get("n", 1),
        "stop": [stop] if isinstance(stop, str) else stop,
        "logit_bias": body.get("logit_bias", {}),
    }


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    count: int = body.get("top_logprobs", 0)
    return count if body.get("logprobs") else None


def _read_tensors(inputs: list[dict[str, Any]]) -> AskedRequest:
    if len(inputs) != 1:
        # They are committed to in the order of the model, which a request does not say.
        return AskedRequest({}, uncompared=["the tensors that were sent: not compared"])
    return AskedRequest({Part.EFFECTIVE_INPUT: [tensor_content(inputs[0])]})
