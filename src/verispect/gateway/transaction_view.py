"""A transaction as an HTTP answer: where it stands, with its signed statement.

It refuses to decide anything, and to show content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from verispect.core.encoding import sha256, to_base64url
from verispect.core.errors import Reason
from verispect.core.transaction import open_transaction
from verispect.gateway.http import HttpResponse
from verispect.gateway.transactions import key_of
from verispect.ledger.transactions import StoredTransaction, TransactionState

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

_NEVER: Final = ("cache-control", "no-store")
_CONFLICT: Final = 409
_FAILED: Final = 422
_STATUS: Final = {
    TransactionState.COMMITTED: 200,
    TransactionState.PENDING: 202,
    TransactionState.FAILED: _FAILED,
    TransactionState.ABORTED: _CONFLICT,
    TransactionState.OPEN: 200,
}


def answer_with(
    state: GatewayState,
    stored: StoredTransaction,
    content: dict[str, Any],
    *,
    status: int | None = None,
) -> HttpResponse:
    """Return where a transaction stands, with its signed statement."""
    view: dict[str, Any] = {
        "id": stored.transaction_id.hex(),
        "object": "transaction",
        "state": stored.state.value,
        "key": key_of(state, stored.transaction_id),
        "opened_at": stored.opened_at,
        "expires_at": stored.expires_at,
    }
    if stored.envelope is not None:
        _, statement = open_transaction(stored.envelope)
        view |= {
            "decided_at": statement.decided_at,
            "count": statement.count,
            "root": statement.root.hex(),
            "receipt_id": sha256(stored.envelope).hex(),
            "receipt": to_base64url(stored.envelope),
        }
        if statement.due_at is not None:
            view["due_at"] = statement.due_at
        if (failure := statement.failure) is not None:
            view["failure"] = {"part": failure.index, "reason": failure.reason}
            at = "" if failure.index is None else f" at part {failure.index}"
            code = Reason.TRANSACTION_FAILED
            if stored.state is TransactionState.ABORTED:
                code = Reason.TRANSACTION_ABORTED
            message = f"the transaction was {stored.state.value}{at}: {failure.reason}"
            view["error"] = {
                "message": message.replace("was failed", "failed"),
                "type": "invalid_request_error",
                "param": None if failure.index is None else f"parts[{failure.index}]",
                "code": code.value,
            }
    status = _STATUS[stored.state] if status is None else status
    return HttpResponse(status, msgspec.json.encode(view | content), headers=[_NEVER])
