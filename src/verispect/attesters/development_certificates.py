"""Certificates of the development enclave: a root, three CAs below it and a leaf.

Extensions, order and life times are those of genuine Nitro chains (20 days, 6 days, one day, three
hours); names are not: each says `DEVELOPMENT ONLY` and none is a vendor's. This module refuses to
issue anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

MARK: Final = "DEVELOPMENT ONLY"
"""Stands in the name of every certificate."""

ROOT_LIFE: Final = timedelta(days=30 * 365)
LEAF_LIFE: Final = timedelta(hours=3)
ISSUER_LIVES: Final = (timedelta(days=20), timedelta(days=6), timedelta(days=1))
ISSUER_NAMES: Final = ("region", "zone", "instance")
BACKDATED: Final = timedelta(seconds=3)
"""Every certificate begins a little before it is made."""


@dataclass(frozen=True, slots=True)
class DevelopmentChain:
    """What a started enclave holds: its key and the certificates below the root."""

    key: ec.EllipticCurvePrivateKey
    leaf: bytes
    """DER."""
    issuers: tuple[bytes, ...]
    """DER, without the root, in the order of the path."""
    not_before: int
    """Milliseconds since the epoch, as the next one: when all are valid."""
    not_after: int


def issue_root(key: ec.EllipticCurvePrivateKey, now: int) -> x509.Certificate:
    """Return the certificate of a new CA, valid from `now` (milliseconds) on."""
    name = _name("enclave root")
    usage = _usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
    begin = _moment(now) - BACKDATED
    return (
        _builder(name, name, key.public_key(), begin, begin + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(key, SHA384())
    )


def issue_chain(
    root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, module_id: str, now: int
) -> DevelopmentChain:
    """Return new CAs and a new leaf below the root, valid from `now` (milliseconds) on."""
    begin = _moment(now) - BACKDATED
    parent, parent_key = root, root_key
    issuers: list[bytes] = []
    for place, (name, life) in enumerate(zip(ISSUER_NAMES, ISSUER_LIVES, strict=True)):
        key = ec.generate_private_key(ec.SECP384R1())
        last = place == len(ISSUER_NAMES) - 1
        usage = _usage(digital_signature=not last, key_cert_sign=True, crl_sign=not last)
        depth = len(ISSUER_NAMES) - 1 - place
        parent = (
            _builder(_name(name), parent.subject, key.public_key(), begin, begin + life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
            .add_extension(_authority(parent_key), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(usage, critical=True)
            .sign(parent_key, SHA384())
        )
        parent_key = key
        issuers.append(parent.public_bytes(Encoding.DER))
    key = ec.generate_private_key(ec.SECP384R1())
    end = begin + BACKDATED + LEAF_LIFE
    leaf = (
        _builder(_name(module_id), parent.subject, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, content_commitment=True), critical=False)
        .sign(parent_key, SHA384())
    )
    return DevelopmentChain(
        key=key,
        leaf=leaf.public_bytes(Encoding.DER),
        issuers=tuple(issuers),
        not_before=int(begin.timestamp()) * 1000,
        not_after=int(end.timestamp()) * 1000,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _name(purpose: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, MARK),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{MARK} {purpose}"),
        ]
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC)
