"""What assurance a request asks for, and whether this server can deliver it.

Decided before any work is done. A misspelt word, a word asked for twice in different ways, and
assurance that cannot be delivered are errors that say what is available; nothing is a default
but `signed`, which every answer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, Reason, RequestError
from verispect.core.statement import NONCE_BYTES

ASSURANCE_HEADER: Final = "verispect-assurance"
NONCE_HEADER: Final = "verispect-nonce"
DEFAULT_ASSURANCE: Final = "signed"

KNOWN_WORDS: Final = frozenset({"signed", "logged", "audited", "attested", "proven"})
"""Every preset of the design; sums are written with `+`."""

AVAILABLE: Final[Mapping[str, AssurancePolicy]] = PRESETS
"""What this server delivers."""


def required_assurance(headers: Mapping[str, str], body_field: str | None) -> AssurancePolicy:
    """Return the policy that a request requires.

    Args:
        headers: request headers, names in lower case.
        body_field: the body's `assurance`, if it has one.

    Raises:
        RequestError: `assurance-unknown`, `assurance-unavailable` or `invalid-request`.
    """
    header_field = headers.get(ASSURANCE_HEADER)
    if header_field is not None and body_field is not None and header_field != body_field:
        raise RequestError("header and body ask for different assurance", parameter="assurance")
    word = body_field if body_field is not None else header_field
    if word is None:
        word = DEFAULT_ASSURANCE
    policy = AVAILABLE.get(word)
    if policy is not None:
        return policy
    available = ", ".join(sorted(AVAILABLE))
    words = word.split("+")
    if len(set(words)) != len(words) or not KNOWN_WORDS.issuperset(words):
        raise RequestError(
            f"unknown assurance; available here: {available}",
            reason=Reason.ASSURANCE_UNKNOWN,
            parameter="assurance",
        )
    raise RequestError(
        f"this server cannot deliver assurance {word}; available here: {available}",
        reason=Reason.ASSURANCE_UNAVAILABLE,
        parameter="assurance",
    )


def caller_nonce(headers: Mapping[str, str]) -> bytes | None:
    """Return the caller's nonce.

    Raises:
        RequestError: `invalid-request` unless it is base64url of 8 to 64 bytes.
    """
    text = headers.get(NONCE_HEADER)
    if text is None:
        return None
    try:
        nonce = from_base64url(text, limit=NONCE_BYTES[-1])
    except Error:
        nonce = b""
    if len(nonce) not in NONCE_BYTES:
        raise RequestError(
            f"expected base64url of {NONCE_BYTES[0]} to {NONCE_BYTES[-1]} bytes",
            parameter="Verispect-Nonce",
        )
    return nonce
