"""The figures of coverage: what they are, what a receipt achieved by its leaf, what is published.

What counts as achieved is what the log shows: evidence that a receipt lists, by its kind, where its
status is met. Attestation counts as `hardware` only under a policy that demands the class hardware.
Nothing here looks at evidence itself: nodes do, and a refuting verdict fails the receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from verispect.appraisal.policy import PRESETS
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source
from verispect.core.encoding import Digest, encode_content, sha256
from verispect.ledger.coverage_leaves import Kind
from verispect.tlog.publications import Coverage, CoverageRow

REPORT_VERSION: Final = 1

_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_ATTESTED: Final = (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_KINDS: Final = frozenset({"signature", "log", "verdicts", "proof"})
_NAME_OF_PRESET: Final = {policy.digest(): name for name, policy in PRESETS.items()}
_HARDWARE: Final = frozenset(
    digest for digest, name in _NAME_OF_PRESET.items() if "attested" in name.split("+")
)
"""Presets that demand hardware: those of the other two classes have names of their own."""


@dataclass(slots=True)
class Amounts:
    """How many inferences, their tokens and what was charged, by asset."""

    inferences: int = 0
    tokens: int = 0
    charges: Counter[str] = field(default_factory=Counter)

    def add(self, inferences: int, tokens: int, asset: str | None, charge: int) -> None:
        """Count inferences, and what they show together."""
        self.inferences += inferences
        self.tokens += tokens
        if asset is not None:
            self.charges[asset] += charge

    def to_content(self) -> dict[str, Any]:
        """Return the form in a report."""
        charges = dict(sorted(self.charges.items()))
        return {"inferences": self.inferences, "tokens": self.tokens, "charges": charges}


@dataclass(slots=True)
class Unmet:
    """Why what a policy required was not delivered, and how often."""

    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def to_content(self) -> dict[str, Any]:
        """Return the form in a report."""
        return {
            "failures": dict(sorted(self.failures.items())),
            "refusals": dict(sorted(self.refusals.items())),
        }


@dataclass(slots=True)
class Figures:
    """The figures of one epoch; a function of a prefix of the log, the epoch's start and nodes."""

    first_leaf: int
    end_leaf: int
    outcomes: Counter[str] = field(default_factory=Counter)
    claims: dict[tuple[Claim, Source], Amounts] = field(default_factory=dict)
    assurance: dict[Digest, Amounts] = field(default_factory=dict)
    models: dict[Digest | None, Amounts] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    unmet: dict[Digest | None, Unmet] = field(default_factory=dict)
    """By the policy that was required; `None` for refusals that name none."""

    def count(self, kind: Kind, tally: Sequence[int], sources: frozenset[Source]) -> None:
        """Count receipts of a kind under their policy and model, and under what they achieved.

        Args:
            kind: what they have in common; its evidence is what is there.
            tally: how many they are, their tokens, and what was charged.
            sources: by which listed nodes affirmed them.
        """
        assurance, kinds, model_id, asset = kind
        inferences, tokens, charge = tally
        for amounts in (
            self.assurance.setdefault(Digest(assurance), Amounts()),
            self.models.setdefault(Digest(model_id) if model_id else None, Amounts()),
            *(
                self.claims.setdefault(row, Amounts())
                for row in achieved(assurance, kinds, sources)
            ),
        ):
            amounts.add(inferences, tokens, asset, charge)

    def report(self) -> bytes:
        """Return the detached report, with every dimension; deterministic."""
        return encode_content(
            {
                "verispectCoverage": REPORT_VERSION,
                "leaves": [self.first_leaf, self.end_leaf],
                "outcomes": dict(sorted(self.outcomes.items())),
                "claims": [
                    {"claim": str(claim), "source": str(source), **amounts.to_content()}
                    for (claim, source), amounts in sorted(self.claims.items())
                ],
                "assurance": [
                    {
                        "digest": digest.hex(),
                        "preset": _NAME_OF_PRESET.get(digest),
                        **amounts.to_content(),
                    }
                    for digest, amounts in sorted(self.assurance.items())
                ],
                "models": [
                    {"modelId": digest.hex() if digest else None, **amounts.to_content()}
                    for digest, amounts in sorted(
                        self.models.items(), key=lambda item: item[0] or b""
                    )
                ],
                "failures": dict(sorted(self.failures.items())),
                "refusals": dict(sorted(self.refusals.items())),
                "unmet": [
                    {
                        "digest": digest.hex() if digest else None,
                        "preset": _NAME_OF_PRESET.get(digest) if digest else None,
                        **unmet.to_content(),
                    }
                    for digest, unmet in sorted(self.unmet.items(), key=lambda item: item[0] or b"")
                ],
            }
        )

    def publication(self, published_at: int) -> Coverage:
        """Return what is signed into the log."""
        return Coverage(
            first_leaf=self.first_leaf,
            end_leaf=self.end_leaf,
            published_at=published_at,
            met=self.outcomes["met"],
            pending=self.outcomes["pending"],
            failed=self.outcomes["failed"],
            refused=self.outcomes["refused"],
            rows=[
                CoverageRow(claim, source, amounts.inferences, amounts.tokens)
                for (claim, source), amounts in sorted(self.claims.items())
            ],
            report=sha256(self.report()),
        )


def differences(own: Coverage, published: Coverage) -> list[str]:
    """Return in words in what a published coverage differs from one's own count of its leaves."""
    found = [
        f"{name}: {getattr(published, name)} published, {getattr(own, name)} counted"
        for name in ("first_leaf", "end_leaf", "met", "pending", "failed", "refused")
        if getattr(published, name) != getattr(own, name)
    ]
    ours = {(row.claim, row.source): (row.inferences, row.tokens) for row in own.rows}
    theirs = {(row.claim, row.source): (row.inferences, row.tokens) for row in published.rows}
    found += [
        f"{row[0]} by {row[1]}: {theirs.get(row)} published, {ours.get(row)} counted"
        for row in sorted(ours.keys() | theirs.keys())
        if ours.get(row) != theirs.get(row)
    ]
    if not found and own.report != published.report:
        found.append("the detached report is another")
    return found


@lru_cache(maxsize=1 << 12)
def achieved(
    assurance: bytes, kinds: frozenset[str], verdicts: frozenset[Source]
) -> Sequence[tuple[Claim, Source]]:
    """Return what receipts achieved, claim by claim.

    Args:
        assurance: digest of the policy that was required.
        kinds: of the evidence that is there.
        verdicts: by which listed nodes affirmed the execution.
    """
    found: dict[Claim, set[Source]] = {claim: set() for claim in Claim}
    found[Claim.LOGGED].add(Source.LOGGED)
    if "log" in kinds:
        found[Claim.TIME].add(Source.LOGGED)
    for claim in _COMPUTED:
        if "proof" in kinds:
            found[claim].add(Source.PROVEN)
        if "verdicts" in kinds:
            found[claim].update(verdicts)
    if kinds - _KINDS and assurance in _HARDWARE:
        for claim in _ATTESTED:
            found[claim].add(Source.HARDWARE)
    for claim, sources in found.items():
        if not sources:
            signed = claim in CLAIMS_OF_A_SIGNATURE
            sources.add(Source.ASSERTED if signed else Source.UNSTATED)
    return [(claim, source) for claim, sources in found.items() for source in sorted(sources)]
