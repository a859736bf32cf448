"""Certificate paths of NVIDIA's: from PEM or a list, to an anchor by key, valid at a time.

Everything that is not NVIDIA's own stands in `verispect.evidence.certificates`. Paths are kept as
the vendor writes them, the signing certificate first.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from verispect.core.encoding import sha256
from verispect.core.errors import (
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.evidence.attestation import Anchor
from verispect.evidence.certificates import (
    MAX_CHAIN_CERTIFICATES,
    Certificate,
    check_ca,
    check_chain_validity,
    check_end_entity,
    find_anchor,
    load_certificate,
    verify_issued_by,
)
from verispect.evidence.nvidia.anchors import GENUINE_INTERMEDIATES, SERVICE

MAX_PATH_BYTES: Final = 64 * 1024
"""Upper limit of a path as text; genuine ones have 4.8 kB."""

FIRMWARE_ID_BYTES: Final = 48
_COMPOSITE_DEVICE_ID: Final = "2.23.133.5.4.1"
_TCB_INFO: Final = "2.23.133.5.4.1.1"
_FIRMWARE_ID: Final = (_COMPOSITE_DEVICE_ID, _TCB_INFO)
_SHA384_DER: Final = bytes.fromhex("0609608648016503040202")

_P384_BYTES: Final = 48

_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
)
_PEM_START: Final = b"-----BEGIN"


def read_path(data: bytes) -> tuple[Certificate, ...]:
    """Read a path from PEM, or from base64 of PEM.

    Raises:
        MalformedError: `malformed-evidence` or `too-large`.
        UnsupportedError: `unsupported-algorithm` for a kind of key that is not known.
    """
    if len(data) > 2 * MAX_PATH_BYTES:
        raise MalformedError(
            f"a certificate path has at most {MAX_PATH_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    text = data.strip()
    if not text.startswith(_PEM_START):
        text = _base64(text).strip()
    if len(text) > MAX_PATH_BYTES:
        raise MalformedError(
            f"a certificate path has at most {MAX_PATH_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    certificates: list[bytes] = []
    offset = 0
    while offset < len(text):
        block = _PEM.match(text, offset)
        if block is None:
            raise _malformed(f"certificate path at offset {offset}")
        certificates.append(_base64(block.group(1)))
        offset = block.end()
    return load_path(certificates)


def load_path(certificates: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Read a path from DER certificates, the signing one first.

    Raises:
        MalformedError: `malformed-evidence` or `too-large`.
        UnsupportedError: as `read_path`.
    """
    if not certificates:
        raise _malformed("certificate path is empty")
    if len(certificates) > MAX_CHAIN_CERTIFICATES:
        raise MalformedError(
            f"a path has at most {MAX_CHAIN_CERTIFICATES} certificates", reason=Reason.TOO_LARGE
        )
    return tuple(load_certificate(der) for der in certificates)


def verify_path(
    path: Sequence[Certificate], anchors: Sequence[Anchor], technology: str, at: int
) -> Anchor:
    """Verify a path, signing certificate first, whose last certificate has an anchor's key.

    That last certificate must be signed by itself, so that no date in the path is unsigned. Only
    the attestation service's may be an intermediate instead; a genuine one must then be, byte for
    byte, the certificate that is known for its key.

    Raises:
        VerificationError: `attestation-root-untrusted`, `attestation-signature-invalid`,
            `attestation-expired` or `attestation-not-yet-valid`.
        MalformedError: `malformed-evidence` for a path of one certificate.
        UnsupportedError: `unsupported-algorithm`.
    """
    if len(path) < 2:
        raise _malformed("a path needs an issuer and a certificate below it")
    anchor = find_anchor(path[-1], anchors, technology)
    if anchor is None:
        raise VerificationError(
            f"the key of {path[-1].label} is no anchor for {technology}",
            reason=Reason.ATTESTATION_ROOT_UNTRUSTED,
        )
    _check_top(path[-1], technology)
    for place in range(len(path) - 1):
        verify_issued_by(path[place], path[place + 1])
        check_ca(path[place + 1], place)
    # TCG DICE extensions may be critical; `firmware_id` reads what is used of them.
    check_end_entity(path[0], understood=frozenset(_FIRMWARE_ID))
    check_chain_validity(path, at)
    return anchor


def _check_top(top: Certificate, technology: str) -> None:
    if technology != SERVICE or top.parsed.subject == top.parsed.issuer:
        verify_issued_by(top, top)
    elif GENUINE_INTERMEDIATES.get(top.key_digest, sha256(top.der)) != sha256(top.der):
        raise VerificationError(
            f"the certificate of {top.label} is not the one that is known for its key",
            reason=Reason.ATTESTATION_SIGNATURE_INVALID,
        )


def verify_p384(certificate: Certificate, signature: bytes, data: bytes, what: str) -> None:
    """Check an ECDSA P-384 signature with SHA-384, given as r and s.

    Raises:
        VerificationError: `attestation-signature-invalid`.
        UnsupportedError: `unsupported-algorithm` where the key is of another kind.
    """
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UnsupportedError(
            f"{what}: the key is not of P-384", reason=Reason.UNSUPPORTED_ALGORITHM
        )
    if len(signature) != 2 * _P384_BYTES:
        raise VerificationError(
            f"{what}: expected {2 * _P384_BYTES} bytes of signature, got {len(signature)}",
            reason=Reason.ATTESTATION_SIGNATURE_INVALID,
        )
    r = int.from_bytes(signature[:_P384_BYTES], "big")
    s = int.from_bytes(signature[_P384_BYTES:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            f"{what}: the signature does not match", reason=Reason.ATTESTATION_SIGNATURE_INVALID
        ) from error


def firmware_id(certificate: Certificate) -> bytes | None:
    """Return the SHA-384 that the certificate gives for the device's firmware, if it gives one.

    Hopper and NVSwitch use the TCG composite device identity, Blackwell the DICE TCB information;
    in both the digest is the first SHA-384 of a sequence of algorithm and octets.

    Raises:
        MalformedError: `malformed-evidence` for an extension that holds no such digest.
    """
    for identifier in _FIRMWARE_ID:
        try:
            extension = certificate.parsed.extensions.get_extension_for_oid(
                x509.ObjectIdentifier(identifier)
            )
        except x509.ExtensionNotFound:
            continue
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            raise _malformed("firmware identity of the certificate")
        return _first_sha384(extension.value.value)
    return None


def _first_sha384(der: bytes) -> bytes:
    # The key inside the composite identity is arbitrary bytes, so the digest is looked for by its
    # whole header: algorithm, then an octet string of exactly 48 bytes.
    header = _SHA384_DER + bytes((0x04, FIRMWARE_ID_BYTES))
    start = der.find(header)
    digest = der[start + len(header) : start + len(header) + FIRMWARE_ID_BYTES]
    if start < 0 or len(digest) != FIRMWARE_ID_BYTES:
        raise _malformed("firmware identity of the certificate")
    return digest


def hardware_model(path: Sequence[Certificate]) -> str | None:
    """Return the common name of the certificate above the signing one: the chip, for people."""
    names = path[1].parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if not names or not isinstance(names[0].value, str):
        return None
    return "".join(c if c.isprintable() else "?" for c in names[0].value[:64])


def _base64(text: bytes) -> bytes:
    compact = b"".join(text.split())
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("certificate is not base64") from error


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
