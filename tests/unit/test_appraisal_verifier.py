"""The verifier with further evidence, and what its results allow and refuse to do."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.result import Verdict, VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import ALONE, Expected, Verifier
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import encode
from verispect.core.errors import Reason, TrustError, UnsupportedError, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence, TransactionBinding
from verispect.evidence.interface import Check, CheckStatus, EvidenceAppraisal
from verispect.evidence.registry import BUILT_IN

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material

ROOT = TrustedRoot.from_json(material.trusted_root().encode())
PROVEN = {Claim.EXECUTION: frozenset({Source.PROVEN})}
REFUTED = {Claim.CONFIDENTIALITY: frozenset({Source.REFUTED})}
GOOD_CHECK = Check("example", CheckStatus.PASSED, "good")
BAD_CHECK = Check("example", CheckStatus.FAILED, "bad", Reason.EVIDENCE_INVALID)
UNSURE_CHECK = Check("example", CheckStatus.UNKNOWN, "unsure", Reason.UNSUPPORTED_EVIDENCE)
ENTRY = EvidenceEntry("example", "example-v1", material.SIGNED_AT, b"body", b"")


class ExampleEvidence:
    """A further kind that answers what it is told to."""

    name = "example"

    def __init__(self, checks, claims, binds_itself=False):
        self.appraisal = EvidenceAppraisal(checks, claims, ("an example",))
        self.binds_itself = binds_itself

    def appraise(self, context):
        assert context.entry == ENTRY
        return self.appraisal


def receipt_with(entry=ENTRY, **changes):
    named = [PromisedEvidence("signature"), PromisedEvidence(entry.kind, entry.digest())]
    statement = material.statement(evidence=named, **changes)
    unprotected = encode({-70001: [entry.to_row()]})
    return InferenceReceipt.parse(material.sign1(statement.encode(), unprotected=unprotected))


def appraise(checks, claims, policy=SIGNED, receipt=None):
    verifier = Verifier(ROOT, kinds={**BUILT_IN, "example": ExampleEvidence(checks, claims)})
    return verifier.appraise(receipt or receipt_with(), opened={}, policy=policy, now=material.NOW)


def verify(data, policy=SIGNED, root=ROOT, **inputs):
    return Verifier(root).verify(
        InferenceReceipt.parse(data),
        opened=inputs.pop("opened", {}),
        policy=policy,
        now=material.NOW,
        **inputs,
    )


# -- Further evidence -----------------------------------------------------------------------------


def test_further_evidence_adds_its_source():
    """A policy that wants more than a signature is met by evidence that shows more."""
    policy = AssurancePolicy("strict", {Claim.EXECUTION: frozenset({Source.PROVEN})})
    result = appraise([GOOD_CHECK], PROVEN, policy)
    assert result.verdict is Verdict.VERIFIED
    assert result.claims[Claim.EXECUTION] == {Source.ASSERTED, Source.PROVEN}
    assert "an example" in result.not_covered


@pytest.mark.parametrize("claims", [{}, PROVEN])
def test_evidence_that_failed_refuses_everything(claims):
    """Evidence that was checked and is bad refuses the receipt, and no claim remains."""
    result = appraise([GOOD_CHECK, BAD_CHECK], claims)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_INVALID)
    assert set(result.claims.values()) == {frozenset({Source.UNSTATED})}


def test_evidence_that_checked_nothing_is_invalid():
    """A kind that makes no check cannot add a claim."""
    result = appraise([], PROVEN)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_INVALID)


def test_evidence_that_could_not_tell_lowers_the_verdict():
    """An unknown answer never verifies, though the signature alone would have."""
    result = appraise([UNSURE_CHECK], PROVEN)
    assert (result.verdict, result.reason) == (Verdict.UNDETERMINED, Reason.UNSUPPORTED_EVIDENCE)


def test_good_evidence_of_something_false_is_a_refusal():
    """A refuted claim refuses the receipt, also where the policy did not ask for that claim."""
    result = appraise([GOOD_CHECK], REFUTED)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_REFUTES)
    unsure = appraise([GOOD_CHECK, UNSURE_CHECK], REFUTED)
    assert unsure.verdict is Verdict.REFUSED


def test_evidence_is_bound_by_kind_and_endorsements_are_not():
    """The bytes of one kind are not evidence of another; endorsements may come later."""
    assert replace(ENTRY, kind="other").digest() != ENTRY.digest()
    assert replace(ENTRY, endorsements=b"later").digest() == ENTRY.digest()


DUE = material.NOW + 1
NEEDS_PROOF = AssurancePolicy("proven", {Claim.EXECUTION: frozenset({Source.PROVEN})})


def promised_with(*entries, due_at=DUE, promises=1):
    """A receipt that promises evidence without naming it, with the entries that came."""
    promised = [PromisedEvidence("signature")] + [
        PromisedEvidence("example", due_at=due_at)
    ] * promises
    statement = material.statement(evidence=promised)
    unprotected = encode({-70001: [entry.to_row() for entry in entries]} if entries else {})
    return InferenceReceipt.parse(material.sign1(statement.encode(), unprotected=unprotected))


def appraise_promised(receipt, policy, *, binds_itself=True, now=material.NOW):
    kind = ExampleEvidence([GOOD_CHECK], PROVEN, binds_itself)
    verifier = Verifier(ROOT, kinds={**BUILT_IN, "example": kind})
    return verifier.appraise(receipt, opened={}, policy=policy, now=now)


def test_pending_evidence_is_neither_yes_nor_no():
    """Where the policy rests on evidence that is not due yet, the answer is: not yet."""
    result = appraise_promised(promised_with(), NEEDS_PROOF)
    assert (result.verdict, result.reason) == (Verdict.UNDETERMINED, Reason.EVIDENCE_PENDING)
    assert any(
        line.startswith("promised evidence that is not here yet") for line in result.not_covered
    )


def test_pending_evidence_that_the_policy_does_not_need_only_shows():
    """A policy that is met without it is met; that something is missing is said."""
    result = appraise_promised(promised_with(), SIGNED)
    assert result.verdict is Verdict.VERIFIED
    assert any(
        line.startswith("promised evidence that is not here yet") for line in result.not_covered
    )


@pytest.mark.parametrize("policy", [SIGNED, NEEDS_PROOF])
def test_a_broken_promise_fails_whatever_is_required(policy):
    """After the deadline a receipt without its promised evidence has failed."""
    result = appraise_promised(promised_with(), policy, now=DUE + 1)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_OVERDUE)


def test_evidence_that_came_later_is_admitted_by_its_promise():
    """Evidence that binds itself needs no digest in the statement."""
    result = appraise_promised(promised_with(ENTRY), NEEDS_PROOF)
    assert result.verdict is Verdict.VERIFIED
    assert appraise_promised(promised_with(ENTRY), NEEDS_PROOF, now=DUE + 1).verdict is (
        Verdict.VERIFIED
    )


def test_evidence_that_does_not_bind_itself_is_not_admitted_by_a_promise():
    """A quote of the key could be of any inference, so it must be named when signing."""
    result = appraise_promised(promised_with(ENTRY), SIGNED, binds_itself=False)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_UNBOUND)


def test_one_promise_admits_one_piece_of_evidence():
    """More evidence than was promised is unbound."""
    other = replace(ENTRY, body=b"other")
    result = appraise_promised(promised_with(other, ENTRY), SIGNED, binds_itself=False)
    assert result.reason is Reason.EVIDENCE_UNBOUND
    twice = appraise_promised(promised_with(ENTRY, ENTRY), SIGNED)
    assert (twice.verdict, twice.reason) == (Verdict.REFUSED, Reason.EVIDENCE_UNBOUND)


def test_evidence_collected_after_its_deadline_is_late():
    """A deadline is kept or broken by when the evidence was there, not by when it is judged."""
    late = replace(ENTRY, collected_at=DUE + 1)
    statement = promised_with(late)
    kind = ExampleEvidence([GOOD_CHECK], PROVEN, binds_itself=True)
    kind.appraise = lambda context: kind.appraisal
    verifier = Verifier(ROOT, kinds={**BUILT_IN, "example": kind})
    result = verifier.appraise(statement, opened={}, policy=SIGNED, now=DUE + 5)
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_LATE)


def test_named_evidence_that_is_absent_is_said_to_be():
    """A receipt without evidence that it names by digest says so."""
    promised = [PromisedEvidence("signature"), PromisedEvidence("example", ENTRY.digest())]
    result = verify(material.receipt(evidence=promised)).result
    assert "promised evidence that is not here: example" in result.not_covered


def test_evidence_does_not_change_the_receipt_identifier():
    """Entries travel beside the signed statement: the identifier is that of what was signed."""
    bare = InferenceReceipt.parse(material.sign1(receipt_with().envelope.payload))
    assert receipt_with().receipt_id == bare.receipt_id


# -- Verdict and error agree ----------------------------------------------------------------------


def test_no_could_not_tell_and_not_known_are_three_errors():
    """`verify` raises another class for each of the answers that are not yes."""
    with pytest.raises(VerificationError) as no:
        verify(material.receipt(material.UNLISTED))
    assert no.value.reason is Reason.KEY_UNKNOWN
    with pytest.raises(TrustError) as empty:
        verify(material.receipt(), root=TrustedRoot([]))
    assert empty.value.reason is Reason.TRUSTED_ROOT_EMPTY
    with pytest.raises(UnsupportedError) as unknown:
        verify(receipt_with().encode())
    assert unknown.value.reason is Reason.UNSUPPORTED_EVIDENCE


def test_stale_root_shows_no_claim():
    """Under an expired root nothing is shown as believed, though the signature matches."""
    stale = TrustedRoot(ROOT.issuer_keys, expires_at=material.NOW)
    result = Verifier(stale).appraise(
        InferenceReceipt.parse(material.receipt()), opened={}, policy=SIGNED, now=material.NOW
    )
    assert result.verdict is Verdict.UNDETERMINED
    assert result.reason is Reason.TRUSTED_ROOT_STALE
    assert set(result.claims.values()) == {frozenset({Source.UNSTATED})}


def test_a_claim_that_is_shown_comes_from_a_receipt_without_a_failure():
    """Whichever check fails, the table of claims is empty."""
    expected = Expected(nonce=b"another nonce")
    result = Verifier(ROOT).appraise(
        InferenceReceipt.parse(material.receipt()),
        opened={},
        policy=SIGNED,
        now=material.NOW,
        expected=expected,
    )
    assert result.verdict is Verdict.REFUSED
    assert set(result.claims.values()) == {frozenset({Source.UNSTATED})}


def test_what_was_not_compared_is_listed():
    """Unopened parts, an uncompared stream and another policy than the one asked for are named."""
    policy = AssurancePolicy("other", {Claim.MODEL: frozenset({Source.ASSERTED})})
    lines = "\n".join(verify(material.receipt(), policy=policy).result.not_covered)
    for words in ("content that was not opened: system_prompt", "chunks of the stream", "policy"):
        assert words in lines
    compared = verify(
        material.receipt(),
        opened=decode_openings(material.openings()),
        expected=Expected(stream=material.statement().stream),
    )
    lines = "\n".join(compared.result.not_covered)
    for words in ("not opened", "chunks of the stream", "policy"):
        assert words not in lines


def test_the_receipt_of_a_part_alone_says_so():
    """Of a transaction it shows neither that it was committed nor its other parts."""
    place = TransactionBinding(bytes(16), 0, 2)
    result = verify(material.receipt(transaction=place)).result
    assert ALONE in result.not_covered
    assert ALONE not in verify(material.receipt()).result.not_covered


# -- Results --------------------------------------------------------------------------------------


def test_result_is_no_boolean():
    """Code that forgets to look at the verdict fails at once."""
    result = verify(material.receipt()).result
    with pytest.raises(TypeError):
        bool(result)
    with pytest.raises(FrozenInstanceError):
        result.verdict = Verdict.REFUSED  # type: ignore[misc]


def test_verified_receipt_is_made_by_a_verifier_only():
    """It is not constructed, subclassed, copied, pickled or changed."""
    verified = verify(material.receipt(), opened=decode_openings(material.openings()))
    assert verified.opened[Part.OUTPUT] == material.CONTENT[Part.OUTPUT]
    with pytest.raises(TypeError):
        VerifiedReceipt(object(), verified.statement, {}, verified.result)
    with pytest.raises(TypeError):
        type("Forged", (VerifiedReceipt,), {})
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(verified)
    with pytest.raises(AttributeError):
        verified.statement = material.statement(sequence=2)
    with pytest.raises(AttributeError):
        del verified.statement


def test_no_statement_beside_the_signed_one():
    """A receipt whose statement is not the signed one cannot be built."""
    receipt = InferenceReceipt.parse(material.receipt())
    forged = material.statement(sequence=99)
    with pytest.raises((TypeError, ValueError)):
        replace(receipt, unverified_statement=forged)
    with pytest.raises(TypeError):
        InferenceReceipt(receipt.envelope, forged, ())
    with pytest.raises(FrozenInstanceError):
        receipt.unverified_statement = forged  # type: ignore[misc]


def test_json_view_is_complete():
    """The JSON view holds every check, every claim and what is not covered."""
    result = verify(material.receipt()).result
    view = result.to_json()
    assert view["verdict"] == "verified"
    assert view["reason"] is None
    assert {claim.value for claim in Claim} == set(view["claims"])
    assert len(view["checks"]) == len(result.checks)
    assert view["notCovered"] == list(result.not_covered)
