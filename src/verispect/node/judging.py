"""What a node says about one leaf: fetched, verified from bytes, run again where it was drawn.

Two kinds of failure are kept apart. What the operator gave and what is wrong, refutes: wrong bytes
several times over, a bad signature, an opening that does not open, another output. What it did not
give says only that the node could not tell; k such verdicts of `receipt-withheld` decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, decode, sha256
from verispect.core.errors import Error, NetworkError, Reason, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.evidence.verdicts import CLAIMS
from verispect.ledger.log.evidence_store import MAX_BLOB_BYTES
from verispect.node.operator_client import HttpSource
from verispect.node.reexecution import Replay
from verispect.tlog.leaf import LateEvidenceLeaf
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.verdict import Finding, Outcome

OFFLINE: Final = "offline-verification"

ANY_KEY: Final[AssurancePolicy] = replace(SIGNED, name="node", development_keys=True)
"""A node says whether a receipt is what it claims; whether that suffices is the reader's policy."""

_OUR_OWN_SIDE: Final = frozenset(
    {Reason.KEY_UNKNOWN, Reason.TRUSTED_ROOT_EMPTY, Reason.TRUSTED_ROOT_STALE}
)
_SOURCES: Final = {"proof": Source.PROVEN}


class WithheldError(NetworkError):
    """The operator does not give what its own log names."""


class WrongBytesError(VerificationError):
    """The operator gives other bytes than its own log names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found about a leaf."""

    receipt: Digest
    findings: Sequence[Finding]
    evidence: Sequence[Digest] = ()


def fetch_receipt(source: HttpSource, leaf: ReceiptLeaf) -> InferenceReceipt:
    """Return the receipt of a leaf.

    Raises:
        WithheldError: `receipt-withheld`.
        WrongBytesError: `content-mismatch`.
    """
    try:
        data = source.receipt(leaf.receipt)
    except NetworkError as error:
        raise WithheldError(error.message, reason=Reason.RECEIPT_WITHHELD) from error
    if data is None:
        raise WithheldError("there is no such receipt", reason=Reason.RECEIPT_WITHHELD)
    try:
        receipt = InferenceReceipt.parse(data)
        if receipt.receipt_id != leaf.receipt:
            raise VerificationError("another receipt", reason=Reason.CONTENT_MISMATCH)
        leaf.check(receipt)
    except Error as error:
        raise WrongBytesError(
            "the receipt is not the one in the log", reason=Reason.CONTENT_MISMATCH
        ) from error
    return receipt


def fetch_evidence(source: HttpSource, leaf: LateEvidenceLeaf) -> EvidenceEntry:
    """Return the evidence of a leaf.

    Raises:
        WithheldError: `receipt-withheld`.
        WrongBytesError: `evidence-invalid`.
    """
    try:
        blob = source.evidence(leaf.evidence)
    except NetworkError as error:
        raise WithheldError(error.message, reason=Reason.RECEIPT_WITHHELD) from error
    if blob is None:
        raise WithheldError("there is no such evidence", reason=Reason.RECEIPT_WITHHELD)
    try:
        row: Any = decode(blob, limit=MAX_BLOB_BYTES)
        if sha256(blob) != leaf.evidence or type(row) is not list:
            raise VerificationError("another blob", reason=Reason.EVIDENCE_INVALID)
        entry = EvidenceEntry.from_row([*row, b""])
        if entry.kind != leaf.kind:
            raise VerificationError("another kind", reason=Reason.EVIDENCE_INVALID)
    except Error as error:
        raise WrongBytesError(
            "the evidence is not what the log names", reason=Reason.EVIDENCE_INVALID
        ) from error
    return entry


def judge_receipt(receipt: InferenceReceipt, root: TrustedRoot, *, now: int) -> Finding:
    """Verify a receipt offline and say what was found.

    Args:
        receipt: whose bytes are the log's.
        root: what this node trusts.
        now: milliseconds since the epoch.
    """
    # Evidence that comes later is judged with its own leaf, and is not missing here.
    result = Verifier(root).appraise(
        receipt, opened={}, policy=ANY_KEY, now=receipt.unverified_statement.signed_at
    )
    if result.verdict is Verdict.VERIFIED:
        return Finding(Claim.LOGGED, Outcome.AFFIRMED, Source.LOGGED, OFFLINE)
    reason = result.decisive_check().reason
    if receipt.unverified_statement.signed_at > now + 60_000:
        reason = Reason.SIGNED_IN_FUTURE
    refuted = result.verdict is Verdict.REFUSED and reason not in _OUR_OWN_SIDE
    return Finding(
        Claim.LOGGED,
        Outcome.REFUTED if refuted else Outcome.UNKNOWN,
        Source.LOGGED,
        OFFLINE,
        None if reason is None else reason.value,
    )


def judge_evidence(
    receipt: InferenceReceipt, entry: EvidenceEntry, root: TrustedRoot, *, now: int
) -> Finding:
    """Verify evidence that came later, with its receipt, and say what was found.

    Args:
        receipt: the receipt that promised it.
        entry: the evidence.
        root: what this node trusts.
        now: milliseconds since the epoch.
    """
    whole = InferenceReceipt(replace(receipt.envelope, evidence=(entry.to_row(),)))
    result = Verifier(root).appraise(whole, opened={}, policy=ANY_KEY, now=now)
    source = _SOURCES.get(entry.kind, Source.HARDWARE)
    checks = [
        check
        for check in result.checks
        if check.reason is not None and check.reason is not Reason.EVIDENCE_OVERDUE
    ]
    if not checks:
        return Finding(Claim.EXECUTION, Outcome.AFFIRMED, source, OFFLINE)
    decisive = next((each for each in checks if each.status.value == "failed"), None)
    outcome = Outcome.UNKNOWN if decisive is None else Outcome.REFUTED
    reason = (decisive or checks[0]).reason
    assert reason is not None
    if reason in _OUR_OWN_SIDE:
        outcome = Outcome.UNKNOWN
    return Finding(Claim.EXECUTION, outcome, source, OFFLINE, reason.value)


def findings_of(replay: Replay) -> list[Finding]:
    """Return what re-execution says of each claim that it can show.

    A run that affirms shows all of them: this model, on this input, gives this output. One that
    refutes shows that not all are true, and says so of the execution. A statistical test never
    says which model ran: others may give such answers too.
    """
    reason = None if replay.reason is None else replay.reason.value
    claims: Sequence[Claim] = (Claim.EXECUTION,)
    if replay.outcome is Outcome.AFFIRMED:
        identifies = replay.source is not Source.STATISTICAL
        claims = [each for each in CLAIMS if identifies or each is not Claim.MODEL]
    return [
        Finding(claim, replay.outcome, replay.source, replay.method, reason) for claim in claims
    ]


def withheld(reason: Reason) -> Finding:
    """Return the finding that the operator does not give what its log names."""
    return Finding(Claim.LOGGED, Outcome.UNKNOWN, Source.LOGGED, OFFLINE, reason.value)


def wrong_bytes(reason: Reason) -> Finding:
    """Return the finding that the operator gives other bytes than its log names."""
    return Finding(Claim.LOGGED, Outcome.REFUTED, Source.LOGGED, OFFLINE, reason.value)
