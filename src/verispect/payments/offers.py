"""x402's `offer-receipt` extension: signed offers in a 402, a signed receipt in the answer.

Both are JSON Web Signatures by the Ed25519 key that signs our receipts, never by the key that is
paid: an offer or a receipt can be checked by whoever checks receipts, and losing one key is not
losing the other. A JWS cannot be taken for a COSE signature: what is signed begins otherwise.
The receipt of the extension says that this resource was delivered to this payer; what ran and
what it cost is in ours, which the module knows nothing of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import to_base64url
from verispect.core.keys import PublicKey, Signer

EXTENSION: Final = "offer-receipt"
OFFER_RECEIPT_VERSION: Final = 1

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_MULTICODEC_ED25519: Final = b"\xed\x01"


@dataclass(frozen=True, slots=True)
class OfferTerms:
    """What one entry of `accepts` asks for."""

    scheme: str
    network: str
    asset: str
    pay_to: str
    amount: int


def did_key(key: PublicKey) -> str:
    """Return the `did:key` URL of a key, which any verifier resolves without a network."""
    number = int.from_bytes(_MULTICODEC_ED25519 + key.raw, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return f"did:key:z{digits}#z{digits}"


def signed_offers(
    signer: Signer, resource: str, offers: list[OfferTerms], *, valid_until: int
) -> dict[str, Any]:
    """Return the extension for a 402: one offer for each entry of `accepts`, in its order.

    Args:
        signer: of offers and receipts.
        resource: the URL that was asked.
        offers: the entries of `accepts`.
        valid_until: seconds since 1970.
    """
    signed = [
        {
            "format": "jws",
            "acceptIndex": index,
            "signature": _jws(
                signer,
                {
                    "version": OFFER_RECEIPT_VERSION,
                    "resourceUrl": resource,
                    "scheme": terms.scheme,
                    "network": terms.network,
                    "asset": terms.asset,
                    "payTo": terms.pay_to,
                    "amount": str(terms.amount),
                    "validUntil": valid_until,
                },
            ),
        }
        for index, terms in enumerate(offers)
    ]
    return {"info": {"offers": signed}, "schema": _schema("offers", "array")}


def signed_receipt(
    signer: Signer,
    resource: str,
    *,
    network: str,
    payer: str,
    issued_at: int,
    transaction: str | None = None,
) -> dict[str, Any]:
    """Return the extension for an answer: that this resource was delivered to this payer.

    Args:
        signer: of offers and receipts.
        resource: the URL that was asked.
        network: CAIP-2 identifier of the chain.
        payer: its address.
        issued_at: seconds since 1970.
        transaction: hash of the transfer, where it was made.
    """
    payload = {
        "version": OFFER_RECEIPT_VERSION,
        "network": network,
        "resourceUrl": resource,
        "payer": payer,
        "issuedAt": issued_at,
    }
    if transaction:
        payload["transaction"] = transaction
    receipt = {"format": "jws", "signature": _jws(signer, payload)}
    return {"info": {"receipt": receipt}, "schema": _schema("receipt", "object")}


def _jws(signer: Signer, payload: dict[str, Any]) -> str:
    header = {"alg": "EdDSA", "kid": did_key(signer.public_key)}
    signed = f"{to_base64url(_canonical(header))}.{to_base64url(_canonical(payload))}"
    return f"{signed}.{to_base64url(signer.sign(signed.encode('ascii')))}"


def _canonical(value: dict[str, Any]) -> bytes:
    """RFC 8785, for the strings and small integers that stand in offers and receipts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _schema(member: str, kind: str) -> dict[str, Any]:
    # As short as it can be: it travels in a header.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {member: {"type": kind}},
        "required": [member],
    }
