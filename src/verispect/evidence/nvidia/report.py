"""Evidence of NVIDIA GPUs and NVSwitches: a device's report with the path to its maker's root.

`verify_device` walks the steps that spec/evidence-nvidia.md numbers:

1. the report and the path are read within limits;
2. the path ends at an anchor for `nvidia-gpu` and is valid at the time of judgement;
3. stored OCSP responses say *good* for every certificate they are about;
4. the report's signature, over everything before it, is by the first certificate's key;
   and what the evidence is shown as, GPU or NVSwitch, is what the report is of;
5. the firmware identity in the report is the one in that certificate, where the report has one;
6. the nonce of the request is the expected one, the nonce of the response is not empty;
7. registers that the caller names have one of the values the caller accepts;
8. the reference manifests are good, are those of this driver and VBIOS, do not overlap, and every
   measurement they call active has one of their values.

It is a signed report, not a self-portrait: arch, nonce and versions that stand beside the report
in JSON are compared or ignored, never believed. This module refuses to make verdicts; see
`verispect.evidence.nvidia.appraise`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationPolicy,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.certificates import Certificate
from verispect.evidence.nvidia.anchors import DEVICE
from verispect.evidence.nvidia.measurements import (
    MEASUREMENT_PREFIX,
    WantedManifest,
    appraise_measurements,
    check_registers,
)
from verispect.evidence.nvidia.ocsp import examine_revocation, load_responses
from verispect.evidence.nvidia.paths import (
    firmware_id,
    hardware_model,
    read_path,
    verify_p384,
    verify_path,
)
from verispect.evidence.nvidia.spdm import OpaqueField, SpdmReport, parse_report

_MODES: Final = {0: "single-gpu", 1: "multi-gpu", 2: "protected-pcie"}


class DeviceKind(StrEnum):
    """What the report is of; decides how versions are written and which manifests exist."""

    GPU = "gpu"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """One device's report with everything that endorses it."""

    report: bytes
    path: bytes
    """PEM, or base64 of PEM; signing certificate first."""
    kind: DeviceKind = DeviceKind.GPU
    driver_rim: bytes | None = None
    vbios_rim: bytes | None = None
    ocsp: tuple[bytes, ...] = ()
    """Stored DER responses about any certificate of any of the paths."""


def verify_device(
    examination: Examination,
    evidence: DeviceEvidence,
    anchors: Sequence[Anchor],
    expected: Expectation,
    at: int,
) -> None:
    """Walk the steps of the module, noting each.

    Raises:
        verispect.core.errors.Error: the decisive failure.
    """
    report, path = _read(examination, evidence)  # 1
    _verify_path(examination, path, anchors, at)  # 2
    responses = load_responses(evidence.ocsp)
    examine_revocation(examination, "revocation", path[1:], responses, at)  # 3
    verify_p384(path[0], report.signature, report.signed, "report")  # 4
    examination.passed("signature", "the device's key signed request and response")
    _check_kind(examination, report, evidence.kind)
    _check_firmware_id(examination, report, path[0])  # 5
    check_nonce(examination, report.request_nonce, expected)  # 6
    if not any(report.response_nonce):
        examination.fail(
            "device-nonce", "nonce of the response is empty", Reason.ATTESTATION_ATTRIBUTES
        )
    _check_other_expectations(examination, expected)
    check_registers(examination, report, expected)  # 7
    wanted = _wanted_manifests(evidence, report)
    appraise_measurements(examination, report, wanted, anchors, responses, at)  # 8


# -- 1. to 5. -------------------------------------------------------------------------------------


def _read(
    examination: Examination, evidence: DeviceEvidence
) -> tuple[SpdmReport, tuple[Certificate, ...]]:
    report = parse_report(evidence.report)
    path = read_path(evidence.path)
    if len(path) < 2:
        raise MalformedError("a device's path has an issuer", reason=Reason.MALFORMED_EVIDENCE)
    examination.facts.update(_facts(report, evidence.kind))
    examination.facts["hardware_model"] = hardware_model(path)
    examination.facts["device_id"] = f"{path[0].serial_number:x}"
    examination.passed(
        "structure", f"report of {len(report.measurements)} measurements, {len(path)} certificates"
    )
    return report, path


def _verify_path(
    examination: Examination, path: Sequence[Certificate], anchors: Sequence[Anchor], at: int
) -> None:
    anchor = verify_path(path, anchors, DEVICE, at)
    examination.evidence_class = anchor.evidence_class
    examination.facts["root_key_digest"] = anchor.key_digest.hex()
    examination.trust_vector[TrustClaim.HARDWARE] = TrustTier.AFFIRMING
    examination.trust_vector[TrustClaim.INSTANCE_IDENTITY] = TrustTier.AFFIRMING
    examination.passed("path", f"certificates up to {anchor.label}, by its key")


def _check_kind(examination: Examination, report: SpdmReport, kind: DeviceKind) -> None:
    # What the evidence calls itself in JSON decides which manifests are due, so it must agree
    # with what the device signed: only GPUs name a driver.
    signed = DeviceKind.GPU if OpaqueField.DRIVER_VERSION in report.opaque else DeviceKind.SWITCH
    if signed is not kind:
        examination.fail(
            "device",
            f"shown as a {kind.value}, and the report is of a {signed.value}",
            Reason.ATTESTATION_BINDING_INVALID,
        )
    examination.passed("device", f"the report is of a {signed.value}")


def _check_firmware_id(
    examination: Examination, report: SpdmReport, certificate: Certificate
) -> None:
    reported = report.opaque.get(OpaqueField.FWID)
    if reported is None:
        examination.passed("firmware-id", "this device's reports name no firmware identity")
        return
    certified = firmware_id(certificate)
    if certified is None or not hmac.compare_digest(reported, certified):
        examination.fail(
            "firmware-id",
            "the report's firmware identity is not the certificate's",
            Reason.ATTESTATION_BINDING_INVALID,
        )
    examination.passed("firmware-id", "the report's firmware identity is the certificate's")


# -- 6. and 7. ------------------------------------------------------------------------------------


def check_nonce(examination: Examination, found: bytes, expected: Expectation) -> None:
    """Compare the nonce that the evidence signs with the expected one."""
    if expected.nonce is None:
        examination.skipped("nonce", "freshness: no nonce was expected")
    elif not hmac.compare_digest(found, expected.nonce):
        examination.fail(
            "nonce", "nonce is not the expected one", Reason.ATTESTATION_NONCE_MISMATCH
        )
    else:
        examination.passed("nonce", "the signed nonce is the expected one")


def _check_other_expectations(examination: Examination, expected: Expectation) -> None:
    # A caller that expects more than this format can hold must not be told that it was there.
    if expected.report_data is not None:
        examination.fail(
            "report-data",
            "evidence of a GPU has no field of the guest's",
            Reason.ATTESTATION_NONCE_MISMATCH,
        )
    if expected.public_key is not None:
        examination.fail(
            "public-key",
            "evidence of a GPU carries no key of the guest's",
            Reason.ATTESTATION_BINDING_INVALID,
        )


def _wanted_manifests(evidence: DeviceEvidence, report: SpdmReport) -> list[WantedManifest]:
    vbios = WantedManifest("vbios-rim", evidence.vbios_rim, vbios_version(report, evidence.kind))
    if evidence.kind is DeviceKind.GPU:
        return [WantedManifest("driver-rim", evidence.driver_rim, _driver_version(report)), vbios]
    if evidence.driver_rim is not None:
        raise VerificationError(
            "an NVSwitch has no driver manifest", reason=Reason.ATTESTATION_MEASUREMENT_MISMATCH
        )
    return [vbios]


# -- Facts ----------------------------------------------------------------------------------------


def _facts(report: SpdmReport, kind: DeviceKind) -> dict[str, object]:
    flag = report.opaque.get(OpaqueField.FEATURE_FLAG)
    return {
        "device": kind.value,
        "nonce": report.request_nonce.hex(),
        "device_nonce": report.response_nonce.hex(),
        "driver_version": _driver_version(report),
        "vbios_version": vbios_version(report, kind),
        "project": _text(report, OpaqueField.PROJECT),
        "project_sku": _text(report, OpaqueField.PROJECT_SKU),
        "chip_sku": _text(report, OpaqueField.CHIP_SKU),
        "firmware_id": report.opaque.get(OpaqueField.FWID, b"").hex() or None,
        "mode": _MODES.get(int.from_bytes(flag, "little")) if flag is not None else None,
        "measurements": {
            f"{MEASUREMENT_PREFIX}{index}": value.hex()
            for index, value in sorted(report.measurements.items())
        },
    }


def _driver_version(report: SpdmReport) -> str | None:
    return _text(report, OpaqueField.DRIVER_VERSION)


def vbios_version(report: SpdmReport, kind: DeviceKind) -> str | None:
    """Return the VBIOS version as the manifests write it, `96.00.9F.00.01`."""
    if kind is DeviceKind.SWITCH:
        return _text(report, OpaqueField.VBIOS_VERSION)
    value = report.opaque.get(OpaqueField.VBIOS_VERSION)
    if value is None or len(value) != 8:
        return None
    # Four bytes, least significant first, then the fifth part.
    parts = [*reversed(value[:4]), value[4]]
    return ".".join(f"{part:02X}" for part in parts)


def _text(report: SpdmReport, field: OpaqueField) -> str | None:
    value = report.opaque.get(field)
    if value is None:
        return None
    text = value.rstrip(b"\0").decode("ascii", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text[:64]) or None


def examination_for(kind: DeviceKind, policy: AttestationPolicy) -> Examination:
    """Return an empty examination of a device of this kind."""
    technology = DEVICE if kind is DeviceKind.GPU else "nvidia-switch"
    return Examination(technology, policy)
