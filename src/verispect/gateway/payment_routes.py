"""What is public of payments: prices, x402's manifest, and where one payment stands.

A payment is found by its id, which stands in the receipt that it paid for; nothing of its request
or its answer is shown. Where this server sells nothing these routes say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from verispect.core.encoding import DIGEST_BYTES, Digest, to_base64url
from verispect.core.errors import Reason
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.payment_answer import StoredAnswer
from verispect.gateway.payment_request import base_address
from verispect.payments.addendum import addendum_of, sign_addendum
from verispect.payments.store import Payment

if TYPE_CHECKING:
    from verispect.gateway.payment import Payments
    from verispect.gateway.state import GatewayState

X402_VERSION: Final = 2
SOLD_PATHS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)
"""Every route with one path of its own that is sold; tensor models have one for each."""

_PAYMENTS: Final = "/v1/payments/"
_HEX: Final = frozenset("0123456789abcdef")


async def retrieve_prices(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /v1/prices`: what is sold under which assurance, at which rates."""
    payments = _required(state)
    sold = payments.till.price_list()
    return HttpResponse(200, msgspec.json.encode(sold), headers=[("cache-control", "no-cache")])


async def manifest(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /.well-known/x402`: which resources are sold, and how they are paid for."""
    payments = _required(state)
    base = payments.base or base_address(request.headers.get("host", ""))
    sold = payments.till.price_list()
    names = [name for name in state.pool.names() if state.pool.find(name).kind == "tensor"]
    paths = [*SOLD_PATHS, *(f"/v2/models/{name}/infer" for name in names)]
    document = {
        "x402Version": X402_VERSION,
        "development": sold["development"],
        "resources": [base + path for path in paths],
        "network": sold["network"],
        "asset": sold["asset"],
        "payTo": sold["payTo"],
        "schemes": sold["schemes"],
        "prices": base + "/v1/prices",
    }
    return HttpResponse(200, msgspec.json.encode(document), headers=[("cache-control", "no-cache")])


async def retrieve_payment(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/payments/{id}`: where it stands and, once it was taken, by what."""
    payments = _required(state)
    text = request.path.removeprefix(_PAYMENTS)
    payment = None
    if len(text) == 2 * DIGEST_BYTES and _HEX.issuperset(text):
        payment = await payments.do(payments.store.get, Digest(bytes.fromhex(text)))
    if payment is None:
        raise HttpError("no such payment", status=404, reason=Reason.RECEIPT_NOT_FOUND)
    document = _document(payments, payment, state)
    return HttpResponse(200, msgspec.json.encode(document), headers=[("cache-control", "no-store")])


def _document(payments: Payments, payment: Payment, state: GatewayState) -> dict[str, Any]:
    authorisation = payment.authorisation
    document: dict[str, Any] = {
        "payment": payment.payment_id.hex(),
        "state": payment.state.value,
        "development": payments.is_development,
        "scheme": authorisation.scheme.value,
        "network": authorisation.key.network,
        "asset": authorisation.key.asset,
        "priceSheet": payment.sheet.hex(),
        "ceiling": str(payment.ceiling),
        "charge": None if payment.charge is None else str(payment.charge),
        "transaction": payment.settled,
        "deadline": payment.deadline,
    }
    if payment.answer is not None:
        receipt_id = StoredAnswer.decode(payment.answer).receipt_id
        document["receipt"] = receipt_id
        addendum = addendum_of(payment, Digest(bytes.fromhex(receipt_id)))
        if addendum is not None:
            issuer = state.recorder.issuer
            signed = sign_addendum(addendum, issuer=issuer.name, signer=issuer.signer)
            document["addendum"] = to_base64url(signed)
    return document


def _required(state: GatewayState) -> Payments:
    if state.payments is None:
        raise HttpError("nothing is sold here", status=404, reason=Reason.PRICE_UNKNOWN)
    return state.payments
