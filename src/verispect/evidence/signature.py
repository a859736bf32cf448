"""The `signature` kind: the operator's Ed25519 signature on the statement itself.

It shows who says so and that nothing was changed since; it refuses to show more. Every claim it
makes is *asserted*.
"""

from __future__ import annotations

from typing import Final

from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, ClaimSources, Source
from verispect.core.errors import Error, Reason
from verispect.evidence.interface import (
    Check,
    CheckStatus,
    EvidenceAppraisal,
    EvidenceContext,
    EvidenceFacts,
    IssuerKey,
)
from verispect.evidence.log_inclusion import witnessed_at

_ASSERTED: Final = frozenset({Source.ASSERTED})

CLAIMS: Final[ClaimSources] = dict.fromkeys(CLAIMS_OF_A_SIGNATURE, _ASSERTED)

OPERATOR_READS: Final = "confidentiality: the operator reads input and output"
"""Holds unless other evidence shows the contrary."""

NOT_COVERED: Final = (
    "an operator that lies: the signature shows who said it, not that it is true",
    OPERATOR_READS,
    "omission: a receipt that was never shown to you",
)


class SignatureEvidence:
    """Verifies the envelope: key known, name matching, valid when it signed, signature good."""

    name = "signature"
    binds_itself = False

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Verify the envelope's signature (spec/verification.md, steps 1 and 2)."""
        envelope = context.receipt.envelope
        trusted = context.anchors.issuer_key(envelope.key_id)
        if trusted is None:
            return _refused(
                "issuer-key", "the trusted root does not list the signing key", Reason.KEY_UNKNOWN
            )
        # 1. The signature comes first: no other field is worth a word before it is good.
        try:
            envelope.verify(trusted.key)
        except Error as error:
            return _refused("signature", error.message, error.reason)
        checks = [Check("signature", CheckStatus.PASSED, "Ed25519 signature matches")]
        # 2. The key was this issuer's, and valid, at the time the statement gives.
        key_check = _check_key(trusted, envelope.issuer, context)
        checks.append(key_check)
        passed = key_check.status is CheckStatus.PASSED
        facts = EvidenceFacts(roots=frozenset({envelope.issuer}))
        return EvidenceAppraisal(checks, CLAIMS if passed else {}, NOT_COVERED, facts=facts)


def _refused(name: str, detail: str, reason: Reason) -> EvidenceAppraisal:
    check = Check(name, CheckStatus.FAILED, detail, reason)
    return EvidenceAppraisal([check], {}, NOT_COVERED)


def _check_compromised(trusted: IssuerKey, compromised_at: int, context: EvidenceContext) -> Check:
    """A compromised key counts for what witnesses saw before, whatever the statement says."""
    seen_at = witnessed_at(context)
    if seen_at is None or seen_at >= compromised_at:
        detail = "the key is compromised, and no witnessed log shows an earlier time"
        return Check("issuer-key", CheckStatus.FAILED, detail, Reason.KEY_COMPROMISED)
    detail = f"key of {trusted.issuer}, in a witnessed log before it was compromised"
    return Check("issuer-key", CheckStatus.PASSED, detail)


def _check_key(trusted: IssuerKey, issuer: str, context: EvidenceContext) -> Check:
    signed_at = context.receipt.unverified_statement.signed_at
    if trusted.issuer != issuer:
        reason, detail = Reason.ISSUER_MISMATCH, "the key belongs to another issuer"
    elif signed_at < trusted.not_before:
        reason, detail = Reason.KEY_NOT_YET_VALID, "signed before the key was valid"
    elif trusted.not_after is not None and signed_at >= trusted.not_after:
        reason, detail = Reason.KEY_EXPIRED, "signed after the key had expired"
    elif trusted.compromised_at is not None:
        return _check_compromised(trusted, trusted.compromised_at, context)
    elif trusted.revoked_at is not None:
        # The time of signing is only asserted: whoever holds a revoked key can date back, so a
        # revocation counts for every statement until a log proves an earlier time.
        reason, detail = Reason.KEY_REVOKED, "the key is revoked"
    else:
        kind = "development key" if trusted.development else "key"
        return Check("issuer-key", CheckStatus.PASSED, f"{kind} of {issuer}, valid when it signed")
    return Check("issuer-key", CheckStatus.FAILED, detail, reason)
