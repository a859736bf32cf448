"""Certificates of TPM keys: endorsement keys, which decrypt, and attestation keys, which sign.

A path stands leaf first in evidence, as people keep it, and ends with its root. What an anchor
means and how issuers are checked is `verispect.evidence.certificates`'; here stands what the TCG
EK credential profile adds: the subject alternative name that names the model is critical, and an
endorsement key's usage is encipherment or agreement, never signing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.x509.oid import ExtensionOID

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.attestation import Anchor
from verispect.evidence.certificates import (
    MAX_CHAIN_CERTIFICATES,
    Certificate,
    check_ca,
    check_chain_validity,
    find_anchor,
    load_certificate,
    verify_chain,
    verify_issued_by,
)

_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string,
        ExtensionOID.EXTENDED_KEY_USAGE.dotted_string,
        ExtensionOID.CERTIFICATE_POLICIES.dotted_string,
    }
)


def verify_attestation_certificates(
    path: Sequence[bytes], *, anchors: Sequence[Anchor], technology: str, at: int
) -> tuple[Anchor, Certificate]:
    """Verify a path below an attestation key's certificate; return its anchor and the leaf.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        VerificationError: `attestation-root-untrusted`, `attestation-signature-invalid`,
            `attestation-not-yet-valid` or `attestation-expired`.
        UnsupportedError: `unsupported-algorithm`.
    """
    certificates = _load_path(path)
    anchor = _anchor_of(certificates[0], anchors, technology)
    verify_chain(certificates, key_usage_required=False, understood=_UNDERSTOOD)
    check_chain_validity(certificates, at)
    return anchor, certificates[-1]


def verify_endorsement_certificates(
    path: Sequence[bytes], *, anchors: Sequence[Anchor], technology: str, at: int
) -> tuple[Anchor, Certificate]:
    """Verify a path below an endorsement key's certificate; return its anchor and the leaf.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        VerificationError: as `verify_attestation_certificates`.
        UnsupportedError: `unsupported-algorithm`.
    """
    certificates = _load_path(path)
    anchor = _anchor_of(certificates[0], anchors, technology)
    verify_issued_by(certificates[0], certificates[0])
    for place, parent in enumerate(certificates[:-1]):
        verify_issued_by(certificates[place + 1], parent)
        check_ca(parent, len(certificates) - 2 - place, understood=_UNDERSTOOD)
    leaf = certificates[-1]
    usage = leaf.key_usage
    if leaf.is_ca or usage is None or not (usage.key_encipherment or usage.key_agreement):
        raise VerificationError(
            "the certificate is not one of an endorsement key",
            reason=Reason.ATTESTATION_ROOT_UNTRUSTED,
        )
    check_chain_validity(certificates, at)
    return anchor, leaf


def _load_path(path: Sequence[bytes]) -> list[Certificate]:
    if not 2 <= len(path) <= MAX_CHAIN_CERTIFICATES:
        raise MalformedError(
            f"a path has 2 to {MAX_CHAIN_CERTIFICATES} certificates",
            reason=Reason.MALFORMED_EVIDENCE,
        )
    return [load_certificate(der) for der in reversed(path)]


def _anchor_of(root: Certificate, anchors: Sequence[Anchor], technology: str) -> Anchor:
    anchor = find_anchor(root, anchors, technology)
    if anchor is None:
        raise VerificationError(
            "the path ends in a key that is no anchor", reason=Reason.ATTESTATION_ROOT_UNTRUSTED
        )
    return anchor
