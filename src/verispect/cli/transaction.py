"""Transactions at the command line: `verify` and `inspect` take their files too."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import ExpectedTransaction, TransactionVerifier
from verispect.appraisal.transaction_result import TransactionResult
from verispect.cli.files import read_policy, read_trusted_root, to_json
from verispect.cli.outcome import EXIT_COULD_NOT_TELL, EXIT_DONE, EXIT_REFUSED, plain
from verispect.core.claims import Claim, Source
from verispect.core.encoding import from_base64url
from verispect.core.errors import Reason, RequestError
from verispect.core.transaction_files import TransactionBundle, read_transaction_file
from verispect.evidence.interface import CheckStatus
from verispect.evidence.registry import load_kinds

_MARKS = {CheckStatus.PASSED: "ok  ", CheckStatus.FAILED: "FAIL", CheckStatus.UNKNOWN: "??  "}
_OF_ONE_RECEIPT = ("openings", "request", "response")


def run_transaction(arguments: argparse.Namespace, data: bytes, *, now: int) -> int:
    """Decide a transaction, or one part of it, and return the exit code."""
    for name in _OF_ONE_RECEIPT:
        if getattr(arguments, name) is not None:
            raise RequestError(f"--{name} is of one receipt, not of a transaction", parameter=name)
    nonce = None if arguments.nonce is None else from_base64url(arguments.nonce)
    result = TransactionVerifier(
        read_trusted_root(arguments.trusted_root), kinds=load_kinds(arguments.evidence_kind)
    ).appraise(
        read_transaction_file(data),
        policy=read_policy(arguments.policy),
        part_policies=_part_policies(arguments.part_policy),
        now=now,
        expected=ExpectedTransaction(nonce=nonce),
    )
    if arguments.json:
        print(to_json(result.to_json()))
    else:
        _print(result)
    sys.stdout.flush()
    return _tell(result)


def _part_policies(given: list[str]) -> dict[int, AssurancePolicy]:
    policies = {}
    for text in given:
        index, separator, name = text.partition("=")
        if not separator or not index.isascii() or not index.isdigit() or len(index) > 5:
            raise RequestError("expected INDEX=POLICY", parameter="part-policy")
        if int(index) in policies:
            raise RequestError(f"part {index} is given twice", parameter="part-policy")
        policies[int(index)] = read_policy(name)
    return policies


def _print(result: TransactionResult) -> None:
    print(f"  transaction {result.transaction_id.hex()}: {result.outcome.label},", end=" ")
    print(f"{result.count} parts")
    for check in result.checks:
        reason = f"  ({check.reason.value})" if check.reason else ""
        print(f"  {_MARKS[check.status]}  {check.name:<26} {plain(check.detail)}{reason}")
    print("\n  claim            believed of every part because")
    for claim in Claim:
        sources = sorted(source.value for source in result.claims[claim])
        shown = "-" if result.claims[claim] == {Source.UNSTATED} else ", ".join(sources)
        print(f"  {claim.value:<16} {shown}")
    print("\n  not covered")
    for line in result.not_covered:
        print(f"  - {plain(line)}")
    print(f"\n  receipt {result.receipt_id.hex()}")


def _tell(result: TransactionResult) -> int:
    if result.verdict is Verdict.VERIFIED:
        print(f"OK: {result.outcome.label}, {len(result.parts)} parts verified", file=sys.stderr)
        return EXIT_DONE
    refused = result.verdict is Verdict.REFUSED
    check = result.decisive_check()
    reason = check.reason or Reason.POLICY_UNMET
    word = "refused" if refused else "could not tell"
    detail = f"{check.name}: {plain(check.detail)}"
    print(f"FAIL: {word}: {detail} ({reason.value})", file=sys.stderr)
    return EXIT_REFUSED if refused else EXIT_COULD_NOT_TELL


def transaction_view(data: bytes) -> dict[str, Any]:
    """Return what a transaction's file says, without judging it."""
    shown = read_transaction_file(data)
    statement = shown.statement
    whole = isinstance(shown, TransactionBundle)
    parts = shown.parts if isinstance(shown, TransactionBundle) else (shown.shown,)
    return {
        "unverified": True,
        "transaction": statement.transaction_id.hex(),
        "issuer": shown.envelope.issuer,
        "outcome": statement.outcome.label,
        "openedAt": statement.opened_at,
        "decidedAt": statement.decided_at,
        "count": statement.count,
        "whole": whole,
        "root": statement.root.hex(),
        "policy": statement.policy.hex(),
        "failure": None
        if statement.failure is None
        else {"part": statement.failure.index, "reason": statement.failure.reason},
        "parts": [
            {
                "index": each.part.index,
                "receipt": each.part.receipt.hex(),
                "assurance": each.part.assurance.hex(),
                "outcome": each.part.outcome.label,
                "reason": each.part.reason,
                "receiptShown": each.receipt is not None,
                "opened": sorted(part.label for part in each.openings or {}),
                "fedFrom": [
                    {
                        "part": fed.source,
                        "from": f"{fed.source_part.label}{fed.source_pointer}",
                        "to": f"{fed.target_part.label}{fed.target_pointer}",
                    }
                    for fed in each.part.dependencies
                ],
            }
            for each in parts
        ],
    }
