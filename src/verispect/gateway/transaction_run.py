"""Several inferences of one request, run in their order through the ordinary routes.

Everything that can be refused before anything runs is refused then. This module refuses streams:
a part is whole, or the transaction has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from verispect.appraisal.references import (
    Reference,
    fill,
    operation_of,
    read_references,
    source_value,
)
from verispect.core.encoding import to_base64url
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import TransactionBinding
from verispect.core.transaction import MAX_PARTS, Failure, part_nonce
from verispect.gateway import chat, completions, embeddings, open_inference, responses
from verispect.gateway.assurance import ASSURANCE_HEADER, NONCE_HEADER, read_nonce
from verispect.gateway.errors import error_member
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.transaction_parts import FixedTicket, PartRecord, opened_parts
from verispect.gateway.transaction_view import answer_with
from verispect.gateway.transactions import DEFAULT_SECONDS
from verispect.ledger.transactions import StoredTransaction

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

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
    assurance: str | dict[str, Any] | None = None
    """A word, or a policy of the caller's own."""
    lane: str | None = None
    nonce: str | None = None
    attestation: str | None = None
    proof: str | None = None


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/transactions`; without `parts` it opens."""

    parts: list[PartBody] | None = None
    timeout_seconds: int = DEFAULT_SECONDS


def read_parts(parts: list[PartBody]) -> list[list[Reference]]:
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
        if isinstance(part.assurance, dict):
            _put_policy(part, operation, where)
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


def _put_policy(part: PartBody, operation: str, where: str) -> None:
    """Put a caller's own policy where the part's interface takes one: no header holds it."""
    holder: Any = part.body
    if operation == "infer":
        holder = holder.setdefault("parameters", {})
    if not isinstance(holder, dict) or holder.get("assurance", part.assurance) != part.assurance:
        raise RequestError("the part asks for two assurances", parameter=f"{where}.assurance")
    holder["assurance"] = part.assurance


def part_headers(parts: list[PartBody], nonce: bytes | None) -> list[dict[str, str]]:
    """Return the headers of each part's request; no two have one nonce."""
    all_headers = []
    nonces: set[bytes] = set()
    for index, part in enumerate(parts):
        given = {
            ASSURANCE_HEADER: part.assurance if isinstance(part.assurance, str) else None,
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


class TransactionRun:
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
        assert state.transactions is not None  # The route saw to it.
        self._transactions = state.transactions
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
        return answer_with(self._state, stored, content, status=status)
