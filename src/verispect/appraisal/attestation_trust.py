"""The part of a trusted root that attestation evidence is judged with.

Three things, all of the user's choosing and all empty unless stated: the vendors whose genuine
roots are trusted, by technology; further anchors, each with its class; and the reference values,
the measurements of code that the user accepts. A development anchor is trusted only where somebody
wrote it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from verispect.core.encoding import DIGEST_BYTES, Digest, from_hex
from verispect.core.errors import Error, MalformedError, Reason
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.genuine import GENUINE_MODULES, genuine_anchors, root_technologies

MAX_ANCHORS: Final = 256
MAX_REGISTERS: Final = 64
MAX_VALUES: Final = 256
MAX_VALUE_CHARACTERS: Final = 256

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class AttestationTrust:
    """Whose evidence, and of which code."""

    vendors: tuple[str, ...] = ()
    """Technologies whose genuine vendor roots are trusted."""
    anchors: tuple[Anchor, ...] = ()
    """Further roots."""
    measurements: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """By technology and register, the accepted values in lower-case hexadecimal."""

    def anchors_of(self, technology: str) -> Sequence[Anchor]:
        """Return the roots that are trusted for a technology."""
        genuine = genuine_anchors(technology) if technology in self.vendors else ()
        roots = root_technologies(technology)
        return [*genuine, *(each for each in self.anchors if each.technology in roots)]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "vendors": list(self.vendors),
            "anchors": [
                {
                    "technology": anchor.technology,
                    "keySha256": anchor.key_digest.hex(),
                    "class": anchor.evidence_class.value,
                    "label": anchor.label,
                }
                for anchor in self.anchors
            ],
            "measurements": {
                technology: {register: sorted(values) for register, values in registers.items()}
                for technology, registers in self.measurements.items()
            },
        }

    @classmethod
    def from_json(cls, value: Any) -> AttestationTrust:
        """Read the JSON form.

        Raises:
            MalformedError: `malformed-trusted-root`.
        """
        if not isinstance(value, dict) or not value.keys() <= {
            "vendors",
            "anchors",
            "measurements",
        }:
            raise _malformed("attestation has an unknown member or is not an object")
        vendors = _array(value.get("vendors", []), _technology, "vendors")
        if len(set(vendors)) != len(vendors):
            raise _malformed("a vendor is listed twice")
        anchors = tuple(_array(value.get("anchors", []), _anchor, "anchors"))
        if len({(each.technology, each.key_digest) for each in anchors}) != len(anchors):
            # Also in two classes, of which only one can be meant.
            raise _malformed("an anchor is listed twice")
        return cls(
            vendors=tuple(vendors),
            anchors=anchors,
            measurements=_measurements(value.get("measurements", {})),
        )


NO_ATTESTATION: Final = AttestationTrust()


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TRUSTED_ROOT)


def _array(value: Any, read: Callable[[Any], _Item], name: str) -> list[_Item]:
    if not isinstance(value, list) or len(value) > MAX_ANCHORS:
        raise _malformed(f"attestation {name} is not an array of at most {MAX_ANCHORS}")
    return [read(item) for item in value]


def _technology(value: Any) -> str:
    if not isinstance(value, str) or value not in GENUINE_MODULES:
        raise _malformed("an attestation technology is unknown")
    return value


def _anchor(value: Any) -> Anchor:
    if not isinstance(value, dict) or value.keys() != {"technology", "keySha256", "class", "label"}:
        raise _malformed("an anchor has a missing or unknown member")
    if value["class"] not in EvidenceClass.__members__.values():
        raise _malformed("the class of an anchor is unknown")
    label = value["label"]
    if not isinstance(label, str) or not 0 < len(label) <= 128 or not label.isprintable():
        raise _malformed("the label of an anchor is not short text")
    if not isinstance(value["keySha256"], str):
        raise _malformed("keySha256 is not text")
    try:
        digest = Digest(from_hex(value["keySha256"], length=DIGEST_BYTES))
    except Error as error:
        raise _malformed(f"keySha256: {error.message}") from error
    return Anchor(_technology(value["technology"]), digest, EvidenceClass(value["class"]), label)


def _measurements(value: Any) -> dict[str, dict[str, frozenset[str]]]:
    if not isinstance(value, dict):
        raise _malformed("attestation measurements is not an object")
    return {_technology(name): _registers(registers) for name, registers in value.items()}


def _registers(value: Any) -> dict[str, frozenset[str]]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_REGISTERS:
        raise _malformed(f"measurements of a technology name 1 to {MAX_REGISTERS} registers")
    registers: dict[str, frozenset[str]] = {}
    for register, values in value.items():
        if not isinstance(values, list) or not 0 < len(values) <= MAX_VALUES:
            raise _malformed(f"a register has 1 to {MAX_VALUES} accepted values")
        for text in values:
            if not isinstance(text, str) or len(text) > MAX_VALUE_CHARACTERS:
                raise _malformed("an accepted value is not hexadecimal")
            try:
                from_hex(text)
            except Error as error:
                raise _malformed(f"an accepted value: {error.message}") from error
        registers[register] = frozenset(values)
    return registers
