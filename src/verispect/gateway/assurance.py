"""What assurance a request asks for, and whether this server can deliver it.

Decided before any work is done. A misspelt word, a word asked for twice in different ways, and
assurance that cannot be delivered are errors that say what is available; nothing is a default
but `signed`, which every answer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from verispect.appraisal.assurance_policy import renamed
from verispect.appraisal.policy import (
    PRESETS,
    SIGNED,
    AssurancePolicy,
    expand,
    is_sum_of_presets,
)
from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, MalformedError, Reason, RequestError
from verispect.core.statement import NONCE_BYTES

ASSURANCE_HEADER: Final = "verispect-assurance"
ATTESTATION_HEADER: Final = "verispect-attestation"
NONCE_HEADER: Final = "verispect-nonce"
DEFAULT_ASSURANCE: Final = "signed"

OWN_POLICY: Final = "custom"
"""The name of every policy that is no preset and no sum of presets."""

SIGNED_ONLY: Final[Mapping[str, AssurancePolicy]] = {SIGNED.name: SIGNED}
"""What a server without an attester delivers."""


def required_assurance(
    headers: Mapping[str, str],
    body_field: str | Mapping[str, Any] | None,
    available: Mapping[str, AssurancePolicy] = SIGNED_ONLY,
) -> AssurancePolicy:
    """Return the policy that a request requires.

    Args:
        headers: request headers, names in lower case.
        body_field: the body's `assurance`, if it has one: a word, or a policy.
        available: what this server delivers, by name.

    Raises:
        RequestError: `assurance-unknown`, `assurance-unavailable` or `invalid-request`.
    """
    header_field = headers.get(ASSURANCE_HEADER)
    if header_field is not None and body_field is not None and header_field != body_field:
        raise RequestError("header and body ask for different assurance", parameter="assurance")
    if isinstance(body_field, Mapping):
        return _own_policy(body_field)
    word = body_field if body_field is not None else header_field
    if word is None:
        word = DEFAULT_ASSURANCE
    policy = available.get(word)
    if policy is not None:
        return policy
    offered = ", ".join(sorted(available))
    if is_sum_of_presets(word):
        if available.keys() >= set(word.split("+")):
            return _expand(word)
    else:
        raise RequestError(
            f"unknown assurance; available here: {offered}",
            reason=Reason.ASSURANCE_UNKNOWN,
            parameter="assurance",
        )
    raise RequestError(
        f"this server cannot deliver assurance {word}; available here: {offered}",
        reason=Reason.ASSURANCE_UNAVAILABLE,
        parameter="assurance",
    )


def _expand(word: str) -> AssurancePolicy:
    try:
        return expand(word)
    except MalformedError as error:
        raise RequestError(error.message, reason=error.reason, parameter="assurance") from error


def _own_policy(document: Mapping[str, Any]) -> AssurancePolicy:
    """Return a caller's own policy; its name is not the caller's to choose."""
    try:
        policy = AssurancePolicy.from_document(document)
    except MalformedError as error:
        raise RequestError(error.message, reason=error.reason, parameter="assurance") from error
    known = (each for each in PRESETS.values() if each.digest() == policy.digest())
    return next(known, renamed(policy, OWN_POLICY))


def caller_nonce(headers: Mapping[str, str]) -> bytes | None:
    """Return the caller's nonce.

    Raises:
        RequestError: `invalid-request` unless it is base64url of 8 to 64 bytes.
    """
    return read_nonce(headers.get(NONCE_HEADER), parameter="Verispect-Nonce")


def read_nonce(text: str | None, *, parameter: str) -> bytes | None:
    """Return the nonce in `text`; `None` for none.

    Raises:
        RequestError: `invalid-request` unless it is base64url of 8 to 64 bytes.
    """
    if text is None:
        return None
    try:
        nonce = from_base64url(text, limit=NONCE_BYTES[-1])
    except Error:
        nonce = b""
    if len(nonce) not in NONCE_BYTES:
        raise RequestError(
            f"expected base64url of {NONCE_BYTES[0]} to {NONCE_BYTES[-1]} bytes",
            parameter=parameter,
        )
    return nonce


def wants_own_attestation(headers: Mapping[str, str], *, attested: bool) -> bool:
    """Tell whether the caller asks for attestation evidence of this one inference.

    Raises:
        RequestError: `invalid-request` for another word, or where no attestation is required.
    """
    word = headers.get(ATTESTATION_HEADER)
    if word is None or (word == "session" and attested):
        return False
    if word != "inference" or not attested:
        raise RequestError(
            "expected session or inference, together with an attested assurance",
            parameter="Verispect-Attestation",
        )
    return True
