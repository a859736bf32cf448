"""The simulation: repeatable, and true to the few laws that its model has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from verispect.cli.main import main
from verispect.cli.simulate import EXAMPLE_MODES, Mode, choose, draw_callers, simulate

CALLERS = draw_callers(500, 7, stakes=100.0, spread=3.0)


def test_the_same_seed_gives_the_same_result_and_shares_add_up() -> None:
    """A run can be repeated; another seed draws other callers."""
    assert draw_callers(500, 7, stakes=100.0, spread=3.0) == CALLERS
    assert draw_callers(500, 8, stakes=100.0, spread=3.0) != CALLERS
    shares = simulate(CALLERS, EXAMPLE_MODES, prices=(0.1, 1.0, 10.0), wrong=0.01)
    assert all(sum(row.values()) == pytest.approx(1.0) for row in shares.values())


def test_nobody_takes_a_mode_that_another_beats_in_everything() -> None:
    """Dearer, later and weaker is never chosen."""
    worse = Mode("worse", 3.0, 11.0, 0.06)
    shares = simulate(CALLERS, [*EXAMPLE_MODES, worse], prices=(0.1, 1.0, 10.0), wrong=0.01)
    assert all(row["worse"] == 0 for row in shares.values())


def test_without_stakes_the_cheapest_and_quickest_takes_all() -> None:
    """Nobody pays for what does not matter."""
    careless = [replace(each, stakes=0.0) for each in CALLERS]
    shares = simulate(careless, EXAMPLE_MODES, prices=(1.0,), wrong=0.01)
    assert shares[1.0]["signed"] == 1.0


def test_cheaper_assurance_leaves_patient_callers_with_less_undetected() -> None:
    """Where nobody is in a hurry, a lower price never makes anybody choose a weaker mode."""
    undetected = {mode.name: mode.undetected for mode in EXAMPLE_MODES}
    for caller in CALLERS:
        patient = replace(caller, second=0.0, patience=1e9)
        chosen = [
            undetected[choose(patient, EXAMPLE_MODES, price=price, wrong=0.01)]
            for price in (0.01, 0.1, 1.0, 10.0)
        ]
        assert chosen == sorted(chosen)


def test_modes_of_a_file_are_played_and_a_wrong_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator's own figures are used; anything else is a usage error."""
    path = tmp_path / "modes.json"
    path.write_text('[{"name": "only", "cost": 1, "seconds": 0, "undetected": 0.5}]')
    assert main(["simulate", "--callers=10", f"--modes={path}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["prices"]
    assert all(row["shares"]["only"] == 1.0 for row in rows)
    for bad in ("[]", "{}", '[{"name": "x"}]', "nonsense", path.read_text().replace("0.5", "2")):
        path.write_text(bad)
        assert main(["simulate", f"--modes={path}"]) == 2
    assert main(["simulate", "--callers=0"]) == 2
    assert main(["simulate", "--callers=100"]) == 0
    assert "simulation" in capsys.readouterr().out


def _spread(median: object) -> dict[str, object]:
    return {"samples": 9, "median": median, "high": median}


def _advice(tmp_path: Path, **changes: object) -> Path:
    def option(name: str, price: str | None = None, **more: object) -> dict[str, object]:
        measured = {"answer_ms": _spread(10), **more}
        return {
            "name": name,
            "assurance": name,
            "price": price,
            "promised_seconds": {"proof": 600} if "proof_ms" in more else {},
            "measured": measured,
        }

    options = [
        option("signed"),
        option("proven", proof_ms=_spread(4000)),
        option("audited"),
        {**option("attested"), "measured": {"answer_ms": None}},
    ]
    options[0].update(changes)
    path = tmp_path / "advice.json"
    path.write_text(json.dumps({"options": options}))
    return path


def test_modes_are_taken_from_measured_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cost and time are those of the operator; what it did not measure is left out and named."""
    assert main(["simulate", f"--advice={_advice(tmp_path)}", "--callers=50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    modes = {each["name"]: each for each in document["modes"]}
    assert modes.keys() == {"signed", "proven"}
    assert modes["signed"]["cost"] == 0
    assert modes["proven"]["cost"] == pytest.approx(400)
    assert modes["proven"]["seconds"] == 4
    assert "left out, not measured yet: audited, attested" in document["modes_from"]


@pytest.mark.parametrize(
    "changes",
    [
        {"measured": {"answer_ms": None}},
        {"measured": {"answer_ms": _spread(-1)}},
        {"measured": {"answer_ms": _spread(float("nan"))}},
        {"measured": {"answer_ms": _spread(1 << 70)}},
        {"measured": 7},
        {"price": "free"},
        {"name": "other"},
    ],
)
def test_advice_without_a_usable_figure_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """No figure for `signed`, or one that is none: nothing is played."""
    assert main(["simulate", f"--advice={_advice(tmp_path, **changes)}", "--callers=5"]) == 2
