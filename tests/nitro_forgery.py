"""Makes Nitro documents with one fault each: own keys, spliced chains, altered payloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from verispect.attesters.development_enclave import encode_document, encode_payload, sign_es384
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.certificates import load_certificate
from verispect.evidence.nitro.appraise import NitroEvidence, appraise_nitro, instance_register
from verispect.evidence.nitro.document import signed_bytes

NOW = 1_790_000_000_000
INSTANCE = "i-0123456789abcdef0"
HOUR = timedelta(hours=1)
_NOW = datetime.fromtimestamp(NOW // 1000, UTC)


@dataclass(frozen=True)
class Link:
    """One certificate of a path, with everything that a forger may want to change."""

    name: str
    ca: bool = True
    path_length: int | None = None
    key_cert_sign: bool = True
    digital_signature: bool = True
    begin: datetime = _NOW - HOUR
    end: datetime = _NOW + HOUR
    curve: Callable[[], ec.EllipticCurve] = ec.SECP384R1
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    with_usage: bool = True
    with_constraints: bool = True
    extra: x509.ExtensionType | None = None
    issuer_name: str | None = None
    """Named instead of the certificate before it."""
    issuer_key: ec.EllipticCurvePrivateKey | None = None
    """Signs instead of the certificate before it."""


ROOT, REGION, ZONE, HOST, LEAF = range(5)
PATH = (
    Link("root", begin=_NOW - 100 * HOUR, end=_NOW + 10000 * HOUR),
    Link("region", path_length=2),
    Link("zone", path_length=1),
    Link("host", path_length=0, digital_signature=False),
    Link("leaf", ca=False, key_cert_sign=False),
)


def changed(place: int, **changes: Any) -> tuple[Link, ...]:
    """Return the good path with one certificate changed."""
    return (*PATH[:place], replace(PATH[place], **changes), *PATH[place + 1 :])


def build(links: Sequence[Link]) -> tuple[list[bytes], list[ec.EllipticCurvePrivateKey]]:
    """Return certificates and private keys of a path, root first."""
    ders: list[bytes] = []
    keys: list[ec.EllipticCurvePrivateKey] = []
    for place, link in enumerate(links):
        key = ec.generate_private_key(link.curve())
        parent = links[place - 1].name if place else link.name
        signer = link.issuer_key or (keys[-1] if place else key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(link.name))
            .issuer_name(_name(link.issuer_name or parent))
            .public_key(key.public_key())
            .serial_number(place + 1)
            .not_valid_before(link.begin)
            .not_valid_after(link.end)
        )
        if link.with_constraints:
            constraints = x509.BasicConstraints(link.ca, link.path_length if link.ca else None)
            builder = builder.add_extension(constraints, critical=True)
        if link.with_usage:
            builder = builder.add_extension(_usage(link), critical=True)
        if link.extra is not None:
            builder = builder.add_extension(link.extra, critical=True)
        ders.append(builder.sign(signer, link.digest).public_bytes(Encoding.DER))
        keys.append(key)
    return ders, keys


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(link: Link) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=link.digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=link.key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def fields(path: Sequence[bytes], **changes: Any) -> dict[str, Any]:
    """Return the fields of a good document over `path`; `...` as a change removes a field."""
    registers = {index: bytes([index]) * 48 for index in range(16)}
    registers[0] = b"\x70" * 48
    registers[4] = instance_register(INSTANCE)
    made: dict[str, Any] = {
        "module_id": f"{INSTANCE}-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": NOW,
        "pcrs": registers,
        "certificate": path[-1],
        "cabundle": list(path[:-1]),
        "public_key": b"key",
        "user_data": b"data",
        "nonce": b"nonce",
    } | changes
    return {name: value for name, value in made.items() if value is not ...}


class Forger:
    """One path whose root is an anchor, and documents signed under it."""

    def __init__(self, links: Sequence[Link] = PATH) -> None:
        self.path, self.keys = build(links)
        self.anchor = Anchor(
            "aws-nitro",
            load_certificate(self.path[0]).key_digest,
            EvidenceClass.HARDWARE,
            "test root",
        )

    def document(self, **changes: Any) -> bytes:
        """Return a signed document with fields changed."""
        return self.sign(encode_payload(fields(self.path, **changes)))

    def sign(self, payload: bytes) -> bytes:
        """Return a document around any payload."""
        return encode_document(payload, sign_es384(self.keys[-1], signed_bytes(payload)))

    def appraise(
        self,
        document: bytes,
        *,
        at: int = NOW,
        expected: Expectation | None = None,
        policy: AttestationPolicy | None = None,
        anchors: Sequence[Anchor] | None = None,
    ) -> AttestationAppraisal:
        """Judge a document under this path's root."""
        return appraise_nitro(
            NitroEvidence(document),
            anchors=[self.anchor] if anchors is None else anchors,
            expected=expected or Expectation(),
            policy=policy or AttestationPolicy(),
            at=at,
        )


def parts(document: bytes) -> tuple[bytes, bytes]:
    """Return payload and signature of a document."""
    decoded = cbor2.loads(document)
    array = decoded.value if isinstance(decoded, cbor2.CBORTag) else decoded
    return array[2], array[3]
