"""An attacker's own certificate authorities, quotes and tokens, written from the public formats.

Nothing here shares code with the verifiers or with the forgers of their own tests, so that one
misreading of a format cannot hide in both.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tee_vectors import read_vector
from verispect.core.encoding import sha256
from verispect.evidence.attestation import Anchor, EvidenceClass

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)
JUNE_2025 = int(dt.datetime(2025, 6, 26, 21, 55, 59, tzinfo=dt.UTC).timestamp() * 1000)

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate and the key that it is about."""

    certificate: x509.Certificate
    key: AnyKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def anchor(
        self, technology: str, evidence_class: EvidenceClass = EvidenceClass.DEVELOPMENT
    ) -> Anchor:
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Anchor(technology, sha256(spki), evidence_class, "an attacker's own root")


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def p384() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def issue(
    name: str,
    issuer: Issued | None,
    *,
    ca: bool = False,
    key: AnyKey | None = None,
    extension: tuple[x509.ObjectIdentifier, bytes] | None = None,
    not_after: dt.datetime = END,
    serial: int | None = None,
) -> Issued:
    """Issue a certificate under any name that is wanted; no issuer makes a root."""
    own = key or p256()
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(own.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    above = issuer.key if issuer else own
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
    ).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False
    )
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(*extension), critical=False)
    wide = isinstance(above, ec.EllipticCurvePrivateKey) and above.curve.name == "secp384r1"
    return Issued(builder.sign(above, hashes.SHA384() if wide else hashes.SHA256()), own)


def revocations(
    issuer: Issued,
    revoked: tuple[int, ...] = (),
    *,
    issued: dt.datetime = dt.datetime(2025, 6, 20, tzinfo=dt.UTC),
    following: dt.datetime = dt.datetime(2025, 7, 20, tzinfo=dt.UTC),
) -> bytes:
    """Sign a revocation list."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(issued)
        .next_update(following)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for serial in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued).build()
        )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def raw_signature(key: AnyKey, data: bytes) -> bytes:
    """Sign as r and s of the curve's width."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    width = (key.curve.key_size + 7) // 8
    digest = hashes.SHA256() if width == 32 else hashes.SHA384()
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")


def point(key: AnyKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


# -- Intel ----------------------------------------------------------------------------------------


def genuine_quote() -> bytes:
    return read_vector("dcap/quotes/tdx_v4_phala_uptodate.bin")


def genuine_collateral() -> dict[str, Any]:
    return dict(json.loads(read_vector("dcap/collateral/b0c06f_2025-06.json")))


@dataclass
class IntelLookAlike:
    """Everything of Intel's under keys of one's own, with Intel's names and one's own choices."""

    root: Issued = field(default_factory=lambda: issue("Intel SGX Root CA", None, ca=True))

    def __post_init__(self) -> None:
        pem = genuine_quote()[genuine_quote().index(b"-----BEGIN") :].rstrip(b"\0")
        leaf = x509.load_pem_x509_certificates(pem)[0]
        self.sgx_extension = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value.value
        self.platform_ca = issue("Intel SGX PCK Platform CA", self.root, ca=True)
        self.pck = issue(
            "Intel SGX PCK Certificate",
            self.platform_ca,
            extension=(SGX_EXTENSION, self.sgx_extension),
        )
        self.signing = issue("Intel SGX TCB Signing", self.root)
        self.attestation_key = p256()

    @property
    def pck_chain(self) -> str:
        return self.pck.pem + self.platform_ca.pem + self.root.pem

    def quote(
        self,
        *,
        body: bytes | None = None,
        header: bytes | None = None,
        bound_key: bytes | None = None,
        authentication: bytes = bytes(range(32)),
        qe_change: tuple[int, bytes] = (0, b""),
        certification_type: int = 5,
        tail: bytes = b"",
    ) -> bytes:
        """Return a version 4 quote, or one with the version of `header`, signed all the way."""
        genuine = genuine_quote()
        header = header if header is not None else genuine[:48]
        body = body if body is not None else genuine[48:632]
        signed = header + body
        qe = bytearray(genuine[632 + 4 + 128 + 6 : 632 + 4 + 128 + 6 + 384])
        at, replacement = qe_change
        qe[at : at + len(replacement)] = replacement
        bound = point(self.attestation_key) if bound_key is None else bound_key
        qe[320:384] = hashlib.sha256(bound + authentication).digest() + bytes(32)
        chain = self.pck_chain.encode()
        inner = (
            bytes(qe)
            + raw_signature(self.pck.key, bytes(qe))
            + struct.pack("<H", len(authentication))
            + authentication
            + struct.pack("<HI", certification_type, len(chain))
            + chain
        )
        data = (
            raw_signature(self.attestation_key, signed)
            + point(self.attestation_key)
            + struct.pack("<HI", 6, len(inner))
            + inner
        )
        return signed + struct.pack("<I", len(data)) + data + tail

    def collateral(self, **changes: Any) -> bytes:
        """Return genuine collateral with every signature replaced by one's own, and changes.

        `tcb_info` and `qe_identity` may be texts; other names replace members as they are.
        """
        members = genuine_collateral()
        signer = changes.pop("signer", self.signing)
        chain = changes.pop("signer_chain", signer.pem + self.root.pem)
        members.update(
            tcb_info_issuer_chain=chain,
            qe_identity_issuer_chain=chain,
            pck_crl_issuer_chain=self.platform_ca.pem + self.root.pem,
            root_ca_crl=revocations(self.root).hex(),
            pck_crl=revocations(self.platform_ca).hex(),
        )
        members.update(changes)
        for name in ("tcb_info", "qe_identity"):
            if f"{name}_signature" not in changes:
                text = members[name].encode()
                members[f"{name}_signature"] = raw_signature(signer.key, text).hex()
        return json.dumps(members).encode()


# -- Tokens ---------------------------------------------------------------------------------------


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(header: Any, claims: Any, key: AnyKey | None, *, signature: bytes | None = None) -> bytes:
    """Return a compact JWT; texts are taken as the JSON that they are."""
    parts = [
        b64url((part if isinstance(part, str) else json.dumps(part)).encode())
        for part in (header, claims)
    ]
    signed = ".".join(parts).encode()
    if signature is None:
        if key is None:
            signature = b""
        elif isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            signature = raw_signature(key, signed)
    return signed + b"." + b64url(signature).encode()
