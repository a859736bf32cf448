"""The attestation report of AMD SEV-SNP, strictly parsed.

The layout is the table ATTESTATION_REPORT of AMD's SEV-SNP firmware ABI (document 56860), report
versions 2 to 5: 1,184 bytes, of which the first 0x2A0 are signed. Every reserved bit must be
zero, in the signature's padding as well, so that one report has one encoding.

This module refuses to judge: it checks no signature and knows no policy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
REPORT_VERSIONS: Final = (2, 3, 4, 5)
ECDSA_P384_SHA384: Final = 1
SCALAR_BYTES: Final = 48

_FIRST_VERSION_WITH_CPUID: Final = 3
_FIRST_VERSION_WITH_MITIGATIONS: Final = 5
_POLICY_ALWAYS_ONE: Final = 1 << 17
_POLICY_RESERVED: Final = ~((1 << 26) - 1) & (1 << 64) - 1
_PLATFORM_RESERVED: Final = ~((1 << 8) - 1) & (1 << 64) - 1
_KEY_INFO_RESERVED: Final = ~((1 << 5) - 1) & (1 << 32) - 1


class Generation(StrEnum):
    """A processor generation, each with a root key of its own."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


class SigningKey(StrEnum):
    """Which key signed the report, by its own word; the certificate must agree."""

    VCEK = "VCEK"
    """Of one chip at one TCB version."""
    VLEK = "VLEK"
    """Of one cloud provider at one TCB version."""


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security version numbers of the platform's components."""

    raw: bytes
    """Eight bytes as in the report."""

    def components(self, generation: Generation) -> dict[str, int]:
        """Return the version of each component, by the layout of `generation`.

        Raises:
            MalformedError: `malformed-evidence` where a reserved byte is not zero.
        """
        if generation is Generation.TURIN:
            names: tuple[str | None, ...] = ("fmc", "bootloader", "tee", "snp", *[None] * 3)
        else:
            names = ("bootloader", "tee", *[None] * 4, "snp")
        versions: dict[str, int] = {}
        for name, value in zip((*names, "microcode"), self.raw, strict=True):
            if name is not None:
                versions[name] = value
            elif value:
                raise _malformed(f"reserved byte of a {generation} TCB version")
        return versions


@dataclass(frozen=True, slots=True)
class Report:
    """One parsed report, believed by nobody."""

    signed: bytes
    signature_r: int
    signature_s: int
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: TcbVersion
    platform_info: int
    author_key_enabled: bool
    chip_key_masked: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_migration_agent: bytes
    reported_tcb: TcbVersion
    cpuid: tuple[int, int, int] | None
    """Family, model and stepping; `None` before version 3."""
    chip_id: bytes
    committed_tcb: TcbVersion
    current_firmware: tuple[int, int, int]
    """Major, minor, build."""
    committed_firmware: tuple[int, int, int]
    launch_tcb: TcbVersion
    launch_mitigations: int | None
    """`None` before version 5, as the next one."""
    current_mitigations: int | None

    @property
    def debug(self) -> bool:
        """Whether the host may read the guest's memory (policy bit 19)."""
        return bool(self.policy >> 19 & 1)

    @property
    def migration_agent(self) -> bool:
        """Whether a migration agent may move the guest (policy bit 18)."""
        return bool(self.policy >> 18 & 1)

    @property
    def registers(self) -> dict[str, bytes]:
        """The fields that reference values may be given for, by name."""
        return {
            "measurement": self.measurement,
            "host_data": self.host_data,
            "id_key_digest": self.id_key_digest,
            "author_key_digest": self.author_key_digest,
            "family_id": self.family_id,
            "image_id": self.image_id,
            "report_id": self.report_id,
            "chip_id": self.chip_id,
        }


def parse_report(data: bytes) -> Report:
    """Parse one report.

    Raises:
        MalformedError: `malformed-evidence` for another length or a reserved bit that is set.
        UnsupportedError: `unsupported-version`, or `unsupported-algorithm`.
    """
    if len(data) != REPORT_BYTES:
        raise _malformed(f"expected a report of {REPORT_BYTES} bytes, got {len(data)}")
    version, guest_svn, policy = struct.unpack_from("<IIQ", data, 0)
    if version not in REPORT_VERSIONS:
        raise UnsupportedError(
            f"expected a report of version 2 to 5, got {version}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
    vmpl, algorithm = struct.unpack_from("<II", data, 0x30)
    if algorithm != ECDSA_P384_SHA384:
        raise UnsupportedError(
            f"expected signature algorithm 1, got {algorithm}",
            reason=Reason.UNSUPPORTED_ALGORITHM,
        )
    platform_info, key_info = struct.unpack_from("<QI", data, 0x40)
    _check_reserved_bits(policy, platform_info, key_info)
    _check_reserved_bytes(data, version)
    mitigations: tuple[int | None, int | None] = (None, None)
    if version >= _FIRST_VERSION_WITH_MITIGATIONS:
        mitigations = struct.unpack_from("<QQ", data, 0x1F8)
    cpuid = None
    if version >= _FIRST_VERSION_WITH_CPUID:
        cpuid = (data[0x188], data[0x189], data[0x18A])
    return Report(
        signed=data[:SIGNED_BYTES],
        signature_r=_scalar(data, 0x2A0),
        signature_s=_scalar(data, 0x2E8),
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=vmpl,
        current_tcb=TcbVersion(data[0x38:0x40]),
        platform_info=platform_info,
        author_key_enabled=bool(key_info & 1),
        chip_key_masked=bool(key_info >> 1 & 1),
        signing_key=_signing_key(key_info >> 2 & 7),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_migration_agent=data[0x160:0x180],
        reported_tcb=TcbVersion(data[0x180:0x188]),
        cpuid=cpuid,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=TcbVersion(data[0x1E0:0x1E8]),
        current_firmware=(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_firmware=(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_tcb=TcbVersion(data[0x1F0:0x1F8]),
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
    )


def generation_of_cpuid(family: int, model: int) -> Generation:
    """Return the generation that a CPUID family and model belong to.

    Raises:
        UnsupportedError: `unsupported-evidence` for a processor this software does not know.
    """
    if family == 0x19 and model <= 0x0F:
        return Generation.MILAN
    if family == 0x19 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
        return Generation.GENOA
    if family == 0x1A and model <= 0x1F:
        return Generation.TURIN
    raise UnsupportedError(
        f"no known generation has CPUID family {family:#x} and model {model:#x}",
        reason=Reason.UNSUPPORTED_EVIDENCE,
    )


def _check_reserved_bits(policy: int, platform_info: int, key_info: int) -> None:
    if policy & _POLICY_RESERVED or not policy & _POLICY_ALWAYS_ONE:
        raise _malformed("reserved bit of the guest policy")
    if platform_info & _PLATFORM_RESERVED:
        raise _malformed("reserved bit of the platform information")
    if key_info & _KEY_INFO_RESERVED:
        raise _malformed("reserved bit of the key information")


def _check_reserved_bytes(data: bytes, version: int) -> None:
    cpuid_end = 0x18B if version >= _FIRST_VERSION_WITH_CPUID else 0x188
    mitigations_end = 0x208 if version >= _FIRST_VERSION_WITH_MITIGATIONS else 0x1F8
    reserved = (
        (0x4C, 0x50),
        (cpuid_end, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (mitigations_end, SIGNED_BYTES),
        (0x2A0 + SCALAR_BYTES, 0x2E8),
        (0x2E8 + SCALAR_BYTES, REPORT_BYTES),
    )
    for start, end in reserved:
        if any(data[start:end]):
            raise _malformed(f"reserved byte between {start:#x} and {end:#x}")


def _signing_key(number: int) -> SigningKey:
    if number == 0:
        return SigningKey.VCEK
    if number == 1:
        return SigningKey.VLEK
    raise UnsupportedError(
        f"expected a report signed by VCEK or VLEK, got key {number}",
        reason=Reason.UNSUPPORTED_EVIDENCE,
    )


def _scalar(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + SCALAR_BYTES], "little")


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
