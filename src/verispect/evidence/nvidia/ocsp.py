"""Stored OCSP responses (RFC 6960), verified at a given time and never asked for here.

A response counts for a certificate when it names it by serial number and by the digests of its
issuer's name and key, when the issuer itself signed it or a responder that the issuer certified
for this purpose, and when the time of judgement lies between its two updates. *Revoked*, also
when only on hold, and *unknown* are refusals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from verispect.core.errors import (
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.evidence.attestation import Examination
from verispect.evidence.certificates import (
    Certificate,
    check_end_entity,
    check_validity,
    load_certificate,
    verify_issued_by,
)

MAX_RESPONSES: Final = 64
MAX_RESPONSE_BYTES: Final = 16 * 1024

_HASHES: Final = ("sha1", "sha256", "sha384", "sha512")  # SHA-1 only names the issuer's key here.
_CRITICAL: Final = frozenset({ExtensionOID.EXTENDED_KEY_USAGE.dotted_string})


def load_responses(responses: Sequence[bytes]) -> tuple[ocsp.OCSPResponse, ...]:
    """Read stored responses.

    Raises:
        MalformedError: `malformed-evidence` or `too-large`.
    """
    if len(responses) > MAX_RESPONSES or any(len(der) > MAX_RESPONSE_BYTES for der in responses):
        raise MalformedError("too many or too large OCSP responses", reason=Reason.TOO_LARGE)
    return tuple(_load(der) for der in responses)


def _load(der: bytes) -> ocsp.OCSPResponse:
    try:
        response = ocsp.load_der_ocsp_response(der)
        successful = response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        if successful:
            # Read now what is read below, so that no parser's error comes later.
            _ = (response.serial_number, response.certificates, response.signature_hash_algorithm)
            _ = (response.hash_algorithm, response.this_update_utc, response.next_update_utc)
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(
            "algorithm of an OCSP response", reason=Reason.UNSUPPORTED_ALGORITHM
        ) from error
    except (ValueError, TypeError) as error:
        raise _malformed("not an OCSP response with one answer") from error
    if not successful:
        raise _malformed("an OCSP response without an answer")
    return response


def check_revocation(
    certificate: Certificate,
    issuer: Certificate,
    responses: Sequence[ocsp.OCSPResponse],
    at: int,
) -> bool:
    """Check a certificate against stored responses; `False` where none is about it.

    Raises:
        VerificationError: `attestation-revoked`, `attestation-signature-invalid`,
            `attestation-root-untrusted`, `attestation-expired` or `attestation-not-yet-valid`.
        UnsupportedError: `unsupported-algorithm`.
        MalformedError: `malformed-evidence` for the responder's certificate.
    """
    about = [response for response in responses if _is_about(response, certificate, issuer)]
    for response in about:
        _verify_signature(response, issuer, at)
        _check_times(response, at)
        if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            raise VerificationError(
                f"certificate {certificate.label}: OCSP says "
                f"{response.certificate_status.name.lower()}",
                reason=Reason.ATTESTATION_REVOKED,
            )
    return bool(about)


def examine_revocation(
    examination: Examination,
    name: str,
    path: Sequence[Certificate],
    responses: Sequence[ocsp.OCSPResponse],
    at: int,
) -> None:
    """Note what stored responses say of all of `path` but its last certificate, the anchor.

    Raises:
        verispect.core.errors.Error: as `check_revocation`, and `evidence-missing` where the policy
            requires a response and there is none.
    """
    checked = [
        check_revocation(certificate, issuer, responses, at)
        for certificate, issuer in pairwise(path)
    ]
    missing = checked.count(False)
    if checked and not missing:
        examination.passed(name, f"OCSP says good for {len(checked)} certificates")
    elif examination.policy.require_revocation:
        examination.fail(
            name, f"no OCSP response for {missing} certificates", Reason.EVIDENCE_MISSING
        )
    else:
        examination.skipped(name, f"{name} by OCSP of {missing} of {len(checked)} certificates")


def _is_about(response: ocsp.OCSPResponse, certificate: Certificate, issuer: Certificate) -> bool:
    if response.serial_number != certificate.serial_number:
        return False
    name = response.hash_algorithm.name
    if name not in _HASHES:
        return False
    key = issuer.public_key.public_bytes(*_key_form(issuer))
    subject = issuer.parsed.subject.public_bytes()
    return (
        response.issuer_key_hash == hashlib.new(name, key, usedforsecurity=False).digest()
        and response.issuer_name_hash == hashlib.new(name, subject, usedforsecurity=False).digest()
    )


def _key_form(issuer: Certificate) -> tuple[Encoding, PublicFormat]:
    # The digest is over the bits of the key alone, without the algorithm around them.
    if isinstance(issuer.public_key, ec.EllipticCurvePublicKey):
        return Encoding.X962, PublicFormat.UncompressedPoint
    return Encoding.DER, PublicFormat.PKCS1


def _verify_signature(response: ocsp.OCSPResponse, issuer: Certificate, at: int) -> None:
    signer = issuer
    if response.certificates:
        signer = load_certificate(response.certificates[0].public_bytes(Encoding.DER))
        if signer.der != issuer.der:
            verify_issued_by(signer, issuer)
            check_end_entity(signer, understood=_CRITICAL)
            check_validity(signer, at)
            _check_purpose(signer)
    key, algorithm = signer.public_key, response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_good(algorithm):
        raise UnsupportedError("signature of an OCSP response", reason=Reason.UNSUPPORTED_ALGORITHM)
    assert algorithm is not None
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            "the signature of an OCSP response does not match",
            reason=Reason.ATTESTATION_SIGNATURE_INVALID,
        ) from error


def _is_good(algorithm: HashAlgorithm | None) -> bool:
    return isinstance(algorithm, (SHA256, SHA384, SHA512))


def _check_purpose(responder: Certificate) -> None:
    extension: x509.Extension[x509.ExtendedKeyUsage] | None
    try:
        extension = responder.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        extension = None
    if extension is None or ExtendedKeyUsageOID.OCSP_SIGNING not in extension.value:
        raise VerificationError(
            f"certificate {responder.label} may not sign OCSP responses",
            reason=Reason.ATTESTATION_ROOT_UNTRUSTED,
        )


def _check_times(response: ocsp.OCSPResponse, at: int) -> None:
    if at < _milliseconds(response.this_update_utc):
        raise VerificationError(
            "an OCSP response is from later", reason=Reason.ATTESTATION_NOT_YET_VALID
        )
    following = response.next_update_utc
    if following is None or at > _milliseconds(following):
        raise VerificationError(
            "an OCSP response is out of date", reason=Reason.ATTESTATION_EXPIRED
        )


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
