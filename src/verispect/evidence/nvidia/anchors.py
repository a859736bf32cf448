"""NVIDIA's own roots, by the digest of their keys; a name is never compared and nothing fetched.

Three technologies: `nvidia-gpu` for device identity (GPU and NVSwitch have one root),
`nvidia-rim` for reference manifests, `nvidia-nras` for the tokens of the attestation service. The
service's published key sets end at an intermediate; its root stands in none of them, so the
intermediate is pinned, with the whole certificate, because nothing at hand can verify its dates.
It is valid to 2029-12-08 and must be replaced here before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verispect.core.encoding import Digest
from verispect.evidence.attestation import Anchor, EvidenceClass

DEVICE: Final = "nvidia-gpu"
MANIFEST: Final = "nvidia-rim"
SERVICE: Final = "nvidia-nras"

GENUINE_ANCHORS: Final[tuple[Anchor, ...]] = (
    Anchor(
        DEVICE,
        Digest(bytes.fromhex("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4")),
        EvidenceClass.HARDWARE,
        "NVIDIA Device Identity CA",
    ),
    Anchor(
        MANIFEST,
        Digest(bytes.fromhex("dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3")),
        EvidenceClass.HARDWARE,
        "NVIDIA CoRIM signing Root CA",
    ),
    Anchor(
        SERVICE,
        Digest(bytes.fromhex("fd32837f954e2c45db073105166dfe6985ae0480bb113fba63b091a75affe896")),
        EvidenceClass.HARDWARE,
        "NVIDIA Attestation Service GPU Intermediate 004",
    ),
)

GENUINE_INTERMEDIATES: Final[Mapping[Digest, Digest]] = {
    GENUINE_ANCHORS[2].key_digest: Digest(
        bytes.fromhex("2df8907cf4d6c277b855d407ec178a649930a8e73f7294e8fce66e6ee27c5175")
    )
}
"""For a pinned key that signs no certificate of its own: SHA-256 of the only DER certificate that
may stand for it."""
