"""What an evidence kind is: it parses its own bytes, verifies them, and maps them to claims.

A kind receives one receipt, the entry that is its own (none for the envelope's signature), the
trust anchors of the verifier and the time; it returns checks and claims. It never decides: only
`verispect.appraisal` makes a verdict. A kind refuses to reach a network, a clock or a file.

Kinds are found by entry point, group `verispect.evidence`; the built-in ones are registered the
same way. A kind that is not built in is never loaded unless its name is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from verispect.core.claims import ClaimSources
from verispect.core.commitments import OpenedParts
from verispect.core.keys import KeyId, PublicKey
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.evidence.attestation import (
    DEFAULT_ATTESTATION_POLICY,
    Anchor,
    AttestationPolicy,
    EvidenceClass,
)
from verispect.evidence.checks import Check as Check  # Kinds import it from here.
from verispect.evidence.checks import CheckStatus as CheckStatus
from verispect.evidence.facts import NO_FACTS as NO_FACTS
from verispect.evidence.facts import EvidenceFacts as EvidenceFacts
from verispect.evidence.log_trust import LogTrust


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One key of one issuer, as a trusted root lists it. Times are milliseconds, end excluded."""

    issuer: str
    key: PublicKey
    development: bool
    """A development key signs real formats and is refused unless a policy accepts it."""
    not_before: int
    not_after: int | None = None
    revoked_at: int | None = None
    compromised_at: int | None = None
    """Somebody else may sign with the key since then: what a witnessed log shows to be older stays
    good, and nothing else does."""


class TrustAnchors(Protocol):
    """The part of a trusted root that evidence kinds may ask for."""

    def issuer_key(self, key_id: KeyId) -> IssuerKey | None:
        """Return the issuer key with this identifier, if it is trusted."""
        ...

    @property
    def log_trust(self) -> LogTrust:
        """The logs, witnesses and nodes that are trusted; none unless the user named them."""
        ...

    def attestation_anchors(self, technology: str) -> Sequence[Anchor]:
        """Return the roots that are trusted for a technology; none unless the user named it."""
        ...

    def reference_values(self, technology: str) -> Mapping[str, frozenset[str]]:
        """Return the accepted measurements of a technology by register."""
        ...


@dataclass(frozen=True, slots=True)
class EvidenceContext:
    """Everything a kind may look at."""

    receipt: InferenceReceipt
    entry: EvidenceEntry | None
    anchors: TrustAnchors
    now: int
    """Milliseconds since the epoch: the time at which to judge."""
    policy: AttestationPolicy = DEFAULT_ATTESTATION_POLICY
    """What is acceptable of attestation evidence."""
    opened: OpenedParts = field(default_factory=dict)
    """The openings at hand; the verifier checks each against its commitment."""


@dataclass(frozen=True, slots=True)
class EvidenceAppraisal:
    """What a kind found."""

    checks: Sequence[Check]
    claims: ClaimSources
    not_covered: Sequence[str]
    """What this kind of evidence never shows, in words; always shown."""
    evidence_class: EvidenceClass | None = None
    """Of attestation evidence, what stands behind the anchor that verified."""
    facts: EvidenceFacts = NO_FACTS
    """What a policy may ask about it; a fact that is not here satisfies nothing."""


class EvidenceKind(Protocol):
    """One kind of evidence."""

    @property
    def name(self) -> str:
        """The kind's name on the wire."""
        ...

    @property
    def binds_itself(self) -> bool:
        """Whether evidence of this kind names the statement, so that it may come after it."""
        ...

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Verify the entry against the receipt.

        Claims are returned only where every check passed. Never raises for bad evidence.
        """
        ...
