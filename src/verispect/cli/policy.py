"""`verispect policy`: show what a policy requires, in full."""

from __future__ import annotations

import argparse

from verispect.appraisal.policy import PRESETS
from verispect.cli.files import read_policy, to_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "policy",
        help="show what a policy requires, in full",
        description=f"Show a policy in full. Presets: {', '.join(sorted(PRESETS))}.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print a preset or a policy file in full")
    show.add_argument("policy", help="preset, sum such as attested+proven, or file (TOML, JSON)")
    show.add_argument("--json", action="store_true", help="print the form for requests")
    digest = actions.add_parser("digest", help="print the digest that a statement carries")
    digest.add_argument("policy", help="preset, sum of presets, or file")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    policy = read_policy(arguments.policy)
    if arguments.action == "digest":
        print(policy.digest().hex())
        return 0
    if arguments.json:
        print(to_json(policy.to_json()))
        return 0
    print(f"# digest {policy.digest().hex()}")
    print(policy.to_toml(), end="")
    return 0
