"""The keys of NVIDIA's attestation service, and the signature of one of its tokens.

A key counts only through its certificates (`x5c`): they must lead from exactly this key to an
anchor for `nvidia-nras`. A token chooses among the keys by name and can bring none of its own.
This module refuses every algorithm but ES384 and every header parameter that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from verispect.core.encoding import from_base64url
from verispect.core.errors import (
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.evidence.attestation import Anchor
from verispect.evidence.certificates import Certificate, find_anchor, load_certificate
from verispect.evidence.json_text import from_base64, read_object
from verispect.evidence.nvidia.anchors import SERVICE
from verispect.evidence.nvidia.paths import load_path, verify_p384, verify_path
from verispect.evidence.signed_token import MAX_TOKEN_BYTES, Token, read_token

ALGORITHM: Final = "ES384"

MAX_KEY_SET_BYTES: Final = 512 * 1024
MAX_KEYS: Final = 256
MAX_STORED_ISSUERS: Final = 8
_COORDINATE_BYTES: Final = 48


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """The claims of a token whose signature is good, and the anchor behind its key."""

    claims: Mapping[str, Any]
    anchor: Anchor


def read_key_set(data: bytes) -> dict[str, Mapping[str, Any]]:
    """Read a JWKS; return its keys by name.

    Raises:
        MalformedError: `malformed-json`, `malformed-evidence` or `too-large`.
    """
    keys = read_object(data, limit=MAX_KEY_SET_BYTES).get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise _malformed("key set")
    named: dict[str, Mapping[str, Any]] = {}
    for key in keys:
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
            raise _malformed("a key of the key set has no name")
        if key["kid"] in named:
            raise _malformed("two keys of the key set have one name")
        named[key["kid"]] = key
    return named


def read_issuers(certificates: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Read stored certificates that may stand above those of a key set.

    Raises:
        MalformedError: `malformed-evidence` or `too-large`.
    """
    if len(certificates) > MAX_STORED_ISSUERS:
        raise MalformedError("too many stored issuers", reason=Reason.TOO_LARGE)
    return tuple(load_certificate(der) for der in certificates)


def verify_token(
    text: bytes,
    keys: Mapping[str, Mapping[str, Any]],
    issuers: Sequence[Certificate],
    anchors: Sequence[Anchor],
    at: int,
) -> VerifiedToken:
    """Verify the signature of one token; its claims are not judged.

    Raises:
        MalformedError: `malformed-evidence` or `malformed-json`.
        UnsupportedError: `unsupported-algorithm`.
        VerificationError: `attestation-root-untrusted`, `attestation-binding-invalid`,
            `attestation-signature-invalid`, `attestation-expired` or
            `attestation-not-yet-valid`.
    """
    token = read_token(text)
    key = keys.get(_key_name(token))
    if key is None:
        raise VerificationError(
            "the token's key is not in the key set", reason=Reason.ATTESTATION_ROOT_UNTRUSTED
        )
    path = _key_path(key, issuers, anchors)
    anchor = verify_path(path, anchors, SERVICE, at)
    _check_same_key(key, path[0])
    verify_p384(path[0], token.signature, token.signed, "token")
    return VerifiedToken(read_object(token.claims, limit=MAX_TOKEN_BYTES), anchor)


def _key_name(token: Token) -> str:
    if token.header.get("alg") != ALGORITHM:
        raise _unsigned(f"not signed with {ALGORITHM}, which is all these tokens are signed with")
    # `jwk`, `jku` and `x5c` in a header would let a token name its own key; `crit` and `b64` would
    # change what is signed.
    if token.header.keys() - {"alg", "kid", "typ"}:
        raise _unsigned("the header of a token has unknown parameters")
    kid = token.header.get("kid")
    if not isinstance(kid, str):
        raise _malformed("a token names no key")
    return kid


def _key_path(
    key: Mapping[str, Any], issuers: Sequence[Certificate], anchors: Sequence[Anchor]
) -> tuple[Certificate, ...]:
    chain = key.get("x5c")
    if not isinstance(chain, list):
        raise _malformed("a key without certificates")
    path = load_path([from_base64(der) for der in chain])
    if find_anchor(path[-1], anchors, SERVICE) is None:
        # The set ends below the pinned key: a stored issuer counts only if its key is an anchor's.
        above = [c for c in issuers if find_anchor(c, anchors, SERVICE) is not None]
        for issuer in above:
            if issuer.parsed.subject == path[-1].parsed.issuer:
                return (*path, issuer)
    return path


def _check_same_key(key: Mapping[str, Any], certificate: Certificate) -> None:
    numbers = certificate.public_key
    if (
        key.get("kty") != "EC"
        or key.get("crv") != "P-384"
        or not isinstance(numbers, ec.EllipticCurvePublicKey)
    ):
        raise UnsupportedError(
            "a key of the key set is not of P-384", reason=Reason.UNSUPPORTED_ALGORITHM
        )
    point = numbers.public_numbers()
    for name, value in (("x", point.x), ("y", point.y)):
        text = key.get(name)
        if not isinstance(text, str):
            raise _malformed("coordinates of a key")
        found = from_base64url(text, limit=_COORDINATE_BYTES)
        if int.from_bytes(found, "big") != value:
            raise VerificationError(
                "a key of the key set is not the one that is certified",
                reason=Reason.ATTESTATION_BINDING_INVALID,
            )


def _unsigned(detail: str) -> VerificationError:
    return VerificationError(detail, reason=Reason.ATTESTATION_SIGNATURE_INVALID)


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
