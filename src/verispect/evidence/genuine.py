"""The genuine roots of every vendor, loaded only for the technology that is asked about.

Each technology's module pins its roots by key. They are not imported together, so that verifying a
receipt without attestation evidence costs nothing of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from verispect.evidence.attestation import Anchor

GENUINE_MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws-nitro": "verispect.evidence.nitro",
        "intel-tdx": "verispect.evidence.dcap",
        "intel-sgx": "verispect.evidence.dcap",
        "amd-sev-snp": "verispect.evidence.sev_snp",
        "azure-vtpm": "verispect.evidence.azure",
        "nvidia-gpu": "verispect.evidence.nvidia",
        "nvidia-rim": "verispect.evidence.nvidia",
        "nvidia-nras": "verispect.evidence.nvidia",
        "tpm2-quote": "verispect.evidence.tpm",
        "gcp-confidential-space": "verispect.evidence.confidential_space",
    }
)
"""Every technology, and the module whose `GENUINE_ANCHORS` are its vendor's roots."""


_UNDER_ROOTS_OF_OTHERS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"azure-vtpm": frozenset({"amd-sev-snp", "intel-tdx"})}
)


def root_technologies(technology: str) -> frozenset[str]:
    """Return the technologies whose roots decide about evidence of `technology`.

    Its own, but for Azure's machines: there the processors' roots do.
    """
    return _UNDER_ROOTS_OF_OTHERS.get(technology, frozenset({technology}))


def genuine_anchors(technology: str) -> tuple[Anchor, ...]:
    """Return the vendor's roots of one technology; none where no vendor's root is pinned.

    Raises:
        KeyError: for a technology that is not in the table. This is misuse, not bad input.
    """
    module = importlib.import_module(GENUINE_MODULES[technology])
    anchors: tuple[Anchor, ...] = module.GENUINE_ANCHORS
    roots = root_technologies(technology)
    return tuple(anchor for anchor in anchors if anchor.technology in roots)
