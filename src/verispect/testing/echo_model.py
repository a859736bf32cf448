"""A fake language model for protocol tests: it says words of the prompt back, deterministically.

It is no model and no engine: it computes nothing, its log-probabilities are invented, and its
identity says `fake`. It refuses images and prompts beyond its small context, as a real one would.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import (
    ChatInput,
    Delta,
    EngineIdentity,
    Lane,
    PreparedInput,
    PromptInput,
    Sampling,
    TokenLogprob,
    ToolCall,
)

CONTEXT_TOKENS: Final = 8192
_DIMENSIONS: Final = 8
_BY_TYPE: Final[Mapping[str, Any]] = {
    "string": "echo",
    "integer": 7,
    "number": 0.5,
    "boolean": True,
    "array": [],
    "null": None,
}


@dataclass(slots=True)
class EchoLanguageModel:
    """A fake `LanguageModel`; a token is one character, a delta one word.

    It calls a tool when `tool_choice` demands it, or when the last message has the word `call`
    (`call all`: every tool, where parallel calls are allowed). Otherwise it answers with the words
    of the last message, rotated by the seed.
    """

    lane: Lane = Lane.THROUGHPUT
    pause_seconds: float = 0.0
    """Between two deltas."""
    fail_after: int | None = None
    """Raise `engine-failed` in place of the delta with this number, counted from 0."""
    stall_after: int | None = None
    """Never come back in place of the delta with this number."""
    running: int = 0
    """Generations at work now."""
    started: int = 0
    """Generations since the beginning."""
    closed: bool = False

    @property
    def identity(self) -> EngineIdentity:
        """An engine that nobody can take for a real one."""
        return EngineIdentity("fake-echo", "0", None, "fake", {"fake": True})

    def resolve(self, sampling: Sampling, *, prompt_tokens: int) -> Sampling:
        """Fill in defaults; refuse more tokens than the context holds."""
        room = CONTEXT_TOKENS - prompt_tokens
        wanted = sampling.maximum_tokens if sampling.maximum_tokens is not None else min(256, room)
        if not 0 <= wanted <= room:
            raise RequestError(
                f"expected at most {room} tokens to generate", parameter="max_tokens"
            )
        defaults: dict[str, Any] = {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": 0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        missing = {
            name: value for name, value in defaults.items() if getattr(sampling, name) is None
        }
        resolved = replace(sampling, maximum_tokens=wanted, **missing)
        if resolved.seed is None or not -(2**63) <= resolved.seed < 2**63:
            raise RequestError("the seed must fit in 64 bits", parameter="seed")
        return resolved

    async def prepare(self, source: ChatInput | PromptInput) -> PreparedInput:
        """Render the conversation one message a line."""
        if isinstance(source, PromptInput):
            text = source.prompt if isinstance(source.prompt, str) else _decode(source.prompt)
            return _prepared(text, {"last": text})
        lines = [] if source.system_prompt is None else [f"system: {source.system_prompt}"]
        lines += [f"{message['role']}: {_text_of(message)}" for message in source.messages]
        tools = [tool["function"]["name"] for tool in source.tools]
        last = _text_of(source.messages[-1]) if source.messages else ""
        constraints = {
            "last": last,
            "calls": _calls(source, tools, last),
            "format": source.response_format,
        }
        if tools:
            lines.insert(0, "tools: " + ", ".join(tools))
        return _prepared("\n".join(lines), constraints)

    def finalize(self, prepared: PreparedInput, sampling: Sampling) -> PreparedInput:  # noqa: ARG002
        """Return `prepared`, as a local engine does."""
        return prepared

    async def generate(self, prepared: PreparedInput, sampling: Sampling) -> AsyncIterator[Delta]:
        """Yield the answer word by word."""
        self.running += 1
        self.started += 1
        try:
            for number, delta in enumerate(_answer(prepared, sampling)):
                if number == self.fail_after:
                    raise EngineError("the fake engine failed", reason=Reason.ENGINE_FAILED)
                if number == self.stall_after:
                    await asyncio.Event().wait()
                await asyncio.sleep(self.pause_seconds)
                yield delta
        finally:
            self.running -= 1

    async def score(self, prepared: PreparedInput, *, top_logprobs: int) -> Sequence[TokenLogprob]:
        """Return an invented log-probability per character but the first."""
        return [_logprob(token, top_logprobs) for token in prepared.record["text"][1:]]

    async def embed(
        self, inputs: Sequence[str | Sequence[int]]
    ) -> tuple[Sequence[Sequence[float]], int]:
        """Return a vector per input, made from its digest."""
        texts = [item if isinstance(item, str) else _decode(item) for item in inputs]
        return [_vector(text) for text in texts], sum(map(len, texts))

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


def _prepared(text: str, constraints: Mapping[str, Any]) -> PreparedInput:
    if len(text) > CONTEXT_TOKENS:
        raise RequestError(
            f"the prompt has {len(text)} tokens, the context {CONTEXT_TOKENS}",
            parameter="messages",
        )
    token_ids = [ord(character) for character in text]
    record = {"text": text, "token_ids": token_ids, "grammar": None}
    return PreparedInput(record=record, token_count=len(token_ids), constraints=constraints)


def _decode(token_ids: Sequence[int]) -> str:
    if not all(0 <= token < 0xD800 for token in token_ids):
        raise RequestError("a token id is not in the vocabulary", parameter="prompt")
    return "".join(map(chr, token_ids))


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, list):
        return content or ""
    if any(part["type"] not in ("text", "refusal") for part in content):
        raise RequestError("the model takes text only", parameter="messages")
    return "".join(part.get("text") or "" for part in content)


def _calls(source: ChatInput, tools: Sequence[str], last: str) -> list[str]:
    choice = source.tool_choice
    if isinstance(choice, Mapping):
        return [choice["function"]["name"]]
    if not tools or choice == "none" or (choice != "required" and "call" not in last.split()):
        return []
    return list(tools) if "all" in last.split() and source.parallel_tool_calls else [tools[0]]


def _answer(prepared: PreparedInput, sampling: Sampling) -> Iterator[Delta]:
    """Yield the deltas of a whole answer."""
    calls = prepared.constraints.get("calls")
    spoken = 0
    if calls:
        arguments = json.dumps({"echo": prepared.constraints["last"]})
        for number, name in enumerate(calls):
            spoken += len(arguments)
            token_ids = [ord(character) for character in arguments]
            yield Delta(
                token_ids=token_ids, tool_calls=(ToolCall(f"call_{number}", name, arguments),)
            )
        reason = "tool_calls"
    else:
        text, reason = _text(prepared, sampling)
        for word in re.findall(r"\s*\S+|\s+$", text):
            spoken += len(word)
            alternatives = sampling.top_logprobs
            yield Delta(
                text=word,
                token_ids=[ord(character) for character in word],
                logprobs=[]
                if alternatives is None
                else [_logprob(character, alternatives) for character in word],
            )
    yield Delta(finish_reason=reason, prompt_tokens=prepared.token_count, completion_tokens=spoken)


def _text(prepared: PreparedInput, sampling: Sampling) -> tuple[str, str]:
    words = prepared.constraints["last"].split()
    shape = prepared.constraints.get("format")
    if shape is not None:
        schema = shape.get("json_schema", {}).get("schema", {"type": "object"})
        text = json.dumps(_instance(schema))
    else:
        turn = (sampling.seed or 0) % len(words) if words else 0
        text = " ".join(words[turn:] + words[:turn])
    reason = "stop"
    for stop in sampling.stop:
        text = text.split(stop)[0]
    if sampling.maximum_tokens is not None and len(text) > sampling.maximum_tokens:
        text, reason = text[: sampling.maximum_tokens], "length"
    return text, reason


def _instance(schema: Mapping[str, Any]) -> Any:
    """Return a value of a simple JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _instance(inner) for name, inner in schema.get("properties", {}).items()}
    return _BY_TYPE.get(kind if isinstance(kind, str) else "null")


def _logprob(token: str, alternatives: int) -> TokenLogprob:
    others = [(chr(ord("a") + rank), ord("a") + rank, -1.5 - rank) for rank in range(alternatives)]
    if alternatives:
        others[0] = (token, ord(token), -0.5)
    return TokenLogprob(token, ord(token), -0.5, others, token.encode())


def _vector(text: str) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]
    raw = [byte - 127.5 for byte in digest]
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]
