"""The verifier of transactions: decides several inferences as one, offline, from bytes alone.

Pure, like `verispect.appraisal.verifier`, whose judgement of each receipt it uses. The numbered
steps are those of spec/transaction.md section 6. A transaction is accepted only where it is
committed, whole and in order, and every part verifies under its own policy; a good signature over
a failed transaction is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from verispect.appraisal.expected import NOTHING_EXPECTED
from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction_checks import (
    ANY_TRANSACTION,
    check_dependencies,
    check_expected,
    check_outcome,
    check_part_result,
    check_parts,
    check_path,
    check_root,
    check_signature,
    check_times,
    check_tree,
    describe_uncovered,
)
from verispect.appraisal.transaction_checks import CUT_REASONS as CUT_REASONS
from verispect.appraisal.transaction_checks import ExpectedTransaction as ExpectedTransaction
from verispect.appraisal.transaction_result import (
    PartResult,
    TransactionResult,
    verdict_of,
    weakest,
)
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import ALONE, Verifier
from verispect.core.transaction_files import BundledPart, DisclosedPart, TransactionBundle
from verispect.evidence.interface import EvidenceKind
from verispect.evidence.registry import BUILT_IN


class TransactionVerifier:
    """Appraises transactions with one trusted root.

    Args:
        trusted_root: what the user trusts.
        kinds: evidence kinds by name; the built-in ones unless others are given.
    """

    def __init__(
        self, trusted_root: TrustedRoot, *, kinds: Mapping[str, EvidenceKind] = BUILT_IN
    ) -> None:
        self._root = trusted_root
        self._verifier = Verifier(trusted_root, kinds=kinds)

    def appraise(
        self,
        shown: TransactionBundle | DisclosedPart,
        *,
        policy: AssurancePolicy,
        now: int,
        part_policies: Mapping[int, AssurancePolicy] | None = None,
        expected: ExpectedTransaction = ANY_TRANSACTION,
    ) -> TransactionResult:
        """Explain every check. Never raises for bad evidence.

        Args:
            shown: a transaction, or one part of it.
            policy: what is required of each part; an empty one denies.
            now: the time at which to judge, milliseconds since the epoch.
            part_policies: what is required instead of the parts with these indexes.
            expected: what the caller knows of its transaction.
        """
        statement = shown.statement
        policies = part_policies or {}
        whole = isinstance(shown, TransactionBundle)
        parts = shown.parts if isinstance(shown, TransactionBundle) else (shown.shown,)
        # 1. Our own side first, and 2. who signed it.
        checks = [check_root(self._root, now)]
        if self._root.issuer_keys:
            checks += check_signature(self._root, shown.envelope, statement, policy)
        # 3. Times.
        checks.append(check_times(statement, now))
        # 4. What the caller knows of it.
        checks += check_expected(statement, expected, policies)
        # 5. The parts are all there, in order, under the signed root.
        if isinstance(shown, TransactionBundle):
            checks.append(check_tree(statement, [each.part for each in parts]))
        else:
            checks.append(check_path(shown))
        # 6. Each receipt is that of its leaf, and of this transaction.
        checks += check_parts(shown.envelope, statement, parts)
        # 7. What was said to be fed from earlier outputs was.
        fed, not_covered = check_dependencies(parts)
        checks += fed
        # 8. Each receipt verifies under its own policy.
        results = [self._appraise(each, policy, policies, now, expected) for each in parts]
        checks += [
            check_part_result(each.part.index, each.result)
            for each in results
            if each.result is not None
        ]
        # 9. The transaction is committed.
        checks.append(check_outcome(statement, parts, now))
        not_covered += describe_uncovered(statement, results, whole=whole)
        verdict = verdict_of(checks)
        refused = verdict is Verdict.REFUSED
        tables = [{} if refused or each.result is None else each.result.claims for each in results]
        return TransactionResult(
            verdict=verdict,
            checks=tuple(checks),
            outcome=statement.outcome,
            parts=tuple(results),
            count=statement.count,
            claims=weakest(tables),
            not_covered=tuple(dict.fromkeys(not_covered)),
            transaction_id=statement.transaction_id,
            receipt_id=shown.envelope.digest(),
        )

    def _appraise(
        self,
        shown: BundledPart,
        policy: AssurancePolicy,
        policies: Mapping[int, AssurancePolicy],
        now: int,
        expected: ExpectedTransaction,
    ) -> PartResult:
        if shown.receipt is None:
            return PartResult(shown.part, None)
        index = shown.part.index
        known = expected.parts.get(index, NOTHING_EXPECTED)
        result = self._verifier.appraise(
            shown.receipt,
            opened=shown.openings or {},
            policy=policies.get(index, policy),
            now=now,
            expected=known,
        )
        # Here it does not stand alone: the other checks are about what is around it.
        covered = tuple(line for line in result.not_covered if line != ALONE)
        return PartResult(shown.part, replace(result, not_covered=covered))
