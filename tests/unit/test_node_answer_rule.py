"""The rule on answers that were shown to their model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from verispect.core.errors import Reason
from verispect.engines.forced import EndingScore, TokenScore, TokenScores
from verispect.engines.interface import Sampling
from verispect.models.token_calibration import Tolerance
from verispect.node.answer_rule import AnswerJudgement, ShownAnswer, judge_answers
from verispect.tlog.verdict import Outcome

TOLERANCE = Tolerance(disagreement_rate=0.002, gap=0.05, rank=10)
GREEDY = Sampling(maximum_tokens=40, temperature=0.0, presence_penalty=0.0, frequency_penalty=0.0)
SAMPLED = replace(GREEDY, temperature=0.8, seed=3)
GOOD = TokenScore(5, -0.5, 1, -0.5, 5)
END = EndingScore(-0.1, 1, -0.1, True)


def answer(
    *bad: TokenScore,
    length: int = 40,
    finish: str = "length",
    ending: EndingScore | None = END,
    given: int | None = None,
) -> ShownAnswer:
    tokens = (*bad, *[GOOD] * (length - len(bad)))
    return ShownAnswer(TokenScores(tokens, length if given is None else given, ending), finish)


def judge(
    shown: ShownAnswer, sampling: Sampling = GREEDY, *, counted: int | None = 40, **more: bool
) -> AnswerJudgement:
    return judge_answers([shown], sampling, TOLERANCE, output_tokens=counted, **more)


def off(gap: float, rank: int = 2) -> TokenScore:
    return TokenScore(6, -0.5 - gap, rank, -0.5, 5)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_an_answer_that_agrees_is_affirmed(sampling: Sampling) -> None:
    """No disagreement, the right number of tokens: affirmed."""
    judged = judge(answer(), sampling)
    assert (judged.outcome, judged.reason, judged.disagreements) == (Outcome.AFFIRMED, None, 0)


@pytest.mark.parametrize(
    ("gap", "outcome"),
    [(0.04, Outcome.AFFIRMED), (0.06, Outcome.UNKNOWN), (1.1, Outcome.REFUTED)],
)
def test_a_greedy_token_is_judged_by_its_gap(gap: float, outcome: Outcome) -> None:
    """Within the tolerance noise, beyond it doubt, far beyond it no noise."""
    assert judge(answer(off(gap))).outcome is outcome


def test_gaps_say_nothing_where_something_moves_the_sampler() -> None:
    """With a penalty or a grammar the best token is not what a sampler takes."""
    moved = replace(GREEDY, presence_penalty=0.5)
    assert judge(answer(off(3.0)), moved).outcome is Outcome.AFFIRMED
    assert judge(answer(off(3.0)), grammar=True).outcome is Outcome.AFFIRMED
    assert judge(answer(off(3.0, rank=11)), moved).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("count", "outcome"),
    [(1, Outcome.AFFIRMED), (3, Outcome.UNKNOWN), (5, Outcome.REFUTED), (40, Outcome.REFUTED)],
)
def test_greedy_answers_are_judged_by_how_much_disagrees(count: int, outcome: Outcome) -> None:
    """What is rarer than one in a thousand honest answers is doubted, in a million refuted."""
    assert judge(answer(*[off(0.01)] * count)).outcome is outcome


@pytest.mark.parametrize(
    ("count", "outcome"),
    [(1, Outcome.AFFIRMED), (3, Outcome.UNKNOWN), (5, Outcome.UNKNOWN), (40, Outcome.UNKNOWN)],
)
def test_sampled_answers_are_doubted_and_never_refuted(count: int, outcome: Outcome) -> None:
    """Tokens read otherwise than they were drawn make an honest sampled answer disagree as much."""
    assert judge(answer(*[off(2.0)] * count), SAMPLED).outcome is outcome


def test_a_disagreeing_token_of_high_rank_is_doubted() -> None:
    """One token that neither sampler nor ranks explain is not affirmed."""
    assert judge(answer(off(2.0, rank=11)), SAMPLED).outcome is Outcome.UNKNOWN


def test_a_false_end_is_refuted_or_doubted() -> None:
    """An answer said to have stopped where the model goes on is never affirmed."""
    early = EndingScore(-9.0, 900, -0.2, False)
    cut = answer(finish="stop", ending=early)
    assert judge(cut, counted=41).outcome is Outcome.REFUTED
    assert judge(cut, SAMPLED, counted=41).outcome is Outcome.UNKNOWN
    assert judge(cut, replace(GREEDY, stop=("x",)), counted=41).outcome is Outcome.UNKNOWN
    assert judge(answer(finish="stop"), counted=41).outcome is Outcome.AFFIRMED


@pytest.mark.parametrize(
    ("shown", "counted"),
    [
        (answer(), 39),
        (answer(), None),
        (answer(finish="stop"), 40),
        (answer(length=30), 30),
        (answer(finish="content_filter"), 40),
    ],
)
def test_other_numbers_of_tokens_are_doubted(shown: ShownAnswer, counted: int | None) -> None:
    """Tokens that are not those that were counted are neither affirmed nor held against anyone."""
    judged = judge(shown, counted=counted)
    assert (judged.outcome, judged.reason) == (Outcome.UNKNOWN, Reason.CONTENT_MISMATCH)


def test_an_answer_scored_in_part_is_doubted() -> None:
    """What was not scored is not affirmed."""
    judged = judge(answer(length=30, given=40, ending=None))
    assert (judged.outcome, judged.reason) == (Outcome.UNKNOWN, Reason.TOO_LARGE)


def test_one_wrong_choice_among_several_decides() -> None:
    """The answers of one receipt are judged together."""
    wrong = answer(*[off(2.0)] * 20)
    judged = judge_answers([answer(), wrong], SAMPLED, TOLERANCE, output_tokens=80)
    assert judged.outcome is Outcome.UNKNOWN
    judged = judge_answers([answer(), wrong], GREEDY, TOLERANCE, output_tokens=80)
    assert judged.outcome is Outcome.REFUTED
