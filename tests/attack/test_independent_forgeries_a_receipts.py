"""Attested receipts with evidence of other keys, inferences, code, classes and times."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from own_forging import AT, anchor, cbor, ec_key, nitro_document, nitro_payload

from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import ATTESTED, ATTESTED_DEVELOPMENT, PRESETS, AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.signer import SoftwareSigner
from verispect.core.commitments import Part
from verispect.core.encoding import Digest
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PromisedEvidence,
    ServedLane,
    StreamBinding,
)
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.attested import KINDS, appraise_field
from verispect.evidence.bindings.inference_v1 import INFERENCE_V1, inference_digest
from verispect.evidence.bindings.key_v1 import KEY_V1
from verispect.evidence.code_registers import CODE_REGISTERS, name_code
from verispect.evidence.interface import IssuerKey
from verispect.evidence.nitro import GENUINE_ANCHORS

ALICE, MALLORY = SoftwareSigner(b"a" * 32), SoftwareSigner(b"m" * 32)
SUBJECT = "5e" * 16
CODE = {
    f"pcr{index}": frozenset({nitro_payload([b"", b""])["pcrs"][index].hex()}) for index in (0, 1)
}
ROOT_ANCHOR = anchor("aws-nitro", ec_key("aws.nitro-enclaves"))
NONCE_MISMATCH, MALFORMED = Reason.ATTESTATION_NONCE_MISMATCH, Reason.MALFORMED_EVIDENCE
UNKNOWN_CODE = Reason.ATTESTATION_MEASUREMENT_MISMATCH

MODEL = ExecutedModel(
    ModelIdentity.LOCAL_WEIGHTS,
    Digest(b"m" * 32),
    Digest(b"e" * 32),
    Determinism.EXACT,
    ServedLane.DETERMINISTIC,
)
STATEMENT = InferenceStatement(
    sequence=3,
    received_at=AT - 20,
    completed_at=AT,
    signed_at=AT + 5,
    operation="chat.completions",
    requested_model="m",
    model=MODEL,
    commitments={Part.OUTPUT: Digest(b"o" * 32)},
    finish_reasons=["stop"],
    usage={"output_tokens": 7},
    assurance=ATTESTED_DEVELOPMENT.digest(),
    evidence=[],
    nonce=b"n" * 16,
    stream=StreamBinding(2, Digest(b"h" * 32)),
)


def an_entry(signer=ALICE, *, of=None, subject=SUBJECT, collected_at=AT, kind="aws-nitro", **more):
    """Return evidence of the signer's key, or of the inference `of` under it."""
    members = {"epoch": (AT - 9).to_bytes(8, "big")}
    own = {"receipt_key_id": bytes(signer.public_key.key_id)}
    profile = KEY_V1
    if of is not None:
        own["inference_digest"] = bytes(inference_digest(subject, of))
        profile = INFERENCE_V1
    field = profile.recompute({**members, **own}, 64)
    bundle = {"binding": {**members, **more.pop("binding", {})}, "files": more.pop("files", {})}
    bundle = {name: dict(sorted(m.items(), key=lambda i: cbor(i[0]))) for name, m in bundle.items()}
    document = nitro_document(user_data=field, **more)
    return EvidenceEntry(kind, profile.name, collected_at, document, cbor(_ordered(bundle)))


def _ordered(bundle):
    # Deterministic CBOR puts the shorter encoding of a key first.
    return {"files": bundle["files"], "binding": bundle["binding"]}


def a_receipt(*entries, statement=STATEMENT, signer=ALICE, promises=None, subject=SUBJECT):
    named = [PromisedEvidence(entry.kind, entry.digest()) for entry in promises or entries]
    statement = replace(statement, evidence=[PromisedEvidence("signature"), *named])
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer="issuer",
        subject=subject,
        signer=signer,
    )
    rows = tuple(entry.to_row() for entry in entries)
    return InferenceReceipt.parse(replace(envelope, evidence=rows).encode())


def a_root(*, anchors=(ROOT_ANCHOR,), known=None, **trust):
    measurements = {"aws-nitro": CODE if known is None else known}
    keys = [IssuerKey("issuer", each.public_key, False, 0) for each in (ALICE, MALLORY)]
    attestation = AttestationTrust(anchors=anchors, measurements=measurements, **trust)
    return TrustedRoot(keys, attestation=attestation)


def judge(receipt, *, root=None, policy=ATTESTED_DEVELOPMENT, now=AT + 60_000):
    return Verifier(root or a_root()).appraise(receipt, opened={}, policy=policy, now=now)


def test_the_forged_receipt_is_good_where_everything_is_trusted():
    """Evidence of our own key or inference under our own anchor verifies: refusals mean it."""
    for entry in (an_entry(), an_entry(of=STATEMENT)):
        result = judge(a_receipt(entry))
        assert (result.verdict, result.reason) == (Verdict.VERIFIED, None)
        assert result.evidence_classes == (EvidenceClass.DEVELOPMENT,)


def test_evidence_of_anothers_key_is_refused():
    """Alice's session under Mallory's signature must be refused: the field names Alice's key."""
    receipt = a_receipt(an_entry(ALICE), signer=MALLORY)
    assert judge(receipt).reason is NONCE_MISMATCH


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": {"output_tokens": 8}},
        {"finish_reasons": ["length"]},
        {"commitments": {Part.OUTPUT: Digest(b"x" * 32)}},
        {"commitments": {}},
        {"nonce": b"x" * 16},
        {"nonce": None},
        {"model": replace(MODEL, model_id=Digest(b"x" * 32))},
        {"model": replace(MODEL, determinism=Determinism.NONE)},
        {"requested_model": "x"},
        {"operation": "responses"},
        {"stream": StreamBinding(2, Digest(b"x" * 32))},
        {"stream": None},
        {"received_at": AT - 21},
        {"completed_at": AT + 1},
        {"assurance": ATTESTED.digest()},
        {"confidential": Digest(b"c" * 32)},
    ],
)
def test_evidence_of_one_inference_serves_no_other_of_the_same_key(changes):
    """Whatever the statement says differently must be refused: its digest is in the field."""
    entry = an_entry(of=STATEMENT)
    assert judge(a_receipt(entry, statement=replace(STATEMENT, **changes))).reason is NONCE_MISMATCH


def test_evidence_of_one_inference_serves_no_other_name_or_profile():
    """Another inference's name, or the session's profile over it, must be refused."""
    entry = an_entry(of=STATEMENT)
    assert judge(a_receipt(entry, subject="5f" * 16)).reason is NONCE_MISMATCH
    other = replace(entry, profile=KEY_V1.name)
    assert judge(a_receipt(other)).reason is NONCE_MISMATCH
    assert judge(a_receipt(other, promises=[entry])).reason is Reason.EVIDENCE_UNBOUND
    for profile in ("verispect/key-v2", "nitriding/1", "x"):
        unknown = judge(a_receipt(replace(an_entry(), profile=profile)))
        assert unknown.verdict is not Verdict.VERIFIED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"binding": {"epoch": bytes(8)}}, NONCE_MISMATCH),
        ({"binding": {"nonce": b"n"}}, NONCE_MISMATCH),
        ({"binding": {"hpke_key_digest": bytes(32)}}, NONCE_MISMATCH),
        ({"binding": {"receipt_key_id": bytes(MALLORY.public_key.key_id)}}, MALFORMED),
        ({"binding": {"receipt_key_id": bytes(ALICE.public_key.key_id)}}, MALFORMED),
        ({"binding": {"\x1b[2K\rPASS": b""}}, MALFORMED),
        ({"files": {"doc": b""}}, MALFORMED),
        ({"files": {f"f{index:02}": b"" for index in range(17)}}, MALFORMED),
    ],
)
def test_endorsements_changed_after_signing_help_nobody(changes, reason):
    """Endorsements stand outside the digest; what they add must be refused or mean nothing."""
    entry = an_entry(**changes)
    result = judge(a_receipt(entry))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, reason)
    assert all(check.detail.isprintable() for check in result.checks)


def test_files_that_nobody_reads_are_named_without_control_characters():
    """An endorsement called like a terminal's command must be shown as text: names are words."""
    entry = an_entry(files={"\x1b[2K\rPASS": b"", "root": b"own root", "cert": b""})
    result = judge(a_receipt(entry), policy=ATTESTED)
    assert result.reason is Reason.ATTESTATION_CLASS_REFUSED
    assert all(line.isprintable() for line in result.not_covered)


@pytest.mark.parametrize("shift", [6, 1 << 40, (1 << 62)])
def test_evidence_from_after_its_statement_is_refused(shift):
    """A time of collection after the signature must be refused, also one beyond every calendar."""
    assert judge(a_receipt(an_entry(collected_at=AT + shift))).reason is (
        Reason.ATTESTATION_NOT_FRESH
    )


def test_a_time_of_collection_beyond_every_calendar_is_judged_all_the_same():
    """Statement and evidence of the year 292 million must be refused, and be no internal error."""
    late = replace(STATEMENT, signed_at=(1 << 63) - 1)
    for moment in (0, 1 << 62, (1 << 63) - 1):
        policy = replace(ATTESTED_DEVELOPMENT, attestation=AssurancePolicy("p", {}).attestation)
        receipt = a_receipt(an_entry(collected_at=moment), statement=late)
        assert judge(receipt, policy=policy, now=1 << 63).verdict is Verdict.REFUSED


def test_a_bad_entry_beside_a_good_one_refuses_the_receipt():
    """One forged entry of two must refuse everything: evidence that lies taints what stands by."""
    good, bad = an_entry(), an_entry(MALLORY)
    assert judge(a_receipt(good, bad)).verdict is Verdict.REFUSED
    assert judge(a_receipt(bad, good)).verdict is Verdict.REFUSED
    assert judge(a_receipt(good, good, promises=[good])).reason is Reason.EVIDENCE_UNBOUND
    assert judge(a_receipt(bad, promises=[good])).reason is Reason.EVIDENCE_UNBOUND
    both = judge(a_receipt(good, an_entry(collected_at=AT - 1)))
    assert both.verdict is Verdict.VERIFIED


def test_evidence_of_another_kind_is_not_read_as_that_kind():
    """A Nitro document under another technology's name must be refused, an unknown one unsure."""
    for kind in KINDS[1:]:
        assert judge(a_receipt(an_entry(kind=kind))).verdict is Verdict.REFUSED
    assert judge(a_receipt(an_entry(kind="quantum-tee"))).verdict is Verdict.UNDETERMINED


def test_development_evidence_satisfies_no_other_preset():
    """Every preset but the one for development must refuse it, though the key is trusted."""
    receipt = a_receipt(an_entry())
    for name, policy in PRESETS.items():
        verdict = judge(receipt, policy=policy).verdict
        assert (verdict is Verdict.VERIFIED) == (name == "attested-development"), name


def test_a_receipt_without_its_evidence_is_not_attested():
    """A promise alone must be refused under the attested presets: nothing vouches for the key."""
    entry = an_entry()
    result = judge(a_receipt(promises=[entry]))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.POLICY_UNMET)
    assert any("promised evidence" in line for line in result.not_covered)


def test_no_class_is_gained_by_listing_a_key_twice():
    """One key as development and as hardware must not be read, and not count as hardware."""
    document = json.loads(a_root().to_json())
    hardware = {**document["attestation"]["anchors"][0], "class": "hardware"}
    for twice in ([hardware], [document["attestation"]["anchors"][0]]):
        changed = json.loads(a_root().to_json())
        changed["attestation"]["anchors"] += twice
        with pytest.raises(MalformedError) as refused:
            TrustedRoot.from_json(json.dumps(changed).encode())
        assert refused.value.reason is Reason.MALFORMED_TRUSTED_ROOT
    both = (replace(ROOT_ANCHOR, evidence_class=EvidenceClass.HARDWARE), ROOT_ANCHOR)
    for anchors in (both, both[::-1]):
        result = judge(a_receipt(an_entry()), root=a_root(anchors=anchors), policy=ATTESTED)
        assert result.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_own_anchors_beside_a_vendor_change_nothing_of_the_vendors():
    """A vendor's roots must stay what they are beside own ones, and own ones stay own."""
    trust = a_root(vendors=("aws-nitro",)).attestation
    assert tuple(trust.anchors_of("aws-nitro")) == (*GENUINE_ANCHORS, ROOT_ANCHOR)
    result = judge(a_receipt(an_entry()), root=a_root(vendors=("aws-nitro",)), policy=ATTESTED)
    assert result.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_an_azure_machine_is_judged_under_the_processors_roots():
    """Who trusts Azure's machines must get AMD's and Intel's roots, and no other."""
    own = anchor("amd-sev-snp", ec_key("amd"))
    found = AttestationTrust(("azure-vtpm",), (own, ROOT_ANCHOR)).anchors_of("azure-vtpm")
    assert {each.technology for each in found} == {"amd-sev-snp", "intel-tdx"}
    assert own in found
    assert ROOT_ANCHOR not in found


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"pcr3": frozenset({"04" * 48})},
        {"pcr4": frozenset({nitro_payload([b"", b""])["pcrs"][4].hex()})},
        {**CODE, "pcr31": frozenset({"00" * 48})},
        {**CODE, "measurement": frozenset({"00" * 48})},
        {"pcr0": frozenset({"ff" * 48})},
        {"pcr0": frozenset()},
    ],
)
def test_code_that_nobody_names_is_unknown(known):
    """Reference values of instances, of absent registers and of none must be refused."""
    assert judge(a_receipt(an_entry()), root=a_root(known=known)).reason is UNKNOWN_CODE


@pytest.mark.parametrize(
    ("technology", "registers"),
    [
        ("amd-sev-snp", ("chip_id", "host_data", "report_id")),
        ("intel-tdx", ("mr_seam", "mr_config_id")),
        ("tpm2-quote", ("sha256:16", "sha256:23", "sha1:0")),
        ("azure-vtpm", ("sha256:4", "sha256:7")),
        ("azure-vtpm", ("measurement", "mr_td")),
        ("azure-vtpm", ("measurement", "sha256:23")),
        ("nvidia-gpu", ("measurement",)),
    ],
)
def test_registers_that_say_nothing_of_the_code_are_not_enough(technology, registers):
    """A chip, a register that a guest resets, SHA-1 and half of Azure must not stand for code."""
    assert not name_code(technology, registers)
    root = a_root()
    root = replace(
        root,
        attestation=replace(
            root.attestation,
            measurements={technology: {each: frozenset({"00"}) for each in registers}},
        ),
    )
    with pytest.raises(Error) as refused:
        appraise_field(technology, {}, bytes(64), anchors=root, policy=ATTESTED.attestation, at=AT)
    assert refused.value.reason is UNKNOWN_CODE
    assert set(KINDS) == set(CODE_REGISTERS)


@pytest.mark.parametrize(
    "table",
    [
        "accepted_classes = []",
        'accepted_classes = ["Hardware"]',
        'accepted_classes = "hardware"',
        "allow_debug = 1",
        'allow_debug = "true"',
        "maximum_age_seconds = 0",
        "maximum_age_seconds = true",
        "maximum_age_seconds = 1e3",
        "maximum_vmpl = 4",
        "maximum_vmpl = -1",
        "minimum_tcb = 3",
        "minimum_tcb = { snp = -1 }",
        "minimum_tcb = { snp = true }",
        'accepted_tcb = ["Up To Date"]',
        'accepted_tcb = ["UpToDate\\u202e"]',
        "accept_tcb = []",
        'not_checked = ["debug"]',
    ],
)
def test_an_odd_attestation_table_is_an_error(table):
    """Misspelt, mistyped and boundless wishes must be refused: a guess could allow too much."""
    with pytest.raises(MalformedError) as refused:
        AssurancePolicy.from_toml(
            f'version = 1\nname = "p"\n[attestation]\n{table}\n[claims]\ninput = ["hardware"]\n'
        )
    assert refused.value.reason is Reason.MALFORMED_POLICY
