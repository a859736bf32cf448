"""The report of Azure's host compatibility layer, strictly parsed.

It stands in the vTPM's NV index 0x01400001: a header, the hardware's report, and the runtime data
whose digest the hardware report carries. The runtime data is JSON and names the vTPM's keys.

This module refuses to judge: it believes neither the report nor the keys.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.evidence.json_text import from_hex_member, read_object

MAX_REPORT_BYTES: Final = 16 * 1024
MAX_RUNTIME_BYTES: Final = 8 * 1024
HEADER_BYTES: Final = 32
HARDWARE_REPORT_BYTES: Final = 1184
TD_REPORT_BYTES: Final = 1024
USER_DATA_BYTES: Final = 64

_SIGNATURE: Final = b"HCLA"
_VERSIONS: Final = (1, 2)
_RUNTIME_HEADER_BYTES: Final = 20
_RUNTIME_VERSION: Final = 1
_SHA256: Final = 1
_AK_NAME: Final = "HCLAkPub"
_MAX_KEYS: Final = 16
_TD_REPORT_DATA: Final = slice(128, 192)


class HardwareKind(Enum):
    """Whose report is inside."""

    SEV_SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True)
class HclReport:
    """One parsed report."""

    kind: HardwareKind
    hardware_report: bytes
    """An SEV-SNP report, or a `TDREPORT`, which only its own machine can check."""
    runtime_data: bytes
    """The JSON, byte for byte."""

    @property
    def td_report_data(self) -> bytes:
        """The guest's field of a `TDREPORT`."""
        return self.hardware_report[_TD_REPORT_DATA]


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """What the paravisor says about the vTPM and the machine."""

    attestation_key: rsa.RSAPublicKey
    user_data: bytes | None
    """64 bytes that the guest had written before the report was made."""
    configuration: Mapping[str, bool | str]


def parse_hcl_report(data: bytes) -> HclReport:
    """Parse one report; zero bytes behind its end are the padding of the NV index.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-version`, `unsupported-algorithm` or
            `unsupported-evidence`.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise MalformedError("HCL report too large", reason=Reason.TOO_LARGE)
    start = HEADER_BYTES + HARDWARE_REPORT_BYTES
    if len(data) < start + _RUNTIME_HEADER_BYTES or not data.startswith(_SIGNATURE):
        raise _malformed("header")
    version, report_size, _, status, *reserved = struct.unpack_from("<7I", data, 4)
    if version not in _VERSIONS:
        raise UnsupportedError("version of the HCL report", reason=Reason.UNSUPPORTED_VERSION)
    size, runtime_version, kind, hash_type, length = struct.unpack_from("<5I", data, start)
    end = start + size
    if status or any(reserved) or size != _RUNTIME_HEADER_BYTES + length:
        raise _malformed("header")
    if report_size != end or end > len(data) or any(data[end:]):
        raise _malformed("length")
    if runtime_version != _RUNTIME_VERSION:
        raise UnsupportedError("version of the runtime data", reason=Reason.UNSUPPORTED_VERSION)
    if hash_type != _SHA256:
        raise UnsupportedError("hash of the runtime data", reason=Reason.UNSUPPORTED_ALGORITHM)
    hardware = data[HEADER_BYTES:start]
    if kind == HardwareKind.TDX.value and any(hardware[TD_REPORT_BYTES:]):
        raise _malformed("padding of a TDREPORT")
    try:
        return HclReport(HardwareKind(kind), hardware, data[start + _RUNTIME_HEADER_BYTES : end])
    except ValueError as error:
        raise UnsupportedError(
            "kind of hardware report", reason=Reason.UNSUPPORTED_EVIDENCE
        ) from error


def read_runtime_data(data: bytes) -> RuntimeData:
    """Read the runtime data's JSON.

    Raises:
        MalformedError: `malformed-evidence`, `malformed-json` or `too-large`.
    """
    members = read_object(data, limit=MAX_RUNTIME_BYTES)
    keys = members.get("keys")
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise _malformed("keys of the runtime data")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == _AK_NAME]
    if len(named) != 1:
        raise _malformed("runtime data without exactly one attestation key")
    user_data = members.get("user-data")
    configuration = members.get("vm-configuration", {})
    if not isinstance(configuration, dict):
        raise _malformed("configuration of the machine")
    return RuntimeData(
        attestation_key=_rsa_key(named[0]),
        user_data=None if user_data is None else from_hex_member(user_data, length=USER_DATA_BYTES),
        configuration={
            name: value for name, value in configuration.items() if isinstance(value, (bool, str))
        },
    )


def _rsa_key(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = jwk.get("n"), jwk.get("e")
    if jwk.get("kty") != "RSA" or not isinstance(modulus, str) or not isinstance(exponent, str):
        raise _malformed("attestation key of the runtime data")
    try:
        n, e = (int.from_bytes(from_base64url(v, limit=1024), "big") for v in (modulus, exponent))
        return rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, Error) as error:
        raise _malformed("attestation key of the runtime data") from error


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"HCL report: {what}", reason=Reason.MALFORMED_EVIDENCE)
