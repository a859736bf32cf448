"""What the caller's policy and expectation make of a quote that is genuine: steps 14 to 16.

Nothing here looks at a signature; it may only run after everything that does.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from verispect.core.errors import Reason
from verispect.evidence.attestation import Examination, Expectation, TrustClaim, TrustTier

REPORT_DATA_BYTES: Final = 64

EVALUATION_NUMBER: Final = "tcb_evaluation_data_number"
"""The component of `AttestationPolicy.minimum_tcb` that this technology knows."""

_DECISIONS: Final[Mapping[str, Reason]] = {
    "SWHardeningNeeded": Reason.TCB_SW_HARDENING,
    "ConfigurationNeeded": Reason.TCB_CONFIGURATION,
    "ConfigurationAndSWHardeningNeeded": Reason.TCB_CONFIGURATION,
    "OutOfDate": Reason.TCB_OUT_OF_DATE,
    "OutOfDateConfigurationNeeded": Reason.TCB_OUT_OF_DATE,
    "OutOfDateConfigurationAndSWHardeningNeeded": Reason.TCB_OUT_OF_DATE,
    "TDRelaunchAdvised": Reason.TCB_OUT_OF_DATE,
    "TDRelaunchAdvisedConfigurationNeeded": Reason.TCB_OUT_OF_DATE,
}


def judge_tcb(examination: Examination) -> None:
    """Apply the policy to status, advisories and evaluation number.

    Raises:
        VerificationError: `tcb-advisory-refused`, `tcb-out-of-date` for an evaluation number
            below the policy's, `tcb-revoked`, or `tcb-unknown`.
    """
    step, policy = "tcb-policy", examination.policy
    status = examination.tcb_status or ""
    refused = sorted(policy.refused_advisories.intersection(examination.advisories))
    if refused:
        detail = f"the policy refuses {refused[0]}"
        examination.fail(step, detail, Reason.TCB_ADVISORY_REFUSED)
    number = examination.facts[EVALUATION_NUMBER]
    if number < policy.minimum_tcb.get(EVALUATION_NUMBER, 0):
        detail = f"TCB evaluation {number} is older than the policy asks for"
        examination.fail(step, detail, Reason.TCB_OUT_OF_DATE)
    vector = examination.trust_vector
    vector[TrustClaim.CONFIGURATION] = TrustTier.AFFIRMING
    vector[TrustClaim.RUNTIME_OPAQUE] = TrustTier.AFFIRMING
    if status == "UpToDate":
        vector[TrustClaim.HARDWARE] = TrustTier.AFFIRMING
        examination.passed(step, "up to date")
        return
    reason = _DECISIONS.get(status)
    if reason is None:
        examination.fail(step, f"unknown TCB status {status[:64]}", Reason.TCB_UNKNOWN)
    accepted = status in policy.accepted_tcb
    vector[TrustClaim.HARDWARE] = TrustTier.WARNING if accepted else TrustTier.CONTRAINDICATED
    word = "accepts" if accepted else "does not accept"
    examination.decide(step, f"TCB status {status}, which the policy {word}", reason)


def check_freshness(examination: Examination, expected: Expectation, report_data: bytes) -> None:
    """Compare the guest's own field with what was expected, all 64 bytes of it.

    A shorter value is filled up with zeros; an empty one is refused like a wrong one.

    Raises:
        VerificationError: `attestation-nonce-mismatch`, or `attestation-binding-invalid` where
            a public key is expected, for which a quote has no field.
    """
    step = "freshness"
    if expected.public_key is not None:
        detail = "a quote has no field for a public key"
        examination.fail(step, detail, Reason.ATTESTATION_BINDING_INVALID)
    values = [v for v in (expected.report_data, expected.nonce) if v is not None]
    for value in values:
        whole = value.ljust(REPORT_DATA_BYTES, b"\x00")
        if not value or not hmac.compare_digest(whole, report_data):
            detail = "report data is not what was expected"
            examination.fail(step, detail, Reason.ATTESTATION_NONCE_MISMATCH)
    if values:
        examination.passed(step, "report data is what was expected")
    else:
        examination.skipped(step, "report data: no expected value was given")
    if examination.policy.maximum_age_seconds is not None:
        examination.not_checked.append("age: a quote carries no time of its own")


def check_measurements(
    examination: Examination, expected: Expectation, registers: Mapping[str, str]
) -> None:
    """Compare every register that was named; one that the quote lacks fails.

    Raises:
        VerificationError: `attestation-measurement-mismatch`.
    """
    step = "measurements"
    for name, accepted in expected.measurements.items():
        if registers.get(name) not in accepted:
            detail = f"register {name[:64]} has no accepted value"
            examination.fail(step, detail, Reason.ATTESTATION_MEASUREMENT_MISMATCH)
    if expected.measurements:
        examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
        examination.passed(step, f"accepted: {', '.join(sorted(expected.measurements))}")
    else:
        examination.skipped(step, "measurements: no reference values were given")
