"""Where pieces of evidence on one receipt contradict each other, and every side of it by name.

A conflict is a claim that one piece of evidence affirms, by whatever source, and another refutes.
This module finds them and decides nothing: that refuted outweighs every other source is
`verispect.core.claims.combine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.claims import Claim, Source
from verispect.evidence.interface import CheckStatus, EvidenceAppraisal

_NO_SUPPORT: Final = frozenset({Source.UNSTATED, Source.REFUTED})


@dataclass(frozen=True, slots=True)
class NamedEvidence:
    """One piece of evidence, and what its kind found."""

    kind: str
    appraisal: EvidenceAppraisal

    @property
    def is_acceptable(self) -> bool:
        """Whether every check of it passed."""
        return all(each.status is CheckStatus.PASSED for each in self.appraisal.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "kind": self.kind,
            "acceptable": self.is_acceptable,
            "claims": {
                claim.value: sorted(source.value for source in self.appraisal.claims[claim])
                for claim in Claim
                if claim in self.appraisal.claims
            },
        }


@dataclass(frozen=True, slots=True)
class Conflict:
    """A claim that some evidence affirms and other evidence refutes."""

    claim: Claim
    affirmed_by: Sequence[tuple[str, Source]]
    """Who affirms it and by which source: a kind, or a kind and a node, `verdicts/NAME`."""
    refuted_by: Sequence[str]

    def __str__(self) -> str:
        affirmed = ", ".join(f"{who} ({source.value})" for who, source in self.affirmed_by)
        return (
            f"{self.claim.value}: affirmed by {affirmed}; refuted by {', '.join(self.refuted_by)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "claim": self.claim.value,
            "affirmedBy": [{"by": who, "source": source.value} for who, source in self.affirmed_by],
            "refutedBy": list(self.refuted_by),
        }


def find_conflicts(evidence: Sequence[NamedEvidence]) -> list[Conflict]:
    """Return every conflict, in the order of the claims."""
    refuting = {claim: refuted for claim in Claim if (refuted := _refuted_by(claim, evidence))}
    return [
        Conflict(claim, affirmed, refuted)
        for claim, refuted in refuting.items()
        if (affirmed := _affirmed_by(claim, evidence))
    ]


def _refuted_by(claim: Claim, evidence: Sequence[NamedEvidence]) -> list[str]:
    parties: list[str] = []
    for each in evidence:
        if Source.REFUTED in each.appraisal.claims.get(claim, ()):
            nodes = each.appraisal.facts.refuting.get(claim, frozenset())
            parties += [f"{each.kind}/{node}" for node in sorted(nodes)] or [each.kind]
    return parties


def _affirmed_by(claim: Claim, evidence: Sequence[NamedEvidence]) -> list[tuple[str, Source]]:
    parties: list[tuple[str, Source]] = []
    for each in evidence:
        own = each.appraisal.claims.get(claim, frozenset())
        parties += [(each.kind, source) for source in Source if source in own - _NO_SUPPORT]
        if Source.REFUTED in own:
            # Nodes differ among themselves: those that affirmed it are a side too.
            parties += [
                (f"{each.kind}/{node}", source)
                for (of, source), nodes in sorted(each.appraisal.facts.affirming.items())
                if of is claim
                for node in sorted(nodes)
            ]
    return parties
