"""`verispect plumbing`: commands for machines and continuous integration, one JSON line a result.

`tee-cases` runs a file of attestation cases and says of each what this verifier answers. Any
other verifier that reads the format can be compared with it. The files that a case names lie
beside the file of cases; a name that leads out of that directory is refused. `fetch-endorsements`
stands in a module of its own: it alone reaches a network.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli import fetch_endorsements
from verispect.core.errors import Error, MalformedError, Reason, StoreError

if TYPE_CHECKING:
    from verispect.evidence.attestation import AttestationAppraisal

MAX_CASES_BYTES: Final = 16 * 1024 * 1024
MAX_CASES: Final = 10_000
MAX_EVIDENCE_BYTES: Final = 32 * 1024 * 1024
"""Upper limit of one file of evidence; every verifier has a smaller one of its own."""
MAX_FILES_PER_CASE: Final = 32

_MEMBERS: Final = ("id", "tech", "evidence", "inputs", "policy", "verify_at", "expect", "reason")
"""What decides a case; others, such as `why` and `facts`, are for people and other programs."""
_INPUTS: Final = frozenset({"nonce", "report_data", "public_key", "audience", "measurements"})
_POLICY: Final = frozenset({"allow_debug", "accept_tcb", "trust"})


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "plumbing",
        help="commands for machines",
        description="Commands for machines: one JSON line for each result.",
    )
    commands = parser.add_subparsers(dest="plumbing_command", required=True, metavar="COMMAND")
    cases = commands.add_parser(
        "tee-cases",
        help="run a file of attestation cases",
        description="Run a file of attestation cases; exit code 1 if any answer differs from the "
        "one that the file states.",
    )
    cases.add_argument("cases", type=Path, help="file of cases (JSON)")
    fetch_endorsements.add_parser(commands)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if arguments.plumbing_command == fetch_endorsements.NAME:
        return fetch_endorsements.run(arguments)
    from verispect.evidence.json_text import read_object

    document = read_object(_read_limited(arguments.cases, MAX_CASES_BYTES), limit=MAX_CASES_BYTES)
    cases = document.get("cases")
    if not isinstance(cases, list) or len(cases) > MAX_CASES:
        raise _malformed(f"expected a list of at most {MAX_CASES} cases")
    directory = arguments.cases.resolve().parent
    every_ok = bool(cases)
    for case in cases:
        line = run_case(case, directory)
        every_ok = every_ok and line["ok"]
        print(json.dumps(line, ensure_ascii=False))
        sys.stdout.flush()
    return 0 if every_ok else 1


def run_case(case: Any, directory: Path) -> dict[str, Any]:
    """Run one case and return its line.

    A case that cannot be run (a missing file, an unknown member) is never `ok`, whatever it
    expects, and says why in `error`.
    """
    from verispect.evidence.attestation import reason_class

    case = case if isinstance(case, dict) else {}
    line: dict[str, Any] = {
        "id": case.get("id"),
        "result": "reject",
        "reason": None,
        "class": None,
        "not_checked": [],
        "expected_result": case.get("expect"),
        "expected_reason": case.get("reason"),
        "ok": False,
    }
    try:
        appraisal = _appraise(_read_case(case, directory))
    except Error as error:
        line["reason"] = reason_class(error.reason)
        line["error"] = f"{error.message} ({error.reason.value})"
        return line
    line["result"] = appraisal.verdict.value
    line["reason"] = reason_class(appraisal.reason)
    line["class"] = appraisal.evidence_class.value if appraisal.evidence_class else None
    line["not_checked"] = list(appraisal.not_checked)
    line["ok"] = (line["result"], line["reason"]) == (case.get("expect"), case.get("reason"))
    if not line["ok"]:
        line["detail"] = [check.detail for check in appraisal.checks if check.reason]
    return line


@dataclass(frozen=True, slots=True)
class _Case:
    technology: str
    evidence: Mapping[str, bytes]
    inputs: Mapping[str, Any]
    policy: Mapping[str, Any]
    at: int


def _appraise(case: _Case) -> AttestationAppraisal:
    from verispect.core.encoding import from_hex
    from verispect.evidence.attestation import AttestationPolicy, EvidenceClass, Expectation
    from verispect.evidence.technologies import appraise_evidence, own_anchors

    trust = case.policy.get("trust")
    own = trust == "dev"
    values = {
        name: from_hex(case.inputs[name])
        for name in ("nonce", "report_data", "public_key")
        if name in case.inputs
    }
    measurements = {
        register: frozenset([accepted] if isinstance(accepted, str) else accepted)
        for register, accepted in case.inputs.get("measurements", {}).items()
    }
    return appraise_evidence(
        case.technology,
        case.evidence,
        anchors=own_anchors(case.technology, case.evidence) if own else None,
        expected=Expectation(
            **values, audience=case.inputs.get("audience"), measurements=measurements
        ),
        policy=AttestationPolicy(
            allow_debug=case.policy.get("allow_debug", False),
            accepted_tcb=frozenset(case.policy.get("accept_tcb", ["UpToDate"])),
            accepted_classes=frozenset(EvidenceClass if own else {EvidenceClass.HARDWARE}),
        ),
        at=case.at,
    )


def _read_case(case: Mapping[str, Any], directory: Path) -> _Case:
    technology, names = case.get("tech"), case.get("evidence")
    inputs, policy = case.get("inputs", {}), case.get("policy", {})
    if not isinstance(technology, str) or not isinstance(names, dict):
        raise _malformed("a case names its technology and its evidence")
    for name in sorted(set(case).difference(_MEMBERS)):
        # `input` for `inputs` would leave a nonce uncompared and the case good by accident.
        if difflib.get_close_matches(name.lower()[:64], _MEMBERS, 1, cutoff=0.75):
            raise _malformed(f"unknown member {name[:64]} of a case")
    _check_members(inputs, _INPUTS, "input")
    _check_members(policy, _POLICY, "policy member")
    accepted = policy.get("accept_tcb", [])
    measurements = inputs.get("measurements", {})
    if (
        len(names) > MAX_FILES_PER_CASE
        or not isinstance(policy.get("allow_debug", False), bool)
        or policy.get("trust", "dev") != "dev"
        or not _all_texts(accepted)
        or not isinstance(measurements, dict)
        or not all(isinstance(v, str) or _all_texts(v) for v in measurements.values())
        or not all(isinstance(v, str) for k, v in inputs.items() if k != "measurements")
    ):
        raise _malformed("a member of the case has an unknown value")
    evidence = {name: _read_beside(directory, path) for name, path in names.items()}
    return _Case(
        technology, _with_main(technology, evidence), inputs, policy, _moment(case.get("verify_at"))
    )


def _with_main(technology: str, evidence: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with the only one of an unknown name as the main one, if that is missing.

    Files of cases differ in what they call a token or a document; nothing else is renamed.
    """
    from verispect.evidence.technologies import TECHNOLOGIES

    row = TECHNOLOGIES.get(technology)
    if row is None or any(evidence.keys() >= set(form) for form in row.forms):
        return evidence
    unknown = sorted(set(evidence).difference(*row.forms, row.optional, {"root"}))
    if len(unknown) != 1 or row.main in evidence:
        return evidence
    return {row.main if name == unknown[0] else name: data for name, data in evidence.items()}


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _check_members(members: Any, known: frozenset[str], what: str) -> None:
    if not isinstance(members, dict):
        raise _malformed(f"every {what} has a name")
    unknown = sorted(set(members) - known)
    if unknown:
        raise _malformed(f"unknown {what} {unknown[0][:64]}")


def _moment(text: Any) -> int:
    try:
        moment = datetime.fromisoformat(text)
        in_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(in_zone.timestamp() * 1000)
    except (TypeError, ValueError, OverflowError) as error:
        raise _malformed("verify_at is not a time") from error


def _read_beside(directory: Path, name: Any) -> bytes:
    if not isinstance(name, str) or not name or "\0" in name:
        raise _malformed("a file has no name")
    try:
        path = (directory / name).resolve()
        # A pipe with nobody at its other end would be waited for.
        readable = not path.exists() or path.is_file()
    except (OSError, RuntimeError) as error:
        # Symbolic links that lead to each other, or more letters than a name may have.
        raise _malformed("the name of a file leads nowhere") from error
    if not path.is_relative_to(directory):
        raise _malformed("a file lies outside the directory of the cases")
    if not readable:
        raise StoreError(f"{path.name} is no file", reason=Reason.STORE_FAILED)
    return _read_limited(path, MAX_EVIDENCE_BYTES)


def _read_limited(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(
            f"cannot read {path.name}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if len(data) > limit:
        raise MalformedError(f"{path.name} is too large", reason=Reason.TOO_LARGE)
    return data


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
