"""Evidence that a statement promises without a digest: it may come later, until its deadline.

Such evidence cannot be named when the statement is signed, so it is admitted only where its kind
binds itself to the very statement (`EvidenceKind.binds_itself`), once per promise. A promise that
is not kept is never silent: before the deadline it is pending, after it the receipt has failed.
This module refuses evidence that nobody promised; it looks at no content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.claims import Claim, ClaimSources, Source
from verispect.core.encoding import Digest
from verispect.core.errors import Reason
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import PromisedEvidence
from verispect.evidence.interface import Check, CheckStatus, EvidenceKind

_SIGNATURE: Final = "signature"
_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What of the promised evidence is here."""

    admitted: frozenset[Digest]
    """Digests of the entries that a promise covers."""
    missing: tuple[PromisedEvidence, ...]
    """Promises with a deadline and no evidence yet."""
    absent: tuple[PromisedEvidence, ...]
    """Evidence that was ready when the statement was signed and is not here."""


def match_promises(
    promises: Sequence[PromisedEvidence],
    entries: Sequence[EvidenceEntry],
    kinds: Mapping[str, EvidenceKind],
) -> Delivery:
    """Assign entries to promises: by digest where the promise has one, otherwise by kind.

    Args:
        promises: those of the statement.
        entries: the evidence at hand.
        kinds: the kinds that are known; one that is not is admitted so that it can be said to be
            unknown.
    """
    identities = {(entry.kind, entry.digest()) for entry in entries}
    open_promises = [each for each in promises if each.digest is None and each.kind != _SIGNATURE]
    named = {(each.kind, each.digest) for each in promises if each.digest is not None}
    admitted = {digest for kind, digest in identities if (kind, digest) in named}
    for entry in entries:
        digest = entry.digest()
        kind = kinds.get(entry.kind)
        if digest in admitted or (kind is not None and not kind.binds_itself):
            continue
        kept = next((each for each in open_promises if each.kind == entry.kind), None)
        if kept is not None:
            open_promises.remove(kept)
            admitted.add(digest)
    return Delivery(
        admitted=frozenset(admitted),
        missing=tuple(each for each in open_promises if each.due_at is not None),
        absent=tuple(
            each
            for each in promises
            if each.kind != _SIGNATURE
            and (each in open_promises and each.due_at is None)
            | (each.digest is not None and (each.kind, each.digest) not in identities)
        ),
    )


def check_missing(missing: Sequence[PromisedEvidence], now: int) -> list[Check]:
    """Judge promises without evidence: after the deadline each has failed.

    A pending promise is no check of its own; whether it matters is for the policy to say
    (`check_pending`).
    """
    return [
        Check(
            f"promise:{each.kind}",
            CheckStatus.FAILED,
            "promised evidence is not here, and its deadline has passed",
            Reason.EVIDENCE_OVERDUE,
        )
        for each in missing
        if each.due_at is not None and now > each.due_at
    ]


def check_late(
    promises: Sequence[PromisedEvidence],
    entry: EvidenceEntry,
    *,
    established_at: int | None,
    named: bool,
) -> list[Check]:
    """Refuse promised evidence that came after its deadline.

    Args:
        promises: those of the statement.
        entry: the evidence; nobody signed the time that it states of itself.
        established_at: the time that the evidence proves, where it proves one.
        named: whether the statement names it by digest; it was then ready when it was signed.
    """
    if named:
        return []
    due = [each.due_at for each in promises if each.kind == entry.kind and each.digest is None]
    deadlines = [each for each in due if each is not None]
    came_at = max(entry.collected_at, established_at or 0)
    if deadlines and came_at > max(deadlines):
        return [
            Check(
                f"promise:{entry.kind}",
                CheckStatus.FAILED,
                "collected after the deadline that was promised",
                Reason.EVIDENCE_LATE,
            )
        ]
    return []


_MAY_SHOW: Final[Mapping[str, ClaimSources]] = {
    "log": dict.fromkeys((Claim.LOGGED, Claim.TIME), frozenset({Source.LOGGED})),
    "verdicts": dict.fromkeys(_COMPUTED, frozenset({Source.REEXECUTED, Source.STATISTICAL})),
    "proof": dict.fromkeys(_COMPUTED, frozenset({Source.PROVEN})),
}
_ANYTHING: Final[ClaimSources] = dict.fromkeys(
    Claim, frozenset(Source) - {Source.UNSTATED, Source.REFUTED}
)


def may_show(missing: Sequence[PromisedEvidence]) -> ClaimSources:
    """Return the sources that evidence which is not here yet may add; an unknown kind, any."""
    result: dict[Claim, frozenset[Source]] = {}
    for promise in missing:
        for claim, sources in _MAY_SHOW.get(promise.kind, _ANYTHING).items():
            result[claim] = result.get(claim, frozenset()) | sources
    return result


def check_pending(unmet: Sequence[Claim], missing: Sequence[PromisedEvidence]) -> Check | None:
    """Return a check that could not tell, where evidence that may still come is what is missing."""
    if not unmet or not missing:
        return None
    kinds = ", ".join(sorted({each.kind for each in missing}))
    claims = ", ".join(claim.value for claim in unmet)
    return Check(
        "promises",
        CheckStatus.UNKNOWN,
        f"not met yet for {claims}; promised and not due yet: {kinds}",
        Reason.EVIDENCE_PENDING,
    )


def pending_until(missing: Sequence[PromisedEvidence], now: int) -> int | None:
    """Return the last deadline of evidence that may still come; `None` where none may."""
    due = [each.due_at for each in missing if each.due_at is not None and each.due_at >= now]
    return max(due, default=None)


def describe_pending(missing: Sequence[PromisedEvidence]) -> list[str]:
    """Say which promises are open."""
    return [
        f"promised evidence that is not here yet: {each.kind}, due at {each.due_at} ms"
        for each in missing
    ]
