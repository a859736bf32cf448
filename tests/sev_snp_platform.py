"""A platform of our own with AMD's formats: real chains and signatures under keys nobody trusts."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from verispect.core.encoding import sha256
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.certificates import load_certificate
from verispect.evidence.sev_snp import TECHNOLOGY, SevSnpEvidence

BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
AT = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp() * 1000)
CPUID = {"Milan": (0x19, 0x01, 0x01), "Genoa": (0x19, 0x11, 0x01), "Turin": (0x1A, 0x02, 0x01)}
TCB = {
    "Milan": {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219},
    "Genoa": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
    "Turin": {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 77},
}
OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_MGF = padding.MGF1(SHA384())
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@lru_cache
def rsa_key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@lru_cache
def chip_key(name: str = "chip") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def name_of(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def certificate(
    subject: str,
    issuer: str,
    public_key,
    signer: rsa.RSAPrivateKey,
    *,
    ca: int | bool | None = False,
    extensions: dict[str, bytes] | None = None,
    begin: datetime = BEGIN,
    end: datetime = END,
    salt: int = 48,
    serial: int = 7,
) -> bytes:
    """Return one certificate, DER; `ca` is a path length, `None` for no limit, `False` for none."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if ca is not False:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=ca), True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, True)
    for oid, value in (extensions or {}).items():
        identifier = x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{oid}")
        builder = builder.add_extension(x509.UnrecognizedExtension(identifier, value), False)
    made = builder.sign(signer, SHA384(), rsa_padding=padding.PSS(_MGF, salt))
    return made.public_bytes(Encoding.DER)


def der_number(value: int) -> bytes:
    return bytes([2, 1, value]) if value < 0x80 else bytes([2, 2, 0, value])


def der_text(text: str) -> bytes:
    return bytes([0x16, len(text)]) + text.encode()


def tcb_bytes(generation: str, components: dict[str, int]) -> bytes:
    c = components
    if generation == "Turin":
        return bytes([c["fmc"], c["bootloader"], c["tee"], c["snp"], 0, 0, 0, c["microcode"]])
    return bytes([c["bootloader"], c["tee"], 0, 0, 0, 0, c["snp"], c["microcode"]])


@dataclass(frozen=True)
class Platform:
    """Everything that goes into one report and its chain; `replace` one thing to forge."""

    generation: str = "Milan"
    version: int = 3
    product: str | None = None
    vlek: bool = False
    chip_id: bytes | None = None
    hardware_id: bytes | None = None
    provider: str | None = None
    certified: dict[str, int] = field(default_factory=dict)
    """Components that the certificate has otherwise than the report."""
    extensions: dict[str, bytes] = field(default_factory=dict)
    """Raw extensions instead of right ones; an empty value leaves one out."""
    policy: int = 0x30000
    vmpl: int = 0
    report_data: bytes = bytes(range(64))
    measurement: bytes = b"\x11" * 48
    leaf_signer: str = "signer"
    signer_bits: int = 4096
    leaf_key: object = None
    signing_key: object = None
    root_begin: datetime = BEGIN
    leaf_begin: datetime = BEGIN
    leaf_end: datetime = END
    salt: int = 48
    signer_ca: int | bool | None = 0
    cpuid: tuple[int, int, int] | None = None
    patches: dict[int, bytes] = field(default_factory=dict)
    """Bytes of the signed part by offset, put in before it is signed."""

    def root(self) -> bytes:
        key = rsa_key("root")
        return certificate(
            "root", "root", key.public_key(), key, ca=None, begin=self.root_begin, serial=1
        )

    def signer(self) -> bytes:
        key = rsa_key("signer", self.signer_bits).public_key()
        return certificate("signer", "root", key, rsa_key("root"), ca=self.signer_ca, serial=99)

    def leaf(self) -> bytes:
        parts = {"2": der_text(self.product or f"{self.generation}-B0")}
        components = {**TCB[self.generation], **self.certified}
        parts |= {OIDS[name]: der_number(value) for name, value in components.items()}
        if self.vlek:
            parts["5"] = der_text(self.provider or "CN=cc.example")
        else:
            parts["4"] = self.hardware_id or self._chip()
            if self.provider:
                parts["5"] = der_text(self.provider)
        parts = {oid: value for oid, value in (parts | self.extensions).items() if value}
        public = (self.leaf_key or chip_key()).public_key()
        return certificate(
            "leaf",
            "signer",
            public,
            rsa_key(self.leaf_signer, self.signer_bits),
            extensions=parts,
            begin=self.leaf_begin,
            end=self.leaf_end,
            salt=self.salt,
        )

    def _chip(self) -> bytes:
        return bytes(range(1, 9 if self.generation == "Turin" else 65))

    def report(self) -> bytes:
        made = bytearray(1184)
        struct.pack_into("<IIQ", made, 0, self.version, 0, self.policy)
        struct.pack_into("<II", made, 0x30, self.vmpl, 1)
        tcb = tcb_bytes(self.generation, TCB[self.generation])
        for offset in (0x38, 0x180, 0x1E0, 0x1F0):
            made[offset : offset + 8] = tcb
        struct.pack_into("<I", made, 0x48, 4 if self.vlek else 0)
        made[0x50:0x90] = self.report_data
        made[0x90:0xC0] = self.measurement
        if self.version >= 3:
            made[0x188:0x18B] = bytes(self.cpuid or CPUID[self.generation])
        chip = self.chip_id if self.chip_id is not None else (b"" if self.vlek else self._chip())
        made[0x1A0:0x1E0] = chip.ljust(64, b"\0")
        for offset, value in self.patches.items():
            made[offset : offset + len(value)] = value
        signer = self.signing_key or self.leaf_key or chip_key()
        digest = SHA384() if isinstance(signer, ec.EllipticCurvePrivateKey) else None
        assert digest is not None
        r, s = decode_dss_signature(signer.sign(bytes(made[:0x2A0]), ec.ECDSA(digest)))
        made[0x2A0 : 0x2A0 + 48] = r.to_bytes(48, "little")
        made[0x2E8 : 0x2E8 + 48] = s.to_bytes(48, "little")
        return bytes(made)

    def evidence(self, **changes: bytes | None) -> SevSnpEvidence:
        whole = SevSnpEvidence(self.report(), self.leaf(), self.signer(), self.root())
        return replace(whole, **changes)  # type: ignore[arg-type]


def development_anchor() -> Anchor:
    """Return the anchor under which the platform is development evidence."""
    root = load_certificate(Platform().root())
    assert root.key_digest == sha256(rsa_key("root").public_key().public_bytes(*_SPKI))
    return Anchor(TECHNOLOGY, root.key_digest, EvidenceClass.DEVELOPMENT, "our own root")


def revocation_list(
    *,
    revoked: tuple[int, ...] = (),
    signer: str = "root",
    begin: datetime = BEGIN,
    end: datetime = END,
    critical: bool = False,
) -> bytes:
    """Return a list of the root's, DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name_of("root"))
        .last_update(begin)
        .next_update(end)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        builder = builder.add_revoked_certificate(entry.build())
    if critical:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), True)
    pss = padding.PSS(_MGF, 48)
    return builder.sign(rsa_key(signer), SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)
