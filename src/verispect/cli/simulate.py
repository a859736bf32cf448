"""`verispect simulate`: which assurance callers come to choose, at which prices (docs/simulate.md).

A model and not a measurement: every caller has stakes, patience and a value of time, drawn from a
seed, and takes the mode with the least expected cost. What a mode costs and how long it takes is
the operator's to give, from its own history; what it leaves undetected is an assumption, and the
table says so. Reaches nothing but its arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from verispect.cli.files import read_file, to_json
from verispect.cli.outcome import EXIT_DONE, plain
from verispect.core.errors import RequestError

MAX_CALLERS: Final = 1_000_000
MAX_MODES: Final = 16
_WIDTH: Final = 50
_PRICES: Final = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to be assured of an inference."""

    name: str
    cost: float
    """What it adds to the cost of the inference, as a multiple of that cost."""
    seconds: float
    """Until the assurance is there."""
    undetected: float
    """Of wrong answers, the fraction that stays undetected: an assumption."""


EXAMPLE_MODES: Final = (
    Mode("signed", 0.01, 0.0, 1.0),
    Mode("logged", 0.02, 2.0, 0.5),
    Mode("audited", 2.1, 10.0, 0.05),
    Mode("attested", 0.1, 0.1, 0.1),
    Mode("proven", 500.0, 60.0, 0.000001),
)
"""An example to play with, not figures of this or any machine."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One request, and what hangs on it, in multiples of the cost of one inference."""

    stakes: float
    """What a wrong answer costs that nobody notices."""
    second: float
    """What waiting a second costs."""
    patience: float
    """Seconds after which an answer is of no use."""


def draw_callers(count: int, seed: int, *, stakes: float, spread: float) -> list[Caller]:
    """Return callers with lognormal stakes, value of time and patience.

    Args:
        count: how many.
        seed: the same one gives the same callers.
        stakes: the median stakes.
        spread: standard deviation of the logarithm of the stakes.
    """
    draw = random.Random(seed)  # noqa: S311 - a simulation that can be repeated
    return [
        Caller(
            stakes * math.exp(draw.gauss(0.0, spread)),
            0.05 * math.exp(draw.gauss(0.0, 1.5)),
            30.0 * math.exp(draw.gauss(0.0, 1.5)),
        )
        for _ in range(count)
    ]


def choose(caller: Caller, modes: Sequence[Mode], *, price: float, wrong: float) -> str:
    """Return the mode that costs this caller least, `none` where no mode is in time.

    Args:
        caller: who asks.
        modes: what is offered.
        price: of assurance, as a multiple of its cost.
        wrong: how often an answer is wrong.
    """
    offered = [
        (
            price * mode.cost
            + caller.second * mode.seconds
            + caller.stakes * wrong * mode.undetected,
            mode.name,
        )
        for mode in modes
        if mode.seconds <= caller.patience
    ]
    return min(offered)[1] if offered else "none"


def simulate(
    callers: Sequence[Caller], modes: Sequence[Mode], *, prices: Sequence[float], wrong: float
) -> dict[float, dict[str, float]]:
    """Return by price the share of callers that chose each mode."""
    names = [*(mode.name for mode in modes), "none"]
    result = {}
    for price in prices:
        chosen = Counter(choose(each, modes, price=price, wrong=wrong) for each in callers)
        result[price] = {name: chosen[name] / len(callers) for name in names}
    return result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "simulate", help="play which assurance comes to dominate at which prices"
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--modes", type=Path, help="measured cost and time of each mode (JSON); else an example"
    )
    given.add_argument(
        "--advice", type=Path, help="take cost and time from what verispect advise --json printed"
    )
    parser.add_argument("--callers", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the same gives the same result")
    parser.add_argument("--stakes", type=float, default=100.0, help="median, in inferences")
    parser.add_argument("--spread", type=float, default=3.0, help="of the stakes' logarithm")
    parser.add_argument("--wrong", type=float, default=0.01, help="how often answers are wrong")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    numbers = (arguments.stakes, arguments.spread, arguments.wrong)
    if not 1 <= arguments.callers <= MAX_CALLERS or not all(map(math.isfinite, numbers)):
        raise RequestError(f"expected 1 to {MAX_CALLERS} callers, and finite numbers")
    if arguments.stakes < 0 or not 0 <= arguments.spread <= 20 or not 0 <= arguments.wrong <= 1:
        raise RequestError("expected stakes >= 0, a spread of 0 to 20 and a rate of 0 to 1")
    modes, said = _modes(arguments)
    callers = draw_callers(
        arguments.callers, arguments.seed, stakes=arguments.stakes, spread=arguments.spread
    )
    shares = simulate(callers, modes, prices=_PRICES, wrong=arguments.wrong)
    if arguments.json:
        rows = [{"price": price, "shares": row} for price, row in shares.items()]
        shown = [asdict(mode) for mode in modes]
        document = {"seed": arguments.seed, "modes": shown, "modes_from": said}
        print(to_json({**document, "prices": rows}))
        return EXIT_DONE
    print(f"a simulation, not a measurement; modes: {said}")
    for price, row in shares.items():
        print(f"\nassurance sold at {price:g} times its cost")
        for name, share in row.items():
            if share:
                print(f"  {name:<12} {share:>6.1%}  {'#' * max(1, round(_WIDTH * share))}")
    return EXIT_DONE


def _modes(arguments: argparse.Namespace) -> tuple[Sequence[Mode], str]:
    """Return the modes, and in words where they come from."""
    if arguments.modes is not None:
        return read_modes(arguments.modes), "as given"
    if arguments.advice is None:
        return EXAMPLE_MODES, "an example"
    modes, left_out = read_advised_modes(arguments.advice)
    absent = f"; left out, not measured yet: {', '.join(left_out)}" if left_out else ""
    return modes, f"measured by the operator, what stays undetected is assumed{absent}"


def read_advised_modes(path: Path) -> tuple[list[Mode], list[str]]:
    """Make modes of an operator's own figures, and name what it has no figures for.

    Cost is the price above that of `signed`; where nothing is sold it is machine time, of the
    answer and of the proof, above that of a signed answer. An audit, which runs elsewhere, has no
    cost then and is left out. Evidence whose time is not measured takes as long as was promised.

    Raises:
        RequestError: `invalid-request`: no advice, or none that has a figure for `signed`.
        StoreError: `store-failed`.
    """
    try:
        options = json.loads(read_file(path, limit=4 << 20).decode("utf-8"))["options"]
        named = {plain(each["name"]): each for each in options if type(each["assurance"]) is str}
        base = named["signed"]
        modes = {name: _advised(name, each, base) for name, each in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            "expected advice with a figure for signed, from verispect advise --json",
            parameter="advice",
        ) from error
    found = [mode for mode in modes.values() if mode is not None][:MAX_MODES]
    return found, [name for name, mode in modes.items() if mode is None]


def _advised(name: str, option: dict[str, Any], base: dict[str, Any]) -> Mode | None:
    usual = max(1, _figure(base["measured"]["answer_ms"]["median"]))
    words, measured = name.split("+"), option["measured"]
    if measured["answer_ms"] is None or measured.get("proof_ms", {}) is None:
        return None
    answer = _figure(measured["answer_ms"]["median"])
    proof = _figure(measured["proof_ms"]["median"]) if "proof_ms" in measured else 0
    late = {kind: _figure(seconds) for kind, seconds in option["promised_seconds"].items()}
    if proof:
        late["proof"] = proof / 1000
    if option["price"] is not None:
        price, least = _figure(int(option["price"])), _figure(int(base["price"]))
        cost = max(0.0, price / max(1, least) - 1)
    elif "audited" in words:
        return None
    else:
        cost = max(0.0, (answer + proof) / usual - 1)
    known = {mode.name: mode.undetected for mode in EXAMPLE_MODES}
    undetected = min(known.get(word, 1.0) for word in words)
    return Mode(name, cost, max(late.values(), default=0.0), undetected)


def _figure(value: Any) -> float:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("this is no figure")
    return value


def read_modes(path: Path) -> list[Mode]:
    """Read an array of modes.

    Raises:
        RequestError: `invalid-request`.
        StoreError: `store-failed`.
    """
    names = {each.name for each in fields(Mode)}
    try:
        rows: Any = json.loads(read_file(path, limit=65_536).decode("utf-8"))
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_MODES:
            raise ValueError
        modes = []
        for row in rows:
            values = [row["cost"], row["seconds"], row["undetected"]]
            numbers = [float(value) for value in values]
            if row.keys() != names or not all(0 <= each < math.inf for each in numbers):
                raise ValueError
            modes.append(Mode(str(row["name"]), *numbers))
        if numbers_above_one(modes) or len({mode.name for mode in modes}) != len(modes):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"expected 1 to {MAX_MODES} modes, each with {', '.join(sorted(names))}",
            parameter="modes",
        ) from error
    return modes


def numbers_above_one(modes: Sequence[Mode]) -> bool:
    """Tell whether a fraction is none."""
    return any(mode.undetected > 1 for mode in modes)
