"""Makes NVIDIA evidence under keys of its own: devices, manifests, tokens and OCSP responses.

The layouts are those of genuine documents, the names are not; every root is a development root.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from verispect.core.encoding import Digest, to_base64url
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.nvidia.eat import ISSUER

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
AT = int(NOW.timestamp() * 1000)
DAY = dt.timedelta(days=1)
NONCE = bytes(range(32))
DEVICE_NONCE = bytes(range(32, 64))
DRIVER = "990.10.01"
VBIOS = bytes((0x01, 0x9F, 0x00, 0x96, 0x07, 0, 0, 0))
VBIOS_TEXT = "96.00.9F.01.07"
SHA384_OID = bytes.fromhex("0609608648016503040202")


@dataclass(frozen=True)
class Key:
    """A certificate with its private key."""

    certificate: x509.Certificate
    private: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_digest(self) -> Digest:
        spki = self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return Digest(hashlib.sha256(spki).digest())


def certify(
    name: str,
    issuer: Key | None = None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    private: Any = None,
    starts: dt.datetime = NOW - 30 * DAY,
    ends: dt.datetime = NOW + 30 * DAY,
    firmware: bytes | None = None,
    purposes: tuple[x509.ObjectIdentifier, ...] = (),
    may_sign_certificates: bool | None = None,
) -> Key:
    """Make one certificate, P-384 unless another key is given."""
    private = private or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signs = ca if may_sign_certificates is None else may_sign_certificates
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False),
            critical=True,
        )
    )
    if firmware is not None:
        value = SHA384_OID + b"\x04\x30" + firmware
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), value)
        builder = builder.add_extension(extension, critical=False)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
    signer = issuer.private if issuer else private
    digest = hashes.SHA256() if isinstance(signer, rsa.RSAPrivateKey) else hashes.SHA384()
    return Key(builder.sign(signer, digest), private)


def anchor(technology: str, key: Key) -> Anchor:
    return Anchor(technology, key.key_digest, EvidenceClass.DEVELOPMENT, "DEVELOPMENT ONLY")


def pem(*keys: Key) -> bytes:
    return b"".join(key.certificate.public_bytes(serialization.Encoding.PEM) for key in keys)


def raw_signature(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


# -- Devices ------------------------------------------------------------------------------------


@dataclass
class Device:
    """A device of a development maker; change its fields, then take `report()`."""

    root: Key
    intermediate: Key
    leaf: Key
    firmware: bytes
    measurements: dict[int, bytes] = field(default_factory=dict)
    nonce: bytes = NONCE
    device_nonce: bytes = DEVICE_NONCE
    opaque: list[tuple[int, bytes]] = field(default_factory=list)
    header: bytes = b""

    @property
    def path(self) -> bytes:
        return pem(self.leaf, self.intermediate, self.root)

    def body(self) -> bytes:
        record = b"".join(
            struct.pack("<BBHBH", index, 1, 3 + len(value), 1, len(value)) + value
            for index, value in self.measurements.items()
        )
        gap = b"\x00\x00" if self.header else b""
        opaque = self.header + b"".join(
            struct.pack("<H", kind) + gap + struct.pack("<H", len(value)) + value
            for kind, value in self.opaque
        )
        return (
            b"\x11\xe0\x01\xff"
            + self.nonce
            + b"\x00\x11\x60\x00\x00"
            + bytes((len(self.measurements),))
            + len(record).to_bytes(3, "little")
            + record
            + self.device_nonce
            + len(opaque).to_bytes(2, "little")
            + opaque
        )

    def report(self) -> bytes:
        body = self.body()
        return body + raw_signature(self.leaf.private, body)


def gpu(**changes: Any) -> Device:
    """Return a GPU with four measurements."""
    firmware = hashlib.sha384(b"firmware").digest()
    root, intermediate, leaf = _device_keys(firmware)
    device = Device(root, intermediate, leaf, firmware)
    device.measurements = {n: hashlib.sha384(bytes((n,))).digest() for n in (1, 2, 3, 36)}
    device.opaque = [
        (3, DRIVER.encode() + b"\0"),
        (6, VBIOS),
        (11, b"\xaa"),
        (17, b"G999\0"),
        (20, firmware),
        (77, b"unknown fields are skipped"),
    ]
    for name, value in changes.items():
        setattr(device, name, value)
    return device


def switch(**changes: Any) -> Device:
    """Return an NVSwitch: no driver, no firmware identity, a VBIOS version in text."""
    device = gpu()
    device.opaque = [(6, VBIOS_TEXT.encode() + b"\0")]
    for name, value in changes.items():
        setattr(device, name, value)
    return device


@lru_cache(maxsize=4)
def _device_keys(firmware: bytes) -> tuple[Key, Key, Key]:
    root = certify("DEVELOPMENT ONLY device root")
    intermediate = certify("DEVELOPMENT ONLY device CA", root)
    leaf = certify("DEVELOPMENT ONLY device", intermediate, ca=False, firmware=firmware)
    return root, intermediate, leaf


# -- Manifests ------------------------------------------------------------------------------------

_NS = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"


@lru_cache(maxsize=1)
def manifest_keys() -> tuple[Key, Key, Key]:
    root = certify("DEVELOPMENT ONLY manifest root")
    intermediate = certify("DEVELOPMENT ONLY manifest CA", root)
    return root, intermediate, certify("DEVELOPMENT ONLY signer", intermediate, ca=False)


def resource(index: int, values: list[bytes], *, active: bool = True) -> str:
    hashes_ = " ".join(f'h:Hash{n}="{value.hex()}"' for n, value in enumerate(values))
    return (
        f'<Resource type="Measurement" index="{index}" active="{active}" '
        f'alternatives="{len(values)}" {hashes_} name="Measurement_{index}" size="48"/>'
    )


def manifest_text(version: str, resources: list[str]) -> str:
    return (
        f'<SoftwareIdentity xmlns="{_NS}" xmlns:h="{_HASH}" name="dev">'
        f'<Meta colloquialVersion="{version}" edition="GPU" product="DEV1"/>'
        f"<Payload>{''.join(resources)}</Payload></SoftwareIdentity>"
    )


def sign_manifest(text: str, keys: tuple[Key, Key, Key] | None = None) -> bytes:
    """Return the manifest with an enveloped signature like the vendor's."""
    from lxml import etree
    from signxml import (
        CanonicalizationMethod,
        DigestAlgorithm,
        SignatureMethod,
        XMLSigner,
    )

    root, intermediate, signer = keys or manifest_keys()
    signed = XMLSigner(
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    ).sign(
        etree.fromstring(text.encode()),
        key=signer.private,
        cert=[key.certificate for key in (signer, intermediate, root)],
    )
    return bytes(etree.tostring(signed))


def driver_rim(device: Device, version: str = DRIVER) -> bytes:
    wrong = bytes(48)
    return sign_manifest(
        manifest_text(
            version,
            [
                resource(0, [wrong, device.measurements[1]]),
                resource(1, [wrong], active=False),
                resource(35, [device.measurements[36]]),
            ],
        )
    )


def vbios_rim(device: Device, version: str = VBIOS_TEXT) -> bytes:
    return sign_manifest(
        manifest_text(
            version,
            [resource(0, [bytes(48)], active=False), resource(1, [device.measurements[2]])],
        )
    )


# -- OCSP -----------------------------------------------------------------------------------------


def ocsp_response(
    certificate: Key,
    issuer: Key,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    responder: Key | None = None,
    updated: dt.datetime = NOW - DAY,
) -> bytes:
    """Return a response, signed by a responder that the issuer certified unless one is given."""
    responder = responder or certify(
        "DEVELOPMENT ONLY responder",
        issuer,
        ca=False,
        purposes=(ExtendedKeyUsageOID.OCSP_SIGNING,),
    )
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate.certificate,
            issuer=issuer.certificate,
            algorithm=hashes.SHA384(),
            cert_status=status,
            this_update=updated,
            next_update=updated + 2 * DAY,
            revocation_time=updated if revoked else None,
            revocation_reason=x509.ReasonFlags.certificate_hold if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
    )
    response = builder.sign(responder.private, hashes.SHA384())
    return response.public_bytes(serialization.Encoding.DER)


# -- Tokens ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def service_keys() -> tuple[Key, Key, Key]:
    """Root, RSA intermediate and signing key, of the kinds that the service uses."""
    root = certify("DEVELOPMENT ONLY service root")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    intermediate = certify("DEVELOPMENT ONLY service CA", root, private=private)
    return root, intermediate, certify("DEVELOPMENT ONLY service", intermediate, ca=False)


def jwk(keys: tuple[Key, ...], kid: str = "kid-1") -> dict[str, Any]:
    """Return the key set's entry for the last of `keys`, certificates up to the second."""
    point = keys[-1].certificate.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-384",
        "kid": kid,
        "x": to_base64url(point.x.to_bytes(48, "big")),
        "y": to_base64url(point.y.to_bytes(48, "big")),
        "x5c": [base64.b64encode(key.der).decode() for key in reversed(keys[1:])],
    }


def key_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries or [jwk(service_keys())]}).encode()


def times() -> dict[str, int]:
    now = AT // 1000
    return {"iat": now - 60, "nbf": now - 60, "exp": now + 3540}


def device_claims(**changes: Any) -> dict[str, Any]:
    return {
        "iss": ISSUER,
        **times(),
        "eat_nonce": NONCE.hex(),
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "hwmodel": "DEV1",
        "ueid": "1",
        "x-nvidia-gpu-attestation-report-nonce-match": True,
        **changes,
    }


def overall_claims(devices: dict[str, str], **changes: Any) -> dict[str, Any]:
    digests = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]]
        for name, token in devices.items()
    }
    return {
        "sub": "NVIDIA-PLATFORM-ATTESTATION",
        "iss": ISSUER,
        **times(),
        "eat_nonce": NONCE.hex(),
        "x-nvidia-overall-att-result": True,
        "submods": digests,
        **changes,
    }


def sign_token(
    claims: dict[str, Any], *, header: dict[str, Any] | None = None, private: Any = None
) -> str:
    head = {"alg": "ES384", "kid": "kid-1"} if header is None else header
    signed = ".".join(to_base64url(json.dumps(part).encode()) for part in (head, claims))
    signature = raw_signature(private or service_keys()[2].private, signed.encode())
    return f"{signed}.{to_base64url(signature)}"


def bundle(devices: dict[str, str] | None = None, overall: dict[str, Any] | None = None) -> bytes:
    devices = {"GPU-0": sign_token(device_claims())} if devices is None else devices
    return json.dumps([["JWT", sign_token(overall or overall_claims(devices))], devices]).encode()
