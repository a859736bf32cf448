"""The whole TPM path on a real software TPM: key, certificate, activation, quote, appraisal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from swtpm import SoftwareTpm, require_swtpm, running_swtpm

from verispect.attesters.interface import AttestationEvidence
from verispect.attesters.tpm import TpmAttester
from verispect.core.encoding import decode
from verispect.core.errors import AttesterError, Reason, RequestError, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.certificates import load_certificate
from verispect.evidence.tpm import (
    GENUINE_ANCHORS,
    TECHNOLOGY,
    anchor_for_activated_key,
    appraise_tpm,
    evidence_from_files,
    make_credential,
)

REPORT_DATA = bytes(range(64))
NONCE = b"the verifier's nonce"
SECRET, SEED = bytes(range(32)), bytes(range(100, 132))
SOFTWARE_ALLOWED = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.SOFTWARE}))


@dataclass(frozen=True)
class Machine:
    tpm: SoftwareTpm
    attester: TpmAttester
    root: Anchor

    def now(self) -> int:
        return int(time.time() * 1000)

    def activated_anchor(
        self, *, returned: bytes | None = None, root: Anchor | None = None
    ) -> Anchor:
        if returned is None:
            returned = self.attester.activate(self.credential())
        return anchor_for_activated_key(
            attestation_key=self.attester.attestation_key(),
            endorsement_key=self.attester.endorsement_key(),
            endorsement_path=self.attester.endorsement_path(),
            secret=SECRET,
            returned=returned,
            anchors=[root or self.root],
            at=self.now(),
        )

    def credential(self):
        return make_credential(
            self.attester.endorsement_key(),
            self.attester.attestation_key().name,
            secret=SECRET,
            seed=SEED,
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    require_swtpm()
    folder = tmp_path_factory.mktemp("swtpm")
    with running_swtpm(folder) as tpm:
        attester = TpmAttester(folder / "keys", tcti=tpm.tcti, endorsement_issuers=tpm.issuers)
        root = load_certificate(tpm.issuers[-1])
        anchor = Anchor(TECHNOLOGY, root.key_digest, EvidenceClass.SOFTWARE, "local authority")
        yield Machine(tpm, attester, anchor)


def appraise(
    evidence: AttestationEvidence,
    anchors: tuple[Anchor, ...],
    *,
    nonce: bytes | None = NONCE,
    policy: AttestationPolicy = SOFTWARE_ALLOWED,
) -> AttestationAppraisal:
    return appraise_tpm(
        evidence_from_files({**decode(evidence.body), **decode(evidence.endorsements)}),
        anchors=anchors,
        expected=Expectation(nonce=nonce, report_data=REPORT_DATA),
        policy=policy,
        at=int(time.time() * 1000),
    )


def test_a_quote_of_an_activated_key_is_software_evidence(machine: Machine) -> None:
    """A quote verifies in class software once its key was activated under the local authority."""
    evidence = machine.attester.attest(REPORT_DATA, NONCE)
    appraisal = appraise(evidence, (machine.activated_anchor(),))
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.evidence_class is EvidenceClass.SOFTWARE
    assert len(appraisal.facts["pcrs"]) == 8
    assert not any("attributes" in line for line in appraisal.not_checked)


def test_a_quote_is_refused_by_default(machine: Machine) -> None:
    """Without an anchor of the caller's nothing vouches for a TPM, whatever certificate it has."""
    evidence = machine.attester.attest(REPORT_DATA, NONCE)
    assert appraise(evidence, GENUINE_ANCHORS).reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert appraise(evidence, (machine.root,)).reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_a_default_policy_takes_no_software_evidence(machine: Machine) -> None:
    """An anchored software TPM is still refused where only hardware is accepted."""
    evidence = machine.attester.attest(REPORT_DATA, NONCE)
    appraisal = appraise(evidence, (machine.activated_anchor(),), policy=AttestationPolicy())
    assert appraisal.reason is Reason.ATTESTATION_CLASS_REFUSED
    assert appraisal.evidence_class is EvidenceClass.SOFTWARE


def test_a_quote_answers_one_nonce_and_one_value(machine: Machine) -> None:
    """A quote for another nonce, or for none, is not taken for the one that was asked for."""
    anchors = (machine.activated_anchor(),)
    asked = machine.attester.attest(REPORT_DATA, NONCE)
    assert appraise(asked, anchors, nonce=b"another").reason is Reason.ATTESTATION_NONCE_MISMATCH
    unasked = machine.attester.attest(REPORT_DATA, None)
    assert appraise(unasked, anchors).reason is Reason.ATTESTATION_NONCE_MISMATCH
    assert appraise(unasked, anchors, nonce=None).verdict is AttestationVerdict.ACCEPT
    other = machine.attester.attest(REPORT_DATA[::-1], NONCE)
    assert appraise(other, anchors).reason is Reason.ATTESTATION_NONCE_MISMATCH


def test_activation_needs_the_secret_and_the_root(machine: Machine) -> None:
    """A wrong secret or a root that is no anchor makes no anchor of the key."""
    with pytest.raises(VerificationError) as wrong_secret:
        machine.activated_anchor(returned=SECRET[::-1])
    assert wrong_secret.value.reason is Reason.ATTESTATION_BINDING_INVALID
    stranger = Anchor(TECHNOLOGY, bytes(32), EvidenceClass.HARDWARE, "stranger")  # type: ignore[arg-type]
    with pytest.raises(VerificationError) as wrong_root:
        machine.activated_anchor(root=stranger)
    assert wrong_root.value.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_a_credential_for_another_key_finds_no_secret(machine: Machine) -> None:
    """The TPM refuses a credential made for a key that it has not loaded."""
    name = machine.attester.attestation_key().name
    credential = make_credential(
        machine.attester.endorsement_key(),
        name[:-1] + bytes([name[-1] ^ 1]),
        secret=SECRET,
        seed=SEED,
    )
    with pytest.raises(AttesterError) as refused:
        machine.attester.activate(credential)
    assert refused.value.reason is Reason.ATTESTER_UNAVAILABLE
    assert machine.attester.activate(machine.credential()) == SECRET


def test_the_attestation_key_outlives_its_process(machine: Machine, tmp_path: Path) -> None:
    """A second attester over the same directory quotes with the same key; another makes its own."""
    again = TpmAttester(machine.attester._directory, tcti=machine.tpm.tcti)
    assert again.attestation_key().raw == machine.attester.attestation_key().raw
    other = TpmAttester(tmp_path / "keys", tcti=machine.tpm.tcti)
    assert other.attestation_key().raw != machine.attester.attestation_key().raw


def test_many_quotes_leave_no_object_behind(machine: Machine) -> None:
    """A TPM with room for three objects makes more than three quotes."""
    quotes = {machine.attester.attest(REPORT_DATA, bytes([n])).body for n in range(5)}
    assert len(quotes) == 5


def test_what_cannot_be_carried_or_reached_is_an_error(machine: Machine, tmp_path: Path) -> None:
    """A nonce out of bounds and a TPM that is not there are errors, never evidence."""
    with pytest.raises(RequestError):
        machine.attester.attest(REPORT_DATA, bytes(1025))
    nowhere = TpmAttester(tmp_path, tcti="swtpm:host=127.0.0.1,port=1")
    with pytest.raises(AttesterError):
        nowhere.attest(REPORT_DATA, NONCE)
