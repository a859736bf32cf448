"""A decided transaction as others fetch it: whole, or one part of it with the others closed.

Blocks, since it reads receipts. It refuses to show content: openings are their callers' to fetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from verispect.core.encoding import decode
from verispect.core.errors import Error, Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import TransactionPart, open_transaction
from verispect.core.transaction_files import BundledPart, DisclosedPart, TransactionBundle
from verispect.ledger.transactions import StoredTransaction
from verispect.tlog.transaction_tree import part_path

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState


def read_rows(stored: StoredTransaction) -> list[TransactionPart]:
    """Return the signed rows of a transaction's parts; none while it is open."""
    return (
        [] if stored.parts is None else [TransactionPart.from_row(r) for r in decode(stored.parts)]
    )


def bundle_of(state: GatewayState, stored: StoredTransaction) -> TransactionBundle:
    """Return the transaction as one object, without openings.

    A receipt that is gone, or damaged, is not shown: its part cannot be judged then.

    Raises:
        RequestError: `transaction-busy` while it is open.
        StoreError: `store-failed`, `store-locked`.
    """
    if stored.envelope is None or stored.parts is None:
        raise RequestError("the transaction is open", reason=Reason.TRANSACTION_BUSY)
    envelope, statement = open_transaction(stored.envelope)
    shown = [BundledPart(part, _receipt(state, part)) for part in read_rows(stored)]
    return TransactionBundle(envelope, statement, shown)


def _receipt(state: GatewayState, part: TransactionPart) -> InferenceReceipt | None:
    found = state.recorder.store.find(part.receipt)
    try:
        return None if found is None else InferenceReceipt.parse(found.receipt)
    except Error:
        return None


def disclosed_part(state: GatewayState, stored: StoredTransaction, index: int) -> DisclosedPart:
    """Return one part with its path, the others closed.

    Raises:
        RequestError: `transaction-busy` while it is open, `invalid-request` for no such part.
        StoreError: `store-failed`, `store-locked`.
    """
    bundle = bundle_of(state, stored)
    if not 0 <= index < len(bundle.parts):
        raise RequestError("there is no such part", parameter="part")
    parts = [each.part for each in bundle.parts]
    path = part_path(stored.transaction_id, parts, index)
    return DisclosedPart(bundle.envelope, bundle.statement, bundle.parts[index], path)
