"""Reads the worker's answers: deltas, log-probabilities, and the identifiers of tool calls.

This module refuses to invent anything: what it gives was in the frame, or is derived from the
prompt and the sampling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from verispect.engines.interface import Delta, Sampling, TokenLogprob
from verispect.engines.tool_calls import ToolCallReader


def call_context(tokens: Sequence[int], sampling: Sampling) -> bytes:
    """Return what identifies a generation: its prompt and its whole sampling."""
    content = json.dumps([list(tokens), sampling.to_content()], sort_keys=True)
    return hashlib.sha256(content.encode()).digest()


def read_delta(
    answer: dict[str, Any], reader: ToolCallReader, prompt_tokens: int, produced: int
) -> Delta:
    """Return what one generated token brought.

    Args:
        answer: the worker's frame.
        reader: takes the calls out of the text.
        prompt_tokens: length of the prompt, for the last delta.
        produced: tokens generated so far, this one included.
    """
    text, calls = reader.push(answer["text"])
    finish = answer["finish"]
    if finish is not None:
        text += reader.finish()
        if finish == "stop" and reader.count:
            finish = "tool_calls"
    return Delta(
        text=text,
        token_ids=(answer["token"],),
        logprobs=tuple(read_logprob(entry) for entry in answer["entries"]),
        tool_calls=tuple(calls),
        finish_reason=finish,
        prompt_tokens=0 if finish is None else prompt_tokens,
        completion_tokens=0 if finish is None else produced,
    )


def read_logprob(entry: Sequence[Any]) -> TokenLogprob:
    """Return the worker's `[token id, bytes in hexadecimal, logprob, alternatives]` as a type."""
    token, hexadecimal, logprob, alternatives = entry
    text, exact = _token_text(hexadecimal)
    return TokenLogprob(
        token=text,
        token_id=token,
        logprob=logprob,
        alternatives=tuple(
            (_token_text(other)[0], number, value) for number, other, value in alternatives
        ),
        token_bytes=exact,
    )


def _token_text(hexadecimal: str) -> tuple[str, bytes | None]:
    data = bytes.fromhex(hexadecimal)
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), data
