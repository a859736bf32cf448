"""What every kind of hardware attestation is asked and what it answers.

A verifier is a pure function of evidence, endorsements, anchors, expectation, policy and time. It
walks numbered steps in the order structure, signature chain, revocation and TCB, debug and
attributes, freshness, binding, measurements, policy; it stops at the first decisive failure and
reports every fact found until then. The evidence class comes from the trust anchor that verified
and from nothing in the evidence. What was not checked is part of the answer.

The answer is one of three: *accept*; *policy*, for genuine evidence whose TCB status somebody has
to decide about; *reject*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final, NoReturn

from verispect.core.encoding import Digest
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.checks import Check, CheckStatus


class EvidenceClass(StrEnum):
    """What stands behind the trust anchor that verified."""

    HARDWARE = "hardware"
    """A vendor's device root."""
    SOFTWARE = "software"
    """Real semantics in software, for example a software TPM under its own authority."""
    DEVELOPMENT = "development"
    """An emulator under a development authority: shows the path, and nothing else."""


class AttestationVerdict(StrEnum):
    """The answer to one piece of attestation evidence."""

    ACCEPT = "accept"
    POLICY = "policy"
    """Genuine, but its TCB status is somebody's decision; `acceptable` says ours."""
    REJECT = "reject"


class TrustClaim(StrEnum):
    """The claims of a trust vector (draft-ietf-rats-ar4si)."""

    INSTANCE_IDENTITY = "instance-identity"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    HARDWARE = "hardware"
    RUNTIME_OPAQUE = "runtime-opaque"
    SOURCED_DATA = "sourced-data"


class TrustTier(IntEnum):
    """The tiers of AR4SI, by the smallest value of each."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96


@dataclass(frozen=True, slots=True)
class Anchor:
    """A root that is trusted for one technology, pinned by its key and by nothing else."""

    technology: str
    key_digest: Digest
    """SHA-256 of the DER `SubjectPublicKeyInfo`; a name is never compared."""
    evidence_class: EvidenceClass
    label: str
    """For people, for example `AWS Nitro Enclaves root G1`."""


_CLASS_ORDER: Final = (
    EvidenceClass.DEVELOPMENT,
    EvidenceClass.SOFTWARE,
    EvidenceClass.HARDWARE,
)


def lowest_anchor(
    key_digest: Digest, anchors: Sequence[Anchor], technology: str | None
) -> Anchor | None:
    """Return the anchor of this key; where it is listed in several classes, of the lowest.

    The order in which anchors are listed must not decide what evidence counts as.
    """
    found = [
        anchor
        for anchor in anchors
        if technology in (None, anchor.technology) and anchor.key_digest == key_digest
    ]
    return min(found, key=lambda each: _CLASS_ORDER.index(each.evidence_class), default=None)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the caller knows: reference values and freshness. `None` means not compared."""

    nonce: bytes | None = None
    """The nonce that must be signed inside the evidence."""
    report_data: bytes | None = None
    """The exact value of the field the guest chose (`report_data`, `user_data`)."""
    public_key: bytes | None = None
    """The key that the evidence must carry, where its format has a field for one."""
    audience: str | None = None
    """For whom a token must have been made, where its format names somebody."""
    measurements: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Register name to accepted values in lower-case hexadecimal. A register that is named here
    and absent from the evidence fails."""


@dataclass(frozen=True, slots=True)
class AttestationPolicy:
    """What is acceptable of genuine evidence."""

    allow_debug: bool = False
    accepted_tcb: frozenset[str] = frozenset({"UpToDate"})
    """TCB statuses, in Intel's words."""
    refused_advisories: frozenset[str] = frozenset()
    maximum_age_seconds: int | None = None
    """Between the evidence's own time, where it has one, and the time of judgement."""
    maximum_vmpl: int = 3
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)
    """Floors by component name, where the vendor publishes no status."""
    accepted_classes: frozenset[EvidenceClass] = frozenset({EvidenceClass.HARDWARE})
    require_revocation: bool = False
    """Fail, instead of saying so, where no revocation list was at hand."""


DEFAULT_ATTESTATION_POLICY: Final = AttestationPolicy()
"""Hardware only, up to date, no debugging."""


@dataclass(frozen=True, slots=True)
class AttestationAppraisal:
    """What one piece of attestation evidence shows; cannot be used as a boolean."""

    technology: str
    verdict: AttestationVerdict
    reason: Reason | None
    """`None` where accepted."""
    acceptable: bool
    """Accepted, or *policy* with a status that the policy accepts."""
    evidence_class: EvidenceClass | None
    """`None` where no anchor verified."""
    checks: Sequence[Check]
    facts: Mapping[str, Any]
    """JSON-like: identities, measurements, versions, times, the guest's own field."""
    tcb_status: str | None
    advisories: Sequence[str]
    trust_vector: Mapping[TrustClaim, int]
    not_checked: Sequence[str]

    def __bool__(self) -> NoReturn:
        raise TypeError("an AttestationAppraisal is not a boolean: look at its verdict")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "technology": self.technology,
            "verdict": self.verdict.value,
            "reason": self.reason.value if self.reason else None,
            "reasonClass": reason_class(self.reason),
            "acceptable": self.acceptable,
            "class": self.evidence_class.value if self.evidence_class else None,
            "checks": [
                {
                    "name": check.name,
                    "status": check.status.value,
                    "reason": check.reason.value if check.reason else None,
                    "detail": check.detail,
                }
                for check in self.checks
            ],
            "facts": dict(self.facts),
            "tcbStatus": self.tcb_status,
            "advisories": list(self.advisories),
            "trustVector": {claim.value: value for claim, value in self.trust_vector.items()},
            "notChecked": list(self.not_checked),
        }


_REASON_CLASSES: Final[Mapping[Reason, str]] = {
    Reason.ATTESTATION_EXPIRED: "expired",
    Reason.ATTESTATION_NOT_YET_VALID: "not_yet_valid",
    Reason.ATTESTATION_SIGNATURE_INVALID: "bad_signature",
    Reason.ATTESTATION_ROOT_UNTRUSTED: "untrusted_root",
    Reason.ATTESTATION_REVOKED: "revoked",
    Reason.ATTESTATION_DEBUG: "debug",
    Reason.ATTESTATION_ATTRIBUTES: "attributes",
    Reason.ATTESTATION_BINDING_INVALID: "bad_binding",
    Reason.ATTESTATION_NONCE_MISMATCH: "nonce_mismatch",
    Reason.ATTESTATION_NOT_FRESH: "not_fresh",
    Reason.ATTESTATION_MEASUREMENT_MISMATCH: "measurement_mismatch",
    Reason.ATTESTATION_NEGATIVE: "negative_result",
    Reason.ATTESTATION_CLASS_REFUSED: "untrusted_root",
    Reason.TCB_OUT_OF_DATE: "tcb_out_of_date",
    Reason.TCB_SW_HARDENING: "tcb_sw_hardening",
    Reason.TCB_CONFIGURATION: "tcb_configuration",
    Reason.TCB_REVOKED: "tcb_revoked",
    Reason.TCB_UNKNOWN: "tcb_unknown",
    Reason.TCB_ADVISORY_REFUSED: "tcb_advisory",
    Reason.EVIDENCE_MISSING: "missing",
    Reason.UNSUPPORTED_VERSION: "unsupported",
    Reason.UNSUPPORTED_ALGORITHM: "unsupported",
    Reason.UNSUPPORTED_EVIDENCE: "unsupported",
}


def reason_class(reason: Reason | None) -> str:
    """Return the class under which files of cases compare refusals; `ok` for none."""
    return "ok" if reason is None else _REASON_CLASSES.get(reason, "malformed")


class Examination:
    """Collects numbered steps, facts and gaps of one verification; see the module.

    A step that fails raises; `conclude` turns whatever happened into an `AttestationAppraisal`.

    Args:
        technology: for example `aws-nitro`.
        policy: decides about class and TCB status in the end.
    """

    def __init__(self, technology: str, policy: AttestationPolicy) -> None:
        self.technology = technology
        self.policy = policy
        self.facts: dict[str, Any] = {}
        self.not_checked: list[str] = []
        self.advisories: list[str] = []
        self.tcb_status: str | None = None
        self.evidence_class: EvidenceClass | None = None
        self.trust_vector: dict[TrustClaim, int] = {}
        self._checks: list[Check] = []
        self._decided: Reason | None = None

    def passed(self, name: str, detail: str) -> None:
        """Note a step whose answer is yes."""
        self._checks.append(Check(name, CheckStatus.PASSED, detail))

    def skipped(self, name: str, detail: str) -> None:
        """Note a step that could not be taken; it is also listed as not checked."""
        self._checks.append(Check(name, CheckStatus.UNKNOWN, detail, Reason.EVIDENCE_MISSING))
        self.not_checked.append(detail)

    def fail(self, name: str, detail: str, reason: Reason) -> NoReturn:
        """Note the decisive failure and stop.

        Raises:
            VerificationError: always.
        """
        self._checks.append(Check(name, CheckStatus.FAILED, detail, reason))
        raise VerificationError(detail, reason=reason)

    def decide(self, name: str, detail: str, reason: Reason) -> None:
        """Note genuine evidence whose TCB status is a decision; verification goes on."""
        self._checks.append(Check(name, CheckStatus.UNKNOWN, detail, reason))
        self._decided = self._decided or reason

    def error(self, name: str, error: Error) -> None:
        """Note an error of our own tree that ended the verification, unless it is noted already."""
        if not any(check.status is CheckStatus.FAILED for check in self._checks):
            reason = error.reason
            if isinstance(error, MalformedError):
                reason = Reason.MALFORMED_EVIDENCE
            self._checks.append(Check(name, CheckStatus.FAILED, error.message, reason))

    def walk(self, steps: Sequence[tuple[str, Callable[[], None]]]) -> None:
        """Take the steps until one fails; an error of our tree is noted under its step."""
        for name, step in steps:
            try:
                step()
            except Error as error:
                self.error(name, error)
                return

    def check_class(self) -> None:
        """Refuse an evidence class that the policy does not accept; the last step.

        Raises:
            VerificationError: `attestation-class-refused`.
        """
        if self.evidence_class not in self.policy.accepted_classes:
            found = self.evidence_class.value if self.evidence_class else "unknown"
            self.fail("class", f"evidence class is {found}", Reason.ATTESTATION_CLASS_REFUSED)
        self.passed("class", f"evidence class {self.evidence_class}, accepted by the policy")

    def conclude(self) -> AttestationAppraisal:
        """Return the appraisal of all that was noted."""
        failed = next((c for c in self._checks if c.status is CheckStatus.FAILED), None)
        if failed is not None:
            verdict, reason, acceptable = AttestationVerdict.REJECT, failed.reason, False
            vector = dict.fromkeys(self.trust_vector, int(TrustTier.NONE))
        elif self._decided is not None:
            verdict, reason = AttestationVerdict.POLICY, self._decided
            acceptable = self.tcb_status in self.policy.accepted_tcb
            vector = dict(self.trust_vector)
        else:
            verdict, reason, acceptable = AttestationVerdict.ACCEPT, None, True
            vector = dict(self.trust_vector)
        return AttestationAppraisal(
            technology=self.technology,
            verdict=verdict,
            reason=reason,
            acceptable=acceptable,
            evidence_class=self.evidence_class,
            checks=tuple(self._checks),
            facts=self.facts,
            tcb_status=self.tcb_status,
            advisories=tuple(self.advisories),
            trust_vector=vector,
            not_checked=tuple(self.not_checked),
        )


def unreadable(technology: str, error: Error) -> AttestationAppraisal:
    """Return the appraisal of evidence that could not even be read."""
    examination = Examination(technology, AttestationPolicy())
    name = "version" if isinstance(error, UnsupportedError) else "structure"
    examination.error(name, error)
    return examination.conclude()
