"""Damaged Confidential Space tokens: every cut and flips all over are refusals, never errors."""

from __future__ import annotations

from confidential_space_forge import AT, anchors, token
from verispect.evidence.attestation import (
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.confidential_space import (
    ConfidentialSpaceEvidence,
    appraise_confidential_space,
)
from verispect.evidence.signed_token import MAX_TOKEN_BYTES

LENIENT = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))


def _verdict(data: bytes) -> AttestationVerdict:
    return appraise_confidential_space(
        ConfidentialSpaceEvidence(data),
        anchors=anchors(),
        expected=Expectation(),
        policy=LENIENT,
        at=AT,
    ).verdict


def test_every_truncation_is_refused() -> None:
    """No beginning of a token is a token."""
    data = token()
    assert _verdict(data) is AttestationVerdict.ACCEPT
    for length in range(len(data)):
        assert _verdict(data[:length]) is AttestationVerdict.REJECT


def test_every_flipped_bit_of_every_seventh_byte_is_refused() -> None:
    """Header, path, claims and signature are all covered; nothing in a token is padding."""
    data = token()
    for place in range(0, len(data), 7):
        for bit in range(8):
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << bit
            assert _verdict(bytes(spoilt)) is AttestationVerdict.REJECT


def test_a_document_of_16_megabytes_is_refused_before_it_is_read() -> None:
    """Size is checked first."""
    assert _verdict(b"a" * 16 * 1024 * 1024) is AttestationVerdict.REJECT
    assert _verdict(token() + b"A" * MAX_TOKEN_BYTES) is AttestationVerdict.REJECT
