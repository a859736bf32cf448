"""Measures teacher forcing on a GGUF model: honest answers under noise, and answers made wrong.

Answers are given by workers under every kind of noise that an operator may honestly have, and each
is shown, as text, to the lane that a node would use. This module refuses to judge; the rule is in
`verispect.node.answer_rule`, the bounds are in `verispect.models.token_calibration`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Final

from verispect.engines.forced import TokenScores
from verispect.engines.interface import Lane, PromptInput, Sampling
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.models.token_calibration import (
    HonestSample,
    ModeCalibration,
    TokenScoreCalibration,
    Tolerance,
    WrongSample,
    quantiles,
    with_outcomes,
)
from verispect.models.verified import VerifiedFiles
from verispect.node.answer_rule import AnswerJudgement, ShownAnswer, judge_answers
from verispect.node.teacher_forcing import score_text
from verispect.tlog.verdict import Outcome

TOKENS: Final = 48
CONTEXT: Final = 512
MAX_PROMPTS: Final = 64

_BEGINNINGS: Final = (
    "The weather station stands on a hill. ",
    "A short note about music for beginners. ",
    "Question: how does a canal lock work? Answer: ",
    "def area(width, height):\n    return width * height\n\n",
    "Letter to the editor, Tuesday. ",
    "Recipe for four people. ",
    "From the minutes of the meeting: ",
    "Once upon a time, far in the north, ",
)
_ENDINGS: Final = (
    "First,",
    "In the morning",
    "The reason is that",
    "There are three",
    "We think",
    "After that",
    "Most people",
    "It is",
)
_VARIATIONS: Final = {
    "four at once": LlamaOptions(
        lane=Lane.THROUGHPUT, context_tokens=CONTEXT, threads=1, parallel=4
    ),
    "micro-batch of 32": LlamaOptions(context_tokens=CONTEXT, batch_tokens=32, threads=1),
    "two threads": LlamaOptions(context_tokens=CONTEXT, threads=2),
}
_GREEDY: Final = (Sampling(temperature=0.0, top_logprobs=0),)
_SAMPLED: Final = (
    Sampling(temperature=1.0, top_logprobs=0),
    Sampling(temperature=0.7, top_p=0.95, top_logprobs=0),
)
_REPLACEMENTS: Final = (" however", " never")

ANOTHER_PROMPT: Final = "answer to another prompt"
EDITED: Final = "one token replaced"
CUT_SHORT: Final = "cut short, said to be whole"


@dataclass(frozen=True, slots=True)
class _Answer:
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    """As drawn, the one that ended it included."""
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    sampling: Sampling


_Shown = tuple[_Answer, TokenScores]


async def calibrate_llama(
    files: VerifiedFiles, *, prompts: int, tokens: int = TOKENS
) -> TokenScoreCalibration:
    """Measure a model.

    Args:
        files: of the model; its main file is a GGUF.
        prompts: how many prompts are answered under each noise, from 2 to `MAX_PROMPTS`.
        tokens: the length of an answer.

    Raises:
        ModelError: where the model cannot be loaded.
        EngineError: where the engine fails.
    """
    descriptor = files.main_sealed.descriptor
    texts = [
        beginning + ending for ending, beginning in islice(product(_ENDINGS, _BEGINNINGS), prompts)
    ]
    given = {
        name: await _answers(descriptor, options, texts, tokens)
        for name, options in _VARIATIONS.items()
    }
    reference = await _start(descriptor, LlamaOptions(context_tokens=CONTEXT, threads=1))
    try:
        honest = [each for answers in given.values() for each in answers]
        shown = [(each, await _show(reference, each)) for each in honest]
        first = next(iter(given.values()))
        modes = [
            await _mode(
                reference,
                [pair for pair in shown if (pair[0].sampling.temperature == 0) == greedy],
                [each for each in first if (each.sampling.temperature == 0) == greedy],
            )
            for greedy in (True, False)
        ]
    finally:
        await reference.close()
    differences = [
        abs(logprob - score.logprob)
        for answer, scores in shown
        if _aligned(answer, scores)
        for logprob, score in zip(answer.logprobs, scores.tokens, strict=False)
    ]
    ranks = [
        score.rank
        for answer, scores in shown
        if answer.sampling.temperature and _aligned(answer, scores)
        for score in scores.tokens
    ]
    return TokenScoreCalibration(
        greedy=modes[0],
        sampled=modes[1],
        variations=tuple(given),
        logprob_differences=quantiles(differences),
        ranks=tuple(int(each) for each in quantiles(ranks)),
    )


async def _start(descriptor: int, options: LlamaOptions) -> LlamaModel:
    return await LlamaModel.start(
        "", chat_template=None, options=options, file_descriptor=descriptor
    )


async def _answers(
    descriptor: int, options: LlamaOptions, texts: Sequence[str], tokens: int
) -> list[_Answer]:
    model = await _start(descriptor, options)
    try:
        asked = [
            _complete(model, text, replace(sampling, maximum_tokens=tokens, seed=number))
            for sampling in (*_GREEDY, *_SAMPLED)
            for number, text in enumerate(texts)
        ]
        if model.lane is Lane.DETERMINISTIC:
            return [await each for each in asked]
        found: list[_Answer] = []
        for start in range(0, len(asked), options.parallel):
            found += await asyncio.gather(*asked[start : start + options.parallel])
        return found
    finally:
        await model.close()


async def _complete(model: LlamaModel, text: str, sampling: Sampling) -> _Answer:
    prepared = await model.prepare(PromptInput(text))
    resolved = model.resolve(sampling, prompt_tokens=prepared.token_count)
    deltas = [each async for each in model.generate(prepared, resolved)]
    return _Answer(
        tuple(prepared.record["token_ids"]),
        tuple(token for each in deltas for token in each.token_ids),
        tuple(entry.logprob for each in deltas for entry in each.logprobs),
        "".join(each.text for each in deltas),
        deltas[-1].finish_reason or "",
        resolved,
    )


async def _show(model: LlamaModel, answer: _Answer) -> TokenScores:
    return await score_text(model, answer.prompt, answer.text, sampling=answer.sampling)


def _judge(answer: _Answer, scores: TokenScores, tolerance: Tolerance) -> AnswerJudgement:
    return judge_answers(
        [ShownAnswer(scores, answer.finish_reason)],
        answer.sampling,
        tolerance,
        output_tokens=len(answer.tokens),
    )


def _aligned(answer: _Answer, scores: TokenScores) -> bool:
    """Tell whether the text was read in the tokens that were drawn."""
    read = tuple(each.token_id for each in scores.tokens)
    return read == answer.tokens[: len(read)]


async def _mode(
    model: LlamaModel, shown: Sequence[_Shown], first: Sequence[_Answer]
) -> ModeCalibration:
    # Where the text was read in other tokens nothing is said of noise: the rule doubts those.
    differing = [
        [score for score in scores.tokens if not score.agrees]
        for answer, scores in shown
        if _aligned(answer, scores)
    ]
    tokens = sum(len(scores.tokens) for answer, scores in shown if _aligned(answer, scores))
    sample = HonestSample(
        answers=len(shown),
        tokens=tokens,
        disagreements=sum(map(len, differing)),
        largest_gap=max((each.gap for row in differing for each in row), default=0.0),
        largest_rank=max((each.rank for row in differing for each in row), default=0),
        doubted=0,
        refuted=0,
    )
    tolerance = sample.tolerance()
    outcomes = [_judge(answer, scores, tolerance).outcome for answer, scores in shown]
    sample = with_outcomes(
        sample,
        doubted=sum(each is Outcome.UNKNOWN for each in outcomes),
        refuted=sum(each is Outcome.REFUTED for each in outcomes),
    )
    wrong: dict[str, list[_Answer]] = {ANOTHER_PROMPT: [], EDITED: [], CUT_SHORT: []}
    for number, answer in enumerate(first):
        other = first[(number + 1) % len(first)]
        wrong[ANOTHER_PROMPT].append(replace(answer, prompt=other.prompt))
        if len(answer.tokens) >= 4:
            wrong[EDITED].append(await _with_a_token_replaced(model, answer))
            wrong[CUT_SHORT].append(await _cut_short(model, answer))
    samples = []
    for name, answers in wrong.items():
        found = [
            _judge(answer, await _show(model, answer), tolerance).outcome for answer in answers
        ]
        samples.append(
            WrongSample(
                name,
                len(found),
                sum(each is Outcome.AFFIRMED for each in found),
                sum(each is Outcome.REFUTED for each in found),
            )
        )
    return ModeCalibration(sample, tuple(samples))


async def _with_a_token_replaced(model: LlamaModel, answer: _Answer) -> _Answer:
    at = len(answer.tokens) // 2
    choices = [(await model.tokenize_answer(text))[0] for text in _REPLACEMENTS]
    other = next(each for each in choices if each != answer.tokens[at])
    tokens = (*answer.tokens[:at], other, *answer.tokens[at + 1 :])
    return replace(answer, tokens=tokens, text=await _text(model, tokens))


async def _cut_short(model: LlamaModel, answer: _Answer) -> _Answer:
    kept = answer.tokens[: len(answer.tokens) // 2]
    # The token that would have ended it is counted, and is not in the text.
    return replace(answer, tokens=(*kept, 0), text=await _text(model, kept), finish_reason="stop")


async def _text(model: LlamaModel, tokens: Sequence[int]) -> str:
    return b"".join(await model.token_pieces(tokens)).decode(errors="ignore")
