"""The rule of stakes: which policies are enough for what hangs on an answer (spec/advice.md).

The rule is the table `stakes.toml`, and nothing else decides. It is put to policies, not to what a
server says that it will do: a policy that is enough fails loudly where less comes. Who asks and who
is asked apply the same table, so that nobody has to believe a recommendation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from verispect.appraisal.assurance_policy import AssurancePolicy
from verispect.appraisal.requirement import AllOf, Atom, Requirement
from verispect.core.claims import Claim, Source
from verispect.core.errors import RequestError
from verispect.evidence.attestation import EvidenceClass

STAKES_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class StakesRule:
    """One row of the table."""

    name: str
    means: str
    """When this row is the right one, in words."""
    development_keys: bool
    """Whether receipts of development keys are enough."""
    claims: Mapping[Claim, frozenset[Source]]
    """By claim, the sources that suffice."""

    def shortfalls(self, policy: AssurancePolicy) -> list[str]:
        """Return in words why a policy is not enough; nothing where it is."""
        found = [
            f"{claim.value} must be {' or '.join(source.value for source in ordered(suffice))}"
            for claim, suffice in self.claims.items()
            if not _ensures(policy.claims.get(claim), suffice, policy)
        ]
        if policy.development_keys and not self.development_keys:
            found.append("receipts of development keys are accepted")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is shown to callers."""
        claims = {
            claim.value: [source.value for source in ordered(suffice)]
            for claim, suffice in self.claims.items()
        }
        return {"stakes": self.name, "means": self.means, "claims": claims}


def ordered(sources: frozenset[Source]) -> Sequence[Source]:
    """Return sources in the order of their definition."""
    return [source for source in Source if source in sources]


def stakes_rule(word: str) -> StakesRule:
    """Return the row of a word.

    Raises:
        RequestError: `invalid-request`, naming the words that there are.
    """
    rule = STAKES.get(word)
    if rule is None:
        raise RequestError(f"stakes are one of {', '.join(STAKES)}", parameter="stakes")
    return rule


def _ensures(
    requirement: Requirement | None, suffice: frozenset[Source], policy: AssurancePolicy
) -> bool:
    """Tell whether whatever meets a requirement has one of these sources."""
    if requirement is None:
        return False
    if isinstance(requirement, Atom):
        return _counted_as(requirement, policy) in suffice
    parts = [_ensures(each, suffice, policy) for each in requirement.members]
    return any(parts) if isinstance(requirement, AllOf) else bool(parts) and all(parts)


def _counted_as(atom: Atom, policy: AssurancePolicy) -> Source:
    """Return the source of an atom; an enclave that may be an emulated one only asserts."""
    if atom.source is not Source.HARDWARE:
        return atom.source
    accepted = policy.attestation.accepted_classes
    classes = atom.classes & accepted if atom.classes else accepted
    return Source.HARDWARE if classes == {EvidenceClass.HARDWARE} else Source.ASSERTED


def _read(text: str) -> Mapping[str, StakesRule]:
    table = tomllib.loads(text)
    if table["version"] != STAKES_VERSION:
        raise ValueError("the table of stakes is of another version")
    rules = [
        StakesRule(
            row["name"],
            row["means"],
            row["development_keys"],
            {Claim(claim): frozenset(map(Source, words)) for claim, words in row["claims"].items()},
        )
        for row in table["stakes"]
    ]
    return MappingProxyType({rule.name: rule for rule in rules})


STAKES: Final = _read(files("verispect.appraisal").joinpath("stakes.toml").read_text("utf-8"))
"""The table, by the word for the stakes, in its order."""
