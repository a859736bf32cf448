"""Defaults and bounds of the sampler settings that the llama.cpp engine honours.

Defaults: temperature 1, top-p 1, top-k 0 (off), min-p 0, penalties 0, no bias, as many tokens as
the context still holds. They are ours, not the model file's and not llama.cpp's, so a receipt's
sampling is complete without either.

This module refuses a value out of range; it never moves one into range, except that
`maximum_tokens` beyond the context's room is the room, since it is an upper limit and stays one.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from verispect.core.errors import RequestError
from verispect.engines.interface import Sampling

MAX_STOP_STRINGS: Final = 4
MAX_STOP_CHARACTERS: Final = 256
MAX_LOGIT_BIASES: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_SEED: Final = 2**32 - 2
"""llama.cpp reads the next value as "draw a seed"."""

LOGPROB_DECIMALS: Final = 6
"""Log-probabilities are rounded to this, so that they do not show the last bits of `exp`."""

CONSTANT_CHAIN: Final[Mapping[str, Any]] = {
    "samplers": [
        "logit_bias",
        "penalties",
        "top_k",
        "top_p",
        "min_p",
        "temperature",
        "distribution",
    ],
    "absent_samplers": [
        "repeat_penalty",
        "typical_p",
        "dry",
        "xtc",
        "mirostat",
        "top_n_sigma",
        "adaptive_p",
        "dynamic_temperature",
    ],
    "penalty_window": "generated tokens",
    "grammar": "lark, checked after the draw, repeated among allowed tokens",
    "random_generator": "mt19937",
    "logprob_decimals": LOGPROB_DECIMALS,
}
"""What every generation of this engine has in common; part of the engine's identity."""


def _number(name: str, value: Any, accept: Callable[[float], bool], range_text: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} must be a number", parameter=name)
    if not math.isfinite(value) or not accept(value):
        raise RequestError(f"{name} must be {range_text}", parameter=name)
    return float(value)


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(f"{name} must be an integer from {least} to {most}", parameter=name)
    return value


def resolve_sampling(
    sampling: Sampling, *, prompt_tokens: int, context_tokens: int, vocabulary_size: int
) -> Sampling:
    """Return a copy with every default filled in.

    Args:
        sampling: as requested.
        prompt_tokens: length of the prompt.
        context_tokens: how many tokens prompt and answer may have together.
        vocabulary_size: ids in `logit_bias` must be below it.

    Raises:
        RequestError: for a value out of range.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise RequestError("the prompt fills the model's context", parameter="messages")
    temperature = _number(
        "temperature",
        1.0 if sampling.temperature is None else sampling.temperature,
        lambda value: 0 <= value <= 2,
        "from 0 to 2",
    )
    seed = sampling.seed
    if seed is not None:
        _integer("seed", seed, 0, MAX_SEED)
    if temperature == 0:
        seed = None
    elif seed is None:
        seed = secrets.randbelow(MAX_SEED + 1)
    maximum = room
    if sampling.maximum_tokens is not None:
        maximum = min(room, _integer("maximum_tokens", sampling.maximum_tokens, 1, 2**31 - 1))
    return replace(
        sampling,
        maximum_tokens=maximum,
        temperature=temperature,
        top_p=_number(
            "top_p",
            1.0 if sampling.top_p is None else sampling.top_p,
            lambda value: 0 < value <= 1,
            "above 0 and at most 1",
        ),
        top_k=_integer("top_k", sampling.top_k or 0, 0, vocabulary_size),
        min_p=_number("min_p", sampling.min_p or 0.0, lambda value: 0 <= value <= 1, "from 0 to 1"),
        seed=seed,
        stop=_stop(sampling.stop),
        presence_penalty=_penalty("presence_penalty", sampling.presence_penalty),
        frequency_penalty=_penalty("frequency_penalty", sampling.frequency_penalty),
        logit_bias=_logit_bias(sampling.logit_bias, vocabulary_size),
        top_logprobs=None
        if sampling.top_logprobs is None
        else _integer("top_logprobs", sampling.top_logprobs, 0, MAX_TOP_LOGPROBS),
    )


def _penalty(name: str, value: float | None) -> float:
    return _number(name, value or 0.0, lambda number: -2 <= number <= 2, "from -2 to 2")


def _stop(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, str) or not all(isinstance(text, str) for text in stop):
        raise RequestError("stop must be a list of strings", parameter="stop")
    if len(stop) > MAX_STOP_STRINGS:
        raise RequestError(
            f"expected at most {MAX_STOP_STRINGS} stop strings, got {len(stop)}", parameter="stop"
        )
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        raise RequestError(
            f"a stop string must have 1 to {MAX_STOP_CHARACTERS} characters", parameter="stop"
        )
    return tuple(stop)


def _logit_bias(bias: Mapping[int, float], vocabulary_size: int) -> dict[int, float]:
    if len(bias) > MAX_LOGIT_BIASES:
        raise RequestError(
            f"expected at most {MAX_LOGIT_BIASES} biases, got {len(bias)}", parameter="logit_bias"
        )
    resolved = {}
    for token in sorted(bias):
        _integer("logit_bias", token, 0, vocabulary_size - 1)
        resolved[token] = _number(
            "logit_bias", bias[token], lambda value: -100 <= value <= 100, "from -100 to 100"
        )
    return resolved
