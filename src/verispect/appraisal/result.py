"""What an appraisal gives: an explanation for everyone, and a verified receipt for those who act.

`AttestationResult` explains and cannot be used as a boolean. `VerifiedReceipt` exists only where a
`Verifier` made it: it has no public constructor, is never read from bytes and never pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn

from verispect.appraisal.assurance_policy import AssurancePolicy
from verispect.appraisal.conflicts import Conflict, NamedEvidence, find_conflicts
from verispect.appraisal.requirement_form import claim_value
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Part
from verispect.core.encoding import Digest
from verispect.core.errors import Reason
from verispect.core.statement import InferenceStatement, PromisedEvidence
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.interface import Check, CheckStatus


class Verdict(StrEnum):
    """The three answers: yes, no, and could not tell."""

    VERIFIED = "verified"
    REFUSED = "refused"
    UNDETERMINED = "undetermined"


class Outcome(StrEnum):
    """Whether the required assurance was delivered: what enforcement acts on."""

    MET = "met"
    PENDING = "pending"
    """Promised evidence that would meet it is not due yet; ask again."""
    FAILED = "failed"
    """Everything else: refused, overdue, or nobody could tell."""


_DECISIVE: Final = {
    Verdict.REFUSED: CheckStatus.FAILED,
    Verdict.UNDETERMINED: CheckStatus.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Every check with its answer, and the table claims x sources (RFC 9334 section 8.4)."""

    verdict: Verdict
    checks: Sequence[Check]
    claims: Mapping[Claim, frozenset[Source]]
    """Every claim, with the sources that stand behind it in the end."""
    evidence_classes: Sequence[EvidenceClass]
    """What stands behind the source *hardware*: hardware, software or development."""
    not_covered: Sequence[str]
    """What the evidence at hand does not show, in words."""
    policy: AssurancePolicy
    """What was required here."""
    receipt_id: Digest
    asked: Digest
    """Digest of the policy that was required when asking, as the statement says."""
    promised: Sequence[PromisedEvidence]
    """What the statement promises."""
    delivered: Sequence[NamedEvidence]
    """Every piece of evidence that was judged, and what it shows by itself."""
    pending_until: int | None
    """Milliseconds: the last deadline of promised evidence that may still come."""

    @property
    def policy_name(self) -> str:
        """The name of the policy that was applied."""
        return self.policy.name

    @property
    def policy_digest(self) -> Digest:
        """The digest of the policy that was applied."""
        return self.policy.digest()

    @property
    def conflicts(self) -> Sequence[Conflict]:
        """Every claim that one piece of evidence affirms and another refutes; refuted wins."""
        return find_conflicts(self.delivered)

    def __bool__(self) -> NoReturn:
        raise TypeError("an AttestationResult is not a boolean: look at its verdict")

    @property
    def reason(self) -> Reason | None:
        """The reason of the check that decided; `None` where the verdict is verified."""
        return None if self.verdict is Verdict.VERIFIED else self.decisive_check().reason

    @property
    def outcome(self) -> Outcome:
        """Met, pending until the deadline of what was promised, or failed."""
        if self.verdict is Verdict.VERIFIED:
            return Outcome.MET
        unknown = {each.reason for each in self.checks if each.status is CheckStatus.UNKNOWN}
        if self.verdict is Verdict.UNDETERMINED and unknown == {Reason.EVIDENCE_PENDING}:
            return Outcome.PENDING
        return Outcome.FAILED

    def decisive_check(self) -> Check:
        """Return the first check that failed, or, where none could tell, the first of those.

        Raises:
            LookupError: the verdict is verified, so no check decided against it.
        """
        wanted = _DECISIVE.get(self.verdict)
        for check in self.checks:
            if check.status is wanted:
                return check
        raise LookupError("no check decided against this receipt")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view, the same for the command line, the explorer and vectors."""
        return {
            "verdict": self.verdict.value,
            "outcome": self.outcome.value,
            "reason": self.reason.value if self.reason else None,
            "receiptId": self.receipt_id.hex(),
            "policy": {"name": self.policy_name, "digest": self.policy_digest.hex()},
            "required": {
                "asked": self.asked.hex(),
                "claims": {
                    claim.value: claim_value(each) for claim, each in self.policy.claims.items()
                },
            },
            "promised": [
                {
                    "kind": each.kind,
                    "digest": each.digest.hex() if each.digest else None,
                    "dueAt": each.due_at,
                }
                for each in self.promised
            ],
            "delivered": [each.to_json() for each in self.delivered],
            "pendingUntil": self.pending_until,
            "conflicts": [each.to_json() for each in self.conflicts],
            "checks": [
                {
                    "name": check.name,
                    "status": check.status.value,
                    "reason": check.reason.value if check.reason else None,
                    "detail": check.detail,
                }
                for check in self.checks
            ],
            "claims": {
                claim.value: sorted(source.value for source in sources)
                for claim, sources in self.claims.items()
            },
            "evidenceClasses": [each.value for each in self.evidence_classes],
            "notCovered": list(self.not_covered),
        }


_GUARD: Final = object()


class VerifiedReceipt:
    """A receipt that a `Verifier` found good under a policy; only a `Verifier` makes one."""

    __slots__ = ("opened", "result", "statement")

    statement: InferenceStatement
    """What was signed, now believed as far as `result` says."""
    opened: Mapping[Part, Any]
    """The decoded content of every opening that was checked."""
    result: AttestationResult
    """Why, and what is not covered."""

    def __init__(
        self,
        guard: object,
        statement: InferenceStatement,
        opened: Mapping[Part, Any],
        result: AttestationResult,
    ) -> None:
        if guard is not _GUARD:
            raise TypeError("only a Verifier makes a VerifiedReceipt")
        object.__setattr__(self, "statement", statement)
        object.__setattr__(self, "opened", opened)
        object.__setattr__(self, "result", result)

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("a VerifiedReceipt has no subclasses: one could skip the guard")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a VerifiedReceipt does not change")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a VerifiedReceipt does not change")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a VerifiedReceipt is never pickled: verify the receipt again")
