"""JWTs as bytes (RFC 7519, RFC 7515 compact form), and what is read out of their claims.

One token has one spelling: base64url without padding and without spare bits, strict JSON, no text
around it. This module reads; it verifies nothing and never looks at `alg`, which its callers
compare with the one algorithm they accept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import MalformedError, Reason
from verispect.evidence.json_text import read_object

MAX_TOKEN_BYTES: Final = 64 * 1024
"""Upper limit of a token; one with its certificate path has 10 kB."""

_RSA_BITS: Final = range(2048, 8193)
_MAX_TIME: Final = 1 << 40
_MAX_TEXT: Final = 1024


@dataclass(frozen=True, slots=True)
class Token:
    """One compact JWT, taken apart and believed by nobody."""

    header: Mapping[str, Any]
    claims: bytes
    signed: bytes
    signature: bytes


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def read_token(data: bytes) -> Token:
    """Take a token apart.

    Raises:
        MalformedError: `malformed-evidence`, `malformed-json` or `too-large`.
    """
    if len(data) > MAX_TOKEN_BYTES:
        raise MalformedError("the token is too large", reason=Reason.TOO_LARGE)
    # A file of one line ends with a line feed; nothing else may stand around a token.
    text = data.removesuffix(b"\n")
    parts = text.split(b".")
    if len(parts) != 3 or not parts[0] or not parts[1]:
        raise _malformed("a signed token has three parts")
    try:
        header, claims, signature = (from_base64url(part.decode("ascii")) for part in parts)
    except UnicodeDecodeError as error:
        raise _malformed("a token is ASCII text") from error
    return Token(
        read_object(header, limit=MAX_TOKEN_BYTES), claims, parts[0] + b"." + parts[1], signature
    )


def rsa_key(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    """Read an RSA key of a JWKS that may verify RS256.

    Raises:
        MalformedError: `malformed-evidence` or `malformed-json`.
    """
    if (
        jwk.get("kty") != "RSA"
        or jwk.get("alg", "RS256") != "RS256"
        or jwk.get("use", "sig") != "sig"
    ):
        raise _malformed("the key is not one for RS256")
    modulus, exponent = jwk.get("n"), jwk.get("e")
    if not isinstance(modulus, str) or not isinstance(exponent, str):
        raise _malformed("the key has no modulus or exponent")
    numbers = rsa.RSAPublicNumbers(
        int.from_bytes(from_base64url(exponent, limit=8), "big"),
        int.from_bytes(from_base64url(modulus, limit=1024), "big"),
    )
    try:
        key = numbers.public_key()
    except ValueError as error:
        raise _malformed("the key is not an RSA key") from error
    if key.key_size not in _RSA_BITS:
        raise _malformed("the key is too small or too large")
    return key


def claim(claims: Mapping[str, Any], *names: str) -> Any:
    """Return the value at this place of nested objects, or `None`."""
    value: Any = claims
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def text_claim(claims: Mapping[str, Any], *names: str) -> str | None:
    """Return a short text, or `None` where it is absent.

    Raises:
        MalformedError: `malformed-evidence` for anything else.
    """
    value = claim(claims, *names)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _malformed(f"{names[-1]} is not a short text")
    return value


def texts_claim(claims: Mapping[str, Any], *names: str) -> list[str]:
    """Return a list of short texts; a single text is a list of one, absence an empty list.

    Raises:
        MalformedError: `malformed-evidence` for anything else.
    """
    value = claim(claims, *names)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(
        isinstance(item, str) and len(item) <= _MAX_TEXT for item in items
    ):
        raise _malformed(f"{names[-1]} is not a list of short texts")
    return items


def moment_claim(claims: Mapping[str, Any], name: str) -> int:
    """Return a NumericDate of whole seconds as milliseconds.

    Raises:
        MalformedError: `malformed-evidence`, also where it is absent.
    """
    value = claims.get(name)
    if type(value) is not int or not 0 < value < _MAX_TIME:
        raise _malformed(f"{name} is not a time in seconds")
    return value * 1000


def nonce_texts(nonce: bytes) -> frozenset[str]:
    """Return the texts under which a nonce may stand in a token: itself, hexadecimal, base64url."""
    texts = {nonce.hex(), to_base64url(nonce)}
    with contextlib.suppress(UnicodeDecodeError):
        texts.add(nonce.decode("utf-8"))
    return frozenset(texts)
