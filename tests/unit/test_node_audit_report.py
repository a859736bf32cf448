"""The report of an audit: everything in it can be computed again, and nothing can be changed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from log_leaves import NODES
from verispect.core.encoding import Digest, decode_content, encode_content, sha256
from verispect.core.errors import Error, MalformedError, UnsupportedError, VerificationError
from verispect.node.audit_report import (
    AnswerState,
    AuditedAnswer,
    AuditOutcome,
    AuditReport,
    decode_report,
    read_signed_report,
    sign_report,
)
from verispect.node.audit_sample import AuditedRange, draw_sample
from verispect.node.drift_test import DriftNull, DriftTest
from verispect.tlog.checkpoint import Checkpoint

SIGNER, OTHER = list(NODES.values())[:2]
TEST = DriftTest(DriftNull(0.1, 256, 0.005), "4-bit weights", 0.85, 0.005)
MODEL = sha256(b"model")
RECEIPTS = {leaf: sha256(b"receipt %d" % leaf) for leaf in range(3, 1000, 2)}
RANGE = AuditedRange(Checkpoint("log.example/audit", 1000, sha256(b"root")), 0, 1000)


def report(
    *disagreeing: int,
    audited: AuditedRange = RANGE,
    receipts: dict[int, Digest] = RECEIPTS,
    **fields: object,
) -> AuditReport:
    """Return a report about answers of 40 tokens, of which so many disagree; -1: not given."""
    beacon = audited.auditor_beacon(SIGNER)
    drawn = draw_sample(receipts, seed=audited.seed(beacon), size=len(disagreeing))
    answers = []
    for leaf, wrong in zip(drawn, disagreeing, strict=True):
        scored = wrong >= 0
        state = AnswerState.SCORED if scored else AnswerState.NOT_GIVEN
        tokens = (40, wrong) if scored else (0, 0)
        answers.append(AuditedAnswer(leaf, receipts[leaf], state, *tokens))
    rate = Fraction(len(disagreeing), len(receipts))
    made = AuditReport(
        MODEL, TEST, audited, beacon, rate, len(receipts), tuple(answers), 1_700_000_000_000
    )
    return replace(made, **fields)  # type: ignore[arg-type]


HONEST, DRIFTED = report(0, 1, 4, 0, 2), report(12, 9, 20, 2, 8)


def test_a_report_comes_back_from_its_bytes_and_its_signature() -> None:
    """Encoding loses nothing, and only the auditor's key opens it."""
    for each in (HONEST, DRIFTED, report(-1, 3)):
        assert decode_report(each.encode()) == each
        signed = sign_report(each, issuer="auditor", signer=SIGNER).encode()
        assert read_signed_report(signed, SIGNER.public_key) == each
        with pytest.raises(VerificationError):
            read_signed_report(signed, OTHER.public_key)
        each.check(RECEIPTS)


def test_it_says_what_was_found_and_always_that_it_is_not_identity() -> None:
    """Four of five answers beyond the threshold are drift; none is not."""
    assert HONEST.outcome is AuditOutcome.NO_DRIFT
    assert DRIFTED.outcome is AuditOutcome.DRIFT
    for each in (HONEST, DRIFTED):
        view = each.to_view()
        assert view["meaning"] == "drift evidence, never identity"
        assert view["alternative"]["name"] == "4-bit weights"
        assert 0.9 < view["power"] < 1
        assert view["falseAlarmsAtMost"] == 0.01


def test_answers_that_were_not_given_leave_the_question_open() -> None:
    """Withholding is never a pass, and hides no drift that the other answers show."""
    assert report(0, 0, -1).outcome is AuditOutcome.UNKNOWN
    assert report(-1, -1).outcome is AuditOutcome.UNKNOWN
    assert report(20, 20, 20, -1).outcome is AuditOutcome.DRIFT
    scored, *others = HONEST.answers
    hidden = [
        replace(each, state=AnswerState.NOT_SCORABLE, tokens=0, disagreeing=0) for each in others
    ]
    assert replace(HONEST, answers=(scored, *hidden)).outcome is AuditOutcome.UNKNOWN
    foreign = [replace(each, state=AnswerState.OTHER_MODEL) for each in hidden]
    assert replace(HONEST, answers=(scored, *foreign)).outcome is AuditOutcome.NO_DRIFT
    assert replace(HONEST, answers=tuple(foreign)).outcome is AuditOutcome.UNKNOWN


def test_drift_once_found_is_not_lost_by_looking_further() -> None:
    """The largest e-value counts, as Ville's inequality allows."""
    assert report(20, 20, 20, *[0] * 12).outcome is AuditOutcome.DRIFT


@pytest.mark.parametrize(
    "change",
    [
        {"beacon": b"another beacon of 1"},
        {"population": 501},
        {"rate": Fraction(7, 500)},
        {"answers": HONEST.answers[::-1]},
        {"answers": HONEST.answers[:-1]},
        {"answers": (replace(HONEST.answers[0], receipt=MODEL), *HONEST.answers[1:])},
        {"carried": 5.0},
        {"previous": MODEL},
    ],
)
def test_a_sample_that_was_chosen_or_counted_otherwise_is_refused(
    change: dict[str, object],
) -> None:
    """Whoever has the log finds another draw, another number of receipts, or bets from nowhere."""
    with pytest.raises(Error):
        replace(HONEST, **change).check(RECEIPTS)  # type: ignore[arg-type]


def test_bets_go_on_over_reports_that_follow_each_other() -> None:
    """A later report carries the e-value on, over later leaves of the same test only."""
    later = AuditedRange(Checkpoint("log.example/audit", 2000, sha256(b"later")), 1000, 2000)
    receipts = {leaf: sha256(b"later %d" % leaf) for leaf in range(1000, 2000)}
    first = report(20, 20, 3)
    fields = {"previous": first.digest(), "carried": first.log_e_values[-1]}
    second = report(20, audited=later, receipts=receipts, **fields)
    second.check(receipts, previous=first)
    assert first.outcome is AuditOutcome.DRIFT or second.log_e_values[-1] > first.log_e_values[-1]
    for changed in (
        {"carried": 9.0},
        {"previous": MODEL},
        {"model_id": sha256(b"another")},
        {"test": replace(TEST, level=0.4)},
    ):
        with pytest.raises(VerificationError):
            replace(second, **changed).check(receipts, previous=first)
    with pytest.raises(VerificationError):
        second.check(receipts)
    with pytest.raises(VerificationError):
        report(20, **fields).check(RECEIPTS, previous=first)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("null", [0.1, 3, 0.005]),
        ("null", [1, 256, 0.005]),
        ("alternative", ["x", 0.001]),
        ("level", 0.0),
        ("rate", [2, 1]),
        ("rate", [1, 0]),
        ("answers", [[3, bytes(32), 1, 0, 0]]),
        ("answers", [[3, bytes(32), 1, 4, 5]]),
        ("answers", [[3, bytes(32), 2, 4, 0]]),
        ("answers", [[3, bytes(32), 9, 4, 0]]),
        ("answers", [[3, bytes(31), 1, 4, 0]]),
        ("range", ["no checkpoint", 0, 1]),
        ("population", -1),
        ("meaning", "identity"),
        ("model", "text"),
        ("extra", 1),
    ],
)
def test_what_no_auditor_writes_is_not_read(name: str, value: object) -> None:
    """A field of another type or range, and a field that is not known, are malformed."""
    content = decode_content(HONEST.encode())
    content[name] = value
    with pytest.raises(MalformedError):
        decode_report(encode_content(content))


def test_another_version_is_not_guessed_at() -> None:
    """A later version is unsupported, not malformed."""
    content = decode_content(HONEST.encode()) | {"version": 2}
    with pytest.raises(UnsupportedError):
        decode_report(encode_content(content))


def test_a_signature_over_another_model_is_refused() -> None:
    """The subject of the envelope is the model that the report speaks of."""
    signed = sign_report(HONEST, issuer="auditor", signer=SIGNER)
    moved = sign_report(replace(HONEST, model_id=sha256(b"x")), issuer="auditor", signer=SIGNER)
    with pytest.raises(VerificationError):
        read_signed_report(replace(signed, payload=moved.payload).encode(), SIGNER.public_key)
