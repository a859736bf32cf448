"""What an OpenAI-compatible upstream sends back, read strictly: server-sent events into deltas.

Everything here comes from a server that we do not trust. Sizes are bounded, every member that is
used is checked for its type, and a stream that ends before `[DONE]` is a failure. An upstream's
own error text is never passed on: it can quote the prompt.

This module refuses to do I/O; it is fed bytes and yields deltas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from verispect.core.errors import EngineError, Reason
from verispect.engines.interface import Delta, TokenLogprob, ToolCall

MAX_LINE_BYTES: Final = 1024 * 1024
"""Upper limit of one line of an event stream."""

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""Upper limit of the data of one event."""

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""Upper limit of a whole response."""

MAX_TOOL_CALLS: Final = 128
"""Upper limit of the tool calls in one answer."""

MAX_REPORTED_CHARACTERS: Final = 256
"""Upper limit of what an upstream may report as its model, response id or fingerprint."""

MAX_TOKENS: Final = (1 << 53) - 1
"""Upper limit of a token count."""

_FINISH_REASONS: Final = ("stop", "length", "tool_calls", "content_filter")


def fail(what: str) -> NoReturn:
    """Raise the error of an upstream that broke the protocol."""
    raise EngineError(f"upstream {what}", reason=Reason.UPSTREAM_FAILED)


class EventReader:
    """Splits bytes into the data of server-sent events (WHATWG HTML section 9.2.6)."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._total = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `chunk` completes.

        Raises:
            EngineError: `upstream-failed` beyond a limit.
        """
        self._total += len(chunk)
        if self._total > MAX_RESPONSE_BYTES:
            fail(f"sent more than {MAX_RESPONSE_BYTES} bytes")
        self._rest += chunk
        lines: list[bytes] = []
        if b"\n" in chunk:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        for line in lines:
            if len(line) > MAX_LINE_BYTES:
                fail(f"sent a line of more than {MAX_LINE_BYTES} bytes")
            data = self._line(line.removesuffix(b"\r"))
            if data is not None:
                yield data
        if len(self._rest) > MAX_LINE_BYTES:
            fail(f"sent a line of more than {MAX_LINE_BYTES} bytes")

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name != b"data":
            return None  # comments, and fields that carry nothing of ours
        value = value.removeprefix(b" ")
        self._data_bytes += len(value) + 1
        if self._data_bytes > MAX_EVENT_BYTES:
            fail(f"sent an event of more than {MAX_EVENT_BYTES} bytes")
        self._data.append(value)
        return None


def parse_json(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        EngineError: `upstream-failed` for anything else.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=lambda _: fail("sent NaN"))
    except (ValueError, RecursionError):
        # Not chained: the error quotes the upstream's bytes, which can quote the prompt.
        value = None
    if not isinstance(value, dict):
        fail("sent something that is not a JSON object")
    if value.get("error") is not None:
        fail("reported an error")
    return value


@dataclass(slots=True)
class _CallParts:
    identifier: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Assembler:
    """Turns the chunks of one streamed completion into deltas.

    Args:
        endpoint_host: committed with what the upstream reports.
        chat: whether the chunks are those of chat completions.
    """

    def __init__(self, *, endpoint_host: str, chat: bool) -> None:
        self._chat = chat
        self._calls: dict[int, _CallParts] = {}
        self._finish_reason: str | None = None
        self._usage: tuple[int, int] | None = None
        self._reported: dict[str, Any] = {
            "endpoint_host": endpoint_host,
            "reported_model": None,
            "response_id": None,
            "system_fingerprint": None,
            "created": None,
        }

    def absorb(self, chunk: Mapping[str, Any]) -> Delta | None:
        """Return what one chunk adds, if it adds text.

        Raises:
            EngineError: `upstream-failed` for a chunk that breaks the protocol.
        """
        self._note(chunk)
        usage = chunk.get("usage")
        if usage is not None:
            self._usage = read_usage(usage)
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            fail("sent a chunk without its list of one choice")
        if not choices:
            return None
        choice = choices[0]
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            fail("sent a choice that was not asked for")
        text = self._chat_text(choice) if self._chat else _text(choice, "text")
        logprobs = self._logprobs(choice.get("logprobs"))
        reason = choice.get("finish_reason")
        if (text or logprobs) and self._finish_reason is not None:
            fail("sent text after the end")
        if reason is not None:
            if reason not in _FINISH_REASONS:
                fail("ended for a reason that is not known")
            self._finish_reason = reason
        return Delta(text=text, logprobs=logprobs) if text or logprobs else None

    def finish(self) -> Delta:
        """Return the last delta.

        Raises:
            EngineError: `upstream-failed` where the stream had no proper end.
        """
        if self._finish_reason is None:
            fail("ended its stream without a finish reason")
        calls = [
            ToolCall(parts.identifier or f"call_{index}", parts.name, "".join(parts.arguments))
            for index, parts in sorted(self._calls.items())
        ]
        if any(not call.name for call in calls):
            fail("sent a tool call without a name")
        prompt_tokens, completion_tokens = self._usage or (0, 0)
        return Delta(
            tool_calls=calls,
            finish_reason=self._finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            upstream={**self._reported, "usage_reported": self._usage is not None},
        )

    def _note(self, chunk: Mapping[str, Any]) -> None:
        """Keep what the upstream says of itself; it must not change within one answer."""
        for member, ours in (
            ("model", "reported_model"),
            ("id", "response_id"),
            ("system_fingerprint", "system_fingerprint"),
        ):
            value = chunk.get(member)
            if value is None or value == "":
                continue
            if not isinstance(value, str) or len(value) > MAX_REPORTED_CHARACTERS:
                fail(f"reported a {member} that is not a short text")
            if self._reported[ours] is None:
                self._reported[ours] = value
            elif self._reported[ours] != value:
                fail(f"changed its {member} within one answer")
        created = chunk.get("created")
        if self._reported["created"] is None and type(created) is int:
            self._reported["created"] = created if 0 <= created <= MAX_TOKENS else None

    def _chat_text(self, choice: Mapping[str, Any]) -> str:
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            fail("sent a delta that is not an object")
        calls = delta.get("tool_calls") or []
        if not isinstance(calls, list):
            fail("sent tool calls that are not a list")
        for call in calls:
            self._add_call(call)
        # A refusal is what the model said instead of content.
        return _text(delta, "content") + _text(delta, "refusal")

    def _add_call(self, call: Any) -> None:
        if not isinstance(call, dict):
            fail("sent a tool call that is not an object")
        index = call.get("index", 0)
        if type(index) is not int or not 0 <= index < MAX_TOOL_CALLS:
            fail(f"sent more than {MAX_TOOL_CALLS} tool calls")
        parts = self._calls.setdefault(index, _CallParts())
        function = call.get("function") or {}
        if not isinstance(function, dict):
            fail("sent a tool call without a function")
        parts.identifier = parts.identifier or _text(call, "id")
        parts.name += _text(function, "name")
        parts.arguments.append(_text(function, "arguments"))
        if max(len(parts.identifier), len(parts.name)) > MAX_REPORTED_CHARACTERS:
            fail("sent a tool call with an overlong name")

    def _logprobs(self, value: Any) -> list[TokenLogprob]:
        if value is None:
            return []
        if not isinstance(value, dict):
            fail("sent log-probabilities that are not an object")
        if not self._chat:
            return _completion_logprobs(value)
        return [
            _chat_logprob(item, [_alternative(other) for other in _list(item, "top_logprobs")])
            for item in _list(value, "content")
        ]


def read_usage(usage: Any) -> tuple[int, int]:
    """Return prompt and completion tokens of a `usage` object.

    Raises:
        EngineError: `upstream-failed` where they are not counts.
    """
    if not isinstance(usage, dict):
        fail("sent usage that is not an object")
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens") or 0)
    for count in counts:
        if type(count) is not int or not 0 <= count <= MAX_TOKENS:
            fail("sent usage that is not a count")
    return counts[0], counts[1]  # type: ignore[return-value]


def _text(holder: Mapping[str, Any], member: str) -> str:
    value = holder.get(member)
    if value is None:
        return ""
    if not isinstance(value, str):
        fail(f"sent {member} that is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        fail(f"sent {member} with a lone surrogate")
    return value


def _list(holder: Any, member: str) -> list[Any]:
    if not isinstance(holder, dict):
        fail("sent a log-probability that is not an object")
    value = holder.get(member) or []
    if not isinstance(value, list):
        fail(f"sent {member} that is not a list")
    return value


def number(value: Any) -> float:
    """Return a finite number.

    Raises:
        EngineError: `upstream-failed` for anything else.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        fail("sent a number that is not finite")
    return float(value)


def read_vectors(data: Any, count: int) -> list[list[float]]:
    """Return the `count` normalised vectors of an embeddings answer, in the order of the inputs.

    Raises:
        EngineError: `upstream-failed` where they are not that.
    """
    if not isinstance(data, list) or len(data) != count:
        fail("sent another number of embeddings than asked for")
    vectors: dict[int, list[float]] = {}
    for item in data:
        if not isinstance(item, dict) or not isinstance(item.get("embedding"), list):
            fail("sent an embedding that is not a list")
        index = item.get("index")
        if type(index) is not int or not 0 <= index < count or index in vectors:
            fail("sent embeddings with wrong indices")
        vectors[index] = _normalised([number(value) for value in item["embedding"]])
    if len({len(vector) for vector in vectors.values()}) > 1:
        fail("sent embeddings of unequal length")
    return [vectors[index] for index in range(count)]


def _normalised(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        fail("sent an embedding without a direction")
    # One that is normalised already is passed on as it came.
    return vector if abs(length - 1) < 1e-4 else [value / length for value in vector]


def _alternative(item: Any) -> tuple[str, int | None, float]:
    if not isinstance(item, dict):
        fail("sent a log-probability that is not an object")
    return _text(item, "token"), None, number(item.get("logprob"))


def _chat_logprob(item: Any, alternatives: list[tuple[str, int | None, float]]) -> TokenLogprob:
    token, _, logprob = _alternative(item)
    exact = item.get("bytes")
    if exact is not None:
        try:
            exact = bytes(exact) if isinstance(exact, list) else fail("sent bytes not as a list")
        except (ValueError, TypeError):
            fail("sent bytes that are not bytes")
    return TokenLogprob(token, None, logprob, alternatives, exact)


def _completion_logprobs(value: Mapping[str, Any]) -> list[TokenLogprob]:
    tokens, scores = _list(value, "tokens"), _list(value, "token_logprobs")
    others = _list(value, "top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(scores) == len(others):
        fail("sent log-probabilities of unequal length")
    result: list[TokenLogprob] = []
    for token, score, other in zip(tokens, scores, others, strict=True):
        if not isinstance(token, str) or not isinstance(other or {}, dict):
            fail("sent log-probabilities of the wrong type")
        ranked: list[tuple[str, int | None, float]] = [
            (name, None, number(logprob)) for name, logprob in (other or {}).items()
        ]
        ranked.sort(key=lambda item: -item[2])
        result.append(TokenLogprob(token, None, number(score), ranked))
    return result
