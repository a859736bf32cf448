"""AMD's key distribution service: the certificate of one chip at one version, and who signed it.

    GET {base}/vcek/v1/{product}/{chip id}?blSPL=..&teeSPL=..&snpSPL=..&ucodeSPL=..    DER
    GET {base}/{vcek or vlek}/v1/{product}/cert_chain                                  PEM
    GET {base}/{vcek or vlek}/v1/{product}/crl                                         DER

The chain is the signer (ASK or ASVK) and the root (ARK).

Turin's chip identifier is 8 bytes long, the others' 64, and Turin has one component more
(`fmcSPL`). A report before version 3 does not say of which generation its chip is: unless a
certificate that came with it does, each generation of that time is asked for.

AMD gives the certificate of a cloud provider's key (VLEK) to that provider only, so it has to come
with the evidence. A chip that hides its identifier cannot be asked for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography import x509

from verispect.attesters.endorsements.cache import Answer
from verispect.attesters.endorsements.interface import DAY
from verispect.attesters.endorsements.retrieval import (
    NotServedError,
    Question,
    Reading,
    Retriever,
    base_address,
)
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.certificates import MAX_CERTIFICATE_BYTES, load_certificate
from verispect.evidence.pem import MAX_PEM_BYTES, certificates_of_pem
from verispect.evidence.sev_snp import TECHNOLOGY
from verispect.evidence.sev_snp.endorsement import HARDWARE_ID_BYTES, read_endorsement
from verispect.evidence.sev_snp.report import (
    Generation,
    Report,
    SigningKey,
    generation_of_cpuid,
    parse_report,
)
from verispect.evidence.sev_snp.revocation import MAX_LIST_BYTES
from verispect.evidence.technologies import certificate_der

AMD_KDS_URL: Final = "https://kdsintf.amd.com"

CERTIFICATE_LIFETIME: Final = 30 * DAY
"""A chip's certificate at one version never changes, and neither does its signers'."""

LIST_LIFETIME: Final = 7 * DAY
"""AMD's lists are good for a year by their own word; a revocation must not take that long."""

_PARAMETERS: Final = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
_BEFORE_VERSION_3: Final = (Generation.MILAN, Generation.GENOA)
_SIGNERS: Final = 2


class AmdKdsFetcher:
    """Fetches `cert`, `ask`, `ark` and `crl` for a `report` of AMD SEV-SNP.

    Args:
        retriever: asks and keeps.
        base_url: the service, AMD's own or a mirror.
        revocation: whether to fetch the revocation list.

    Raises:
        RequestError: `invalid-request` for an address that is not HTTPS.
    """

    technology: Final = TECHNOLOGY

    def __init__(
        self, retriever: Retriever, base_url: str = AMD_KDS_URL, *, revocation: bool = True
    ) -> None:
        self._retriever = retriever
        self._base = base_address(base_url)
        self._revocation = revocation

    async def fetch(self, evidence: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Fetch what verifies `report`; see `EndorsementFetcher.fetch`."""
        if "report" not in evidence:
            raise MalformedError("the evidence has no report", reason=Reason.MALFORMED_EVIDENCE)
        report = parse_report(evidence["report"])
        files: dict[str, bytes] = {}
        if "cert" in evidence:
            certificate = load_certificate(certificate_der(evidence["cert"]))
            generation = read_endorsement(certificate).generation
        else:
            generation, files["cert"] = await self._chip_certificate(report)
        service = f"{self._base}/{report.signing_key.value.lower()}/v1/{generation.value}"
        files["ask"], files["ark"] = await self._retriever.obtain(
            Question(f"{service}/cert_chain", MAX_PEM_BYTES),
            _read_signers,
            lifetime=CERTIFICATE_LIFETIME,
        )
        if self._revocation:
            files["crl"] = await self._retriever.obtain(
                Question(f"{service}/crl", MAX_LIST_BYTES), _read_list, lifetime=LIST_LIFETIME
            )
        return files

    async def _chip_certificate(self, report: Report) -> tuple[Generation, bytes]:
        if report.signing_key is not SigningKey.VCEK or not any(report.chip_id):
            raise UnsupportedError(
                "AMD serves certificates of chips that show their identifier only",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        if report.cpuid is not None:
            generations: tuple[Generation, ...] = (generation_of_cpuid(*report.cpuid[:2]),)
        else:
            generations = _BEFORE_VERSION_3
        for generation in generations:
            try:
                return generation, await self._retriever.obtain(
                    Question(self._chip_address(report, generation), MAX_CERTIFICATE_BYTES),
                    _read_certificate,
                    lifetime=CERTIFICATE_LIFETIME,
                )
            except NotServedError:
                continue
        raise NotServedError("AMD knows no such chip", reason=Reason.NETWORK_FAILED)

    def _chip_address(self, report: Report, generation: Generation) -> str:
        chip = report.chip_id[: HARDWARE_ID_BYTES[generation]].hex()
        components = report.reported_tcb.components(generation)
        query = "&".join(
            f"{parameter}={components[name]:02}"
            for name, parameter in _PARAMETERS.items()
            if name in components
        )
        return f"{self._base}/vcek/v1/{generation.value}/{chip}?{query}"


def _read_certificate(answer: Answer) -> Reading[bytes]:
    certificate = load_certificate(answer.body)
    return Reading(answer.body, certificate.not_after)


def _read_signers(answer: Answer) -> Reading[tuple[bytes, bytes]]:
    chain = certificates_of_pem(answer.body)
    if len(chain) != _SIGNERS:
        raise MalformedError(
            f"expected {_SIGNERS} certificates, got {len(chain)}", reason=Reason.MALFORMED_EVIDENCE
        )
    ends = min(load_certificate(der).not_after for der in chain)
    return Reading((chain[0], chain[1]), ends)


def _read_list(answer: Answer) -> Reading[bytes]:
    return Reading(answer.body, end_of_list(answer.body))


def end_of_list(der: bytes) -> int:
    """Return when a newer revocation list is due, milliseconds since the epoch.

    Raises:
        MalformedError: `malformed-evidence`.
    """
    try:
        ends = x509.load_der_x509_crl(der).next_update_utc
    except (ValueError, TypeError) as error:
        raise MalformedError("not a revocation list", reason=Reason.MALFORMED_EVIDENCE) from error
    if ends is None:
        raise MalformedError("a list without an end", reason=Reason.MALFORMED_EVIDENCE)
    return int(ends.timestamp() * 1000)
