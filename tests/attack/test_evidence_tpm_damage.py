"""Truncations and flipped bits of TPM quotes and of Azure's evidence around them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_vectors import load_case, milliseconds, read_vector
from tpm_keys import MadeQuote, anchor_of, ecc_key
from verispect.core.errors import Error
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.azure import AzureEvidence, appraise_azure, read_bundle
from verispect.evidence.technologies import anchors_of
from verispect.evidence.tpm import TECHNOLOGY, TpmEvidence, appraise_tpm, evidence_from_files

REJECT = AttestationVerdict.REJECT
ANY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
AZURE_AT = milliseconds("2025-06-01T00:00:00Z")
REQUEST_TYPE = range(12, 16)
"""A word of the HCL report's header that nothing signs and that decides nothing."""


def flip(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def genuine() -> TpmEvidence:
    """Return the recorded quote of a software TPM."""
    return evidence_from_files(load_case("tpm-swtpm-ecc")["evidence"])


def judge(evidence: TpmEvidence, key: bytes | None = None) -> AttestationAppraisal:
    anchors = (anchor_of(ecc_key()),)
    if key is not None:
        anchors = anchors_of(TECHNOLOGY, key, EvidenceClass.SOFTWARE, "anchored")
    return appraise_tpm(
        evidence, anchors=anchors, expected=Expectation(), policy=ANY_CLASS, at=AZURE_AT
    )


@pytest.mark.parametrize("part", ["quote", "signature", "pcrs"])
def test_no_bit_of_a_quote_can_change(part: str) -> None:
    """One flipped bit in quote, signature or registers is refused, in both signature forms."""
    recorded = genuine()
    for evidence, key in ((recorded, recorded.ak), (MadeQuote().evidence(), None)):
        assert judge(evidence, key).verdict is AttestationVerdict.ACCEPT
        data = getattr(evidence, part)
        for bit in range(len(data) * 8):
            altered = replace(evidence, **{part: flip(data, bit)})
            assert judge(altered, key).verdict is REJECT, bit


@pytest.mark.parametrize("part", ["quote", "signature", "ak", "pcrs"])
def test_no_part_of_a_quote_can_be_cut_or_grow(part: str) -> None:
    """A part cut at any length, or with bytes behind its end, is refused."""
    evidence = MadeQuote().evidence()
    data = getattr(evidence, part)
    for length in range(len(data)):
        assert judge(replace(evidence, **{part: data[:length]})).verdict is REJECT, length
    for tail in (b"\0", bytes(16 * 1024 * 1024)):
        assert judge(replace(evidence, **{part: data + tail})).verdict is REJECT


def test_no_bit_of_a_key_can_change() -> None:
    """One flipped bit of a public area is another key or other attributes, and is refused.

    Bits that name a policy, a name algorithm or the scheme's hash decide nothing here.
    """
    evidence = MadeQuote().evidence()
    attributes, point = range(4, 8), range(len(evidence.ak) - 68, len(evidence.ak))
    decisive = (1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 18).to_bytes(4, "big")
    for byte in (*range(2), *attributes, *point):
        for bit in range(8):
            if byte in attributes and not decisive[byte - 4] >> bit & 1:
                continue
            altered = replace(evidence, ak=flip(evidence.ak, byte * 8 + bit))
            assert judge(altered).verdict is REJECT, (byte, bit)


def azure() -> AzureEvidence:
    return read_bundle(read_vector("azure/snp_v2.json"))


def judge_azure(evidence: AzureEvidence) -> AttestationAppraisal:
    return appraise_azure(evidence, expected=Expectation(), policy=AttestationPolicy(), at=AZURE_AT)


@pytest.mark.parametrize("part", ["hcl_report", "quote", "signature"])
def test_no_bit_of_azure_evidence_can_change(part: str) -> None:
    """One flipped bit in any byte is refused, but for the request type in the header."""
    evidence = azure()
    assert judge_azure(evidence).verdict is AttestationVerdict.ACCEPT
    data = getattr(evidence, part)
    for byte in range(len(data)):
        if part == "hcl_report" and byte in REQUEST_TYPE:
            continue
        altered = replace(evidence, **{part: flip(data, byte * 8 + byte % 8)})
        assert judge_azure(altered).verdict is REJECT, byte


@pytest.mark.parametrize("part", ["hcl_report", "quote", "signature", "certificate"])
def test_no_part_of_azure_evidence_can_be_cut(part: str) -> None:
    """A part cut at any length is refused, but for padding behind the report."""
    evidence = azure()
    data = getattr(evidence, part)
    whole = len(data.rstrip(b"\0")) if part == "hcl_report" else len(data)
    for length in range(whole):
        assert judge_azure(replace(evidence, **{part: data[:length]})).verdict is REJECT, length
    assert judge_azure(replace(evidence, **{part: data + b"\1"})).verdict is REJECT
    huge = replace(evidence, **{part: data + bytes(16 * 1024 * 1024)})
    assert judge_azure(huge).verdict is REJECT


@settings(max_examples=300, deadline=None)
@given(quote=st.binary(max_size=200), signature=st.binary(max_size=100), ak=st.binary(max_size=120))
def test_junk_is_refused_without_an_exception(quote: bytes, signature: bytes, ak: bytes) -> None:
    """Bytes of any kind are appraised, refused, and raise nothing."""
    evidence = TpmEvidence(quote, signature, ak, signature, (ak,), (quote,))
    assert judge(evidence).verdict is REJECT
    machine = AzureEvidence(b"HCLA" + quote, quote, signature, (ak,), signature)
    assert judge_azure(machine).verdict is REJECT


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 8000), junk=st.binary(max_size=8))
def test_a_spoiled_bundle_raises_only_our_errors(cut: int, junk: bytes) -> None:
    """A bundle cut anywhere and continued with anything is evidence or one of our errors."""
    bundle = read_vector("azure/snp_v2.json")
    try:
        evidence = read_bundle(bundle[:cut] + junk)
    except Error:
        return
    assert json.loads(bundle[:cut] + junk)
    assert evidence.hcl_report
