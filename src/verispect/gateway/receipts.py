"""`/v1/receipts/{id}`, its openings, and `/.well-known/verispect`.

A receipt is found by its digest, by the inference, or by the answer's own id. It holds no
content, so whoever has the id may have it. Openings hold content: they are given only for the
opening key that went out with the answer, and only until their retention ends.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Any, Final

import msgspec

from verispect import __version__
from verispect.appraisal.trusted_root import AcceptedModel, TrustedRoot
from verispect.core.commitments import decode_openings, encode_openings
from verispect.core.encoding import DIGEST_BYTES, Digest, to_base64url
from verispect.core.errors import Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import INFERENCE_ID_BYTES, STATEMENT_VERSION
from verispect.evidence.log_trust import NO_LOGS
from verispect.evidence.proof import KIND as PROOF_KIND
from verispect.gateway import log_routes
from verispect.gateway.assurance import DEFAULT_ASSURANCE, read_nonce
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.inference import INTERIM_EVERY_CHUNKS
from verispect.gateway.policies import sums_of
from verispect.gateway.services import HIDDEN_PARTS
from verispect.gateway.state import GatewayState
from verispect.ledger import StoredReceipt
from verispect.ledger.history import Audience

_PREFIX: Final = "/v1/receipts/"
_RECORDS: Final = "/v1/records/"
_OPENINGS: Final = "/openings"
_PROOF: Final = "/proof"
_RECEIPT_TYPE: Final = 'application/cose; cose-type="cose-sign1"'
_OPENING_KEY_HEADER: Final = "verispect-opening-key"
_HEX: Final = frozenset("0123456789abcdef")


async def retrieve_receipt(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/receipts/{id}` and `GET /v1/receipts/{id}/openings`."""
    identifier = request.path.removeprefix(_PREFIX)
    wants_openings = identifier.endswith(_OPENINGS)
    if identifier.endswith(log_routes.LOG_PROOF_SUFFIX):
        found = _find(state, identifier.removesuffix(log_routes.LOG_PROOF_SUFFIX))
        return await log_routes.log_proof(state, request, Digest(found.receipt_id))
    wants_proof = identifier.endswith(_PROOF)
    stored = _find(state, identifier.removesuffix(_OPENINGS).removesuffix(_PROOF))
    if wants_openings:
        return _openings(state, request, stored)
    if wants_proof:
        return _proof_status(state, stored)
    receipt_id = stored.receipt_id.hex()
    receipt = stored.receipt
    if request.query.get("evidence") == "attached":
        receipt = with_evidence(state, receipt, stored.inference_id)
        if state.log is not None:
            receipt = await state.log.attach(receipt)
    headers = [("verispect-receipt-id", receipt_id)]
    if request.query.get("format") == "json":
        view = {
            "receipt_id": receipt_id,
            "inference": stored.inference_id.hex(),
            "sequence": stored.sequence,
            "receipt": to_base64url(receipt),
        }
        return HttpResponse(200, msgspec.json.encode(view), headers=headers)
    return HttpResponse(200, receipt, _RECEIPT_TYPE, headers)


def with_evidence(state: GatewayState, data: bytes, inference_id: bytes) -> bytes:
    """Return the receipt with the evidence that its statement promises, as far as it is here."""
    receipt = InferenceReceipt.parse(data)
    attestation = state.recorder.attestation
    rows = []
    proving = state.recorder.proving
    for promise in receipt.unverified_statement.evidence:
        if promise.kind == PROOF_KIND and proving is not None:
            proof = proving.find(inference_id)
            if proof is not None:
                rows.append(proof.to_row())
            continue
        if promise.digest is not None and attestation is not None:
            entry = attestation.find(promise.digest)
            if entry is not None:
                rows.append(entry.to_row())
    return replace(receipt.envelope, evidence=tuple(rows)).encode()


def _proof_status(state: GatewayState, stored: StoredReceipt) -> HttpResponse:
    """Answer where the promised proof of a receipt stands."""
    proving = state.recorder.proving
    status = proving.status(stored.inference_id) if proving is not None else None
    if status is None:
        raise HttpError(
            "no proof of this inference was promised", status=404, reason=Reason.RECEIPT_NOT_FOUND
        )
    headers = [("cache-control", "no-store")]
    return HttpResponse(200, msgspec.json.encode(status), headers=headers)


async def cancel_proof(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `DELETE /v1/receipts/{id}/proof`: the caller no longer wants its proof.

    The promise in the receipt stays as it was signed, and is then not kept.
    """
    identifier = request.path.removeprefix(_PREFIX)
    if not identifier.endswith(_PROOF):
        raise HttpError("receipts are never deleted", status=405, reason=Reason.INVALID_REQUEST)
    stored = _find(state, identifier.removesuffix(_PROOF))
    _require_opening_key(state, request, stored)
    if InferenceReceipt.parse(stored.receipt).unverified_statement.payment is not None:
        # Or an answer would be had for nothing: what is not proven is not paid.
        raise HttpError("the proof is paid for", status=409, reason=Reason.PAYMENT_CONFLICT)
    proving = state.recorder.proving
    if proving is not None:
        proving.cancel(stored.inference_id)
    return _proof_status(state, stored)


async def retrieve_attestation(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/attestation?nonce=`: fresh evidence of the signing key, as JSON."""
    attestation = state.recorder.attestation
    if attestation is None:
        raise HttpError(
            "this server does not attest", status=404, reason=Reason.ASSURANCE_UNAVAILABLE
        )
    nonce = read_nonce(request.query.get("nonce"), parameter="nonce")
    entry = await (attestation.session() if nonce is None else attestation.fresh(nonce))
    document = {
        "kind": entry.kind,
        "profile": entry.profile,
        "class": attestation.evidence_class.value,
        "keyId": state.recorder.issuer.signer.public_key.key_id.hex(),
        "collectedAt": entry.collected_at,
        "digest": entry.digest().hex(),
        "body": to_base64url(entry.body),
        "endorsements": to_base64url(entry.endorsements),
    }
    if state.confidential is not None:
        document["hpkeKey"] = to_base64url(state.confidential.public_key)
    return HttpResponse(200, msgspec.json.encode(document), headers=[("cache-control", "no-store")])


def _find(state: GatewayState, identifier: str) -> StoredReceipt:
    # An answer's id is a short prefix and the inference, for example `chatcmpl-` or `resp_`.
    tail = identifier[-2 * INFERENCE_ID_BYTES :]
    head = identifier[: -2 * INFERENCE_ID_BYTES]
    stored = None
    if len(identifier) == 2 * DIGEST_BYTES and _HEX.issuperset(identifier):
        stored = state.recorder.store.find(bytes.fromhex(identifier))
    elif (
        len(tail) == 2 * INFERENCE_ID_BYTES
        and _HEX.issuperset(tail)
        and (not head or head[-1] in "-_")
    ):
        stored = state.recorder.store.find(bytes.fromhex(tail))
    if stored is None:
        raise HttpError("no such receipt", status=404, reason=Reason.RECEIPT_NOT_FOUND)
    return stored


def _require_opening_key(state: GatewayState, request: HttpRequest, stored: StoredReceipt) -> None:
    given = request.headers.get(_OPENING_KEY_HEADER, "")
    expected = state.recorder.opening_key(stored.inference_id)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise HttpError(
            "this needs the opening key that went out with the answer",
            status=403,
            reason=Reason.OPENING_FORBIDDEN,
        )


def _openings(state: GatewayState, request: HttpRequest, stored: StoredReceipt) -> HttpResponse:
    _require_opening_key(state, request, stored)
    openings = state.recorder.store.openings(stored.inference_id)
    if openings is None:
        raise HttpError(
            "the openings were erased when their retention ended",
            status=410,
            reason=Reason.RECEIPT_NOT_FOUND,
        )
    openings = _for_caller(state, stored, openings)
    return HttpResponse(200, openings, "application/cbor", [("cache-control", "no-store")])


def _for_caller(state: GatewayState, stored: StoredReceipt, openings: bytes) -> bytes:
    """Return the openings without what shows a service's text that callers may not see."""
    statement = InferenceReceipt.parse(stored.receipt).unverified_statement
    service = statement.service
    if service is None or statement.confidential is not None:
        return openings  # Of an encrypted request they are sealed, and no such service is asked.
    if (
        state.services is not None
        and state.services.audience(service.name, service.version) is not Audience.NOBODY
    ):
        return openings
    opened = decode_openings(openings)
    return encode_openings(
        {part: each for part, each in opened.items() if part not in HIDDEN_PARTS}
    )


async def retrieve_record(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/records/{digest}`: the manifest or engine identity a statement names."""
    text = request.path.removeprefix(_RECORDS)
    record = None
    if len(text) == 2 * DIGEST_BYTES and _HEX.issuperset(text):
        record = state.recorder.published.read(bytes.fromhex(text))
    if record is None:
        raise HttpError("no such record", status=404, reason=Reason.RECEIPT_NOT_FOUND)
    return HttpResponse(200, record, "application/cbor")


async def well_known(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /.well-known/verispect`: keys and trusted-root material, to decide upon."""
    issuer = state.recorder.issuer
    models = [state.pool.find(name) for name in state.pool.names()]
    root = TrustedRoot(
        issuer_keys=[issuer.trusted_key()],
        models=[AcceptedModel(served.name, served.model_id) for served in models],
        log_trust=NO_LOGS if state.log is None else state.log.settings.trust(),
    )
    document: dict[str, Any] = {
        "verispect": __version__,
        "statementVersion": STATEMENT_VERSION,
        "issuer": issuer.name,
        "development": issuer.development,
        "trustedRoot": msgspec.json.decode(root.to_json()),
        "trustedRootIsASuggestion": True,
        "assurance": {
            "default": DEFAULT_ASSURANCE,
            "available": {
                name: policy.digest().hex() for name, policy in state.recorder.available.items()
            },
            "sums": {
                name: policy.digest().hex()
                for name, policy in sums_of(state.recorder.available).items()
            },
        },
        "stream": {"interimSignatureEveryChunks": INTERIM_EVERY_CHUNKS},
    }
    if state.payments is not None:
        document["payments"] = {
            "development": state.payments.is_development,
            "prices": "/v1/prices",
            "x402": "/.well-known/x402",
        }
    if state.log is not None:
        settings = state.log.settings
        document["log"] = {
            "origin": settings.folder.origin,
            "development": settings.development,
            "witnessThreshold": settings.witnesses.threshold,
            "nodeThreshold": settings.parties.auditors.threshold,
        }
    return HttpResponse(200, msgspec.json.encode(document))
