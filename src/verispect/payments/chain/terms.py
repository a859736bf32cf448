"""What a signed payment allows, read from the payload as it came: who, to whom, how much, when.

Whether the signature is right is the chain's to say. What is read here is held to the key under
which the payment was reserved, so that nothing else than what was reserved can be settled.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason
from verispect.ledger.anchor.chain import checked_address
from verispect.payments.authorisation import Authorisation, Scheme

_LARGEST: Final = 1 << 256


class Method(StrEnum):
    """How a single transfer moves money."""

    EIP3009 = "eip3009"
    PERMIT2_EXACT = "permit2-exact"
    PERMIT2_UPTO = "permit2-upto"


@dataclass(frozen=True, slots=True)
class TransferTerms:
    """A transfer that can be made once."""

    method: Method
    token: str
    payer: str
    pay_to: str
    amount: int
    """The most that it moves; a fixed scheme moves it whole."""
    valid_after: int
    valid_before: int
    nonce: int
    facilitator: str | None
    """Who alone may bring it, where that is signed."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class VoucherTerms:
    """A voucher of a channel: what was charged in total may be claimed up to its amount."""

    channel: tuple[str, str, str, str, str, int, bytes]
    """Payer, payer's authoriser, receiver, receiver's authoriser, token, withdrawal delay, salt."""
    channel_id: bytes
    most: int
    signature: bytes

    @property
    def receiver(self) -> str:
        """Who is paid."""
        return self.channel[2]

    @property
    def authoriser(self) -> str:
        """Whose signature a claim needs."""
        return self.channel[3]

    @property
    def token(self) -> str:
        """What is paid with."""
        return self.channel[4]


def read_payload(wire: bytes) -> dict[str, Any]:
    """Return the x402 payload of a payment: JSON, or JSON in Base64 as a header carries it.

    Raises:
        MalformedError: `malformed-payment`.
    """
    try:
        text = wire if wire[:1] == b"{" else base64.b64decode(wire, validate=True)
        value = json.loads(text)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _malformed() from error
    if type(value) is not dict:
        raise _malformed()
    return value


def read_transfer(authorisation: Authorisation) -> TransferTerms:
    """Read a payment of the schemes `exact` and `upto`.

    Raises:
        MalformedError: `malformed-payment` where it is none, or is not what its key says.
    """
    payload = _part(read_payload(authorisation.wire), "payload")
    try:
        if "authorization" in payload:
            terms = _eip3009(payload, authorisation)
        else:
            terms = _permit2(payload, authorisation)
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed() from error
    key = authorisation.key
    if (terms.token.lower(), terms.payer.lower(), terms.nonce, terms.amount) != (
        key.asset,
        key.holder,
        int(key.mark, 16),
        authorisation.amount,
    ):
        raise _malformed()
    return terms


def _eip3009(payload: dict[str, Any], authorisation: Authorisation) -> TransferTerms:
    if authorisation.scheme is not Scheme.EXACT:
        raise _malformed()
    fields = _part(payload, "authorization")
    return TransferTerms(
        Method.EIP3009,
        checked_address(authorisation.key.asset),
        _address(fields["from"]),
        _address(fields["to"]),
        _number(fields["value"]),
        _number(fields["validAfter"]),
        _number(fields["validBefore"]),
        int.from_bytes(_word(fields["nonce"])),
        None,
        _bytes(payload["signature"]),
    )


def _permit2(payload: dict[str, Any], authorisation: Authorisation) -> TransferTerms:
    fields = _part(payload, "permit2Authorization")
    permitted, witness = _part(fields, "permitted"), _part(fields, "witness")
    upto = authorisation.scheme is Scheme.UPTO
    return TransferTerms(
        Method.PERMIT2_UPTO if upto else Method.PERMIT2_EXACT,
        _address(permitted["token"]),
        _address(fields["from"]),
        _address(witness["to"]),
        _number(permitted["amount"]),
        _number(witness["validAfter"]),
        # Permit2 takes it in the second of its deadline too.
        _number(fields["deadline"]) + 1,
        _number(fields["nonce"]),
        _address(witness["facilitator"]) if upto else None,
        _bytes(payload["signature"]),
    )


def read_voucher(authorisation: Authorisation) -> VoucherTerms:
    """Read a payment of the scheme `batch-settlement`.

    Raises:
        MalformedError: `malformed-payment` where it is none, or is not what its key says.
    """
    terms = voucher_terms(_part(read_payload(authorisation.wire), "payload"))
    key = authorisation.key
    if (terms.token.lower(), "0x" + terms.channel_id.hex(), terms.most) != (
        key.asset,
        key.holder,
        key.cumulative,
    ):
        raise _malformed()
    return terms


def voucher_terms(payload: dict[str, Any]) -> VoucherTerms:
    """Read the voucher in a payload, of whatever channel it says it is.

    Raises:
        MalformedError: `malformed-payment`.
    """
    config, voucher = _part(payload, "channelConfig"), _part(payload, "voucher")
    try:
        delay = _number(config["withdrawDelay"])
        return VoucherTerms(
            (
                _address(config["payer"]),
                _address(config["payerAuthorizer"]),
                _address(config["receiver"]),
                _address(config["receiverAuthorizer"]),
                _address(config["token"]),
                delay,
                _word(config["salt"]),
            ),
            _word(voucher["channelId"]),
            _number(voucher["maxClaimableAmount"]),
            _bytes(voucher["signature"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed() from error


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    if type(part) is not dict:
        raise _malformed()
    return part


def _address(text: Any) -> str:
    if type(text) is not str:
        raise _malformed()
    try:
        return checked_address(text.lower())
    except MalformedError as error:
        raise _malformed() from error


def _number(value: Any) -> int:
    if type(value) is str and value.isascii() and 0 < len(value) <= 78:
        value = int(value, 16) if value[:2] == "0x" else int(value) if value.isdigit() else None
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise _malformed()
    return value


def _bytes(text: Any) -> bytes:
    if type(text) is not str:
        raise _malformed()
    return bytes.fromhex(text.removeprefix("0x"))


def _word(text: Any) -> bytes:
    value = _bytes(text)
    if len(value) != 32:
        raise _malformed()
    return value


def _malformed() -> MalformedError:
    return MalformedError(
        "the payload of the payment is not what was reserved", reason=Reason.MALFORMED_PAYMENT
    )
