"""Leaves: one strict form per kind, nothing of a prompt in any, signatures inside."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tlog_log import SIGNER, MemoryLog, entries
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Part
from verispect.core.encoding import decode, encode, sha256
from verispect.core.envelope import STATEMENT_TYPE, open_envelope, sign_envelope
from verispect.core.errors import Error, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import PromisedEvidence, TransactionBinding
from verispect.core.transaction import (
    TRANSACTION_TYPE,
    Failure,
    TransactionOutcome,
    TransactionStatement,
)
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import (
    FORK_TYPE,
    MAX_LEAF_BYTES,
    LateEvidenceLeaf,
    LeafKind,
    MissedDeadlineLeaf,
    SignedLeaf,
    decode_leaf,
)
from verispect.tlog.publications import (
    COVERAGE_TYPE,
    PROMPT_VERSION_TYPE,
    REFUSAL_TYPE,
    Coverage,
    CoverageRow,
    PromptVersion,
    Refusal,
)
from verispect.tlog.receipt_leaf import (
    Disclosure,
    ReceiptLeaf,
    commit_model,
    commitment_salt,
)
from verispect.tlog.verdict import VERDICT_TYPE, Finding, NodeVerdict, Outcome, sign_verdict

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material

RECEIPT = InferenceReceipt.parse(material.receipt())
LEAF = ReceiptLeaf.of(RECEIPT)
EVERYTHING = Disclosure.MODEL | Disclosure.USAGE | Disclosure.CHARGE


def receipt_of(**changes):
    """A receipt whose statement differs from the good one."""
    statement = replace(material.statement(), **changes)
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer=material.ISSUER,
        subject=material.SUBJECT,
        signer=material.GOOD,
    )
    return InferenceReceipt(envelope)


def signed(payload, content_type, subject, signer=SIGNER):
    envelope = sign_envelope(
        payload.encode(), content_type=content_type, issuer="node.example", subject=subject,
        signer=signer,
    )  # fmt: skip
    return SignedLeaf.of(envelope)


VERDICT = NodeVerdict(
    receipt=RECEIPT.receipt_id,
    verified_at=1_790_000_000_000,
    software=sha256(b"node"),
    findings=(
        Finding(Claim.EXECUTION, Outcome.AFFIRMED, Source.REEXECUTED, "exact-replay"),
        Finding(Claim.MODEL, Outcome.REFUTED, Source.HARDWARE, "quote", "evidence-refutes"),
        Finding(Claim.TIME, Outcome.UNKNOWN, Source.LOGGED, "checkpoint", "log-unknown"),
    ),
    evidence=(sha256(b"evidence"),),
    report=sha256(b"report"),
)
REFUSAL = Refusal(1, "chat.completions", "assurance-unavailable", sha256(b"p"), sha256(b"r"))
FIRST_VERSION = PromptVersion("support", 1, 5, {Part.SYSTEM_PROMPT: sha256(b"salted")})
SECOND_VERSION = PromptVersion(
    "support", 2, 6, {Part.SYSTEM_PROMPT: sha256(b"s2"), Part.TOOLS: sha256(b"t2")},
    previous=sha256(b"first"), model_id=sha256(b"model"),
)  # fmt: skip
COVERAGE = Coverage(
    0, 300, 7, met=250, pending=40, failed=10, refused=3,
    rows=(
        CoverageRow(Claim.EXECUTION, Source.ASSERTED, 200, 0),
        CoverageRow(Claim.EXECUTION, Source.PROVEN, 50, 1234),
    ),
    report=sha256(b"report"),
)  # fmt: skip


TRANSACTION = TransactionStatement(
    b"t" * 16, 1, 2, TransactionOutcome.FAILED, sha256(b"policy"), 3, sha256(b"root"),
    failure=Failure("evidence-overdue", 1), nonce=sha256(b"nonce"),
)  # fmt: skip


def fork():
    log, other = MemoryLog(entries(3)), MemoryLog(entries(3, "other"))
    return ForkEvidence(log.checkpoint(), other.checkpoint(), other.root, ())


SIGNED = {
    LeafKind.VERDICT: signed(VERDICT, VERDICT_TYPE, RECEIPT.receipt_id.hex()),
    LeafKind.REFUSAL: signed(REFUSAL, REFUSAL_TYPE, "inference"),
    LeafKind.PROMPT_VERSION: signed(SECOND_VERSION, PROMPT_VERSION_TYPE, "support"),
    LeafKind.COVERAGE: signed(COVERAGE, COVERAGE_TYPE, "epoch 1"),
    LeafKind.FORK: signed(fork(), FORK_TYPE, "log.example"),
    LeafKind.TRANSACTION: signed(TRANSACTION, TRANSACTION_TYPE, (b"t" * 16).hex()),
}
LATE = LateEvidenceLeaf(RECEIPT.receipt_id, "proof", sha256(b"proof"), 1234, 5)
MISSED = MissedDeadlineLeaf(RECEIPT.receipt_id, "proof", 4, 5)
LEAVES = [LEAF, ReceiptLeaf.of(RECEIPT, disclose=EVERYTHING), LATE, MISSED, *SIGNED.values()]


def reason_of(call, *arguments):
    with pytest.raises(Error) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_every_kind_is_read_as_it_was_written(leaf):
    """Encoding and decoding are inverse, and the bytes are the deterministic form."""
    data = leaf.encode()
    assert decode_leaf(data) == leaf
    assert encode(decode(data)) == data
    assert decode_leaf(data).encode() == data


def test_there_is_a_test_for_every_kind():
    """No kind of leaf is left out above."""
    assert {decode(leaf.encode())[2] for leaf in LEAVES} == set(LeafKind)


def test_a_receipt_leaf_is_a_function_of_the_receipt():
    """Evidence that is added to the receipt later changes nothing of its leaf."""
    assert ReceiptLeaf.of(RECEIPT) == LEAF
    assert LEAF.receipt == RECEIPT.receipt_id
    assert LEAF.sequence == RECEIPT.unverified_statement.sequence
    assert len(LEAF.encode()) < 200
    for disclose in (Disclosure.NOTHING, Disclosure.MODEL, EVERYTHING):
        ReceiptLeaf.of(RECEIPT, disclose=disclose).check(RECEIPT)


@pytest.mark.parametrize("number", [1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**62])
def test_numbers_of_every_length_are_written_deterministically(number):
    """The bytes written by hand are those of the encoder."""
    promises = (
        PromisedEvidence("signature"),
        PromisedEvidence("native-proof", sha256(b"x"), number),
    )
    leaf = replace(
        LEAF,
        sequence=number,
        signed_at=number,
        evidence=promises,
        transaction=TransactionBinding(bytes(16), 0, number),
    )
    data = leaf.encode()
    assert encode(decode(data)) == data
    assert decode_leaf(data) == leaf


def test_another_receipts_leaf_does_not_fit():
    """A leaf that says anything else of a receipt than the receipt does is refused."""
    for changed in (
        replace(LEAF, sequence=LEAF.sequence + 1),
        replace(LEAF, receipt=sha256(b"other")),
        replace(LEAF, model=sha256(b"other")),
        replace(LEAF, evidence=()),
        replace(LEAF, model_id=sha256(b"other")),
        replace(LEAF, usage={"input_tokens": 1}),
        replace(LEAF, charge=("asset", 1)),
    ):
        assert reason_of(changed.check, RECEIPT) is Reason.CONTENT_MISMATCH
    other = receipt_of(sequence=99)
    assert reason_of(LEAF.check, other) is Reason.CONTENT_MISMATCH


def test_a_leaf_shows_the_model_only_where_the_operator_discloses_it():
    """Without the receipt the commitment says nothing; with its salt it can be opened alone."""
    model_id = RECEIPT.unverified_statement.model.model_id
    assert model_id not in LEAF.encode()
    assert model_id in ReceiptLeaf.of(RECEIPT, disclose=Disclosure.MODEL).encode()
    salt = commitment_salt(RECEIPT.envelope.signature)
    assert commit_model(model_id, salt=salt) == LEAF.model
    # The same model in another receipt has another commitment.
    other = receipt_of(sequence=99)
    assert other.unverified_statement.model.model_id == model_id
    assert ReceiptLeaf.of(other).model != LEAF.model


def test_nothing_of_the_callers_words_is_in_a_leaf():
    """Neither nonce, requested model, commitments nor finish reasons are in the public log."""
    statement = RECEIPT.unverified_statement
    data = ReceiptLeaf.of(RECEIPT, disclose=EVERYTHING).encode()
    assert statement.nonce not in data
    assert statement.requested_model.encode() not in data
    for commitment in statement.commitments.values():
        assert commitment not in data


@pytest.mark.parametrize("kind", SIGNED, ids=lambda kind: kind.label)
def test_a_signed_leaf_carries_its_signature(kind):
    """The party's key verifies what the leaf holds, and another key does not."""
    leaf = decode_leaf(SIGNED[kind].encode())
    assert leaf.kind is kind
    leaf.envelope.verify(SIGNER.public_key)
    assert reason_of(leaf.envelope.verify, material.GOOD.public_key) is Reason.SIGNATURE_INVALID
    assert leaf.payload.encode() == leaf.envelope.payload


def test_a_payload_under_another_kind_is_refused():
    """A verdict is never read as a refusal, nor a statement as a leaf."""
    fields = decode(SIGNED[LeafKind.VERDICT].encode())
    for kind in set(SIGNED) - {LeafKind.VERDICT}:
        assert reason_of(decode_leaf, encode({**fields, 2: int(kind)})) is Reason.MALFORMED_ENVELOPE
    statement = open_envelope(material.receipt(), content_type=STATEMENT_TYPE)
    assert reason_of(SignedLeaf.of, statement) is Reason.UNSUPPORTED_LEAF
    relabelled = sign_envelope(
        REFUSAL.encode(), content_type=VERDICT_TYPE, issuer="i", subject="s", signer=SIGNER
    )
    assert reason_of(SignedLeaf.of, relabelled) is Reason.MALFORMED_LEAF


def test_a_subject_that_contradicts_its_payload_is_refused():
    """A verdict names its receipt and a prompt version its service in both places."""
    for payload, content_type in ((VERDICT, VERDICT_TYPE), (FIRST_VERSION, PROMPT_VERSION_TYPE)):
        assert reason_of(signed, payload, content_type, "another") is Reason.MALFORMED_LEAF
    assert signed(FIRST_VERSION, PROMPT_VERSION_TYPE, "support").payload == FIRST_VERSION


def test_an_envelope_with_evidence_is_no_leaf():
    """Nothing that is not signed stands in a leaf."""
    envelope = SIGNED[LeafKind.REFUSAL].envelope
    entry = ["kind", "profile", 0, b"", b""]
    heavy = replace(envelope, evidence=(entry,))
    assert reason_of(SignedLeaf.of, heavy) is Reason.MALFORMED_LEAF
    data = encode({1: 1, 2: int(LeafKind.REFUSAL), 3: heavy.encode()})
    assert reason_of(decode_leaf, data) is Reason.MALFORMED_LEAF


RECEIPT_MAP = decode(ReceiptLeaf.of(RECEIPT, disclose=EVERYTHING).encode())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (1, 2, Reason.UNSUPPORTED_VERSION),
        (1, True, Reason.MALFORMED_LEAF),
        (2, 99, Reason.UNSUPPORTED_LEAF),
        (2, 0, Reason.UNSUPPORTED_LEAF),
        (2, "1", Reason.MALFORMED_LEAF),
        (3, bytes(31), Reason.MALFORMED_LEAF),
        (3, "x" * 32, Reason.MALFORMED_LEAF),
        (4, bytes(33), Reason.MALFORMED_LEAF),
        (5, 0, Reason.MALFORMED_LEAF),
        (5, 1 << 63, Reason.MALFORMED_LEAF),
        (6, -1, Reason.MALFORMED_LEAF),
        (7, None, Reason.MALFORMED_LEAF),
        (8, [["signature", None]], Reason.MALFORMED_LEAF),
        (8, [["a\nb", None, None]], Reason.MALFORMED_LEAF),
        (8, [["signature", None, None]] * 17, Reason.MALFORMED_LEAF),
        (9, b"", Reason.MALFORMED_LEAF),
        (10, [bytes(16), 1, 1], Reason.MALFORMED_LEAF),
        (10, [bytes(15), 0, 1], Reason.MALFORMED_LEAF),
        (11, b"", Reason.MALFORMED_LEAF),
        (12, {"input_tokens": -1}, Reason.MALFORMED_LEAF),
        (12, {1: 1}, Reason.MALFORMED_LEAF),
        (12, {str(number): 1 for number in range(9)}, Reason.MALFORMED_LEAF),
        (13, ["asset"], Reason.MALFORMED_LEAF),
        (13, ["asset", "1"], Reason.MALFORMED_LEAF),
        (14, 0, Reason.MALFORMED_LEAF),
    ],
)
def test_a_receipt_leaf_of_another_form_is_refused(key, value, reason):
    """Each field has one type and one range, and no other field is known."""
    assert reason_of(decode_leaf, encode({**RECEIPT_MAP, key: value})) is reason


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_no_required_field_may_be_absent(leaf):
    """Every field but the optional ones of a receipt leaf is required, and no other is known."""
    fields = decode(leaf.encode())
    for key in fields:
        if not (isinstance(leaf, ReceiptLeaf) and key >= 10):
            with pytest.raises(Error):
                decode_leaf(encode({name: fields[name] for name in fields if name != key}))
    assert reason_of(decode_leaf, encode({**fields, 99: 1})) is Reason.MALFORMED_LEAF


@pytest.mark.parametrize("data", [b"", b"\x80", encode([]), encode("leaf"), encode({})])
def test_what_is_no_map_is_no_leaf(data):
    """Anything else is malformed."""
    assert reason_of(decode_leaf, data) in (Reason.MALFORMED_LEAF, Reason.MALFORMED_CBOR)


def test_a_leaf_has_a_limit():
    """Neither read nor written beyond the limit of a bundle."""
    assert reason_of(decode_leaf, bytes(MAX_LEAF_BYTES + 1)) is Reason.TOO_LARGE
    huge = replace(SIGNED[LeafKind.REFUSAL].envelope, payload=bytes(MAX_LEAF_BYTES))
    leaf = SignedLeaf(LeafKind.REFUSAL, huge, REFUSAL)
    assert reason_of(leaf.encode) is Reason.TOO_LARGE


# -- Payloads -------------------------------------------------------------------------------------


def changed_payload(payload, key, value):
    fields = decode(payload.encode())
    return encode({**fields, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (2, b"short"),
        (3, "now"),
        (4, None),
        (5, []),
        (5, [["execution", 1, "reexecuted", "exact-replay"]]),
        (5, [["execution", 4, "reexecuted", "exact-replay", None]]),
        (5, [["unheard-of", 1, "reexecuted", "exact-replay", None]]),
        (5, [["execution", 1, "believed", "exact-replay", None]]),
        (5, [["execution", 1, "refuted", "exact-replay", None]]),
        (5, [["execution", 1, "reexecuted", "exact-replay", "evidence-refutes"]]),
        (5, [["execution", 1, "reexecuted", "", None]]),
        (5, [["execution", 1, "reexecuted", "x" * 65, None]]),
        (5, [["execution", 1, "reexecuted", "m", None], ["execution", 2, "reexecuted", "m", "r"]]),
        (6, [b"short"]),
        (6, [bytes(32)] * 33),
        (7, b"short"),
        (8, 1),
    ],
)
def test_a_verdict_of_another_form_is_refused(key, value):
    """A verdict says of each claim one thing, in known words."""
    assert (
        reason_of(NodeVerdict.decode, changed_payload(VERDICT, key, value)) is Reason.MALFORMED_LEAF
    )


@pytest.mark.parametrize(
    ("payload", "key", "value"),
    [
        (REFUSAL, 2, -1),
        (REFUSAL, 3, "chat\x1b[31m"),
        (REFUSAL, 4, ""),
        (REFUSAL, 5, b"short"),
        (REFUSAL, 7, 1),
        (SECOND_VERSION, 2, "x" * 65),
        (SECOND_VERSION, 3, 1),
        (SECOND_VERSION, 3, 0),
        (SECOND_VERSION, 5, {99: bytes(32)}),
        (SECOND_VERSION, 5, {1: b"the prompt itself"}),
        (SECOND_VERSION, 5, []),
        (FIRST_VERSION, 6, bytes(32)),
        (COVERAGE, 2, [5, 4]),
        (COVERAGE, 4, [1, 2, 3]),
        (COVERAGE, 5, [["execution", "proven", 1]]),
        (COVERAGE, 5, [["execution", "proven", 1, 1]] * 2),
        (COVERAGE, 6, 1),
    ],
)
def test_a_publication_of_another_form_is_refused(payload, key, value):
    """Refusals, prompt versions and coverage have one form each."""
    data = changed_payload(payload, key, value)
    assert reason_of(type(payload).decode, data) is Reason.MALFORMED_LEAF


@pytest.mark.parametrize("payload", [VERDICT, REFUSAL, SECOND_VERSION, COVERAGE])
def test_a_payload_of_another_version_is_not_understood(payload):
    """A later version is "could not tell", not "no"."""
    data = changed_payload(payload, 1, 2)
    assert reason_of(type(payload).decode, data) is Reason.UNSUPPORTED_VERSION


def test_a_verdict_is_signed_by_its_node():
    """The envelope names node and receipt."""
    envelope = sign_verdict(VERDICT, issuer="node.example", signer=SIGNER)
    envelope.verify(SIGNER.public_key)
    assert (envelope.issuer, envelope.subject) == ("node.example", VERDICT.receipt.hex())
    assert SignedLeaf.of(envelope).payload == VERDICT
    assert [outcome.label for outcome in Outcome] == ["affirmed", "refuted", "unknown"]
