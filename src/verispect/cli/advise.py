"""`verispect advise`: what to ask a gateway for, and why.

The recommendation is held to the table of stakes of this program, not of the gateway. Exit code 1
where nothing can be recommended: less than the stakes require is never a way out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from verispect.appraisal.stakes import STAKES
from verispect.cli.files import to_json, write_file
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED, plain

_NOT_MEASURED: Final = "not measured yet"
_NUMBERS: Final = ("latency_ms", "assured_seconds", "budget", "input_tokens", "output_tokens")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "advise",
        help="what to ask a gateway for, given what hangs on the answer",
        description="Lists what a gateway really delivers for a model, with figures from its own "
        "history, and what it recommends; refuses less than the stakes require.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8402", help="the gateway")
    parser.add_argument("--model", required=True, help="the name the gateway serves it under")
    parser.add_argument(
        "--stakes",
        required=True,
        choices=tuple(STAKES),
        help="; ".join(f"{name}: {rule.means}" for name, rule in STAKES.items()),
    )
    parser.add_argument("--latency-ms", metavar="N", help="the answer must be there within")
    parser.add_argument("--assured-seconds", metavar="N", help="all evidence must be there within")
    parser.add_argument(
        "--budget", metavar="N", help="most for one request, in the asset's smallest unit"
    )
    parser.add_argument(
        "--input-tokens", metavar="N", help="how long the request is, for its price"
    )
    parser.add_argument("--output-tokens", metavar="N", help="how long the answer may be")
    parser.add_argument(
        "--privacy",
        choices=("none", "operator"),
        default="none",
        help="operator: the operator must not read request and answer",
    )
    parser.add_argument("--save-policy", type=Path, metavar="FILE", help="keep it, as TOML")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.client.advice import fetch_advice

    wishes = {name: getattr(arguments, name) for name in ("model", "stakes", "privacy")}
    for name in _NUMBERS:
        if getattr(arguments, name) is not None:
            wishes[name] = getattr(arguments, name)
    advice = fetch_advice(arguments.url, wishes)
    if arguments.json:
        print(to_json(dict(advice.document)))
    else:
        asset = advice.document.get("asset")
        for number, option in enumerate(advice.options):
            _print(option, asset, recommended=number == advice.recommended)
    sys.stdout.flush()
    if advice.policy is None:
        print(f"FAIL: nothing to recommend: {plain(advice.reason)}", file=sys.stderr)
        return EXIT_REFUSED
    if arguments.save_policy is not None:
        write_file(arguments.save_policy, advice.policy.to_toml().encode())
    print(f"OK: take {advice.policy.name}: {plain(advice.reason)}", file=sys.stderr)
    return EXIT_DONE


def _print(option: Mapping[str, Any], asset: object, *, recommended: bool) -> None:
    mark = "*" if recommended else " "
    print(f"{mark} {plain(option.get('name'))}")
    measured = option.get("measured")
    figures = measured if isinstance(measured, Mapping) else {}
    print(f"    answer       {_spread(figures.get('answer_ms'), 'ms')}")
    if "proof_ms" in figures:
        print(f"    proof        {_spread(figures.get('proof_ms'), 'ms')}")
        print(f"    proof size   {_spread(figures.get('proof_bytes'), 'bytes')}")
    promised = option.get("promised_seconds")
    late = promised if isinstance(promised, Mapping) else {}
    for kind, seconds in late.items():
        print(f"    {plain(kind)[:12]:<12} promised within {plain(seconds)} s")
    price = option.get("price")
    print(f"    price        {'nothing is sold here' if price is None else _price(price, asset)}")
    for title in ("shortfalls", "obstacles", "uncovered"):
        lines = option.get(title)
        for line in lines if isinstance(lines, list) else ():
            print(f"    {_TITLES[title]:<12} {plain(line)}")


_TITLES: Final = {"shortfalls": "not enough", "obstacles": "does not fit", "uncovered": "uncovered"}


def _price(price: object, asset: object) -> str:
    return f"at most {plain(price)} of {plain(asset)}"


def _spread(figure: object, unit: str) -> str:
    if not isinstance(figure, Mapping):
        return _NOT_MEASURED
    median, high, samples = (
        plain(json.dumps(figure.get(name))) for name in ("median", "high", "samples")
    )
    return f"{median} {unit} in the median, 19 of 20 up to {high} ({samples} measured)"
