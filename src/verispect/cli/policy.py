"""`verispect policy`: show what a policy requires, in full, and name its weak spots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from verispect.appraisal.policy import PRESETS
from verispect.appraisal.policy_lint import RULES, Level, LintFinding, lint
from verispect.cli.files import read_policy, to_json
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "policy",
        help="show what a policy requires, in full, and name its weak spots",
        description=f"Show a policy in full. Presets: {', '.join(sorted(PRESETS))}.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print a preset or a policy file in full")
    show.add_argument("policy", help="preset, sum such as attested+proven, or file (TOML, JSON)")
    show.add_argument("--json", action="store_true", help="print the form for requests")
    digest = actions.add_parser("digest", help="print the digest that a statement carries")
    digest.add_argument("policy", help="preset, sum of presets, or file")
    check = actions.add_parser(
        "lint",
        help="name the weak spots of a policy",
        description="Name the weak spots of a policy. Exit code: 0 none, 1 an error or a weakness "
        "(with --strict also a note), 3 no policy.",
    )
    check.add_argument("policy", help="preset, sum of presets, or file")
    check.add_argument("--strict", action="store_true", help="let notes fail too")
    check.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="CODE",
        choices=[rule.code for rule in RULES],
        help="a weak spot that is wanted; repeatable",
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    policy = read_policy(arguments.policy)
    if arguments.action == "digest":
        print(policy.digest().hex())
        return EXIT_DONE
    if arguments.action == "lint":
        found = [each for each in lint(policy) if each.code not in arguments.allow]
        fails = any(each.level is not Level.NOTE or arguments.strict for each in found)
        if arguments.json:
            view = {"policy": {"name": policy.name, "digest": policy.digest().hex()}}
            print(to_json({**view, "findings": [each.to_json() for each in found]}))
        else:
            _print_findings(found)
        sys.stdout.flush()
        print(_summary(found, fails=fails), file=sys.stderr)
        return EXIT_REFUSED if fails else EXIT_DONE
    if arguments.json:
        print(to_json(policy.to_json()))
        return EXIT_DONE
    print(f"# digest {policy.digest().hex()}")
    print(policy.to_toml(), end="")
    return EXIT_DONE


def _print_findings(found: Sequence[LintFinding]) -> None:
    for each in found:
        print(f"{each.level.value:<5}  {each.message}  ({each.code})")
        print(f"       remedy: {each.remedy}")


def _summary(found: Sequence[LintFinding], *, fails: bool) -> str:
    counts = [(level, sum(each.level is level for each in found)) for level in Level]
    words = ", ".join(f"{count} {level.value}" for level, count in counts if count)
    return f"{'FAIL' if fails else 'OK'}: {words or 'no weak spot'}"
