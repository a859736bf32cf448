"""Asks the llama.cpp worker to score an answer, and reads what it says.

This module refuses to judge, and to fill in what the worker did not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verispect.core.errors import EngineError, Reason
from verispect.engines.forced import EndingScore, TokenScore, TokenScores
from verispect.engines.interface import Sampling
from verispect.engines.llama_process import WorkerProcess


def sampling_frame(sampling: Sampling) -> dict[str, Any]:
    """Return resolved settings as the worker takes them."""
    return {
        **sampling.to_content(),
        "logit_bias": sorted(sampling.logit_bias.items()),
        "stop": list(sampling.stop),
    }


async def force_answer(
    worker: WorkerProcess,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    room: int,
    sampling: Sampling | None,
    grammar: str | None,
) -> TokenScores:
    """Score the beginning of an answer that fits into `room` tokens.

    Raises:
        EngineError: `engine-failed` where the answer breaks the grammar or the worker fails.
    """
    scored = list(answer[:room])
    frame = {
        "op": "force",
        "prompt": [*prompt, *scored],
        "first": len(prompt),
        "sampling": None if sampling is None else sampling_frame(sampling),
        "grammar": grammar,
    }
    rows: list[Sequence[Any]] = []
    async with worker.request(frame) as answers:
        async for said in answers:
            if "error" in said:
                raise EngineError("the answer breaks the grammar", reason=Reason.ENGINE_FAILED)
            if "finish" in said:
                rows.append(said["ending"])
                break
            rows.append(said["forced"])
    if len(rows) != len(scored) + 1:
        raise EngineError("the worker did not score every token", reason=Reason.ENGINE_FAILED)
    *inner, (logprob, rank, best, ends) = rows
    tokens = tuple(TokenScore(token, *row) for token, row in zip(scored, inner, strict=True))
    whole = len(scored) == len(answer)
    return TokenScores(
        tokens, len(answer), EndingScore(logprob, rank, best, ends) if whole else None
    )
