"""Shows a model an answer that it is said to have given, in one pass, and returns how it stands.

This is what re-execution is where the same bits cannot be had again: no word of the operator goes
into it but the prompt and the answer themselves. This module refuses to repeat what an operator
says of log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from verispect.engines.forced import ScoringEngine, TokenScores
from verispect.engines.interface import Sampling

MAX_READINGS: Final = 64
"""How often the text of one answer is read in other tokens."""
MAX_FAILED_READINGS: Final = 3
"""So many in a row that explain no more than the last: the answer is another one."""


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


async def score_text(
    engine: ScoringEngine,
    prompt_tokens: Sequence[int],
    text: str,
    *,
    sampling: Sampling,
    grammar: str | None = None,
) -> TokenScores:
    """Score an answer of which only the text is known.

    A model may have written a text in other tokens than the tokenizer would. Where the sampler
    takes a token whose bytes also stand at that place, the text is read with that token, if that
    makes the sampler disagree with less of it: a wrong answer gains nothing by it that the model
    itself would not have said.

    Args:
        engine: as in `score_answer`.
        prompt_tokens: what the model was given.
        text: what it is said to have answered.
        sampling: resolved settings, seed included.
        grammar: of the sampler.

    Raises:
        RequestError: as `score_answer`.
        EngineError: when the engine fails.
    """
    data = text.encode()
    tokens = await engine.tokenize_answer(text)
    scores = await score_answer(engine, prompt_tokens, tokens, sampling=sampling, grammar=grammar)
    best = scores
    place = failed = 0
    for _ in range(MAX_READINGS):
        # Several words in a row may be written otherwise: the whole gains only behind them.
        other = await _other_reading(engine, data, tokens, scores, place)
        if other is None or failed == MAX_FAILED_READINGS:
            break
        place, tokens = other
        scores = await score_answer(
            engine, prompt_tokens, tokens, sampling=sampling, grammar=grammar
        )
        if _agreement(scores) > _agreement(best):
            best, failed = scores, 0
        else:
            failed += 1
    return best


def _agreement(scores: TokenScores) -> float:
    if not scores.tokens or scores.truncated:
        return 0.0
    return sum(each.agrees for each in scores.tokens) / len(scores.tokens)


async def _other_reading(
    engine: ScoringEngine, data: bytes, tokens: Sequence[int], scores: TokenScores, place: int
) -> tuple[int, list[int]] | None:
    """Return the next place where the text can be read with the sampler's token, and how."""
    pieces = await engine.token_pieces(tokens)
    if b"".join(pieces) != data:
        return None
    wanted = await engine.token_pieces([each.chosen or 0 for each in scores.tokens])
    start = 0
    for index, score in enumerate(scores.tokens):
        end = start + len(wanted[index])
        if (
            index >= place
            and score.chosen is not None
            and not score.agrees
            and wanted[index]
            and data[start:end] == wanted[index]
        ):
            try:
                rest = data[end:].decode()
            except UnicodeDecodeError:
                rest = None
            if rest is not None:
                following = await engine.tokenize_answer(rest)
                return index + 1, [*tokens[:index], score.chosen, *following]
        start += len(pieces[index])
    return None
