"""Forgeries of Intel quotes: look-alike roots, spliced parts, re-signed collateral, every byte.

Everything here is right in all but the one thing that its test is about, and is refused for that.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcap_forge import AT, anchors, forge
from tee_vectors import load_case, milliseconds
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.dcap import (
    GENUINE_ANCHORS,
    SGX,
    TDX,
    DCAPEvidence,
    appraise_dcap,
    parse_quote,
)
from verispect.evidence.dcap import collateral as collateral_module
from verispect.evidence.dcap import library as library_module
from verispect.evidence.dcap import verifier as verifier_module

GENUINE = (
    "dcap-tdx_v4_phala_uptodate@b0c06f_2025-06",
    "dcap-tdx_v5_go_tdx_guest@90c06f_2026-02",
    "dcap-sgx_v3_swhardening@sgx_00606a_2025-08",
)
EVERYTHING = AttestationPolicy(
    accepted_classes=frozenset(EvidenceClass),
    accepted_tcb=frozenset({"UpToDate", "SWHardeningNeeded", "OutOfDate"}),
)


def appraise(
    evidence: DCAPEvidence, *, trusted: tuple[Anchor, ...] | None = None, at: int = AT
) -> AttestationAppraisal:
    """Appraise with a policy that takes every class and status."""
    return appraise_dcap(
        evidence,
        anchors=anchors() if trusted is None else trusted,
        expected=Expectation(),
        policy=EVERYTHING,
        at=at,
    )


def reason_of(evidence: DCAPEvidence, **arguments: Any) -> Reason | None:
    """Return the reason of a refusal."""
    appraisal = appraise(evidence, **arguments)
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    return appraisal.reason


def genuine(case_id: str) -> tuple[DCAPEvidence, int]:
    """Return genuine evidence and the time at which it is good."""
    case = load_case(case_id)
    evidence = case["evidence"]
    at = milliseconds(case["verify_at"])
    return DCAPEvidence(evidence["quote"], evidence["collateral"]), at


def test_the_attacks_start_from_evidence_that_passes() -> None:
    """Without a fault the forge's evidence and the genuine evidence are both acceptable."""
    assert appraise(forge()).acceptable
    assert appraise(forge(version=3)).acceptable
    for case_id in GENUINE:
        evidence, at = genuine(case_id)
        assert appraise(evidence, trusted=GENUINE_ANCHORS, at=at).acceptable


# -- Roots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_root_with_intels_name_is_not_intels_root(version: int) -> None:
    """A whole Intel of one's own, names and all, is refused by the genuine anchors."""
    evidence = forge(version=version)
    assert reason_of(evidence, trusted=GENUINE_ANCHORS) is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert appraise(evidence, trusted=GENUINE_ANCHORS).evidence_class is None


def test_genuine_collateral_does_not_lend_its_root_to_a_quote() -> None:
    """A forged quote with Intel's own collateral is refused, whichever root is trusted."""
    intel, at = genuine("dcap-tdx_v5_go_tdx_guest@90c06f_2026-02")
    spliced = DCAPEvidence(forge().quote, intel.collateral)
    for trusted in (GENUINE_ANCHORS, anchors(), (*GENUINE_ANCHORS, *anchors())):
        assert reason_of(spliced, trusted=trusted, at=at) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_a_genuine_quote_is_not_judged_by_ones_own_collateral() -> None:
    """Collateral that calls everything up to date, under another root, is refused."""
    intel, at = genuine("dcap-tdx_v5_go_tdx_guest@90c06f_2026-02")
    spliced = DCAPEvidence(intel.quote, forge().collateral)
    for trusted in (GENUINE_ANCHORS, anchors(), (*GENUINE_ANCHORS, *anchors())):
        assert reason_of(spliced, trusted=trusted, at=at) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_each_chain_of_the_collateral_ends_in_the_anchor() -> None:
    """One issuer chain under another root is enough to refuse."""
    ours, theirs = json.loads(forge().collateral), json.loads(forge(root="other-root").collateral)
    for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"):
        evidence = forge(members={name: theirs[name]})
        assert ours[name] != theirs[name]
        assert reason_of(evidence) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_ones_own_chain_that_only_shows_the_anchor_at_its_end_is_refused() -> None:
    """The root's certificate is public: behind a chain that it never signed it proves nothing."""
    evidence = forge(pck_signer="other-ca")
    assert reason_of(evidence) is Reason.ATTESTATION_SIGNATURE_INVALID
    intel, at = genuine("dcap-tdx_v5_go_tdx_guest@90c06f_2026-02")
    quote = parse_quote(intel.quote)
    root = b"-----BEGIN" + quote.pck_chain.rsplit(b"-----BEGIN", 1)[1]
    own = parse_quote(forge().quote).pck_chain
    chain = own.rsplit(b"-----BEGIN", 1)[0] + root
    grafted = DCAPEvidence(_with_chain(forge().quote, chain), intel.collateral)
    reason = reason_of(grafted, trusted=GENUINE_ANCHORS, at=at)
    assert reason is Reason.ATTESTATION_SIGNATURE_INVALID


@pytest.mark.parametrize(
    "changes", [{"ca_is_ca": False}, {"pck_may_sign": False}, {"pck_root": "other-root"}]
)
def test_certificates_only_vouch_as_far_as_they_say(changes: dict[str, Any]) -> None:
    """A CA that is none, a key that may not sign and a second root are refused."""
    assert reason_of(forge(**changes)) is Reason.ATTESTATION_ROOT_UNTRUSTED


def _with_chain(quote: bytes, chain: bytes) -> bytes:
    """Return a version 4 quote with another PCK chain, all lengths right."""
    parsed = parse_quote(quote)
    start = len(parsed.signed) + 4
    fixed = quote[start : start + 128]
    inner = parsed.qe_report_bytes + parsed.qe_report_signature
    inner += struct.pack("<H", 32) + parsed.authentication_data
    inner += struct.pack("<HI", 5, len(chain)) + chain
    data = fixed + struct.pack("<HI", 6, len(inner)) + inner
    return parsed.signed + struct.pack("<I", len(data)) + data


# -- Spliced and forged quotes ------------------------------------------------------------------


def test_an_attestation_key_that_no_enclave_reported_is_a_broken_binding() -> None:
    """A quote signed with any key at all, beside a genuine enclave's report, is refused as that."""
    evidence = forge(quote_signed_by="attacker")
    assert reason_of(evidence) is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize("changes", [{"quote_signed_by": "attacker"}, {"qe_signed_by": "pcs"}])
def test_nothing_of_a_forged_quote_becomes_a_fact(changes: dict[str, Any]) -> None:
    """Registers that nobody vouched for are not repeated, not even in a refusal."""
    facts = appraise(forge(**changes)).facts
    assert not {"mr_td", "rtmr", "report_data"} & set(facts)
    assert {"mr_td", "rtmr", "report_data"} <= set(appraise(forge()).facts)


def test_a_quoting_enclaves_report_of_another_machine_is_refused() -> None:
    """A report that another platform signed does not become this platform's."""
    evidence = forge(qe_signed_by="other-pck")
    assert reason_of(evidence) is Reason.ATTESTATION_SIGNATURE_INVALID


@pytest.mark.parametrize("mixed", [(0, 1), (1, 0)])
def test_bodies_and_signatures_of_two_genuine_quotes_do_not_mix(mixed: tuple[int, int]) -> None:
    """The body of one genuine quote with the signature data of another is refused."""
    pair = [
        genuine("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06"),
        genuine("dcap-tdx_v4_phala_ml_sdk@90c06f_2025-06"),
    ]
    body, (signature, at) = pair[mixed[0]][0], pair[mixed[1]]
    length = len(parse_quote(body.quote).signed)
    quote = body.quote[:length] + signature.quote[length:]
    spliced = DCAPEvidence(quote, signature.collateral)
    reason = reason_of(spliced, trusted=GENUINE_ANCHORS, at=at)
    assert reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_a_genuine_quoting_enclave_does_not_vouch_for_a_forged_body() -> None:
    """Genuine report, chain and collateral around a body and key of one's own are refused."""
    intel, at = genuine("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    ours = parse_quote(forge().quote)
    theirs = parse_quote(intel.quote)
    start = len(ours.signed) + 4
    quote = forge().quote[: start + 128] + intel.quote[len(theirs.signed) + 4 + 128 :]
    lengths = struct.pack("<I", theirs.length - len(theirs.signed) - 4)
    quote = quote[: len(ours.signed)] + lengths + quote[start:]
    spliced = DCAPEvidence(quote, intel.collateral)
    reason = reason_of(spliced, trusted=GENUINE_ANCHORS, at=at)
    assert reason is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"qe_mr_signer": b"\x01" * 32}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        ({"qe_product": 9}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        ({"qe_attributes": b"\x17" + bytes(15)}, Reason.ATTESTATION_ATTRIBUTES),
        ({"qe_misc_select": b"\x01" + bytes(3)}, Reason.ATTESTATION_ATTRIBUTES),
        ({"mr_signer_seam": b"\x01" * 48}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        ({"seam_attributes": b"\x01" + bytes(7)}, Reason.ATTESTATION_ATTRIBUTES),
        (
            {"mr_signer_seam": b"\x01" * 48, "module_version": 0},
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
    ],
)
def test_another_quoting_enclave_or_module_than_intels_is_refused(
    changes: dict[str, Any], reason: Reason
) -> None:
    """An enclave that the platform's key signed is not the quoting enclave for that."""
    assert reason_of(forge(**changes)) is reason


def test_a_key_that_is_no_point_is_a_bad_signature() -> None:
    """An attestation key off the curve is refused like a wrong one, bound or not."""
    quote = parse_quote(forge().quote)
    start = len(quote.signed) + 4 + 64
    data = forge().quote
    off_curve = DCAPEvidence(data[:start] + b"\x01" * 64 + data[start + 64 :], forge().collateral)
    assert reason_of(off_curve) is Reason.ATTESTATION_BINDING_INVALID


# -- Collateral ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"tcb_signed_by": "attacker"},
        {"qe_identity_signed_by": "attacker"},
        {"root_crl_signed_by": "attacker"},
        {"pck_crl_signed_by": "attacker"},
    ],
)
def test_re_signed_collateral_is_refused(changes: dict[str, Any]) -> None:
    """Documents and lists that somebody else signed, chains untouched, are refused."""
    assert reason_of(forge(**changes)) is Reason.ATTESTATION_SIGNATURE_INVALID


def test_genuine_collateral_cannot_be_prolonged_or_softened() -> None:
    """One changed letter of a signed document is a bad signature, then as well as later."""
    evidence, at = genuine("dcap-tdx_v4_phala_ml_sdk@90c06f_2026-02")
    members = json.loads(evidence.collateral)
    later = members["tcb_info"].replace("2026-03-20", "2036-03-20")
    softer = members["tcb_info"].replace("OutOfDate", "UpToDate")
    identity = members["qe_identity"].replace("2026-03-20", "2036-03-20")
    for name, text in (("tcb_info", later), ("tcb_info", softer), ("qe_identity", identity)):
        assert text != members[name]
        changed = json.dumps({**members, name: text}).encode()
        for moment in (at, at + 30 * 24 * 3600 * 1000):
            reason = reason_of(
                DCAPEvidence(evidence.quote, changed), trusted=GENUINE_ANCHORS, at=moment
            )
            assert reason is Reason.ATTESTATION_SIGNATURE_INVALID


@pytest.mark.parametrize("subject", ["pck", "ca", "tcb-signing"])
def test_a_revoked_certificate_is_refused(subject: str) -> None:
    """Platform, CA and signer of the collateral are all looked up."""
    assert reason_of(forge(revoked=[subject])) is Reason.ATTESTATION_REVOKED


def test_a_revocation_list_of_another_ca_hides_nothing() -> None:
    """A good list of a sister CA does not stand in for the list of this platform's own."""
    evidence = forge(crl_authority="other-ca", revoked=["pck"])
    assert reason_of(evidence) is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"tcb_fmspc": bytes.fromhex("b0c06f000000")},
        {"tcb_pce_id": b"\x00\x01"},
        {"tcb_id": "SGX"},
        {"qe_id": "QE"},
        {"version": 3, "tcb_id": "TDX"},
        {"version": 3, "qe_id": "TD_QE"},
    ],
)
def test_collateral_of_another_platform_is_refused(changes: dict[str, Any]) -> None:
    """Endorsements of another family, engine or technology say nothing about this quote."""
    assert reason_of(forge(**changes)) is Reason.ATTESTATION_BINDING_INVALID


def test_genuine_collateral_of_another_family_is_refused() -> None:
    """A fleet has several families; an answer for one of them is none for the other."""
    evidence, at = genuine("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    other, _ = genuine("dcap-tdx_v4_phala_ml_sdk@90c06f_2025-06")
    crossed = replace(evidence, collateral=other.collateral)
    reason = reason_of(crossed, trusted=GENUINE_ANCHORS, at=at)
    assert reason is Reason.ATTESTATION_BINDING_INVALID


# -- Every byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", GENUINE)
def test_a_truncated_quote_is_malformed_at_every_length(case_id: str) -> None:
    """No prefix of a quote is a quote."""
    evidence, at = genuine(case_id)
    length = parse_quote(evidence.quote).length
    for end in range(length):
        appraisal = appraise(
            replace(evidence, quote=evidence.quote[:end]), trusted=GENUINE_ANCHORS, at=at
        )
        assert appraisal.reason is Reason.MALFORMED_EVIDENCE, end


def test_truncated_collateral_is_malformed() -> None:
    """No prefix of collateral is collateral."""
    evidence, at = genuine(GENUINE[0])
    for end in range(0, len(evidence.collateral.rstrip()) - 1, 37):
        cut = replace(evidence, collateral=evidence.collateral[:end])
        reason = reason_of(cut, trusted=GENUINE_ANCHORS, at=at)
        assert reason is Reason.MALFORMED_EVIDENCE, end


@pytest.mark.parametrize("case_id", GENUINE)
def test_a_flipped_bit_of_a_quote_is_refused(case_id: str) -> None:
    """Any one bit changes the answer to no; only padding behind the quote is not signed.

    The chain's text is excepted where base64 has bits that stand for nothing, and line ends.
    """
    evidence, at = genuine(case_id)
    quote = evidence.quote
    parsed = parse_quote(quote)
    chain = parsed.pck_chain
    for position in range(0, parsed.length, 3):
        bit = 1 << position % 8
        flipped = quote[:position] + bytes([quote[position] ^ bit]) + quote[position + 1 :]
        appraisal = appraise(replace(evidence, quote=flipped), trusted=GENUINE_ANCHORS, at=at)
        if appraisal.verdict is not AttestationVerdict.REJECT:
            assert position >= parsed.length - len(chain) - 1, position
            assert _certificates(parse_quote(flipped).pck_chain) == _certificates(chain)


def _certificates(chain: bytes) -> list[bytes]:
    return [certificate.der for certificate in collateral_module.parse_chain(chain)]


@pytest.mark.parametrize("case_id", GENUINE)
def test_a_flipped_bit_of_collateral_is_refused_or_means_the_same(case_id: str) -> None:
    """A changed bit is refused, unless the same documents, lists and certificates are read."""
    evidence, at = genuine(case_id)
    data = evidence.collateral
    meant = _meaning(data)
    for position in range(0, len(data), 41):
        flipped = (
            data[:position] + bytes([data[position] ^ 1 << position % 7]) + data[position + 1 :]
        )
        appraisal = appraise(replace(evidence, collateral=flipped), trusted=GENUINE_ANCHORS, at=at)
        if appraisal.verdict is not AttestationVerdict.REJECT:
            assert _meaning(flipped) == meant, position


def _meaning(data: bytes) -> tuple[object, ...]:
    read = collateral_module.load_collateral(data)
    return (
        read.tcb_info,
        read.qe_identity,
        read.root_crl.der,
        read.pck_crl.der,
        *(certificate.der for certificate in (*read.tcb_chain, *read.qe_chain, *read.crl_chain)),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=700), version=st.sampled_from([3, 4, 5]))
def test_noise_behind_a_good_header_is_answered(data: bytes, version: int) -> None:
    """Whatever follows a header that looks right, the answer is a refusal of ours."""
    header = forge(version=version).quote[:48]
    evidence = DCAPEvidence(header + data, forge().collateral)
    assert reason_of(evidence) in {Reason.MALFORMED_EVIDENCE, Reason.UNSUPPORTED_VERSION}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["tcb_info", "qe_identity", "pck_crl", "root_ca_crl"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_any_json_in_a_member_is_answered(name: str, value: object) -> None:
    """A member of any JSON type, also inside a document, is malformed and nothing worse."""
    assert reason_of(forge(members={name: value})) is Reason.MALFORMED_EVIDENCE
    text = json.dumps(value)
    assert reason_of(forge(members={name: text})) is Reason.MALFORMED_EVIDENCE


def test_names_that_are_no_text_are_answered() -> None:
    """A name of bytes that no string type allows is bad evidence, wherever it stands."""
    evidence = forge()
    members = json.loads(evidence.collateral)
    crl = bytes.fromhex(members["pck_crl"]).replace(b"Platform", b"Pla\xff\xfeorm")
    for name in ("pck_crl", "root_ca_crl"):
        broken = json.dumps({**members, name: crl.hex()}).encode()
        reason = reason_of(DCAPEvidence(evidence.quote, broken))
        assert reason is Reason.ATTESTATION_SIGNATURE_INVALID
    blocks = parse_quote(evidence.quote).pck_chain.split(b"-----END CERTIFICATE-----")[:3]
    for place, block in enumerate(blocks):
        der = base64.b64decode(b"".join(block.split(b"-----")[-1].split()))
        changed = der.replace(b"Intel SGX", b"Intel \xff\xfeX")
        assert changed != der
        text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed)
        chain = [*blocks[:place], text, *blocks[place + 1 :]]
        quote = _with_chain(
            evidence.quote, b"".join(b + b"-----END CERTIFICATE-----" for b in chain)
        )
        reason = reason_of(DCAPEvidence(quote, evidence.collateral))
        assert reason in {Reason.MALFORMED_EVIDENCE, Reason.ATTESTATION_SIGNATURE_INVALID}


@pytest.mark.parametrize("filling", [" ", "A", "-----BEGIN CERTIFICATE-----", "\n="])
def test_chains_without_an_end_are_answered(filling: str) -> None:
    """A chain of nothing but filling is refused for its length, before anybody looks for an end."""
    for size in (16_000, 900_000):
        text = "-----BEGIN CERTIFICATE-----" + filling * (size // len(filling))
        evidence = forge(members={"tcb_info_issuer_chain": text})
        assert reason_of(evidence) is Reason.MALFORMED_EVIDENCE


def test_zeros_behind_the_certification_data_are_padding() -> None:
    """Padding inside the signature data is padding; anything else there is not."""
    quote = forge().quote
    start = len(parse_quote(quote).signed)
    length = int.from_bytes(quote[start : start + 4], "little")
    for filling, verdict in ((bytes(8), "accept"), (b"\x01" + bytes(7), "reject")):
        longer = quote[:start] + struct.pack("<I", length + 8) + quote[start + 4 :] + filling
        assert appraise(DCAPEvidence(longer, forge().collateral)).verdict.value == verdict


# -- Caches -------------------------------------------------------------------------------------


def _forget() -> None:
    forget_certificates()
    collateral_module.forget_collateral()
    library_module.forget_platforms()


def test_a_cache_never_changes_a_verdict() -> None:
    """Cold or warm, in any order of trust and time, the same question has the same answer."""
    good = forge()
    re_signed = forge(tcb_signed_by="attacker")
    questions = [
        (evidence, trusted, at)
        for evidence in (good, re_signed, forge(revoked=["pck"]))
        for trusted in (anchors(), GENUINE_ANCHORS, ())
        for at in (AT, 0, AT + 10**12)
    ]
    cold = []
    for evidence, trusted, at in questions:
        _forget()
        cold.append(appraise(evidence, trusted=trusted, at=at).to_json())
    for _ in range(2):
        warm = [appraise(e, trusted=trusted, at=at).to_json() for e, trusted, at in questions]
        assert warm == cold
    backwards = [appraise(e, trusted=t, at=at).to_json() for e, t, at in reversed(questions)]
    assert backwards[::-1] == cold


# -- The checks of the library ------------------------------------------------------------------


def test_a_sentence_of_the_library_that_nobody_knows_refuses() -> None:
    """An answer outside the table is a no, never a yes."""
    error = library_module._explain("something new")
    assert error.reason is Reason.MALFORMED_EVIDENCE


def test_the_library_repeats_what_was_checked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every step of ours that it repeats taken out, the library still refuses each forgery."""
    quiet = {
        "verify_chain": lambda *_: None,
        "verify_signatures": lambda *_: None,
        "verify_p256": lambda *_: True,
        "check_quoting_enclave": lambda *_: None,
        "check_tdx_module": lambda *_: None,
    }
    for name, function in quiet.items():
        monkeypatch.setattr(verifier_module, name, function)
    assert appraise(forge()).acceptable
    for changes in (
        {"pck_signer": "other-ca"},
        {"qe_signed_by": "other-pck"},
        {"tcb_signed_by": "attacker"},
        {"qe_identity_signed_by": "attacker"},
        {"root_crl_signed_by": "attacker"},
        {"qe_mr_signer": b"\x01" * 32},
        {"mr_signer_seam": b"\x01" * 48},
    ):
        _forget()
        assert reason_of(forge(**changes)) is not None


def test_the_names_of_technologies_are_those_of_the_anchors() -> None:
    """Anchors and appraisals use one vocabulary."""
    assert {anchor.technology for anchor in GENUINE_ANCHORS} == {TDX, SGX}
