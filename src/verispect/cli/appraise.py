"""`verispect appraise`: judge one piece of attestation evidence, or a recorded service, offline.

Reaches no network: certificates, collateral and lists are files that somebody kept. Whom to trust
is the vendor's pinned root, or the root that the user names with its class. Reads the clock unless
`--at` gives the time at which to judge.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_file, to_json
from verispect.cli.outcome import (
    EXIT_COULD_NOT_TELL,
    EXIT_DONE,
    EXIT_MALFORMED,
    EXIT_REFUSED,
    plain,
)
from verispect.core.encoding import from_hex
from verispect.core.errors import MalformedError, Reason, RequestError

if TYPE_CHECKING:
    from verispect.evidence.attestation import (
        Anchor,
        AttestationAppraisal,
        AttestationPolicy,
        Expectation,
    )
    from verispect.evidence.bindings.interface import Binding
    from verispect.evidence.services.appraisal import ServiceAppraisal

_SERVICE: Final = "service"
_KINDS: Final[Mapping[str, str]] = {
    "nitro": "aws-nitro",
    "tdx": "intel-tdx",
    "sgx": "intel-sgx",
    "sev-snp": "amd-sev-snp",
    "nvidia-gpu": "nvidia-gpu",
    "nvidia-rim": "nvidia-rim",
    "nras": "nvidia-nras",
    "tpm": "tpm2-quote",
    "azure-vtpm": "azure-vtpm",
    "confidential-space": "gcp-confidential-space",
}
_MARKS: Final = {"passed": "ok  ", "failed": "FAIL", "unknown": "??  "}
_COULD_NOT_TELL: Final = frozenset(
    {
        Reason.UNSUPPORTED_VERSION,
        Reason.UNSUPPORTED_ALGORITHM,
        Reason.UNSUPPORTED_EVIDENCE,
    }
)
_SERVICE_ENDORSEMENTS: Final = ("collateral", "cert", "ask", "ark", "crl")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "appraise",
        help="judge hardware attestation evidence offline",
        description="Judge attestation evidence offline. Exit code: 0 accepted, or a TCB status "
        "that you accept; 1 refused, 2 usage, 3 malformed, 4 could not tell, or a TCB status "
        "that somebody has to decide about.",
    )
    parser.add_argument("file", type=Path, help="the evidence, or a service's recorded answer")
    parser.add_argument("--kind", required=True, choices=(*_KINDS, _SERVICE))
    parser.add_argument("--profile", metavar="NAME", help="binding profile, such as tinfoil/3")
    parser.add_argument(
        "--members", type=Path, metavar="FILE", help="members of the profile (JSON, hexadecimal)"
    )
    parser.add_argument("--at", metavar="TIME", help="judge at this time (ISO 8601, UTC)")
    parser.add_argument("--nonce", metavar="HEX", help="the nonce that you asked with")
    parser.add_argument("--report-data", metavar="HEX", help="what the guest's field must be")
    parser.add_argument("--audience", metavar="TEXT", help="for whom a token must be made")
    parser.add_argument(
        "--reference-values",
        type=Path,
        metavar="FILE",
        help="accepted measurements (JSON: register to value or list of values)",
    )
    parser.add_argument(
        "--endorsements",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]FILE",
        help="what verifies the evidence: collateral, certificates, revocation lists",
    )
    parser.add_argument(
        "--anchor",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="trust this root instead of the vendor's (certificate, public key or JWKS)",
    )
    parser.add_argument("--anchor-class", choices=("software", "development"))
    parser.add_argument(
        "--accept-tcb",
        nargs="+",
        action="extend",
        default=[],
        metavar="STATUS",
        help="TCB statuses to accept beside UpToDate, in Intel's words",
    )
    parser.add_argument("--allow-debug", action="store_true", help="take evidence of debug guests")
    parser.add_argument(
        "--instance", type=int, default=0, metavar="N", help="which one of a recorded service"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if bool(arguments.anchor) != bool(arguments.anchor_class):
        raise RequestError("--anchor and --anchor-class go together", parameter="anchor")
    if arguments.kind == _SERVICE:
        return _run_service(arguments)
    appraisal, binding = _appraise(arguments)
    if arguments.json:
        print(to_json({**appraisal.to_json(), "binding": _binding_view(binding)}))
    else:
        print_appraisal(appraisal)
        _print_binding(binding)
    return _tell(appraisal)


def _appraise(
    arguments: argparse.Namespace,
) -> tuple[AttestationAppraisal, Binding | None]:
    from verispect.evidence.bindings.fields import check_appraised_field
    from verispect.evidence.technologies import TECHNOLOGIES, appraise_evidence

    name = _KINDS[arguments.kind]
    technology = TECHNOLOGIES[name]
    files = {technology.main: read_file(arguments.file)}
    order = (*technology.required, *technology.optional)
    files.update(_endorsements(arguments.endorsements, order))
    missing = [required for required in technology.required if required not in files]
    if missing:
        raise RequestError(
            f"{name} needs its {missing[0]}: --endorsements {missing[0]}=FILE",
            parameter="endorsements",
        )
    appraisal = appraise_evidence(
        name,
        files,
        anchors=_anchors(arguments, (name,)),
        expected=_expectation(arguments),
        policy=_policy(arguments),
        at=_time(arguments.at),
    )
    if arguments.profile is None:
        return appraisal, None
    return check_appraised_field(appraisal, arguments.profile, _members(arguments.members))


def _run_service(arguments: argparse.Namespace) -> int:
    from verispect.evidence.services.appraisal import appraise_service

    if arguments.members is not None:
        raise RequestError("a recording holds its own members", parameter="members")
    result = appraise_service(
        read_file(arguments.file),
        profile=arguments.profile,
        instance=arguments.instance,
        endorsements=_endorsements(arguments.endorsements, _SERVICE_ENDORSEMENTS),
        anchors=_anchors(arguments, ("intel-tdx", "amd-sev-snp", "nvidia-gpu")),
        expected=_expectation(arguments),
        policy=_policy(arguments),
        at=_time(arguments.at),
    )
    if arguments.json:
        print(to_json(result.to_json()))
    else:
        _print_service(result)
    return _tell(result.whole)


# -- Reading the arguments -----------------------------------------------------------------------


def _time(text: str | None) -> int:
    if text is None:
        return time.time_ns() // 1_000_000
    try:
        moment = datetime.fromisoformat(text)
        in_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(in_zone.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise RequestError("--at is not a time", parameter="at") from error


def _hex(text: str | None, parameter: str) -> bytes | None:
    try:
        return None if text is None else from_hex(text.lower())
    except MalformedError as error:
        raise RequestError(f"--{parameter} is not hexadecimal", parameter=parameter) from error


def _expectation(arguments: argparse.Namespace) -> Expectation:
    from verispect.evidence.attestation import Expectation

    return Expectation(
        nonce=_hex(arguments.nonce, "nonce"),
        report_data=_hex(arguments.report_data, "report-data"),
        audience=arguments.audience,
        measurements=_reference_values(arguments.reference_values),
    )


def _reference_values(path: Path | None) -> dict[str, frozenset[str]]:
    from verispect.evidence.json_text import read_object

    if path is None:
        return {}
    values = {}
    for register, accepted in read_object(read_file(path)).items():
        listed = [accepted] if isinstance(accepted, str) else accepted
        if not isinstance(listed, list) or not all(isinstance(v, str) for v in listed):
            raise MalformedError(
                f"reference values of {register} are not texts", reason=Reason.MALFORMED_JSON
            )
        values[register] = frozenset(value.lower() for value in listed)
    return values


def _members(path: Path | None) -> dict[str, bytes]:
    from verispect.evidence.json_text import from_hex_member, read_object

    if path is None:
        raise RequestError("--profile needs --members", parameter="members")
    return {name: from_hex_member(value) for name, value in read_object(read_file(path)).items()}


def _endorsements(arguments: Iterable[str], order: tuple[str, ...]) -> dict[str, bytes]:
    """Read the files that were named, the bare ones under the free names in their order."""
    named: dict[str, bytes] = {}
    bare: list[str] = []
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            bare.append(argument)
        elif name in named:
            raise RequestError(f"{name} is given twice", parameter="endorsements")
        else:
            named[name] = read_file(Path(path))
    free = [name for name in order if name not in named]
    if len(bare) > len(free):
        raise RequestError("more endorsements than this kind has", parameter="endorsements")
    named.update({name: read_file(Path(path)) for name, path in zip(free, bare, strict=False)})
    return named


def _anchors(
    arguments: argparse.Namespace, technologies: tuple[str, ...]
) -> tuple[Anchor, ...] | None:
    from verispect.evidence.attestation import EvidenceClass
    from verispect.evidence.technologies import anchors_of

    if not arguments.anchor:
        return None
    evidence_class = EvidenceClass(arguments.anchor_class)
    return tuple(
        anchor
        for path in arguments.anchor
        for technology in technologies
        for anchor in anchors_of(technology, read_file(path), evidence_class, path.name)
    )


def _policy(arguments: argparse.Namespace) -> AttestationPolicy:
    from verispect.evidence.attestation import AttestationPolicy, EvidenceClass

    classes = {EvidenceClass.HARDWARE}
    if arguments.anchor_class:
        classes.add(EvidenceClass(arguments.anchor_class))
    return AttestationPolicy(
        allow_debug=arguments.allow_debug,
        accepted_tcb=frozenset({"UpToDate", *arguments.accept_tcb}),
        accepted_classes=frozenset(classes),
    )


# -- Printing ------------------------------------------------------------------------------------


def print_appraisal(appraisal: AttestationAppraisal) -> None:
    """Print every numbered check, the facts, the trust vector and what was not checked."""
    for number, check in enumerate(appraisal.checks, 1):
        reason = f"  ({check.reason.value})" if check.reason else ""
        print(
            f"  {_MARKS[check.status.value]} {number:>3}  {check.name:<18} "
            f"{plain(check.detail)}{reason}"
        )
    _print_facts(appraisal.facts)
    status = appraisal.tcb_status or "-"
    advisories = plain(", ".join(appraisal.advisories)) or "none"
    print(f"\n  tcb status  {plain(status)}, advisories: {advisories}")
    found = appraisal.evidence_class.value if appraisal.evidence_class is not None else "-"
    print(f"  class       {found}")
    for claim, value in appraisal.trust_vector.items():
        print(f"  {claim.value:<18} {value}")
    print("\n  not checked")
    for line in appraisal.not_checked:
        print(f"  - {plain(line)}")


def _print_facts(facts: Mapping[str, Any]) -> None:
    print("\n  facts")
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"  {plain(name):<24} {plain(text)}")


def _print_binding(binding: Binding | None) -> None:
    if binding is None:
        return
    print(f"\n  binding {binding.profile}")
    print(f"  binds   {', '.join(sorted(bound.value for bound in binding.binds))}")
    for line in binding.not_bound:
        print(f"  - not bound: {line}")


def _binding_view(binding: Binding | None) -> dict[str, Any] | None:
    if binding is None:
        return None
    return {
        "profile": binding.profile,
        "binds": sorted(bound.value for bound in binding.binds),
        "notBound": list(binding.not_bound),
    }


def _print_service(result: ServiceAppraisal) -> None:
    for part in (part for part in (result.cpu, result.gpus) if part is not None):
        print(f"  {part.technology}: {part.verdict.value}")
        for check in part.checks:
            print(f"    {_MARKS[check.status.value]} {check.name:<18} {plain(check.detail)}")
    print()
    print_appraisal(result.whole)
    _print_binding(result.binding)


def _tell(appraisal: AttestationAppraisal) -> int:
    """Say the verdict on standard error and return the exit code."""
    from verispect.evidence.attestation import AttestationVerdict, reason_class

    sys.stdout.flush()
    if appraisal.acceptable:
        status = f", TCB status {appraisal.tcb_status}" if appraisal.tcb_status else ""
        found = appraisal.evidence_class.value if appraisal.evidence_class is not None else "?"
        print(f"OK: {appraisal.technology} accepted, class {found}{status}", file=sys.stderr)
        return EXIT_DONE
    reason = appraisal.reason
    code = reason.value if reason is not None else "unknown"
    detail = plain(next((c.detail for c in appraisal.checks if c.reason is reason), "refused"))
    if appraisal.verdict is AttestationVerdict.POLICY:
        print(f"POLICY: genuine, and to be decided: {detail} ({code})", file=sys.stderr)
        return EXIT_COULD_NOT_TELL
    if reason in _COULD_NOT_TELL:
        print(f"FAIL: could not tell: {detail} ({code})", file=sys.stderr)
        return EXIT_COULD_NOT_TELL
    if reason_class(reason) == "malformed":
        print(f"FAIL: not understood: {detail} ({code})", file=sys.stderr)
        return EXIT_MALFORMED
    print(f"FAIL: refused: {detail} ({code})", file=sys.stderr)
    return EXIT_REFUSED
