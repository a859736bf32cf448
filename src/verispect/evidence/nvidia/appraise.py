"""Appraisals of NVIDIA's evidence: devices alone or together, manifests, tokens of the service.

Each function is pure and total: whatever the bytes, the answer is an appraisal. The anchors of the
caller decide the class. An appraisal never says more than its checks: without manifests the
firmware is listed as not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Examination,
    Expectation,
)
from verispect.evidence.interface import CheckStatus
from verispect.evidence.nvidia.anchors import DEVICE, MANIFEST, SERVICE
from verispect.evidence.nvidia.documents import read_devices
from verispect.evidence.nvidia.eat import ServiceToken, verify_service_token
from verispect.evidence.nvidia.report import DeviceEvidence, examination_for, verify_device
from verispect.evidence.nvidia.rim import ManifestSupportMissing, verify_manifest


@dataclass(frozen=True, slots=True)
class DeviceDocument:
    """JSON evidence of one or more devices; see `verispect.evidence.nvidia.documents`."""

    document: bytes
    driver_rim: bytes | None = None
    vbios_rim: bytes | None = None
    ocsp: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestEvidence:
    """One reference manifest on its own."""

    rim: bytes


def appraise_nvidia_gpu(
    evidence: DeviceEvidence,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise one device's report; see `verispect.evidence.nvidia.report`."""

    def verify(examination: Examination) -> None:
        verify_device(examination, evidence, anchors, expected, at)

    return _appraise(examination_for(evidence.kind, policy), verify)


def appraise_nvidia_document(
    evidence: DeviceDocument,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise JSON evidence: every device of it must be good, and no device may come twice.

    Facts of a single device stand at the top; those of several in `devices`, in order.
    """

    def verify(examination: Examination) -> None:
        devices = read_devices(
            evidence.document,
            driver_rim=evidence.driver_rim,
            vbios_rim=evidence.vbios_rim,
            ocsp=evidence.ocsp,
        )
        if len(devices) == 1:
            verify_device(examination, devices[0], anchors, expected, at)
            return
        examination.facts["devices"] = facts = []
        for device in devices:
            part = examination_for(device.kind, policy)
            try:
                verify_device(part, device, anchors, expected, at)
            finally:
                facts.append(part.facts)
                _absorb(examination, part, f"{device.kind.value} {len(facts) - 1}")
        _check_distinct(examination, [str(fact["device_id"]) for fact in facts])

    return _appraise(Examination(DEVICE, policy), verify)


def _absorb(examination: Examination, part: Examination, name: str) -> None:
    """Take over what one device showed; its failure is noted by whoever catches the error."""
    checks = part.conclude().checks
    if not any(check.status is CheckStatus.FAILED for check in checks):
        examination.passed(name, f"{len(checks)} checks, none failed")
    for gap in part.not_checked:
        if gap not in examination.not_checked:
            examination.not_checked.append(gap)
    order = (EvidenceClass.HARDWARE, EvidenceClass.SOFTWARE, EvidenceClass.DEVELOPMENT)
    classes = [c for c in (examination.evidence_class, part.evidence_class) if c is not None]
    if classes:
        examination.evidence_class = max(classes, key=order.index)
    for claim, value in part.trust_vector.items():
        known = examination.trust_vector.get(claim, value)
        examination.trust_vector[claim] = min(known, value)


def _check_distinct(examination: Examination, identifiers: Sequence[str]) -> None:
    # One genuine GPU shown eight times is not eight GPUs.
    if len(set(identifiers)) != len(identifiers):
        examination.fail("distinct", "a device is listed twice", Reason.ATTESTATION_BINDING_INVALID)
    examination.passed("distinct", f"{len(identifiers)} different devices")


def appraise_nvidia_rim(
    evidence: ManifestEvidence,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise a reference manifest alone; see `verispect.evidence.nvidia.rim`."""

    def verify(examination: Examination) -> None:
        try:
            manifest = verify_manifest(evidence.rim, anchors, at)
        except ManifestSupportMissing as error:
            examination.fail("support", str(error), Reason.UNSUPPORTED_EVIDENCE)
        examination.evidence_class = manifest.anchor.evidence_class
        examination.facts.update(
            product=manifest.product,
            edition=manifest.edition,
            version=manifest.version,
            active_measurements=len(manifest.measurements),
            valid_until=min(certificate.not_after for certificate in manifest.path),
        )
        examination.passed("manifest", f"signed under {manifest.anchor.label}, valid at this time")
        if expected != Expectation():
            examination.fail(
                "expectation",
                "a manifest holds no nonce, field, key or register",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        if policy.require_revocation:
            examination.fail(
                "revocation",
                "no OCSP response for the manifest's certificates",
                Reason.EVIDENCE_MISSING,
            )
        examination.not_checked.append("revocation of the manifest's certificates")

    return _appraise(Examination(MANIFEST, policy), verify)


def appraise_nvidia_token(
    evidence: ServiceToken,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise a token or bundle of the service; see `verispect.evidence.nvidia.eat`."""

    def verify(examination: Examination) -> None:
        verify_service_token(examination, evidence, anchors, expected, at)

    return _appraise(Examination(SERVICE, policy), verify)


def _appraise(
    examination: Examination, verify: Callable[[Examination], None]
) -> AttestationAppraisal:
    try:
        verify(examination)
        examination.check_class()
    except Error as error:
        name = "structure"
        if isinstance(error, UnsupportedError):
            name = "support"
        elif not isinstance(error, MalformedError):
            name = "verification"
        examination.error(name, error)
    return examination.conclude()
