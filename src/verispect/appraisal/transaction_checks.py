"""The checks of a transaction, one function per step of spec/transaction.md section 6.

Pure, and each gives its answer as a `Check`: none raises for bad evidence, and none decides about
the whole; `verispect.appraisal.transaction` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from verispect.appraisal.expected import Expected
from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.references import check_dependency
from verispect.appraisal.result import AttestationResult, Verdict
from verispect.appraisal.transaction_result import PartResult
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import CLOCK_SKEW_MILLISECONDS
from verispect.core.commitments import Opening
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, Reason
from verispect.core.statement import InferenceStatement
from verispect.core.transaction import (
    PartOutcome,
    TransactionOutcome,
    TransactionPart,
    TransactionStatement,
    nonce_digest,
    policy_digest,
)
from verispect.core.transaction_files import BundledPart, DisclosedPart
from verispect.evidence.interface import Check, CheckStatus
from verispect.tlog.transaction_tree import check_part, parts_root

CUT_REASONS: Final = frozenset({"cancelled", "error", "interrupted"})
"""Finish reasons of an answer that is not whole."""


@dataclass(frozen=True, slots=True)
class ExpectedTransaction:
    """What the caller knows of its own transaction."""

    transaction_id: bytes | None = None
    nonce: bytes | None = None
    """The nonce that was sent with the transaction."""
    count: int | None = None
    parts: Mapping[int, Expected] = field(default_factory=dict)
    """Per index, what the caller sent and was shown."""


ANY_TRANSACTION: Final = ExpectedTransaction()


def _passed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.PASSED, detail)


def _failed(name: str, detail: str, reason: Reason) -> Check:
    return Check(name, CheckStatus.FAILED, detail, reason)


def _unknown(name: str, detail: str, reason: Reason) -> Check:
    return Check(name, CheckStatus.UNKNOWN, detail, reason)


def _mismatch(name: str, detail: str) -> Check:
    return _failed(name, detail, Reason.TRANSACTION_MISMATCH)


def check_root(root: TrustedRoot, now: int) -> Check:
    """Say whether our own side can tell anything."""
    name = "trusted-root"
    if not root.issuer_keys:
        return _unknown(name, "the trusted root lists no issuer key", Reason.TRUSTED_ROOT_EMPTY)
    if root.expires_at is not None and now >= root.expires_at:
        return _unknown(name, "the trusted root has expired", Reason.TRUSTED_ROOT_STALE)
    return _passed(name, "present and current")


def check_signature(
    root: TrustedRoot,
    envelope: SignedEnvelope,
    statement: TransactionStatement,
    policy: AssurancePolicy,
) -> list[Check]:
    """Check who signed the statement, and that the key was theirs and valid."""
    trusted = root.issuer_key(envelope.key_id)
    if trusted is None:
        detail = "the trusted root does not list the signing key"
        return [_failed("transaction-key", detail, Reason.KEY_UNKNOWN)]
    try:
        envelope.verify(trusted.key)
    except Error as error:
        return [_failed("transaction-signature", error.message, error.reason)]
    signed_at = statement.decided_at
    faults = (
        (trusted.issuer != envelope.issuer, "of another issuer", Reason.ISSUER_MISMATCH),
        (signed_at < trusted.not_before, "not valid yet", Reason.KEY_NOT_YET_VALID),
        (
            trusted.not_after is not None and signed_at >= trusted.not_after,
            "expired",
            Reason.KEY_EXPIRED,
        ),
        (trusted.compromised_at is not None, "compromised", Reason.KEY_COMPROMISED),
        (trusted.revoked_at is not None, "revoked", Reason.KEY_REVOKED),
        (
            trusted.development and not policy.development_keys,
            "for development",
            Reason.DEVELOPMENT_KEY,
        ),
    )
    checks = [_passed("transaction-signature", "Ed25519 signature matches")]
    checks += [
        _failed("transaction-key", f"the key is {what}", reason)
        for bad, what, reason in faults
        if bad
    ]
    return checks


def check_times(statement: TransactionStatement, now: int) -> Check:
    """Check the times of the statement."""
    if statement.opened_at > statement.decided_at:
        detail = "decided before it was opened"
        return _failed("transaction-times", detail, Reason.TIMES_INCONSISTENT)
    if statement.decided_at > now + CLOCK_SKEW_MILLISECONDS:
        return _failed("transaction-times", "decided in the future", Reason.SIGNED_IN_FUTURE)
    return _passed("transaction-times", "in order, and not in the future")


def check_expected(
    statement: TransactionStatement,
    expected: ExpectedTransaction,
    policies: Mapping[int, AssurancePolicy],
) -> list[Check]:
    """Compare the statement with what the caller knows."""
    name = "transaction-expected"
    identifier, nonce, count = expected.transaction_id, expected.nonce, expected.count
    if identifier is not None and identifier != statement.transaction_id:
        return [_mismatch(name, "it is another transaction")]
    if count is not None and count != statement.count:
        return [_mismatch(name, f"expected {count} parts, got {statement.count}")]
    beyond = [index for index in {*policies, *expected.parts} if index >= statement.count]
    if beyond:
        return [_mismatch(name, f"there is no part {min(beyond)}")]
    if nonce is not None and statement.nonce is None:
        return [_failed(name, "the transaction carries no nonce", Reason.NONCE_MISSING)]
    if nonce is not None and statement.nonce != nonce_digest(statement.transaction_id, nonce):
        return [_failed(name, "the nonce is not the caller's", Reason.NONCE_MISMATCH)]
    return [_passed(name, "nothing contradicts what the caller knows")]


def check_tree(statement: TransactionStatement, parts: Sequence[TransactionPart]) -> Check:
    """Check that the parts are all there, in order, under the signed root."""
    name = "transaction-parts"
    if len(parts) != statement.count:
        return _mismatch(name, f"expected {statement.count} parts, got {len(parts)}")
    if [part.index for part in parts] != list(range(len(parts))):
        return _mismatch(name, "the parts are not in their order")
    if len({part.receipt for part in parts}) != len(parts):
        return _mismatch(name, "a receipt is there twice")
    if parts_root(statement.transaction_id, parts) != statement.root:
        return _mismatch(name, "the parts lead to another root than the one that was signed")
    if policy_digest(part.assurance for part in parts) != statement.policy:
        return _mismatch(name, "the parts required another policy than the one that was signed")
    return _passed(name, f"{len(parts)} parts, all under the signed root")


def check_path(shown: DisclosedPart) -> Check:
    """Check that one part is under the signed root."""
    statement, part = shown.statement, shown.shown.part
    try:
        check_part(
            statement.transaction_id,
            part,
            count=statement.count,
            path=shown.path,
            root=statement.root,
        )
    except Error as error:
        return _failed("transaction-parts", error.message, error.reason)
    return _passed("transaction-parts", f"part {part.index} of {statement.count}, by its path")


def check_parts(
    envelope: SignedEnvelope,
    statement: TransactionStatement,
    parts: Sequence[BundledPart],
) -> list[Check]:
    """Check that each receipt is that of its leaf, and of this transaction."""
    checks: list[Check] = []
    nonces: set[bytes] = set()
    for shown in parts:
        name = f"part-{shown.part.index}"
        if shown.receipt is None:
            detail = "its receipt is not shown, so it cannot be judged"
            checks.append(_unknown(name, detail, Reason.CONTENT_NOT_OPENED))
            continue
        of_part = shown.receipt.unverified_statement
        fault = _part_fault(statement, shown.part, of_part)
        if shown.receipt.receipt_id != shown.part.receipt:
            fault = "the receipt is not the one in the leaf"
        elif shown.receipt.envelope.issuer != envelope.issuer:
            fault = "another issuer signed the receipt"
        if fault is not None:
            checks.append(_mismatch(name, fault))
        elif CUT_REASONS & set(of_part.finish_reasons):
            detail = "its answer is not whole"
            checks.append(_failed(name, detail, Reason.TRANSACTION_INCOMPLETE))
        elif of_part.nonce is not None and of_part.nonce in nonces:
            detail = "its nonce is that of an earlier part"
            checks.append(_failed(name, detail, Reason.NONCE_REUSED))
        else:
            checks.append(_passed(name, "of this transaction, at its place"))
        if of_part.nonce is not None:
            nonces.add(of_part.nonce)
    return checks


def _part_fault(
    statement: TransactionStatement, part: TransactionPart, of_part: InferenceStatement
) -> str | None:
    """Return what is wrong with a part's place, if anything is."""
    binding = of_part.transaction
    if binding is None or binding.transaction_id != statement.transaction_id:
        return "the receipt is of another transaction, or of none"
    if binding.index != part.index:
        return f"the receipt is of part {binding.index}"
    if binding.count not in (0, statement.count) and (
        statement.outcome in (TransactionOutcome.COMMITTED, TransactionOutcome.PENDING)
        or binding.count < statement.count
    ):
        return f"the receipt is of a transaction of {binding.count} parts"
    if of_part.assurance != part.assurance:
        return "the receipt required another policy"
    return None


def check_dependencies(parts: Sequence[BundledPart]) -> tuple[list[Check], list[str]]:
    """Return a check per dependency, and which of them could not be checked to the end."""
    by_index = {shown.part.index: shown for shown in parts}
    checks: list[Check] = []
    not_covered: list[str] = []
    for shown in parts:
        for dependency in shown.part.dependencies:
            name = f"part-{shown.part.index}:from-part-{dependency.source}"
            source = by_index.get(dependency.source)
            ends = (
                (shown, dependency.target_part, dependency.target_commitment),
                (source, dependency.source_part, dependency.source_commitment),
            )
            openings: list[Opening | None] = []
            fault = None
            for end, part, commitment in ends:
                if end is None or end.receipt is None:
                    openings.append(None)
                    continue
                if end.receipt.unverified_statement.commitments.get(part) != commitment:
                    fault = "a commitment is not that of the receipt"
                openings.append((end.openings or {}).get(part))
            target, fed = openings
            if fault is None and fed is not None and target is not None:
                try:
                    fed.check(dependency.source_commitment)
                    target.check(dependency.target_commitment)
                    check_dependency(dependency, fed, target)
                except Error as error:
                    fault = error.message
            elif fault is None:
                not_covered.append(
                    f"that part {shown.part.index} was fed from part {dependency.source}: signed,"
                    " and not opened at both ends"
                )
                continue
            checks.append(
                _passed(name, "the input is the earlier output")
                if fault is None
                else _failed(name, fault, Reason.DEPENDENCY_INVALID)
            )
    return checks, not_covered


def check_part_result(index: int, result: AttestationResult) -> Check:
    """Turn the result of a part into a check of the whole."""
    name = f"part-{index}:receipt"
    if result.verdict is Verdict.VERIFIED:
        return _passed(name, f"{result.policy_name} is met")
    decisive = result.decisive_check()
    reason = decisive.reason or Reason.POLICY_UNMET
    answer = _failed if result.verdict is Verdict.REFUSED else _unknown
    return answer(name, decisive.detail, reason)


def check_outcome(statement: TransactionStatement, parts: Sequence[BundledPart], now: int) -> Check:
    """Check that the transaction is committed."""
    name = "outcome"
    match statement.outcome:
        case TransactionOutcome.COMMITTED:
            unmet = [each.part for each in parts if each.part.outcome is not PartOutcome.MET]
            if unmet:
                return _mismatch(name, f"committed, and part {unmet[0].index} is not met")
            return _passed(name, "committed")
        case TransactionOutcome.PENDING:
            if statement.due_at is not None and now > statement.due_at:
                detail = "pending, and its deadline has passed"
                return _failed(name, detail, Reason.EVIDENCE_OVERDUE)
            return _unknown(name, "pending until its deadline", Reason.EVIDENCE_PENDING)
        case TransactionOutcome.FAILED:
            reason = Reason.TRANSACTION_FAILED
        case _:
            reason = Reason.TRANSACTION_ABORTED
    failure = statement.failure
    assert failure is not None  # `check_form` saw to it.
    where = "" if failure.index is None else f" at part {failure.index}"
    return _failed(name, f"{statement.outcome.label}{where}: {failure.reason}", reason)


def describe_uncovered(
    statement: TransactionStatement, results: Sequence[PartResult], *, whole: bool
) -> list[str]:
    """Return what the transaction does not show, in words."""
    lines = [
        f"part {each.part.index}: {line}"
        for each in results
        if each.result is not None
        for line in each.result.not_covered
    ]
    closed = statement.count - sum(each.result is not None for each in results)
    if closed or not whole:
        lines.append(f"the other parts: {closed} of {statement.count} are not shown")
    lines.append("another outcome of this transaction that was signed for somebody else")
    return lines
