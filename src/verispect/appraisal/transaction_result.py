"""What the appraisal of a transaction gives: every check, a table per part, and one for the whole.

Like `AttestationResult` it explains and cannot be used as a boolean. The table of the whole is the
weakest: a source counts for a claim only where it stands behind it in every part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from verispect.appraisal.result import AttestationResult, Verdict
from verispect.core.claims import Claim, ClaimSources, Source
from verispect.core.encoding import Digest
from verispect.core.errors import Reason
from verispect.core.transaction import TransactionOutcome, TransactionPart
from verispect.evidence.interface import Check, CheckStatus

_UNSTATED: Final = frozenset({Source.UNSTATED})
_REFUTED: Final = frozenset({Source.REFUTED})


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part: its leaf, and what its own receipt shows where it was shown."""

    part: TransactionPart
    result: AttestationResult | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "index": self.part.index,
            "outcome": self.part.outcome.label,
            "reason": self.part.reason,
            "receiptId": self.part.receipt.hex(),
            "dependsOn": sorted({each.source for each in self.part.dependencies}),
            "result": None if self.result is None else self.result.to_json(),
        }


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """Every check with its answer, the parts, and the table claims x sources of the whole."""

    verdict: Verdict
    checks: Sequence[Check]
    outcome: TransactionOutcome
    """What the operator signed; believed only as far as the checks passed."""
    parts: Sequence[PartResult]
    count: int
    """How many parts there are; more than `parts` where some are closed."""
    claims: Mapping[Claim, frozenset[Source]]
    """Every claim, with the sources that stand behind it in every part that was shown."""
    not_covered: Sequence[str]
    transaction_id: bytes
    receipt_id: Digest
    """SHA-256 of the signed statement."""

    def __bool__(self) -> NoReturn:
        raise TypeError("a TransactionResult is not a boolean: look at its verdict")

    @property
    def reason(self) -> Reason | None:
        """The reason of the check that decided; `None` where the verdict is verified."""
        return None if self.verdict is Verdict.VERIFIED else self.decisive_check().reason

    def decisive_check(self) -> Check:
        """Return the first check that failed, or, where none could tell, the first of those.

        Raises:
            LookupError: the verdict is verified, so no check decided against it.
        """
        wanted = {
            Verdict.REFUSED: CheckStatus.FAILED,
            Verdict.UNDETERMINED: CheckStatus.UNKNOWN,
        }.get(self.verdict)
        for check in self.checks:
            if check.status is wanted:
                return check
        raise LookupError("no check decided against this transaction")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view, the same for the command line, the explorer and vectors."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason.value if self.reason else None,
            "transaction": self.transaction_id.hex(),
            "outcome": self.outcome.label,
            "receiptId": self.receipt_id.hex(),
            "count": self.count,
            "checks": [
                {
                    "name": check.name,
                    "status": check.status.value,
                    "reason": check.reason.value if check.reason else None,
                    "detail": check.detail,
                }
                for check in self.checks
            ],
            "parts": [each.to_json() for each in self.parts],
            "claims": {
                claim.value: sorted(source.value for source in sources)
                for claim, sources in self.claims.items()
            },
            "notCovered": list(self.not_covered),
        }


def weakest(tables: Sequence[ClaimSources]) -> dict[Claim, frozenset[Source]]:
    """Return per claim the sources common to all tables; refuted in one is refuted in all."""
    result = {}
    for claim in Claim:
        found = [table.get(claim, _UNSTATED) for table in tables]
        if any(Source.REFUTED in sources for sources in found):
            result[claim] = _REFUTED
        else:
            common = frozenset.intersection(*found) if found else _UNSTATED
            result[claim] = (common - _UNSTATED) or _UNSTATED
    return result


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return the verdict that checks add up to."""
    statuses = {check.status for check in checks}
    if CheckStatus.FAILED in statuses:
        return Verdict.REFUSED
    return Verdict.UNDETERMINED if CheckStatus.UNKNOWN in statuses else Verdict.VERIFIED
