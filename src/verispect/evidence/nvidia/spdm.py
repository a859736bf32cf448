"""The measurement report of an NVIDIA device: an SPDM 1.1 request and the response to it.

The device hands out both messages as one string of bytes, and signs both (DSP0274, section
GET_MEASUREMENTS). All integers are little-endian.

    request, 37 bytes    0x11 0xE0 0x01 0xFF, nonce (32), slot
    response             0x11 0x60 param1 param2, blocks (1), record length (3), record,
                         nonce (32), opaque length (2), opaque data, signature (96)
    block of the record  index, 0x01, size (2), type, value size (2), value
    opaque field         type (2), size (2), value

Newer devices put twelve bytes before the opaque fields (`NVDAOD`, profile, version) and a value
type after each type. Strict: every length must be used up exactly, no index and no field that is
read here may come twice, and nothing may follow the signature.

This module refuses to verify anything: the parsed report is believed by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError

MAX_REPORT_BYTES: Final = 64 * 1024
"""Upper limit of a report; genuine ones have 4.1 to 4.3 kB."""

MAX_OPAQUE_BYTES: Final = 16 * 1024
MAX_MEASUREMENT_BYTES: Final = 1024

REQUEST_BYTES: Final = 37
NONCE_BYTES: Final = 32
SIGNATURE_BYTES: Final = 96

_VERSION: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_SIGNATURE_REQUESTED: Final = 0x01
_ALL_MEASUREMENTS: Final = 0xFF
_DMTF_SPECIFICATION: Final = 0x01
_MAX_SLOT: Final = 7
_HEADER_MAGIC: Final = b"NVDAOD"
_MAX_OPAQUE_VERSION: Final = 2


class OpaqueField(IntEnum):
    """The opaque fields that are read here; devices send others, which are skipped."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    BOARD_ID = 14
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


@dataclass(frozen=True, slots=True)
class SpdmReport:
    """One parsed report."""

    request_nonce: bytes
    """Chosen by whoever asked: the only sign of freshness."""
    response_nonce: bytes
    """Chosen by the device."""
    slot: int
    measurements: Mapping[int, bytes]
    """By SPDM index, which starts at 1."""
    opaque: Mapping[OpaqueField, bytes]
    signed: bytes
    """Everything before the signature."""
    signature: bytes
    """r and s, 48 bytes each, big-endian."""


def parse_report(data: bytes) -> SpdmReport:
    """Read the request and the response of one measurement report.

    Raises:
        MalformedError: `malformed-evidence` with the part at fault, or `too-large`.
        UnsupportedError: `unsupported-version` for another SPDM version or form of opaque data.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise MalformedError(
            f"a report has at most {MAX_REPORT_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    reader = _Reader(bytes(data))
    request_nonce, slot = _read_request(reader)
    _expect_version(reader.byte())
    if reader.byte() != _MEASUREMENTS:
        raise _malformed("response is not MEASUREMENTS")
    reader.take(2)
    blocks = reader.byte()
    record = _Reader(reader.take(reader.integer(3)))
    measurements = _read_record(record, blocks)
    response_nonce = reader.take(NONCE_BYTES)
    opaque_size = reader.integer(2)
    if opaque_size > MAX_OPAQUE_BYTES:
        raise MalformedError(
            f"opaque data has at most {MAX_OPAQUE_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    opaque = _read_opaque(reader.take(opaque_size))
    signed_bytes = reader.offset
    signature = reader.take(SIGNATURE_BYTES)
    if not reader.at_end:
        raise _malformed("bytes after the signature")
    return SpdmReport(
        request_nonce=request_nonce,
        response_nonce=response_nonce,
        slot=slot,
        measurements=measurements,
        opaque=opaque,
        signed=data[:signed_bytes],
        signature=signature,
    )


def _read_request(reader: _Reader) -> tuple[bytes, int]:
    _expect_version(reader.byte())
    if reader.byte() != _GET_MEASUREMENTS:
        raise _malformed("request is not GET_MEASUREMENTS")
    if reader.byte() != _SIGNATURE_REQUESTED:
        raise _malformed("request does not ask for a signature")
    if reader.byte() != _ALL_MEASUREMENTS:
        raise _malformed("request does not ask for all measurements")
    nonce = reader.take(NONCE_BYTES)
    slot = reader.byte()
    if slot > _MAX_SLOT:
        raise _malformed("certificate slot out of range")
    return nonce, slot


def _read_record(record: _Reader, blocks: int) -> dict[int, bytes]:
    if blocks == 0:
        raise _malformed("no measurement")
    measurements: dict[int, bytes] = {}
    for _ in range(blocks):
        index = record.byte()
        if index == 0 or index in measurements:
            raise _malformed("measurement index is zero or comes twice")
        if record.byte() != _DMTF_SPECIFICATION:
            raise _malformed("measurement is not of the DMTF specification")
        block = _Reader(record.take(record.integer(2)))
        block.byte()  # What was measured: the vendor's manifests go by the index alone.
        value = block.take(block.integer(2))
        if not block.at_end or not 0 < len(value) <= MAX_MEASUREMENT_BYTES:
            raise _malformed("size of a measurement")
        measurements[index] = value
    if not record.at_end:
        raise _malformed("length of the measurement record")
    return measurements


def _read_opaque(data: bytes) -> dict[OpaqueField, bytes]:
    reader = _Reader(data)
    has_header = data.startswith(_HEADER_MAGIC)
    if has_header:
        _read_opaque_header(reader)
    fields: dict[OpaqueField, bytes] = {}
    known = frozenset(OpaqueField)
    while not reader.at_end:
        kind = reader.integer(2)
        if has_header:
            reader.take(2)
        value = reader.take(reader.integer(2))
        if kind not in known:
            continue
        field = OpaqueField(kind)
        if field in fields:
            raise _malformed(f"opaque field {field.name.lower()} comes twice")
        fields[field] = value
    return fields


def _read_opaque_header(reader: _Reader) -> None:
    reader.take(len(_HEADER_MAGIC))
    profile, major = reader.integer(2), reader.byte()
    reader.take(3)
    if profile != 0 or major > _MAX_OPAQUE_VERSION:
        raise UnsupportedError(
            f"opaque data of profile {profile}, version {major}",
            reason=Reason.UNSUPPORTED_VERSION,
        )


class _Reader:
    """Takes bytes from the front of a message and refuses to read past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    @property
    def at_end(self) -> bool:
        return self.offset == len(self._data)

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self._data):
            raise _malformed(f"unexpected end at offset {self.offset}")
        taken = self._data[self.offset : end]
        self.offset = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def _expect_version(found: int) -> None:
    if found != _VERSION:
        raise UnsupportedError(
            f"expected SPDM version {_VERSION:#04x}, got {found:#04x}",
            reason=Reason.UNSUPPORTED_VERSION,
        )


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
