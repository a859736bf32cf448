"""Forged Nitro documents and certificate paths, made without the verifier's own forgers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from own_forging import (
    AT,
    CERT_SIGN,
    P384_ORDER,
    T0,
    Pairs,
    Raw,
    anchor,
    cbor,
    certificate,
    cose,
    ec_key,
    head,
    nitro_chain,
    nitro_document,
    nitro_payload,
    rsa_key,
)

from tee_vectors import milliseconds, read_vector
from verispect.core.errors import Error, Reason
from verispect.evidence.attestation import AttestationPolicy, EvidenceClass, Expectation
from verispect.evidence.certificates import load_certificate
from verispect.evidence.nitro import (
    GENUINE_ANCHORS,
    NitroEvidence,
    appraise_nitro,
    parse_document,
)

OWN = (anchor("aws-nitro", ec_key("aws.nitro-enclaves")),)
ANY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
MALFORMED, UNSIGNED = Reason.MALFORMED_EVIDENCE, Reason.ATTESTATION_SIGNATURE_INVALID
UNTRUSTED = Reason.ATTESTATION_ROOT_UNTRUSTED
GENUINE_FILE, GENUINE_AT = "nitro/evervault_beta.cose", "2022-10-13T08:58:02Z"


def judge(document, *, anchors=OWN, expected=None, at=AT):
    return appraise_nitro(
        NitroEvidence(document),
        anchors=anchors,
        expected=expected or Expectation(),
        policy=ANY_CLASS,
        at=at,
    )


def test_the_forger_writes_what_the_verifier_reads():
    """A document under an anchored key of our own is accepted, so that refusals below mean it."""
    appraisal = judge(nitro_document())
    assert (appraisal.reason, appraisal.evidence_class) == (None, EvidenceClass.DEVELOPMENT)
    assert judge(b"\xd2" + nitro_document()).reason is None


def test_a_chain_with_genuine_names_and_another_key_is_untrusted():
    """Every subject copied off the genuine chain must be refused: the root's key is not AWS's."""
    genuine = parse_document(read_vector(GENUINE_FILE))
    subjects = [load_certificate(der).parsed.subject for der in genuine.bundle]
    copied = {
        f"p{place}": {"issuer": subjects[max(0, place - 1)]} for place in range(len(subjects))
    }
    chain = nitro_chain(**copied, p4={"issuer": subjects[-1]})
    renamed = [
        certificate(
            subjects[place],
            ec_key(f"k{place}"),
            subjects[max(0, place - 1)],
            ec_key(f"k{max(0, place - 1)}"),
            ca=True,
            usage=CERT_SIGN,
        )
        for place in range(4)
    ]
    leaf = certificate("leaf", ec_key("enclave"), subjects[3], ec_key("k3"))
    for each in (chain, [*renamed, leaf]):
        assert judge(nitro_document(each), anchors=GENUINE_ANCHORS).reason is UNTRUSTED


def test_an_own_leaf_under_the_genuine_bundle_is_unsigned():
    """A leaf that only names AWS's instance certificate must be refused: AWS did not sign it."""
    genuine = parse_document(read_vector(GENUINE_FILE))
    issuer = load_certificate(genuine.bundle[-1]).parsed.subject
    around = {"start": T0 - timedelta(days=3650), "end": T0 + timedelta(days=1)}
    leaf = certificate("i-0-enc0", ec_key("enclave"), issuer, ec_key("x"), **around)
    document = nitro_document([*genuine.bundle, leaf], timestamp=milliseconds(GENUINE_AT))
    appraisal = judge(document, anchors=GENUINE_ANCHORS, at=milliseconds(GENUINE_AT))
    assert appraisal.reason is UNSIGNED


def test_a_genuine_leaf_with_a_payload_of_ours_is_unsigned():
    """Registers of our own inside a genuine chain must be refused: its leaf never signed them."""
    genuine = parse_document(read_vector(GENUINE_FILE))
    chain = [*genuine.bundle, genuine.certificate]
    document = nitro_document(chain, timestamp=genuine.timestamp)
    appraisal = judge(document, anchors=GENUINE_ANCHORS, at=milliseconds(GENUINE_AT))
    assert appraisal.reason is UNSIGNED


def test_leaves_of_two_genuine_documents_are_not_exchanged():
    """Each document with the other's signature must be refused: both leaves are genuine."""
    one = read_vector(GENUINE_FILE)
    other = parse_document(read_vector("nitro/blocky_max_fields.cose"))
    spliced = one[:-96] + other.signature
    appraisal = judge(spliced, anchors=GENUINE_ANCHORS, at=milliseconds(GENUINE_AT))
    assert appraisal.reason is UNSIGNED


def test_a_certificate_of_the_pinned_key_signed_by_another_is_no_root():
    """AWS's public key in a certificate of ours must be refused: the key did not sign it."""
    genuine = load_certificate(parse_document(read_vector(GENUINE_FILE)).bundle[0])
    crossed = certificate(
        genuine.parsed.subject,
        genuine.parsed.public_key(),
        genuine.parsed.subject,
        ec_key("aws.nitro-enclaves"),
        ca=True,
        usage=CERT_SIGN,
    )
    assert load_certificate(crossed).key_digest == GENUINE_ANCHORS[0].key_digest
    below = nitro_chain(p1={"issuer": genuine.parsed.subject})
    appraisal = judge(nitro_document([crossed, *below[1:]]), anchors=GENUINE_ANCHORS)
    assert appraisal.reason is UNSIGNED


def test_two_authorities_that_sign_each_other_make_no_root():
    """A circle through the anchored key must be refused: no certificate there is self-signed."""
    chain = nitro_chain(p0={"signer": ec_key("region"), "issuer": "region"})
    assert judge(nitro_document(chain)).reason is UNSIGNED


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ((0, 2, 1, 3), UNSIGNED),
        ((0, 1, 2), UNSIGNED),
        ((0, 1, 1, 2, 3), UNSIGNED),
        ((1, 2, 3), UNTRUSTED),
        ((3, 2, 1, 0), UNTRUSTED),
        ((0,) * 9, MALFORMED),
        ((), MALFORMED),
    ],
)
def test_a_bundle_in_another_order_is_refused(order, reason):
    """Exchanged, cut, doubled and reversed bundles must be refused: they are not the path."""
    chain = nitro_chain()
    document = nitro_document([*(chain[place] for place in order), chain[-1]])
    assert judge(document).reason is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"p1": {"end": T0 - timedelta(seconds=1)}}, Reason.ATTESTATION_EXPIRED),
        ({"p0": {"start": T0 + timedelta(seconds=1)}}, Reason.ATTESTATION_NOT_YET_VALID),
        ({"p2": {"path_length": 0}}, UNTRUSTED),
        ({"p3": {"ca": False, "path_length": None}}, UNTRUSTED),
        ({"p3": {"usage": "digital_signature"}}, UNTRUSTED),
        ({"p3": {"usage": None}}, UNTRUSTED),
        ({"p4": {"ca": True}}, UNTRUSTED),
        ({"p4": {"usage": "key_agreement"}}, UNTRUSTED),
        ({"p4": {"usage": None}}, UNTRUSTED),
        ({"p2": {"extensions": [("1.2.3.4", b"\x05\x00", True)]}}, UNTRUSTED),
        ({"p4": {"algorithm": hashes.SHA224()}}, Reason.UNSUPPORTED_ALGORITHM),
        ({"p4": {"algorithm": hashes.SHA3_384()}}, Reason.UNSUPPORTED_ALGORITHM),
        ({"p4": {"key": ec_key("e", ec.SECP256R1)}}, Reason.UNSUPPORTED_ALGORITHM),
        ({"p4": {"key": ec_key("e", ec.SECP256K1)}}, Reason.UNSUPPORTED_ALGORITHM),
        ({"p3": {"signer": ec_key("region")}}, UNSIGNED),
        ({"p3": {"issuer": "another"}}, UNSIGNED),
    ],
)
def test_a_path_with_one_wrong_certificate_is_refused(changes, reason):
    """Time, purpose, length, algorithm and issuer are each looked at in every certificate."""
    assert judge(nitro_document(nitro_chain(**changes))).reason is reason


@pytest.mark.parametrize(
    "fields",
    [
        {"protected": b"\xa0", "unprotected": b"\xa1\x01\x38\x22"},
        {"unprotected": b"\xa1\x01\x38\x22"},
        {"protected": b"\xa1\x01\x26"},
        {"protected": b"\xa2\x01\x38\x22\x02\x81\x01"},
        {"protected": b"\xa2\x01\x38\x22\x01\x26"},
        {"protected": b"\xbf\x01\x38\x22\xff"},
        {"protected": b""},
    ],
)
def test_headers_other_than_the_one_are_malformed(fields):
    """An algorithm outside the signed header, a second one or `crit` must not be read at all."""
    assert judge(cose(nitro_payload(nitro_chain()), ec_key("enclave"), **fields)).reason is (
        MALFORMED
    )


def test_what_stands_around_the_envelope_is_malformed():
    """A second tag, bytes behind the end and megabytes must be refused: one document, one form."""
    document = nitro_document()
    for damaged in (b"\xd2\xd2" + document, document + b"\x00", b"\x9f" + document[1:] + b"\xff"):
        assert judge(damaged).reason is MALFORMED
    assert judge(document + bytes(16 << 20)).reason in (MALFORMED, Reason.TOO_LARGE)


def _registers(*extra, without=()):
    found = nitro_payload([b"", b""])["pcrs"]
    return Pairs([*((i, v) for i, v in found.items() if i not in without), *extra])


@pytest.mark.parametrize(
    "changes",
    [
        {"pcrs": _registers((0, bytes(48)))},
        {"pcrs": _registers((16, bytes(32)))},
        {"pcrs": _registers((16, bytes(64)))},
        {"pcrs": _registers((32, bytes(48)))},
        {"pcrs": _registers((-1, bytes(48)))},
        {"pcrs": _registers(without=(0,))},
        {"pcrs": _registers(without=(4,))},
        {"pcrs": Raw(b"\xbf\xff")},
        {"pcrs": Raw(head(5, 1 << 62))},
        {"digest": "SHA256"},
        {"timestamp": 0},
        {"timestamp": Raw(b"\x1b" + bytes(7) + b"\x05")},
        {"module_id": Raw(b"\x7f\x61a\xff")},
        {"nonce": "text"},
        {"user_data": bytes(1025)},
        {"certificate": bytes(1025)},
        {"certificate": b"\x30\x00"},
        {"more": 1},
        {"nitrotpm_pcrs": {}},
    ],
)
def test_a_payload_outside_the_profile_is_malformed(changes):
    """Registers that are doubled, absent or of another length must be refused though signed."""
    assert judge(nitro_document(**changes)).reason is MALFORMED


def test_a_field_that_stands_twice_is_malformed():
    """Two sets of registers in one signed map must be refused: readers could differ."""
    payload = nitro_payload(nitro_chain())
    twice = cbor(Pairs([*payload.items(), ("pcrs", payload["pcrs"])]))
    assert judge(cose(twice, ec_key("enclave"))).reason is MALFORMED


def test_only_three_zero_registers_are_a_debug_enclave():
    """Zero in all of registers 0 to 2 must be refused as debug; two of three match no reference."""
    payload = nitro_payload(nitro_chain())
    zeros = {**payload["pcrs"], 0: bytes(48), 1: bytes(48)}
    known = Expectation(measurements={"pcr0": frozenset({"01" * 48})})
    refused = judge(nitro_document(pcrs=zeros), expected=known)
    assert refused.reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH
    debug = judge(nitro_document(pcrs={**zeros, 2: bytes(48)}), expected=known)
    assert debug.reason is Reason.ATTESTATION_DEBUG


def test_a_register_of_another_instance_is_refused():
    """A module id that register 4 does not commit to must be refused: they name two machines."""
    for module in ("i-0123456789abcdef1-enc0123456789abcdef", "i-0123456789abcdef0\n-enc0123"):
        reason = judge(nitro_document(module_id=module)).reason
        assert reason is Reason.ATTESTATION_BINDING_INVALID


def _with_signature(r, s):
    payload = nitro_payload(nitro_chain())
    raw = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return cose(payload, ec_key("enclave"), signature=raw)


@pytest.mark.parametrize(
    ("r", "s"), [(0, 0), (1, 0), (0, 1), (P384_ORDER, 1), (1, P384_ORDER), (1, 1)]
)
def test_degenerate_signatures_are_refused(r, s):
    """Scalars of zero and of the group's order must be refused: they would fit any message."""
    assert judge(_with_signature(r, s)).reason is UNSIGNED


def test_a_mirrored_signature_says_the_same_and_no_more():
    """ECDSA's second form of a signature may pass, and must then carry the very same facts."""
    document = nitro_document()
    s = int.from_bytes(document[-48:])
    mirrored = document[:-48] + (P384_ORDER - s).to_bytes(48, "big")
    assert judge(mirrored).facts == judge(document).facts
    assert judge(document[:-1] + bytes([document[-1] ^ 1])).reason is UNSIGNED


def test_a_primed_cache_answers_for_nothing_else():
    """A bad path after a good one of the same keys must be refused, and one at another time."""
    good = nitro_document()
    assert judge(good).reason is None
    assert judge(good, at=AT + 3 * 3600_000).reason is Reason.ATTESTATION_EXPIRED
    assert judge(good, at=AT - 2 * 3600_000).reason is Reason.ATTESTATION_NOT_YET_VALID
    assert judge(good, anchors=GENUINE_ANCHORS).reason is UNTRUSTED
    chain = nitro_chain()
    broken = chain[3][:-1] + bytes([chain[3][-1] ^ 1])
    assert judge(nitro_document([*chain[:3], broken, chain[4]])).reason is UNSIGNED
    assert judge(good, anchors=()).reason is UNTRUSTED
    assert judge(good).reason is None


def test_a_key_in_two_classes_counts_in_the_lower_in_any_order():
    """Hardware beside development for one key must give development, whoever stands first."""
    both = (replace(OWN[0], evidence_class=EvidenceClass.HARDWARE), *OWN)
    for anchors in (both, both[::-1]):
        appraisal = judge(nitro_document(), anchors=anchors)
        assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT


@pytest.mark.parametrize(
    "oid_and_value",
    [
        ("1.3.6.1.5.5.7.1.24", bytes.fromhex("3003020163")),
        ("1.3.6.1.5.5.7.1.24", bytes.fromhex("3003020101")),
        ("2.5.29.17", bytes.fromhex("3004a3023000")),
        ("2.5.29.17", bytes.fromhex("30048102ffff")),
        ("2.5.29.31", bytes.fromhex("300630040302ffff")),
        ("2.5.29.15", bytes.fromhex("0500")),
    ],
)
def test_extensions_that_confuse_the_library_are_malformed(oid_and_value):
    """A certificate whose extension cannot be read must be refused as bytes, never be an error."""
    oid, value = oid_and_value
    chain = nitro_chain(p4={"extensions": [(oid, value, False)], "usage": None})
    assert judge(nitro_document(chain)).reason is MALFORMED


def test_weak_keys_and_huge_certificates_are_refused_when_read():
    """RSA of 1024 bits and ten megabytes must be refused before any signature is looked at."""
    weak = certificate("weak", rsa_key("weak", 1024), "weak", ec_key("x"))
    for der in (weak, weak[:-1] + bytes(10 << 20), b""):
        with pytest.raises(Error) as refused:
            load_certificate(der)
        assert refused.value.reason in (
            Reason.UNSUPPORTED_ALGORITHM,
            Reason.TOO_LARGE,
            Reason.MALFORMED_EVIDENCE,
        )


def test_a_negative_path_length_is_malformed():
    """A path length below zero must be refused: it could be read as a very large one."""
    key = ec_key("x")
    builder = x509.CertificateBuilder(name := x509.Name([]), name, key.public_key(), 5)
    builder = builder.not_valid_before(T0).not_valid_after(T0 + timedelta(days=1))
    value = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.19"), bytes.fromhex("30060101ff0201ff")
    )
    der = builder.add_extension(value, critical=True).sign(key, hashes.SHA384())
    with pytest.raises(Error) as refused:
        load_certificate(der.public_bytes(Encoding.DER))
    assert refused.value.reason is MALFORMED
