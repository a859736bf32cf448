"""GPU evidence as services deliver it in JSON: a list with one entry per device.

An entry has `evidence` (the report) and `certificate` (its path as PEM), both in base64, and may
have `arch`, `nonce` and versions. The list stands alone, or in a member `evidence_list` of an
object that gives `arch` for all. Nothing of it is signed but what is inside the report: `nonce`
and versions are not even read, and `arch` only says how the report is shown.
"""

from __future__ import annotations

from typing import Any, Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.json_text import from_base64, read_json
from verispect.evidence.nvidia.paths import MAX_PATH_BYTES
from verispect.evidence.nvidia.report import DeviceEvidence, DeviceKind
from verispect.evidence.nvidia.spdm import MAX_REPORT_BYTES

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Upper limit of a document; eight GPUs need 100 kB."""

MAX_DEVICES: Final = 64

_KINDS: Final = {
    "HOPPER": DeviceKind.GPU,
    "BLACKWELL": DeviceKind.GPU,
    "RUBIN": DeviceKind.GPU,
    "LS10": DeviceKind.SWITCH,
}


def read_devices(
    document: bytes,
    *,
    driver_rim: bytes | None = None,
    vbios_rim: bytes | None = None,
    ocsp: tuple[bytes, ...] = (),
) -> tuple[DeviceEvidence, ...]:
    """Read a document of GPU or NVSwitch evidence.

    Args:
        document: JSON; see the module.
        driver_rim: the manifest for every GPU of the list.
        vbios_rim: the manifest for every device of the list.
        ocsp: stored responses for any of the certificates.

    Raises:
        MalformedError: `malformed-json`, `malformed-evidence` or `too-large`.
        UnsupportedError: `unsupported-evidence` for an unknown `arch`.
    """
    value = read_json(document, limit=MAX_DOCUMENT_BYTES)
    arch = None
    if isinstance(value, dict) and "evidence_list" in value:
        value, arch = value["evidence_list"], value.get("arch")
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _malformed("a document of evidence lists at least one device")
    if len(value) > MAX_DEVICES:
        raise MalformedError(f"at most {MAX_DEVICES} devices", reason=Reason.TOO_LARGE)
    devices: list[DeviceEvidence] = []
    for entry in value:
        if not isinstance(entry, dict):
            raise _malformed("an entry of the evidence is not an object")
        kind = _kind(entry.get("arch", arch))
        devices.append(
            DeviceEvidence(
                report=from_base64(entry.get("evidence"), limit=MAX_REPORT_BYTES),
                path=from_base64(entry.get("certificate"), limit=MAX_PATH_BYTES),
                kind=kind,
                driver_rim=driver_rim if kind is DeviceKind.GPU else None,
                vbios_rim=vbios_rim,
                ocsp=ocsp,
            )
        )
    return tuple(devices)


def _kind(arch: Any) -> DeviceKind:
    if arch is None:
        return DeviceKind.GPU
    if not isinstance(arch, str):
        raise _malformed("arch is not text")
    kind = _KINDS.get(arch.upper())
    if kind is None:
        raise UnsupportedError(
            "evidence of an unknown architecture", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    return kind


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
