"""The one place that calls `dcap-qvl`, and what its sentences mean.

The library repeats all that `verispect.evidence.dcap.verifier` has checked by then, and decides
what only it decides: which TCB level the platform, the TDX module and the quoting enclave reach.
Its answer is taken as claims; the status is never left to it, because its short form returns
`OutOfDate` like a success and its strict policy refuses every cloud machine for having SMT.

The root is passed in, so that an anchor of ours and not the constant inside the library decides.
A sentence that is not in the table refuses the evidence: nothing here can turn a no into a yes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import dcap_qvl  # type: ignore[import-untyped]

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.certificates import Certificate
from verispect.evidence.dcap.collateral import CHAIN_MEMBERS, COLLATERAL_CACHE_SIZE, load_collateral

_SENTENCES: Final = (
    ("TCB status is invalid: Revoked", Reason.TCB_REVOKED),
    ("Debug mode is enabled", Reason.ATTESTATION_DEBUG),
    ("SEPT_VE_DISABLE", Reason.ATTESTATION_ATTRIBUTES),
    ("Reserved bits in TD attributes", Reason.ATTESTATION_ATTRIBUTES),
    ("TD profiling", Reason.ATTESTATION_ATTRIBUTES),
    ("TD migration", Reason.ATTESTATION_ATTRIBUTES),
    ("SERVTD_EXT", Reason.ATTESTATION_ATTRIBUTES),
    ("Invalid MR service TD", Reason.ATTESTATION_ATTRIBUTES),
    ("No matching TCB level", Reason.TCB_UNKNOWN),
    ("Unrecognized TCB status", Reason.TCB_UNKNOWN),
    ("No TCB levels found", Reason.TCB_UNKNOWN),
    ("TDX module", Reason.TCB_UNKNOWN),
    ("current TDX TCB", Reason.TCB_UNKNOWN),
    ("QE ISVSVN", Reason.TCB_UNKNOWN),
    ("QE report validation failed", Reason.TCB_UNKNOWN),
    ("Fmspc mismatch", Reason.ATTESTATION_BINDING_INVALID),
    ("QE report hash mismatch", Reason.ATTESTATION_BINDING_INVALID),
    ("TCB info in the collateral", Reason.ATTESTATION_BINDING_INVALID),
    ("Unsupported QE Identity", Reason.ATTESTATION_BINDING_INVALID),
    ("CertRevoked", Reason.ATTESTATION_REVOKED),
    ("NotValidYet", Reason.ATTESTATION_NOT_YET_VALID),
    ("in the future", Reason.ATTESTATION_NOT_YET_VALID),
    ("xpired", Reason.ATTESTATION_EXPIRED),
    ("ignature is invalid", Reason.ATTESTATION_SIGNATURE_INVALID),
    ("certificate chain", Reason.ATTESTATION_ROOT_UNTRUSTED),
)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the PCK certificate says of the platform. Nothing is believed before its chain is."""

    fmspc: bytes
    ppid: bytes
    pce_id: bytes
    cpu_svn: bytes
    pce_svn: int


@dataclass(frozen=True, slots=True)
class TcbClaims:
    """What the library found."""

    status: str
    """The worst of platform, TDX module and quoting enclave, in Intel's words."""
    advisories: tuple[str, ...]
    date: str
    """Of the platform's TCB level, as TCB info writes it."""
    qe_status: str
    flags: dict[str, Any]
    """Dynamic platform, cached keys and SMT: `True`, `False` or `Undefined`."""


@lru_cache(maxsize=64)
def read_platform(pck_chain: bytes) -> Platform:
    """Read Intel's extension of the first certificate of a PEM chain.

    Raises:
        MalformedError: `malformed-evidence`.
    """
    try:
        extension = dcap_qvl.parse_pck_extension_from_pem(pck_chain)
    except (ValueError, TypeError) as error:
        raise MalformedError(
            "the PCK certificate lacks Intel's extension", reason=Reason.MALFORMED_EVIDENCE
        ) from error
    return Platform(
        fmspc=bytes(extension.fmspc),
        ppid=bytes(extension.ppid),
        pce_id=bytes(extension.pce_id),
        cpu_svn=bytes(extension.cpu_svn),
        pce_svn=int(extension.pce_svn),
    )


def evaluate_tcb(quote: bytes, collateral: bytes, root: Certificate, at: int) -> TcbClaims:
    """Let the library verify everything once more and tell the TCB status.

    Args:
        quote: the quote, without anything behind it.
        collateral: the JSON of which everything else was checked.
        root: the certificate whose key is an anchor's.
        at: milliseconds since the epoch.

    Raises:
        VerificationError: the library's sentence, with the reason that it stands for.
        MalformedError: `malformed-evidence` for a sentence without one.
    """
    seconds = at // 1000
    try:
        claims = dcap_qvl.QuoteVerifier(root.der).verify_with_policy(
            quote, _form_of(collateral), seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
        )
        return _read_claims(json.loads(claims.to_json()))
    except (ValueError, TypeError, OverflowError, RuntimeError, KeyError) as error:
        raise _explain(str(error)) from error
    except BaseException as error:
        # A panic of the library arrives outside the tree of `Exception`; it is bad evidence too.
        if type(error).__name__ != "PanicException":
            raise
        raise _explain("panic") from error


def forget_platforms() -> None:
    """Empty the caches of this module, as `forget_collateral`."""
    read_platform.cache_clear()
    _form_of.cache_clear()


def _explain(sentence: str) -> VerificationError | MalformedError:
    detail = sentence.removeprefix("Verification failed: ")[:200]
    for words, reason in _SENTENCES:
        if words in sentence:
            return VerificationError(f"dcap-qvl: {detail}", reason=reason)
    return MalformedError(f"dcap-qvl: {detail}", reason=Reason.MALFORMED_EVIDENCE)


@lru_cache(maxsize=COLLATERAL_CACHE_SIZE)
def _form_of(data: bytes) -> Any:
    collateral = load_collateral(data)
    chains = {name: collateral.texts[name] for name in CHAIN_MEMBERS}
    return dcap_qvl.QuoteCollateralV3(
        root_ca_crl=collateral.root_crl.der,
        pck_crl=collateral.pck_crl.der,
        tcb_info=collateral.tcb_info.text,
        tcb_info_signature=collateral.tcb_info.signature,
        qe_identity=collateral.qe_identity.text,
        qe_identity_signature=collateral.qe_identity.signature,
        **chains,
    )


def _read_claims(claims: dict[str, Any]) -> TcbClaims:
    tcb, platform = claims["tcb"], claims["platform"]
    flags = ("dynamic_platform", "cached_keys", "smt_enabled")
    return TcbClaims(
        status=str(tcb["status"]),
        advisories=tuple(str(name) for name in tcb["advisory_ids"]),
        date=str(platform["tcb_level"]["tcbDate"]),
        qe_status=str(claims["qe"]["tcb_level"]["tcbStatus"]),
        flags={name: platform["pck"][name] for name in flags},
    )
