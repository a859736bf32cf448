"""NVIDIA's reference manifests (RIM) and revocation status (OCSP) for GPUs and NVSwitches.

    GET  {rim}/v1/rim/{identifier}        JSON: `id`, and `rim`, the XML in base64
    POST {ocsp}                           one DER request per certificate (RFC 6960)

Identifiers are made of what the device reports:

    NV_GPU_DRIVER_GH100_{driver}                                     Hopper
    NV_GPU_CC_DRIVER_{chip}_{driver}                                 Blackwell
    NV_GPU_VBIOS_{project}_{project SKU}_{chip SKU}_{VBIOS}          without dots
    NV_SWITCH_BIOS_5612_0002_890_{BIOS}                              NVSwitch (LS10)

Asked for is every certificate of the device's path but the first, whose key never leaves the
device and which no responder knows, and every certificate of the manifests. Requests carry no
nonce: an answer is kept with the evidence and judged by its own times.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from verispect.attesters.endorsements.cache import Answer
from verispect.attesters.endorsements.interface import DAY, HOUR
from verispect.attesters.endorsements.retrieval import Question, Reading, Retriever, base_address
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.certificates import Certificate
from verispect.evidence.json_text import from_base64, read_object
from verispect.evidence.nvidia.anchors import DEVICE
from verispect.evidence.nvidia.documents import read_devices
from verispect.evidence.nvidia.ocsp import MAX_RESPONSE_BYTES, MAX_RESPONSES, load_responses
from verispect.evidence.nvidia.paths import hardware_model, load_path, read_path
from verispect.evidence.nvidia.report import DeviceEvidence, DeviceKind, vbios_version
from verispect.evidence.nvidia.rim import MAX_MANIFEST_BYTES
from verispect.evidence.nvidia.spdm import OpaqueField, SpdmReport, parse_report

NVIDIA_RIM_URL: Final = "https://rim.attestation.nvidia.com"
NVIDIA_OCSP_URL: Final = "https://ocsp.ndis.nvidia.com"

MANIFEST_LIFETIME: Final = 30 * DAY
"""What an identifier stands for does not change."""

STATUS_LIFETIME: Final = HOUR
"""At most, and never beyond the response's own next update."""

_MAX_ANSWER_BYTES: Final = 2 * MAX_MANIFEST_BYTES
_IDENTIFIER: Final = re.compile(r"\A[A-Za-z0-9._-]{1,128}\Z")
_CERTIFICATE: Final = re.compile(rb"<(?:[A-Za-z0-9]+:)?X509Certificate>([^<]{1,32768})<")
_HOPPER: Final = "GH"
_BLACKWELL: Final = "GB"
_SWITCH_NAMES: Final = ("5612", "0002", "890")

Path = tuple[Certificate, ...]


class NvidiaGpuFetcher:
    """Fetches `driver_rim`, `vbios_rim` and `ocsp_…` for evidence of `nvidia-gpu`.

    Args:
        retriever: asks and keeps.
        rim_url: the service of manifests.
        ocsp_url: the responder.
        revocation: whether to ask the responder.

    Raises:
        RequestError: `invalid-request` for an address that is not HTTPS.
    """

    technology: Final = DEVICE

    def __init__(
        self,
        retriever: Retriever,
        rim_url: str = NVIDIA_RIM_URL,
        ocsp_url: str = NVIDIA_OCSP_URL,
        *,
        revocation: bool = True,
    ) -> None:
        self._retriever = retriever
        self._rim = base_address(rim_url)
        self._ocsp = base_address(ocsp_url)
        self._revocation = revocation

    async def fetch(self, evidence: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Fetch what verifies all devices; see `EndorsementFetcher.fetch`.

        Raises:
            UnsupportedError: also where devices of one document need different manifests, of which
                it can name one only.
        """
        devices = devices_of(evidence)
        files: dict[str, bytes] = {}
        for name, identifier in _manifests_of(devices).items():
            if name not in evidence:
                files[name] = await self._manifest(identifier)
        if not self._revocation:
            return files
        paths = {f"device_{n}": read_path(device.path)[1:] for n, device in enumerate(devices)}
        for name in ("driver_rim", "vbios_rim"):
            manifest = files.get(name, evidence.get(name))
            if manifest is not None:
                paths[name.removesuffix("_rim")] = manifest_path(manifest)
        return {**files, **await self._statuses(paths)}

    async def _manifest(self, identifier: str) -> bytes:
        def read(answer: Answer) -> Reading[bytes]:
            document = read_object(answer.body, limit=_MAX_ANSWER_BYTES)
            if document.get("id") != identifier:
                raise _malformed("a manifest under another identifier")
            manifest = from_base64(document.get("rim"), limit=MAX_MANIFEST_BYTES)
            manifest_path(manifest)
            return Reading(manifest)

        return await self._retriever.obtain(
            Question(f"{self._rim}/v1/rim/{identifier}", _MAX_ANSWER_BYTES),
            read,
            lifetime=MANIFEST_LIFETIME,
        )

    async def _statuses(self, paths: Mapping[str, Path]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        asked: set[bytes] = set()
        for name, path in paths.items():
            for place, (certificate, issuer) in enumerate(pairwise(path)):
                request = _status_request(certificate, issuer)
                # Devices of one machine and both manifests share issuers.
                if request not in asked:
                    asked.add(request)
                    files[f"ocsp_{name}_{place}"] = await self._status(request)
        if len(files) > MAX_RESPONSES:
            raise UnsupportedError(
                f"more than {MAX_RESPONSES} certificates to ask for",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        return files

    async def _status(self, request: bytes) -> bytes:
        return await self._retriever.obtain(
            Question(self._ocsp, MAX_RESPONSE_BYTES, request, "application/ocsp-request"),
            _read_status,
            lifetime=STATUS_LIFETIME,
        )


def devices_of(evidence: Mapping[str, bytes]) -> tuple[DeviceEvidence, ...]:
    """Return the devices of either form of evidence.

    Raises:
        MalformedError, UnsupportedError: as `read_devices`, and `malformed-evidence` where there
            is neither form.
    """
    if "evidence" in evidence:
        return read_devices(evidence["evidence"])
    if "report" not in evidence or "chain" not in evidence:
        raise _malformed("the evidence has neither a document nor a report with its chain")
    return (DeviceEvidence(evidence["report"], evidence["chain"]),)


def chip_of(device: DeviceEvidence) -> str:
    """Return the name of the chip, such as `GH100`, as the device's certificates give it.

    Raises:
        UnsupportedError: `unsupported-evidence` where they give none.
    """
    path = read_path(device.path)
    words = (hardware_model(path) or "").split() if len(path) > 1 else []
    if not words:
        raise UnsupportedError("a device of no known chip", reason=Reason.UNSUPPORTED_EVIDENCE)
    return words[0]


def manifest_path(manifest: bytes) -> Path:
    """Return the certificates inside a manifest, in their order, without reading it as XML.

    They only say whom to ask about; the verifier reads the XML and verifies it.

    Raises:
        MalformedError: `malformed-evidence` or `too-large`.
        UnsupportedError: `unsupported-algorithm`.
    """
    try:
        return load_path(
            [
                base64.b64decode(b"".join(text.split()), validate=True)
                for text in _CERTIFICATE.findall(manifest)
            ]
        )
    except binascii.Error as error:
        raise _malformed("certificate of the manifest") from error


def _manifests_of(devices: Sequence[DeviceEvidence]) -> Mapping[str, str]:
    wanted: dict[str, str] = {}
    for device in devices:
        for name, identifier in _identifiers(device).items():
            if not _IDENTIFIER.match(identifier):
                raise _malformed("a version that no manifest can be named by")
            if wanted.setdefault(name, identifier) != identifier:
                raise UnsupportedError(
                    "the devices need different manifests", reason=Reason.UNSUPPORTED_EVIDENCE
                )
    return wanted


def _identifiers(device: DeviceEvidence) -> Mapping[str, str]:
    report = parse_report(device.report)
    version = vbios_version(report, device.kind)
    if version is None:
        raise _malformed("the report names no firmware version")
    firmware = version.replace(".", "").upper()
    if device.kind is DeviceKind.SWITCH:
        return {"vbios_rim": "_".join(("NV_SWITCH_BIOS", *_SWITCH_NAMES, firmware))}
    board = [
        _text(report, field)
        for field in (OpaqueField.PROJECT, OpaqueField.PROJECT_SKU, OpaqueField.CHIP_SKU)
    ]
    driver = _text(report, OpaqueField.DRIVER_VERSION)
    return {
        "driver_rim": f"{_driver_prefix(report, chip_of(device))}_{driver}",
        "vbios_rim": "_".join(("NV_GPU_VBIOS", *board, firmware)).upper(),
    }


def _driver_prefix(report: SpdmReport, chip: str) -> str:
    if chip.startswith(_HOPPER):
        return "NV_GPU_DRIVER_GH100"
    if not chip.startswith(_BLACKWELL):
        raise UnsupportedError(
            "manifests of an unknown architecture", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    # Drivers before the field was there are all of the first chip.
    named = OpaqueField.CHIP_INFO in report.opaque
    return f"NV_GPU_CC_DRIVER_{_text(report, OpaqueField.CHIP_INFO) if named else 'GB100'}"


def _text(report: SpdmReport, field: OpaqueField) -> str:
    value = report.opaque.get(field)
    if value is None:
        raise _malformed(f"the report names no {field.name.lower()}")
    return value.rstrip(b"\0").decode("ascii", "replace").strip()


def _status_request(certificate: Certificate, issuer: Certificate) -> bytes:
    builder = ocsp.OCSPRequestBuilder()
    builder = builder.add_certificate(certificate.parsed, issuer.parsed, SHA384())
    return builder.build().public_bytes(Encoding.DER)


def _read_status(answer: Answer) -> Reading[bytes]:
    (response,) = load_responses((answer.body,))
    try:
        ends = response.next_update_utc
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _malformed("not an OCSP response") from error
    # Without a next update newer information is there at any time: nothing to keep.
    return Reading(answer.body, 0 if ends is None else int(ends.timestamp() * 1000))


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
