"""Nitro documents: every case gives its result, and each numbered step decides something."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nitro_forgery import (
    HOST,
    HOUR,
    INSTANCE,
    LEAF,
    NOW,
    PATH,
    REGION,
    ROOT,
    ZONE,
    Forger,
    Link,
    changed,
    parts,
)
from tee_vectors import case_ids, load_case, milliseconds, read_vector
from verispect.attesters.development_enclave import encode_payload
from verispect.core.encoding import Digest, byte_string
from verispect.core.errors import MalformedError, Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
    TrustClaim,
    reason_class,
)
from verispect.evidence.certificates import load_certificate
from verispect.evidence.nitro import document
from verispect.evidence.nitro.appraise import (
    GENUINE_ANCHORS,
    MAX_SKEW_MILLISECONDS,
    NitroEvidence,
    appraise_nitro,
)
from verispect.evidence.nitro.document import parse_document

NOT_CHECKED_WITHOUT_EXPECTATIONS = 6
SPECIFICATION = Path(__file__).parents[2] / "spec" / "evidence-nitro.md"
CUT_FACTS = {"nonce", "user_data", "public_key"}


@pytest.fixture(scope="module")
def forger() -> Forger:
    return Forger()


@pytest.mark.parametrize("case_id", case_ids("aws-nitro"))
def test_each_case_gives_its_stated_result(case_id: str) -> None:
    """Result, reason class and every stated fact are those of the file of cases."""
    case = load_case(case_id)
    anchors = list(GENUINE_ANCHORS)
    classes = {EvidenceClass.HARDWARE}
    if case["policy"].get("trust") == "dev":
        key_digest = load_certificate(case["evidence"]["root"]).key_digest
        anchors = [Anchor("aws-nitro", key_digest, EvidenceClass.DEVELOPMENT, "development")]
        classes = {EvidenceClass.DEVELOPMENT}
    nonce = case["inputs"].get("nonce")
    result = appraise_nitro(
        NitroEvidence(case["evidence"]["doc"]),
        anchors=anchors,
        expected=Expectation(nonce=bytes.fromhex(nonce) if nonce else None),
        policy=AttestationPolicy(
            allow_debug=case["policy"].get("allow_debug", False),
            accepted_classes=frozenset(classes),
        ),
        at=milliseconds(case["verify_at"]),
    )
    assert (result.verdict.value, reason_class(result.reason)) == (case["expect"], case["reason"])
    if case["expect"] == "accept":
        assert {result.evidence_class} == classes
    for name, value in case.get("facts", {}).items():
        found = result.facts[name]
        # The file shows long values by their beginning.
        assert found == value or (name in CUT_FACTS and found.startswith(value)), name


def test_the_pinned_root_is_the_genuine_one() -> None:
    """The constant is the digest of the key in the vendor's root certificate."""
    root = load_certificate(read_vector("roots/aws_nitro_root_g1.der"))
    assert GENUINE_ANCHORS[0].key_digest == root.key_digest


@pytest.mark.parametrize("name", ["nitro/dstack_a.cose", "nitro/evervault_beta.cose"])
def test_reading_keeps_every_field_of_a_genuine_document(name: str) -> None:
    """What is read, written again by another library, gives the signed payload byte for byte."""
    document = read_vector(name)
    payload, signature = parts(document)
    read = parse_document(document)
    again = {
        "module_id": read.module_id,
        "digest": "SHA384",
        "timestamp": read.timestamp,
        "pcrs": dict(read.registers),
        "certificate": read.certificate,
        "cabundle": list(read.bundle),
        "public_key": read.public_key,
        "user_data": read.user_data,
        "nonce": read.nonce,
    }
    written = encode_payload(again) if payload[0] == 0xBF else cbor2.dumps(again)
    assert written == payload
    assert read.signature == signature


def test_a_good_document_is_accepted_and_says_what_was_not_checked(forger: Forger) -> None:
    """Without expectations the gaps are listed, and executables are not affirmed."""
    result = forger.appraise(forger.document())
    assert result.reason is None
    assert result.evidence_class is EvidenceClass.HARDWARE
    assert len(result.not_checked) == NOT_CHECKED_WITHOUT_EXPECTATIONS
    assert result.trust_vector[TrustClaim.EXECUTABLES] == 0


def test_everything_expected_and_found_leaves_only_revocation_open(forger: Forger) -> None:
    """With all expectations met, revocation alone is not checked."""
    result = forger.appraise(
        forger.document(),
        expected=Expectation(
            nonce=b"nonce",
            report_data=b"data",
            public_key=b"key",
            measurements={"pcr0": frozenset({"70" * 48}), "PCR1": frozenset({"01" * 48})},
        ),
        policy=AttestationPolicy(maximum_age_seconds=10),
        at=NOW + 9_000,
    )
    assert result.reason is None
    assert [gap.split()[0] for gap in result.not_checked] == ["revocation"]


def _reason(forger: Forger, document: bytes, **arguments) -> Reason | None:
    return forger.appraise(document, **arguments).reason


# -- Step 1: structure ----------------------------------------------------------------------------


def _registers(**changes: bytes) -> dict[int, bytes]:
    registers = {index: bytes(48) for index in (1, 2, 4)} | {0: b"\x01" * 48}
    return registers | {int(name[1:]): value for name, value in changes.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"module_id": ""},
        {"module_id": b"bytes"},
        {"module_id": "i" * 300},
        {"module_id": ...},
        {"digest": "SHA512"},
        {"digest": ...},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": "1"},
        {"timestamp": ...},
        {"timestamp": 1 << 64},
        {"timestamp": 1.5},
        {"pcrs": {}},
        {"pcrs": ...},
        {"pcrs": []},
        {"pcrs": _registers(r32=bytes(48))},
        {"pcrs": _registers(r5=bytes(32))},
        {"pcrs": {index: bytes(48) for index in (0, 1, 2)}},
        {"pcrs": {"0": bytes(48)}},
        {"certificate": b""},
        {"certificate": b"\x30" * 1025},
        {"certificate": b"not a certificate"},
        {"certificate": ...},
        {"cabundle": []},
        {"cabundle": ...},
        {"cabundle": b"bytes"},
        {"cabundle": [b"x"] * 9},
        {"cabundle": ["text"]},
        {"public_key": "text"},
        {"public_key": bytes(1025)},
        {"user_data": bytes(1025)},
        {"nonce": bytes(1025)},
        {"nonce": 7},
        {"another": None},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_payload_outside_the_profile_is_malformed(forger: Forger, changes: dict) -> None:
    """A field of another type, length or name, or one too few, is no document, however signed."""
    assert _reason(forger, forger.document(**changes)) is Reason.MALFORMED_EVIDENCE


def test_absent_optional_fields_read_as_null(forger: Forger) -> None:
    """A document without its three optional fields is good, and carries none of them."""
    document = forger.document(public_key=..., user_data=..., nonce=...)
    result = forger.appraise(document)
    assert result.reason is None
    assert (result.facts["nonce"], result.facts["user_data"]) == (None, None)


def _payload(forger: Forger) -> bytes:
    return parts(forger.document())[0]


@pytest.mark.parametrize(
    "alter",
    [
        lambda payload: payload + b"\x00",
        lambda payload: payload[:-1] + b"\x65nonce\x41n\xff",
        lambda payload: payload.replace(b"\x66digest\x66SHA384", b"\x66digest\x78\x06SHA384"),
        lambda payload: payload.replace(b"\x66SHA384", b"\x7f\x66SHA384\xff"),
        lambda payload: payload.replace(b"\x66SHA384", b"\x66SHA38\xff"),
        lambda payload: payload.replace(b"\x45nonce", b"\x5f\x45nonce\xff"),
        lambda payload: payload.replace(b"\x45nonce", b"\xf7"),
        lambda payload: payload.replace(b"\x45nonce", b"\xc0\x45nonce"),
        lambda payload: payload.replace(b"\x00\x58\x30", b"\x18\x00\x58\x30", 1),
        lambda payload: payload.replace(b"\x03\x58\x30", b"\x02\x58\x30", 1),
        lambda payload: payload[:-1],
        lambda payload: b"",
        lambda payload: b"\xbf",
        lambda payload: b"\xbf\xff",
        lambda payload: b"\xb9\xff\xff" + payload[1:-1],
        lambda payload: b"\xbb" + b"\xff" * 8 + payload[1:-1],
        lambda payload: b"\x9f" * 4000,
    ],
)
def test_a_payload_in_another_encoding_is_malformed(forger: Forger, alter) -> None:
    """Trailing bytes, duplicates, long forms, chunks, tags and cut ends are refused."""
    payload = _payload(forger)
    altered = alter(payload)
    assert altered != payload
    assert _reason(forger, forger.sign(altered)) is Reason.MALFORMED_EVIDENCE


def test_a_key_that_stands_twice_is_malformed(forger: Forger) -> None:
    """Of two values under one key neither is believed, whatever their order."""
    once = parts(forger.document(user_data=...))[0]
    assert _reason(forger, forger.sign(once)) is None
    for key in (b"\x65nonce\x45nonce", b"\x66digest\x66SHA384"):
        twice = once[:-1] + key + b"\xff"
        assert _reason(forger, forger.sign(twice)) is Reason.MALFORMED_EVIDENCE


def test_a_document_beyond_the_limit_is_refused_by_its_length(forger: Forger) -> None:
    """Sixteen megabytes are too large before the first of them is read."""
    with pytest.raises(MalformedError) as refused:
        parse_document(forger.document() + bytes(16 * 1024 * 1024))
    assert refused.value.reason is Reason.TOO_LARGE


def test_payloads_of_definite_and_indefinite_length_are_both_read(forger: Forger) -> None:
    """Genuine documents have either form."""
    payload = _payload(forger)
    definite = b"\xa9" + payload[1:-1]
    assert _reason(forger, forger.sign(definite)) is None
    assert _reason(forger, forger.sign(payload)) is None


@pytest.mark.parametrize(
    "alter",
    [
        lambda d: d + b"\x00",
        lambda d: b"\xd1" + d,
        lambda d: b"\xd2\xd2" + d,
        lambda d: d.replace(b"\x44\xa1\x01\x38\x22", b"\x43\xa1\x01\x26", 1),
        lambda d: d.replace(b"\x44\xa1\x01\x38\x22", b"\x47\xa2\x01\x38\x22\x02\x80", 1),
        lambda d: d.replace(b"\x38\x22\xa0", b"\x38\x22\xa1\x04\x41k", 1),
        lambda d: d.replace(b"\x38\x22\xa0", b"\x38\x22\xbf\xff", 1),
        lambda d: d.replace(b"\x38\x22\xa0", b"\x38\x22\xf6", 1),
        lambda d: b"\x85" + d[1:],
        lambda d: b"\x9f" + d[1:] + b"\xff",
        lambda d: d[:-98] + byte_string(d[-96:-1]),
        lambda d: d[:-98] + byte_string(d[-96:] + b"\x00"),
        lambda d: bytes(16 * 1024 * 1024),
        lambda d: b"\x84\x44\xa1\x01\x38\x22\xa0\x5b" + b"\xff" * 8,
        lambda d: b"",
    ],
)
def test_another_envelope_is_malformed(forger: Forger, alter) -> None:
    """Another algorithm, header, array, tag or length around a good payload is refused."""
    document = forger.document()
    altered = alter(document)
    assert altered != document
    assert _reason(forger, altered) is Reason.MALFORMED_EVIDENCE


# -- Steps 2 to 4: root, chain, validity ----------------------------------------------------------


def test_a_root_with_the_right_names_and_another_key_is_untrusted(forger: Forger) -> None:
    """Two paths with equal names differ by key, and the key decides."""
    assert _reason(forger, Forger().document()) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_anchors_of_another_technology_and_no_anchors_trust_nothing(forger: Forger) -> None:
    """An anchor counts for its own technology only; none means no."""
    other = Anchor("amd-sev-snp", forger.anchor.key_digest, EvidenceClass.HARDWARE, "x")
    for anchors in ([], [other]):
        reason = _reason(forger, forger.document(), anchors=anchors)
        assert reason is Reason.ATTESTATION_ROOT_UNTRUSTED


@pytest.mark.parametrize("place", [ROOT, REGION, ZONE, HOST, LEAF])
def test_a_certificate_signed_by_another_key_breaks_the_chain(place: int) -> None:
    """Every link is verified, the root's over itself included."""
    forger = Forger(changed(place, issuer_key=ec.generate_private_key(ec.SECP384R1())))
    assert _reason(forger, forger.document()) is Reason.ATTESTATION_SIGNATURE_INVALID


@pytest.mark.parametrize("place", [REGION, ZONE, HOST, LEAF])
def test_a_certificate_that_names_another_issuer_breaks_the_chain(place: int) -> None:
    """The names inside a path must link, though the signature is right."""
    forger = Forger(changed(place, issuer_name="somebody else"))
    assert _reason(forger, forger.document()) is Reason.ATTESTATION_SIGNATURE_INVALID


def test_a_bundle_in_another_order_or_with_a_gap_is_refused(forger: Forger) -> None:
    """The bundle is a path from the root down, complete and in order."""
    root, region, zone, host, _ = forger.path
    for bundle in ([root, zone, region, host], [root, region, host], [root, region, zone]):
        reason = _reason(forger, forger.document(cabundle=bundle))
        assert reason is Reason.ATTESTATION_SIGNATURE_INVALID
    reversed_bundle = forger.document(cabundle=[host, zone, region, root])
    assert _reason(forger, reversed_bundle) is Reason.ATTESTATION_ROOT_UNTRUSTED


@pytest.mark.parametrize(
    "links",
    [
        changed(ROOT, ca=False),
        changed(REGION, ca=False),
        changed(ZONE, ca=False),
        changed(HOST, ca=False),
        changed(HOST, with_constraints=False),
        changed(REGION, path_length=1),
        changed(ZONE, path_length=0),
        (*PATH[:4], Link("extra", path_length=None), PATH[4]),
        changed(REGION, key_cert_sign=False),
        changed(HOST, key_cert_sign=False, digital_signature=True),
        changed(HOST, with_usage=False),
        changed(LEAF, ca=True),
        changed(LEAF, digital_signature=False, key_cert_sign=True),
        changed(LEAF, with_usage=False),
        changed(ZONE, extra=x509.NameConstraints([x509.DNSName("example.org")], None)),
        changed(LEAF, extra=x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")])),
    ],
)
def test_a_certificate_that_may_not_do_what_it_does_gives_no_path(links) -> None:
    """CA flags, depth, key usage and unknown critical extensions are checked at each place."""
    forger = Forger(links)
    assert _reason(forger, forger.document()) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_an_attested_key_cannot_issue_a_certificate(forger: Forger) -> None:
    """Whoever holds a leaf's key cannot lengthen the path below it."""
    longer = Forger((*PATH, Link("forged", ca=False, key_cert_sign=False)))
    assert _reason(longer, longer.document()) is Reason.ATTESTATION_ROOT_UNTRUSTED


@pytest.mark.parametrize("place", [ZONE, LEAF])
def test_a_key_of_another_curve_is_unsupported(place: int) -> None:
    """Every key of the path is of P-384."""
    forger = Forger(changed(place, curve=ec.SECP256R1))
    assert _reason(forger, forger.document()) is Reason.UNSUPPORTED_ALGORITHM


def test_a_path_signed_with_an_unknown_digest_is_unsupported() -> None:
    """SHA-224 is outside the algorithms of a path."""
    forger = Forger(changed(ZONE, digest=hashes.SHA224()))
    assert _reason(forger, forger.document()) is Reason.UNSUPPORTED_ALGORITHM


@pytest.mark.parametrize("place", [ROOT, REGION, ZONE, HOST, LEAF])
def test_each_certificate_must_be_valid_at_the_time_of_judgement(place: int) -> None:
    """A certificate that has ended, or not begun, refuses the document, whichever it is."""
    ended = Forger(changed(place, end=PATH[LEAF].begin + timedelta(minutes=30)))
    assert _reason(ended, ended.document()) is Reason.ATTESTATION_EXPIRED
    later = Forger(changed(place, begin=PATH[LEAF].end - timedelta(minutes=30)))
    assert _reason(later, later.document()) is Reason.ATTESTATION_NOT_YET_VALID


def test_the_ends_of_validity_belong_to_it(forger: Forger) -> None:
    """Valid at both ends to the millisecond, and not a millisecond beyond."""
    hour = int(HOUR.total_seconds() * 1000)
    early = forger.document(timestamp=NOW - hour)
    assert _reason(forger, early, at=NOW - hour) is None
    assert _reason(forger, early, at=NOW - hour - 1) is Reason.ATTESTATION_NOT_YET_VALID
    assert _reason(forger, early, at=NOW + hour) is None
    assert _reason(forger, early, at=NOW + hour + 1) is Reason.ATTESTATION_EXPIRED


def test_a_document_from_after_the_time_of_judgement_is_not_valid_yet(forger: Forger) -> None:
    """The document's own time may be ahead by the clock skew, and no more."""
    document = forger.document()
    assert _reason(forger, document, at=NOW - 300_000) is None
    assert _reason(forger, document, at=NOW - 300_001) is Reason.ATTESTATION_NOT_YET_VALID


def test_facts_about_an_expired_chain_are_its_times_alone(forger: Forger) -> None:
    """Nothing that no signature has been checked for is reported as a fact."""
    result = forger.appraise(forger.document(), at=NOW * 2)
    assert result.evidence_class is None
    assert set(result.facts) == {"chain_valid_from", "chain_valid_to"}


# -- Steps 5 to 12 --------------------------------------------------------------------------------


def test_revocation_is_a_gap_unless_the_policy_requires_it(forger: Forger) -> None:
    """No list is at hand: said so, or refused."""
    strict = AttestationPolicy(require_revocation=True)
    assert _reason(forger, forger.document(), policy=strict) is Reason.EVIDENCE_MISSING


def test_a_document_signed_by_another_key_is_refused(forger: Forger) -> None:
    """A good chain does not lend its word to somebody else's payload."""
    forged = Forger().sign(_payload(forger))
    result = forger.appraise(forged)
    assert result.reason is Reason.ATTESTATION_SIGNATURE_INVALID
    assert result.evidence_class is None
    assert "pcr0" not in result.facts


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(95) + b"\x01"])
def test_degenerate_signatures_are_refused(forger: Forger, signature: bytes) -> None:
    """Zero and values beyond the order are signatures of nothing."""
    document = forger.document()
    assert _reason(forger, document[:-96] + signature) is Reason.ATTESTATION_SIGNATURE_INVALID


def _debug_registers(forger: Forger) -> dict[int, bytes]:
    registers = dict(parse_document(forger.document()).registers)
    return registers | {index: bytes(48) for index in (0, 1, 2)}


def test_a_debug_enclave_is_refused_unless_allowed_and_labelled(forger: Forger) -> None:
    """Three zero registers are a debug enclave; a policy may allow it, the label stays."""
    document = forger.document(pcrs=_debug_registers(forger))
    assert _reason(forger, document) is Reason.ATTESTATION_DEBUG
    allowed = forger.appraise(document, policy=AttestationPolicy(allow_debug=True))
    assert allowed.reason is None
    assert allowed.facts["debug"] is True
    assert allowed.trust_vector[TrustClaim.CONFIGURATION] == 96


@pytest.mark.parametrize(
    "module_id",
    [
        "i-0123456789abcdef1-enc0123456789abcdef",
        f"{INSTANCE}",
        f"{INSTANCE}-tpm0123456789abcdef",
        f"x{INSTANCE}-enc0123456789abcdef",
        f"{INSTANCE}-enc0123456789abcdef\n",
    ],
)
def test_a_module_id_of_another_instance_is_refused(forger: Forger, module_id: str) -> None:
    """Register 4 ties the document to the instance that it names."""
    document = forger.document(module_id=module_id)
    assert _reason(forger, document) is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (Expectation(nonce=b"other"), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(nonce=b""), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(report_data=b"other"), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(public_key=b"other"), Reason.ATTESTATION_BINDING_INVALID),
        (
            Expectation(measurements={"pcr0": frozenset({"00" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"pcr0": frozenset({"70" * 48}), "pcr1": frozenset()}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"pcr16": frozenset({"00" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"mrtd": frozenset({"00" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
    ],
)
def test_what_is_expected_and_not_there_refuses(
    forger: Forger, expected: Expectation, reason: Reason
) -> None:
    """Another nonce, user data, key or register value, or an absent register, is a no."""
    assert _reason(forger, forger.document(), expected=expected) is reason


@pytest.mark.parametrize("name", ["nonce", "user_data", "public_key"])
def test_a_field_that_is_expected_and_absent_refuses(forger: Forger, name: str) -> None:
    """No field is not an equal field, not even for an empty expectation."""
    argument = "report_data" if name == "user_data" else name
    expected = Expectation(**{argument: b""})
    assert _reason(forger, forger.document(**{name: None}), expected=expected) is not None
    assert _reason(forger, forger.document(**{name: b""}), expected=expected) is None


def test_a_document_older_than_the_policy_allows_is_not_fresh(forger: Forger) -> None:
    """Age is counted to the millisecond from the document's own time."""
    policy = AttestationPolicy(maximum_age_seconds=60)
    document = forger.document()
    assert _reason(forger, document, policy=policy, at=NOW + 60_000) is None
    late = _reason(forger, document, policy=policy, at=NOW + 60_001)
    assert late is Reason.ATTESTATION_NOT_FRESH


def test_the_anchor_alone_decides_the_class(forger: Forger) -> None:
    """The same document is hardware under one anchor, and refused development under another."""
    anchor = Anchor(
        "aws-nitro", Digest(forger.anchor.key_digest), EvidenceClass.DEVELOPMENT, "development"
    )
    document = forger.document()
    refused = forger.appraise(document, anchors=[anchor])
    assert refused.reason is Reason.ATTESTATION_CLASS_REFUSED
    policy = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))
    accepted = forger.appraise(document, anchors=[anchor], policy=policy)
    assert accepted.evidence_class is EvidenceClass.DEVELOPMENT
    assert accepted.trust_vector[TrustClaim.HARDWARE] == 96


# -- The text -------------------------------------------------------------------------------------


def test_the_steps_of_the_text_are_those_of_the_code(forger: Forger) -> None:
    """Names and order of the steps in the specification are those of an appraisal's checks."""
    text = SPECIFICATION.read_text(encoding="utf-8")
    steps = text.split("## Steps")[1].split("## Facts")[0]
    checks = [check.name for check in forger.appraise(forger.document()).checks]
    assert re.findall(r"`([a-z-]+)`: ", steps) == checks


def test_the_limits_of_the_text_are_those_of_the_code() -> None:
    """Every number that bounds a document stands in the specification."""
    text = SPECIFICATION.read_text(encoding="utf-8")
    for limit in (
        document.MAX_DOCUMENT_BYTES,
        document.MAX_TEXT_BYTES,
        document.MAX_CERTIFICATE_BYTES,
        document.MAX_BUNDLE_CERTIFICATES,
        document.MAX_FIELD_BYTES,
        document.REGISTER_BYTES,
        document.SIGNATURE_BYTES,
        MAX_SKEW_MILLISECONDS // 1000,
    ):
        assert f" {limit:,} " in text.replace("\n", " "), limit
