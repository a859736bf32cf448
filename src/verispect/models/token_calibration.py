"""Calibration of teacher forcing: how honest answers of one model stand to it, found by measuring.

An answer that was given under legitimate noise (other threads, micro-batches, company in the
engine) is shown to the reference lane; what differs there is noise, and its bounds become the
tolerance. The record also says how often the rule failed honest answers, and how often it let named
wrong ones pass: error rates that were measured, with upper bounds for the size of the sample.

The calibration stands in the qualification record, whose digest stands in the manifest. This module
refuses to know any engine, and to hold a tolerance without its sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import encode_content
from verispect.core.errors import MalformedError, ModelError, Reason
from verispect.models.qualification import (
    Qualification,
    load_record,
    record_qualification,
    to_decimal,
)
from verispect.models.registry import ModelRegistry
from verispect.models.verified import RegisteredModel

CALIBRATION_VERSION: Final = 1
RECORD_KEY: Final = "token_scores"

CONFIDENCE: Final = 0.99
"""Of every upper bound."""
DOUBTED_BELOW: Final = 1e-3
"""An answer that disagrees so much is not affirmed: the design's rate among honest answers."""
REFUTED_BELOW: Final = 1e-6
"""An answer that disagrees so much is refuted: the design's rate among honest answers."""
LEAST_GAP: Final = 0.05
"""Nats: the least tolerance, for noise that the sample did not show."""
LEAST_REFUTING_GAP: Final = 1.0
LEAST_RANK: Final = 10
QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)


def binomial_tail(trials: int, successes: int, rate: float) -> float:
    """Return the probability of at least so many successes in independent trials."""
    if successes <= 0:
        return 1.0
    if rate <= 0 or successes > trials:
        return 0.0
    if rate >= 1:
        return 1.0
    terms = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(rate)
        + (trials - count) * math.log1p(-rate)
        for count in range(successes, trials + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def upper_bound(trials: int, successes: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact (Clopper-Pearson) upper bound of a rate, rounded up to six places."""
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        # The largest rate under which so few successes are not too rare.
        if 1.0 - binomial_tail(trials, successes + 1, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return min(1.0, math.ceil(high * 1e6) / 1e6)


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Return the values at `QUANTILES`, each one of the values; zeros of an empty sample."""
    ordered = sorted(values) or [0.0]
    return tuple(ordered[max(0, math.ceil(part * len(ordered)) - 1)] for part in QUANTILES)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an honest answer of one way of sampling may show."""

    disagreement_rate: float
    """Upper bound of the share of tokens that the reference's sampler takes otherwise."""
    gap: float
    """Nats by which a greedy token may be less likely than the best."""
    rank: int
    """The rank that a token on which the sampler disagrees may have."""

    @property
    def refuting_gap(self) -> float:
        """Nats beyond which a greedy token is no noise."""
        return max(LEAST_REFUTING_GAP, 4 * self.gap)

    def to_content(self) -> dict[str, Any]:
        """Return the form in the record and in reports."""
        return {
            "disagreement_rate": to_decimal(self.disagreement_rate),
            "gap": to_decimal(self.gap),
            "rank": self.rank,
        }


@dataclass(frozen=True, slots=True)
class HonestSample:
    """Answers that the model really gave, shown to the reference lane."""

    answers: int
    tokens: int
    disagreements: int
    """Tokens that the reference's sampler takes otherwise."""
    largest_gap: float
    """Of a token on which it disagrees, in nats."""
    largest_rank: int
    """Of a token on which it disagrees; 0 where there is none."""
    doubted: int
    """Answers that the rule could not affirm."""
    refuted: int
    """Answers that the rule refuted: false alarms."""

    def tolerance(self) -> Tolerance:
        """Return what follows: noise may be twice what the sample showed."""
        return Tolerance(
            upper_bound(self.tokens, self.disagreements),
            max(LEAST_GAP, 2 * self.largest_gap),
            max(LEAST_RANK, 2 * self.largest_rank),
        )

    def to_content(self) -> dict[str, Any]:
        """Return the form in the record."""
        return {
            "answers": self.answers,
            "tokens": self.tokens,
            "disagreements": self.disagreements,
            "largest_gap": to_decimal(self.largest_gap),
            "largest_rank": self.largest_rank,
            "doubted": self.doubted,
            "refuted": self.refuted,
            "tolerance": self.tolerance().to_content(),
        }


@dataclass(frozen=True, slots=True)
class WrongSample:
    """Answers made wrong in a way that has a name."""

    alternative: str
    answers: int
    affirmed: int
    """Answers that the rule affirmed: misses."""
    refuted: int

    def to_content(self) -> dict[str, Any]:
        """Return the form in the record, with the upper bound of the share of misses."""
        return {
            "alternative": self.alternative,
            "answers": self.answers,
            "affirmed": self.affirmed,
            "refuted": self.refuted,
            "affirmed_bound": to_decimal(upper_bound(self.answers, self.affirmed)),
        }


@dataclass(frozen=True, slots=True)
class ModeCalibration:
    """One way of sampling: what honest answers showed, and wrong ones."""

    honest: HonestSample
    wrong: tuple[WrongSample, ...]

    def error_rates(self) -> dict[str, Any]:
        """Return the declared error rates, as they stand in reports."""
        answers = self.honest.answers
        return {
            "confidence": to_decimal(CONFIDENCE),
            "honest_answers": answers,
            "honest_doubted_bound": to_decimal(upper_bound(answers, self.honest.doubted)),
            "honest_refuted_bound": to_decimal(upper_bound(answers, self.honest.refuted)),
            "honest_refuted_by_design": to_decimal(REFUTED_BELOW),
            "wrong_affirmed_bound": {
                each.alternative: to_decimal(upper_bound(each.answers, each.affirmed))
                for each in self.wrong
            },
        }


@dataclass(frozen=True, slots=True)
class TokenScoreCalibration:
    """The calibration of one model on one engine build."""

    greedy: ModeCalibration
    sampled: ModeCalibration
    variations: tuple[str, ...]
    """The legitimate noise under which answers were given."""
    logprob_differences: tuple[float, ...]
    """|log-probability when given - when shown| in nats, at `QUANTILES`, over all honest tokens."""
    ranks: tuple[int, ...]
    """Ranks of sampled honest tokens, at `QUANTILES`."""

    def mode(self, temperature: float) -> ModeCalibration:
        """Return the calibration for answers drawn at a temperature."""
        return self.greedy if temperature == 0 else self.sampled

    def to_content(self) -> dict[str, Any]:
        """Return the form in the record."""
        return {
            "version": CALIBRATION_VERSION,
            "variations": list(self.variations),
            "logprob_differences": [to_decimal(each) for each in self.logprob_differences],
            "ranks": list(self.ranks),
            **{
                name: {
                    "honest": mode.honest.to_content(),
                    "wrong": [each.to_content() for each in mode.wrong],
                }
                for name, mode in (("greedy", self.greedy), ("sampled", self.sampled))
            },
        }

    @classmethod
    def from_content(cls, content: Any) -> TokenScoreCalibration:
        """Read a record's calibration; tolerances are derived again and must be the stated ones.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        try:
            read = cls(
                greedy=_mode(content["greedy"]),
                sampled=_mode(content["sampled"]),
                variations=tuple(content["variations"]),
                logprob_differences=tuple(float(each) for each in content["logprob_differences"]),
                ranks=tuple(content["ranks"]),
            )
            same = encode_content(read.to_content()) == encode_content(content)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise MalformedError(
                "the calibration is not of its form", reason=Reason.MALFORMED_MANIFEST
            ) from error
        if not same:
            raise MalformedError(
                "the calibration contradicts its own sample", reason=Reason.MALFORMED_MANIFEST
            )
        return read


def _mode(content: Mapping[str, Any]) -> ModeCalibration:
    honest = content["honest"]
    return ModeCalibration(
        HonestSample(
            answers=honest["answers"],
            tokens=honest["tokens"],
            disagreements=honest["disagreements"],
            largest_gap=float(honest["largest_gap"]),
            largest_rank=honest["largest_rank"],
            doubted=honest["doubted"],
            refuted=honest["refuted"],
        ),
        tuple(
            WrongSample(each["alternative"], each["answers"], each["affirmed"], each["refuted"])
            for each in content["wrong"]
        ),
    )


def record_calibration(
    registry: ModelRegistry, model: RegisteredModel, calibration: TokenScoreCalibration
) -> RegisteredModel:
    """Put a calibration into the qualification record of a model, which gets a new identity.

    Raises:
        ModelError: `unsupported-model` where the model was not qualified.
        StoreError: `store-failed`.
    """
    record = load_record(registry, model)
    if record is None:
        raise ModelError(f"model {model.name} was not qualified", reason=Reason.UNSUPPORTED_MODEL)
    claim = model.manifest.determinism
    encoded = encode_content({**record, RECORD_KEY: calibration.to_content()})
    outcome = Qualification(claim.determinism, claim.epsilon, (), encoded)
    return record_qualification(registry, model, outcome)


def load_calibration(
    registry: ModelRegistry, model: RegisteredModel
) -> TokenScoreCalibration | None:
    """Return the calibration that a manifest's record holds; `None` where it has none.

    Raises:
        ModelError: `model-changed` where the record is missing or other bytes.
        MalformedError: where it is not of its form.
    """
    record = load_record(registry, model)
    if record is None or RECORD_KEY not in record:
        return None
    return TokenScoreCalibration.from_content(record[RECORD_KEY])


def with_outcomes(sample: HonestSample, *, doubted: int, refuted: int) -> HonestSample:
    """Return a sample that says how the rule that follows from it judged its answers."""
    return dataclasses.replace(sample, doubted=doubted, refuted=refuted)
