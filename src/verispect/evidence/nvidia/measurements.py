"""What a device measured, against what its maker or the caller says is good.

Reference manifests must be signed, be for this driver or VBIOS, and not call one index active
twice. Every measurement they call active must be in the report with one of their values. RIM
index n is SPDM index n + 1. This module refuses to take a manifest it could not verify for a yes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.x509.ocsp import OCSPResponse

from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.nvidia.ocsp import examine_revocation
from verispect.evidence.nvidia.rim import (
    INSTALL_HINT,
    ManifestSupportMissing,
    ReferenceManifest,
    verify_manifest,
)
from verispect.evidence.nvidia.spdm import OpaqueField, SpdmReport

MEASUREMENT_PREFIX: Final = "spdm_"
"""Registers are named `spdm_1` to `spdm_254`, by SPDM index."""

NVDEC_INDEX: Final = 36
"""SPDM index that NVIDIA's verifier does not compare while the decoder is off."""

_NVDEC_OFF: Final = b"\x55"


@dataclass(frozen=True, slots=True)
class WantedManifest:
    """A manifest that is due for a device, and the version it must be for."""

    name: str
    data: bytes | None
    version: str | None


def check_registers(examination: Examination, report: SpdmReport, expected: Expectation) -> None:
    """Compare the registers that the caller names; one that is absent fails."""
    values = {
        f"{MEASUREMENT_PREFIX}{index}": value.hex() for index, value in report.measurements.items()
    }
    for name, accepted in expected.measurements.items():
        if values.get(name) not in accepted:
            examination.fail(
                "registers",
                f"{name} has none of the accepted values",
                Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )
    if expected.measurements:
        examination.passed("registers", f"{len(expected.measurements)} registers as expected")


def appraise_measurements(
    examination: Examination,
    report: SpdmReport,
    wanted: Sequence[WantedManifest],
    anchors: Sequence[Anchor],
    responses: Sequence[OCSPResponse],
    at: int,
) -> None:
    """Verify the manifests that were given and compare what they call active.

    Raises:
        verispect.core.errors.Error: the decisive failure.
    """
    manifests: list[ReferenceManifest] = []
    for want in wanted:
        name, version = want.name, want.version
        if want.data is None:
            examination.skipped(name, f"{name}: no manifest was given, so its measurements")
            continue
        try:
            manifest = verify_manifest(want.data, anchors, at)
        except ManifestSupportMissing:
            examination.skipped(name, f"{name}: {INSTALL_HINT}")
            continue
        if version is None or manifest.version.upper() != version.upper():
            examination.fail(
                name,
                f"manifest is for version {manifest.version}, the report says {version}",
                Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )
        _lower_class(examination, manifest.anchor)
        examination.passed(name, f"signed manifest of {manifest.product} {manifest.version}")
        examine_revocation(examination, f"{name}-revocation", manifest.path, responses, at)
        manifests.append(manifest)
    if manifests:
        _compare(examination, report, manifests)
    _conclude_measurements(examination, complete=len(manifests) == len(wanted))


def _lower_class(examination: Examination, anchor: Anchor) -> None:
    # Reference values under a development root make the whole a development appraisal.
    order = ("hardware", "software", "development")
    current = examination.evidence_class
    if current is None or order.index(anchor.evidence_class) > order.index(current):
        examination.evidence_class = anchor.evidence_class


def _compare(
    examination: Examination, report: SpdmReport, manifests: Sequence[ReferenceManifest]
) -> None:
    golden: dict[int, frozenset[bytes]] = {}
    for manifest in manifests:
        both = golden.keys() & manifest.measurements.keys()
        if both:
            examination.fail(
                "measurements",
                f"index {min(both)} is active in both manifests",
                Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )
        golden.update(manifest.measurements)
    if not golden:
        examination.fail(
            "measurements",
            "the manifests call no measurement active",
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        )
    different = [
        index for index, good in golden.items() if report.measurements.get(index) not in good
    ]
    if different == [NVDEC_INDEX] and report.opaque.get(OpaqueField.NVDEC0_STATUS) == _NVDEC_OFF:
        examination.skipped(
            "video-decoder", "measurement of the video decoder, which the device says is off"
        )
        different = []
    examination.facts["measurements_compared"] = len(golden)
    if different:
        examination.facts["measurements_different"] = sorted(different)
        examination.fail(
            "measurements",
            f"{len(different)} of {len(golden)} measurements differ, first at {min(different)}",
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        )
    examination.passed("measurements", f"{len(golden)} measurements have reference values")


def _conclude_measurements(examination: Examination, *, complete: bool) -> None:
    if complete:
        # What NVIDIA's own verifiers derive from a full match; the report has no such field.
        examination.facts["secboot"] = True
        examination.facts["dbgstat"] = "disabled"
        examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
        examination.trust_vector[TrustClaim.CONFIGURATION] = TrustTier.AFFIRMING
    else:
        examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.NONE
        examination.skipped(
            "measurements" if "measurements_compared" not in examination.facts else "debug",
            "firmware, debug status and secure boot: they follow only from all manifests",
        )
