"""x402's headers: Base64 of JSON, read strictly and written small.

What is read is held to a size, a depth and the form of version 2, and nothing of it is believed:
what a client says that it accepted is only used to find which of our offers it means. The module
refuses duplicate keys, fractions and everything else that two readers could read as two things.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason
from verispect.payments.authorisation import Scheme
from verispect.payments.pricing import MAX_AMOUNT

X402_VERSION: Final = 2
MAX_PAYMENT_HEADER_CHARACTERS: Final = 16 * 1024
MAX_PAYMENT_DEPTH: Final = 16
MAX_ANSWER_HEADER_CHARACTERS: Final = 8 * 1000
"""Of what we send: some clients stop reading at 16 KiB of headers in all."""

PAYMENT_IDENTIFIER: Final = "payment-identifier"

_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True, slots=True)
class PaymentHeader:
    """The value of `PAYMENT-SIGNATURE`, read but not believed."""

    scheme: Scheme
    network: str
    asset: str
    """In lower case, as the payee is."""
    pay_to: str
    amount: int
    method: str | None
    """The way that the token is moved, where it is said."""
    payload: dict[str, Any]
    identifier: str | None


def read_header(text: str) -> PaymentHeader:
    """Read the value of `PAYMENT-SIGNATURE`.

    Raises:
        MalformedError: `malformed-payment`, `too-large`.
    """
    if len(text) > MAX_PAYMENT_HEADER_CHARACTERS:
        raise MalformedError("the payment is too large", reason=Reason.TOO_LARGE)
    value = _json(text)
    if type(value.get("x402Version")) is not int or value["x402Version"] != X402_VERSION:
        raise _malformed("the payment is not of version 2 of x402")
    accepted, payload = _part(value, "accepted"), _part(value, "payload")
    extra = accepted.get("extra")
    method = extra.get("assetTransferMethod") if type(extra) is dict else None
    amount = _text(accepted, "amount")
    if not _DIGITS.fullmatch(amount) or int(amount) > MAX_AMOUNT:
        raise _malformed("the amount of the payment is not one")
    try:
        scheme = Scheme(_text(accepted, "scheme"))
    except ValueError as error:
        raise _malformed("the scheme of the payment is not known") from error
    return PaymentHeader(
        scheme,
        _text(accepted, "network"),
        _text(accepted, "asset").lower(),
        _text(accepted, "payTo").lower(),
        int(amount),
        method if type(method) is str else None,
        payload,
        _identifier(value.get("extensions")),
    )


def read_answer_header(text: str) -> dict[str, Any]:
    """Read the value of `PAYMENT-REQUIRED` or `PAYMENT-RESPONSE`, as a client gets it.

    Raises:
        MalformedError: `malformed-payment`, `too-large`.
    """
    if len(text) > MAX_PAYMENT_HEADER_CHARACTERS:
        raise MalformedError("what the server says is too large", reason=Reason.TOO_LARGE)
    return _json(text)


def write_header(value: dict[str, Any]) -> str:
    """Return the value of a header."""
    return base64.b64encode(to_json(value)).decode("ascii")


def to_json(value: dict[str, Any]) -> bytes:
    """Return JSON in ASCII, without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _json(text: str) -> dict[str, Any]:
    try:
        # Some clients leave the padding away.
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _malformed("the payment is not JSON in Base64") from error
    if type(value) is not dict or _depth(value) > MAX_PAYMENT_DEPTH:
        raise _malformed("the payment is no object, or too deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse(_: str) -> Any:
    raise ValueError("not a whole number")


def _depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer:
        depth += 1
        inner: list[Any] = []
        for item in layer:
            if type(item) is dict:
                inner += item.values()
            elif type(item) is list:
                inner += item
        layer = inner
    return depth


def _identifier(extensions: Any) -> str | None:
    if extensions is None:
        return None
    if type(extensions) is not dict:
        raise _malformed("the extensions of the payment are no object")
    extension = extensions.get(PAYMENT_IDENTIFIER)
    info = extension.get("info") if type(extension) is dict else None
    identifier = info.get("id") if type(info) is dict else None
    if identifier is None:
        return None
    if type(identifier) is not str or not _IDENTIFIER.fullmatch(identifier):
        raise _malformed("the payment identifier is not 16 to 128 plain characters")
    return identifier


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    if type(part) is not dict:
        raise _malformed("a part of the payment is missing")
    return part


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if type(text) is not str or not 0 < len(text) <= 128 or not text.isascii():
        raise _malformed("a field of the payment is not short text")
    return text


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, reason=Reason.MALFORMED_PAYMENT)
