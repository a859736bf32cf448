"""X.509 paths from a pinned key to an attestation key, shared by every technology with a chain.

`cryptography` reads the DER and checks single signatures; which certificate may vouch for which
is decided here. A path is a sequence that starts with the root. It holds when

1. the key of the first certificate is an anchor (`find_anchor`); names are never compared with
   anything outside the path;
2. every certificate names the one before it as its issuer and carries its signature, made with an
   algorithm of this module (`verify_issued_by`);
3. every certificate but the last is a CA that may sign certificates at its place (`check_ca`);
4. the last one may sign and is not a CA (`check_end_entity`);
5. each is valid at the time of judgement (`check_validity`).

`verify_chain` takes steps 2 to 4 together. Parsed certificates and good signatures are remembered
by their exact bytes, in bounded caches, because a chain outlives a document. Nothing about an
anchor or a time is ever remembered, so a cache cannot change a verdict.

This module refuses to build paths, to fetch issuers or revocation lists, to read a clock, and to
accept a critical extension that the caller does not understand.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.attestation import Anchor, lowest_anchor

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""Upper limit of one DER certificate; genuine ones have 0.5 to 2 kB."""

MAX_CHAIN_CERTIFICATES: Final = 10
"""Upper limit of certificates in one path, the root and the last one included."""

MAX_LABEL_CHARACTERS: Final = 96

MIN_RSA_BITS: Final = 2048

CERTIFICATE_CACHE_SIZE: Final = 512
SIGNATURE_CACHE_SIZE: Final = 1024

CertificateKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES: Final = (SHA256, SHA384, SHA512)
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS.dotted_string,
        ExtensionOID.KEY_USAGE.dotted_string,
    }
)

# Python keeps warning filters in a place that all threads share.
_warnings_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Certificate:
    """One parsed certificate, believed by nobody."""

    der: bytes
    parsed: x509.Certificate
    """For what this class does not hold, extensions of one vendor for example."""
    public_key: CertificateKey
    key_digest: Digest
    """SHA-256 of the DER `SubjectPublicKeyInfo`."""
    serial_number: int
    not_before: int
    """Milliseconds since the epoch, as the next one."""
    not_after: int
    is_ca: bool
    path_length: int | None
    key_usage: x509.KeyUsage | None
    critical_extensions: frozenset[str]
    """Dotted object identifiers."""
    label: str
    """The subject's name, shortened, for messages only."""


def load_certificate(der: bytes) -> Certificate:
    """Parse one DER certificate.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm` for a kind of key outside this module.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise MalformedError(
            f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    return _load(bytes(der))


@lru_cache(maxsize=CERTIFICATE_CACHE_SIZE)
def _load(der: bytes) -> Certificate:
    try:
        # AMD's certificates have the serial number 0, of which `cryptography` warns.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(der)
            return _describe(der, parsed)
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(
            "a certificate's key is of an unknown kind", reason=Reason.UNSUPPORTED_ALGORITHM
        ) from error
    except (
        ValueError,
        TypeError,
        KeyError,  # What the library raises for an unknown number in a TLS feature extension.
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise MalformedError(
            "not an X.509 certificate", reason=Reason.MALFORMED_EVIDENCE
        ) from error


def _describe(der: bytes, parsed: x509.Certificate) -> Certificate:
    if parsed.version is not x509.Version.v3:
        raise ValueError("expected version 3")
    key = parsed.public_key()
    if not (
        isinstance(key, ed25519.Ed25519PublicKey)
        or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS)
    ):
        raise UnsupportedAlgorithm("kind or size of key")
    is_ca, path_length, key_usage = False, None, None
    for extension in parsed.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            is_ca, path_length = value.ca, value.path_length
        elif isinstance(value, x509.KeyUsage):
            key_usage = value
    return Certificate(
        der=der,
        parsed=parsed,
        public_key=key,
        key_digest=sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        serial_number=parsed.serial_number,
        not_before=_milliseconds(parsed.not_valid_before_utc),
        not_after=_milliseconds(parsed.not_valid_after_utc),
        is_ca=is_ca,
        path_length=path_length,
        key_usage=key_usage,
        critical_extensions=frozenset(
            extension.oid.dotted_string for extension in parsed.extensions if extension.critical
        ),
        label=_printable(parsed.subject.rfc4514_string()),
    )


def _printable(name: str) -> str:
    # Whoever makes a certificate chooses its name, and names end up on terminals.
    return "".join(c if c.isprintable() else "?" for c in name[:MAX_LABEL_CHARACTERS])


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def spki_digest(certificate: Certificate) -> Digest:
    """Return the SHA-256 of the `SubjectPublicKeyInfo`, by which anchors are pinned."""
    return certificate.key_digest


def find_anchor(
    root: Certificate, anchors: Sequence[Anchor], technology: str | None = None
) -> Anchor | None:
    """Return the anchor whose key `root` has, of `technology` where one is given.

    Where a key is listed in several classes, the lowest one counts.
    """
    return lowest_anchor(root.key_digest, anchors, technology)


def verify_issued_by(child: Certificate, parent: Certificate) -> None:
    """Check that `child` names `parent` as its issuer and carries its signature.

    Says nothing about whether `parent` may sign certificates: see `check_ca`.

    Raises:
        VerificationError: `attestation-signature-invalid`.
        UnsupportedError: `unsupported-algorithm`.
    """
    _verify_signature(child.der, parent.der)


@lru_cache(maxsize=SIGNATURE_CACHE_SIZE)
def _verify_signature(child_der: bytes, parent_der: bytes) -> None:
    # Only success is remembered: `lru_cache` keeps no exception.
    child, parent = _load(child_der), _load(parent_der)
    try:
        _check_signature_algorithm(child.parsed)
        child.parsed.verify_directly_issued_by(parent.parsed)
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(
            f"signature algorithm of the certificate {child.label}",
            reason=Reason.UNSUPPORTED_ALGORITHM,
        ) from error
    except (InvalidSignature, ValueError, TypeError) as error:
        raise VerificationError(
            f"certificate {child.label} is not signed by the one before it",
            reason=Reason.ATTESTATION_SIGNATURE_INVALID,
        ) from error


def _check_signature_algorithm(parsed: x509.Certificate) -> None:
    parameters = parsed.signature_algorithm_parameters
    digest = parsed.signature_hash_algorithm
    if isinstance(parameters, (padding.PSS, padding.PKCS1v15, ec.ECDSA)):
        good = isinstance(digest, _HASHES)
    else:
        good = parsed.signature_algorithm_oid == x509.SignatureAlgorithmOID.ED25519
    if not good:
        raise UnsupportedAlgorithm("signature algorithm")


def check_validity(certificate: Certificate, at: int) -> None:
    """Check that the certificate is valid at `at`, milliseconds since the epoch, ends included.

    Raises:
        VerificationError: `attestation-not-yet-valid` or `attestation-expired`.
    """
    if at < certificate.not_before:
        raise VerificationError(
            f"certificate {certificate.label} is not valid yet",
            reason=Reason.ATTESTATION_NOT_YET_VALID,
        )
    if at > certificate.not_after:
        raise VerificationError(
            f"certificate {certificate.label} has expired", reason=Reason.ATTESTATION_EXPIRED
        )


def check_ca(
    certificate: Certificate, depth: int, *, understood: frozenset[str] = frozenset()
) -> None:
    """Check that the certificate may sign certificates at its place in a path.

    Args:
        certificate: the issuer in question.
        depth: how many CA certificates stand between it and the last certificate of the path.
        understood: critical extensions, as dotted identifiers, that the caller looks at itself.

    Raises:
        VerificationError: `attestation-root-untrusted`: there is no path to the root through it.
    """
    _check_critical(certificate, understood)
    if not certificate.is_ca:
        raise _no_path(f"certificate {certificate.label} is not a CA's")
    if certificate.key_usage is None or not certificate.key_usage.key_cert_sign:
        raise _no_path(f"certificate {certificate.label} may not sign certificates")
    if certificate.path_length is not None and certificate.path_length < depth:
        raise _no_path(f"path below {certificate.label} is longer than it allows")


def check_end_entity(
    certificate: Certificate,
    *,
    key_usage_required: bool = True,
    understood: frozenset[str] = frozenset(),
) -> None:
    """Check that the last certificate of a path may sign data and is not a CA.

    Args:
        certificate: the attestation key's.
        key_usage_required: `False` where the vendor's certificates have no such extension.
        understood: critical extensions, as dotted identifiers, that the caller looks at itself.

    Raises:
        VerificationError: `attestation-root-untrusted`.
    """
    _check_critical(certificate, understood)
    if certificate.is_ca:
        raise _no_path(f"certificate {certificate.label} is a CA's and stands for a device")
    usage = certificate.key_usage
    if usage is None:
        if key_usage_required:
            raise _no_path(f"certificate {certificate.label} does not say what its key is for")
    elif not usage.digital_signature:
        raise _no_path(f"certificate {certificate.label} may not sign data")


def verify_chain(
    path: Sequence[Certificate],
    *,
    key_usage_required: bool = True,
    understood: frozenset[str] = frozenset(),
) -> None:
    """Check signatures, order and purpose of a path, root first; see the module, steps 2 to 4.

    The root's signature over itself is checked as well, so that nothing in the path is unsigned.

    Args:
        path: root, intermediates, last certificate.
        key_usage_required: as in `check_end_entity`.
        understood: as in `check_ca`.

    Raises:
        MalformedError: `malformed-evidence` for a path of fewer than two certificates, or
            `too-large`.
        VerificationError: `attestation-signature-invalid` or `attestation-root-untrusted`.
        UnsupportedError: `unsupported-algorithm`.
    """
    if len(path) < 2:
        raise MalformedError(
            "a path needs a root and a certificate below it", reason=Reason.MALFORMED_EVIDENCE
        )
    if len(path) > MAX_CHAIN_CERTIFICATES:
        raise MalformedError(
            f"a path has at most {MAX_CHAIN_CERTIFICATES} certificates", reason=Reason.TOO_LARGE
        )
    verify_issued_by(path[0], path[0])
    for parent, child in pairwise(path):
        verify_issued_by(child, parent)
    # Purposes after all signatures: a spliced path is reported as what it is.
    for place, parent in enumerate(path[:-1]):
        check_ca(parent, len(path) - 2 - place, understood=understood)
    check_end_entity(path[-1], key_usage_required=key_usage_required, understood=understood)


def check_chain_validity(path: Sequence[Certificate], at: int) -> tuple[int, int]:
    """Check every certificate of a path at `at`; return the time in which all are valid.

    Raises:
        VerificationError: as `check_validity`.
    """
    for certificate in path:
        check_validity(certificate, at)
    return max(c.not_before for c in path), min(c.not_after for c in path)


def forget_certificates() -> None:
    """Empty the caches: for measurements, and for tests that compare with and without them."""
    _load.cache_clear()
    _verify_signature.cache_clear()


def _check_critical(certificate: Certificate, understood: frozenset[str]) -> None:
    unknown = certificate.critical_extensions - _UNDERSTOOD - understood
    if unknown:
        raise _no_path(f"certificate {certificate.label} has a critical extension {min(unknown)}")


def _no_path(detail: str) -> VerificationError:
    return VerificationError(detail, reason=Reason.ATTESTATION_ROOT_UNTRUSTED)
