"""`verispect verify`: decide a receipt offline, and say what it does not cover.

Reaches no network. The policy and the trusted root are the user's and have no default. Reads the
clock unless `--at` gives the time at which to judge.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.expected import Expected
from verispect.appraisal.result import AttestationResult, Verdict
from verispect.appraisal.service_history import ServiceHistory
from verispect.appraisal.transcript import read_answer
from verispect.appraisal.verifier import Verifier
from verispect.cli.files import read_file, read_policy, read_receipt, read_trusted_root, to_json
from verispect.cli.metering import bill_to_json, compute_bill, print_bill
from verispect.cli.outcome import plain, tell_failure, tell_verdict
from verispect.cli.places import default_home
from verispect.cli.transaction import run_transaction
from verispect.core.claims import Claim, Source
from verispect.core.commitments import decode_openings
from verispect.core.encoding import from_base64url, from_hex
from verispect.core.errors import Error, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction_files import is_transaction_file
from verispect.evidence.interface import CheckStatus
from verispect.evidence.registry import load_kinds

_MARKS: Final = {
    CheckStatus.PASSED: "ok  ",
    CheckStatus.FAILED: "FAIL",
    CheckStatus.UNKNOWN: "??  ",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="decide a receipt offline",
        description="Decide a receipt offline. Exit code: 0 verified, 1 refused, 2 usage, "
        "3 malformed, 4 could not tell.",
    )
    parser.add_argument(
        "receipt", type=Path, help="receipt, an answer that carries one, or a transaction"
    )
    parser.add_argument("--policy", required=True, help="preset name or policy file (TOML)")
    parser.add_argument("--trusted-root", required=True, type=Path, help="whom you trust (JSON)")
    parser.add_argument("--openings", type=Path, help="openings of the commitments (CBOR)")
    parser.add_argument("--request", type=Path, help="the request you sent (JSON)")
    parser.add_argument(
        "--response", type=Path, help="the answer you were shown: JSON, or the event stream"
    )
    parser.add_argument(
        "--history", type=Path, help="versions of services, as verispect history --out wrote them"
    )
    parser.add_argument("--nonce", help="the nonce you sent (base64url)")
    parser.add_argument(
        "--at", metavar="TIME", help="judge at this time (ISO 8601, UTC) instead of now"
    )
    parser.add_argument(
        "--evidence-kind",
        action="append",
        default=[],
        metavar="NAME",
        help="also load this installed evidence kind",
    )
    parser.add_argument(
        "--part-policy",
        action="append",
        default=[],
        metavar="INDEX=POLICY",
        help="of a transaction, what is required of this part instead; repeatable",
    )
    parser.add_argument(
        "--metering",
        action="store_true",
        help="count the tokens again and compute the bill; needs --openings and the model",
    )
    parser.add_argument(
        "--registry",
        type=Path,
        default=default_home() / "models",
        help="registry that has the model, for --metering",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if is_transaction_file(data := read_file(arguments.receipt)):
        if arguments.metering:
            raise RequestError("--metering takes the receipt of one inference")
        return run_transaction(arguments, data, now=_time(arguments.at))
    receipt = InferenceReceipt.parse(read_receipt(arguments.receipt))
    opened = decode_openings(read_file(arguments.openings)) if arguments.openings else {}
    root = read_trusted_root(arguments.trusted_root)
    verifier = Verifier(root, kinds=load_kinds(arguments.evidence_kind))
    expected = _expected(arguments, receipt)
    if arguments.history is not None:
        history = ServiceHistory.from_json(read_file(arguments.history), root.issuer_key)
        expected = replace(expected, history=history)
    result = verifier.appraise(
        receipt,
        opened=opened,
        policy=read_policy(arguments.policy),
        now=_time(arguments.at),
        expected=expected,
    )
    bill, refused = None, None
    if arguments.metering and result.verdict is Verdict.VERIFIED:
        try:
            bill = compute_bill(receipt, opened, arguments.registry)
        except Error as error:
            refused = error
    if arguments.json:
        shown = result.to_json()
        if bill is not None:
            shown["bill"] = bill_to_json(bill)
        print(to_json(shown))
    else:
        print_result(result)
        if bill is not None:
            print_bill(receipt, bill)
    sys.stdout.flush()
    return tell_verdict(result) if refused is None else tell_failure(refused)


def _time(text: str | None) -> int:
    if text is None:
        return time.time_ns() // 1_000_000
    try:
        moment = datetime.fromisoformat(text)
        in_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(in_zone.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise RequestError("--at is not a time", parameter="at") from error


def _expected(arguments: argparse.Namespace, receipt: InferenceReceipt) -> Expected:
    return expect(
        None if arguments.request is None else read_request(read_file(arguments.request)),
        None if arguments.response is None else read_answer(read_file(arguments.response)),
        inference_id=from_hex(receipt.claimed_inference),
        nonce=None if arguments.nonce is None else from_base64url(arguments.nonce),
    )


def print_result(result: AttestationResult) -> None:
    """Print every check, the table claims x sources, and what is not covered."""
    for check in result.checks:
        reason = f"  ({check.reason.value})" if check.reason else ""
        print(f"  {_MARKS[check.status]}  {check.name:<26} {check.detail}{reason}")
    print("\n  claim            believed because")
    for claim in Claim:
        sources = sorted(source.value for source in result.claims[claim])
        if Source.HARDWARE in result.claims[claim]:
            classes = ", ".join(each.value for each in result.evidence_classes)
            sources[sources.index("hardware")] = f"hardware (class {classes})"
        shown = "-" if result.claims[claim] == {Source.UNSTATED} else ", ".join(sources)
        print(f"  {claim.value:<16} {shown}")
    print("\n  not covered")
    for line in result.not_covered:
        print(f"  - {line}")
    for conflict in result.conflicts:
        print(f"\n  CONFLICT  {plain(conflict)}; refuted wins")
    print(f"\n  receipt {result.receipt_id.hex()}")
    _print_assurance(result)


def _print_assurance(result: AttestationResult) -> None:
    """Print what was required, what was promised, and what came."""
    same = "as when asking" if result.asked == result.policy_digest else "another when asking"
    print(f"  required       {result.policy_name} {result.policy_digest.hex()} ({same})")
    for promise in result.promised:
        due = "" if promise.due_at is None else f", due {_moment(promise.due_at)}"
        print(f"  promised       {plain(promise.kind)}{due}")
    for each in result.delivered:
        shown = "; ".join(
            f"{claim.value}: {', '.join(sorted(each.appraisal.claims[claim]))}"
            for claim in Claim
            if claim in each.appraisal.claims
        )
        print(f"  delivered      {plain(each.kind)}  {shown or 'nothing'}")
    if result.pending_until is not None:
        print(f"  pending until  {_moment(result.pending_until)}")


def _moment(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
