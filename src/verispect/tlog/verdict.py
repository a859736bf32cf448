"""Verdicts: what a verification node found about one receipt, signed by the node.

A verdict is a COSE_Sign1 of content type `application/verispect-verdict+cbor`. Its signature says
who found it; whether that node is believed, and how many of them must agree, is a policy's
business. A verdict is never changed: a node that learns better publishes another one, and both
stay in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, encode
from verispect.core.envelope import SignedEnvelope, sign_envelope
from verispect.core.keys import Signer
from verispect.tlog import fields

VERDICT_TYPE: Final = "application/verispect-verdict+cbor"
VERDICT_VERSION: Final = 1
MAX_VERDICT_BYTES: Final = 8 * 1024
MAX_FINDINGS: Final = 32
MAX_VERDICT_EVIDENCE: Final = 32


class Outcome(IntEnum):
    """What a node found about one claim."""

    AFFIRMED = 1
    """The claim holds, by the source that is given."""
    REFUTED = 2
    """The claim is false; this outweighs every other verdict that affirms it."""
    UNKNOWN = 3
    """The node looked and could not tell."""

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim: what was found, by which source and how."""

    claim: Claim
    outcome: Outcome
    source: Source
    method: str
    """How, in a short word such as `exact-replay`, `teacher-forced` or `offline-verification`."""
    reason: str | None = None
    """A reason code, where the outcome is not `AFFIRMED`."""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What one node found about one receipt. Untrusted until its envelope is verified."""

    receipt: Digest
    """The receipt's id."""
    verified_at: int
    """Milliseconds since the epoch, by the node's clock."""
    software: Digest
    """Digest of the software that the node ran."""
    findings: Sequence[Finding]
    evidence: Sequence[Digest] = ()
    """Digests of the evidence that was checked."""
    report: Digest | None = None
    """Digest of a detached report: the samples and error rates of a statistical test, say."""

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        result: dict[int, Any] = {
            1: VERDICT_VERSION,
            2: self.receipt,
            3: self.verified_at,
            4: self.software,
            5: [
                [str(each.claim), int(each.outcome), str(each.source), each.method, each.reason]
                for each in self.findings
            ],
            6: list(self.evidence),
        }
        if self.report is not None:
            result[7] = self.report
        return encode(result)

    @classmethod
    def decode(cls, payload: bytes) -> NodeVerdict:
        """Read a payload.

        Raises:
            MalformedError: `malformed-leaf`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        read = fields.read_map(
            payload,
            version=VERDICT_VERSION,
            required={1, 2, 3, 4, 5, 6},
            optional={7},
            limit=MAX_VERDICT_BYTES,
        )
        findings = [_finding(each) for each in fields.rows(read[5], MAX_FINDINGS, "findings")]
        if not findings:
            raise fields.malformed("a verdict finds nothing")
        if len({(each.claim, each.source, each.method) for each in findings}) != len(findings):
            raise fields.malformed("a verdict says one thing twice")
        return cls(
            receipt=fields.digest(read[2], "receipt"),
            verified_at=fields.integer(read[3], "verified_at"),
            software=fields.digest(read[4], "software"),
            findings=tuple(findings),
            evidence=tuple(
                fields.digest(each, "evidence")
                for each in fields.rows(read[6], MAX_VERDICT_EVIDENCE, "evidence")
            ),
            report=fields.optional_digest(read.get(7), "report"),
        )


def _finding(value: Any) -> Finding:
    claim, outcome, source, method, reason = fields.row(value, 5, "a finding")
    finding = Finding(
        claim=fields.word(Claim, claim, "claim"),
        outcome=fields.number(Outcome, outcome, "outcome"),
        source=fields.word(Source, source, "source"),
        method=fields.text(method, "method"),
        reason=None if reason is None else fields.text(reason, "reason"),
    )
    if finding.outcome is Outcome.AFFIRMED and finding.reason is not None:
        raise fields.malformed("what is affirmed has no reason against it")
    if finding.source is Source.REFUTED:
        raise fields.malformed("refuted is an outcome, not a source, of a finding")
    return finding


def sign_verdict(verdict: NodeVerdict, *, issuer: str, signer: Signer) -> SignedEnvelope:
    """Sign a verdict as the node `issuer`; its subject is the receipt's id in hexadecimal."""
    return sign_envelope(
        verdict.encode(),
        content_type=VERDICT_TYPE,
        issuer=issuer,
        subject=verdict.receipt.hex(),
        signer=signer,
    )
