"""A Google of our own: makes Confidential Space tokens that lack nothing but the right root."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from verispect.core.encoding import sha256, to_base64url
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.confidential_space import ISSUER, TECHNOLOGY

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AT = int(NOW.timestamp() * 1000)
SECONDS = AT // 1000
NONCE = bytes(range(32))
DIGEST = "sha256:" + "ab" * 32
AUDIENCE = "https://relying-party.example"
KID = "key-1"


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """Return the key of this name; always the same one in one process."""
    return rsa.generate_private_key(65537, 2048)


def spki(name: str) -> bytes:
    """Return the public half of a key."""
    return key(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def anchors(name: str = "root") -> tuple[Anchor, ...]:
    """Return a development anchor for a key of ours."""
    return (Anchor(TECHNOLOGY, sha256(spki(name)), EvidenceClass.DEVELOPMENT, "our own Google"),)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a good token, with members put in, or taken out by `None`."""
    good: dict[str, Any] = {
        "aud": AUDIENCE,
        "iss": ISSUER,
        "sub": "https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/i",
        "iat": SECONDS - 60,
        "nbf": SECONDS - 60,
        "exp": SECONDS + 3540,
        "eat_nonce": [NONCE.hex()],
        "secboot": True,
        "oemid": 11129,
        "hwmodel": "GCP_INTEL_TDX",
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["250101"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {"support_attributes": ["LATEST", "STABLE", "USABLE"]},
            "container": {
                "image_digest": DIGEST,
                "image_reference": "registry.example/workload",
                "env": {"SECRET": "do-not-repeat"},
            },
            "gce": {"project_id": "p", "zone": "z", "instance_id": "1"},
        },
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


@dataclass
class Recipe:
    """What to make; the defaults make a good PKI token."""

    claims: dict[str, Any] = field(default_factory=claims)
    header: Mapping[str, Any] = field(default_factory=dict)
    signed_by: str = "leaf"
    root: str = "root"
    intermediate_signed_by: str = "root"
    leaf_signed_by: str = "intermediate"
    intermediate_is_ca: bool = True
    leaf_days: tuple[int, int] = (-10, 50)
    with_path: bool = True
    payload: bytes | None = None
    """Instead of the claims."""


def token(**changes: Any) -> bytes:
    """Return a token made as a `Recipe` with these changes says."""
    recipe = Recipe(**changes)
    header: dict[str, Any] = {"alg": "RS256", "typ": "JWT", "kid": KID}
    if recipe.with_path:
        header["x5c"] = [base64.b64encode(der).decode() for der in path(recipe)]
    header = {k: v for k, v in {**header, **recipe.header}.items() if v is not None}
    payload = recipe.payload if recipe.payload is not None else json.dumps(recipe.claims).encode()
    signed = f"{to_base64url(json.dumps(header).encode())}.{to_base64url(payload)}".encode()
    signature = key(recipe.signed_by).sign(signed, PKCS1v15(), SHA256())
    return signed + b"." + to_base64url(signature).encode()


def jwks(name: str = "leaf", **changes: Any) -> bytes:
    """Return a key set with one key of ours."""
    numbers = key(name).public_key().public_numbers()
    entry = {
        "kty": "RSA",
        "alg": "RS256",
        "use": "sig",
        "kid": KID,
        "n": to_base64url(numbers.n.to_bytes(256, "big")),
        "e": to_base64url(numbers.e.to_bytes(3, "big")),
        **changes,
    }
    return json.dumps({"keys": [entry]}).encode()


def path(recipe: Recipe) -> list[bytes]:
    """Return leaf, intermediate and root."""
    ca = recipe.intermediate_is_ca
    return [
        _certificate("leaf", "intermediate", recipe.leaf_signed_by, recipe.leaf_days, ca=False),
        _certificate("intermediate", "root", recipe.intermediate_signed_by, (-99, 99), ca=ca),
        _certificate("root", "root", recipe.root, (-999, 999), ca=True, own_key=recipe.root),
    ]


def _certificate(
    name: str, issuer: str, signer: str, days: tuple[int, int], *, ca: bool, own_key: str = ""
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key(own_key or name).public_key())
        .serial_number(1 + len(name))
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if name != "leaf":
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    return builder.sign(key(signer), SHA256()).public_bytes(Encoding.DER)


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Confidential Space {common}")])
