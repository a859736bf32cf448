"""Forging tools written from the public formats alone: X.509, CBOR, SEV-SNP, TPM 2.0 and HCL.

They share no line with the forgers beside the verifiers' own tests, so that a misreading of a
format that both sides there might share shows up here.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from verispect.core.encoding import Digest
from verispect.evidence.attestation import Anchor, EvidenceClass

T0 = datetime(2026, 9, 21, 12, 0, tzinfo=UTC)
AT = int(T0.timestamp() * 1000)
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
CERT_SIGN, SIGN = "key_cert_sign", "digital_signature"


@cache
def ec_key(label, curve=ec.SECP384R1):
    """Return one key for each label, the same in every test."""
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(label.encode()).digest(), "big"), curve()
    )


@cache
def rsa_key(label, bits=4096):
    """Return one RSA key for each label; made once, because making one takes a second."""
    return rsa.generate_private_key(65537, bits)


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def anchor(technology, key, evidence_class=EvidenceClass.DEVELOPMENT):
    digest = Digest(hashlib.sha256(spki(key)).digest())
    return Anchor(technology, digest, evidence_class, "an attacker's")


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject,
    key,
    issuer,
    signer,
    *,
    ca=False,
    path_length=None,
    usage=SIGN,
    start=T0 - timedelta(hours=1),
    end=T0 + timedelta(hours=2),
    extensions=(),
    algorithm=None,
    serial=7,
):
    """Return DER; `usage=None` leaves the extension out, `extensions` are (oid, DER, critical)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject if isinstance(subject, x509.Name) else name(subject))
        .issuer_name(issuer if isinstance(issuer, x509.Name) else name(issuer))
        .public_key(key if not hasattr(key, "public_key") else key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    )
    if usage is not None:
        flags = dict.fromkeys(
            [
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ],
            False,
        )
        builder = builder.add_extension(x509.KeyUsage(**{**flags, usage: True}), critical=True)
    for oid, der, critical in extensions:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), der), critical
        )
    pss = PSS if isinstance(signer, rsa.RSAPrivateKey) else None
    made = builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=pss)
    return made.public_bytes(Encoding.DER)


def raw_signature(key, message):
    """Return r and s of ECDSA with SHA-384."""
    return decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))


# -- CBOR and Nitro -------------------------------------------------------------------------------


def head(major, number):
    for size, code in ((0, number), (1, 24), (2, 25), (4, 26), (8, 27)):
        if size == 0 and number < 24:
            return bytes([major << 5 | code])
        if size and number < 1 << (8 * size):
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise AssertionError("too large")


def cbor(value):
    """Encode; a list of pairs in `Pairs` is a map in which keys may stand twice."""
    if value is None:
        return b"\xf6"
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, Pairs):
        return head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value)
    if isinstance(value, dict):
        return cbor(Pairs(value.items()))
    return head(4, len(value)) + b"".join(map(cbor, value))


class Pairs(list):
    """A map's pairs in order."""


class Raw(bytes):
    """Bytes that stand as they are."""


INSTANCE = "i-0123456789abcdef0"
NAMES = ("aws.nitro-enclaves", "region", "zone", "instance", "enclave")


def nitro_chain(**changes):
    """Return root to leaf, DER; `changes` are by place: `p2={"end": ...}`."""
    chain = []
    for place, subject in enumerate(NAMES):
        last = place == len(NAMES) - 1
        above = NAMES[max(0, place - 1)]
        fields = {
            "ca": not last,
            "path_length": None if last or place == 0 else 3 - place,
            "usage": SIGN if last else CERT_SIGN,
            **changes.get(f"p{place}", {}),
        }
        key = fields.pop("key", ec_key(subject))
        signer = fields.pop("signer", ec_key(above))
        issuer = fields.pop("issuer", above)
        chain.append(certificate(subject, key, issuer, signer, **fields))
    return chain


def nitro_payload(chain, **changes):
    registers = {i: bytes([i + 1]) * 48 for i in range(16)}
    registers[4] = hashlib.sha384(bytes(48) + INSTANCE.encode()).digest()
    return {
        "module_id": f"{INSTANCE}-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": AT,
        "pcrs": registers,
        "certificate": chain[-1],
        "cabundle": chain[:-1],
        "public_key": None,
        "user_data": None,
        "nonce": None,
        **changes,
    }


def cose(payload, key, *, protected=b"\xa1\x01\x38\x22", unprotected=b"\xa0", signature=None):
    """Return an untagged COSE_Sign1 whose payload is CBOR or bytes."""
    body = payload if isinstance(payload, bytes) else cbor(payload)
    if signature is None:
        to_sign = cbor(["Signature1", protected, b"", body])
        signature = b"".join(n.to_bytes(48, "big") for n in raw_signature(key, to_sign))
    return b"\x84" + cbor(protected) + unprotected + cbor(body) + cbor(signature)


def nitro_document(chain=None, *, leaf="enclave", **changes):
    chain = chain or nitro_chain()
    return cose(nitro_payload(chain, **changes), ec_key(leaf))


# -- SEV-SNP --------------------------------------------------------------------------------------

ARC = "1.3.6.1.4.1.3704.1."
CHIP = bytes(range(64))
TCB = {"3.1": 4, "3.2": 0, "3.3": 24, "3.8": 90}
MEASUREMENT = b"M" * 48


def ia5(text):
    return bytes([0x16, len(text)]) + text.encode()


def vcek_extensions(*, product="Milan-B0", tcb=None, chip=CHIP, provider=None):
    versions = TCB if tcb is None else tcb
    found = [(ARC + "2", ia5(product), False)]
    found += [(ARC + oid, bytes([2, 1, number]), False) for oid, number in versions.items()]
    if chip is not None:
        found.append((ARC + "4", chip, False))
    if provider is not None:
        found.append((ARC + "5", ia5(provider), False))
    return found


def snp_chain(*, leaf=None, ark="ARK-Milan", **extensions):
    """Return VCEK, ASK and ARK, DER, under a key of our own."""
    root = rsa_key("amd")
    long = {"start": T0 - timedelta(days=9), "end": T0 + timedelta(days=9)}
    made_ark = certificate(ark, root, ark, root, ca=True, usage=CERT_SIGN, **long)
    ask = certificate("SEV-Milan", root, ark, root, ca=True, path_length=0, usage=CERT_SIGN, **long)
    fields = {"usage": None, "extensions": vcek_extensions(**extensions), **long, **(leaf or {})}
    key = fields.pop("key", ec_key("vcek"))
    issuer, signer = fields.pop("issuer", "SEV-Milan"), fields.pop("signer", root)
    vcek = certificate("SEV-VCEK", key, issuer, signer, **fields)
    return vcek, ask, made_ark


def snp_report(*, key="vcek", patches=(), signature=None, **fields):
    """Return a report of version 3 of a Milan; `patches` are (offset, bytes) before signing."""
    data = bytearray(1184)
    struct.pack_into("<IIQ", data, 0, 3, 0, fields.get("policy", 0x30000))
    struct.pack_into("<II", data, 0x30, fields.get("vmpl", 0), 1)
    tcb = bytes([4, 0, 0, 0, 0, 0, 24, 90])
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        data[offset : offset + 8] = tcb
    data[0x50:0x90] = fields.get("report_data", bytes(64))
    data[0x90:0xC0] = MEASUREMENT
    data[0x188:0x18B] = bytes([0x19, 0x01, 0x01])
    data[0x1A0:0x1E0] = CHIP
    for offset, content in patches:
        data[offset : offset + len(content)] = content
    r, s = signature or raw_signature(ec_key(key), bytes(data[:0x2A0]))
    data[0x2A0:0x2E8] = r.to_bytes(72, "little")
    data[0x2E8:0x330] = s.to_bytes(72, "little")
    return bytes(data)


# -- TPM and Azure --------------------------------------------------------------------------------


def tpm2b(data):
    return struct.pack(">H", len(data)) + data


def selection(bank, registers, size=3):
    bits = sum(1 << index for index in registers)
    return struct.pack(">HB", bank, size) + bits.to_bytes(size, "little")


def quote(extra, selections, digest, *, magic=0xFF544347, kind=0x8018):
    """Return a `TPMS_ATTEST`."""
    attested = struct.pack(">I", len(selections)) + b"".join(selections) + tpm2b(digest)
    return (
        struct.pack(">IH", magic, kind)
        + tpm2b(b"\x00\x0b" + bytes(32))
        + tpm2b(extra)
        + struct.pack(">QIIBQ", 1, 2, 3, 1, 4)
        + attested
    )


def ecdsa_signature(key, message, number=0x000B, algorithm=None):
    """Return a `TPMT_SIGNATURE`."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(algorithm or hashes.SHA256())))
    return struct.pack(">HH", 0x0018, number) + b"".join(
        tpm2b(n.to_bytes((n.bit_length() + 7) // 8 or 1, "big")) for n in (r, s)
    )


def public_area(key, attributes):
    """Return a `TPMT_PUBLIC` of a P-256 signing key."""
    point = key.public_key().public_numbers()
    coordinates = b"".join(tpm2b(n.to_bytes(32, "big")) for n in (point.x, point.y))
    return struct.pack(">HHIHHHHHH", 0x23, 0x0B, attributes, 0, 0x10, 0x18, 0x0B, 3, 0x10) + (
        coordinates
    )


def hcl_report(hardware, runtime, *, kind=2, tail=b""):
    """Return what stands in the vTPM's NV index."""
    rest = struct.pack("<5I", 20 + len(runtime), 1, kind, 1, len(runtime)) + runtime
    size = 32 + 1184 + len(rest)
    return b"HCLA" + struct.pack("<7I", 2, size, 2, 0, 0, 0, 0) + hardware + rest + tail
