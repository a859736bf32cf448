"""`verispect audit`: is what a server answers still what the registered model would answer?

Calibrates the test on the registered model, says what it would find, runs it on answers drawn from
a log, and checks the report of somebody else. What it finds is drift evidence, never identity.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_file, read_trusted_root, to_json, write_file
from verispect.cli.outcome import EXIT_COULD_NOT_TELL, EXIT_DONE, EXIT_REFUSED
from verispect.cli.places import default_home
from verispect.core.errors import MalformedError, Reason, RequestError

if TYPE_CHECKING:
    from verispect.engines.interface import Lane
    from verispect.engines.llama import LlamaModel
    from verispect.models.verified import RegisteredModel
    from verispect.node.audit_report import AuditReport
    from verispect.node.drift_test import DriftNull, DriftTest

MAX_REQUESTS_BYTES: Final = 4 * 1024 * 1024
MAX_NULL_BYTES: Final = 4096
_POWER: Final = 0.99


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("audit", help="test a random sample of real answers for drift")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    calibrate = actions.add_parser("calibrate", help="measure a model's answers against itself")
    power = actions.add_parser("power", help="say what a test would find, before it is made")
    run_it = actions.add_parser("run", help="draw answers from a log, test them, and sign a report")
    check = actions.add_parser("check", help="compute the draw and the verdict of a report again")
    home = default_home()
    calibrate.add_argument("name", metavar="NAME", help="the registered model")
    calibrate.add_argument(
        "--requests",
        type=Path,
        required=True,
        help="requests like those to be audited, a line each",
    )
    calibrate.add_argument("--answers", type=int, default=256, help="how many to measure")
    calibrate.add_argument("--tokens", type=int, default=40, help="of each answer, at most")
    calibrate.add_argument(
        "--miss", type=float, default=0.005, help="how often a calibration may be wrong"
    )
    for action in (calibrate, run_it):
        action.add_argument("--registry", type=Path, default=home / "models", help="own models")
        action.add_argument("--threads", type=int, default=1, help="threads of the engine")
        action.add_argument("--out", type=Path, required=True, help="file to write")
    for action in (power, run_it):
        action.add_argument("--null", type=Path, required=True, help="what `calibrate` wrote")
        action.add_argument("--alternative", required=True, metavar="NAME", help="what to bet on")
        action.add_argument(
            "--exceeding",
            type=float,
            required=True,
            metavar="SHARE",
            help="how often an answer of the alternative is beyond the threshold",
        )
        action.add_argument(
            "--level", type=float, default=0.005, help="how often the bets may win by chance"
        )
    power.add_argument("--answers", type=int, default=5, help="how many are audited")
    for action in (run_it, check):
        action.add_argument("--state", type=Path, default=home / "auditor", help="own folder")
        action.add_argument(
            "--operator", required=True, metavar="URL", help="whose log to draw from"
        )
        action.add_argument("--trusted-root", type=Path, required=True, help="issuers and the log")
        action.add_argument("--previous", type=Path, help="the report that this one goes on from")
    run_it.add_argument("--rate", default="0.01", help="share of receipts to draw")
    run_it.add_argument(
        "--beacon", metavar="HEX", help="public randomness, younger than all that is audited"
    )
    check.add_argument("report", type=Path, help="the report")
    check.add_argument("--key", required=True, help="the auditor's public key")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if arguments.action == "calibrate":
        return asyncio.run(_calibrate(arguments))
    if arguments.action == "power":
        return _power(arguments)
    if arguments.action == "run":
        return asyncio.run(_run(arguments))
    return _check(arguments)


async def _calibrate(arguments: argparse.Namespace) -> int:
    from verispect.engines.interface import Lane
    from verispect.models.registry import ModelRegistry
    from verispect.node.audit_calibration import honest_shares
    from verispect.node.drift_test import calibrate

    lines = read_file(arguments.requests, limit=MAX_REQUESTS_BYTES).decode(errors="replace")
    registry = ModelRegistry(arguments.registry)
    model = registry.resolve(arguments.name)
    generating = await _start(registry, model, Lane.THROUGHPUT, arguments.threads)
    try:
        scoring = await _start(registry, model, Lane.DETERMINISTIC, arguments.threads)
        try:
            shares = await honest_shares(
                generating,
                scoring,
                [line for line in lines.splitlines() if line.strip()],
                answers=arguments.answers,
                tokens=arguments.tokens,
                chat=_template(model) is not None,
            )
        finally:
            await scoring.close()
    finally:
        await generating.close()
    null = calibrate(shares, miss=arguments.miss)
    view = {
        "model": model.model_id.hex(),
        "threshold": null.threshold,
        "answers": null.answers,
        "miss": null.miss,
    }
    write_file(arguments.out, to_json(view).encode())
    print(to_json({**view, "exceedingAtMost": null.rate, "mean": sum(shares) / len(shares)}))
    return EXIT_DONE


def _template(model: RegisteredModel) -> Any:
    from verispect.models.components import FileRole

    return model.manifest.file(FileRole.CHAT_TEMPLATE)


async def _start(registry: Any, model: RegisteredModel, lane: Lane, threads: int) -> LlamaModel:
    from verispect.engines.llama import LlamaModel, LlamaOptions
    from verispect.models.manifest import ModelFormat

    if model.manifest.model_format is not ModelFormat.GGUF:
        raise RequestError("expected a language model with weights of its own", parameter="name")
    template = _template(model)
    with registry.open_verified(model) as files:
        return await LlamaModel.start(
            files.main_sealed.path,
            chat_template=files.content(template.name).decode() if template else None,
            options=LlamaOptions(lane=lane, threads=threads),
            file_descriptor=files.main_sealed.descriptor,
        )


def _null(path: Path) -> tuple[bytes, DriftNull]:
    from verispect.node.drift_test import DriftNull

    try:
        read = json.loads(read_file(path, limit=MAX_NULL_BYTES))
        model = bytes.fromhex(read["model"])
        null = DriftNull(float(read["threshold"]), int(read["answers"]), float(read["miss"]))
        if len(model) != 32:
            raise ValueError
    except (ValueError, KeyError, TypeError, RequestError) as error:
        raise MalformedError(
            "expected what `verispect audit calibrate` wrote", reason=Reason.MALFORMED_JSON
        ) from error
    return model, null


def _test(arguments: argparse.Namespace, null: DriftNull) -> DriftTest:
    from verispect.node.drift_test import DriftTest

    return DriftTest(null, arguments.alternative, arguments.exceeding, arguments.level)


def _power(arguments: argparse.Namespace) -> int:
    _, null = _null(arguments.null)
    test = _test(arguments, null)
    view = {
        "alternative": test.alternative,
        "exceedingAtMost": null.rate,
        "falseAlarmsAtMost": test.false_alarm_rate,
        "answers": arguments.answers,
        "power": test.power(arguments.answers),
        "answersFor99Percent": test.trials_for(_POWER),
    }
    print(to_json(view))
    return EXIT_DONE


async def _run(arguments: argparse.Namespace) -> int:
    from verispect.attesters.signer import Issuer
    from verispect.core.encoding import Digest, from_hex
    from verispect.engines.interface import Lane
    from verispect.models.registry import ModelRegistry
    from verispect.node.audit import Auditor, AuditPlan
    from verispect.node.audit_report import read_signed_report, sign_report
    from verispect.node.audited_log import AuditedLog
    from verispect.node.sampling import parse_rate

    model_id, null = _null(arguments.null)
    test = _test(arguments, null)
    registry = ModelRegistry(arguments.registry)
    models = [registry.resolve(name) for name in registry.names()]
    model = next((each for each in models if each.model_id == model_id), None)
    if model is None:
        raise RequestError("the registry lacks the model that was calibrated", parameter="null")
    identity = Issuer.load(arguments.state / "keys")
    root = read_trusted_root(arguments.trusted_root)
    previous = None
    if arguments.previous is not None:
        own = identity.signer.public_key
        previous = read_signed_report(read_file(arguments.previous), own)
    beacon = None if arguments.beacon is None else from_hex(arguments.beacon)
    plan = AuditPlan(
        Digest(model_id), test, parse_rate(arguments.rate), beacon=beacon, previous=previous
    )
    log = AuditedLog(arguments.state, arguments.operator, root)
    try:
        engine = await _start(registry, model, Lane.DETERMINISTIC, arguments.threads)
        try:
            auditor = Auditor(
                log, root, identity, engine, clock=lambda: time.time_ns() // 1_000_000
            )
            report = await auditor.audit(plan)
        finally:
            await engine.close()
    finally:
        log.close()
    signed = sign_report(report, issuer=identity.name, signer=identity.signer)
    write_file(arguments.out, signed.encode())
    return _tell(report)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _check(arguments: argparse.Namespace) -> int:
    from verispect.core.keys import PublicKey
    from verispect.node.audit_report import read_signed_report
    from verispect.node.audited_log import AuditedLog

    key = PublicKey.from_text(arguments.key)
    report = read_signed_report(read_file(arguments.report), key)
    previous = None
    if arguments.previous is not None:
        previous = read_signed_report(read_file(arguments.previous), key)
    log = AuditedLog(arguments.state, arguments.operator, read_trusted_root(arguments.trusted_root))
    try:
        log.follow()
        report.check(log.receipts(report.audited), previous=previous)
    finally:
        log.close()
    return _tell(report)


def _tell(report: AuditReport) -> int:
    from verispect.node.audit_report import MEANING, AuditOutcome

    print(to_json(report.to_view()))
    if report.outcome is AuditOutcome.NO_DRIFT:
        print(f"OK: {report.outcome.value}; {MEANING}", file=sys.stderr)
        return EXIT_DONE
    print(f"FAIL: {report.outcome.value}; {MEANING}", file=sys.stderr)
    return EXIT_REFUSED if report.outcome is AuditOutcome.DRIFT else EXIT_COULD_NOT_TELL
