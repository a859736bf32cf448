"""The verifier: decides a receipt from bytes alone, years later, with what the user trusts.

Pure: no network, clock, environment or randomness; trusted root, policy and time are arguments
without defaults. The numbered steps are those of spec/verification.md. Unknown evidence and
unknown answers can only lower the verdict; an empty policy denies; an absent reference value
fails; content that was not opened is not checked and is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from verispect.appraisal.conflicts import NamedEvidence, find_conflicts
from verispect.appraisal.expected import NOTHING_EXPECTED as NOTHING_EXPECTED
from verispect.appraisal.expected import Expected as Expected
from verispect.appraisal.expected import check_expected
from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.promises import (
    Delivery,
    check_late,
    check_missing,
    check_pending,
    describe_pending,
    match_promises,
    may_show,
    pending_until,
)
from verispect.appraisal.result import _GUARD, AttestationResult, Verdict, VerifiedReceipt
from verispect.appraisal.service_history import check_service
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.claims import Claim, ClaimSources, Source, combine
from verispect.core.commitments import OpenedParts
from verispect.core.errors import Error, Reason, TrustError, UnsupportedError, VerificationError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement, ModelIdentity
from verispect.evidence.interface import (
    Check,
    CheckStatus,
    EvidenceContext,
    EvidenceKind,
)
from verispect.evidence.registry import BUILT_IN
from verispect.evidence.signature import OPERATOR_READS

CLOCK_SKEW_MILLISECONDS: Final = 60_000
"""How far ahead of the verifier's time an issuer's clock may be."""


_OUR_OWN_ROOTS: Final = frozenset(
    {Reason.TRUSTED_ROOT_EMPTY, Reason.TRUSTED_ROOT_STALE, Reason.POLICY_ROOT_UNKNOWN}
)


class Verifier:
    """Appraises receipts with one trusted root.

    Args:
        trusted_root: what the user trusts.
        kinds: evidence kinds by name; the built-in ones unless others are given.
    """

    def __init__(
        self, trusted_root: TrustedRoot, *, kinds: Mapping[str, EvidenceKind] = BUILT_IN
    ) -> None:
        self._trusted_root = trusted_root
        self._kinds = kinds

    def verify(
        self,
        receipt: InferenceReceipt,
        *,
        opened: OpenedParts,
        policy: AssurancePolicy,
        now: int,
        expected: Expected = NOTHING_EXPECTED,
    ) -> VerifiedReceipt:
        """Return the verified receipt, or raise.

        Args:
            receipt: what to judge.
            opened: the openings at hand; each must match its commitment.
            policy: what is required; an empty one denies.
            now: the time at which to judge, milliseconds since the epoch.
            expected: what the caller knows of its request and answer.

        Raises:
            VerificationError: the answer is no; `reason` is that of the first failed check.
            TrustError: could not tell, because of the trusted root.
            UnsupportedError: could not tell, because of something this software does not know.
        """
        result = self.appraise(receipt, opened=opened, policy=policy, now=now, expected=expected)
        if result.verdict is Verdict.VERIFIED:
            content = {part: opening.content() for part, opening in opened.items()}
            return VerifiedReceipt(_GUARD, receipt.unverified_statement, content, result)
        decisive = result.decisive_check()
        reason = decisive.reason or Reason.POLICY_UNMET
        if result.verdict is Verdict.REFUSED:
            raise VerificationError(decisive.detail, reason=reason)
        if reason in _OUR_OWN_ROOTS:
            raise TrustError(decisive.detail, reason=reason)
        raise UnsupportedError(decisive.detail, reason=reason)

    def appraise(
        self,
        receipt: InferenceReceipt,
        *,
        opened: OpenedParts,
        policy: AssurancePolicy,
        now: int,
        expected: Expected = NOTHING_EXPECTED,
    ) -> AttestationResult:
        """Explain every check. Never raises for bad evidence.

        Args:
            receipt: what to judge.
            opened: the openings at hand; each must match its commitment.
            policy: what is required; an empty one denies.
            now: the time at which to judge, milliseconds since the epoch.
            expected: what the caller knows of its request and answer.
        """
        statement = receipt.unverified_statement
        checks: list[Check] = []
        not_covered: list[str] = []
        # 1. Our own side first: a root that is empty or stale cannot tell anything.
        checks.append(_check_trusted_root(self._trusted_root, policy, now))
        # 2. The signature, then every other piece of evidence, each bound to this statement.
        context = EvidenceContext(
            receipt, None, self._trusted_root, now, policy.attestation, opened
        )
        delivery = match_promises(statement.evidence, receipt.evidence, self._kinds)
        delivered = self._appraise_evidence(context, delivery, checks, not_covered)
        appraisals = [each.appraisal for each in delivered]
        # 3. Times agree with each other and with the verifier's.
        checks.append(_check_times(statement, policy, now))
        # 4. The nonce is the caller's.
        checks.append(_check_nonce(statement, policy, expected))
        # 5. Every opening matches its commitment, and what the caller holds is what was opened.
        checks += _check_openings(statement, opened)
        checks += check_expected(statement, opened, expected)
        of_service, uncovered = check_service(
            statement, expected.history, required=policy.service_logged
        )
        checks += of_service
        not_covered += uncovered
        # 6. The model is of a kind, and one, that the policy accepts.
        checks.append(_check_model(statement, policy, self._trusted_root))
        # 7. Keys for development pass only where the policy says so.
        checks.append(self._check_development(receipt, policy))
        # 8. Claims count only if nothing above failed; then the policy decides.
        root_usable = checks[0].status is CheckStatus.PASSED
        failed = any(check.status is CheckStatus.FAILED for check in checks)
        believed = appraisals if root_usable and not failed else []
        claims = combine(each.claims for each in believed)
        if Source.HARDWARE in claims[Claim.CONFIDENTIALITY]:
            not_covered = [line for line in not_covered if line != OPERATOR_READS]
        missing = delivery.missing
        signed_at = statement.signed_at
        unmet = policy.unmet(claims, believed, signed_at=signed_at)
        hope = may_show(missing)
        # What even the evidence to come cannot show is no, not later.
        if not failed and not policy.unmet(
            claims, believed, signed_at=signed_at, possible=hope, now=now
        ):
            pending = check_pending(unmet, missing)
            checks += [pending] if pending else []
        checks.append(_check_policy(policy, claims, unmet, delivered))
        if failed:
            not_covered.append("every claim: a check failed, so none counts")
        not_covered += _uncovered(claims, statement, opened, failed=failed)
        if statement.stream is not None and expected.stream is None:
            not_covered.append("the chunks of the stream: not compared with those shown")
        not_covered += expected.uncompared
        if statement.assurance != policy.digest():
            not_covered.append("the policy required when asking: it is not the one applied here")
        return AttestationResult(
            verdict=_verdict(checks),
            checks=tuple(checks),
            claims=claims,
            evidence_classes=tuple(
                sorted({each.evidence_class for each in appraisals if each.evidence_class})
            ),
            not_covered=tuple(not_covered),
            policy=policy,
            receipt_id=receipt.receipt_id,
            asked=statement.assurance,
            promised=tuple(statement.evidence),
            delivered=tuple(delivered),
            pending_until=pending_until(missing, now),
        )

    def _appraise_evidence(
        self,
        context: EvidenceContext,
        delivery: Delivery,
        checks: list[Check],
        not_covered: list[str],
    ) -> list[NamedEvidence]:
        """Appraise the envelope's signature and every entry; append what was found."""
        found: list[NamedEvidence] = []
        if not self._trusted_root.issuer_keys:
            return found  # Step 1 said "could not tell"; "no" would claim that we could.
        receipt = context.receipt
        appraisal = self._kinds["signature"].appraise(context)
        checks += appraisal.checks
        not_covered += appraisal.not_covered
        found.append(NamedEvidence("signature", appraisal))
        promises = receipt.unverified_statement.evidence
        named = {each.digest for each in promises}
        seen = set()
        for entry in receipt.evidence:
            digest = entry.digest()
            name = f"evidence:{entry.kind}"
            kind = self._kinds.get(entry.kind)
            if digest not in delivery.admitted or digest in seen:
                detail = "the statement does not name this evidence, or it is here twice"
                checks.append(Check(name, CheckStatus.FAILED, detail, Reason.EVIDENCE_UNBOUND))
            elif kind is None or entry.kind == "signature":
                detail = "this software does not know this kind of evidence"
                checks.append(Check(name, CheckStatus.UNKNOWN, detail, Reason.UNSUPPORTED_EVIDENCE))
            else:
                appraisal = kind.appraise(replace(context, entry=entry))
                established_at = appraisal.facts.established_at
                checks += check_late(
                    promises, entry, established_at=established_at, named=digest in named
                )
                checks += appraisal.checks or [_nothing_checked(name)]
                not_covered += appraisal.not_covered
                found.append(NamedEvidence(entry.kind, appraisal))
            seen.add(digest)
        checks += check_missing(delivery.missing, context.now)
        # Evidence that was named and is not here adds nothing, and is said to be absent.
        not_covered += describe_pending(delivery.missing)
        not_covered += [
            f"promised evidence that is not here: {each.kind}" for each in delivery.absent
        ]
        return found

    def _check_development(self, receipt: InferenceReceipt, policy: AssurancePolicy) -> Check:
        trusted = self._trusted_root.issuer_key(receipt.envelope.key_id)
        if trusted is None or not trusted.development:
            return _passed("development", "not signed with a development key")
        if policy.development_keys:
            return _passed("development", "DEVELOPMENT key, accepted by the policy")
        return _failed("development", "signed with a development key", Reason.DEVELOPMENT_KEY)


@lru_cache(maxsize=1024)
def _passed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.PASSED, detail)


def _failed(name: str, detail: str, reason: Reason) -> Check:
    return Check(name, CheckStatus.FAILED, detail, reason)


def _nothing_checked(name: str) -> Check:
    return _failed(name, "this kind of evidence made no check", Reason.EVIDENCE_INVALID)


def _check_trusted_root(root: TrustedRoot, policy: AssurancePolicy, now: int) -> Check:
    name = "trusted-root"
    if not root.issuer_keys:
        detail = "the trusted root lists no issuer key"
        return Check(name, CheckStatus.UNKNOWN, detail, Reason.TRUSTED_ROOT_EMPTY)
    if root.expires_at is not None and now >= root.expires_at:
        detail = "the trusted root has expired"
        return Check(name, CheckStatus.UNKNOWN, detail, Reason.TRUSTED_ROOT_STALE)
    if policy.names_roots and not all(root.lists_roots_of(atom) for atom in policy.atoms()):
        detail = "the policy names a trust root that the trusted root does not list"
        return Check(name, CheckStatus.UNKNOWN, detail, Reason.POLICY_ROOT_UNKNOWN)
    return _passed(name, "present and current")


def _check_times(statement: InferenceStatement, policy: AssurancePolicy, now: int) -> Check:
    if not statement.received_at <= statement.completed_at <= statement.signed_at:
        detail = "received, completed and signed are out of order"
        return _failed("times", detail, Reason.TIMES_INCONSISTENT)
    if statement.signed_at > now + CLOCK_SKEW_MILLISECONDS:
        return _failed("times", "signed in the future", Reason.SIGNED_IN_FUTURE)
    maximum_age = policy.maximum_age_seconds
    if maximum_age is not None and now - statement.signed_at > maximum_age * 1000:
        return _failed("times", f"signed over {maximum_age} s ago", Reason.RECEIPT_TOO_OLD)
    return _passed("times", "in order, and not in the future")


def _check_nonce(
    statement: InferenceStatement, policy: AssurancePolicy, expected: Expected
) -> Check:
    if expected.nonce is not None:
        if statement.nonce is None:
            return _failed("nonce", "the statement carries no nonce", Reason.NONCE_MISSING)
        if statement.nonce != expected.nonce:
            return _failed("nonce", "the nonce is not the caller's", Reason.NONCE_MISMATCH)
        return _passed("nonce", "the caller's")
    if policy.nonce_required:
        # Without the caller's own nonce to compare with, freshness was not checked.
        return _failed("nonce", "the policy requires the caller's nonce", Reason.NONCE_MISSING)
    return _passed("nonce", "not required")


def _check_openings(statement: InferenceStatement, opened: OpenedParts) -> list[Check]:
    checks = []
    for part, opening in opened.items():
        name = f"opening:{part.label}"
        commitment = statement.commitments.get(part)
        if commitment is None or opening.part is not part:
            detail = f"the statement commits to no {part.label}"
            checks.append(_failed(name, detail, Reason.OPENING_UNCOMMITTED))
            continue
        try:
            opening.check(commitment)
            opening.content()
        except Error as error:
            checks.append(_failed(name, error.message, error.reason))
        else:
            checks.append(_passed(name, "matches its commitment"))
    return checks


def _check_model(
    statement: InferenceStatement, policy: AssurancePolicy, root: TrustedRoot
) -> Check:
    identity = statement.model.identity
    if identity not in policy.model_identities:
        detail = f"model identity is {identity.label}, which the policy does not accept"
        return _failed("model", detail, Reason.MODEL_NOT_ACCEPTED)
    accepted = root.accepted_model(statement.model.model_id)
    if policy.accepted_models_only and accepted is None:
        detail = "the model is not among the trusted root's reference values"
        return _failed("model", detail, Reason.MODEL_NOT_ACCEPTED)
    known = f"reference value {accepted.name}" if accepted else "no reference value required"
    return _passed("model", f"{identity.label}, {known}")


def _check_policy(
    policy: AssurancePolicy,
    claims: ClaimSources,
    unmet: list[Claim],
    delivered: Sequence[NamedEvidence],
) -> Check:
    if policy.is_empty():
        return _failed("policy", "a policy that requires nothing denies", Reason.POLICY_EMPTY)
    if _REFUTED in claims.values():
        refuted = ", ".join(claim.value for claim in Claim if claims[claim] == _REFUTED)
        conflicts = "".join(f"; {each}" for each in find_conflicts(delivered))
        detail = f"evidence refutes {refuted}{conflicts}"
        return _failed("policy", detail, Reason.EVIDENCE_REFUTES)
    if unmet:
        words = ", ".join(claim.value for claim in unmet)
        return _failed("policy", f"not met for {words}", Reason.POLICY_UNMET)
    return _passed("policy", f"{policy.name} is met")


ALONE: Final = (
    "the transaction that it is a part of: that it was committed, and which parts stand beside it"
)
"""Not covered by the receipt of a part alone."""

_UNSTATED: Final = frozenset({Source.UNSTATED})
_REFUTED: Final = frozenset({Source.REFUTED})
_NOBODY_STATES: Final = {claim: f"{claim.value}: nobody states it" for claim in Claim}


def _uncovered(
    claims: ClaimSources, statement: InferenceStatement, opened: OpenedParts, *, failed: bool
) -> list[str]:
    lines = [
        line for claim, line in _NOBODY_STATES.items() if claims[claim] == _UNSTATED and not failed
    ]
    if statement.model.identity is ModelIdentity.UPSTREAM_REPORTED:
        lines.append("the model's weights: an upstream service reported its own name")
    if statement.transaction is not None:
        lines.append(ALONE)
    unopened = [part.label for part in statement.commitments if part not in opened]
    if unopened:
        lines.append("content that was not opened: " + ", ".join(unopened))
    return lines


_ALWAYS_REFUSED: Final = frozenset({Reason.POLICY_EMPTY, Reason.EVIDENCE_REFUTES})


def _verdict(checks: list[Check]) -> Verdict:
    statuses = {check.status for check in checks[:-1]}
    if CheckStatus.FAILED in statuses or checks[-1].reason in _ALWAYS_REFUSED:
        return Verdict.REFUSED
    # An unmet policy may be unmet *because* of an unknown answer, where nothing else failed.
    if CheckStatus.UNKNOWN in statuses:
        return Verdict.UNDETERMINED
    return Verdict.VERIFIED if checks[-1].status is CheckStatus.PASSED else Verdict.REFUSED
