"""What a policy requires of one claim: sources with conditions, joined by `any_of` and `all_of`.

A requirement is a tree. Its leaves are atoms, each a source and what the evidence must be like. A
fact that is not known satisfies no condition, an empty combination is never met, and nothing in a
tree can be met by less evidence than before: there is no negation. Trees are kept in one normal
form, so that requirements that differ only in order, repetition or redundance are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

from verispect.core.claims import Claim, Source
from verispect.core.encoding import encode
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.interface import EvidenceAppraisal

INSUFFICIENT: Final = frozenset({Source.UNSTATED, Source.REFUTED})
_MILLISECONDS: Final = 1000

_NODES: Final = frozenset({"nodes", "nodes_among", "within_seconds"})
CONDITIONS: Final = {
    Source.ASSERTED: frozenset({"roots"}),
    Source.LOGGED: frozenset({"witnesses", "witnesses_among", "roots", "within_seconds"}),
    Source.STATISTICAL: _NODES,
    Source.REEXECUTED: _NODES,
    Source.HARDWARE: frozenset(
        {"classes", "tcb", "maximum_age_seconds", "measured_weights", "per_inference", "roots"}
    ),
    Source.PROVEN: frozenset({"modes", "within_seconds"}),
}
"""By source, the conditions that may be put to its evidence."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A source, and what its evidence must be like. A condition that is not given is none.

    Raises:
        ValueError: the source never suffices, a condition does not fit it, or cannot be met.
    """

    source: Source
    nodes: int | None = None
    """At least so many distinct nodes."""
    nodes_among: frozenset[str] = frozenset()
    """Only these nodes count."""
    witnesses: int | None = None
    witnesses_among: frozenset[str] = frozenset()
    classes: frozenset[EvidenceClass] = frozenset()
    tcb: frozenset[str] = frozenset()
    maximum_age_seconds: int | None = None
    """How long before the statement was signed it may have been collected."""
    within_seconds: int | None = None
    """How long after the statement was signed it may have come."""
    measured_weights: bool = False
    per_inference: bool = False
    modes: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset()
    """One of these trust roots must stand behind it."""
    is_plain: bool = field(init=False, compare=False, repr=False)
    """Whether any evidence of this source suffices."""

    def __post_init__(self) -> None:
        if self.source in INSUFFICIENT:
            raise ValueError("unstated and refuted never suffice")
        given = {name for name in ATOM_FIELDS if getattr(self, name)}
        if odd := sorted(given - CONDITIONS[self.source]):
            raise ValueError(f"{odd[0]} is no condition of source {self.source.value}")
        for count, among in (("nodes", "nodes_among"), ("witnesses", "witnesses_among")):
            if among in given and not 0 < (getattr(self, count) or 0) <= len(getattr(self, among)):
                raise ValueError(f"expected {count} from 1 to the number of names in {among}")
        object.__setattr__(self, "is_plain", not given)

    def holds(self, view: ClaimView) -> bool:
        """Tell whether some evidence of this source meets every condition."""
        if self.is_plain:
            return self.source in view.sources or self.source in view.possible
        if self.source in view.possible and not self._is_overdue(view):
            return True
        return self.source in view.sources and any(
            self._is_met(each, view)
            for each in view.evidence
            if self.source in each.claims.get(view.claim, _NOTHING)
        )

    def _is_overdue(self, view: ClaimView) -> bool:
        within = self.within_seconds
        return within is not None and view.now > view.signed_at + within * _MILLISECONDS

    def _is_met(self, evidence: EvidenceAppraisal, view: ClaimView) -> bool:
        facts = evidence.facts
        at = facts.established_at
        age, within = self.maximum_age_seconds, self.within_seconds
        if age is not None and (at is None or at < view.signed_at - age * _MILLISECONDS):
            return False
        if within is not None and (at is None or at > view.signed_at + within * _MILLISECONDS):
            return False
        affirming = facts.affirming.get((view.claim, self.source), _NOBODY)
        return (
            _enough(self.nodes, self.nodes_among, affirming, facts.uncertain)
            and _enough(self.witnesses, self.witnesses_among, facts.witnesses, facts.uncertain)
            and (not self.classes or evidence.evidence_class in self.classes)
            and (not self.tcb or facts.tcb_status in self.tcb)
            and (not self.modes or facts.proof_mode in self.modes)
            and (not self.roots or not self.roots.isdisjoint(facts.roots))
            and facts.measured_weights >= self.measured_weights
            and facts.per_inference >= self.per_inference
        )

    def to_value(self) -> str | dict[str, Any]:
        """Return the canonical form: the source alone, or a map of what is given."""
        if self.is_plain:
            return self.source.value
        value: dict[str, Any] = {"source": self.source.value}
        for name in ATOM_FIELDS:
            if given := getattr(self, name):
                is_set = isinstance(given, frozenset)
                value[name] = sorted(str(each) for each in given) if is_set else given
        return value


_NOBODY: Final[frozenset[str]] = frozenset()
_NOTHING: Final[frozenset[Source]] = frozenset()
ATOM_FIELDS: Final = tuple(
    each.name for each in fields(Atom) if each.name not in ("source", "is_plain")
)


def _enough(k: int | None, among: frozenset[str], names: frozenset[str], uncertain: int) -> bool:
    if k is None:
        return True
    return len(names & among if among else names) - uncertain >= k


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Met where one member is; made by `any_of`. Without members it is never met."""

    members: tuple[Requirement, ...]
    _plain: frozenset[Source] = field(init=False, compare=False, repr=False)
    _rest: tuple[Requirement, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        plain = {each.source for each in self.members if isinstance(each, Atom) and each.is_plain}
        rest = [each for each in self.members if not (isinstance(each, Atom) and each.is_plain)]
        object.__setattr__(self, "_plain", frozenset(plain))
        object.__setattr__(self, "_rest", tuple(rest))

    def holds(self, view: ClaimView) -> bool:
        """Tell whether a member is met."""
        if not self._plain.isdisjoint(view.sources) or not self._plain.isdisjoint(view.possible):
            return True
        return any(each.holds(view) for each in self._rest)

    def to_value(self) -> dict[str, Any]:
        """Return the canonical form."""
        return {"any_of": [each.to_value() for each in self.members]}


@dataclass(frozen=True, slots=True)
class AllOf:
    """Met where every member is; made by `all_of`. Without members it is never met."""

    members: tuple[Requirement, ...]

    def holds(self, view: ClaimView) -> bool:
        """Tell whether every member is met, and there is one."""
        return bool(self.members) and all(each.holds(view) for each in self.members)

    def to_value(self) -> dict[str, Any]:
        """Return the canonical form."""
        return {"all_of": [each.to_value() for each in self.members]}


Requirement: TypeAlias = Atom | AnyOf | AllOf

NEVER: Final = AnyOf(())
"""The requirement that nothing meets."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """What stands behind one claim."""

    claim: Claim
    sources: frozenset[Source]
    evidence: Sequence[EvidenceAppraisal]
    signed_at: int
    """Milliseconds: when the statement was signed."""
    possible: frozenset[Source] = frozenset()
    """Sources that may still come, whatever is asked of their evidence."""
    now: int = 0


def any_of(members: Iterable[Requirement]) -> Requirement:
    """Return the normal form of: one of these."""
    alternatives: set[Requirement] = set()
    for member in members:
        alternatives.update(member.members if isinstance(member, AnyOf) else (member,))
    alternatives = {each for each in alternatives if each != AllOf(())}
    kept = _absorb(alternatives, AllOf)
    return kept[0] if len(kept) == 1 else AnyOf(tuple(kept))


def all_of(members: Iterable[Requirement]) -> Requirement:
    """Return the normal form of: each of these. Of none of them, `NEVER`: empty denies."""
    needed: set[Requirement] = set()
    for member in members:
        needed.update(member.members if isinstance(member, AllOf) else (member,))
    if not needed or NEVER in needed or AllOf(()) in needed:
        return NEVER
    kept = _absorb(needed, AnyOf)
    return kept[0] if len(kept) == 1 else AllOf(tuple(kept))


def normal(requirement: Requirement) -> Requirement:
    """Return the normal form of a tree that was put together by hand."""
    if isinstance(requirement, Atom):
        return requirement
    join = any_of if isinstance(requirement, AnyOf) else all_of
    return join(normal(each) for each in requirement.members)


def atoms(requirement: Requirement) -> Iterator[Atom]:
    """Yield every atom of a tree."""
    if isinstance(requirement, Atom):
        yield requirement
    else:
        for member in requirement.members:
            yield from atoms(member)


def _absorb(members: set[Requirement], inner: type[AnyOf | AllOf]) -> list[Requirement]:
    """Drop what another member makes redundant: `A and (A or B)` is `A`, and vice versa."""
    parts = {
        each: frozenset(each.members) if isinstance(each, inner) else frozenset({each})
        for each in members
    }
    kept = [each for each, own in parts.items() if not any(other < own for other in parts.values())]
    return sorted(kept, key=_order)


def _order(requirement: Requirement) -> tuple[int, bytes]:
    value = requirement.to_value()
    return (0, value.encode()) if isinstance(value, str) else (1, encode(value))
