"""AMD's revocation list: which signers of chip or provider keys the root has withdrawn.

The list is the root's. AMD's keys for chips and providers have no serial numbers of their own
(VCEK certificates all have 0), so what can be withdrawn is the signer above them, and the product
of keys below a security version, which is a matter of TCB floors and not of this list.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.certificates import Certificate

MAX_LIST_BYTES: Final = 256 * 1024
"""Upper limit of one list; genuine ones have less than 1 kB."""


def check_not_revoked(der: bytes, *, root: Certificate, signer: Certificate, at: int) -> None:
    """Check a list of the root's and that it does not name the signer.

    Args:
        der: the list, DER.
        root: the ARK, verified before.
        signer: the ASK or ASVK, verified before.
        at: milliseconds since the epoch.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        VerificationError: `attestation-signature-invalid`, `attestation-not-yet-valid`,
            `attestation-expired` or `attestation-revoked`.
    """
    if len(der) > MAX_LIST_BYTES:
        raise MalformedError("revocation list too large", reason=Reason.TOO_LARGE)
    try:
        revoked = x509.load_der_x509_crl(der)
        genuine = (
            isinstance(root.public_key, rsa.RSAPublicKey)
            and revoked.issuer == root.parsed.subject
            and revoked.is_signature_valid(root.public_key)
        )
        begins, ends = revoked.last_update_utc, revoked.next_update_utc
        entry = revoked.get_revoked_certificate_by_serial_number(signer.serial_number)
        critical = any(extension.critical for extension in revoked.extensions)
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise MalformedError("not a revocation list", reason=Reason.MALFORMED_EVIDENCE) from error
    if not genuine:
        raise VerificationError(
            "revocation list is not signed by the root",
            reason=Reason.ATTESTATION_SIGNATURE_INVALID,
        )
    if critical:
        # A list for part of the certificates, or a change to another list.
        raise MalformedError(
            "revocation list with a critical extension", reason=Reason.MALFORMED_EVIDENCE
        )
    if at < begins.timestamp() * 1000:
        raise VerificationError(
            "revocation list is not valid yet", reason=Reason.ATTESTATION_NOT_YET_VALID
        )
    if ends is None or at > ends.timestamp() * 1000:
        raise VerificationError("revocation list is out of date", reason=Reason.ATTESTATION_EXPIRED)
    if entry is not None:
        raise VerificationError(
            f"certificate {signer.label} is revoked", reason=Reason.ATTESTATION_REVOKED
        )
