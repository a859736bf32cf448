"""`verispect log`: audit a log, show where it stands, prove that a receipt is in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from verispect.cli.files import read_receipt, to_json, write_file
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED, plain
from verispect.cli.places import default_home
from verispect.core.encoding import to_base64url
from verispect.core.errors import Reason
from verispect.core.receipt import InferenceReceipt


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("log", help="audit a log, show it, prove what is in it")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fsck = actions.add_parser("fsck", help="derive the whole log again from its entries")
    fsck.add_argument(
        "--tiles-only",
        action="store_true",
        help="audit what readers see, without the state beside it",
    )
    show = actions.add_parser("show", help="print where the log stands")
    show.add_argument("--leaf", type=int, metavar="INDEX", help="print this leaf, in hexadecimal")
    prove = actions.add_parser("prove", help="write the proof that a receipt is in the log")
    prove.add_argument("receipt", type=Path, help="receipt, or an answer that carries one")
    prove.add_argument("--out", type=Path, required=True, help="file to write")
    prove.add_argument(
        "--cose", action="store_true", help="a COSE receipt (RFC 9942) instead of a C2SP proof"
    )
    for action in (fsck, show, prove):
        action.add_argument(
            "--log", type=Path, default=default_home() / "log", help="the log's folder"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if arguments.action == "fsck":
        return _fsck(arguments.log, tiles_only=arguments.tiles_only)
    if arguments.action == "show":
        return _show(arguments.log, arguments.leaf)
    return _prove(arguments.log, arguments.receipt, arguments.out, cose=arguments.cose)


def _fsck(folder: Path, *, tiles_only: bool) -> int:
    from verispect.ledger.log.embedded import LogFolder
    from verispect.ledger.log.fsck import fsck

    log = LogFolder(folder)
    state = None if tiles_only else log.open_state()
    report = fsck(log.tiles, log.trusted, state=state)
    print(f"{report.size} leaves, root {report.root.hex()}")
    if report.difference is not None:
        reason = Reason.LOG_FORKED.value
        print(f"FAIL: {plain(report.difference)} ({reason})", file=sys.stderr)
        return EXIT_REFUSED
    print(f"OK: {plain(log.origin)} is what its entries say", file=sys.stderr)
    return EXIT_DONE


def _show(folder: Path, leaf: int | None) -> int:
    from verispect.ledger.log.embedded import LogFolder

    log = LogFolder(folder)
    if leaf is not None:
        print(log.open_proofs().leaf(leaf).hex())
        return EXIT_DONE
    state = log.open_state()
    head = state.head()
    description = log.description()
    print(
        to_json(
            {
                "origin": log.origin,
                "key": to_base64url(log.key.key.raw),
                "verifierKey": log.key.encode(),
                "size": head.size,
                "root": head.root.hex(),
                "waiting": head.sequenced - head.size,
                "integratedAt": head.integrated_at,
                "cosignatures": len(state.cosignatures(head.size)),
                "maximumMergeDelayMilliseconds": description.maximum_merge_delay_milliseconds,
            }
        )
    )
    return EXIT_DONE


def _prove(folder: Path, receipt_path: Path, out: Path, *, cose: bool) -> int:
    from verispect.ledger.log.embedded import LogFolder

    receipt = InferenceReceipt.parse(read_receipt(receipt_path))
    proofs = LogFolder(folder).open_proofs()
    if cose:
        write_file(out, proofs.cose_receipt(receipt.receipt_id).encode())
    else:
        write_file(out, proofs.inclusion(receipt.receipt_id).encode())
    print(f"wrote {out}")
    return EXIT_DONE
