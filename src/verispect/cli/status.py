"""`verispect status`: what a log says of one receipt, or of all, replayed from its leaves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from verispect.cli.files import read_receipt, read_trusted_root, to_json
from verispect.cli.outcome import EXIT_COULD_NOT_TELL, EXIT_DONE, EXIT_REFUSED, plain
from verispect.core.errors import Reason
from verispect.core.receipt import InferenceReceipt
from verispect.tlog.status_table import ReceiptStatus, State, StatusTable


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "status", help="where a receipt, or a whole log, stands: pending, met, FAILED"
    )
    parser.add_argument("subject", help="a receipt's file, or the word log")
    parser.add_argument(
        "--trusted-root", type=Path, required=True, help="lists the log, and the nodes that count"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--log", type=Path, help="the folder of a log on this machine")
    place.add_argument("--operator", metavar="URL", help="fetch and verify the log from there")
    parser.add_argument(
        "--mirror", type=Path, help="with --operator, keep what was verified in this folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    table = _table(arguments)
    if arguments.subject == "log":
        print(to_json(_view(table)))
        failed = [row for row in table.receipts if row.state is State.FAILED]
        if failed or table.forks or table.withheld or table.reused or table.contradicted:
            print(
                f"FAIL: {len(failed)} receipts FAILED, {len(table.withheld)} gaps,"
                f" {len(table.forks)} forks,"
                f" {len(table.contradicted)} transactions with two ends",
                file=sys.stderr,
            )
            return EXIT_REFUSED
        print(f"OK: {len(table.receipts)} receipts, none failed", file=sys.stderr)
        return EXIT_DONE
    receipt = InferenceReceipt.parse(read_receipt(Path(arguments.subject)))
    row = table.of(receipt.receipt_id)
    if row is None:
        print(f"FAIL: the log has no such receipt ({Reason.RECEIPT_NOT_FOUND})", file=sys.stderr)
        return EXIT_COULD_NOT_TELL
    print(to_json(_row(row)))
    if row.state is State.FAILED:
        reason = row.reason.value if row.reason else ""
        print(f"FAIL: the receipt FAILED ({plain(reason)})", file=sys.stderr)
        return EXIT_REFUSED
    if row.state is State.MET:
        print("OK: every promise is kept", file=sys.stderr)
        return EXIT_DONE
    print(f"FAIL: {row.state.label} ({Reason.EVIDENCE_PENDING})", file=sys.stderr)
    return EXIT_COULD_NOT_TELL


def _table(arguments: argparse.Namespace) -> StatusTable:
    from verispect.tlog.status import replay_status

    root = read_trusted_root(arguments.trusted_root)
    nodes = root.log_trust.nodes
    if arguments.log is not None:
        from verispect.ledger.log.embedded import LogFolder
        from verispect.ledger.log.reading import TileReader
        from verispect.tlog.tiles import tiles_of

        folder = LogFolder(arguments.log)
        size = folder.open_state().head().size
        reader = TileReader(folder.tiles)
        bundles = (reader.entries(tile) for tile in tiles_of(size) if tile.level == 0)
        leaves = (leaf for bundle in bundles for leaf in bundle)
        return replay_status(leaves, nodes=nodes, log=folder.trusted)
    return _fetched(arguments, root)


def _fetched(arguments: argparse.Namespace, root: Any) -> StatusTable:
    import tempfile

    from verispect.node.mirror import Mirror
    from verispect.node.operator_client import HttpSource, make_client
    from verispect.node.state import NodeState
    from verispect.node.verification import only_log
    from verispect.tlog.status import replay_status

    with tempfile.TemporaryDirectory() as temporary, make_client() as client:
        folder = arguments.mirror or Path(temporary)
        log = only_log(root)
        mirror = Mirror(folder / "mirror", NodeState(folder), log)
        mirror.follow(HttpSource(arguments.operator, client))
        return replay_status(mirror.leaves(), nodes=root.log_trust.nodes, log=log)


def _row(row: ReceiptStatus) -> dict[str, Any]:
    return {
        "receipt": row.receipt.hex(),
        "leafIndex": row.leaf_index,
        "status": row.state.label,
        "reason": row.reason.value if row.reason else None,
        "decidedAt": row.decided_at,
    }


def _view(table: StatusTable) -> dict[str, Any]:
    return {
        "size": table.size,
        "clock": table.clock,
        "digest": table.digest().hex(),
        "receipts": [_row(row) for row in table.receipts],
        "withheld": [
            {"issuerKey": gap.issuer_key.hex(), "first": gap.first, "last": gap.last}
            for gap in table.withheld
        ],
        "reused": [
            {"issuerKey": each.issuer_key.hex(), "sequence": each.sequence} for each in table.reused
        ],
        "forks": list(table.forks),
        "contradicted": [
            {
                "issuerKey": each.issuer_key.hex(),
                "transaction": each.transaction_id.hex(),
                "leaves": list(each.leaves),
                "reason": each.reason.value,
            }
            for each in table.contradicted
        ],
    }
