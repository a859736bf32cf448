"""SEV-SNP: genuine reports as the cases say, and one forgery for every numbered check."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sev_snp_platform import AT, TCB, Platform, chip_key, development_anchor, revocation_list
from tee_vectors import case_ids, load_case, milliseconds, read_vector
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    reason_class,
)
from verispect.evidence.certificates import load_certificate
from verispect.evidence.sev_snp import GENUINE_ANCHORS, SevSnpEvidence, appraise_sev_snp
from verispect.evidence.sev_snp.amd_certificates import ARK, ASK, ASVK
from verispect.evidence.sev_snp.report import Generation

DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))
LATER, MUCH_LATER = datetime(2025, 8, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def judge(
    evidence: SevSnpEvidence,
    *,
    expected: Expectation | None = None,
    policy: AttestationPolicy = DEVELOPMENT,
    at: int = AT,
) -> AttestationAppraisal:
    return appraise_sev_snp(
        evidence,
        anchors=(*GENUINE_ANCHORS, development_anchor()),
        expected=expected or Expectation(),
        policy=policy,
        at=at,
    )


def genuine(name: str = "milan_v3_dstack", kind: str = "vcek", **changes) -> SevSnpEvidence:
    whole = SevSnpEvidence(
        read_vector(f"snp/reports/{name}.bin"), read_vector(f"snp/certs/{name}.{kind}.der")
    )
    return replace(whole, **changes)


@pytest.mark.parametrize("case_id", case_ids("amd-sev-snp"))
def test_a_case_gives_its_result_reason_and_facts(case_id: str) -> None:
    """Every case of the vectors gives its stated result, reason class and facts."""
    case = load_case(case_id)
    files = case["evidence"]
    allow_debug = case["policy"].get("allow_debug", False)
    appraisal = appraise_sev_snp(
        SevSnpEvidence(files["report"], files["cert"], files.get("ask"), files.get("ark")),
        expected=Expectation(),
        policy=AttestationPolicy(allow_debug=allow_debug),
        at=milliseconds(case["verify_at"]),
    )
    assert appraisal.verdict == case["expect"]
    assert reason_class(appraisal.reason) == case["reason"]
    for name, value in case.get("facts", {}).items():
        assert appraisal.facts[name] == value, name


def test_amds_own_certificates_are_at_hand() -> None:
    """A genuine report needs no more than its VCEK or VLEK, and is of class hardware."""
    policy, at = AttestationPolicy(), milliseconds("2026-07-17T00:00:00Z")
    chip = appraise_sev_snp(genuine(), expected=Expectation(), policy=policy, at=at)
    assert chip.verdict is AttestationVerdict.ACCEPT
    assert chip.evidence_class is EvidenceClass.HARDWARE
    provider = appraise_sev_snp(
        genuine("milan_v3_vlek_trustee", "vlek"),
        expected=Expectation(),
        policy=policy,
        at=milliseconds("2025-06-01T00:00:00Z"),
    )
    assert provider.verdict is AttestationVerdict.ACCEPT
    assert "amazonaws" in provider.facts["provider"]
    assert any(line.startswith("chip:") for line in provider.not_checked)


@pytest.mark.parametrize("generation", list(Generation))
def test_what_is_kept_of_amd_is_what_is_pinned(generation: Generation) -> None:
    """The certificates kept for a generation chain to the pinned key of that generation."""
    anchors = {anchor.label: anchor.key_digest for anchor in GENUINE_ANCHORS}
    root = load_certificate(ARK[generation])
    assert root.key_digest == anchors[f"AMD ARK {generation}"]
    for signer in (ASK[generation], ASVK[generation]):
        load_certificate(signer).parsed.verify_directly_issued_by(root.parsed)


@pytest.mark.parametrize("generation", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("vlek", [False, True])
@pytest.mark.parametrize("version", [3, 5])
def test_a_platform_of_ours_is_development(generation: str, vlek: bool, version: int) -> None:
    """Every generation, key and version verifies under our root, as development and not more."""
    platform = Platform(generation=generation, vlek=vlek, version=version)
    appraisal = judge(platform.evidence())
    assert appraisal.verdict is AttestationVerdict.ACCEPT, appraisal.checks
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT
    assert appraisal.facts["tcb"] == TCB[generation]
    refused = judge(platform.evidence(), policy=AttestationPolicy())
    assert refused.reason is Reason.ATTESTATION_CLASS_REFUSED
    by_default = appraise_sev_snp(
        platform.evidence(), expected=Expectation(), policy=AttestationPolicy(), at=AT
    )
    assert by_default.reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert by_default.evidence_class is None


MALFORMED, UNSUPPORTED_VERSION = Reason.MALFORMED_EVIDENCE, Reason.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    ("patches", "reason"),
    [
        ({0x00: b"\x01"}, UNSUPPORTED_VERSION),
        ({0x00: b"\x06"}, UNSUPPORTED_VERSION),
        ({0x34: b"\x02"}, Reason.UNSUPPORTED_ALGORITHM),
        ({0x48: b"\x1c"}, Reason.UNSUPPORTED_EVIDENCE),
        ({0x48: b"\x20"}, MALFORMED),
        ({0x08: (1 << 26 | 0x30000).to_bytes(8, "little")}, MALFORMED),
        ({0x08: (0x10000).to_bytes(8, "little")}, MALFORMED),
        ({0x40: b"\x00\x01"}, MALFORMED),
        ({0x4C: b"\x01"}, MALFORMED),
        ({0x18B: b"\x01"}, MALFORMED),
        ({0x1EB: b"\x01"}, MALFORMED),
        ({0x1EF: b"\x01"}, MALFORMED),
        ({0x1F8: b"\x01"}, MALFORMED),
        ({0x29F: b"\x01"}, MALFORMED),
        ({0x00: b"\x02"}, MALFORMED),
        ({0x182: b"\x01"}, MALFORMED),
    ],
)
def test_a_signed_report_out_of_form_is_refused(patches: dict[int, bytes], reason: Reason) -> None:
    """A reserved bit, another version or another key is refused although the signature holds."""
    assert judge(Platform(patches=patches).evidence()).reason is reason


def test_the_padding_of_the_signature_is_part_of_the_form() -> None:
    """Bytes that no signature covers must be zero, and the length is exact."""
    report = Platform().report()
    for offset in (0x2A0 + 48, 0x2E8 + 48, 1183):
        altered = report[:offset] + b"\1" + report[offset + 1 :]
        assert judge(Platform().evidence(report=altered)).reason is MALFORMED
    assert judge(Platform().evidence(report=report + b"\0")).reason is MALFORMED


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        (Platform(cpuid=(0x19, 0x11, 1)), Reason.ATTESTATION_BINDING_INVALID),
        (Platform(cpuid=(0x17, 0x31, 0)), Reason.UNSUPPORTED_EVIDENCE),
        (Platform(product="Venice-A0"), Reason.UNSUPPORTED_EVIDENCE),
        (Platform(extensions={"2": b""}), MALFORMED),
        (Platform(extensions={"2": b"\x16\x09Milan"}), MALFORMED),
        (Platform(extensions={"3.8": b""}), MALFORMED),
        (Platform(extensions={"3.8": b"\x02\x02\x01\xdb"}), MALFORMED),
        (Platform(hardware_id=bytes(8)), MALFORMED),
    ],
)
def test_report_and_certificate_are_of_one_generation(platform: Platform, reason: Reason) -> None:
    """Another or an unknown generation and a certificate out of form are refused."""
    assert judge(platform.evidence()).reason is reason


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        (Platform(leaf_signer="somebody"), Reason.ATTESTATION_SIGNATURE_INVALID),
        (Platform(salt=32), Reason.UNSUPPORTED_ALGORITHM),
        (Platform(signer_bits=3072), Reason.UNSUPPORTED_ALGORITHM),
        (Platform(signer_ca=False), Reason.ATTESTATION_ROOT_UNTRUSTED),
    ],
)
def test_a_broken_chain_is_refused(platform: Platform, reason: Reason) -> None:
    """A key outside the chain, other parameters or a signer that may not sign are refused."""
    assert judge(platform.evidence()).reason is reason


def test_a_genuine_root_vouches_only_for_what_it_signed() -> None:
    """Our chain under AMD's root, and AMD's root of another generation, are refused."""
    forged = Platform().evidence(root=ARK[Generation.MILAN])
    assert judge(forged).reason is Reason.ATTESTATION_SIGNATURE_INVALID
    at = milliseconds("2026-07-17T00:00:00Z")
    other = genuine(root=ARK[Generation.GENOA])
    assert judge(other, at=at).reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    provider = genuine(signer=ASVK[Generation.MILAN])
    assert judge(provider, at=at).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_the_report_is_signed_by_the_certified_key() -> None:
    """A report under another key, or under a key on another curve, is refused."""
    other = Platform(signing_key=chip_key("other"))
    assert judge(other.evidence()).reason is Reason.ATTESTATION_SIGNATURE_INVALID
    small = Platform(leaf_key=ec.generate_private_key(ec.SECP256R1()))
    assert judge(small.evidence()).reason is Reason.UNSUPPORTED_ALGORITHM


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        (Platform(leaf_end=datetime(2025, 3, 1, tzinfo=UTC)), Reason.ATTESTATION_EXPIRED),
        (Platform(leaf_begin=LATER), Reason.ATTESTATION_NOT_YET_VALID),
        (Platform(root_begin=LATER), Reason.ATTESTATION_NOT_YET_VALID),
    ],
)
def test_every_certificate_is_valid_at_the_time(platform: Platform, reason: Reason) -> None:
    """A certificate before or after its time is refused, the root's among them."""
    assert judge(platform.evidence()).reason is reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"revoked": (1234,)}, None),
        ({"revoked": (99,)}, Reason.ATTESTATION_REVOKED),
        ({"signer": "somebody"}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"end": datetime(2025, 3, 1, tzinfo=UTC)}, Reason.ATTESTATION_EXPIRED),
        ({"begin": LATER, "end": MUCH_LATER}, Reason.ATTESTATION_NOT_YET_VALID),
        ({"critical": True}, MALFORMED),
    ],
)
def test_a_revocation_list_is_the_roots_and_in_date(options: dict, reason: Reason | None) -> None:
    """A list counts where the root signed it and it is in date; the signer must not be on it."""
    evidence = Platform().evidence(revocation_list=revocation_list(**options))
    appraisal = judge(evidence)
    assert appraisal.reason is reason
    assert not any(line.startswith("revocation") for line in appraisal.not_checked)


def test_revocation_may_be_required() -> None:
    """Without a list the gap is named, or refused where the policy says so."""
    evidence = Platform().evidence()
    assert any(line.startswith("revocation") for line in judge(evidence).not_checked)
    required = judge(evidence, policy=replace(DEVELOPMENT, require_revocation=True))
    assert required.verdict is AttestationVerdict.REJECT
    junk = judge(Platform().evidence(revocation_list=b"\x30\x00"))
    assert junk.reason is MALFORMED
    large = judge(Platform().evidence(revocation_list=bytes(256 * 1024 + 1)))
    assert "too large" in large.checks[-1].detail


@pytest.mark.parametrize(
    "platform",
    [
        *(Platform(certified={name: value + 1}) for name, value in TCB["Milan"].items()),
        Platform(generation="Turin", certified={"fmc": 9}),
        Platform(chip_id=b"\x55" * 64),
        Platform(chip_id=bytes(64)),
        Platform(generation="Turin", chip_id=bytes(range(1, 10))),
        Platform(extensions={"4": b""}),
        Platform(provider="CN=cc.example"),
        Platform(vlek=True, extensions={"4": bytes(64)}),
        Platform(vlek=True, extensions={"5": b""}),
    ],
)
def test_the_certificate_is_for_this_tcb_and_this_chip(platform: Platform) -> None:
    """The firmware's word on its TCB and its chip is refused where AMD's word differs."""
    assert judge(platform.evidence()).reason is Reason.ATTESTATION_BINDING_INVALID


def test_floors_make_a_status() -> None:
    """Below a floor genuine evidence is a decision, which the policy may take."""
    evidence = Platform().evidence()
    at_floor = judge(evidence, policy=replace(DEVELOPMENT, minimum_tcb=TCB["Milan"]))
    assert at_floor.verdict is AttestationVerdict.ACCEPT
    assert at_floor.tcb_status == "UpToDate"
    for floors in ({"microcode": 220}, {"snp": 25}, {"fmc": 0}, {"unheard-of": 0}):
        policy = replace(DEVELOPMENT, minimum_tcb=floors)
        below = judge(evidence, policy=policy)
        assert below.verdict is AttestationVerdict.POLICY
        assert below.reason is Reason.TCB_OUT_OF_DATE
        assert not below.acceptable
        willing = replace(policy, accepted_tcb=frozenset({"OutOfDate"}))
        assert judge(evidence, policy=willing).acceptable


@pytest.mark.parametrize(
    ("platform", "policy", "reason"),
    [
        (Platform(policy=0xB0000), DEVELOPMENT, Reason.ATTESTATION_DEBUG),
        (Platform(policy=0xB0000), replace(DEVELOPMENT, allow_debug=True), None),
        (Platform(policy=0x70000), DEVELOPMENT, Reason.ATTESTATION_ATTRIBUTES),
        (Platform(vmpl=2), replace(DEVELOPMENT, maximum_vmpl=1), Reason.ATTESTATION_ATTRIBUTES),
        (Platform(vmpl=1), replace(DEVELOPMENT, maximum_vmpl=1), None),
        (Platform(vmpl=0xFFFFFFFF), DEVELOPMENT, Reason.ATTESTATION_ATTRIBUTES),
    ],
)
def test_attributes_are_the_policys(
    platform: Platform, policy: AttestationPolicy, reason: Reason | None
) -> None:
    """Debugging, a migration agent and a level out of bounds are refused."""
    assert judge(platform.evidence(), policy=policy).reason is reason


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (Expectation(report_data=bytes(range(64))), None),
        (Expectation(report_data=bytes(64)), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(report_data=bytes(range(32))), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(nonce=bytes(range(64))), None),
        (Expectation(nonce=bytes(range(32))), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(nonce=bytes(range(65))), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(public_key=b"key"), Reason.ATTESTATION_BINDING_INVALID),
        (Expectation(measurements={"measurement": frozenset({"11" * 48})}), None),
        (
            Expectation(measurements={"measurement": frozenset({"12" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"measurement": frozenset()}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"mrtd": frozenset({"11" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
    ],
)
def test_what_is_expected_is_compared(expected: Expectation, reason: Reason | None) -> None:
    """The guest's field and the registers are compared; an unknown register fails."""
    assert judge(Platform().evidence(), expected=expected).reason is reason


def test_a_short_nonce_fills_the_field_with_zeros() -> None:
    """A nonce shorter than the field must be followed by zeros."""
    expected = Expectation(nonce=b"nonce")
    padded = Platform(report_data=b"nonce".ljust(64, b"\0"))
    assert judge(padded.evidence(), expected=expected).verdict is AttestationVerdict.ACCEPT
    more = Platform(report_data=b"nonce".ljust(63, b"\0") + b"x")
    assert judge(more.evidence(), expected=expected).reason is Reason.ATTESTATION_NONCE_MISMATCH


def test_what_was_not_checked_is_said() -> None:
    """Every step that could not be taken is in the answer."""
    policy = replace(DEVELOPMENT, maximum_age_seconds=60)
    gaps = " ".join(judge(Platform().evidence(), policy=policy).not_checked)
    for word in ("revocation", "tcb", "freshness", "age", "measurement"):
        assert word in gaps
