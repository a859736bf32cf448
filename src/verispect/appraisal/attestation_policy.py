"""The `[attestation]` table of a policy: its canonical form, and its form in TOML.

An unknown field, a misspelt class and a number out of range are errors; nothing is a guess.
"""

from __future__ import annotations

from typing import Any, Final

from verispect.core.errors import MalformedError, Reason
from verispect.evidence.attestation import AttestationPolicy, EvidenceClass

MAX_WORDS: Final = 64
MAX_WORD_CHARACTERS: Final = 64
MAX_SECONDS: Final = 100 * 366 * 86_400
MAX_VMPL: Final = 3

_FLAGS: Final = ("allow_debug", "require_revocation")
_WORDS: Final = ("accepted_tcb", "refused_advisories")
_FIELDS: Final = {
    *_FLAGS,
    *_WORDS,
    "accepted_classes",
    "maximum_age_seconds",
    "maximum_vmpl",
    "minimum_tcb",
}
_DEFAULT: Final = AttestationPolicy()


def attestation_to_map(policy: AttestationPolicy) -> dict[str, Any]:
    """Return the canonical form, every field present."""
    return {
        "accepted_classes": sorted(each.value for each in policy.accepted_classes),
        "accepted_tcb": sorted(policy.accepted_tcb),
        "allow_debug": policy.allow_debug,
        "maximum_age_seconds": policy.maximum_age_seconds,
        "maximum_vmpl": policy.maximum_vmpl,
        "minimum_tcb": dict(policy.minimum_tcb),
        "refused_advisories": sorted(policy.refused_advisories),
        "require_revocation": policy.require_revocation,
    }


def attestation_to_toml(policy: AttestationPolicy) -> list[str]:
    """Return the lines below `[attestation]`, every field that has a value."""
    lines = []
    for name, value in attestation_to_map(policy).items():
        if isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        elif isinstance(value, int):
            lines.append(f"{name} = {value}")
        elif isinstance(value, list):
            lines.append(f"{name} = [" + ", ".join(f'"{word}"' for word in value) + "]")
        elif isinstance(value, dict) and value:
            pairs = ", ".join(f"{key} = {number}" for key, number in sorted(value.items()))
            lines.append(f"{name} = {{ {pairs} }}")
    return lines


def attestation_from_table(table: Any) -> AttestationPolicy:
    """Read the table.

    Raises:
        MalformedError: `malformed-policy`.
    """
    if not isinstance(table, dict):
        raise _malformed("attestation is not a table")
    if unknown := sorted(table.keys() - _FIELDS):
        raise _malformed(f"unknown field attestation.{unknown[0]}")
    maximum_age = table.get("maximum_age_seconds")
    return AttestationPolicy(
        allow_debug=_flag(table, "allow_debug"),
        accepted_tcb=_words(table, "accepted_tcb", _DEFAULT.accepted_tcb),
        refused_advisories=_words(table, "refused_advisories", frozenset()),
        maximum_age_seconds=None
        if maximum_age is None
        else _integer(maximum_age, "maximum_age_seconds", 1, MAX_SECONDS),
        maximum_vmpl=_integer(
            table.get("maximum_vmpl", _DEFAULT.maximum_vmpl), "maximum_vmpl", 0, MAX_VMPL
        ),
        minimum_tcb=_floors(table.get("minimum_tcb", {})),
        accepted_classes=_classes(table),
        require_revocation=_flag(table, "require_revocation"),
    )


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_POLICY)


def _flag(table: dict[str, Any], name: str) -> bool:
    value = table.get(name, False)
    if type(value) is not bool:
        raise _malformed(f"attestation.{name} is not true or false")
    return value


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _malformed(f"attestation.{name} is not an integer from {least} to {most}")
    return value


def _is_word(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_WORD_CHARACTERS
        and value.replace("-", "").replace("_", "").isalnum()
        and value.isascii()
    )


def _words(table: dict[str, Any], name: str, default: frozenset[str]) -> frozenset[str]:
    value = table.get(name)
    if value is None:
        return default
    if not isinstance(value, list) or len(value) > MAX_WORDS or not all(map(_is_word, value)):
        raise _malformed(f"attestation.{name} is not a list of words")
    return frozenset(value)


def _classes(table: dict[str, Any]) -> frozenset[EvidenceClass]:
    words = _words(table, "accepted_classes", frozenset({EvidenceClass.HARDWARE.value}))
    known = {each.value: each for each in EvidenceClass}
    if not words or not words <= known.keys():
        raise _malformed(f"attestation.accepted_classes is not a list of {', '.join(known)}")
    return frozenset(known[word] for word in words)


def _floors(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > MAX_WORDS or not all(map(_is_word, value)):
        raise _malformed("attestation.minimum_tcb is not a table")
    return {name: _integer(floor, "minimum_tcb", 0, 1 << 32) for name, floor in value.items()}
