"""The auditor beside an operator that hides: withholding is never a pass, whatever is withheld."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from node_world import Clock, Operator, identity, trusted_root
from verispect.core.encoding import Digest, sha256
from verispect.core.errors import RequestError, VerificationError
from verispect.engines.forced import TokenScores
from verispect.node.audit import Auditor, AuditPlan
from verispect.node.audit_report import (
    AnswerState,
    AuditOutcome,
    AuditReport,
    read_signed_report,
    sign_report,
)
from verispect.node.audited_log import AuditedLog
from verispect.node.drift_test import DriftNull, DriftTest

TEST = DriftTest(DriftNull(0.1, 256, 0.005), "4-bit weights", 0.85, 0.005)


class NeverAsked:
    """A model that has nothing to score, because nothing was given."""

    context_tokens = 512

    async def tokenize_answer(self, text: str) -> list[int]:
        raise AssertionError

    async def token_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        raise AssertionError

    async def force(self, *_: object, **__: object) -> TokenScores:
        raise AssertionError


@pytest.fixture
def operator() -> Iterator[Operator]:
    with Operator() as running:
        yield running


@pytest.fixture
def log(operator: Operator, tmp_path: Path) -> Iterator[AuditedLog]:
    opened = AuditedLog(tmp_path / "auditor", operator.url, trusted_root())
    yield opened
    opened.close()


def issue(operator: Operator, count: int) -> Digest:
    for _ in range(count):
        receipt = operator.issue()
    return Digest(receipt.unverified_statement.model.model_id)


async def audit(log: AuditedLog, plan: AuditPlan) -> AuditReport:
    auditor = Auditor(log, trusted_root(), identity(), NeverAsked(), clock=Clock())
    return await auditor.audit(plan)


async def test_content_that_is_not_given_leaves_the_question_open(
    operator: Operator, log: AuditedLog
) -> None:
    """An operator that opens nothing is not acquitted, and what was drawn can be computed again."""
    model = issue(operator, 6)
    report = await audit(log, AuditPlan(model, TEST, Fraction(1, 2)))
    assert [each.state for each in report.answers] == [AnswerState.NOT_GIVEN] * 3
    assert report.outcome is AuditOutcome.UNKNOWN
    assert report.power == 0
    assert report.population == 6
    report.audited.check_auditor_beacon(report.beacon, identity().signer.public_key)
    report.check(log.receipts(report.audited))
    signed = sign_report(report, issuer=identity().name, signer=identity().signer).encode()
    assert read_signed_report(signed, identity().signer.public_key) == replace(
        report, answers=tuple(report.answers)
    )


@pytest.mark.parametrize("withheld", [True, False])
async def test_a_receipt_that_is_withheld_or_altered_is_not_given(
    operator: Operator, log: AuditedLog, withheld: bool
) -> None:
    """Neither a missing receipt nor one with other bytes is a trial."""
    model = issue(operator, 1)
    (path,) = [path for path in operator.files if path.startswith("/log/receipts/")]
    operator.files[path] = 404 if withheld else bytes(operator.files[path])[:-1] + b"\x00"
    report = await audit(log, AuditPlan(model, TEST, Fraction(1)))
    assert [each.state for each in report.answers] == [AnswerState.NOT_GIVEN]


async def test_answers_of_other_models_are_no_trials(operator: Operator, log: AuditedLog) -> None:
    """They are drawn, named and left alone."""
    issue(operator, 2)
    report = await audit(log, AuditPlan(sha256(b"another model"), TEST, Fraction(1)))
    assert {each.state for each in report.answers} == {AnswerState.OTHER_MODEL}
    assert report.outcome is AuditOutcome.UNKNOWN


async def test_an_audit_goes_on_over_later_leaves_only(operator: Operator, log: AuditedLog) -> None:
    """The next report begins where the last one ended; with nothing new there is nothing to do."""
    model = issue(operator, 3)
    first = await audit(log, AuditPlan(model, TEST, Fraction(1)))
    with pytest.raises(RequestError):
        await audit(log, AuditPlan(model, TEST, Fraction(1), previous=first))
    issue(operator, 2)
    second = await audit(log, AuditPlan(model, TEST, Fraction(1), previous=first))
    assert (second.audited.first, second.audited.end) == (3, 5)
    second.check(log.receipts(second.audited), previous=first)
    with pytest.raises(VerificationError):
        second.check(log.receipts(first.audited), previous=first)


async def test_a_public_beacon_decides_the_draw(operator: Operator, log: AuditedLog) -> None:
    """What is drawn follows from the beacon that was given, and from nothing of the auditor's."""
    model = issue(operator, 8)
    beacon = sha256(b"randomness of a later day")
    plan = AuditPlan(model, TEST, Fraction(1, 4), beacon=beacon)
    drawn = [each.leaf for each in (await audit(log, plan)).answers]
    assert len(drawn) == 2
    assert [each.leaf for each in (await audit(log, plan)).answers] == drawn


async def test_a_report_on_another_history_is_not_checked_against_this_one(
    operator: Operator, log: AuditedLog
) -> None:
    """A checkpoint that the copy does not lead to is refused."""
    model = issue(operator, 2)
    report = await audit(log, AuditPlan(model, TEST, Fraction(1)))
    point = replace(report.audited.checkpoint, root=sha256(b"another history"))
    with pytest.raises(VerificationError):
        log.receipts(replace(report.audited, checkpoint=point))
    assert report.made_at == Clock().now
