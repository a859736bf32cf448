"""The `log` kind: the statement's leaf is in a public log that witnesses saw.

The body is the deterministic CBOR of `[1, leaf, proof]`: the leaf's bytes, because an operator may
disclose more or less in it, and a C2SP proof file with the checkpoint and its cosignatures. The
verifier computes from the statement what the leaf must say, so evidence of this kind binds itself
to one statement. It shows that the statement was public by a time that enough witnesses vouch for,
and nothing of whether the computation was right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from verispect.core.claims import Claim, Source
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.evidence.interface import (
    Check,
    CheckStatus,
    EvidenceAppraisal,
    EvidenceContext,
    EvidenceFacts,
    TrustAnchors,
)
from verispect.tlog.cosignature import MAX_CLOCK_SKEW_SECONDS
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.tlog_proof import MAX_TLOG_PROOF_BYTES, TlogProof

KIND: Final = "log"
PROFILE: Final = "verispect-log-inclusion-v1"
MAX_LOG_EVIDENCE_BYTES: Final = MAX_TLOG_PROOF_BYTES + 128 * 1024
MAX_TIME_GAP_MILLISECONDS: Final = 600_000
"""How much later than it says may witnesses have seen a statement whose time is believed."""

NOT_COVERED: Final = (
    "whether the computation was right: the log shows what was stated and since when",
    "verdicts of nodes on this receipt: look its status up in the log",
)
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LogInclusion:
    """What verified."""

    leaf: ReceiptLeaf
    origin: str
    witnesses: int
    witness_names: frozenset[str]
    seen_at: int | None
    """Milliseconds: the statement was public by then, unless k witnesses lie; `None` without any
    witness."""


def make_log_evidence(leaf: bytes, proof: TlogProof, *, collected_at: int) -> EvidenceEntry:
    """Return the evidence that a receipt's leaf is in a log.

    Args:
        leaf: the leaf's bytes.
        proof: with the cosignatures that the reader is to see.
        collected_at: milliseconds since the epoch.
    """
    body = encode([_VERSION, leaf, proof.encode()])
    return EvidenceEntry(KIND, PROFILE, collected_at, body, b"")


def verify_log_evidence(
    receipt: InferenceReceipt, entry: EvidenceEntry, anchors: TrustAnchors, *, now: int
) -> LogInclusion:
    """Check that the receipt is in a trusted log, as enough witnesses saw it.

    1. The body is of its form, and the leaf that of this very receipt.
    2. The log is trusted and signed the checkpoint; enough witnesses co-signed it.
    3. The leaf is in the tree.
    4. The statement is not from after the witnesses saw it.

    Args:
        receipt: the receipt, whose signature is checked elsewhere.
        entry: evidence of this kind.
        anchors: what the verifier trusts.
        now: milliseconds since the epoch.

    Raises:
        MalformedError: `malformed-evidence`, and as `decode_leaf` and `TlogProof.parse`.
        UnsupportedError: as `decode_leaf`.
        VerificationError: `content-mismatch`, `log-unknown`, `key-unknown`, `signature-invalid`,
            `witnesses-missing`, `inclusion-invalid`, `times-inconsistent`.
    """
    # 1. The leaf is this receipt's.
    leaf_bytes, proof_bytes = _read(entry)
    leaf = decode_leaf(leaf_bytes)
    if not isinstance(leaf, ReceiptLeaf):
        raise VerificationError("the leaf is no receipt's", reason=Reason.CONTENT_MISMATCH)
    leaf.check(receipt)
    # 2. and 3. The log, its witnesses, the tree.
    proof = TlogProof.parse(proof_bytes)
    origin = proof.checkpoint.unverified.origin
    log = anchors.log_trust.log(origin)
    if log is None:
        raise VerificationError("the log is not trusted", reason=Reason.LOG_UNKNOWN)
    policy = anchors.log_trust.witnesses
    included = proof.verify(leaf_bytes, log=log, witnesses=policy, now_seconds=now // 1000)
    # 4. Unless k witnesses lie, one of the k earliest is honest, and saw the tree by the last.
    times = sorted(each.cosigned_at_seconds for each in included.cosignatures)[: policy.threshold]
    seen_at = times[-1] * 1000 if times else None
    skew = MAX_CLOCK_SKEW_SECONDS * 1000
    if seen_at is not None and receipt.unverified_statement.signed_at > seen_at + skew:
        raise VerificationError(
            "witnesses saw the statement before it was signed", reason=Reason.TIMES_INCONSISTENT
        )
    names = frozenset(each.witness.name for each in included.cosignatures)
    return LogInclusion(leaf, origin, len(included.cosignatures), names, seen_at)


def witnessed_at(context: EvidenceContext) -> int | None:
    """Return by when the statement was public, as the receipt's own evidence proves it.

    `None` where nothing proves it: no evidence of this kind, none that verifies, no witness.
    """
    times = []
    for entry in context.receipt.evidence:
        if entry.kind != KIND:
            continue
        try:
            found = verify_log_evidence(context.receipt, entry, context.anchors, now=context.now)
        except Error:
            continue
        if found.seen_at is not None:
            times.append(found.seen_at)
    return min(times, default=None)


class LogInclusionEvidence:
    """Judges evidence that a receipt is in a public log."""

    name = KIND
    binds_itself = True

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Verify the proof against the receipt; claims `logged`, and `time` where it is near."""
        assert context.entry is not None  # The verifier asks a kind about its own entry only.
        try:
            found = verify_log_evidence(
                context.receipt, context.entry, context.anchors, now=context.now
            )
        except Error as error:
            check = Check("log:inclusion", CheckStatus.FAILED, error.message, error.reason)
            return EvidenceAppraisal([check], {}, NOT_COVERED)
        detail = f"in the log {found.origin}, {found.witnesses} witnesses"
        checks = [Check("log:inclusion", CheckStatus.PASSED, detail)]
        claims: dict[Claim, frozenset[Source]] = {Claim.LOGGED: _LOGGED}
        not_covered = list(NOT_COVERED)
        gap = None
        if found.seen_at is not None:
            gap = found.seen_at - context.receipt.unverified_statement.signed_at
        if gap is None:
            not_covered.append("time: no witness is required, and the log's own word is not enough")
        elif gap > MAX_TIME_GAP_MILLISECONDS:
            not_covered.append(f"time: witnesses saw the statement {gap // 1000} s after its time")
        else:
            claims[Claim.TIME] = _LOGGED
        facts = EvidenceFacts(
            established_at=found.seen_at,
            witnesses=found.witness_names,
            roots=frozenset({found.origin}),
        )
        return EvidenceAppraisal(checks, claims, not_covered, facts=facts)


_LOGGED: Final = frozenset({Source.LOGGED})


def _read(entry: EvidenceEntry) -> tuple[bytes, bytes]:
    if entry.profile != PROFILE:
        raise _malformed("evidence of a log of another profile")
    read: Any = decode(entry.body, limit=MAX_LOG_EVIDENCE_BYTES)
    if (
        type(read) is not list
        or len(read) != 3
        or type(read[0]) is not int
        or read[0] != _VERSION
        or type(read[1]) is not bytes
        or type(read[2]) is not bytes
    ):
        raise _malformed("not evidence of a log")
    return read[1], read[2]


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
