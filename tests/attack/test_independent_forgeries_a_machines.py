"""Forged SEV-SNP reports, TPM quotes and Azure machines, made without the verifiers' forgers."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from own_forging import (
    AT,
    CHIP,
    MEASUREMENT,
    P384_ORDER,
    SIGN,
    TCB,
    anchor,
    certificate,
    ec_key,
    ecdsa_signature,
    hcl_report,
    public_area,
    quote,
    rsa_key,
    selection,
    snp_chain,
    snp_report,
    spki,
    vcek_extensions,
)

from tee_vectors import milliseconds, read_vector
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    AttestationPolicy,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.azure import appraise_azure, read_bundle
from verispect.evidence.sev_snp import GENUINE_ANCHORS, SevSnpEvidence, appraise_sev_snp
from verispect.evidence.technologies import appraise_evidence
from verispect.evidence.tpm import TpmEvidence, appraise_tpm

ANY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
MALFORMED, UNSIGNED = Reason.MALFORMED_EVIDENCE, Reason.ATTESTATION_SIGNATURE_INVALID
UNTRUSTED, UNBOUND = Reason.ATTESTATION_ROOT_UNTRUSTED, Reason.ATTESTATION_BINDING_INVALID
MIDSUMMER = milliseconds("2025-06-01T00:00:00Z")


def snp_anchors():
    return (anchor("amd-sev-snp", rsa_key("amd")),)


def judge_snp(report, chain=None, *, anchors=None, expected=None, at=AT):
    chain = chain or snp_chain()
    return appraise_sev_snp(
        SevSnpEvidence(report, *chain),
        anchors=snp_anchors() if anchors is None else anchors,
        expected=expected or Expectation(),
        policy=ANY_CLASS,
        at=at,
    )


def test_the_forger_writes_reports_that_the_verifier_reads():
    """A report under an anchored key of our own is accepted, so that refusals below mean it."""
    appraisal = judge_snp(snp_report())
    assert (appraisal.reason, appraisal.evidence_class) == (None, EvidenceClass.DEVELOPMENT)


def test_amd_names_on_own_keys_are_untrusted():
    """A root of ours that is called ARK-Milan must be refused: its key is not AMD's."""
    assert judge_snp(snp_report(), anchors=GENUINE_ANCHORS).reason is UNTRUSTED


def test_an_own_chip_key_under_amds_signers_is_unsigned():
    """A certificate of ours beside AMD's ASK and ARK must be refused: AMD did not sign it."""
    ask, ark = (read_vector(f"roots/amd_milan_{each}.der") for each in ("ask", "ark"))
    chain = (snp_chain()[0], ask, ark)
    appraisal = judge_snp(snp_report(), chain, anchors=GENUINE_ANCHORS, at=MIDSUMMER)
    assert (appraisal.reason, appraisal.evidence_class) == (UNSIGNED, None)


def test_a_report_of_ours_under_a_genuine_chip_is_unsigned_and_of_no_class():
    """A genuine VCEK beside another's signature must be refused, and never be called hardware."""
    vcek = read_vector("snp/certs/milan_v3_dstack.vcek.der")
    appraisal = judge_snp(snp_report(), (vcek, None, None), anchors=GENUINE_ANCHORS, at=MIDSUMMER)
    assert (appraisal.reason, appraisal.evidence_class) == (UNSIGNED, None)


@pytest.mark.parametrize(
    ("signer", "root", "reason"),
    [
        ("amd_genoa_ask", "amd_milan_ark", UNSIGNED),
        ("amd_milan_ask", "amd_genoa_ark", UNTRUSTED),
        ("amd_genoa_ask", "amd_genoa_ark", UNTRUSTED),
        ("amd_milan_asvk", "amd_milan_ark", UNSIGNED),
        ("amd_milan_ark", "amd_milan_ark", UNSIGNED),
    ],
)
def test_signers_of_another_line_do_not_vouch_for_a_chip(signer, root, reason):
    """AMD's own certificates of another product or purpose must be refused above a VCEK."""
    chain = (
        read_vector("snp/certs/milan_v3_dstack.vcek.der"),
        *(read_vector(f"roots/{each}.der") for each in (signer, root)),
    )
    report = read_vector("snp/reports/milan_v3_dstack.bin")
    assert judge_snp(report, chain, anchors=GENUINE_ANCHORS, at=MIDSUMMER).reason is reason


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ((0, struct.pack("<I", 1)), Reason.UNSUPPORTED_VERSION),
        ((0, struct.pack("<I", 6)), Reason.UNSUPPORTED_VERSION),
        ((0x34, struct.pack("<I", 0)), Reason.UNSUPPORTED_ALGORITHM),
        ((0x08, struct.pack("<Q", 0x10000)), MALFORMED),
        ((0x08, struct.pack("<Q", 1 << 63 | 0x30000)), MALFORMED),
        ((0x08, struct.pack("<Q", 0x30000 | 1 << 19)), Reason.ATTESTATION_DEBUG),
        ((0x08, struct.pack("<Q", 0x30000 | 1 << 18)), Reason.ATTESTATION_ATTRIBUTES),
        ((0x30, struct.pack("<I", 4)), Reason.ATTESTATION_ATTRIBUTES),
        ((0x48, struct.pack("<I", 1 << 2)), UNBOUND),
        ((0x48, struct.pack("<I", 7 << 2)), Reason.UNSUPPORTED_EVIDENCE),
        ((0x48, struct.pack("<I", 1 << 31)), MALFORMED),
        ((0x4C, b"\x01"), MALFORMED),
        ((0x210, b"\x01"), MALFORMED),
        ((0x180, bytes([5])), UNBOUND),
        ((0x187, bytes([91])), UNBOUND),
        ((0x182, b"\x01"), MALFORMED),
        ((0x189, b"\x11"), UNBOUND),
        ((0x188, b"\x1b"), Reason.UNSUPPORTED_EVIDENCE),
        ((0x1A0, b"\xff"), UNBOUND),
        ((0x1A0, bytes(64)), UNBOUND),
    ],
)
def test_a_signed_report_with_one_wrong_field_is_refused(patch, reason):
    """The key's own signature must not help a report whose version, TCB or chip is another."""
    assert judge_snp(snp_report(patches=[patch])).reason is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tcb": {**TCB, "3.3": 25}}, UNBOUND),
        ({"tcb": {oid: n for oid, n in TCB.items() if oid != "3.8"}}, MALFORMED),
        ({"chip": CHIP[:8]}, MALFORMED),
        ({"chip": CHIP[:63]}, MALFORMED),
        ({"chip": None}, UNBOUND),
        ({"provider": "cloud"}, UNBOUND),
        ({"product": "Genoa-B1"}, UNBOUND),
        ({"product": "Nepal"}, Reason.UNSUPPORTED_EVIDENCE),
        ({"product": "Milan-\x1b[2J"}, MALFORMED),
        ({"provider": "a\nPASS"}, MALFORMED),
        ({"leaf": {"ca": True}}, UNTRUSTED),
        ({"leaf": {"issuer": "SEV-Genoa"}}, UNSIGNED),
        ({"leaf": {"key": ec_key("p", ec.SECP256R1)}}, Reason.UNSUPPORTED_ALGORITHM),
        ({"leaf": {"signer": ec_key("vcek")}}, Reason.UNSUPPORTED_ALGORITHM),
    ],
)
def test_a_chip_certificate_with_one_wrong_statement_is_refused(changes, reason):
    """TCB, chip, product and provider must be the report's, and printable, or it is refused."""
    appraisal = judge_snp(snp_report(), snp_chain(**changes))
    assert appraisal.reason is reason
    assert all(check.detail.isprintable() for check in appraisal.checks)


def test_a_tcb_extension_that_stands_twice_is_malformed():
    """Two versions of one component in one certificate must be refused: readers could differ."""
    # The library's builder refuses duplicates, so an unread extension is renamed in the bytes.
    other = ("1.3.6.1.4.1.3704.1.3.7", b"\x02\x01\x63", False)
    chain = snp_chain(leaf={"extensions": [*vcek_extensions(), other]})
    arc = bytes.fromhex("2b060104019c780103")
    doubled = chain[0].replace(arc + b"\x07", arc + b"\x03")
    assert doubled != chain[0]
    assert judge_snp(snp_report(), (doubled, *chain[1:])).reason is MALFORMED


@pytest.mark.parametrize(("r", "s"), [(0, 0), (0, 1), (1, 0), (P384_ORDER, 1), (1, P384_ORDER)])
def test_degenerate_report_signatures_are_refused(r, s):
    """Scalars of zero and of the group's order must be refused: they would fit any report."""
    assert judge_snp(snp_report(signature=(r, s))).reason is UNSIGNED


# -- TPM ------------------------------------------------------------------------------------------

AK = ec_key("ak", ec.SECP256R1)
PCRS = bytes(range(32)) + bytes(32)
SELECTION = selection(0x0B, (0, 7))
NONCE = b"caller's nonce"


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def tpm_evidence(*, message=None, key=AK, **changes):
    if message is None:
        message = quote(NONCE, [SELECTION], hashlib.sha256(PCRS).digest())
    fields = {"signature": ecdsa_signature(key, message), "ak": spki(key), "pcrs": PCRS}
    return TpmEvidence(**{"quote": message, **fields, **changes})


def judge_tpm(evidence, *, anchors=None, nonce=NONCE, measurements=None):
    return appraise_tpm(
        evidence,
        anchors=(anchor("tpm2-quote", AK, EvidenceClass.SOFTWARE),) if anchors is None else anchors,
        expected=Expectation(nonce=nonce, measurements=measurements or {}),
        policy=ANY_CLASS,
        at=AT,
    )


def test_the_forger_writes_quotes_that_the_verifier_reads():
    """A quote by an anchored key of our own is accepted, so that refusals below mean it."""
    appraisal = judge_tpm(tpm_evidence(), measurements={"sha256:7": frozenset({bytes(32).hex()})})
    assert (appraisal.reason, appraisal.evidence_class) == (None, EvidenceClass.SOFTWARE)


DIGEST = hashlib.sha256(PCRS).digest()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (quote(NONCE, [SELECTION], DIGEST, kind=0x8017), MALFORMED),
        (quote(NONCE, [SELECTION], DIGEST, kind=0x801A), MALFORMED),
        (quote(NONCE, [SELECTION], DIGEST, magic=0xFF544348), MALFORMED),
        (quote(NONCE, [SELECTION], DIGEST) + b"\0", MALFORMED),
        (quote(NONCE, [SELECTION, SELECTION], DIGEST), MALFORMED),
        (quote(NONCE[:-1], [SELECTION], DIGEST), Reason.ATTESTATION_NONCE_MISMATCH),
        (quote(NONCE + b"\0", [SELECTION], DIGEST), Reason.ATTESTATION_NONCE_MISMATCH),
        (quote(b"", [SELECTION], DIGEST), Reason.ATTESTATION_NONCE_MISMATCH),
        (quote(NONCE, [], DIGEST), MALFORMED),
        (quote(NONCE, [selection(0x0B, (0,))], DIGEST), MALFORMED),
        (quote(NONCE, [selection(0x0B, (0, 7, 9))], DIGEST), MALFORMED),
        (quote(NONCE, [selection(0x0B, (0, 8))], DIGEST), Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        (quote(NONCE, [selection(0x27, (0, 7))], DIGEST), Reason.UNSUPPORTED_ALGORITHM),
        (quote(NONCE, [SELECTION], bytes(32)), UNBOUND),
        (quote(NONCE, [SELECTION], b""), UNBOUND),
    ],
)
def test_a_signed_structure_that_is_not_the_expected_quote_is_refused(message, reason):
    """Another kind, nonce, selection or digest must be refused though the key signed it."""
    known = {"sha256:7": frozenset({bytes(32).hex()})}
    assert judge_tpm(tpm_evidence(message=message), measurements=known).reason is reason


def test_a_register_is_not_known_without_its_value():
    """A reference value must not pass where nothing is selected and no value was given."""
    message = quote(NONCE, [], hashlib.sha256(b"").digest())
    known = {"sha256:7": frozenset({bytes(32).hex()})}
    for pcrs in (b"", None):
        appraisal = judge_tpm(tpm_evidence(message=message, pcrs=pcrs), measurements=known)
        assert appraisal.reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH


def test_signatures_of_other_keys_hashes_and_schemes_are_refused():
    """A stranger's key, SHA-1, a short RSA key and bytes behind the signature must be refused."""
    message = quote(NONCE, [SELECTION], DIGEST)
    stranger = ec_key("stranger", ec.SECP256R1)
    assert judge_tpm(tpm_evidence(key=stranger)).reason is UNTRUSTED
    signature = ecdsa_signature(stranger, message)
    assert judge_tpm(tpm_evidence(signature=signature)).reason is UNSIGNED
    sha1 = ecdsa_signature(AK, message, 0x0004, hashes.SHA1())
    assert judge_tpm(tpm_evidence(signature=sha1)).reason is Reason.UNSUPPORTED_ALGORITHM
    longer = ecdsa_signature(AK, message) + b"\0"
    assert judge_tpm(tpm_evidence(signature=longer)).reason is MALFORMED
    zero = bytes.fromhex("0018000b") + b"\0\0\0\0"
    assert judge_tpm(tpm_evidence(signature=zero)).reason is UNSIGNED
    weak = rsa_key("weak", 1024)
    signed = weak.sign(message, padding.PKCS1v15(), hashes.SHA256())
    evidence = tpm_evidence(ak=pem(weak), signature=signed)
    refused = judge_tpm(evidence, anchors=(anchor("tpm2-quote", weak),))
    assert (refused.reason, refused.evidence_class) == (Reason.UNSUPPORTED_ALGORITHM, None)


@pytest.mark.parametrize("missing", [1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 18])
def test_a_key_that_signs_from_outside_is_refused(missing):
    """A key that may leave its TPM or is not restricted must be refused where its area says so."""
    whole = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18
    assert judge_tpm(tpm_evidence(ak=public_area(AK, whole))).reason is None
    refused = judge_tpm(tpm_evidence(ak=public_area(AK, whole & ~missing)))
    assert refused.reason is Reason.ATTESTATION_ATTRIBUTES


def test_a_certificate_of_another_key_vouches_for_nothing():
    """An anchored authority's certificate must be refused for an attestation key not in it."""
    root = certificate("ca", ec_key("ca"), "ca", ec_key("ca"), ca=True, usage="key_cert_sign")
    theirs = certificate("ak", ec_key("other"), "ca", ec_key("ca"), usage=SIGN)
    evidence = tpm_evidence(ak_certificates=(theirs, root))
    anchors = (anchor("tpm2-quote", ec_key("ca")),)
    assert judge_tpm(evidence, anchors=anchors).reason is UNBOUND
    many = replace(evidence, ak_certificates=(theirs,) * 11)
    assert judge_tpm(many, anchors=anchors).reason is MALFORMED


# -- Azure ----------------------------------------------------------------------------------------


def base64url(data):
    return base64.urlsafe_b64encode(data).decode()


def jwk(key):
    numbers = key.public_key().public_numbers()
    modulus = base64url(numbers.n.to_bytes(key.key_size // 8, "big")).rstrip("=")
    return {"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": modulus}


def azure_bundle(*, runtime=None, signer="vtpm", kind=2, tail=b"", extra=NONCE, **report):
    """Return a bundle in the second layout, under our own AMD root; 24 registers of zero."""
    if runtime is None:
        members = {"keys": [jwk(rsa_key("vtpm", 2048))], "user-data": "00" * 64}
        runtime = json.dumps(members).encode()
    report.setdefault("report_data", hashlib.sha256(runtime).digest() + bytes(32))
    message = quote(extra, [selection(0x0B, range(24))], hashlib.sha256(bytes(768)).digest())
    signed = rsa_key(signer, 2048).sign(message, padding.PKCS1v15(), hashes.SHA256())
    bundle = {
        "version": 1,
        "hcl_report": base64url(hcl_report(snp_report(**report), runtime, kind=kind, tail=tail)),
        "vcek": base64url(snp_chain()[0]),
        "tpm_quote": {
            "message": message.hex(),
            "signature": signed.hex(),
            "pcrs": [bytes(32).hex()] * 24,
        },
    }
    return json.dumps(bundle).encode()


def judge_azure(bundle, *, known=None):
    vcek, ask, ark = snp_chain()
    return appraise_azure(
        replace(read_bundle(bundle), certificate=vcek, signer=ask, root=ark),
        anchors=snp_anchors(),
        expected=Expectation(nonce=NONCE, measurements=known or {}),
        policy=ANY_CLASS,
        at=AT,
    )


def test_the_forger_writes_machines_that_the_verifier_reads():
    """A machine under an anchored key of our own is accepted, so that refusals below mean it."""
    known = {"sha256:4": frozenset({"00" * 32}), "measurement": frozenset({MEASUREMENT.hex()})}
    appraisal = judge_azure(azure_bundle(), known=known)
    assert (appraisal.reason, appraisal.evidence_class) == (None, EvidenceClass.DEVELOPMENT)


def _runtime(text):
    return text.replace("AK", json.dumps(jwk(rsa_key("vtpm", 2048)))).encode()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vmpl": 2}, Reason.ATTESTATION_ATTRIBUTES),
        ({"report_data": bytes(64)}, UNBOUND),
        ({"signer": "another"}, UNSIGNED),
        ({"key": "another chip"}, UNSIGNED),
        ({"extra": NONCE + b"\0"}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"tail": b"\0\1"}, MALFORMED),
        ({"kind": 4}, MALFORMED),
        ({"kind": 3}, Reason.UNSUPPORTED_EVIDENCE),
        ({"runtime": _runtime('{"keys": [AK, AK]}')}, MALFORMED),
        ({"runtime": _runtime('{"keys": [AK], "keys": [AK]}')}, MALFORMED),
        ({"runtime": _runtime('{"keys": [AK], "user-data": "00"}')}, MALFORMED),
        ({"runtime": _runtime('{"keys": []}')}, MALFORMED),
        ({"runtime": _runtime('{"keys": [AK]} {}')}, MALFORMED),
    ],
)
def test_a_machine_with_one_wrong_part_is_refused(changes, reason):
    """Level, digest, keys, kind and padding must be those of one paravisor's report."""
    assert judge_azure(azure_bundle(**changes)).reason is reason


def test_the_tail_of_the_hardwares_field_must_be_zero():
    """A digest of the runtime data with anything behind it must be refused: who chose that?"""
    runtime = _runtime('{"keys": [AK]}')
    field = hashlib.sha256(runtime).digest() + bytes(31) + b"\x01"
    assert judge_azure(azure_bundle(runtime=runtime, report_data=field)).reason is UNBOUND


def test_a_machine_of_ours_under_amds_roots_is_untrusted():
    """The same machine under the genuine roots must be refused as any file set is: not AMD's."""
    appraisal = appraise_evidence(
        "azure-vtpm",
        {"bundle": azure_bundle()},
        anchors=None,
        expected=Expectation(nonce=NONCE),
        policy=ANY_CLASS,
        at=AT,
    )
    assert appraisal.reason is UNSIGNED
    assert appraisal.evidence_class is None
