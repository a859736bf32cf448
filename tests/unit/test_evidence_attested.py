"""Attestation evidence on a receipt: of this key or inference, this code, in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import ATTESTED, ATTESTED_DEVELOPMENT, ATTESTED_SOFTWARE, SIGNED
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.development_enclave import DevelopmentEnclave
from verispect.attesters.signer import SoftwareSigner
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, encode
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PromisedEvidence,
    ServedLane,
)
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.bindings.inference_v1 import INFERENCE_V1, inference_digest
from verispect.evidence.bindings.key_v1 import KEY_V1, KeyBinding
from verispect.evidence.interface import IssuerKey

NOW = 1_790_000_000_000
SIGNER = SoftwareSigner(bytes(range(32)))
OTHER = SoftwareSigner(bytes(32))
SUBJECT = "ab" * 16
REGISTERS = ("pcr0", "pcr1", "pcr2")


@pytest.fixture(scope="module")
def enclave(tmp_path_factory):
    return DevelopmentEnclave.create(tmp_path_factory.mktemp("enclave"), NOW - 10_000)


def a_statement(**changes):
    fields = {
        "sequence": 1,
        "received_at": NOW,
        "completed_at": NOW + 10,
        "signed_at": NOW + 11,
        "operation": "chat.completions",
        "requested_model": "model",
        "model": ExecutedModel(
            ModelIdentity.LOCAL_WEIGHTS,
            Digest(b"m" * 32),
            Digest(b"e" * 32),
            Determinism.EXACT,
            ServedLane.DETERMINISTIC,
        ),
        "commitments": {},
        "finish_reasons": ["stop"],
        "usage": {},
        "assurance": ATTESTED_DEVELOPMENT.digest(),
        "evidence": [PromisedEvidence("signature")],
    }
    return InferenceStatement(**{**fields, **changes})


def an_entry(enclave, *, signer=SIGNER, collected_at=NOW - 1000, draft=None, members=None):
    """Make evidence for a key, or for one inference where a draft is given."""
    binding = KeyBinding(signer.public_key.key_id, NOW - 5000).members()
    own = {} if draft is None else {"inference_digest": bytes(inference_digest(SUBJECT, draft))}
    profile = KEY_V1 if draft is None else INFERENCE_V1
    field = profile.recompute({**binding, **own}, 64)
    body = enclave.attest(user_data=field, nonce=None, public_key=None, now=collected_at)
    del binding["receipt_key_id"]
    binding.update(members or {})
    return EvidenceEntry(
        "aws-nitro", profile.name, collected_at, body, encode({"binding": binding, "files": {}})
    )


def a_receipt(statement, *entries, signer=SIGNER, promised=True):
    if promised:
        named = [PromisedEvidence(entry.kind, entry.digest()) for entry in entries]
        statement = replace(statement, evidence=[*statement.evidence, *named])
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer="issuer",
        subject=SUBJECT,
        signer=signer,
    )
    rows = tuple(entry.to_row() for entry in entries)
    return InferenceReceipt.parse(replace(envelope, evidence=rows).encode())


def a_root(enclave, *, registers=None, anchored=True):
    values = enclave.registers() if registers is None else registers
    trust = AttestationTrust(
        anchors=(enclave.anchor(),) if anchored else (),
        measurements={"aws-nitro": {name: frozenset({values[name]}) for name in REGISTERS}}
        if values
        else {},
    )
    keys = [IssuerKey("issuer", each.public_key, False, 0) for each in (SIGNER, OTHER)]
    return TrustedRoot(keys, attestation=trust)


def appraise(root, receipt, policy=ATTESTED_DEVELOPMENT):
    return Verifier(root).appraise(receipt, opened={}, policy=policy, now=NOW + 60_000)


def test_evidence_of_the_session_key_is_hardware_of_its_class(enclave):
    """Under an explicit policy the three claims have hardware, and its class stands beside it."""
    result = appraise(a_root(enclave), a_receipt(a_statement(), an_entry(enclave)))
    assert result.verdict is Verdict.VERIFIED
    assert result.evidence_classes == (EvidenceClass.DEVELOPMENT,)
    for claim in (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION):
        assert result.claims[claim] == {Source.ASSERTED, Source.HARDWARE}
    assert result.claims[Claim.MODEL] == {Source.ASSERTED}
    assert any("class development" in line for line in result.not_covered)
    assert result.to_json()["evidenceClasses"] == ["development"]


@pytest.mark.parametrize("policy", [SIGNED, ATTESTED, ATTESTED_SOFTWARE])
def test_development_evidence_is_refused_unless_asked_for(enclave, policy):
    """No default policy takes development evidence, not even one that needs none."""
    result = appraise(a_root(enclave), a_receipt(a_statement(), an_entry(enclave)), policy)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.ATTESTATION_CLASS_REFUSED)


def test_evidence_of_one_inference_is_of_no_other(enclave):
    """Evidence under the inference profile verifies with its statement and with no other."""
    statement = a_statement(nonce=b"n" * 16)
    entry = an_entry(enclave, draft=statement, collected_at=NOW + 11)
    assert appraise(a_root(enclave), a_receipt(statement, entry)).verdict is Verdict.VERIFIED
    for other in (
        replace(statement, nonce=b"o" * 16),
        replace(statement, requested_model="other"),
        replace(statement, usage={"output_tokens": 1}),
    ):
        result = appraise(a_root(enclave), a_receipt(other, entry))
        assert result.reason is Reason.ATTESTATION_NONCE_MISMATCH


def test_evidence_of_another_key_makes_no_receipt_attested(enclave):
    """The field is recomputed with the receipt's own key, whatever the evidence is of."""
    entry = an_entry(enclave, signer=OTHER)
    result = appraise(a_root(enclave), a_receipt(a_statement(), entry))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.ATTESTATION_NONCE_MISMATCH)


def test_a_binding_cannot_claim_a_key_of_its_own(enclave):
    """Members that only the receipt may give are refused in the entry."""
    entry = an_entry(enclave, members={"receipt_key_id": bytes(OTHER.public_key.key_id)})
    assert appraise(a_root(enclave), a_receipt(a_statement(), entry)).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("collected_at", "reason"),
    [(NOW + 12, Reason.ATTESTATION_NOT_FRESH), (NOW - 90_000_000, Reason.ATTESTATION_NOT_FRESH)],
    ids=["after the statement", "older than the policy allows"],
)
def test_evidence_out_of_time_is_refused(tmp_path, collected_at, reason):
    """Evidence is of a time before the statement, and not long before."""
    enclave = DevelopmentEnclave.create(tmp_path, NOW - 100_000_000)
    entry = an_entry(enclave, collected_at=collected_at)
    assert appraise(a_root(enclave), a_receipt(a_statement(), entry)).reason is reason


def test_code_that_nobody_names_proves_nothing(enclave):
    """Without reference values, or with other ones, the evidence is refused."""
    receipt = a_receipt(a_statement(), an_entry(enclave))
    unknown = appraise(a_root(enclave, registers={}), receipt)
    assert unknown.reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH
    others = dict.fromkeys(REGISTERS, "11" * 48)
    changed = appraise(a_root(enclave, registers=others), receipt)
    assert changed.reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH


def test_an_anchor_that_nobody_trusts_is_refused(enclave):
    """Without its anchor the very same evidence ends in an untrusted root."""
    receipt = a_receipt(a_statement(), an_entry(enclave))
    result = appraise(a_root(enclave, anchored=False), receipt)
    assert result.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_vendor_roots_do_not_accept_a_development_enclave(enclave):
    """Trust in the vendor is not trust in a look-alike."""
    root = a_root(enclave, anchored=False)
    root = TrustedRoot(
        root.issuer_keys, attestation=replace(root.attestation, vendors=("aws-nitro",))
    )
    result = appraise(root, a_receipt(a_statement(), an_entry(enclave)), ATTESTED)
    assert result.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_promised_evidence_that_is_not_here_leaves_the_policy_unmet(enclave):
    """A statement that names evidence does not have it."""
    entry = an_entry(enclave)
    named = [PromisedEvidence("signature"), PromisedEvidence(entry.kind, entry.digest())]
    result = appraise(a_root(enclave), a_receipt(a_statement(evidence=named)))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.POLICY_UNMET)
    assert "promised evidence that is not here: aws-nitro" in result.not_covered


def test_evidence_that_the_statement_does_not_name_is_refused(enclave):
    """Good evidence laid beside a receipt does not raise it."""
    receipt = a_receipt(a_statement(), an_entry(enclave), promised=False)
    assert appraise(a_root(enclave), receipt).reason is Reason.EVIDENCE_UNBOUND


@pytest.mark.parametrize(
    "endorsements",
    [
        b"",
        b"\xa0",
        b"\xff",
        encode({"binding": {}, "files": {"doc": b"x"}}),
        encode({"binding": {"epoch": 1}, "files": {}}),
        encode({"binding": {}, "files": {}, "more": {}}),
        encode({"binding": {f"m{n}": b"" for n in range(17)}, "files": {}}),
    ],
)
def test_endorsements_of_another_form_are_refused(enclave, endorsements):
    """What is kept beside the evidence is read strictly, and never raises."""
    entry = replace(an_entry(enclave), endorsements=endorsements)
    result = appraise(a_root(enclave), a_receipt(a_statement(), entry))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.MALFORMED_EVIDENCE)


def test_a_profile_that_binds_no_receipt_key_is_not_a_pass(enclave):
    """Profiles of other services say nothing of our key."""
    entry = replace(an_entry(enclave), profile="tinfoil/3")
    result = appraise(a_root(enclave), a_receipt(a_statement(), entry))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.UNSUPPORTED_EVIDENCE)


def test_trust_in_attestation_survives_its_json_form(enclave):
    """A trusted root with anchors and measurements reads back equal."""
    root = a_root(enclave)
    read = TrustedRoot.from_json(root.to_json())
    assert (read.issuer_keys, read.attestation) == (root.issuer_keys, root.attestation)
