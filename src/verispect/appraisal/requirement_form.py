"""Reads requirements as policies write them, and follows the names that they refer to.

`@name` in a list of names stands for a list of the table `roots`; `{ use = "name" }` stands for an
entry of the table `requirements`. Names are replaced while reading, so that a policy's digest does
not depend on them. A circle, an unknown name, more than `MAX_ATOMS` atoms and nesting deeper than
`MAX_DEPTH` are errors, found before anything large is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.appraisal.requirement import (
    ATOM_FIELDS,
    INSUFFICIENT,
    AnyOf,
    Atom,
    Requirement,
    all_of,
    any_of,
)
from verispect.core.claims import Source
from verispect.core.errors import MalformedError, Reason
from verispect.evidence.attestation import EvidenceClass

MAX_ATOMS: Final = 256
MAX_DEPTH: Final = 8
MAX_NAMES: Final = 256
MAX_NAMES_IN_ALL: Final = 1024
"""Once `@name` is replaced: a short text must not stand for a long policy."""
MAX_ROOT_CHARACTERS: Final = 256
MAX_COUNT: Final = 256
MAX_SECONDS: Final = 100 * 366 * 86_400

PROOF_MODES: Final = frozenset({"succinct", "zero-knowledge"})

_INTEGERS: Final = {
    "nodes": MAX_COUNT,
    "witnesses": MAX_COUNT,
    "maximum_age_seconds": MAX_SECONDS,
    "within_seconds": MAX_SECONDS,
}
_FLAGS: Final = frozenset({"measured_weights", "per_inference"})
_WORDS: Final = {
    "classes": frozenset(each.value for each in EvidenceClass),
    "modes": PROOF_MODES,
}
_ROOTS: Final = frozenset({"nodes_among", "witnesses_among", "roots"})


@dataclass(slots=True)
class _Cost:
    atoms: int = 0
    names: int = 0
    depth: int = 0


@dataclass(slots=True)
class Definitions:
    """The names of one policy, and what they stand for.

    Args:
        requirements: the table of that name.
        roots: the table of that name.
    """

    requirements: Mapping[str, Any]
    roots: Mapping[str, Any]
    _read: dict[str, tuple[Requirement, _Cost]] = field(default_factory=dict)
    _names: dict[str, frozenset[str]] = field(default_factory=dict)
    _open: list[tuple[str, str]] = field(default_factory=list)
    _total: _Cost = field(default_factory=_Cost)

    def __post_init__(self) -> None:
        for table in (self.requirements, self.roots):
            if not isinstance(table, dict) or len(table) > MAX_NAMES:
                raise malformed(f"requirements and roots are tables of at most {MAX_NAMES} names")

    def check_all(self) -> None:
        """Read every definition, used or not: one that is wrong is a mistake.

        Raises:
            MalformedError: as `read`.
        """
        for name in self.requirements:
            self._use(name)
        for name in self.roots:
            self._set(name)

    def read(self, value: Any, claim: str) -> Requirement:
        """Read what is required of one claim: a list of what suffices, or a table.

        Raises:
            MalformedError: `malformed-policy`, `policy-cycle`, `too-large`, `too-deep`.
        """
        if not isinstance(value, (list, dict)) or not value:
            raise malformed(f"claim {claim} does not list the sources that suffice")
        cost = _Cost()
        if isinstance(value, list):
            requirement = any_of([self._member(each, cost, 1) for each in value])
        else:
            requirement = self._member(value, cost, 0)
        _count(self._total, cost.atoms, cost.names)
        return requirement

    def _member(self, value: Any, cost: _Cost, depth: int) -> Requirement:
        if depth > MAX_DEPTH:
            raise MalformedError(
                f"requirements are nested deeper than {MAX_DEPTH}", reason=Reason.TOO_DEEP
            )
        cost.depth = max(cost.depth, depth)
        if isinstance(value, str):
            _count(cost, 1)
            return Atom(_source(value))
        if not isinstance(value, dict):
            raise malformed("expected a source, or a table with source, any_of, all_of or use")
        for name, join in (("any_of", any_of), ("all_of", all_of)):
            if name in value:
                members = value[name]
                if len(value) != 1 or not isinstance(members, list) or not members:
                    raise malformed(f"{name} stands alone, with a list of at least one")
                return join([self._member(each, cost, depth + 1) for each in members])
        if "use" in value:
            if len(value) != 1 or not isinstance(value["use"], str):
                raise malformed("use stands alone, with a name")
            requirement, own = self._use(value["use"])
            _count(cost, own.atoms, own.names)
            if depth + own.depth > MAX_DEPTH:
                raise MalformedError(
                    f"requirements are nested deeper than {MAX_DEPTH}", reason=Reason.TOO_DEEP
                )
            return requirement
        atom = self._atom(value)
        names = len(atom.nodes_among) + len(atom.witnesses_among) + len(atom.roots)
        _count(cost, 1, names)
        return atom

    def _use(self, name: str) -> tuple[Requirement, _Cost]:
        if name not in self._read:
            value = self._begin("requirements", name, self.requirements)
            cost = _Cost()
            self._read[name] = (self._top(value, cost), cost)
            self._open.pop()
        return self._read[name]

    def _top(self, value: Any, cost: _Cost) -> Requirement:
        if isinstance(value, list) and value:
            return any_of([self._member(each, cost, 1) for each in value])
        return self._member(value, cost, 0)

    def _set(self, name: str) -> frozenset[str]:
        if name not in self._names:
            value = self._begin("roots", name, self.roots)
            self._names[name] = self._roots(value, f"roots.{name}")
            self._open.pop()
        return self._names[name]

    def _begin(self, table: str, name: str, values: Mapping[str, Any]) -> Any:
        if name not in values:
            raise malformed(f"{table} defines no {_shown(name)}")
        if (table, name) in self._open:
            raise MalformedError(
                f"{table}.{_shown(name)} refers to itself", reason=Reason.POLICY_CYCLE
            )
        if len(self._open) >= MAX_NAMES // 4:
            raise MalformedError("names refer to names too deeply", reason=Reason.TOO_DEEP)
        self._open.append((table, name))
        return values[name]

    def _roots(self, value: Any, where: str) -> frozenset[str]:
        if not isinstance(value, list) or not value or len(value) > MAX_NAMES:
            raise malformed(f"{where} is not a list of 1 to {MAX_NAMES} names")
        names: set[str] = set()
        for each in value:
            if (
                not isinstance(each, str)
                or not 0 < len(each) <= MAX_ROOT_CHARACTERS
                or not each.isprintable()
            ):
                raise malformed(f"{where} holds something that is no name")
            names |= self._set(each[1:]) if each.startswith("@") else {each}
        if len(names) > MAX_NAMES:
            raise MalformedError(f"{where} has too many names", reason=Reason.TOO_LARGE)
        return frozenset(names)

    def _atom(self, value: dict[str, Any]) -> Atom:
        if unknown := sorted(value.keys() - {*ATOM_FIELDS, "source"}):
            raise malformed(f"unknown condition {_shown(unknown[0])}")
        source = _source(value.get("source"))
        given = {
            name: self._condition(name, each) for name, each in value.items() if name != "source"
        }
        try:
            return Atom(source, **given)
        except ValueError as error:
            raise malformed(str(error)) from error

    def _condition(self, name: str, value: Any) -> Any:
        if name in _INTEGERS:
            if type(value) is not int or not 1 <= value <= _INTEGERS[name]:
                raise malformed(f"{name} is not an integer from 1 to {_INTEGERS[name]}")
            return value
        if name in _FLAGS:
            if value is not True:
                raise malformed(f"{name} is true, or left out")
            return True
        if name in _ROOTS:
            return self._roots(value, name)
        if not isinstance(value, list) or not 0 < len(value) <= MAX_NAMES:
            raise malformed(f"{name} is not a list of words")
        known = _WORDS.get(name)
        for word in value:
            if not is_word(word) or (known is not None and word not in known):
                raise malformed(f"{name} holds an unknown word")
        return frozenset(EvidenceClass(each) if name == "classes" else each for each in value)


def is_word(value: Any) -> bool:
    """Tell whether a value is a short word of ASCII letters, digits, `-` and `_`."""
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isascii():
        return False
    return value.replace("-", "").replace("_", "").isalnum()


def claim_value(requirement: Requirement) -> list[Any] | dict[str, Any]:
    """Return the canonical form of what is required of one claim: a list, or a table."""
    if isinstance(requirement, AnyOf):
        return [each.to_value() for each in requirement.members]
    value = requirement.to_value()
    return [value] if isinstance(value, str) else value


def malformed(what: str) -> MalformedError:
    """Return the error for text that is no policy."""
    return MalformedError(what, reason=Reason.MALFORMED_POLICY)


def _source(value: Any) -> Source:
    if not isinstance(value, str) or value not in Source.__members__.values():
        raise malformed("unknown source")
    source = Source(value)
    if source in INSUFFICIENT:
        raise malformed(f"source {source.value} never suffices")
    return source


def _count(cost: _Cost, atoms: int, names: int = 0) -> None:
    cost.atoms += atoms
    cost.names += names
    if cost.atoms > MAX_ATOMS:
        raise MalformedError(f"a policy has at most {MAX_ATOMS} atoms", reason=Reason.TOO_LARGE)
    if cost.names > MAX_NAMES_IN_ALL:
        what = f"a policy names at most {MAX_NAMES_IN_ALL} nodes, witnesses and roots"
        raise MalformedError(what, reason=Reason.TOO_LARGE)


def _shown(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 64 and text.isprintable() else "a name"
