"""The rule by which an answer that was shown to its model is affirmed, doubted or refuted.

Per token there is one question: would the sampler, from the seed that the receipt commits to, have
taken this token here? Honest answers disagree as rarely as noise makes them, which calibration
measured. Beside it stand the gap of greedy tokens to the best one, the rank of those on which the
sampler disagrees, and the end of the answer. This module refuses to say which model ran: the best
that it can say is that the answer is one that this model gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verispect.core.errors import Reason
from verispect.engines.forced import TokenScores
from verispect.engines.interface import Sampling
from verispect.models.qualification import to_decimal
from verispect.models.token_calibration import (
    DOUBTED_BELOW,
    REFUTED_BELOW,
    Tolerance,
    binomial_tail,
)
from verispect.tlog.verdict import Outcome


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """One answer as it was scored, and what the receipt says of its end."""

    scores: TokenScores
    finish_reason: str

    @property
    def drawn(self) -> int:
        """Tokens that must have been drawn for it, the one that ended it included."""
        return self.scores.given + (self.finish_reason == "stop")


@dataclass(frozen=True, slots=True)
class AnswerJudgement:
    """What the rule says of the answers of one receipt, and from which numbers."""

    outcome: Outcome
    reason: Reason | None
    tokens: int
    disagreements: int
    largest_gap: float
    largest_rank: int
    tail: float
    """How often an honest answer would disagree at least so much."""

    def to_content(self) -> dict[str, Any]:
        """Return the form in reports."""
        return {
            "tokens": self.tokens,
            "disagreements": self.disagreements,
            "largest_gap": to_decimal(self.largest_gap),
            "largest_rank": self.largest_rank,
            "tail": to_decimal(self.tail),
        }


def judge_answers(
    answers: Sequence[ShownAnswer],
    sampling: Sampling,
    tolerance: Tolerance,
    *,
    output_tokens: int | None,
    grammar: bool = False,
) -> AnswerJudgement:
    """Judge the answers of one receipt.

    1. An answer that was scored in part only, or is not of as many tokens as were counted, is
       doubted: its tokens may not be those that were drawn.
    2. A greedy answer is refuted where honest answers disagree so much in less than `REFUTED_BELOW`
       of cases, or where a token, the end included, falls behind the best beyond any noise.
    3. It is doubted where they do in less than `DOUBTED_BELOW`, where a token on which the sampler
       disagrees is beyond the tolerated gap or rank, or where the sampler does not end with it.

    A sampled answer is never refuted: a text whose tokens are read otherwise than they were drawn,
    in the same number, moves every draw after it, and calibration met such honest answers.

    Args:
        answers: the choices of one receipt, each scored with the sampler beside it.
        sampling: with which they were drawn.
        tolerance: from the calibration of this model, for this way of sampling.
        output_tokens: as the receipt counts them; `None` where it does not.
        grammar: one held the sampler.
    """
    greedy = sampling.temperature == 0
    # Bias, penalties and grammars move the sampler away from the model's own best token.
    plain = not (
        grammar or sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty
    )
    ends = [
        each.scores.ending
        for each in answers
        if each.finish_reason == "stop" and each.scores.ending is not None
    ]
    tokens = [score for each in answers for score in each.scores.tokens]
    differing = [score for score in tokens if not score.agrees]
    early = [end for end in ends if not end.chosen]
    gaps = [each.gap for each in differing]
    gaps += [max(0.0, end.best_logprob - end.logprob) for end in early]
    trials, disagreements = len(tokens) + len(ends), len(differing) + len(early)
    largest_gap = max(gaps, default=0.0)
    largest_rank = max((each.rank for each in differing), default=0)
    tail = binomial_tail(trials, disagreements, tolerance.disagreement_rate)

    def judged(outcome: Outcome, reason: Reason | None) -> AnswerJudgement:
        return AnswerJudgement(
            outcome, reason, trials, disagreements, largest_gap, largest_rank, tail
        )

    if any(each.scores.truncated for each in answers):
        return judged(Outcome.UNKNOWN, Reason.TOO_LARGE)
    if not _counts(answers, sampling, output_tokens):
        return judged(Outcome.UNKNOWN, Reason.CONTENT_MISMATCH)
    if early and sampling.stop:
        # It may have been cut at one of the strings, which are not in the text any more.
        return judged(Outcome.UNKNOWN, Reason.CONTENT_MISMATCH)
    beyond = plain and largest_gap > tolerance.refuting_gap
    if greedy and (tail < REFUTED_BELOW or beyond):
        return judged(Outcome.REFUTED, Reason.CONTENT_MISMATCH)
    far = largest_gap > tolerance.gap if greedy and plain else largest_rank > tolerance.rank
    if tail < DOUBTED_BELOW or far or early:
        return judged(Outcome.UNKNOWN, Reason.CONTENT_MISMATCH)
    return judged(Outcome.AFFIRMED, None)


def _counts(answers: Sequence[ShownAnswer], sampling: Sampling, output_tokens: int | None) -> bool:
    """Tell whether the tokens that were scored can be those that were drawn."""
    if any(each.finish_reason not in ("stop", "length") for each in answers):
        return False
    if output_tokens is None or sum(each.drawn for each in answers) != output_tokens:
        return False
    return all(
        each.finish_reason == "stop" or each.scores.given == sampling.maximum_tokens
        for each in answers
    )
