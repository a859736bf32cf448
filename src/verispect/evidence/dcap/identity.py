"""Is the quoting enclave Intel's, and is the TDX module the one that TCB info names?

The library asks both too, and answers every "no" with one sentence; here the answers are told
apart. Versions are not compared here: which are current is the library's answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.dcap.quote import EnclaveReport, TdReport

MAX_MODULES: Final = 256
"""Upper limit of TDX modules in TCB info: the version is one byte."""


def check_quoting_enclave(report: EnclaveReport, identity: Mapping[str, Any]) -> None:
    """Compare the quoting enclave's report with the identity that Intel signed.

    Raises:
        MalformedError: `malformed-evidence` where the identity lacks a member.
        VerificationError: `attestation-measurement-mismatch` for another signer or product,
            `attestation-attributes`.
    """
    if report.mr_signer != _octets(identity, "mrsigner", 32):
        raise _other("the quoting enclave is signed by another key")
    if report.isv_prod_id != identity.get("isvprodid"):
        raise _other("the quoting enclave is another product")
    _check_masked("the quoting enclave's attributes", report.attributes, identity, "attributes")
    # The identity writes MISCSELECT as a number, the report as little-endian bytes.
    misc_select = report.misc_select[::-1]
    _check_masked("the quoting enclave's miscselect", misc_select, identity, "miscselect")


def check_tdx_module(report: TdReport, tcb_info: Mapping[str, Any]) -> None:
    """Compare signer and attributes of the TDX module with those that Intel signed.

    Raises:
        MalformedError: `malformed-evidence` where TCB info lacks a member.
        VerificationError: `attestation-measurement-mismatch`, `attestation-attributes`, or
            `tcb-unknown` for a module of which TCB info does not know the version.
    """
    module = _module_of(report.tee_tcb_svn[1], tcb_info)
    if report.mr_signer_seam != _octets(module, "mrsigner", 48):
        raise _other("the TDX module is signed by another key")
    _check_masked("the TDX module's attributes", report.seam_attributes, module, "attributes")


def _module_of(version: int, tcb_info: Mapping[str, Any]) -> Mapping[str, Any]:
    modules = tcb_info.get("tdxModuleIdentities", [])
    if not isinstance(modules, list) or len(modules) > MAX_MODULES:
        raise _malformed("tdxModuleIdentities")
    if version == 0 or not modules:
        found = tcb_info.get("tdxModule")
    else:
        name = f"TDX_{version:02X}"
        found = next((m for m in modules if isinstance(m, dict) and m.get("id") == name), None)
        if found is None:
            raise VerificationError(
                f"TCB info knows no TDX module {name}", reason=Reason.TCB_UNKNOWN
            )
    if not isinstance(found, dict):
        raise _malformed("tdxModule")
    return found


def _check_masked(what: str, actual: bytes, members: Mapping[str, Any], name: str) -> None:
    expected = _octets(members, name, len(actual))
    mask = _octets(members, f"{name}Mask", len(actual))
    if any(a & m != e & m for a, e, m in zip(actual, expected, mask, strict=True)):
        raise VerificationError(
            f"{what} are not those that Intel published", reason=Reason.ATTESTATION_ATTRIBUTES
        )


def _octets(members: Mapping[str, Any], name: str, length: int) -> bytes:
    value = members.get(name)
    try:
        octets = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        octets = b""
    if len(octets) != length:
        raise _malformed(name)
    return octets


def _malformed(name: str) -> MalformedError:
    return MalformedError(
        f"collateral has no usable member {name}", reason=Reason.MALFORMED_EVIDENCE
    )


def _other(detail: str) -> VerificationError:
    return VerificationError(detail, reason=Reason.ATTESTATION_MEASUREMENT_MISMATCH)
