"""Which attester a server runs, by the word its operator gives.

    nitro              AWS Nitro Enclaves, through /dev/nsm
    tdx                an Intel TDX guest, through configfs
    sev-snp            an AMD SEV-SNP guest, through configfs
    tpm:TCTI           a TPM 2.0, for example tpm:device:/dev/tpmrm0
    software-tpm:TCTI  a software TPM: real formats, no protection by hardware
    development:DIR    an emulated enclave under a CA in DIR, made there at first use

The word also says which preset is offered. What a verifier finds is decided by its own anchors.
"""

from __future__ import annotations

import time
from pathlib import Path

from verispect.attesters.interface import Attester
from verispect.core.errors import AttesterError, Reason
from verispect.evidence.attestation import EvidenceClass


def make_attester(choice: str, state: Path) -> tuple[Attester, EvidenceClass]:
    """Return the attester of that name and the class its operator says it has.

    Args:
        choice: as the module says.
        state: where an attester keeps what it needs.

    Raises:
        AttesterError: `attester-unavailable` for an unknown word.
        StoreError: `store-failed` where its keys cannot be read or written.
        MalformedError: `malformed-key`.
    """
    word, _, detail = choice.partition(":")
    if choice == "nitro":
        from verispect.attesters.nitro import NitroAttester

        return NitroAttester(), EvidenceClass.HARDWARE
    if choice in ("tdx", "sev-snp"):
        from verispect.attesters.tsm_report import SevSnpAttester, TdxAttester

        return (TdxAttester() if choice == "tdx" else SevSnpAttester()), EvidenceClass.HARDWARE
    if word in ("tpm", "software-tpm") and detail:
        from verispect.attesters.tpm import TpmAttester

        evidence_class = EvidenceClass.HARDWARE if word == "tpm" else EvidenceClass.SOFTWARE
        return TpmAttester(state / "tpm", tcti=detail), evidence_class
    if word == "development" and detail:
        return _development(Path(detail)), EvidenceClass.DEVELOPMENT
    raise AttesterError(
        "expected nitro, tdx, sev-snp, tpm:TCTI, software-tpm:TCTI or development:DIR",
        reason=Reason.ATTESTER_UNAVAILABLE,
    )


def _development(directory: Path) -> Attester:
    from verispect.attesters.development_enclave import (
        CA_FILE,
        DevelopmentEnclave,
        DevelopmentEnclaveAttester,
    )

    if (directory / CA_FILE).exists():
        enclave = DevelopmentEnclave.load(directory)
    else:
        enclave = DevelopmentEnclave.create(directory, _now())
    return DevelopmentEnclaveAttester(enclave, clock=_now)


def _now() -> int:
    return time.time_ns() // 1_000_000
