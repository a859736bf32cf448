"""What an operator signs of its transactions, and whom it tells of them.

This module refuses to judge: outcomes are given to it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from verispect.appraisal.policy import PRESETS, SIGNED
from verispect.core.envelope import sign_envelope
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import (
    MAX_PARTS,
    TRANSACTION_TYPE,
    Failure,
    PartOutcome,
    TransactionOutcome,
    TransactionPart,
    TransactionStatement,
)
from verispect.gateway.errors import error_member
from verispect.gateway.transaction_parts import PartRecord
from verispect.ledger.log.sources import submit
from verispect.ledger.transactions import StoredTransaction, TransactionState, receipts_since

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

STATE_OF: Final = {
    TransactionOutcome.COMMITTED: TransactionState.COMMITTED,
    TransactionOutcome.FAILED: TransactionState.FAILED,
    TransactionOutcome.ABORTED: TransactionState.ABORTED,
    TransactionOutcome.PENDING: TransactionState.PENDING,
}
"""Where a transaction stands after its statement."""

_KEY_DOMAIN: Final = b"transaction:"


class TransactionListener(Protocol):
    """Told how transactions ended, after that is durable, at least once; MUST bear a repetition."""

    async def committed(self, transaction_id: bytes, parts: Sequence[InferenceReceipt]) -> None:
        """Every part met its assurance: what they cost may be taken, all of it."""
        ...

    async def failed(
        self, transaction_id: bytes, parts: Sequence[InferenceReceipt], reason: str
    ) -> None:
        """Failed or aborted: nothing of what these parts cost may be taken."""
        ...


def key_of(state: GatewayState, transaction_id: bytes) -> str:
    """Return the bearer key of a transaction."""
    return state.recorder.opening_key(_KEY_DOMAIN + transaction_id)


def publish(state: GatewayState, leaf: bytes) -> None:
    """Give the log a leaf; blocks. One that it has keeps its place."""
    assert state.log is not None
    log = state.log.settings.folder.open_state()
    try:
        submit(log, [leaf])
    finally:
        log.close()


def outcome_of(
    parts: Sequence[TransactionPart], failure: Failure | None
) -> tuple[TransactionOutcome, Failure | None]:
    """Return what parts add up to; a failure that is given already decides."""
    if failure is not None:
        aborted = failure.index is None
        return TransactionOutcome.ABORTED if aborted else TransactionOutcome.FAILED, failure
    for part in parts:
        if part.outcome is PartOutcome.FAILED and part.reason is not None:
            return TransactionOutcome.FAILED, Failure(part.reason, part.index)
    if any(part.outcome is PartOutcome.PENDING for part in parts):
        return TransactionOutcome.PENDING, None
    return TransactionOutcome.COMMITTED, None


def sign_statement(state: GatewayState, statement: TransactionStatement) -> bytes:
    """Return the signed statement."""
    statement.check_form()
    issuer = state.recorder.issuer
    return sign_envelope(
        statement.encode(),
        content_type=TRANSACTION_TYPE,
        issuer=issuer.name,
        subject=statement.transaction_id.hex(),
        signer=issuer.signer,
    ).encode()


def search_parts(receipts: Path, stored: StoredTransaction) -> list[PartRecord]:
    """Find the parts of a transaction whose process died, among all that was issued since."""
    by_digest = {each.digest(): each for each in PRESETS.values()}
    found: dict[int, PartRecord] = {}
    for data in receipts_since(receipts, stored.opened_at):
        receipt = InferenceReceipt.parse(data)
        statement = receipt.unverified_statement
        place = statement.transaction
        if place is not None and place.transaction_id == stored.transaction_id:
            policy = by_digest.get(statement.assurance, SIGNED)
            found[place.index] = PartRecord(
                place.index,
                bytes.fromhex(receipt.claimed_inference),
                data,
                receipt.receipt_id,
                policy,
                tuple(statement.finish_reasons),
                (),
                statement.assurance,
            )
    ordered: list[PartRecord] = []
    while len(ordered) in found and len(ordered) < MAX_PARTS:
        ordered.append(found[len(ordered)])
    return ordered


async def attempt(work: Coroutine[Any, Any, None]) -> None:
    """Await work that is tried again later where it fails; then it is logged under a number."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - logged under a number, and tried again
        error_member(error)
