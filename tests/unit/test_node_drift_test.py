"""The statistics of an audit, and its draw: error rates that are kept, a sample nobody chose."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log_leaves import NODES
from verispect.core.encoding import sha256
from verispect.core.errors import RequestError, VerificationError
from verispect.node.audit_sample import AuditedRange, check_sample, draw_sample, sample_size
from verispect.node.drift_test import DriftNull, DriftTest, calibrate
from verispect.tlog.checkpoint import Checkpoint

NULL = DriftNull(threshold=0.05, answers=256, miss=0.005)
TEST = DriftTest(NULL, "4-bit weights", 0.9, 0.005)
POINT = Checkpoint("log.example/audit", 500, sha256(b"root"))
RANGE = AuditedRange(POINT, 0, 500)
RECEIPTS = {leaf: sha256(b"receipt %d" % leaf) for leaf in range(500)}
BEACON = b"a beacon of that day"


@given(st.lists(st.booleans(), max_size=12), st.floats(0.0, 1.0))
def test_bets_are_fair_or_worse_for_every_honest_rate(past: list[bool], share: float) -> None:
    """Whatever came before, one more trial does not raise the expected e-value under the null."""
    rate = share * NULL.rate
    before = math.exp(sum(TEST.bet(exceeded=each) for each in past))
    after = rate * before * math.exp(TEST.bet(exceeded=True))
    after += (1 - rate) * before * math.exp(TEST.bet(exceeded=False))
    assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize("level", [0.1, 0.01, 0.005])
def test_looking_after_every_answer_accuses_an_honest_operator_no_more_often(level: float) -> None:
    """Ville: the exact probability ever to win under the null stays below the level."""
    test = DriftTest(NULL, "4-bit weights", 0.5, level)
    assert 0 < test.power(2000, rate=NULL.rate) <= level


def test_power_is_that_of_counting_every_path() -> None:
    """The exact recursion agrees with brute force over all outcomes."""
    for rate in (0.3, 0.9, 0.97):
        expected = 0.0
        for path in itertools.product((True, False), repeat=6):
            if max(TEST.log_e_values(path)) >= TEST.decisive:
                expected += rate ** sum(path) * (1 - rate) ** (6 - sum(path))
        assert TEST.power(6, rate=rate) == pytest.approx(expected)


def test_five_answers_suffice_where_the_alternative_nearly_always_exceeds() -> None:
    """One per cent of 500 requests finds, at 99 per cent, what exceeds in 97 of 100 answers."""
    test = DriftTest(NULL, "4-bit weights", 0.85, 0.005)
    assert test.false_alarm_rate == 0.01
    assert test.power(sample_size(500, Fraction(1, 100)), rate=0.97) > 0.99
    needed = test.trials_for(0.99)
    assert needed is not None
    assert test.power(needed) >= 0.99 > test.power(needed - 1)


def test_more_looking_never_loses_power_and_no_trials_have_none() -> None:
    """Power grows with the trials, and what is carried over counts."""
    powers = [TEST.power(trials) for trials in range(8)]
    assert powers == sorted(powers)
    assert powers[0] == 0
    assert TEST.power(1, carried=3.0) > TEST.power(1)
    assert TEST.power(0, carried=TEST.decisive) == 1
    assert DriftTest(NULL, "a little", 0.03, 0.005).trials_for(0.99, most=10) is None


@pytest.mark.parametrize("shape", ["ties", "continuous", "rare"])
def test_the_bound_of_a_calibration_holds_for_any_distribution(shape: str) -> None:
    """The true rate of exceeding is above the bound in no more calibrations than declared."""
    draw = random.Random(shape)
    wrong = 0
    for _ in range(2000):
        if shape == "continuous":
            largest = max(draw.random() for _ in range(40))
            truth = 1 - largest
        elif shape == "ties":
            largest = max(draw.randrange(10) / 10 for _ in range(40))
            truth = round(0.9 - largest, 1)
        else:
            largest = 0.5 if any(draw.random() < 0.05 for _ in range(40)) else 0.0
            truth = 0.05 if largest == 0 else 0.0
        null = DriftNull(min(largest, 0.999), 40, 0.1)
        wrong += truth > null.rate
    assert wrong / 2000 < 0.1 + 0.025


def test_a_calibration_takes_its_largest_and_refuses_few_or_foreign_answers() -> None:
    """A threshold is a measured one; an answer that disagrees throughout is not the model's."""
    null = calibrate([0.0] * 60 + [0.1], miss=0.01)
    assert (null.threshold, null.answers) == (0.1, 61)
    assert not null.exceeds(0.1)
    assert null.exceeds(0.11)
    for shares in ([], [0.0] * 31, [0.0] * 60 + [1.0]):
        with pytest.raises(RequestError):
            calibrate(shares, miss=0.01)


@pytest.mark.parametrize(
    ("name", "rate", "level"),
    [("", 0.9, 0.01), ("x", 0.001, 0.01), ("x", 1.0, 0.01), ("x", 0.9, 0.0), ("x", 0.9, math.nan)],
)
def test_bets_that_cannot_win_or_have_no_name_are_refused(
    name: str, rate: float, level: float
) -> None:
    """An alternative has a name and exceeds more often; a level is one."""
    with pytest.raises(RequestError):
        DriftTest(NULL, name, rate, level)


def test_a_draw_can_be_repeated_by_anyone_and_checked() -> None:
    """The same checkpoint and beacon give the same answers in the same order; others do not."""
    seed = RANGE.seed(BEACON)
    drawn = draw_sample(RECEIPTS, seed=seed, size=5)
    assert len(set(drawn)) == 5
    check_sample(drawn, dict(reversed(RECEIPTS.items())), seed=seed, size=5)
    assert draw_sample(RECEIPTS, seed=seed, size=6)[:5] == drawn
    assert draw_sample(RECEIPTS, seed=seed, size=999) != sorted(RECEIPTS)
    with pytest.raises(VerificationError):
        check_sample(drawn[::-1], RECEIPTS, seed=seed, size=5)
    with pytest.raises(VerificationError):
        check_sample(drawn, RECEIPTS, seed=RANGE.seed(BEACON + b"!"), size=5)
    other = AuditedRange(Checkpoint(POINT.origin, 500, sha256(b"other")), 0, 500)
    assert other.seed(BEACON) != seed
    assert AuditedRange(POINT, 1, 500).seed(BEACON) != seed


def test_an_auditors_beacon_is_its_own_signature() -> None:
    """It repeats, another key gives another, and it can be checked by the public key."""
    signer, other = list(NODES.values())[:2]
    beacon = RANGE.auditor_beacon(signer)
    assert beacon == RANGE.auditor_beacon(signer)
    RANGE.check_auditor_beacon(beacon, signer.public_key)
    with pytest.raises(VerificationError):
        RANGE.check_auditor_beacon(beacon, other.public_key)
    with pytest.raises(VerificationError):
        AuditedRange(POINT, 0, 400).check_auditor_beacon(beacon, signer.public_key)


@pytest.mark.parametrize("beacon", [b"", b"short", b"x" * 1025])
def test_no_seed_without_a_beacon(beacon: bytes) -> None:
    """A checkpoint alone is the operator's choice, and gives no seed."""
    with pytest.raises(RequestError):
        RANGE.seed(beacon)


@pytest.mark.parametrize(("first", "end"), [(0, 501), (5, 5), (6, 5), (-1, 5)])
def test_a_range_lies_inside_of_its_checkpoint(first: int, end: int) -> None:
    """What is not in the log yet is not audited."""
    with pytest.raises(RequestError):
        AuditedRange(POINT, first, end)


def test_every_receipt_is_as_likely_as_another() -> None:
    """Over many beacons each is drawn about as often."""
    counts = dict.fromkeys(range(20), 0)
    small = {leaf: RECEIPTS[leaf] for leaf in range(20)}
    for number in range(2000):
        for leaf in draw_sample(small, seed=RANGE.seed(b"beacon %020d" % number), size=2):
            counts[leaf] += 1
    assert all(140 < each < 265 for each in counts.values())
