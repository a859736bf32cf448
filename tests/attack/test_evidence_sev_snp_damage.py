"""Truncations, flipped bits and look-alikes of SEV-SNP reports, and what a cache may not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev_snp_platform import AT, Platform, development_anchor, revocation_list
from tee_vectors import milliseconds, read_vector
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    Expectation,
)
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.sev_snp import GENUINE_ANCHORS, SevSnpEvidence, appraise_sev_snp
from verispect.evidence.sev_snp.amd_certificates import ARK, ASK, ASVK
from verispect.evidence.sev_snp.report import Generation

GENUINE = {
    "milan_v2_virtee.vcek": "2023-06-01T00:00:00Z",
    "milan_v3_dstack.vcek": "2026-08-01T00:00:00Z",
    "milan_v3_vlek_trustee.vlek": "2025-02-01T00:00:00Z",
}
MILAN = Generation.MILAN


def genuine(name: str) -> tuple[SevSnpEvidence, int]:
    """Return one genuine report with its whole chain, and a time at which it is accepted."""
    base, _, kind = name.rpartition(".")
    signer = ASK[MILAN] if kind == "vcek" else ASVK[MILAN]
    evidence = SevSnpEvidence(
        read_vector(f"snp/reports/{base}.bin"),
        read_vector(f"snp/certs/{name}.der"),
        signer,
        ARK[MILAN],
    )
    return evidence, milliseconds(GENUINE[name])


def judge(evidence: SevSnpEvidence, at: int) -> AttestationAppraisal:
    return appraise_sev_snp(evidence, expected=Expectation(), policy=AttestationPolicy(), at=at)


def flip(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("name", GENUINE)
def test_no_bit_of_a_report_can_change(name: str) -> None:
    """One flipped bit in any byte of a genuine report is refused, its padding included."""
    evidence, at = genuine(name)
    assert judge(evidence, at).verdict is AttestationVerdict.ACCEPT
    for byte in range(len(evidence.report)):
        altered = flip(evidence.report, byte * 8 + byte % 8)
        appraisal = judge(replace(evidence, report=altered), at)
        assert appraisal.verdict is AttestationVerdict.REJECT, byte


@pytest.mark.parametrize("part", ["certificate", "signer", "root"])
def test_no_bit_of_a_chain_can_change(part: str) -> None:
    """One flipped bit in a certificate of the chain is refused."""
    evidence, at = genuine("milan_v3_dstack.vcek")
    data = getattr(evidence, part)
    for byte in range(0, len(data), 3):
        altered = replace(evidence, **{part: flip(data, byte * 8 + byte % 8)})
        assert judge(altered, at).verdict is AttestationVerdict.REJECT, byte


@pytest.mark.parametrize("part", ["report", "certificate", "signer", "root"])
def test_no_part_can_be_cut_or_grow(part: str) -> None:
    """A part cut at any length, or with bytes behind its end, is refused."""
    evidence, at = genuine("milan_v3_dstack.vcek")
    data = getattr(evidence, part)
    start = 1 if part in ("signer", "root") else 0
    for length in range(start, len(data)):
        cut = replace(evidence, **{part: data[:length]})
        assert judge(cut, at).verdict is AttestationVerdict.REJECT, length
    for tail in (b"\0", bytes(16 * 1024 * 1024)):
        grown = replace(evidence, **{part: data + tail})
        assert judge(grown, at).verdict is AttestationVerdict.REJECT


def test_a_revocation_list_of_junk_is_refused() -> None:
    """A list with a flipped bit, cut or far too large is refused and never passed over."""
    genuine_list = revocation_list()
    evidence = Platform().evidence()
    for byte in range(0, len(genuine_list), 2):
        altered = replace(evidence, revocation_list=flip(genuine_list, byte * 8))
        assert own(altered).verdict is AttestationVerdict.REJECT, byte
    for junk in (b"", b"\x30", genuine_list[:-1], bytes(16 * 1024 * 1024)):
        altered = replace(evidence, revocation_list=junk)
        assert own(altered).verdict is AttestationVerdict.REJECT


def own(evidence: SevSnpEvidence, at: int = AT) -> AttestationAppraisal:
    return appraise_sev_snp(
        evidence,
        anchors=(*GENUINE_ANCHORS, development_anchor()),
        expected=Expectation(),
        policy=AttestationPolicy(),
        at=at,
    )


def test_a_forged_platform_is_refused_under_every_genuine_part() -> None:
    """Our own report beside any mixture of genuine and own certificates is never accepted."""
    real, at = genuine("milan_v3_dstack.vcek")
    ours = Platform().evidence()
    for choice in range(15):  # All but four genuine parts.
        mixed = SevSnpEvidence(
            *(
                getattr(real if choice >> place & 1 else ours, part)
                for place, part in enumerate(("report", "certificate", "signer", "root"))
            )
        )
        appraisal = appraise_sev_snp(
            mixed, expected=Expectation(), policy=AttestationPolicy(), at=at
        )
        assert appraisal.verdict is AttestationVerdict.REJECT, choice


@settings(max_examples=40, deadline=None)
@given(
    order=st.lists(
        st.tuples(
            st.sampled_from(sorted(GENUINE)),
            st.sampled_from(["2020-01-01T00:00:00Z", "2025-02-01T00:00:00Z", *GENUINE.values()]),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_cache_never_changes_an_answer(order: list[tuple[str, str, bool]]) -> None:
    """Whatever was appraised before, at whatever time, an answer is that of an empty cache."""
    for name, moment, flipped in order:
        evidence, _ = genuine(name)
        if flipped:
            evidence = replace(evidence, certificate=flip(evidence.certificate, 8 * 1000))
        warm = judge(evidence, milliseconds(moment)).to_json()
        forget_certificates()
        assert judge(evidence, milliseconds(moment)).to_json() == warm


@settings(max_examples=300, deadline=None)
@given(report=st.binary(max_size=1300), certificate=st.binary(max_size=200))
def test_junk_is_refused_without_an_exception(report: bytes, certificate: bytes) -> None:
    """Bytes of any kind are appraised, refused, and raise nothing."""
    junk = SevSnpEvidence(report, certificate, certificate, certificate, report)
    assert judge(junk, AT).verdict is AttestationVerdict.REJECT
