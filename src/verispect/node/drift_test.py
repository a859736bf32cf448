"""The statistics of an audit: is this still the model that was registered? Drift, never identity.

Every audited answer is one trial: the registered model is shown the answer, and the share of its
tokens that the model would not have given is compared with a threshold. The threshold is the
largest share among answers of the registered model itself, so that by Wilks' theorem another one
exceeds it with a probability of which an upper bound is known, whatever the distribution is. The
bets of a test martingale on "it exceeds" multiply; by Ville's inequality they reach `1 / level`
with a probability of at most `level` while the model is the registered one, however often somebody
looks and whenever he stops.

This module refuses to name a model: a large e-value says that answers drifted, a small one says
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.errors import Reason, RequestError

MIN_CALIBRATION_ANSWERS: Final = 32
MAX_CALIBRATION_ANSWERS: Final = 1 << 20
MAX_TRIALS: Final = 100_000
LEAST_LEVEL: Final = 1e-12


@dataclass(frozen=True, slots=True)
class DriftNull:
    """How the registered model's own answers stand to it."""

    threshold: float
    """The largest share of disagreeing tokens that one of them had."""
    answers: int
    """How many were measured."""
    miss: float
    """The probability, over calibrations, that `rate` is not an upper bound."""

    def __post_init__(self) -> None:
        """Refuse what no calibration gives.

        Raises:
            RequestError: `invalid-request`.
        """
        if not 0 <= self.threshold < 1:
            raise _refused("expected a threshold from 0 up to, not including, 1")
        if not MIN_CALIBRATION_ANSWERS <= self.answers <= MAX_CALIBRATION_ANSWERS:
            raise _refused(
                f"expected {MIN_CALIBRATION_ANSWERS} to {MAX_CALIBRATION_ANSWERS} answers"
            )
        _check_level(self.miss, "miss")

    @property
    def rate(self) -> float:
        """Upper bound of the probability that an answer of the registered model exceeds."""
        # The share of a distribution above the largest of n draws is Beta(1, n) distributed.
        return -math.expm1(math.log(self.miss) / self.answers)

    def exceeds(self, disagreement: float) -> bool:
        """Tell whether a share of disagreeing tokens is beyond the threshold."""
        return disagreement > self.threshold


def calibrate(disagreements: Sequence[float], *, miss: float) -> DriftNull:
    """Return the null of a model.

    Args:
        disagreements: shares of disagreeing tokens, of answers of the registered model to requests
            like those that will be audited.
        miss: how often a calibration may be wrong.

    Raises:
        RequestError: `invalid-request`: too few answers, or answers that are not the model's.
    """
    return DriftNull(max(disagreements, default=1.0), len(disagreements), miss)


@dataclass(frozen=True, slots=True)
class DriftTest:
    """A test of one null against one named alternative."""

    null: DriftNull
    alternative: str
    """What the bets are laid on, in words."""
    alternative_rate: float
    """How often an answer of the alternative exceeds; power is given for it."""
    level: float
    """How often the bets may win by chance."""

    def __post_init__(self) -> None:
        """Refuse bets that cannot win.

        Raises:
            RequestError: `invalid-request`.
        """
        _check_level(self.level, "level")
        if not self.alternative.strip():
            raise _refused("an alternative has a name")
        if not self.null.rate < self.alternative_rate < 1:
            raise _refused(
                "the alternative must exceed more often than the registered model, and not always"
            )

    @property
    def false_alarm_rate(self) -> float:
        """How often an honest operator is accused at most, over all of time."""
        return self.level + self.null.miss

    @property
    def decisive(self) -> float:
        """Natural logarithm of the e-value that counts as drift."""
        return -math.log(self.level)

    def bet(self, *, exceeded: bool) -> float:
        """Return the logarithm of what one trial multiplies the e-value by."""
        if exceeded:
            return math.log(self.alternative_rate / self.null.rate)
        return math.log1p(-self.alternative_rate) - math.log1p(-self.null.rate)

    def log_e_values(self, exceeded: Sequence[bool], *, carried: float = 0.0) -> list[float]:
        """Return the logarithm of the e-value after each trial.

        Args:
            exceeded: the trials, in the order of the draw.
            carried: what earlier audits of this very test ended with.
        """
        values = []
        current = carried
        for each in exceeded:
            current += self.bet(exceeded=each)
            values.append(current)
        return values

    def power(self, trials: int, *, rate: float | None = None, carried: float = 0.0) -> float:
        """Return how probably drift is found within so many trials; exact.

        Args:
            trials: how many answers are audited.
            rate: how often one exceeds; the alternative's where it is not given.
            carried: what earlier audits of this very test ended with.

        Raises:
            RequestError: `invalid-request`.
        """
        if not 0 <= trials <= MAX_TRIALS:
            raise _refused(f"expected at most {MAX_TRIALS} trials")
        truth = self.alternative_rate if rate is None else rate
        if not 0 <= truth <= 1:
            raise _refused("expected a rate from 0 to 1")
        if carried >= self.decisive:
            return 1.0
        up, down = self.bet(exceeded=True), self.bet(exceeded=False)
        # Probability of each number of exceedances so far, of paths that have not decided.
        open_paths = {0: 1.0}
        found = 0.0
        for done in range(1, trials + 1):
            following: dict[int, float] = {}
            for count, probability in open_paths.items():
                for more, chance in ((1, truth), (0, 1 - truth)):
                    if not chance or probability < 1e-18:
                        continue
                    total = count + more
                    if carried + total * up + (done - total) * down >= self.decisive:
                        found += probability * chance
                    else:
                        following[total] = following.get(total, 0.0) + probability * chance
            open_paths = following
        return min(1.0, found)

    def trials_for(self, power: float, *, most: int = 10_000) -> int | None:
        """Return how many answers give this power against the alternative.

        Args:
            power: how probably drift is to be found.
            most: how far to look.

        Returns:
            The number, or `None` where `most` do not suffice.
        """
        low, high = 0, 1
        while high <= most and self.power(high) < power:
            low, high = high, 2 * high
        if high > most:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.power(middle) < power:
                low = middle
            else:
                high = middle
        return high


def _check_level(value: float, name: str) -> None:
    if not LEAST_LEVEL <= value <= 0.5:
        raise _refused(f"expected a {name} above 0, and at most one half")


def _refused(what: str) -> RequestError:
    return RequestError(what, reason=Reason.INVALID_REQUEST)
