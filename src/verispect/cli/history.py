"""`verispect history`: the published versions of a service, as a verified log has them.

The log is fetched and verified, or read from a folder. Texts are shown where the operator
discloses them to everyone, or where openings are given; each is checked against its published
commitment. With receipts, each is compared with the version that it names: one that was never
published, or was changed, is an alert, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from verispect.appraisal.service_history import LoggedVersion, ServiceHistory, check_service
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.cli.files import read_file, read_receipt, read_trusted_root, to_json, write_file
from verispect.cli.leaves import add_log_arguments, log_leaves
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED, plain
from verispect.core.commitments import OpenedParts, Part, decode_openings
from verispect.core.encoding import Digest, from_base64url
from verispect.core.errors import Error, ModelError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.evidence.interface import CheckStatus


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "history", help="timeline and differences of a service's published versions"
    )
    parser.add_argument("service", help="its name, without service:")
    add_log_arguments(parser)
    parser.add_argument(
        "--openings", type=Path, action="append", default=[], help="disclosed texts; repeatable"
    )
    parser.add_argument(
        "--receipt", type=Path, action="append", default=[], help="to compare; repeatable"
    )
    parser.add_argument("--out", type=Path, help="write the history, for verispect verify")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    root = read_trusted_root(arguments.trusted_root)
    history = ServiceHistory(root.issuer_key)
    with log_leaves(arguments, root) as leaves:
        for index, leaf in enumerate(leaves):
            history.add_leaf(index, leaf)
    versions = history.versions(arguments.service)
    if not versions:
        raise ModelError("the log has no version of this service", reason=Reason.MODEL_NOT_FOUND)
    texts = _texts(arguments, versions)
    if arguments.out is not None:
        write_file(arguments.out, history.to_json())
    if arguments.json:
        print(to_json(_document(history, arguments.service, texts)))
    else:
        _print_timeline(versions, texts)
    sys.stdout.flush()
    alerts = [each.detail for each in history.alerts if each.service == arguments.service]
    alerts += _compare(arguments.receipt, history, root)
    for detail in alerts:
        print(f"FAIL: ALERT: {plain(detail)}", file=sys.stderr)
    if alerts:
        return EXIT_REFUSED
    print(f"OK: {len(versions)} versions, each following the one before", file=sys.stderr)
    return EXIT_DONE


def _compare(paths: list[Path], history: ServiceHistory, root: TrustedRoot) -> list[str]:
    alerts = []
    for path in paths:
        receipt = InferenceReceipt.parse(read_receipt(path))
        key = root.issuer_key(receipt.envelope.key_id)
        if key is None:
            alerts.append(f"{path.name}: no trusted issuer ({Reason.KEY_UNKNOWN.value})")
            continue
        receipt.envelope.verify(key.key)
        checks, _ = check_service(receipt.unverified_statement, history)
        for check in checks:
            if check.status is not CheckStatus.PASSED:
                reason = check.reason.value if check.reason else ""
                alerts.append(f"{path.name}: {check.detail} ({reason})")
    return alerts


Texts = Mapping[Digest, OpenedParts]


def _texts(arguments: argparse.Namespace, versions: Any) -> Texts:
    """Return what is disclosed of each version, checked against its commitments."""
    files: list[OpenedParts] = [decode_openings(read_file(path)) for path in arguments.openings]
    if arguments.operator is not None:
        files += _disclosed(arguments.operator, arguments.service)
    texts: dict[Digest, dict[Part, Any]] = {}
    for version in versions:
        for opened in files:
            for part, opening in opened.items():
                commitment = version.published.commitments.get(part)
                if commitment is not None and opening.commitment() == commitment:
                    texts.setdefault(version.envelope.digest(), {})[part] = opening
    return texts


def _disclosed(url: str, service: str) -> list[OpenedParts]:
    """Return what the operator shows to everyone; not believed until compared."""
    from verispect.node.operator_client import HttpSource, make_client

    with make_client() as client:
        data = HttpSource(url, client).get(f"/v1/services/{service}", limit=64 * 1024 * 1024)
    try:
        rows = json.loads(data or b"{}").get("versions", [])
        return [
            decode_openings(from_base64url(row["openings"], limit=64 * 1024 * 1024))
            for row in rows
            if "openings" in row
        ]
    except (Error, ValueError, TypeError, KeyError, AttributeError):
        return []  # Nothing is disclosed that can be read.


def _print_timeline(versions: Any, texts: Texts) -> None:
    before: LoggedVersion | None = None
    for version in versions:
        published = version.published
        moment = datetime.fromtimestamp(published.published_at / 1000, tz=UTC)
        print(
            f"version {published.number}  {moment.isoformat(timespec='seconds')}"
            f"  leaf {version.leaf_index}  {version.envelope.digest().hex()}"
        )
        for line in _changes(before, version, texts):
            print(f"  {line}")
        before = version


def _changes(before: LoggedVersion | None, after: LoggedVersion, texts: Texts) -> list[str]:
    lines = []
    old_model = before.published.model_id if before else None
    if after.published.model_id != old_model and after.published.model_id is not None:
        lines.append(f"model {after.published.model_id.hex()}")
    opened = texts.get(after.envelope.digest(), {})
    earlier = texts.get(before.envelope.digest(), {}) if before else {}
    for part in (Part.SYSTEM_PROMPT, Part.TOOLS):
        was = before.published.commitments.get(part) if before else None
        commitment = after.published.commitments.get(part)
        if commitment is None:
            lines += [f"{part.label}: none any more"] if was is not None else []
        elif part not in opened:
            lines.append(f"{part.label}: not disclosed, commitment {commitment.hex()}")
        else:
            old = _lines(earlier[part].content()) if part in earlier else []
            new = _lines(opened[part].content())
            shown = [
                line
                for line in difflib.unified_diff(old, new, lineterm="", n=1)
                if not line.startswith(("---", "+++", "@@"))
            ]
            lines.append(f"{part.label}:" if shown else f"{part.label}: unchanged")
            lines += [f"  {plain(line)}" for line in shown]
    return lines


def _lines(content: Any) -> list[str]:
    text = content if isinstance(content, str) else to_json(content)
    return text.split("\n")


def _document(history: ServiceHistory, service: str, texts: Texts) -> dict[str, Any]:
    return {
        "service": service,
        "versions": [
            {
                "version": each.published.number,
                "publishedAt": each.published.published_at,
                "leafIndex": each.leaf_index,
                "digest": each.envelope.digest().hex(),
                "modelId": each.published.model_id.hex() if each.published.model_id else None,
                "commitments": {
                    part.label: value.hex() for part, value in each.published.commitments.items()
                },
                "disclosed": {
                    part.label: opening.content()
                    for part, opening in texts.get(each.envelope.digest(), {}).items()
                },
            }
            for each in history.versions(service)
        ],
        "alerts": [each.detail for each in history.alerts if each.service == service],
    }
