"""Intel quotes as bytes: SGX version 3, TDX versions 4 and 5.

A quote is a header, a body (an enclave's report or a trust domain's) and signature data: the
signature of header and body, the attestation key, the quoting enclave's report and its signature
by the platform's PCK key, the quoting enclave's authentication data, and the PCK certificate
chain. All integers are little-endian. Every length has to come out exactly; the one thing that
may follow is zero bytes, because recorded quotes are padded to their buffer.

This module reads; it verifies nothing, and nothing it returns may be believed before
`verispect.evidence.dcap.verifier` has.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError

MAX_QUOTE_BYTES: Final = 64 * 1024
"""Upper limit of a quote; genuine ones have 4 to 9 kB with their padding."""

AUTHENTICATION_BYTES: Final = 32
"""Length of the quoting enclave's authentication data; Intel's enclaves know no other."""

HEADER_BYTES: Final = 48
ENCLAVE_REPORT_BYTES: Final = 384
TD_REPORT_10_BYTES: Final = 584
TD_REPORT_15_BYTES: Final = 648
SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 64

TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81

_QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_KEY_TYPE_ECDSA_P256: Final = 2
_CERTIFICATION_PCK_CHAIN: Final = 5
_CERTIFICATION_QE_REPORT: Final = 6
_BODY_LENGTHS: Final[Mapping[int, int]] = {
    1: ENCLAVE_REPORT_BYTES,
    2: TD_REPORT_10_BYTES,
    3: TD_REPORT_15_BYTES,
}
"""By the body type of version 5."""


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX report: an enclave's own, or the quoting enclave's."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory is open to the host."""
        return bool(self.attributes[0] & 0x02)


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module reports of a trust domain."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn_2: bytes | None
    """Only TDX 1.5."""
    mr_service_td: bytes | None
    """Only TDX 1.5."""

    @property
    def debug(self) -> bool:
        """Whether the trust domain's memory is open to the host."""
        return bool(self.td_attributes[0] & 0x01)


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote, taken apart and not yet verified."""

    version: int
    tee: int
    """`TEE_SGX` or `TEE_TDX`."""
    report: EnclaveReport | TdReport
    signed: bytes
    """Header and body, as the attestation key signs them."""
    signature: bytes
    """r and s, 32 bytes each, big-endian."""
    attestation_key: bytes
    """x and y on P-256, 32 bytes each, big-endian."""
    qe_report: EnclaveReport
    qe_report_bytes: bytes
    qe_report_signature: bytes
    authentication_data: bytes
    pck_chain: bytes
    """PEM, leaf first, without trailing zero bytes."""
    length: int
    """Length without the padding behind it."""


def parse_quote(data: bytes) -> Quote:
    """Take a quote apart.

    Args:
        data: the quote, perhaps followed by zero bytes.

    Raises:
        MalformedError: `too-large` or `malformed-evidence`, with the field at fault.
        UnsupportedError: `unsupported-version` for another version, TEE or body type,
            `unsupported-algorithm` for another attestation key or certification data type.
    """
    if len(data) > MAX_QUOTE_BYTES:
        raise MalformedError(
            f"expected at most {MAX_QUOTE_BYTES} bytes of quote, got {len(data)}",
            reason=Reason.TOO_LARGE,
        )
    reader = _Reader(data)
    version, tee = _read_header(reader.take(HEADER_BYTES, "header"))
    body = _read_body(reader, version, tee)
    signed = data[: reader.offset]
    signature_data = _Reader(reader.sized("<I", MAX_QUOTE_BYTES, "signature data"))
    if data[reader.offset :].strip(b"\x00"):
        raise _malformed("bytes other than zero follow the quote")
    signature = signature_data.take(SIGNATURE_BYTES, "quote signature")
    attestation_key = signature_data.take(KEY_BYTES, "attestation key")
    if version >= 4:
        # Since version 4 the quoting enclave's report is itself certification data.
        signature_data = _certification(signature_data, _CERTIFICATION_QE_REPORT)
    qe_report = signature_data.take(ENCLAVE_REPORT_BYTES, "quoting enclave's report")
    qe_signature = signature_data.take(SIGNATURE_BYTES, "quoting enclave's signature")
    authentication = signature_data.sized("<H", AUTHENTICATION_BYTES, "authentication data")
    if len(authentication) != AUTHENTICATION_BYTES:
        raise _malformed(f"expected {AUTHENTICATION_BYTES} bytes of authentication data")
    chain = _certification(signature_data, _CERTIFICATION_PCK_CHAIN)
    return Quote(
        version=version,
        tee=tee,
        report=_enclave_report(body) if tee == TEE_SGX else _td_report(body),
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=_enclave_report(qe_report),
        qe_report_bytes=qe_report,
        qe_report_signature=qe_signature,
        authentication_data=authentication,
        # Intel's own quoting library ends the chain with a zero byte, inside its length.
        pck_chain=chain.rest().rstrip(b"\x00"),
        length=reader.offset,
    )


class _Reader:
    """Takes fields from bytes and refuses to run past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, length: int, name: str) -> bytes:
        end = self.offset + length
        if end > len(self._data):
            raise _malformed(f"{name} ends after the {len(self._data)} bytes there are")
        field = self._data[self.offset : end]
        self.offset = end
        return field

    def integer(self, layout: str, name: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), name))
        return int(value)

    def sized(self, layout: str, limit: int, name: str) -> bytes:
        length = self.integer(layout, f"length of the {name}")
        if length > limit:
            raise _malformed(f"expected at most {limit} bytes of {name}, got {length}")
        return self.take(length, name)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.offset, "rest")


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def _read_header(header: bytes) -> tuple[int, int]:
    version, key_type, tee = struct.unpack_from("<HHI", header)
    if version not in {3, 4, 5}:
        raise UnsupportedError(
            f"expected quote version 3, 4 or 5, got {version}", reason=Reason.UNSUPPORTED_VERSION
        )
    if key_type != _KEY_TYPE_ECDSA_P256:
        raise UnsupportedError(
            f"expected attestation key type 2, got {key_type}", reason=Reason.UNSUPPORTED_ALGORITHM
        )
    if tee != (TEE_SGX if version == 3 else TEE_TDX):
        raise UnsupportedError(
            f"TEE type {tee:#x} does not go with quote version {version}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
    if header[12:28] != _QE_VENDOR_INTEL:
        raise UnsupportedError(
            "the quoting enclave is of another vendor", reason=Reason.UNSUPPORTED_VERSION
        )
    return version, tee


def _read_body(reader: _Reader, version: int, tee: int) -> bytes:
    if version == 3:
        return reader.take(ENCLAVE_REPORT_BYTES, "enclave report")
    if version == 4:
        return reader.take(TD_REPORT_10_BYTES, "trust domain report")
    body_type = reader.integer("<H", "body type")
    length = reader.integer("<I", "body length")
    expected = _BODY_LENGTHS.get(body_type)
    if expected is None or (body_type == 1) != (tee == TEE_SGX):
        raise UnsupportedError(
            f"body type {body_type} is not supported", reason=Reason.UNSUPPORTED_VERSION
        )
    if length != expected:
        raise _malformed(f"expected a body of {expected} bytes, got {length}")
    return reader.take(length, "trust domain report")


def _certification(outer: _Reader, expected: int) -> _Reader:
    """Return a reader of certification data, which must fill what is left of `outer`."""
    kind = outer.integer("<H", "certification data type")
    if kind != expected:
        raise UnsupportedError(
            f"expected certification data type {expected}, got {kind}",
            reason=Reason.UNSUPPORTED_ALGORITHM,
        )
    data = outer.sized("<I", MAX_QUOTE_BYTES, "certification data")
    if outer.rest().strip(b"\x00"):
        raise _malformed("bytes other than zero follow the certification data")
    return _Reader(data)


def _enclave_report(data: bytes) -> EnclaveReport:
    isv_prod_id, isv_svn = struct.unpack_from("<HH", data, 256)
    return EnclaveReport(
        cpu_svn=data[0:16],
        misc_select=data[16:20],
        attributes=data[48:64],
        mr_enclave=data[64:96],
        mr_signer=data[128:160],
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        report_data=data[320:384],
    )


def _td_report(data: bytes) -> TdReport:
    later = len(data) > TD_REPORT_10_BYTES
    return TdReport(
        tee_tcb_svn=data[0:16],
        mr_seam=data[16:64],
        mr_signer_seam=data[64:112],
        seam_attributes=data[112:120],
        td_attributes=data[120:128],
        xfam=data[128:136],
        mr_td=data[136:184],
        mr_config_id=data[184:232],
        mr_owner=data[232:280],
        mr_owner_config=data[280:328],
        rtmr=(data[328:376], data[376:424], data[424:472], data[472:520]),
        report_data=data[520:584],
        tee_tcb_svn_2=data[584:600] if later else None,
        mr_service_td=data[600:648] if later else None,
    )
