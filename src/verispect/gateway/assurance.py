"""What assurance a request asks for, and whether this server can deliver it.

Decided before any work is done. A misspelt word, a word asked for twice in different ways, and
assurance that cannot be delivered are errors that say what is available; nothing is a default
but `signed`, which every answer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verispect.appraisal.policy import PRESETS, SIGNED, AssurancePolicy
from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, Reason, RequestError
from verispect.core.statement import NONCE_BYTES

ASSURANCE_HEADER: Final = "verispect-assurance"
ATTESTATION_HEADER: Final = "verispect-attestation"
NONCE_HEADER: Final = "verispect-nonce"
DEFAULT_ASSURANCE: Final = "signed"

KNOWN_WORDS: Final = frozenset({*PRESETS, "logged", "audited"})
"""Every preset of the design; sums are written with `+`."""

SIGNED_ONLY: Final[Mapping[str, AssurancePolicy]] = {SIGNED.name: SIGNED}
"""What a server without an attester delivers."""


def required_assurance(
    headers: Mapping[str, str],
    body_field: str | None,
    available: Mapping[str, AssurancePolicy] = SIGNED_ONLY,
) -> AssurancePolicy:
    """Return the policy that a request requires.

    Args:
        headers: request headers, names in lower case.
        body_field: the body's `assurance`, if it has one.
        available: what this server delivers, by name.

    Raises:
        RequestError: `assurance-unknown`, `assurance-unavailable` or `invalid-request`.
    """
    header_field = headers.get(ASSURANCE_HEADER)
    if header_field is not None and body_field is not None and header_field != body_field:
        raise RequestError("header and body ask for different assurance", parameter="assurance")
    word = body_field if body_field is not None else header_field
    if word is None:
        word = DEFAULT_ASSURANCE
    policy = available.get(word)
    if policy is not None:
        return policy
    offered = ", ".join(sorted(available))
    words = word.split("+")
    if len(set(words)) != len(words) or not KNOWN_WORDS.issuperset(words):
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


def wants_own_attestation(headers: Mapping[str, str], policy: AssurancePolicy) -> bool:
    """Tell whether the caller asks for attestation evidence of this one inference.

    Raises:
        RequestError: `invalid-request` for another word, or where no attestation is required.
    """
    word = headers.get(ATTESTATION_HEADER)
    attested = policy.name.startswith("attested")
    if word is None or (word == "session" and attested):
        return False
    if word != "inference" or not attested:
        raise RequestError(
            "expected session or inference, together with an attested assurance",
            parameter="Verispect-Attestation",
        )
    return True
