"""What a gateway asks for in a 402, read strictly and believed only where it is signed.

An offer counts where a key that the caller trusts signed it for the resource that was asked, and
where its amount is what its own rates make of its own tokens. Everything else of a 402 is what
anybody between could have written, and nothing is signed for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.appraisal.metering import metered_charge
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, Reason, VerificationError
from verispect.core.keys import PublicKey
from verispect.payments.authorisation import Scheme
from verispect.payments.offers import EXTENSION, OFFER_RECEIPT_VERSION, did_key
from verispect.payments.pricing import MAX_AMOUNT, MAX_RATE, MAX_TOKENS
from verispect.payments.wire import X402_VERSION, read_answer_header

MAX_LASTING_SECONDS: Final = 7 * 86_400
"""How far ahead a payment that is signed here may end."""

VERISPECT: Final = "verispect"

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_NETWORK: Final = re.compile(r"eip155:([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay for one request; a trusted key signed it."""

    resource: Mapping[str, Any]
    entry: Mapping[str, Any]
    """As it stood in `accepts`."""
    scheme: Scheme
    network: str
    chain_id: int
    token: str
    pay_to: str
    amount: int
    """The most that it can cost."""
    lasting_seconds: int
    token_name: str
    token_version: str
    input_per_million: int
    output_per_million: int

    @property
    def asset(self) -> str:
        """CAIP-19 identifier of the token, in lower case."""
        return f"{self.network}/erc20:{self.token.lower()}"


def read_offers(header: str, *, url: str, trusted_root: TrustedRoot, now: int) -> list[Offer]:
    """Return the ways to pay that a trusted key offers, best first as the gateway sees it.

    Args:
        header: the value of `PAYMENT-REQUIRED`.
        url: the resource that was asked.
        trusted_root: whose offers are believed.
        now: seconds since 1970.

    Raises:
        MalformedError: `malformed-payment`, `too-large`.
        VerificationError: `offer-invalid` where no offer is signed, current and for this resource.
    """
    value = read_answer_header(header)
    accepts, resource = value.get("accepts"), value.get("resource")
    extensions = value.get("extensions")
    if (
        value.get("x402Version") != X402_VERSION
        or type(accepts) is not list
        or type(resource) is not dict
        or type(extensions) is not dict
    ):
        raise _invalid("the gateway's 402 is not of version 2 of x402")
    if resource.get("url") != url:
        raise _invalid("the offer is for another resource than was asked")
    signed = _signed_offers(extensions, trusted_root, now)
    rates, ceiling = _rates(extensions)
    offers = []
    for index, entry in enumerate(accepts):
        terms = signed.get(index)
        if terms is None or type(entry) is not dict:
            continue
        offer = _offer(entry, resource, rates)
        if offer is None:
            continue
        said = {name: terms.get(name) for name in _signed_terms(offer, url)}
        if said != _signed_terms(offer, url):
            raise _invalid("the offer is not what was signed")
        if offer.amount != ceiling:
            raise _invalid("the offer's amount is not what its rates make of its tokens")
        offers.append(offer)
    if not offers:
        raise _invalid("the gateway makes no offer that a trusted key signed")
    return offers


def _signed_terms(offer: Offer, url: str) -> dict[str, Any]:
    return {
        "version": OFFER_RECEIPT_VERSION,
        "resourceUrl": url,
        "scheme": offer.scheme.value,
        "network": offer.network,
        "asset": offer.token,
        "payTo": offer.pay_to,
        "amount": str(offer.amount),
    }


def _offer(entry: dict[str, Any], resource: dict[str, Any], rates: tuple[int, int]) -> Offer | None:
    """Return an entry of `accepts`; nothing where it is of a kind that is not known here."""
    extra = entry.get("extra")
    words = [entry.get(name) for name in ("scheme", "network", "asset", "payTo", "amount")]
    if type(extra) is not dict or not all(type(word) is str for word in words):
        return None
    scheme, network, token, pay_to, amount = (str(word) for word in words)
    name, version = extra.get("name"), extra.get("version")
    seconds = entry.get("maxTimeoutSeconds")
    chain = _NETWORK.fullmatch(network)
    if (
        scheme not in set(Scheme)
        or chain is None
        or not _ADDRESS.fullmatch(token)
        or not _ADDRESS.fullmatch(pay_to)
        or not _NUMBER.fullmatch(amount)
        or not 0 < int(amount) <= MAX_AMOUNT
        or type(seconds) is not int
        or not 0 < seconds <= MAX_LASTING_SECONDS
        or type(name) is not str
        or type(version) is not str
    ):
        return None
    return Offer(
        resource,
        entry,
        Scheme(scheme),
        network,
        int(chain[1]),
        token,
        pay_to,
        int(amount),
        seconds,
        name,
        version,
        *rates,
    )


def _rates(extensions: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """Return the rates for input and output, and what the most tokens cost by them."""
    extension = extensions.get(VERISPECT)
    info = extension.get("info") if type(extension) is dict else None
    if type(info) is not dict:
        raise _invalid("the offer does not say its rates")
    rates = [_decimal(info.get(name)) for name in ("inputPerMillion", "outputPerMillion")]
    tokens = [info.get(name) for name in ("maxInputTokens", "maxOutputTokens")]
    if not all(type(count) is int and 0 <= count <= MAX_TOKENS for count in tokens):
        raise _invalid("the offer does not say its tokens")
    ceiling = metered_charge(
        int(tokens[0] or 0),
        int(tokens[1] or 0),
        input_per_million=rates[0],
        output_per_million=rates[1],
    )
    return (rates[0], rates[1]), ceiling


def _decimal(text: object) -> int:
    if type(text) is not str or not _NUMBER.fullmatch(text) or int(text) > MAX_RATE:
        raise _invalid("the offer does not say its rates")
    return int(text)


def _signed_offers(
    extensions: dict[str, Any], trusted_root: TrustedRoot, now: int
) -> dict[int, dict[str, Any]]:
    """Return what was signed for each entry of `accepts`, where it is good now."""
    extension = extensions.get(EXTENSION)
    info = extension.get("info") if type(extension) is dict else None
    listed = info.get("offers") if type(info) is dict else None
    keys = {
        did_key(each.key): each.key
        for each in trusted_root.issuer_keys
        if each.revoked_at is None
        and each.not_before <= now * 1000
        and (each.not_after is None or now * 1000 < each.not_after)
    }
    found: dict[int, dict[str, Any]] = {}
    for each in listed if type(listed) is list else []:
        if type(each) is not dict or type(each.get("acceptIndex")) is not int:
            continue
        terms = _opened(each.get("signature"), keys)
        ends = terms.get("validUntil") if terms is not None else None
        if terms is not None and type(ends) is int and now < ends:
            found[each["acceptIndex"]] = terms
    return found


def _opened(signature: object, keys: Mapping[str, PublicKey]) -> dict[str, Any] | None:
    """Return the payload of a JSON Web Signature; nothing where no trusted key made it."""
    parts: Sequence[str] = signature.split(".") if type(signature) is str else ()
    if len(parts) != 3:
        return None
    try:
        header = json.loads(from_base64url(parts[0]))
        payload = json.loads(from_base64url(parts[1]))
        key = keys.get(header["kid"]) if header["alg"] == "EdDSA" else None
        if key is None or type(payload) is not dict:
            return None
        key.verify(f"{parts[0]}.{parts[1]}".encode("ascii"), from_base64url(parts[2]))
    except (Error, ValueError, KeyError, TypeError, RecursionError):
        return None
    return payload


def _invalid(message: str) -> VerificationError:
    return VerificationError(message, reason=Reason.OFFER_INVALID)
