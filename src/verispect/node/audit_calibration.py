"""Measures the null of an audit: how a registered model's own answers stand to it.

Answers are made in the throughput lane, in company, and scored in the deterministic one: the noise
of batching is then in the threshold, and no honest operator is accused of it. Requests should be
like those that will be audited. This module refuses to choose them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from verispect.core.errors import RequestError
from verispect.engines.interface import ChatInput, PromptInput, Sampling
from verispect.engines.llama import LlamaModel
from verispect.node.answer_drift import disagreement_of
from verispect.node.drift_test import MAX_CALIBRATION_ANSWERS, MIN_CALIBRATION_ANSWERS

COMPANY: Final = 4
TEMPERATURE: Final = 0.7
"""Of every second answer; the others are greedy."""


async def honest_shares(
    generating: LlamaModel,
    scoring: LlamaModel,
    requests: Sequence[str],
    *,
    answers: int,
    tokens: int,
    chat: bool,
    seed: int = 1,
) -> list[float]:
    """Return the share of disagreeing tokens of each of many answers of a model to itself.

    Args:
        generating: the model in the throughput lane.
        scoring: the same in the deterministic lane.
        requests: what it is asked, in turn.
        answers: how many.
        tokens: how many an answer has at most.
        chat: whether it has a chat template.
        seed: of the seeds of answers.

    Raises:
        RequestError: `invalid-request`: no requests, or a number out of range.
        EngineError: when an engine fails.
    """
    if not requests:
        raise RequestError("expected at least one request", parameter="requests")
    if not MIN_CALIBRATION_ANSWERS <= answers <= MAX_CALIBRATION_ANSWERS:
        raise RequestError(
            f"expected {MIN_CALIBRATION_ANSWERS} to {MAX_CALIBRATION_ANSWERS} answers",
            parameter="answers",
        )
    draw = random.Random(seed)  # noqa: S311 - seeds of samplers, not secrets
    asked = [
        (
            requests[number % len(requests)],
            Sampling(
                maximum_tokens=tokens,
                temperature=TEMPERATURE if number % 2 else 0.0,
                seed=draw.randrange(1 << 31) if number % 2 else None,
            ),
        )
        for number in range(answers)
    ]
    found: list[float] = []
    for first in range(0, answers, COMPANY):
        company = asked[first : first + COMPANY]
        shares = await asyncio.gather(
            *(_share(generating, scoring, *each, chat=chat) for each in company)
        )
        found += [share for share in shares if share is not None]
    return found


async def _share(
    generating: LlamaModel, scoring: LlamaModel, request: str, sampling: Sampling, *, chat: bool
) -> float | None:
    source = ChatInput(None, [{"role": "user", "content": request}]) if chat else None
    prepared = await generating.prepare(source or PromptInput(request))
    resolved = generating.resolve(sampling, prompt_tokens=prepared.token_count)
    text = "".join([delta.text async for delta in generating.generate(prepared, resolved)])
    drift = await disagreement_of(scoring, prepared.record["token_ids"], text, sampling=resolved)
    return None if drift is None else drift.share
