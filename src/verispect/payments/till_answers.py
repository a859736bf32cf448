"""What a till says: `PAYMENT-REQUIRED` with signed offers, `PAYMENT-RESPONSE` with signed receipts.

Beside x402's own extensions there is one of ours, `verispect`: in a 402 it says which assurance is
sold at which rates, in an answer it points at the inference receipt and says what was used and
charged. Everything large is fetched by its digest. Headers stay below 8 KB: signed offers are left
away from the last on, before anything else.
"""

from __future__ import annotations

from typing import Any, Final

from verispect.core.errors import Error
from verispect.core.keys import Signer
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.terms import read_payload
from verispect.payments.channel_records import Channel, Turn, channel_state
from verispect.payments.merchant import Merchant
from verispect.payments.offers import EXTENSION, OfferTerms, signed_offers, signed_receipt
from verispect.payments.refusals import StaleVoucherError, code_of
from verispect.payments.store import Payment, State
from verispect.payments.till import Demand, ReceiptNotice
from verispect.payments.wire import (
    MAX_ANSWER_HEADER_CHARACTERS,
    PAYMENT_IDENTIFIER,
    X402_VERSION,
    write_header,
)

OFFER_SECONDS: Final = 300
VERISPECT_EXTENSION: Final = "verispect"

_SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"
_IDENTIFIER: Final = {
    "info": {"required": False},
    "schema": {
        "$schema": _SCHEMA,
        "type": "object",
        "properties": {
            "required": {"type": "boolean"},
            "id": {
                "type": "string",
                "minLength": 16,
                "maxLength": 128,
                "pattern": "^[a-zA-Z0-9_-]+$",
            },
        },
        "required": ["required"],
    },
}
_ENDED: Final = {State.RELEASED: "payment_released", State.FAILED: "transaction_failed"}


def demand_header(
    merchant: Merchant, signer: Signer, demand: Demand, refused: Error | None, *, now: int
) -> str:
    """Return the value of `PAYMENT-REQUIRED`.

    Args:
        merchant: who is paid.
        signer: of offers.
        demand: what is to be paid.
        refused: why a payment was not accepted.
        now: seconds since 1970.
    """
    accepts = merchant.accepts(demand)
    if isinstance(refused, StaleVoucherError):
        for entry in accepts:
            if entry["scheme"] == Scheme.BATCH_SETTLEMENT:
                entry["extra"] |= refused.state
    terms = [
        OfferTerms(
            entry["scheme"], entry["network"], entry["asset"], entry["payTo"], int(entry["amount"])
        )
        for entry in accepts
    ]
    value: dict[str, Any] = {
        "x402Version": X402_VERSION,
        "error": "payment_required" if refused is None else code_of(refused),
        "resource": {"url": demand.resource},
        "accepts": accepts,
        "extensions": {},
    }
    for count in range(len(terms), -1, -1):
        value["extensions"] = _offered(signer, demand, terms[:count], now)
        header = write_header(value)
        if len(header) <= MAX_ANSWER_HEADER_CHARACTERS:
            break
    return header


def _offered(signer: Signer, demand: Demand, terms: list[OfferTerms], now: int) -> dict[str, Any]:
    quote = demand.quote
    extensions: dict[str, Any] = {
        VERISPECT_EXTENSION: _extension(
            {
                "model": quote.row.model,
                "assurance": quote.row.assurance,
                "priceSheet": quote.sheet.hex(),
                "inputPerMillion": str(quote.row.input_per_million),
                "outputPerMillion": str(quote.row.output_per_million),
                "maxInputTokens": quote.max_input_tokens,
                "maxOutputTokens": quote.max_output_tokens,
            }
        ),
        PAYMENT_IDENTIFIER: _IDENTIFIER,
    }
    if terms:
        extensions[EXTENSION] = signed_offers(
            signer, demand.resource, terms, valid_until=now + OFFER_SECONDS
        )
    return extensions


def response_header(
    signer: Signer,
    payment: Payment,
    notice: ReceiptNotice | None,
    turn: Turn | None,
    channel: Channel | None,
    *,
    now: int,
) -> str:
    """Return the value of `PAYMENT-RESPONSE`.

    Args:
        signer: of receipts.
        payment: as it stands.
        notice: of the inference receipt, where there is one.
        turn: of the payment, where it is a voucher's.
        channel: of the turn.
        now: seconds since 1970.
    """
    wire = read_payload(payment.authorisation.wire)
    payer = _payer(payment, wire)
    network = payment.authorisation.key.network
    value: dict[str, Any] = {"payer": payer, "network": network, "transaction": ""}
    if turn is not None and channel is not None:
        value |= _voucher_response(payment, turn, channel)
    else:
        value |= _transfer_response(payment)
    resource = wire.get("resource")
    url = resource.get("url", "") if type(resource) is dict else ""
    extensions: dict[str, Any] = {}
    if payment.charge is not None and payment.state not in _ENDED:
        extensions[EXTENSION] = signed_receipt(
            signer,
            url,
            network=network,
            payer=payer,
            issued_at=now,
            transaction=value["transaction"] or None,
        )
    if notice is not None:
        extensions[VERISPECT_EXTENSION] = _extension(
            {
                "receipt": notice.receipt_id,
                "url": notice.url,
                "usage": notice.usage,
                "charge": str(notice.charge),
                "priceSheet": payment.sheet.hex(),
            }
        )
    if extensions:
        value["extensions"] = extensions
    header = write_header(value)
    if len(header) > MAX_ANSWER_HEADER_CHARACTERS:
        # Only a very long resource does that; what the client needs to go on is in the rest.
        value.pop("extensions", None)
        header = write_header(value)
    return header


def _voucher_response(payment: Payment, turn: Turn, channel: Channel) -> dict[str, Any]:
    if turn.charge is None or payment.state in _ENDED:
        reason = _ENDED.get(payment.state, "settlement_pending")
        return {"success": False, "errorReason": reason}
    state = channel_state(turn.channel_id, channel.state, turn.announced)
    return {
        "success": True,
        "transaction": turn.deposit or "",
        "amount": "",
        "extra": {"channelState": state, "chargedAmount": str(turn.charge)},
    }


def _transfer_response(payment: Payment) -> dict[str, Any]:
    if payment.state is State.CAPTURED:
        return {
            "success": True,
            "transaction": payment.settled or "",
            "amount": str(payment.charge),
        }
    return {
        "success": False,
        "errorReason": _ENDED.get(payment.state, "settlement_pending"),
        "transaction": payment.settled or "",
    }


def _payer(payment: Payment, wire: dict[str, Any]) -> str:
    if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
        return str(wire["payload"]["channelConfig"]["payer"]).lower()
    return payment.authorisation.key.holder


def _extension(info: dict[str, Any]) -> dict[str, Any]:
    # As short as it can be: it travels in a header.
    return {"info": info, "schema": {"$schema": _SCHEMA, "type": "object"}}
