"""The routes of the public log (spec/http.md section 8): for anyone to read, for nodes to answer.

What is public is served without a key, immutable where it never changes. Openings hold content:
they go to auditors that the operator listed, against a fresh signed request, and to nobody else.
"""

from __future__ import annotations

from typing import Final

import msgspec

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.log_door import LogDoor
from verispect.gateway.state import GatewayState

_HEX: Final = frozenset("0123456789abcdef")
_OCTETS: Final = "application/octet-stream"
_TEXT: Final = "text/plain; charset=utf-8"
_RECEIPT_TYPE: Final = 'application/cose; cose-type="cose-sign1"'
_IMMUTABLE: Final = [("cache-control", "public, max-age=31536000, immutable")]
_CURRENT: Final = [("cache-control", "no-cache")]
_NEVER: Final = [("cache-control", "no-store")]

LOG_PROOF_SUFFIX: Final = "/log-proof"


def door_of(state: GatewayState) -> LogDoor:
    """Return the log's door.

    Raises:
        HttpError: 404 where this server keeps no log.
    """
    if state.log is None:
        raise HttpError("this server keeps no log", status=404, reason=Reason.LOG_UNKNOWN)
    return state.log


def _digest(request: HttpRequest, prefix: str) -> Digest:
    text = request.path.removeprefix(prefix)
    if len(text) != 2 * DIGEST_BYTES or not _HEX.issuperset(text):
        raise _absent()
    return Digest(bytes.fromhex(text))


def _absent() -> HttpError:
    return HttpError(
        "the log has nothing of this name", status=404, reason=Reason.RECEIPT_NOT_FOUND
    )


async def checkpoint(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /log/checkpoint`."""
    door = door_of(state)
    return HttpResponse(200, await door.do(door.checkpoint), _TEXT, [*_CURRENT])


async def description(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /log/description`."""
    door = door_of(state)
    data = await door.do(door.description)
    if data is None:
        raise _absent()
    return HttpResponse(200, data, _TEXT, [*_CURRENT])


async def tile(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /log/tile/{path}`: tiles of hashes and bundles of entries, for ever the same."""
    door = door_of(state)
    path = request.path.removeprefix("/log/")
    try:
        data = await door.do(lambda: door.tile(path))
    except MalformedError:
        data = None
    if data is None:
        raise _absent()
    return HttpResponse(200, data, _OCTETS, [*_IMMUTABLE])


async def receipt(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /log/receipts/{digest}`: the receipt behind a leaf; it holds no content."""
    door = door_of(state)
    digest = _digest(request, "/log/receipts/")
    stored = await door.do(lambda: state.recorder.store.find(digest))
    if stored is None:
        raise _absent()
    return HttpResponse(200, stored.receipt, _RECEIPT_TYPE, [*_CURRENT])


async def evidence(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /log/evidence/{digest}`."""
    door = door_of(state)
    digest = _digest(request, "/log/evidence/")
    data = await door.do(lambda: door.evidence(digest))
    if data is None:
        raise _absent()
    return HttpResponse(200, data, _OCTETS, [*_IMMUTABLE])


async def submit(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `POST /log/entries`: 202 with the index of the leaf and until when it is in a tree."""
    door = door_of(state)
    try:
        placed = await door.do(lambda: door.submissions.take(request.body))
    except VerificationError as error:
        raise HttpError(error.message, status=403, reason=error.reason) from error
    delay = (await door.do(door.settings.folder.description)).maximum_merge_delay_milliseconds
    promise = {
        "leafIndex": placed.leaf_index,
        "isNew": placed.is_new,
        "integratedBy": request.received_at + delay,
    }
    return HttpResponse(202, msgspec.json.encode(promise))


async def openings(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `POST /log/openings/{digest}`: content, for auditors that the operator listed."""
    door = door_of(state)
    digest = _digest(request, "/log/openings/")
    await door.do(lambda: door.submissions.authorise_openings(digest, request.body))
    stored = await door.do(lambda: state.recorder.store.find(digest))
    if stored is None:
        raise _absent()
    content = await door.do(lambda: state.recorder.store.openings(stored.inference_id))
    if content is None:
        raise HttpError(
            "the openings were erased when their retention ended",
            status=410,
            reason=Reason.RECEIPT_NOT_FOUND,
        )
    return HttpResponse(200, content, "application/cbor", [*_NEVER])


async def log_proof(state: GatewayState, request: HttpRequest, digest: Digest) -> HttpResponse:
    """Answer `GET /v1/receipts/{id}/log-proof`, with `?format=cose` as a COSE receipt.

    Raises:
        HttpError: 404 where the log has no such receipt, or not yet in a tree.
    """
    door = door_of(state)
    try:
        if request.query.get("format") == "cose":
            data = await door.do(lambda: door.cose_receipt(digest))
            return HttpResponse(200, data, "application/cose", [*_CURRENT])
        proof = await door.do(lambda: door.proof(digest))
    except Error as error:
        if error.reason in (Reason.LEAF_PENDING, Reason.RECEIPT_NOT_FOUND):
            raise HttpError(error.message, status=404, reason=error.reason) from error
        raise
    return HttpResponse(200, proof.encode(), _TEXT, [*_CURRENT])
