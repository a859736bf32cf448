"""Signed offers and receipts of the `offer-receipt` extension."""

from __future__ import annotations

import json

from nacl.signing import SigningKey

from verispect.core.encoding import from_base64url
from verispect.core.keys import PublicKey
from verispect.payments.offers import OfferTerms, did_key, signed_offers, signed_receipt

KEY = SigningKey(bytes(range(32)))
TERMS = OfferTerms("exact", "eip155:8453", "0x" + "ab" * 20, "0x" + "cd" * 20, 10_000)


class Pen:
    """A signer of a fixed key."""

    public_key = PublicKey(bytes(KEY.verify_key))

    def sign(self, message: bytes) -> bytes:
        return KEY.sign(message).signature


def _opened(jws: str) -> dict[str, object]:
    head, payload, signature = jws.split(".")
    Pen.public_key.verify(f"{head}.{payload}".encode(), from_base64url(signature))
    assert json.loads(from_base64url(head)) == {"alg": "EdDSA", "kid": did_key(Pen.public_key)}
    opened: dict[str, object] = json.loads(from_base64url(payload))
    return opened


def test_each_way_to_pay_is_offered_under_a_signature() -> None:
    """An offer names its place in `accepts` and all that it asks for."""
    extension = signed_offers(Pen(), "https://a.test/v1", [TERMS, TERMS], valid_until=99)
    offers = extension["info"]["offers"]
    assert [offer["acceptIndex"] for offer in offers] == [0, 1]
    assert _opened(offers[1]["signature"]) == {
        "version": 1,
        "resourceUrl": "https://a.test/v1",
        "scheme": "exact",
        "network": "eip155:8453",
        "asset": TERMS.asset,
        "payTo": TERMS.pay_to,
        "amount": "10000",
        "validUntil": 99,
    }


def test_a_receipt_names_payer_and_resource_and_a_transaction_only_where_there_is_one() -> None:
    """What is not known is absent, as the extension wants it of a JWS."""
    said = {"network": "eip155:8453", "payer": "0x" + "ef" * 20, "issued_at": 7}
    receipt = signed_receipt(Pen(), "https://a.test/v1", **said)  # type: ignore[arg-type]
    assert "transaction" not in _opened(receipt["info"]["receipt"]["signature"])
    paid = signed_receipt(Pen(), "https://a.test/v1", **said, transaction="0x01")  # type: ignore[arg-type]
    assert _opened(paid["info"]["receipt"]["signature"])["transaction"] == "0x01"


def test_the_key_is_named_as_did_key_names_it() -> None:
    """The form is that of the did:key method: multicodec and base58."""
    assert did_key(Pen.public_key).startswith("did:key:z6Mk")
