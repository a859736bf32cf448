"""`verispect inspect`: show what a receipt says, without judging it."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from verispect.cli.files import read_file, read_receipt, to_json
from verispect.cli.transaction import transaction_view
from verispect.core.commitments import decode_openings
from verispect.core.encoding import to_base64url
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement
from verispect.core.transaction_files import is_transaction_file


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what a receipt says, unverified",
        description="Show what a receipt says. Nothing is verified.",
    )
    parser.add_argument("receipt", type=Path, help="receipt, or an answer that carries one")
    parser.add_argument("--openings", type=Path, help="openings, shown beside their parts")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if is_transaction_file(data := read_file(arguments.receipt)):
        print("unverified: this is what the transaction says, not what is true")
        print(to_json(transaction_view(data)))
        return 0
    receipt = InferenceReceipt.parse(read_receipt(arguments.receipt))
    view = receipt_view(receipt)
    if arguments.openings:
        openings = decode_openings(read_file(arguments.openings))
        view["openings"] = {
            part.label: _printable(opening.content()) for part, opening in openings.items()
        }
    print("unverified: this is what the receipt says, not what is true")
    print(to_json(view))
    return 0


def receipt_view(receipt: InferenceReceipt) -> dict[str, Any]:
    """Return the JSON view of a receipt; never what is signed, and not verified."""
    envelope = receipt.envelope
    return {
        "receiptId": receipt.receipt_id.hex(),
        "issuer": envelope.issuer,
        "keyId": envelope.key_id.hex(),
        "inference": envelope.subject,
        "statement": _statement_view(receipt.unverified_statement),
        "evidence": [
            {
                "kind": entry.kind,
                "profile": entry.profile,
                "collectedAt": _moment(entry.collected_at),
                "digest": entry.digest().hex(),
                "bytes": len(entry.body),
            }
            for entry in receipt.evidence
        ],
    }


def _statement_view(statement: InferenceStatement) -> dict[str, Any]:
    model = statement.model
    view: dict[str, Any] = {
        "version": statement.version,
        "sequence": statement.sequence,
        "operation": statement.operation,
        "requestedModel": statement.requested_model,
        "executedModel": {
            "identity": model.identity.label,
            "modelId": model.model_id.hex(),
            "engine": model.engine.hex(),
            "determinism": model.determinism.label,
            "lane": model.lane.label,
        },
        "receivedAt": _moment(statement.received_at),
        "completedAt": _moment(statement.completed_at),
        "signedAt": _moment(statement.signed_at),
        "finishReasons": list(statement.finish_reasons),
        "usage": dict(statement.usage),
        "commitments": {part.label: value.hex() for part, value in statement.commitments.items()},
        "assurance": statement.assurance.hex(),
        "evidence": [
            {
                "kind": promise.kind,
                "digest": promise.digest.hex() if promise.digest else None,
                "dueAt": _moment(promise.due_at) if promise.due_at is not None else None,
            }
            for promise in statement.evidence
        ],
        "nonce": to_base64url(statement.nonce) if statement.nonce else None,
    }
    if statement.stream is not None:
        view["stream"] = {
            "chunks": statement.stream.chunks,
            "head": statement.stream.head.hex(),
        }
    if (place := statement.transaction) is not None:
        view["transaction"] = {
            "id": place.transaction_id.hex(),
            "index": place.index,
            "count": place.count or None,
        }
    if statement.confidential is not None:
        view["confidential"] = statement.confidential.hex()
    if (service := statement.service) is not None:
        view["service"] = {
            "name": service.name,
            "version": service.version,
            "digest": service.digest.hex(),
        }
    return view


def _moment(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="milliseconds")


def _printable(content: Any) -> Any:
    if isinstance(content, bytes):
        return {"base64url": to_base64url(content)}
    if isinstance(content, dict):
        return {str(name): _printable(item) for name, item in content.items()}
    if isinstance(content, list):
        return [_printable(item) for item in content]
    return content
