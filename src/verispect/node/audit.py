"""Audits a model: draws receipts from a log, asks for their content, tests for drift, and reports.

The auditor follows the log with a copy of its own, so that what is drawn from is what the log
signed. It is a verification node's key that asks the operator for openings. This module refuses to
publish anything and to say of a single receipt that it is right or wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.commitments import decode_openings
from verispect.core.encoding import Digest
from verispect.core.errors import (
    EngineError,
    Error,
    NetworkError,
    Reason,
    RequestError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt
from verispect.engines.forced import ScoringEngine
from verispect.ledger.log.submission import NONCE_BYTES, sign_opening_request
from verispect.node import judging
from verispect.node.answer_drift import Disagreement, disagreement_of_receipt
from verispect.node.audit_report import (
    MAX_AUDITED_ANSWERS,
    AnswerState,
    AuditedAnswer,
    AuditReport,
)
from verispect.node.audit_sample import AuditedRange, draw_sample, sample_size
from verispect.node.audited_log import AuditedLog
from verispect.node.drift_test import DriftTest
from verispect.node.operator_client import RefusedError
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.verdict import Outcome


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What is to be audited, fixed before anything is looked at."""

    model_id: Digest
    test: DriftTest
    rate: Fraction
    first: int = 0
    """The first leaf; that after the last of `previous`, where that is given."""
    beacon: bytes | None = None
    """Public randomness that is younger than the leaves; else the auditor's own signature."""
    previous: AuditReport | None = None


class Auditor:
    """One auditor of one model.

    Args:
        log: its copy of the log.
        root: which issuers are trusted.
        identity: name and key, which the operator lists as an auditor.
        engine: the registered model.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        log: AuditedLog,
        root: TrustedRoot,
        identity: Issuer,
        engine: ScoringEngine,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._log = log
        self._root = root
        self._identity = identity
        self._engine = engine
        self._clock = clock

    async def audit(self, plan: AuditPlan) -> AuditReport:
        """Audit what the log holds now and no report before it had.

        Raises:
            NetworkError: the operator is not reachable.
            VerificationError: `log-forked`, or as `AuditedLog.follow`.
            RequestError: `invalid-request`: nothing to audit, or more than a report may hold.
            StoreError: `store-failed`.
        """
        point = self._log.follow()
        before = plan.previous
        first = plan.first if before is None else before.audited.end
        audited = AuditedRange(point, first, point.size)
        leaves = self._log.leaves(audited)
        receipts = {leaf: each.receipt for leaf, each in leaves.items()}
        size = sample_size(len(receipts), plan.rate)
        if not 0 < size <= MAX_AUDITED_ANSWERS:
            raise RequestError(f"expected to draw 1 to {MAX_AUDITED_ANSWERS} receipts, got {size}")
        signer = self._identity.signer
        beacon = audited.auditor_beacon(signer) if plan.beacon is None else plan.beacon
        drawn = draw_sample(receipts, seed=audited.seed(beacon), size=size)
        report = AuditReport(
            plan.model_id,
            plan.test,
            audited,
            beacon,
            plan.rate,
            len(receipts),
            [await self._answer(leaf, leaves[leaf], plan.model_id) for leaf in drawn],
            self._clock(),
            None if before is None else before.digest(),
            0.0 if before is None else before.log_e_values[-1],
        )
        report.check(receipts, previous=before)
        return report

    async def _answer(self, leaf: int, found: ReceiptLeaf, model_id: Digest) -> AuditedAnswer:
        def state(each: AnswerState) -> AuditedAnswer:
            return AuditedAnswer(leaf, found.receipt, each)

        try:
            receipt = judging.fetch_receipt(self._log.operator, found)
            judged = judging.judge_receipt(receipt, self._root, now=self._clock())
            if judged.outcome is not Outcome.AFFIRMED:
                return state(AnswerState.NOT_GIVEN)
            if receipt.unverified_statement.model.model_id != model_id:
                return state(AnswerState.OTHER_MODEL)
            drift = await self._drift(receipt)
        except (NetworkError, VerificationError):
            return state(AnswerState.NOT_GIVEN)
        if drift is None:
            return state(AnswerState.NOT_SCORABLE)
        scored = AnswerState.SCORED
        return AuditedAnswer(leaf, found.receipt, scored, drift.tokens, drift.disagreeing)

    async def _drift(self, receipt: InferenceReceipt) -> Disagreement | None:
        request = sign_opening_request(
            receipt.receipt_id,
            issuer=self._identity.name,
            signer=self._identity.signer,
            now=self._clock(),
            nonce=os.urandom(NONCE_BYTES),
        )
        try:
            data = self._log.operator.openings(receipt.receipt_id, request)
        except RefusedError as error:
            raise NetworkError("no openings", reason=Reason.CONTENT_NOT_OPENED) from error
        if data is None:
            raise NetworkError("no openings", reason=Reason.CONTENT_NOT_OPENED)
        try:
            opened = decode_openings(data)
        except Error as error:
            raise NetworkError("no openings", reason=Reason.CONTENT_NOT_OPENED) from error
        try:
            return await disagreement_of_receipt(self._engine, receipt, opened)
        except EngineError:
            return None
        except VerificationError:
            raise
        except (Error, ValueError, KeyError, TypeError, IndexError):
            # Committed to, and nothing that this model was ever given: it disagrees in full.
            return Disagreement(1, 1)
