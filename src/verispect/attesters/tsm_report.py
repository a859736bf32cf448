"""Attesters of Intel TDX and AMD SEV-SNP guests through configfs-tsm of Linux 6.7 and later.

A directory made below `/sys/kernel/config/tsm/report` is a request: 64 bytes go into `inblob`, the
evidence comes out of `outblob`, certificates that the host supplies out of `auxblob`, and
`provider` says what made them. `generation` counts the writes: a count that we did not cause
means that somebody else used our request, and what was read is thrown away.

Both technologies have one field of 64 bytes for the guest and none for a nonce. `report_data` is
that field, filled up with zeros where it is shorter. A nonce is accepted only beside a
`report_data` of all 64 bytes, which then has to be a digest that commits to the nonce already, as
every binding profile of ours is: the attester cannot look into it, the verifier recomputes it.

Endorsements are a deterministic CBOR map from file name to bytes, empty where there are none.

Evidence whose field is not what was asked for is an error here, not evidence. No evidence is
judged, nothing is fetched by this module, and no time is read.
"""

from __future__ import annotations

import os
import secrets
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from verispect.attesters.interface import AttestationEvidence
from verispect.core.encoding import encode
from verispect.core.errors import AttesterError, Error, Reason, RequestError
from verispect.evidence.dcap import TDX, parse_quote
from verispect.evidence.sev_snp.report import parse_report

REPORT_FOLDER: Final = Path("/sys/kernel/config/tsm/report")
FIELD_BYTES: Final = 64
MAX_BLOB_BYTES: Final = 64 * 1024
"""Upper limit of one attribute: the kernel's own was 32 kB for years."""

MAX_TABLE_ENTRIES: Final = 16

SEV_SNP: Final = "amd-sev-snp"
TDX_PROVIDER: Final = "tdx_guest"
SEV_SNP_PROVIDER: Final = "sev_guest"

_TABLE_ENTRY: Final = struct.Struct("<16sII")
_TABLE_NAMES: Final[Mapping[str, str]] = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "cert",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "cert",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "crl",
}
"""Entries of AMD's certificate table, under the names that the verifier's files have."""


class ConfigFS:
    """The four things that are done with a folder of requests.

    Args:
        folder: where the kernel shows it.
    """

    def __init__(self, folder: Path = REPORT_FOLDER) -> None:
        self.folder = folder

    def create(self, name: str) -> None:
        """Make a request; the kernel fills it with attributes."""
        (self.folder / name).mkdir(mode=0o700)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one call, as the kernel wants it."""
        descriptor = os.open(self.folder / name / attribute, os.O_WRONLY)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(f"{attribute} was written in part")
        finally:
            os.close(descriptor)

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute whole."""
        with (self.folder / name / attribute).open("rb") as file:
            data = file.read(MAX_BLOB_BYTES + 1)
        if len(data) > MAX_BLOB_BYTES:
            raise OSError(f"{attribute} has more than {MAX_BLOB_BYTES} bytes")
        return data

    def remove(self, name: str) -> None:
        """Take a request away, attributes and all."""
        (self.folder / name).rmdir()


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What the kernel answered."""

    provider: str
    body: bytes
    auxiliary: bytes
    """Empty where the host supplies nothing."""


def request_report(files: ConfigFS, field: bytes, provider: str) -> TsmReport:
    """Ask the kernel for evidence that carries `field`.

    Args:
        files: access to the folder.
        field: 64 bytes.
        provider: the only one whose answer is taken, for example `tdx_guest`.

    Raises:
        AttesterError: `attester-unavailable`, also where another technology answers or somebody
            else wrote to the request.
    """
    name = f"verispect-{secrets.token_hex(16)}"
    try:
        files.create(name)
        try:
            return _ask(files, name, field, provider)
        finally:
            files.remove(name)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _unavailable(f"configfs-tsm: {what[:128]}") from error


def _ask(files: ConfigFS, name: str, field: bytes, provider: str) -> TsmReport:
    found = files.read(name, "provider").decode("ascii").strip()
    if found != provider:
        raise _unavailable(f"expected the provider {provider}, found {found[:32]}")
    before = _generation(files, name)
    files.write(name, "inblob", field)
    body = files.read(name, "outblob")
    try:
        auxiliary = files.read(name, "auxblob")
    except FileNotFoundError:
        auxiliary = b""
    if _generation(files, name) != before + 1:
        raise _unavailable("the request was written to by somebody else")
    return TsmReport(found, body, auxiliary)


def _generation(files: ConfigFS, name: str) -> int:
    return int(files.read(name, "generation"))


Endorse: TypeAlias = Callable[[bytes], Mapping[str, bytes]]
"""From evidence to the files that are kept with it, by the names that its verifier reads."""


class TdxAttester:
    """An Intel TDX guest as an `Attester`.

    A quote comes without its collateral, and without collateral nobody can verify it: `endorse`
    has to find it (`{"collateral": ...}`), or whoever keeps the evidence adds it.

    Args:
        files: access to configfs.
        endorse: finds the collateral of a quote; what it raises is passed on.
    """

    name: Final = "tdx"
    technology: Final = TDX

    def __init__(self, files: ConfigFS | None = None, *, endorse: Endorse | None = None) -> None:
        self._files = files or ConfigFS()
        self._endorse = endorse

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return a quote whose report data is `report_data`; see the module on the nonce.

        Raises:
            AttesterError: `attester-unavailable`.
            RequestError: `invalid-request`.
        """
        field = _field(report_data, nonce)
        report = request_report(self._files, field, TDX_PROVIDER)
        try:
            carried = parse_quote(report.body).report.report_data
        except Error as error:
            raise _unavailable(f"the machine's quote is not one: {error.message}") from error
        _check_carried(carried, field)
        return AttestationEvidence(TDX, report.body, _endorsements(report.body, {}, self._endorse))


class SevSnpAttester:
    """An AMD SEV-SNP guest as an `Attester`.

    The host supplies certificates or none; where it supplies none of the chip's, `endorse` has to
    find them (`{"cert": ...}`), or whoever keeps the evidence adds them.

    Args:
        files: access to configfs.
        endorse: finds the certificates of a report; what it raises is passed on.
    """

    name: Final = "sev-snp"
    technology: Final = SEV_SNP

    def __init__(self, files: ConfigFS | None = None, *, endorse: Endorse | None = None) -> None:
        self._files = files or ConfigFS()
        self._endorse = endorse

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return a report whose report data is `report_data`; see the module on the nonce.

        Raises:
            AttesterError: `attester-unavailable`.
            RequestError: `invalid-request`.
        """
        field = _field(report_data, nonce)
        report = request_report(self._files, field, SEV_SNP_PROVIDER)
        try:
            carried = parse_report(report.body).report_data
        except Error as error:
            raise _unavailable(f"the machine's report is not one: {error.message}") from error
        _check_carried(carried, field)
        supplied = read_certificate_table(report.auxiliary)
        endorse = None if "cert" in supplied else self._endorse
        return AttestationEvidence(
            SEV_SNP, report.body, _endorsements(report.body, supplied, endorse)
        )


def read_certificate_table(data: bytes) -> Mapping[str, bytes]:
    """Read the certificate table of AMD's GHCB specification, section 4.1.8.1.

    Entries without a name of ours are left out. Both byte orders of the identifiers are taken,
    because hosts write both; whatever comes out is verified before it is believed.

    Raises:
        AttesterError: `attester-unavailable` for an entry outside the table, two certificates of
            one name, or too many entries.
    """
    files: dict[str, bytes] = {}
    for index in range(MAX_TABLE_ENTRIES + 1):
        if len(data) < (index + 1) * _TABLE_ENTRY.size:
            if index == 0 and not data:
                return {}
            raise _unavailable("the host's certificate table has no end")
        identifier, offset, length = _TABLE_ENTRY.unpack_from(data, index * _TABLE_ENTRY.size)
        if not any(identifier):
            return files
        if offset + length > len(data):
            raise _unavailable("the host's certificate table points outside itself")
        name = _TABLE_NAMES.get(str(uuid.UUID(bytes=identifier))) or _TABLE_NAMES.get(
            str(uuid.UUID(bytes_le=identifier))
        )
        if name in files:
            raise _unavailable("the host's certificate table names one certificate twice")
        if name is not None:
            files[name] = data[offset : offset + length]
    raise _unavailable("the host's certificate table has too many entries")


def _endorsements(body: bytes, supplied: Mapping[str, bytes], endorse: Endorse | None) -> bytes:
    files = {**supplied, **(endorse(body) if endorse is not None else {})}
    return encode(files) if files else b""


def _field(report_data: bytes, nonce: bytes | None) -> bytes:
    if not 0 < len(report_data) <= FIELD_BYTES:
        raise RequestError(f"report data has 1 to {FIELD_BYTES} bytes", parameter="report_data")
    if nonce is not None and len(report_data) != FIELD_BYTES:
        raise RequestError(
            f"a nonce needs report data of {FIELD_BYTES} bytes that commits to it",
            parameter="nonce",
        )
    return report_data.ljust(FIELD_BYTES, b"\x00")


def _check_carried(carried: bytes, field: bytes) -> None:
    if carried != field:
        raise _unavailable("the machine's evidence carries another value than was asked for")


def _unavailable(detail: str) -> AttesterError:
    return AttesterError(detail, reason=Reason.ATTESTER_UNAVAILABLE)
