"""Which registers say what code runs, by technology.

Reference values that name only a chip, a host's data or a register that the guest may reset leave
the code unknown, and unknown code proves nothing about a receipt. An Azure machine needs two: the
paravisor's measurement, because any SEV-SNP guest could otherwise state a vTPM of its own making,
and a register of the vTPM, because the paravisor measures no guest.

This module refuses to say whether the registers named are enough: that is the user's decision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

_SNP: Final = frozenset({"measurement", "id_key_digest", "author_key_digest"})
_TDX: Final = frozenset({"mr_td", *(f"rtmr{index}" for index in range(4))})
# Register 16 is for debugging and 23 for applications: any guest resets them.
_TPM: Final = frozenset(
    f"{bank}:{index}"
    for bank in ("sha256", "sha384", "sha512")
    for index in range(24)
    if index not in (16, 23)
)

CODE_REGISTERS: Final[Mapping[str, tuple[frozenset[str], ...]]] = MappingProxyType(
    {
        "aws-nitro": (frozenset({"pcr0", "pcr1", "pcr2", "pcr8"}),),
        "intel-tdx": (_TDX,),
        "amd-sev-snp": (_SNP,),
        "tpm2-quote": (_TPM,),
        "azure-vtpm": (_SNP | _TDX, _TPM),
        "gcp-confidential-space": (frozenset({"image_digest", "image_id"}),),
    }
)
"""By technology, groups of registers; one of each group has to be named."""


def name_code(technology: str, registers: Collection[str]) -> bool:
    """Tell whether reference values of these registers leave the code known."""
    named = {register.lower() for register in registers}
    groups = CODE_REGISTERS.get(technology, ())
    return bool(groups) and all(named & group for group in groups)
