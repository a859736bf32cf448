"""NVIDIA GPUs and NVSwitches: measurement reports, reference manifests, service tokens.

Parsing (`spdm`, `documents`), paths and revocation (`anchors`, `paths`, `ocsp`), reference values
(`rim`), one device (`report`), the service (`eat`), and the appraisals of all of them
(`appraise`). Normative text: spec/evidence-nvidia.md. Pure: no network, clock, file or
environment. Refuses to believe a result because it is signed.
"""

from verispect.evidence.nvidia.anchors import GENUINE_ANCHORS
from verispect.evidence.nvidia.appraise import (
    DeviceDocument,
    ManifestEvidence,
    appraise_nvidia_document,
    appraise_nvidia_gpu,
    appraise_nvidia_rim,
    appraise_nvidia_token,
)
from verispect.evidence.nvidia.eat import ServiceToken
from verispect.evidence.nvidia.report import DeviceEvidence, DeviceKind

__all__ = [
    "GENUINE_ANCHORS",
    "DeviceDocument",
    "DeviceEvidence",
    "DeviceKind",
    "ManifestEvidence",
    "ServiceToken",
    "appraise_nvidia_document",
    "appraise_nvidia_gpu",
    "appraise_nvidia_rim",
    "appraise_nvidia_token",
]
