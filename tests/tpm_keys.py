"""TPM structures made by hand, signed by keys that no TPM holds."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verispect.core.encoding import sha256
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.tpm import TECHNOLOGY, TpmEvidence

AK_ATTRIBUTES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18
REGISTERS = bytes(32) + b"\x22" * 32


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@lru_cache
def ecc_key(name: str = "ak") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@lru_cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def public_info(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ecc_area(key: ec.EllipticCurvePrivateKey, attributes: int = AK_ATTRIBUTES) -> bytes:
    numbers = key.public_key().public_numbers()
    x, y = (sized(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
    head = struct.pack(">HHI", 0x0023, 0x000B, attributes) + sized(b"")
    return head + struct.pack(">HHHHH", 0x0010, 0x0018, 0x000B, 0x0003, 0x0010) + x + y


def rsa_area(key: rsa.RSAPrivateKey, attributes: int = AK_ATTRIBUTES) -> bytes:
    modulus = key.public_key().public_numbers().n.to_bytes(key.key_size // 8, "big")
    head = struct.pack(">HHI", 0x0001, 0x000B, attributes) + sized(b"")
    scheme = struct.pack(">HHHHI", 0x0010, 0x0014, 0x000B, key.key_size, 0)
    return head + scheme + sized(modulus)


@dataclass(frozen=True)
class MadeQuote:
    """A quote of two registers; change one thing to forge."""

    magic: int = 0xFF544347
    kind: int = 0x8018
    extra_data: bytes = b"nonce"
    safe: int = 1
    selection: bytes = struct.pack(">IHB", 1, 0x000B, 3) + bytes([0b10000001, 0, 0])
    registers: bytes = REGISTERS
    hash_name: str = "sha256"
    tail: bytes = b""

    def attest(self) -> bytes:
        return b"".join(
            (
                struct.pack(">IH", self.magic, self.kind),
                sized(b"\0\x0b" + bytes(32)),
                sized(self.extra_data),
                struct.pack(">QIIBQ", 1234, 2, 3, self.safe, 99),
                self.selection,
                sized(hashlib.new(self.hash_name, self.registers).digest()),
                self.tail,
            )
        )

    def signature(self, scheme: str = "ecdsa", key=None) -> bytes:
        return sign(self.attest(), scheme, key)

    def evidence(self, **changes) -> TpmEvidence:
        parts = {
            "quote": self.attest(),
            "signature": self.signature(),
            "ak": ecc_area(ecc_key()),
            "pcrs": self.registers,
        }
        return TpmEvidence(**(parts | changes))


def sign(message: bytes, scheme: str = "ecdsa", key=None) -> bytes:
    """Return a `TPMT_SIGNATURE`."""
    if scheme == "ecdsa":
        r, s = decode_dss_signature((key or ecc_key()).sign(message, ec.ECDSA(SHA256())))
        parts = (sized(n.to_bytes(32, "big")) for n in (r, s))
        return struct.pack(">HH", 0x0018, 0x000B) + b"".join(parts)
    key = key or rsa_key()
    if scheme == "rsapss":
        pss = padding.PSS(padding.MGF1(SHA384()), padding.PSS.MAX_LENGTH)
        return struct.pack(">HH", 0x0016, 0x000C) + sized(key.sign(message, pss, SHA384()))
    return struct.pack(">HH", 0x0014, 0x000B) + sized(
        key.sign(message, padding.PKCS1v15(), SHA256())
    )


def anchor_of(key, evidence_class: EvidenceClass = EvidenceClass.SOFTWARE) -> Anchor:
    return Anchor(TECHNOLOGY, sha256(public_info(key)), evidence_class, "a key of ours")
