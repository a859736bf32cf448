"""Shows a model an answer that it is said to have given, in one pass, and returns how it stands.

This is what re-execution is where the same bits cannot be had again: no word of the operator goes
into it but the prompt and the answer themselves. This module refuses to repeat what an operator
says of log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

from verispect.engines.forced import ScoringEngine, TokenScores
from verispect.engines.interface import Sampling


async def score_answer(
    engine: ScoringEngine,
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    *,
    sampling: Sampling | None = None,
    grammar: str | None = None,
) -> TokenScores:
    """Score every token of an answer, given the prompt and the answer before it.

    Args:
        engine: a loaded model; `tokenize_answer` gives the tokens of an answer's text.
        prompt_tokens: what the model was given.
        output_tokens: what it is said to have answered, without the token that ended it.
        sampling: resolved settings, seed included; where given, each score says which token the
            sampler took at that place.
        grammar: of the sampler.

    Returns:
        A score per token. `truncated` says that the context held only a beginning of the answer.

    Raises:
        RequestError: for an empty prompt, one beyond the context, or tokens that do not exist.
        EngineError: when the engine fails.
    """
    return await engine.force(prompt_tokens, output_tokens, sampling=sampling, grammar=grammar)
