"""Intel's provisioning certification service, version 4, and caches of it (PCCS).

    GET {base}/{tdx or sgx}/certification/v4/tcb?fmspc=..           JSON, chain in a header
    GET {base}/{tdx or sgx}/certification/v4/qe/identity            JSON, chain in a header
    GET {base}/sgx/certification/v4/pckcrl?ca=..&encoding=der       DER, chain in a header
    GET https://certificates.trustedservices.intel.com/IntelSGXRootCA.der     the root's list, DER
    GET {pccs}/sgx/certification/v4/rootcacrl                       the same, hexadecimal

The platform (FMSPC) and the authority that certified it, `platform` or `processor`, stand in the
certificates inside the quote. Chains come URL-encoded, the signer first. What Intel signed is the
text of one member of the JSON, which is kept byte for byte.

The answers together are one file, `collateral`, in the layout of
`verispect.evidence.dcap.collateral`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Self
from urllib.parse import unquote

from cryptography import x509

from verispect.attesters.endorsements.amd_kds import end_of_list
from verispect.attesters.endorsements.cache import Answer
from verispect.attesters.endorsements.interface import DAY
from verispect.attesters.endorsements.retrieval import Question, Reading, Retriever, base_address
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.certificates import Certificate
from verispect.evidence.dcap import SGX, TDX, parse_quote
from verispect.evidence.dcap.collateral import load_collateral, parse_chain
from verispect.evidence.dcap.library import read_platform
from verispect.evidence.dcap.quote import TEE_SGX, Quote
from verispect.evidence.json_text import from_hex_member, raw_member, read_object

INTEL_PCS_URL: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_LIST_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

COLLATERAL_LIFETIME: Final = DAY
"""At most, and never beyond the document's own `nextUpdate`."""

_MAX_DOCUMENT_BYTES: Final = 256 * 1024
_MAX_LIST_BYTES: Final = 512 * 1024
_TCB_CHAINS: Final = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
_IDENTITY_CHAINS: Final = ("sgx-enclave-identity-issuer-chain",)
_LIST_CHAINS: Final = ("sgx-pck-crl-issuer-chain",)
_AUTHORITIES: Final = {
    "Intel SGX PCK Platform CA": "platform",
    "Intel SGX PCK Processor CA": "processor",
}
_DER_SEQUENCE: Final = b"\x30\x82"
_SHORT_DER_SEQUENCE: Final = b"\x30\x81"


class IntelPcsFetcher:
    """Fetches `collateral` for a `quote` of Intel TDX or SGX.

    Args:
        retriever: asks and keeps.
        technology: `intel-tdx` or `intel-sgx`; a quote of the other is refused.
        base_url: the service, Intel's own.
        root_list_url: where the root's revocation list is.

    Raises:
        RequestError: `invalid-request` for an address that is not HTTPS.
    """

    def __init__(
        self,
        retriever: Retriever,
        technology: str = TDX,
        base_url: str = INTEL_PCS_URL,
        *,
        root_list_url: str = INTEL_ROOT_LIST_URL,
    ) -> None:
        if technology not in (TDX, SGX):
            raise ValueError("expected intel-tdx or intel-sgx")
        self._retriever = retriever
        self._technology = technology
        self._base = base_address(base_url)
        self._root_list = base_address(root_list_url)

    @classmethod
    def of_pccs(cls, retriever: Retriever, technology: str, base_url: str) -> Self:
        """Return a fetcher that asks a PCCS, which serves the root's list itself."""
        return cls(
            retriever,
            technology,
            base_url,
            root_list_url=f"{base_address(base_url)}/sgx/certification/v4/rootcacrl",
        )

    @property
    def technology(self) -> str:
        """`intel-tdx` or `intel-sgx`."""
        return self._technology

    async def fetch(self, evidence: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Fetch what verifies `quote`; see `EndorsementFetcher.fetch`."""
        if "quote" not in evidence:
            raise MalformedError("the evidence has no quote", reason=Reason.MALFORMED_EVIDENCE)
        quote = parse_quote(evidence["quote"])
        found = SGX if quote.tee == TEE_SGX else TDX
        if found != self._technology:
            raise UnsupportedError(
                f"expected a quote of {self._technology}, found one of {found}",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        members = {
            **await self._tcb_info(quote),
            **await self._identity(),
            **await self._platform_list(quote),
            "root_ca_crl": (await self._list(self._root_list)).hex(),
        }
        collateral = json.dumps(members).encode()
        load_collateral(collateral)
        return {"collateral": collateral}

    async def _tcb_info(self, quote: Quote) -> Mapping[str, str]:
        fmspc = read_platform(quote.pck_chain).fmspc.hex().upper()
        url = f"{self._service()}/tcb?fmspc={fmspc}"
        return await self._document(url, "tcbInfo", "tcb_info", _TCB_CHAINS)

    async def _identity(self) -> Mapping[str, str]:
        url = f"{self._service()}/qe/identity"
        return await self._document(url, "enclaveIdentity", "qe_identity", _IDENTITY_CHAINS)

    async def _platform_list(self, quote: Quote) -> Mapping[str, str]:
        authority = _authority(parse_chain(quote.pck_chain)[-2])
        url = f"{self._base}/sgx/certification/v4/pckcrl?ca={authority}&encoding=der"

        def read(answer: Answer) -> Reading[Mapping[str, str]]:
            der = _list_der(answer.body)
            chain = _chain(answer, _LIST_CHAINS)
            return Reading({"pck_crl": der.hex(), "pck_crl_issuer_chain": chain}, end_of_list(der))

        return await self._retriever.obtain(
            Question(url, _MAX_LIST_BYTES, headers=_LIST_CHAINS), read, lifetime=COLLATERAL_LIFETIME
        )

    async def _document(
        self, url: str, member: str, name: str, chains: tuple[str, ...]
    ) -> Mapping[str, str]:
        def read(answer: Answer) -> Reading[Mapping[str, str]]:
            text, signature, ends = _signed_member(answer.body, member)
            kept = {
                name: text,
                f"{name}_signature": signature,
                f"{name}_issuer_chain": _chain(answer, chains),
            }
            return Reading(kept, ends)

        return await self._retriever.obtain(
            Question(url, _MAX_DOCUMENT_BYTES, headers=chains), read, lifetime=COLLATERAL_LIFETIME
        )

    async def _list(self, url: str) -> bytes:
        def read(answer: Answer) -> Reading[bytes]:
            der = _list_der(answer.body)
            return Reading(der, end_of_list(der))

        return await self._retriever.obtain(
            Question(url, _MAX_LIST_BYTES), read, lifetime=COLLATERAL_LIFETIME
        )

    def _service(self) -> str:
        return f"{self._base}/{self._technology.removeprefix('intel-')}/certification/v4"


def _authority(issuer: Certificate) -> str:
    """Return the service's word for who certified the platform.

    A name only chooses what is asked for; whether the list fits is the verifier's question.
    """
    names = issuer.parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    authority = _AUTHORITIES.get(str(names[0].value)) if names else None
    if authority is None:
        raise UnsupportedError(
            "the platform was certified by none of Intel's authorities",
            reason=Reason.UNSUPPORTED_EVIDENCE,
        )
    return authority


def _signed_member(body: bytes, member: str) -> tuple[str, str, int]:
    """Return the text that Intel signed, its signature in hexadecimal, and when it ends."""
    document = read_object(body, limit=_MAX_DOCUMENT_BYTES)
    content = document.get(member)
    text = raw_member(body, member, limit=_MAX_DOCUMENT_BYTES)
    if text is None or not isinstance(content, dict):
        raise _malformed(f"the answer has no {member}")
    signature = from_hex_member(document.get("signature"))
    try:
        ends = datetime.fromisoformat(content["nextUpdate"])
        if ends.tzinfo is None:
            raise ValueError("no zone")
        until = int(ends.timestamp() * 1000)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _malformed(f"{member} does not say when it ends") from error
    return text.decode(), signature.hex(), until


def _chain(answer: Answer, names: tuple[str, ...]) -> str:
    encoded = next((answer.headers[name] for name in names if name in answer.headers), None)
    if encoded is None:
        raise _malformed("the answer has no issuer chain")
    text = unquote(encoded)
    parse_chain(text.encode())
    return text


def _list_der(body: bytes) -> bytes:
    """Return a revocation list that is DER, or hexadecimal of it, as a PCCS writes it."""
    if body.startswith((_DER_SEQUENCE, _SHORT_DER_SEQUENCE)):
        return body
    try:
        text = body.decode("ascii").strip().strip('"')
    except UnicodeDecodeError as error:
        raise _malformed("not a revocation list") from error
    return from_hex_member(text)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
