"""`/v1/transactions`: several inferences in one request, or opened, joined and committed.

Each part runs through the ordinary route of its interface: there is no second way to an inference.
References are read, and refused, before anything runs. A part that ends with an error ends the
transaction: it has failed, with that part and its reason, and the answer has that error's status.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from verispect.appraisal.references import (
    REFERENCE,
    Reference,
    fill,
    operation_of,
    read_references,
    source_value,
)
from verispect.core.errors import Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import MAX_PARTS
from verispect.gateway.assurance import caller_nonce
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.transaction_bundle import bundle_of, disclosed_part
from verispect.gateway.transaction_parts import opened_parts
from verispect.gateway.transaction_run import (
    TransactionBody,
    TransactionRun,
    part_headers,
    read_parts,
)
from verispect.gateway.transaction_view import answer_with
from verispect.gateway.transactions import Transactions
from verispect.gateway.wire import decode_body
from verispect.ledger.transactions import StoredTransaction

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

TRANSACTION_HEADER: Final = "verispect-transaction"
KEY_HEADER: Final = "verispect-transaction-key"

_PREFIX: Final = "/v1/transactions/"
_RECEIPT: Final = "/receipt"
_NEVER: Final = ("cache-control", "no-store")


async def create_transaction(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `POST /v1/transactions`.

    Raises:
        RequestError: `invalid-request`, `dependency-invalid`, `nonce-reused`, `too-large`, before
            anything runs.
    """
    transactions = _required(state)
    body = decode_body(request.body, TransactionBody, state.limits)
    nonce = caller_nonce(request.headers)
    if body.parts is None:
        stored = await transactions.open(seconds=body.timeout_seconds, fixed_count=0, nonce=nonce)
        return answer_with(state, stored, {}, status=200)
    references = read_parts(body.parts)
    headers = part_headers(body.parts, nonce)
    stored = await transactions.open(
        seconds=body.timeout_seconds, fixed_count=len(body.parts), nonce=nonce
    )
    run = TransactionRun(state, request, stored, body.parts, references, headers)
    return await run.all()


async def join(state: GatewayState, request: HttpRequest) -> None:
    """Make a request a part of the open transaction that its header names, where it names one.

    Raises:
        RequestError: `invalid-request` for what is no inference, `transaction-not-found`,
            `transaction-forbidden`, `transaction-closed`, `dependency-invalid`.
    """
    if TRANSACTION_HEADER not in request.headers:
        return
    transactions = _required(state)
    if request.method != "POST" or operation_of(request.path) is None:
        raise RequestError("only an inference is part of a transaction", parameter=_SHOWN_HEADER)
    key = request.headers.get(KEY_HEADER, "")
    stored = await transactions.find(state, request.headers[TRANSACTION_HEADER], key)
    links = []
    if b"$" in request.body and REFERENCE.encode() in request.body:
        filled = await asyncio.to_thread(_fill_body, state, transactions, stored, request)
        links = [each.link for each in filled]
    request.transaction = transactions.ticket(stored, links, caller_nonce(request.headers))


_SHOWN_HEADER: Final = "Verispect-Transaction"


def _fill_body(
    state: GatewayState,
    transactions: Transactions,
    stored: StoredTransaction,
    request: HttpRequest,
) -> list[Reference]:
    """Put earlier outputs into a request's body; blocks."""
    body = decode_body(request.body, dict[str, Any], state.limits)
    earlier, operations = [], []
    for part in transactions.store.parts(stored.transaction_id):
        found = state.recorder.store.find(part.inference_id)
        if found is None:
            break
        earlier.append(part.inference_id)
        operations.append(InferenceReceipt.parse(found.receipt).unverified_statement.operation)
    try:
        references = read_references(
            body, path=request.path, index=MAX_PARTS, operations=operations
        )
    except (TypeError, KeyError, AttributeError, IndexError):
        raise RequestError(
            "a reference stands in a request of another shape", reason=Reason.DEPENDENCY_INVALID
        ) from None
    values = []
    for reference in references:
        opened = opened_parts(state, earlier[reference.link.source])
        values.append(source_value(reference.link, opened.get(reference.link.source_part)))
    fill(body, references, values)
    request.body = msgspec.json.encode(body)
    return references


async def retrieve_transaction(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/transactions/{id}` and `GET /v1/transactions/{id}/receipt`.

    Raises:
        RequestError: `transaction-not-found`, `transaction-forbidden`, `transaction-busy`.
    """
    transactions = _required(state)
    identifier = request.path.removeprefix(_PREFIX)
    if identifier.endswith(_RECEIPT):
        stored = await transactions.find(state, identifier.removesuffix(_RECEIPT), None)
        part = request.query.get("part")
        if part is None:
            data = (await asyncio.to_thread(bundle_of, state, stored)).encode()
        else:
            index = int(part) if part.isascii() and part.isdigit() and len(part) < 6 else -1
            shown = await asyncio.to_thread(disclosed_part, state, stored, index)
            data = shown.encode()
        return HttpResponse(200, data, "application/cbor", [_NEVER])
    key = request.headers.get(KEY_HEADER, "")
    return answer_with(state, await transactions.find(state, identifier, key), {}, status=200)


async def end_transaction(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `POST /v1/transactions/{id}/commit` and `POST /v1/transactions/{id}/abort`.

    Raises:
        RequestError: `transaction-not-found`, `transaction-forbidden`, `transaction-closed`,
            `transaction-busy`, `route-not-found`.
    """
    transactions = _required(state)
    identifier, _, action = request.path.removeprefix(_PREFIX).partition("/")
    if action not in ("commit", "abort"):
        raise RequestError("expected commit or abort", parameter="path")
    stored = await transactions.find(state, identifier, request.headers.get(KEY_HEADER, ""))
    # Shielded: a decision that was begun is made, whoever waits for it.
    if action == "abort":
        stored = await asyncio.shield(transactions.abort(state, stored))
        return answer_with(state, stored, {}, status=200)
    return answer_with(state, await asyncio.shield(transactions.commit(state, stored)), {})


def _required(state: GatewayState) -> Transactions:
    if state.transactions is None:
        raise RequestError("this server takes no transactions", parameter=_SHOWN_HEADER)
    return state.transactions
