"""`/v1/transactions`: several inferences in one request, or opened, joined and committed.

Each part runs through the ordinary route of its interface: there is no second way to an inference.
References are read, and refused, before anything runs. A part that ends with an error ends the
transaction: it has failed, with that part and its reason, and the answer has that error's status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
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
from verispect.core.encoding import sha256, to_base64url
from verispect.core.errors import Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import TransactionBinding
from verispect.core.transaction import MAX_PARTS, Failure, open_transaction, part_nonce
from verispect.gateway import chat, completions, embeddings, open_inference, responses
from verispect.gateway.assurance import ASSURANCE_HEADER, NONCE_HEADER, caller_nonce, read_nonce
from verispect.gateway.errors import error_member
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.transaction_parts import FixedTicket, PartRecord, opened_parts
from verispect.gateway.transactions import DEFAULT_SECONDS, Transactions, key_of
from verispect.gateway.wire import decode_body
from verispect.ledger.transactions import StoredTransaction, TransactionState

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

TRANSACTION_HEADER: Final = "verispect-transaction"
KEY_HEADER: Final = "verispect-transaction-key"

_PREFIX: Final = "/v1/transactions/"
_RECEIPT: Final = "/receipt"
_NEVER: Final = ("cache-control", "no-store")
_CONFLICT: Final = 409
_FAILED: Final = 422
_GONE: Final = 499
_Handler = Callable[["GatewayState", HttpRequest], Awaitable[HttpResponse | StreamedResponse]]
_HANDLERS: Final[Mapping[str, _Handler]] = {
    "chat.completions": chat.create_chat_completion,
    "completions": completions.create_completion,
    "responses": responses.create_response,
    "embeddings": embeddings.create_embeddings,
    "infer": open_inference.dispatch,
}


class PartBody(msgspec.Struct, forbid_unknown_fields=True):
    """One part of the request."""

    path: str
    body: dict[str, Any]
    assurance: str | None = None
    lane: str | None = None
    nonce: str | None = None
    attestation: str | None = None
    proof: str | None = None


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/transactions`; without `parts` it opens."""

    parts: list[PartBody] | None = None
    timeout_seconds: int = DEFAULT_SECONDS


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
        return _answer(state, stored, {}, status=200)
    references = _read_parts(body.parts)
    headers = _part_headers(body.parts, nonce)
    stored = await transactions.open(
        seconds=body.timeout_seconds, fixed_count=len(body.parts), nonce=nonce
    )
    run = _Run(state, request, stored, body.parts, references, headers)
    return await run.all()


def _read_parts(parts: list[PartBody]) -> list[list[Reference]]:
    """Check what can be checked before anything runs, and return each part's references."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise RequestError(
            f"expected 1 to {MAX_PARTS} parts", reason=Reason.TOO_LARGE, parameter="parts"
        )
    operations: list[str] = []
    references = []
    for index, part in enumerate(parts):
        where = f"parts[{index}]"
        operation = operation_of(part.path)
        if operation is None:
            raise RequestError("this path is no inference", parameter=f"{where}.path")
        if part.body.get("stream"):
            raise RequestError("a part is not streamed", parameter=f"{where}.body.stream")
        try:
            references.append(
                read_references(part.body, path=part.path, index=index, operations=operations)
            )
        except RequestError as error:
            error.parameter = f"{where}.body"
            raise
        except (TypeError, KeyError, AttributeError, IndexError):
            raise RequestError(
                "a reference stands in a request of another shape",
                reason=Reason.DEPENDENCY_INVALID,
                parameter=f"{where}.body",
            ) from None
        operations.append(operation)
    return references


def _part_headers(parts: list[PartBody], nonce: bytes | None) -> list[dict[str, str]]:
    """Return the headers of each part's request; no two have one nonce."""
    all_headers = []
    nonces: set[bytes] = set()
    for index, part in enumerate(parts):
        given = {
            ASSURANCE_HEADER: part.assurance,
            "verispect-lane": part.lane,
            "verispect-attestation": part.attestation,
            "verispect-proof": part.proof,
        }
        headers = {name: value for name, value in given.items() if value is not None}
        own = read_nonce(part.nonce, parameter=f"parts[{index}].nonce")
        if own is None and nonce is not None:
            own = part_nonce(nonce, index)
        if own is not None:
            if own in nonces or own == nonce:
                raise RequestError(
                    "two parts carry one nonce",
                    reason=Reason.NONCE_REUSED,
                    parameter=f"parts[{index}].nonce",
                )
            nonces.add(own)
            headers[NONCE_HEADER] = to_base64url(own)
        headers["content-type"] = "application/json"
        all_headers.append(headers)
    return all_headers


class _Run:
    """One request's parts, run in their order."""

    def __init__(
        self,
        state: GatewayState,
        request: HttpRequest,
        stored: StoredTransaction,
        parts: list[PartBody],
        references: list[list[Reference]],
        headers: list[dict[str, str]],
    ) -> None:
        self._state = state
        self._transactions = _required(state)
        self._request = request
        self._stored = stored
        self._parts = parts
        self._references = references
        self._headers = headers
        self._records: list[PartRecord] = []
        self._answers: list[dict[str, Any]] = []

    async def all(self) -> HttpResponse:
        """Run every part and decide, whether or not the caller stays."""
        try:
            for index in range(len(self._parts)):
                failed = await self._one(index)
                if failed is not None:
                    return failed
            stored = await self._transactions.decide(self._state, self._stored, self._records)
        except asyncio.CancelledError:
            await asyncio.shield(self._abort())
            raise
        return self._finished(stored)

    async def _one(self, index: int) -> HttpResponse | None:
        """Run one part; return the answer to the whole where it ends here."""
        try:
            response, ticket = await self._send(index)
        except Exception as error:  # noqa: BLE001 - as the dispatcher: any error becomes an answer
            status, member = error_member(error)
            reason = member["code"] if "_" not in member["code"] else Reason.MODEL_NOT_FOUND.value
            member["param"] = f"parts[{index}]" + (f".{member['param']}" if member["param"] else "")
            stored = await self._transactions.decide(
                self._state, self._stored, self._records, failure=Failure(reason, index)
            )
            return self._finished(stored, status=status, error=member)
        if response.status != 200 or ticket.record is None:
            if ticket.record is not None:
                self._records.append(ticket.record)
            stored = await self._abort()
            return self._finished(stored, status=_GONE)
        self._records.append(ticket.record)
        headers = dict(response.headers)
        self._answers.append(
            {
                "index": index,
                "inference": headers["verispect-inference"],
                "opening_key": headers["verispect-opening-key"],
                "receipt_id": ticket.record.receipt_id.hex(),
                "body": msgspec.Raw(response.body),
            }
        )
        return None

    async def _send(self, index: int) -> tuple[HttpResponse, FixedTicket]:
        part, references = self._parts[index], self._references[index]
        if references:
            values = await asyncio.to_thread(self._values, references)
            fill(part.body, references, values)
        place = TransactionBinding(self._stored.transaction_id, index, len(self._parts))
        ticket = FixedTicket(place, [each.link for each in references])
        request = HttpRequest(
            method="POST",
            path=part.path,
            query={},
            headers=self._headers[index],
            body=msgspec.json.encode(part.body),
            disconnected=self._request.disconnected,
            received_at=self._transactions.now(),
            transaction=ticket,
        )
        response = await _HANDLERS[operation_of(part.path) or ""](self._state, request)
        if isinstance(response, StreamedResponse):
            raise RequestError("a part is not streamed")
        return response, ticket

    def _values(self, references: list[Reference]) -> list[Any]:
        values = []
        for reference in references:
            source = self._records[reference.link.source]
            opened = opened_parts(self._state, source.inference_id)
            values.append(source_value(reference.link, opened.get(reference.link.source_part)))
        return values

    async def _abort(self) -> StoredTransaction:
        return await self._transactions.abort(self._state, self._stored, records=self._records)

    def _finished(
        self,
        stored: StoredTransaction,
        *,
        status: int | None = None,
        error: dict[str, Any] | None = None,
    ) -> HttpResponse:
        content: dict[str, Any] = {"parts": self._answers}
        if error is not None:
            content["error"] = error
        return _answer(self._state, stored, content, status=status)


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
    request.transaction = transactions.ticket(stored, links)


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
            data = (await asyncio.to_thread(transactions.bundle, state, stored)).encode()
        else:
            index = int(part) if part.isascii() and part.isdigit() and len(part) < 6 else -1
            shown = await asyncio.to_thread(transactions.disclose, state, stored, index)
            data = shown.encode()
        return HttpResponse(200, data, "application/cbor", [_NEVER])
    key = request.headers.get(KEY_HEADER, "")
    return _answer(state, await transactions.find(state, identifier, key), {}, status=200)


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
        return _answer(state, stored, {}, status=200)
    return _answer(state, await asyncio.shield(transactions.commit(state, stored)), {})


def _required(state: GatewayState) -> Transactions:
    if state.transactions is None:
        raise RequestError("this server takes no transactions", parameter=_SHOWN_HEADER)
    return state.transactions


_STATUS: Final = {
    TransactionState.COMMITTED: 200,
    TransactionState.PENDING: 202,
    TransactionState.FAILED: _FAILED,
    TransactionState.ABORTED: _CONFLICT,
    TransactionState.OPEN: 200,
}


def _answer(
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
