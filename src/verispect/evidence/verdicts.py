"""The `verdicts` kind: what k of n listed verification nodes found about a receipt, signed by each.

The body is the deterministic CBOR of `[1, [+ envelope]]`, each envelope a signed verdict as it
stands in the log (spec/log.md section 8.3). A verdict names the receipt, so evidence of this kind
binds itself. A claim is `reexecuted`, or `statistical`, where k distinct listed nodes affirmed it
by that source; one refuting verdict of one listed node refutes the claim, whatever others say.

Verdicts that are not shown here cannot be seen here: whoever must know of every refutation looks
the receipt's status up in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from verispect.core.claims import Claim, Source
from verispect.core.encoding import decode, encode
from verispect.core.envelope import SignedEnvelope, open_envelope
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.core.receipt import EvidenceEntry
from verispect.evidence.interface import (
    Check,
    CheckStatus,
    EvidenceAppraisal,
    EvidenceContext,
    EvidenceFacts,
)
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.status import REEXECUTION_SOURCES
from verispect.tlog.status_table import MAX_NODES, NodePolicy
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict, Outcome

KIND: Final = "verdicts"
PROFILE: Final = "verispect-verdicts-v1"
MAX_VERDICTS_BYTES: Final = 1024 * 1024

CLAIMS: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
"""What re-execution can show."""

NOT_COVERED: Final = (
    "collusion of the nodes that signed",
    "verdicts that are not among these: look the receipt's status up in the log",
)
_VERSION: Final = 1


def make_verdict_evidence(
    envelopes: Sequence[SignedEnvelope], *, collected_at: int
) -> EvidenceEntry:
    """Return signed verdicts on one receipt as its evidence.

    Args:
        envelopes: the verdicts, one of each node.
        collected_at: milliseconds since the epoch.
    """
    body = encode([_VERSION, [each.encode() for each in envelopes]])
    return EvidenceEntry(KIND, PROFILE, collected_at, body, b"")


class VerdictsEvidence:
    """Judges what verification nodes found."""

    name = KIND
    binds_itself = True

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Count the verdicts of listed nodes; see the module."""
        assert context.entry is not None  # The verifier asks a kind about its own entry only.
        nodes = context.anchors.log_trust.nodes
        try:
            by_node = _verify(context, nodes)
        except Error as error:
            check = Check("verdicts:nodes", CheckStatus.FAILED, error.message, error.reason)
            return EvidenceAppraisal([check], {}, NOT_COVERED)
        verdicts = list(by_node.values())
        claims = {claim: _sources(claim, verdicts, nodes.threshold) for claim in Claim}
        shown = {claim: sources for claim, sources in claims.items() if sources}
        refuted = [claim.value for claim, sources in shown.items() if Source.REFUTED in sources]
        if not shown:
            check = Check(
                "verdicts:nodes",
                CheckStatus.FAILED,
                f"expected {nodes.threshold} affirming nodes, got {len(verdicts)} verdicts",
                Reason.VERDICTS_MISSING,
            )
            return EvidenceAppraisal([check], {}, NOT_COVERED)
        detail = f"{len(verdicts)} listed nodes, {nodes.threshold} required"
        if refuted:
            detail += f"; refuted: {', '.join(refuted)}"
        facts = EvidenceFacts(
            established_at=max(each.verified_at for each in verdicts),
            affirming={
                (claim, source): names
                for claim in shown
                for source in REEXECUTION_SOURCES
                if (names := _affirming(claim, source, by_node))
            },
            refuting={claim: names for claim in shown if (names := _refuting(claim, by_node))},
        )
        check = Check("verdicts:nodes", CheckStatus.PASSED, detail)
        return EvidenceAppraisal([check], shown, NOT_COVERED, facts=facts)


def _verify(context: EvidenceContext, nodes: NodePolicy) -> dict[str, NodeVerdict]:
    """Return the verdicts of distinct listed nodes on this receipt, by the node's name.

    1. The body is of its form; each verdict is on this receipt.
    2. Each that counts is signed by a listed node; others are ignored.
    3. A node's refuting verdict stands before its affirming one: it is never outnumbered.
    """
    assert context.entry is not None
    by_node: dict[str, list[NodeVerdict]] = {}
    for envelope in _read(context.entry):
        verdict = SignedLeaf.of(envelope).payload
        assert isinstance(verdict, NodeVerdict)  # By the content type.
        if verdict.receipt != context.receipt.receipt_id:
            raise VerificationError(
                "a verdict is on another receipt", reason=Reason.CONTENT_MISMATCH
            )
        node = nodes.author(envelope)
        if node is not None:
            by_node.setdefault(node.name, []).append(verdict)
    if not by_node:
        raise VerificationError("no listed node signed", reason=Reason.VERDICTS_MISSING)
    return {name: _weightiest(each) for name, each in by_node.items()}


def _weightiest(verdicts: Sequence[NodeVerdict]) -> NodeVerdict:
    return max(
        verdicts,
        key=lambda each: any(found.outcome is Outcome.REFUTED for found in each.findings),
    )


def _affirming(claim: Claim, source: Source, by_node: Mapping[str, NodeVerdict]) -> frozenset[str]:
    wanted = (claim, Outcome.AFFIRMED, source)
    return frozenset(
        name
        for name, verdict in by_node.items()
        if any((found.claim, found.outcome, found.source) == wanted for found in verdict.findings)
    )


def _refuting(claim: Claim, by_node: Mapping[str, NodeVerdict]) -> frozenset[str]:
    return frozenset(
        name
        for name, verdict in by_node.items()
        if any((each.claim, each.outcome) == (claim, Outcome.REFUTED) for each in verdict.findings)
    )


def _sources(claim: Claim, verdicts: Sequence[NodeVerdict], threshold: int) -> frozenset[Source]:
    findings = [found for each in verdicts for found in each.findings if found.claim is claim]
    if any(found.outcome is Outcome.REFUTED for found in findings):
        return frozenset({Source.REFUTED})
    if claim not in CLAIMS or threshold < 1:
        return frozenset()
    sources = set()
    for source in REEXECUTION_SOURCES:
        affirming = [
            each
            for each in verdicts
            if any(
                (found.claim, found.outcome, found.source) == (claim, Outcome.AFFIRMED, source)
                for found in each.findings
            )
        ]
        if len(affirming) >= threshold:
            sources.add(source)
    return frozenset(sources)


def _read(entry: EvidenceEntry) -> list[SignedEnvelope]:
    if entry.profile != PROFILE:
        raise _malformed("verdicts of another profile")
    read: Any = decode(entry.body, limit=MAX_VERDICTS_BYTES)
    if type(read) is not list or len(read) != 2 or type(read[0]) is not int or read[0] != _VERSION:
        raise _malformed("not verdicts of version 1")
    if type(read[1]) is not list or not 1 <= len(read[1]) <= MAX_NODES:
        raise _malformed(f"expected 1 to {MAX_NODES} verdicts")
    if any(type(each) is not bytes for each in read[1]):
        raise _malformed("a verdict is not a byte string")
    return [open_envelope(each, content_type=VERDICT_TYPE) for each in read[1]]


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
