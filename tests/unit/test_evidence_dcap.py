"""Intel quotes: genuine ones at their own time, and every answer that a genuine one can get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dcap_forge import ADVISORY, AT, DAY, REPORT_DATA, anchors, forge
from tee_vectors import case_ids, cases, load_case, milliseconds, read_vector
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    TrustClaim,
    reason_class,
)
from verispect.evidence.dcap import (
    GENUINE_ANCHORS,
    SGX,
    TDX,
    DCAPEvidence,
    appraise_dcap,
    parse_quote,
)
from verispect.evidence.dcap.collateral import load_collateral

NOTHING = Expectation()
LENIENT = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))


def appraise(
    evidence: DCAPEvidence,
    *,
    expected: Expectation = NOTHING,
    policy: AttestationPolicy = LENIENT,
    at: int = AT,
    technology: str | None = None,
) -> AttestationAppraisal:
    """Appraise forged evidence under the forge's own root."""
    return appraise_dcap(
        evidence,
        anchors=anchors(),
        expected=expected,
        policy=policy,
        at=at,
        technology=technology,
    )


def reason_of(evidence: DCAPEvidence, **arguments: Any) -> Reason | None:
    """Return the reason of an appraisal that must not be an acceptance."""
    appraisal = appraise(evidence, **arguments)
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    return appraisal.reason


# -- Genuine evidence ---------------------------------------------------------------------------


def _appraise_case(case: dict[str, Any]) -> AttestationAppraisal:
    report_data = case["inputs"].get("report_data")
    accepted = case["policy"].get("accept_tcb", ["UpToDate"])
    return appraise_dcap(
        DCAPEvidence(case["evidence"]["quote"], case["evidence"]["collateral"]),
        anchors=GENUINE_ANCHORS,
        expected=Expectation(report_data=bytes.fromhex(report_data) if report_data else None),
        policy=AttestationPolicy(accepted_tcb=frozenset(accepted)),
        at=milliseconds(case["verify_at"]),
        technology=case["tech"],
    )


@pytest.mark.parametrize("case_id", case_ids(TDX, SGX))
def test_a_case_gets_its_stated_result_and_reason_and_facts(case_id: str) -> None:
    """Other people's quotes get the result, the reason class and every fact stated for them."""
    case = load_case(case_id)
    appraisal = _appraise_case(case)
    assert appraisal.verdict.value == case["expect"]
    assert reason_class(appraisal.reason) == case["reason"]
    # `error` is another program's sentence, and `ERR` stands where it found no status.
    stated = {name: value for name, value in case.get("facts", {}).items() if name != "error"}
    if stated.get("status") == "ERR":
        del stated["status"], stated["advisories"]
    assert {name: appraisal.facts.get(name) for name in stated} == stated
    if case["expect"] != "reject":
        assert appraisal.evidence_class is EvidenceClass.HARDWARE


def test_the_same_quote_is_good_in_one_month_and_a_decision_in_another() -> None:
    """Time and collateral are arguments: a TCB recovery changes the answer, not the quote."""
    june = load_case("dcap-tdx_v4_phala_ml_sdk@90c06f_2025-06")
    february = load_case("dcap-tdx_v4_phala_ml_sdk@90c06f_2026-02")
    assert june["evidence"]["quote"] == february["evidence"]["quote"]
    assert _appraise_case(june).verdict is AttestationVerdict.ACCEPT
    later = _appraise_case(february)
    assert later.verdict is AttestationVerdict.POLICY
    assert len(later.advisories) == 5
    assert not later.acceptable


def test_the_genuine_anchor_is_the_key_of_the_root_in_genuine_collateral() -> None:
    """The pinned digest is of the key under which Intel's own documents verify."""
    collateral = load_collateral(read_vector("dcap/collateral/90c06f_2026-02.json"))
    assert {anchor.key_digest for anchor in GENUINE_ANCHORS} == {
        root.key_digest for root in collateral.roots
    }


def test_genuine_evidence_is_refused_where_nobody_is_trusted() -> None:
    """Without an anchor there is no answer but no: the root inside the library is never used."""
    case = load_case("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    appraisal = appraise_dcap(
        DCAPEvidence(case["evidence"]["quote"], case["evidence"]["collateral"]),
        anchors=(),
        expected=NOTHING,
        policy=AttestationPolicy(),
        at=milliseconds(case["verify_at"]),
    )
    assert appraisal.reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert appraisal.evidence_class is None


def test_an_anchor_for_one_technology_is_none_for_the_other() -> None:
    """Trust in TDX is not trust in SGX, though both have one root."""
    appraisal = appraise_dcap(
        forge(version=3), anchors=anchors()[:1], expected=NOTHING, policy=LENIENT, at=AT
    )
    assert appraisal.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_every_case_of_this_technology_is_run() -> None:
    """The cases are found: an empty parametrisation would pass in silence."""
    assert len(cases(TDX)) + len(cases(SGX)) >= 10


# -- What a good quote shows --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "technology"),
    [
        ({}, TDX),
        ({"version": 5}, TDX),
        ({"version": 5, "body_type": 2}, TDX),
        ({"version": 3}, SGX),
    ],
)
def test_every_version_is_accepted_and_labelled_by_its_anchor(
    changes: dict[str, Any], technology: str
) -> None:
    """All versions verify, and a root of one's own makes them development evidence."""
    appraisal = appraise(forge(**changes))
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.technology == technology
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT
    assert appraisal.tcb_status == "UpToDate"
    assert appraisal.facts["ppid"] == bytes(range(16)).hex()
    assert appraisal.facts["fmspc"] == "90C06F000000"
    assert appraisal.facts["tcb_evaluation_data_number"] == 17


def test_development_evidence_is_refused_by_default() -> None:
    """The default policy takes hardware and nothing else."""
    evidence = forge()
    assert reason_of(evidence, policy=AttestationPolicy()) is Reason.ATTESTATION_CLASS_REFUSED


def test_a_quote_of_another_technology_than_was_asked_for_is_refused() -> None:
    """Who asks for TDX does not get SGX."""
    assert reason_of(forge(version=3), technology=TDX) is Reason.UNSUPPORTED_EVIDENCE
    assert appraise(forge(version=3), technology=SGX).acceptable


def test_zeros_after_a_quote_are_padding() -> None:
    """Recorded quotes are filled up to their buffer."""
    assert appraise(forge(padding=bytes(70))).acceptable


def test_the_collateral_cannot_bring_its_own_platform_chain() -> None:
    """A chain in the collateral is not read, though the library would prefer it."""
    strange = forge(members={"pck_certificate_chain": "-----BEGIN CERTIFICATE-----"})
    assert appraise(strange).acceptable


def test_what_was_not_checked_is_said() -> None:
    """An accepted quote still says what nobody compared."""
    text = " ".join(appraise(forge()).not_checked)
    assert "report data" in text
    assert "reference values" in text
    assert "physical" in text
    compared = appraise(
        forge(),
        expected=Expectation(
            report_data=REPORT_DATA, measurements={"mr_td": frozenset({"a1" * 48})}
        ),
    )
    text = " ".join(compared.not_checked)
    assert "report data" not in text
    assert "reference values" not in text
    assert compared.trust_vector[TrustClaim.EXECUTABLES] == 2


# -- TCB status and policy ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("SWHardeningNeeded", Reason.TCB_SW_HARDENING),
        ("ConfigurationNeeded", Reason.TCB_CONFIGURATION),
        ("ConfigurationAndSWHardeningNeeded", Reason.TCB_CONFIGURATION),
        ("OutOfDate", Reason.TCB_OUT_OF_DATE),
        ("OutOfDateConfigurationNeeded", Reason.TCB_OUT_OF_DATE),
    ],
)
def test_a_tcb_status_is_a_decision_of_the_policy(status: str, reason: Reason) -> None:
    """A status other than up to date is genuine, and acceptable to those who say so only."""
    evidence = forge(status=status, advisories=[ADVISORY])
    refused = appraise(evidence)
    assert (refused.verdict, refused.reason) == (AttestationVerdict.POLICY, reason)
    assert not refused.acceptable
    assert refused.advisories == (ADVISORY,)
    assert refused.trust_vector[TrustClaim.HARDWARE] == 96
    policy = AttestationPolicy(
        accepted_classes=frozenset(EvidenceClass), accepted_tcb=frozenset({status})
    )
    taken = appraise(evidence, policy=policy)
    assert (taken.verdict, taken.acceptable) == (AttestationVerdict.POLICY, True)
    assert taken.trust_vector[TrustClaim.HARDWARE] == 32


@pytest.mark.parametrize("part", ["qe_status", "module_status"])
def test_the_worst_part_decides_the_status(part: str) -> None:
    """Quoting enclave and TDX module count as much as the platform."""
    appraisal = appraise(forge(**{part: "OutOfDate"}))
    assert appraisal.reason is Reason.TCB_OUT_OF_DATE


@pytest.mark.parametrize("part", ["status", "qe_status", "module_status"])
def test_a_revoked_level_is_refused_by_every_policy(part: str) -> None:
    """Keys of a revoked level are known to others; no policy accepts them."""
    policy = AttestationPolicy(
        accepted_classes=frozenset(EvidenceClass), accepted_tcb=frozenset({"Revoked"})
    )
    assert reason_of(forge(**{part: "Revoked"}), policy=policy) is Reason.TCB_REVOKED


@pytest.mark.parametrize(
    "changes",
    [{"needed_svn": 6}, {"qe_svn": 3}, {"module_version": 2}, {"status": "TDRelaunchAdvised"}],
)
def test_a_level_that_intel_does_not_list_is_unknown(changes: dict[str, Any]) -> None:
    """A platform, enclave or module below every published level has no status at all."""
    assert reason_of(forge(**changes)) is Reason.TCB_UNKNOWN


def test_a_refused_advisory_refuses_whatever_the_status() -> None:
    """An advisory on the policy's list outweighs an accepted status."""
    policy = AttestationPolicy(
        accepted_classes=frozenset(EvidenceClass),
        accepted_tcb=frozenset({"OutOfDate"}),
        refused_advisories=frozenset({ADVISORY}),
    )
    evidence = forge(status="OutOfDate", advisories=[ADVISORY])
    assert reason_of(evidence, policy=policy) is Reason.TCB_ADVISORY_REFUSED
    assert appraise(forge(status="OutOfDate"), policy=policy).acceptable


def test_collateral_of_an_older_evaluation_than_the_policy_asks_for_is_refused() -> None:
    """The older of the two documents counts."""
    floor = {"tcb_evaluation_data_number": 18}
    policy = AttestationPolicy(accepted_classes=frozenset(EvidenceClass), minimum_tcb=floor)
    assert reason_of(forge(), policy=policy) is Reason.TCB_OUT_OF_DATE
    assert appraise(forge(evaluation=18), policy=policy).acceptable


# -- Debug and attributes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"td_attributes": bytes.fromhex("0100001000000000")},
        {"version": 3, "sgx_attributes": bytes.fromhex("0700000000000000e700000000000000")},
    ],
)
def test_a_guest_in_debug_mode_is_refused(changes: dict[str, Any]) -> None:
    """What the host can read into attests nothing, and the library has no status for it."""
    assert reason_of(forge(**changes)) is Reason.ATTESTATION_DEBUG
    policy = AttestationPolicy(accepted_classes=frozenset(EvidenceClass), allow_debug=True)
    assert reason_of(forge(**changes), policy=policy) is Reason.ATTESTATION_DEBUG


@pytest.mark.parametrize(
    "changes",
    [
        {"td_attributes": bytes(8)},  # SEPT_VE_DISABLE, as Azure has it
        {"td_attributes": bytes.fromhex("1000001000000000")},  # profiling
        {"td_attributes": bytes.fromhex("0000003000000000")},  # migration
        {"td_attributes": bytes.fromhex("0001001000000000")},  # reserved
        {"version": 5, "mr_service_td": b"\x01" * 48},
    ],
)
def test_attributes_that_weaken_a_trust_domain_are_refused(changes: dict[str, Any]) -> None:
    """A trust domain whose attributes let somebody else in is refused."""
    assert reason_of(forge(**changes)) is Reason.ATTESTATION_ATTRIBUTES


# -- Time ---------------------------------------------------------------------------------------

LONG = {"tcb_days": (-50, 50), "qe_days": (-50, 50), "pck_crl_days": (-50, 50)}


@pytest.mark.parametrize(
    "limits",
    [
        {"tcb_days": (-5, 20)},
        {"qe_days": (-5, 20)},
        {"pck_crl_days": (-5, 20)},
        {"root_crl_days": (-5, 20)},
        {"pck_days": (-5, 20)},
    ],
)
def test_everything_with_dates_is_held_to_them(limits: dict[str, Any]) -> None:
    """One document, list or certificate out of its time refuses the quote."""
    evidence = forge(**{**LONG, **limits})
    assert appraise(evidence, at=AT - 5 * DAY).acceptable
    # A revocation list ends before the moment of its next update, everything else after it.
    assert appraise(evidence, at=AT + 20 * DAY - 1000).acceptable
    early, late = AT - 5 * DAY - 1, AT + 20 * DAY + 1
    assert reason_of(evidence, at=early) is Reason.ATTESTATION_NOT_YET_VALID
    assert reason_of(evidence, at=late) is Reason.ATTESTATION_EXPIRED


@pytest.mark.parametrize("at", [-(10**18), -1, 0, 10**18])
def test_absurd_times_are_answered(at: int) -> None:
    """Any number is a time that can be judged."""
    assert reason_of(forge(), at=at) in {
        Reason.ATTESTATION_NOT_YET_VALID,
        Reason.ATTESTATION_EXPIRED,
    }


# -- Freshness and measurements -----------------------------------------------------------------


def test_report_data_is_compared_with_all_its_bytes() -> None:
    """A shorter value stands for itself and zeros, never for a prefix; an empty one for nothing."""
    evidence = forge(report_data=b"\x07" * 32 + bytes(32))
    for good in (b"\x07" * 32, b"\x07" * 32 + bytes(32)):
        for expected in (Expectation(report_data=good), Expectation(nonce=good)):
            assert appraise(evidence, expected=expected).acceptable
    for bad in (b"", b"\x07" * 31, b"\x07" * 33, b"\x07" * 64, b"\x07" * 32 + bytes(33)):
        for expected in (Expectation(report_data=bad), Expectation(nonce=bad)):
            assert reason_of(evidence, expected=expected) is Reason.ATTESTATION_NONCE_MISMATCH


def test_an_expected_public_key_is_not_passed_over() -> None:
    """A quote has no field for a key; whoever expects one there is told so."""
    expected = Expectation(public_key=b"key")
    assert reason_of(forge(), expected=expected) is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(
    ("register", "value"),
    [
        ("mr_td", "a1" * 48),
        ("mr_config_id", "a2" * 48),
        ("rtmr0", "b0" * 48),
        ("rtmr3", "b3" * 48),
    ],
)
def test_registers_are_compared_with_reference_values(register: str, value: str) -> None:
    """A register has one of its accepted values, or the quote is refused."""
    good = Expectation(measurements={register: frozenset({"00" * 48, value})})
    assert appraise(forge(), expected=good).acceptable
    bad = Expectation(measurements={register: frozenset({"00" * 48})})
    assert reason_of(forge(), expected=bad) is Reason.ATTESTATION_MEASUREMENT_MISMATCH


def test_sgx_registers_are_compared_and_absent_ones_fail() -> None:
    """An enclave has its own registers; one that it lacks has no accepted value."""
    good = Expectation(
        measurements={
            "mr_enclave": frozenset({"e1" * 32}),
            "mr_signer": frozenset({"e2" * 32}),
        }
    )
    assert appraise(forge(version=3), expected=good).acceptable
    for name in ("mr_td", "rtmr0", "nothing"):
        absent = Expectation(measurements={name: frozenset({"a1" * 48})})
        assert (
            reason_of(forge(version=3), expected=absent) is Reason.ATTESTATION_MEASUREMENT_MISMATCH
        )


# -- Formats ------------------------------------------------------------------------------------


def test_versions_and_kinds_that_are_not_ours_are_unsupported() -> None:
    """Other versions, key types, TEEs and vendors are recognised, not misread."""
    quote = forge().quote
    for offset, data in ((0, b"\x06"), (2, b"\x03"), (4, b"\x00"), (12, b"\x00")):
        with pytest.raises(UnsupportedError):
            parse_quote(quote[:offset] + data + quote[offset + 1 :])
    five = forge(version=5).quote
    with pytest.raises(UnsupportedError):
        parse_quote(five[:48] + b"\x04" + five[49:])


def test_lengths_must_come_out_exactly() -> None:
    """A body, a signature or a chain of another length than stated is malformed."""
    five = forge(version=5).quote
    with pytest.raises(MalformedError):
        parse_quote(five[:50] + b"\x49" + five[51:])
    with pytest.raises(MalformedError):
        parse_quote(forge().quote + b"\x00\x01")
    with pytest.raises(MalformedError, match="at most"):
        parse_quote(forge(padding=bytes(70_000)).quote)


@pytest.mark.parametrize(
    "members",
    [
        {"tcb_info": None},
        {"tcb_info": "[]"},
        {"tcb_info": "{"},
        {"tcb_info": "[" * 100_000},
        {"tcb_info_signature": "zz"},
        {"root_ca_crl": "00"},
        {"pck_crl": ""},
        {"tcb_info_issuer_chain": ""},
        {"tcb_info_issuer_chain": "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"},
        {"qe_identity_issuer_chain": 7},
    ],
)
def test_collateral_that_is_not_collateral_is_malformed(members: dict[str, Any]) -> None:
    """A missing or broken member is malformed evidence."""
    assert reason_of(forge(members=members)) is Reason.MALFORMED_EVIDENCE


def test_collateral_with_a_member_twice_is_malformed() -> None:
    """Two readers may take two values; neither is taken here."""
    evidence = forge()
    twice = evidence.collateral[:-1] + b', "tcb_info": "{}"}'
    assert json.loads(twice)
    assert reason_of(DCAPEvidence(evidence.quote, twice)) is Reason.MALFORMED_EVIDENCE


@pytest.mark.parametrize("collateral", [b"", b"\xff", b"null", b" " * 2_000_000])
def test_collateral_of_other_bytes_is_malformed(collateral: bytes) -> None:
    """Neither nothing nor too much is an internal error."""
    assert reason_of(DCAPEvidence(forge().quote, collateral)) is Reason.MALFORMED_EVIDENCE
