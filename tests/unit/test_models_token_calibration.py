"""The calibration of teacher forcing: its bounds, its record, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest

from verispect.core.encoding import encode_content
from verispect.core.errors import MalformedError, ModelError, Reason
from verispect.core.statement import Determinism
from verispect.models.qualification import Qualification, load_record, record_qualification
from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry
from verispect.models.token_calibration import (
    HonestSample,
    ModeCalibration,
    TokenScoreCalibration,
    WrongSample,
    binomial_tail,
    load_calibration,
    quantiles,
    record_calibration,
    upper_bound,
)
from verispect.testing.tiny_gguf import write_tiny_gguf

HONEST = HonestSample(48, 2304, 3, 0.04, 12, 1, 0)
CALIBRATION = TokenScoreCalibration(
    greedy=ModeCalibration(HONEST, (WrongSample("answer to another prompt", 16, 0, 14),)),
    sampled=ModeCalibration(HONEST, (WrongSample("answer to another prompt", 32, 1, 20),)),
    variations=("four at once", "two threads"),
    logprob_differences=(0.0, 0.001, 0.02, 0.125),
    ranks=(1, 40, 900, 6016),
)


@pytest.mark.parametrize(
    ("trials", "successes", "rate"), [(10, 3, 0.2), (40, 1, 0.01), (40, 4, 0.002), (7, 7, 0.5)]
)
def test_a_tail_is_the_sum_of_its_terms(trials: int, successes: int, rate: float) -> None:
    """The binomial tail is exact."""
    terms = [
        math.comb(trials, each) * rate**each * (1 - rate) ** (trials - each)
        for each in range(successes, trials + 1)
    ]
    assert binomial_tail(trials, successes, rate) == pytest.approx(sum(terms), rel=1e-9)


def test_the_ends_of_a_tail_are_certain_and_impossible() -> None:
    """Nothing is always exceeded, and what cannot happen does not."""
    assert binomial_tail(10, 0, 0.0) == 1.0
    assert binomial_tail(10, 1, 0.0) == 0.0
    assert binomial_tail(10, 11, 1.0) == 0.0
    assert binomial_tail(10, 10, 1.0) == 1.0


def test_a_bound_is_the_exact_one_and_never_below() -> None:
    """No failure in n trials bounds the rate by 1 - 0.01^(1/n); more failures raise it."""
    for trials in (1, 16, 100, 2304):
        exact = 1 - 0.01 ** (1 / trials)
        assert exact <= upper_bound(trials, 0) <= exact + 2e-6
    assert upper_bound(100, 0) < upper_bound(100, 1) < upper_bound(100, 50) < 1
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1.0
    bound = upper_bound(100, 3)
    assert 1 - binomial_tail(100, 4, bound) == pytest.approx(0.01, rel=1e-3)


def test_quantiles_are_values_of_the_sample() -> None:
    """The last is the largest; an empty sample has zeros."""
    assert quantiles([float(each) for each in range(1, 101)]) == (50.0, 90.0, 99.0, 100.0)
    assert quantiles([]) == (0.0,) * 4


def test_a_tolerance_is_above_what_the_sample_showed() -> None:
    """Noise may be twice what was seen, and never less than a floor."""
    tolerance = HONEST.tolerance()
    assert tolerance.disagreement_rate > 3 / 2304
    assert (tolerance.gap, tolerance.rank) == (0.08, 24)
    still = HonestSample(48, 2304, 0, 0.0, 0, 0, 0).tolerance()
    assert still.disagreement_rate > 0
    assert still.gap > 0
    assert still.rank > 1
    assert still.refuting_gap > still.gap


def test_a_calibration_reads_back() -> None:
    """The record's form is read back whole, and the way of sampling picks its half."""
    again = TokenScoreCalibration.from_content(CALIBRATION.to_content())
    assert again == CALIBRATION
    assert again.mode(0.0) is again.greedy
    assert again.mode(0.7) is again.sampled
    rates = again.sampled.error_rates()
    assert float(rates["wrong_affirmed_bound"]["answer to another prompt"]) > 1 / 32
    assert float(rates["honest_doubted_bound"]) > 1 / 48


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("greedy", "honest", "tolerance", "gap"), "9"),
        (("greedy", "honest", "tolerance", "disagreement_rate"), "0.5"),
        (("sampled", "wrong", 0, "affirmed_bound"), "0"),
        (("greedy", "honest", "tokens"), "many"),
        (("version",), 2),
        (("ranks",), None),
        (("extra",), 1),
    ],
)
def test_a_tolerance_wider_than_its_sample_is_refused(
    path: tuple[object, ...], value: object
) -> None:
    """What is stated must follow from the sample that is stated with it."""
    content = copy.deepcopy(CALIBRATION.to_content())
    inner = content
    for step in path[:-1]:
        inner = inner[step]  # type: ignore[index]
    inner[path[-1]] = value  # type: ignore[index]
    with pytest.raises(MalformedError):
        TokenScoreCalibration.from_content(content)


def test_it_stands_in_the_qualification_record_and_changes_the_identity(tmp_path: Path) -> None:
    """The digest in the manifest covers the calibration; a new qualification drops it."""
    registry = ModelRegistry(tmp_path / "registry")
    model = register_file(registry, "tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert load_calibration(registry, model) is None
    with pytest.raises(ModelError) as refused:
        record_calibration(registry, model, CALIBRATION)
    assert refused.value.reason is Reason.UNSUPPORTED_MODEL
    record = encode_content({"version": 1, "engine": {"name": "llama.cpp"}, "results": []})
    outcome = Qualification(Determinism.EXACT, None, (), record)
    qualified = record_qualification(registry, model, outcome)
    assert load_calibration(registry, qualified) is None
    calibrated = record_calibration(registry, qualified, CALIBRATION)
    assert calibrated.model_id != qualified.model_id
    assert load_calibration(registry, calibrated) == CALIBRATION
    assert calibrated.manifest.determinism.determinism is Determinism.EXACT
    kept = load_record(registry, calibrated)
    assert kept is not None
    assert kept["engine"] == {"name": "llama.cpp"}
    assert record_qualification(registry, calibrated, outcome).model_id == qualified.model_id
