"""The parts of a transaction at the gateway: their tickets, their records, and whether each is met.

A ticket goes with the request of a part through the ordinary route; it gives the part its place
before the receipt names it. Whether a part met its assurance is decided by the offline verifier,
with what this operator trusts; a receipt that this server has just signed meets `signed` without
a look at its own signature. This module refuses to decide about the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from verispect.appraisal.expected import Expected
from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.references import Link, check_dependency
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import CUT_REASONS
from verispect.appraisal.trusted_root import AcceptedModel, TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.core.commitments import OpenedParts, Part, decode_openings
from verispect.core.encoding import Digest, decode, encode
from verispect.core.errors import Error, Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import TransactionBinding
from verispect.core.transaction import Dependency, PartOutcome, TransactionPart, ValueForm
from verispect.evidence.log_trust import LogTrust
from verispect.gateway import receipts as receipt_routes
from verispect.ledger.transactions import StoredPart, TransactionStore

if TYPE_CHECKING:
    from verispect.gateway.inference import Issued
    from verispect.gateway.state import GatewayState

_LINK_FIELDS: Final = 6
MAX_SECONDS: Final = 3600
"""How long a transaction may be open."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One part with its receipt."""

    index: int
    inference_id: bytes
    receipt: bytes
    receipt_id: Digest
    policy: AssurancePolicy
    finish_reasons: Sequence[str]
    links: Sequence[Link]
    assurance: Digest | None = None
    """What its statement says that it required, where the policy itself is not at hand."""
    is_fresh: bool = False
    """Whether this process signed the receipt just now; one from the disk may have been changed."""
    fault: Reason | None = None
    """Why the receipt on the disk is none any more: gone, or damaged."""

    def to_stored(self) -> StoredPart:
        """Return what is kept of it."""
        links = encode_links(self.links)
        return StoredPart(self.index, self.inference_id, self.policy.to_toml(), links)


def encode_links(links: Sequence[Link]) -> bytes:
    """Return references as they are kept."""
    return encode(
        [
            [
                each.source,
                int(each.source_part),
                each.source_pointer,
                int(each.target_part),
                each.target_pointer,
                int(each.form),
            ]
            for each in links
        ]
    )


def _decode_links(data: bytes) -> list[Link]:
    rows: list[list[Any]] = decode(data)
    return [
        Link(row[0], Part(row[1]), row[2], Part(row[3]), row[4], ValueForm(row[5])) for row in rows
    ]


class FixedTicket:
    """The ticket of a part whose place is known before it runs.

    Args:
        binding: its place.
        links: its references.
    """

    def __init__(self, binding: TransactionBinding, links: Sequence[Link]) -> None:
        self._binding = binding
        self._links = links
        self._policy: AssurancePolicy | None = None
        self.record: PartRecord | None = None
        """There once the receipt is on disk."""

    @property
    def seconds(self) -> int:
        """How long the transaction may take to be decided."""
        return MAX_SECONDS

    async def bind(self, inference_id: bytes, policy: AssurancePolicy) -> TransactionBinding:  # noqa: ARG002
        """Return the place."""
        self._policy = policy
        return self._binding

    def issued(self, inference_id: bytes, issued: Issued, finish_reasons: Sequence[str]) -> None:
        """Note the receipt."""
        assert self._policy is not None
        self.record = PartRecord(
            self._binding.index,
            inference_id,
            issued.receipt,
            Digest(bytes.fromhex(issued.receipt_id)),
            self._policy,
            tuple(finish_reasons),
            self._links,
            is_fresh=True,
        )


class OpenTicket:
    """The ticket of a part of an open transaction: its place is taken when its receipt is due.

    Args:
        store: where places are taken.
        transaction_id: the transaction.
        links: the part's references.
        clock: milliseconds since the epoch.
        nonce: the caller's, of this part.
    """

    def __init__(
        self,
        store: TransactionStore,
        transaction_id: bytes,
        links: Sequence[Link],
        clock: Callable[[], int],
        nonce: bytes | None = None,
    ) -> None:
        self._store = store
        self._transaction_id = transaction_id
        self._links = links
        self._clock = clock
        self._nonce = nonce

    @property
    def seconds(self) -> int:
        """How long the transaction may take to be decided."""
        return MAX_SECONDS

    async def bind(self, inference_id: bytes, policy: AssurancePolicy) -> TransactionBinding:
        """Take the next place, durably."""
        text, links = policy.to_toml(), encode_links(self._links)
        index = await asyncio.to_thread(
            self._store.take,
            self._transaction_id,
            inference_id,
            policy=text,
            links=links,
            now=self._clock(),
            nonce=self._nonce,
        )
        return TransactionBinding(self._transaction_id, index, 0)

    def issued(self, inference_id: bytes, issued: Issued, finish_reasons: Sequence[str]) -> None:
        """Do nothing: the receipt is found by its inference."""


def load_records(
    state: GatewayState, stored: Sequence[StoredPart], signed: Sequence[TransactionPart] = ()
) -> list[PartRecord]:
    """Return the parts with their receipts; blocks.

    A receipt that is damaged, or is gone since its row was signed, is a fault of its part.

    Args:
        state: of the gateway.
        stored: the parts that were begun.
        signed: their rows, where a statement over them was signed already.

    Raises:
        RequestError: `transaction-busy` where a part has no receipt yet.
        StoreError: `store-failed`.
    """
    records = []
    for part in stored:
        found = state.recorder.store.find(part.inference_id)
        if found is None and part.index >= len(signed):
            raise RequestError(
                f"part {part.index} is still under way", reason=Reason.TRANSACTION_BUSY
            )
        reasons: Sequence[str] = ()
        fault = Reason.RECEIPT_NOT_FOUND if found is None else None
        try:
            if found is not None:
                reasons = InferenceReceipt.parse(found.receipt).unverified_statement.finish_reasons
        except Error as error:
            fault = error.reason
        records.append(
            PartRecord(
                part.index,
                part.inference_id,
                b"" if found is None else found.receipt,
                signed[part.index].receipt if found is None else Digest(found.receipt_id),
                AssurancePolicy.from_toml(part.policy),
                tuple(reasons),
                _decode_links(part.links),
                fault=fault,
            )
        )
    return records


def opened_parts(state: GatewayState, inference_id: bytes) -> OpenedParts:
    """Return what is kept of the content of a part; blocks.

    Raises:
        RequestError: `dependency-invalid` where it is erased, or for its caller alone.
    """
    kept = state.recorder.store.openings(inference_id)
    try:
        if kept is not None:
            return decode_openings(kept)
    except Error:
        pass  # Of an encrypted request: sealed for its caller.
    raise RequestError("an earlier part is closed", reason=Reason.DEPENDENCY_INVALID)


def own_trusted_root(state: GatewayState, configured: TrustedRoot | None) -> TrustedRoot:
    """Return what this operator judges its own parts with.

    Args:
        state: of the gateway.
        configured: what the operator trusts of attestation, logs and nodes beside itself.
    """
    issuer = state.recorder.issuer
    models = [state.pool.find(name) for name in state.pool.names()]
    root = TrustedRoot(
        issuer_keys=[issuer.trusted_key()],
        models=[AcceptedModel(each.name, each.model_id) for each in models],
    )
    if configured is not None:
        root = replace(root, attestation=configured.attestation, log_trust=configured.log_trust)
    if state.log is not None and not root.log_trust.logs:
        log = state.log.settings
        trust = LogTrust([log.folder.trusted], log.witnesses, log.parties.auditors)
        root = replace(root, log_trust=trust)
    return root


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one part stands."""

    outcome: PartOutcome
    reason: Reason | None = None
    due_at: int | None = None
    """Until when evidence may come, where it is pending."""


_MET: Final = Judgement(PartOutcome.MET)


async def judge(state: GatewayState, record: PartRecord, root: TrustedRoot, now: int) -> Judgement:
    """Decide whether a part met the assurance that it required."""
    if record.fault is not None:
        return Judgement(PartOutcome.FAILED, record.fault)
    if CUT_REASONS & set(record.finish_reasons):
        return Judgement(PartOutcome.FAILED, Reason.TRANSACTION_INCOMPLETE)
    if record.is_fresh and record.policy.digest() == SIGNED.digest():
        return _MET
    data = await _with_evidence(state, record)
    return await asyncio.to_thread(_appraise, state, record, root, now, data)


async def _with_evidence(state: GatewayState, record: PartRecord) -> bytes:
    data = receipt_routes.with_evidence(state, record.receipt, record.inference_id)
    return data if state.log is None else await state.log.attach(data)


def _appraise(
    state: GatewayState, record: PartRecord, root: TrustedRoot, now: int, data: bytes
) -> Judgement:
    receipt = InferenceReceipt.parse(data)
    statement = receipt.unverified_statement
    if receipt.claimed_inference != record.inference_id.hex():
        return Judgement(PartOutcome.FAILED, Reason.TRANSACTION_MISMATCH)
    # How old a receipt may be, and whether its service's history was compared, its reader asks at
    # the time of reading. Whoever waits, and then commits, must not have made the part fail.
    policy = replace(record.policy, maximum_age_seconds=None, service_logged=False)
    if state.recorder.issuer.development:
        # It is our own key: whether others accept it is theirs to say.
        policy = replace(policy, development_keys=True)
    try:
        opened = opened_parts(state, record.inference_id)
    except RequestError:
        opened = {}
    result = Verifier(root).appraise(
        receipt,
        opened=opened,
        policy=policy,
        now=max(now, statement.signed_at),
        expected=Expected(nonce=statement.nonce),
    )
    if result.verdict is Verdict.VERIFIED:
        return _MET
    reason = result.reason or Reason.POLICY_UNMET
    due = [each.due_at for each in statement.evidence if each.due_at is not None]
    if reason is Reason.EVIDENCE_PENDING and due:
        return Judgement(PartOutcome.PENDING, due_at=max(due))
    return Judgement(PartOutcome.FAILED, reason)


def make_part(
    state: GatewayState, records: Sequence[PartRecord], index: int, judgement: Judgement
) -> TransactionPart:
    """Return the leaf of a part, its dependencies checked with the kept openings; blocks."""
    record = records[index]
    dependencies: list[Dependency] = []
    for link in record.links:
        try:
            source = InferenceReceipt.parse(records[link.source].receipt).unverified_statement
            target = InferenceReceipt.parse(record.receipt).unverified_statement
            dependency = link.dependency(source.commitments, target.commitments)
            if dependency is None:
                raise RequestError("an end is not committed to", reason=Reason.DEPENDENCY_INVALID)
            fed = opened_parts(state, records[link.source].inference_id)
            into = opened_parts(state, record.inference_id)
            check_dependency(dependency, fed.get(link.source_part), into.get(link.target_part))
            dependencies.append(dependency)
        except Error:
            judgement = Judgement(PartOutcome.FAILED, record.fault or Reason.DEPENDENCY_INVALID)
    return TransactionPart(
        index=record.index,
        receipt=record.receipt_id,
        assurance=record.assurance or record.policy.digest(),
        outcome=judgement.outcome,
        reason=None if judgement.reason is None else judgement.reason.value,
        dependencies=tuple(dependencies),
    )


def make_parts(
    state: GatewayState, records: Sequence[PartRecord], judged: Sequence[Judgement]
) -> list[TransactionPart]:
    """Return the leaves of all parts; blocks where one has references."""
    return [make_part(state, records, index, each) for index, each in enumerate(judged)]
