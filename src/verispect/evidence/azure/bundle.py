"""The JSON in which attestation agents of confidential containers carry Azure evidence.

Three layouts for SEV-SNP: version 0 (no `version` member; numbers for bytes, the certificate as
PEM), versions 1 and 2 (hexadecimal and base64url); and version 1 for TDX.
"""

from __future__ import annotations

from typing import Any, Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.azure.evidence import REGISTER_COUNT, AzureEvidence
from verispect.evidence.json_text import from_base64, from_hex_member, read_object
from verispect.evidence.pem import certificates_of_pem

MAX_BUNDLE_BYTES: Final = 256 * 1024
"""Upper limit of one bundle; genuine ones have 8 to 40 kB."""

_TO_STANDARD: Final = str.maketrans("-_", "+/")


def read_bundle(data: bytes, *, collateral: bytes | None = None) -> AzureEvidence:
    """Read one bundle.

    Args:
        data: the JSON.
        collateral: for a TDX machine, Intel's endorsements, which no bundle holds.

    Raises:
        MalformedError: `malformed-json`, `malformed-evidence` or `too-large`.
        UnsupportedError: `unsupported-version`.
    """
    members = read_object(data, limit=MAX_BUNDLE_BYTES)
    version = members.get("version", 0)
    if "td_quote" in members:
        return _read_tdx(members, version, collateral)
    if version == 0 and "version" not in members:
        quote = _object(members, "quote")
        return AzureEvidence(
            hcl_report=_numbers(members.get("report")),
            quote=_numbers(quote.get("message")),
            signature=_numbers(quote.get("signature")),
            pcrs=_registers([_numbers(value) for value in _list(quote, "pcrs")]),
            certificate=_pem(members.get("vcek")),
        )
    if version in (1, 2) and not isinstance(version, bool):
        quote = _object(members, "tpm_quote")
        return AzureEvidence(
            hcl_report=_base64url(members.get("hcl_report")),
            quote=from_hex_member(quote.get("message")),
            signature=from_hex_member(quote.get("signature")),
            pcrs=_registers([from_hex_member(value) for value in _list(quote, "pcrs")]),
            certificate=_base64url(members.get("vcek")),
        )
    raise UnsupportedError("version of the bundle", reason=Reason.UNSUPPORTED_VERSION)


def _read_tdx(members: dict[str, Any], version: Any, collateral: bytes | None) -> AzureEvidence:
    if version != 1 or isinstance(version, bool):
        raise UnsupportedError("version of the bundle", reason=Reason.UNSUPPORTED_VERSION)
    quote = _object(members, "tpm_quote")
    return AzureEvidence(
        hcl_report=_base64url(members.get("hcl_report")),
        quote=from_hex_member(quote.get("message")),
        signature=from_hex_member(quote.get("signature")),
        pcrs=_registers([from_hex_member(value) for value in _list(quote, "pcrs")]),
        td_quote=_base64url(members.get("td_quote")),
        collateral=collateral,
    )


def _object(members: dict[str, Any], name: str) -> dict[str, Any]:
    value = members.get(name)
    if not isinstance(value, dict):
        raise _malformed(name)
    return value


def _list(members: dict[str, Any], name: str) -> list[Any]:
    value = members.get(name)
    if not isinstance(value, list) or len(value) > REGISTER_COUNT:
        raise _malformed(name)
    return value


def _registers(values: list[bytes]) -> tuple[bytes, ...]:
    if any(len(value) != 32 for value in values):
        raise _malformed("pcrs")
    return tuple(values)


def _numbers(value: Any) -> bytes:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise _malformed("expected a list of bytes")
    try:
        return bytes(value)
    except ValueError as error:
        raise _malformed("expected a list of bytes") from error


def _base64url(value: Any) -> bytes:
    if not isinstance(value, str) or "+" in value or "/" in value:
        raise _malformed("expected base64url")
    return from_base64(value.translate(_TO_STANDARD))


def _pem(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _malformed("vcek")
    certificates = certificates_of_pem(value.encode())
    if len(certificates) != 1:
        raise _malformed("vcek")
    return certificates[0]


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"bundle: {what}", reason=Reason.MALFORMED_EVIDENCE)
