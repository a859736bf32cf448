"""Which attester a server runs, by the word its operator gives.

    nitro              AWS Nitro Enclaves, through /dev/nsm
    tdx[:URL]          an Intel TDX guest, through configfs; collateral from Intel, or a PCCS at URL
    sev-snp[:URL]      an AMD SEV-SNP guest, through configfs; certificates from AMD, or from URL
    tpm:TCTI           a TPM 2.0, for example tpm:device:/dev/tpmrm0
    software-tpm:TCTI  a software TPM: real formats, no protection by hardware
    development:DIR    an emulated enclave under a CA in DIR, made there at first use

The word also says which preset is offered. What a verifier finds is decided by its own anchors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
    if word == "tdx":
        from verispect.attesters.tsm_report import TdxAttester

        endorse = _endorser("intel-tdx", "quote", detail, state)
        return TdxAttester(endorse=endorse), EvidenceClass.HARDWARE
    if word == "sev-snp":
        from verispect.attesters.tsm_report import SevSnpAttester

        endorse = _endorser("amd-sev-snp", "report", detail, state)
        return SevSnpAttester(endorse=endorse), EvidenceClass.HARDWARE
    if word in ("tpm", "software-tpm") and detail:
        from verispect.attesters.tpm import TpmAttester

        evidence_class = EvidenceClass.HARDWARE if word == "tpm" else EvidenceClass.SOFTWARE
        return TpmAttester(state / "tpm", tcti=detail), evidence_class
    if word == "development" and detail:
        return _development(Path(detail)), EvidenceClass.DEVELOPMENT
    raise AttesterError(
        "expected nitro, tdx[:URL], sev-snp[:URL], tpm:TCTI, software-tpm:TCTI or development:DIR",
        reason=Reason.ATTESTER_UNAVAILABLE,
    )


def _endorser(
    technology: str, main: str, url: str, state: Path
) -> Callable[[bytes], Mapping[str, bytes]]:
    """Return what fetches the endorsements of one piece of evidence, keeping them in `state`."""
    from verispect.attesters.endorsements.amd_kds import AmdKdsFetcher
    from verispect.attesters.endorsements.cache import EndorsementCache
    from verispect.attesters.endorsements.intel_pcs import IntelPcsFetcher
    from verispect.attesters.endorsements.retrieval import Retriever

    async def fetch(body: bytes) -> Mapping[str, bytes]:
        async with Retriever(EndorsementCache(state / "endorsements")) as retriever:
            if technology == "amd-sev-snp":
                amd = AmdKdsFetcher(retriever, url) if url else AmdKdsFetcher(retriever)
                return await amd.fetch({main: body})
            if url:
                return await IntelPcsFetcher.of_pccs(retriever, technology, url).fetch({main: body})
            return await IntelPcsFetcher(retriever, technology).fetch({main: body})

    def endorse(body: bytes) -> Mapping[str, bytes]:
        # A loop may be running here, and attesters are not asynchronous: ask on another thread.
        with ThreadPoolExecutor(1, thread_name_prefix="endorsements") as executor:
            return executor.submit(lambda: asyncio.run(fetch(body))).result()

    return endorse


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
