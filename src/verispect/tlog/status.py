"""The status of every receipt, as a pure function of a prefix of the log.

Two nodes that replay the same leaves with the same nodes and the same k get the same table, byte
for byte, whatever they fetched, when, and from whom. Nothing but leaves is looked at: no clock, no
network, no evidence. The rules stand in spec/log.md section 10.

The clock is the log's own and never falls. It is the latest time that the operator states in its
leaves, or that k of the nodes state in their verdicts: an operator cannot stop time while k nodes
go on, and fewer than k nodes cannot push it.

A status only goes forward: from pending to met, from either to failed or superseded. One refuting
verdict of one listed node fails a receipt for good. A leaf that is not understood, or signed by
somebody who is not listed, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, Reason
from verispect.core.keys import KeyId
from verispect.core.transaction import TransactionOutcome, TransactionStatement
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import (
    LateEvidenceLeaf,
    Leaf,
    MissedDeadlineLeaf,
    decode_leaf,
)
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status_table import (
    ContradictedTransaction as ContradictedTransaction,
)
from verispect.tlog.status_table import (
    NodePolicy as NodePolicy,
)
from verispect.tlog.status_table import (
    ReceiptStatus as ReceiptStatus,
)
from verispect.tlog.status_table import (
    ReusedNumber as ReusedNumber,
)
from verispect.tlog.status_table import (
    State as State,
)
from verispect.tlog.status_table import (
    StatusTable as StatusTable,
)
from verispect.tlog.status_table import (
    TrustedNode as TrustedNode,
)
from verispect.tlog.status_table import (
    WithheldNumbers as WithheldNumbers,
)
from verispect.tlog.verdict import NodeVerdict, Outcome

MAX_GRACE_MILLISECONDS: Final = 60_000
"""How long after a deadline a leaf may still be on its way into the log, and for how long a
number may be missing: receipts of several processes arrive in another order than their numbers."""

SIGNATURE_KIND: Final = "signature"
LOG_KIND: Final = "log"
VERDICTS_KIND: Final = "verdicts"

REEXECUTION_SOURCES: Final = frozenset({Source.REEXECUTED, Source.STATISTICAL})
"""By which a verdict on `execution` counts as one of the k."""


@dataclass(slots=True)
class ReceiptRow:
    """What is known of one receipt so far."""

    leaf: ReceiptLeaf
    index: int
    in_time: bool
    """Whether the log's own clock had not passed the promise of kind `log`."""
    delivered: dict[str, int] = field(default_factory=dict)
    """Per kind, how many promises were kept."""
    affirming: set[str] = field(default_factory=set)
    """Names of nodes that found the execution good."""
    withheld_from: set[str] = field(default_factory=set)
    """Names of nodes that did not get what the log names."""
    affirmed: bool = False
    refuted: bool = False
    state: State = State.PENDING
    reason: Reason | None = None
    decided_at: int | None = None


class StatusReplay:
    """Replays a log leaf by leaf; `table` may be asked for at any point.

    Args:
        nodes: whose verdicts count.
        log: the log that is replayed, so that evidence of its forks can be checked.
    """

    def __init__(self, nodes: NodePolicy | None = None, *, log: TrustedLog | None = None) -> None:
        self._nodes = NodePolicy() if nodes is None else nodes
        self._log = log
        self._size = 0
        self._operator_clock = 0
        self._node_clocks: dict[str, int] = {}
        self._rows: dict[Digest, ReceiptRow] = {}
        self._open: dict[Digest, ReceiptRow] = {}
        self._numbers: dict[KeyId, dict[int, Digest]] = {}
        self._highest: dict[KeyId, int] = {}
        self._missing: dict[tuple[KeyId, int], int] = {}
        self._reused: list[ReusedNumber] = []
        self._places: dict[tuple[KeyId, bytes, int], ReceiptRow] = {}
        self._forks: list[int] = []
        self._ends: dict[tuple[KeyId, bytes], tuple[int, bytes]] = {}
        self._contradicted: list[ContradictedTransaction] = []

    @property
    def size(self) -> int:
        """How many leaves were replayed."""
        return self._size

    @property
    def clock(self) -> int:
        """The log's own time after the leaves so far."""
        times = sorted(self._node_clocks.values(), reverse=True)
        k = self._nodes.threshold
        return max(self._operator_clock, times[k - 1] if 0 < k <= len(times) else 0)

    def replay(self, leaves: Iterable[bytes]) -> None:
        """Replay the next leaves, in the order of the log."""
        for data in leaves:
            try:
                leaf = decode_leaf(data)
            except Error:
                leaf = None  # It counts in the tree and says nothing.
            index = self._size
            self._size += 1
            if leaf is not None:
                self._apply(leaf, index)

    def _apply(self, leaf: Leaf, index: int) -> None:
        before = self.clock
        if isinstance(leaf, ReceiptLeaf):
            # An operator's first word of a time counts only after its leaf: a receipt is in time
            # by what was said before it.
            self._receipt(leaf, index, before)
            self._operator_clock = max(self._operator_clock, leaf.signed_at)
        elif isinstance(leaf, LateEvidenceLeaf):
            self._late_evidence(leaf, before)
            self._operator_clock = max(self._operator_clock, leaf.delivered_at)
        elif isinstance(leaf, MissedDeadlineLeaf):
            self._missed_deadline(leaf)
            self._operator_clock = max(self._operator_clock, leaf.noted_at)
        elif isinstance(leaf.payload, NodeVerdict):
            self._verdict(leaf.envelope, leaf.payload, before)
        elif isinstance(leaf.payload, ForkEvidence):
            self._fork(leaf.payload, index)
        elif isinstance(leaf.payload, TransactionStatement):
            self._transaction(leaf.envelope, leaf.payload, index)
        if self.clock != before:
            self._expire()

    # -- Leaves ------------------------------------------------------------------------------------

    def _receipt(self, leaf: ReceiptLeaf, index: int, before: int) -> None:
        if leaf.receipt in self._rows:
            return
        due = [each.due_at for each in leaf.evidence if each.kind == LOG_KIND]
        in_time = all(each is None or before <= each + MAX_GRACE_MILLISECONDS for each in due)
        row = ReceiptRow(leaf, index, in_time)
        self._rows[leaf.receipt] = self._open[leaf.receipt] = row
        self._number(leaf)
        if leaf.transaction is not None:
            place = (leaf.issuer_key, leaf.transaction.transaction_id, leaf.transaction.index)
            earlier = self._places.get(place)
            if earlier is not None:
                self._decide(earlier, State.SUPERSEDED)
            self._places[place] = row
        if not in_time:
            self._decide(row, State.FAILED, Reason.EVIDENCE_LATE)
        self._look(row)

    def _number(self, leaf: ReceiptLeaf) -> None:
        """Keep account of the issuer's numbers: each once, and none left out."""
        key, sequence = leaf.issuer_key, leaf.sequence
        numbers = self._numbers.setdefault(key, {})
        known = numbers.setdefault(sequence, leaf.receipt)
        if known != leaf.receipt:
            self._reused.append(ReusedNumber(key, sequence, (known, leaf.receipt)))
            for each in (known, leaf.receipt):
                self._decide(self._rows[each], State.FAILED, Reason.SEQUENCE_REUSED)
            return
        self._pass_number(key, sequence, leaf.signed_at)

    def _pass_number(self, key: KeyId, sequence: int, at: int) -> None:
        """Take note of a number that is there, and of those below it that are not."""
        self._missing.pop((key, sequence), None)
        # The first receipt of the log may have any number: a log may begin after its issuer did.
        highest = self._highest.get(key, sequence)
        for absent in range(highest + 1, min(sequence, highest + 1 + _MAX_GAP)):
            self._missing[key, absent] = at
        self._highest[key] = max(highest, sequence)

    def _late_evidence(self, leaf: LateEvidenceLeaf, before: int) -> None:
        row = self._rows.get(leaf.receipt)
        promised = [] if row is None else _open_promises(row.leaf, leaf.kind)
        if row is None or not promised or leaf.kind in (LOG_KIND, VERDICTS_KIND):
            return
        latest = max(promised)
        # The operator's word about the hour of delivery is bounded by the log's own clock.
        if leaf.delivered_at <= latest and before <= latest + MAX_GRACE_MILLISECONDS:
            kept = row.delivered.get(leaf.kind, 0)
            row.delivered[leaf.kind] = min(kept + 1, len(promised))
            self._look(row)

    def _missed_deadline(self, leaf: MissedDeadlineLeaf) -> None:
        row = self._rows.get(leaf.receipt)
        if row is None or row.state is not State.PENDING or self._is_kept(row, leaf.kind):
            return
        if leaf.due_at in _open_promises(row.leaf, leaf.kind) and leaf.noted_at > leaf.due_at:
            self._decide(row, State.FAILED, Reason.EVIDENCE_OVERDUE)

    def _verdict(self, envelope: SignedEnvelope, verdict: NodeVerdict, before: int) -> None:
        node = self._nodes.author(envelope)
        if node is None:
            return
        stated = self._node_clocks.get(node.name, 0)
        self._node_clocks[node.name] = max(stated, verdict.verified_at)
        row = self._rows.get(verdict.receipt)
        if row is None:
            return
        refuting = [each for each in verdict.findings if each.outcome is Outcome.REFUTED]
        affirming = [each for each in verdict.findings if each.outcome is Outcome.AFFIRMED]
        if any(each.reason == Reason.RECEIPT_WITHHELD.value for each in verdict.findings):
            row.withheld_from.add(node.name)
            if len(row.withheld_from) >= self._nodes.threshold:
                self._decide(row, State.FAILED, Reason.RECEIPT_WITHHELD)
        if refuting:
            row.refuted = True
            reason = _reason(refuting[0].reason)
            self._decide(row, State.FAILED, Reason.VERDICTS_CONFLICT if row.affirmed else reason)
        elif any(
            each.claim is Claim.EXECUTION and each.source in REEXECUTION_SOURCES
            for each in affirming
        ):
            row.affirmed = True
            if row.refuted and row.reason not in _OWN_FAILURES:
                row.reason = Reason.VERDICTS_CONFLICT
            due = _open_promises(row.leaf, VERDICTS_KIND)
            if not due or before <= max(due) + MAX_GRACE_MILLISECONDS:
                row.affirming.add(node.name)
                self._look(row)

    def _fork(self, evidence: ForkEvidence, index: int) -> None:
        if self._log is None:
            return
        try:
            evidence.verify(self._log)
        except Error:
            return
        self._forks.append(index)

    def _transaction(
        self, envelope: SignedEnvelope, statement: TransactionStatement, index: int
    ) -> None:
        """Compare the ends of one transaction: there is one, for every reader."""
        if statement.outcome is TransactionOutcome.PENDING:
            return
        place = (envelope.key_id, statement.transaction_id)
        first, said = self._ends.setdefault(place, (index, envelope.payload))
        if said != envelope.payload:
            self._contradicted.append(ContradictedTransaction(*place, (first, index)))

    # -- Decisions ---------------------------------------------------------------------------------

    def _is_kept(self, row: ReceiptRow, kind: str) -> bool:
        if kind == LOG_KIND:
            return row.in_time
        if kind == VERDICTS_KIND:
            k = self._nodes.threshold
            return k > 0 and len(row.affirming) >= k
        return row.delivered.get(kind, 0) >= len(_open_promises(row.leaf, kind))

    def _look(self, row: ReceiptRow) -> None:
        """Decide that all is here, where it is."""
        kinds = {each.kind for each in row.leaf.evidence if each.digest is None}
        if row.state is State.PENDING and all(
            self._is_kept(row, kind) for kind in kinds - {SIGNATURE_KIND}
        ):
            self._decide(row, State.MET)

    def _expire(self) -> None:
        """Fail what is overdue by the log's own clock."""
        now = self.clock
        for row in [*self._open.values()]:
            self._fail_overdue(row, now)

    def _fail_overdue(self, row: ReceiptRow, now: int) -> None:
        kinds = {each.kind for each in row.leaf.evidence if each.digest is None}
        for kind in kinds - {SIGNATURE_KIND}:
            due = _open_promises(row.leaf, kind)
            late = due and now > max(due) + MAX_GRACE_MILLISECONDS
            if late and not self._is_kept(row, kind):
                self._decide(row, State.FAILED, Reason.EVIDENCE_OVERDUE)

    def _decide(self, row: ReceiptRow, state: State, reason: Reason | None = None) -> None:
        if row.state is State.FAILED or (row.state is State.SUPERSEDED and state is State.MET):
            return  # A failure is for ever, and its first reason stands.
        row.state, row.reason, row.decided_at = state, reason, self._size
        self._open.pop(row.leaf.receipt, None)

    def table(self) -> StatusTable:
        """Return the table of the prefix that was replayed."""
        now = self.clock
        withheld = sorted(
            place for place, since in self._missing.items() if now > since + MAX_GRACE_MILLISECONDS
        )
        return StatusTable(
            size=self._size,
            clock=now,
            receipts=tuple(
                ReceiptStatus(row.leaf.receipt, row.index, row.state, row.reason, row.decided_at)
                for row in self._rows.values()
            ),
            withheld=tuple(_ranges(withheld)),
            reused=tuple(self._reused),
            forks=tuple(self._forks),
            contradicted=tuple(self._contradicted),
        )


_MAX_GAP: Final = 4096
"""Missing numbers that are remembered of one gap: a number out of thin air must cost nothing."""

_OWN_FAILURES: Final = frozenset(
    (
        Reason.EVIDENCE_LATE,
        Reason.EVIDENCE_OVERDUE,
        Reason.SEQUENCE_REUSED,
        Reason.RECEIPT_WITHHELD,
    )
)
"""Failures that no verdict brought about; whatever nodes say later, they stand."""


def replay_status(
    leaves: Iterable[bytes], *, nodes: NodePolicy | None = None, log: TrustedLog | None = None
) -> StatusTable:
    """Return the table of a whole prefix.

    Args:
        leaves: the leaves from index 0 on.
        nodes: whose verdicts count, and how many of them decide.
        log: the log, so that evidence of its forks can be checked.
    """
    replay = StatusReplay(nodes, log=log)
    replay.replay(leaves)
    return replay.table()


def _open_promises(leaf: ReceiptLeaf, kind: str) -> list[int]:
    """Return the deadlines of promises of a kind whose evidence was not ready."""
    return [
        each.due_at
        for each in leaf.evidence
        if each.kind == kind and each.digest is None and each.due_at is not None
    ]


def _reason(word: str | None) -> Reason:
    try:
        return Reason(word) if word is not None else Reason.EVIDENCE_REFUTES
    except ValueError:
        return Reason.EVIDENCE_REFUTES


def _ranges(places: Sequence[tuple[KeyId, int]]) -> Iterable[WithheldNumbers]:
    start: tuple[KeyId, int] | None = None
    last = 0
    for key, number in places:
        if start is not None and start[0] == key and number == last + 1:
            last = number
            continue
        if start is not None:
            yield WithheldNumbers(start[0], start[1], last)
        start, last = (key, number), number
    if start is not None:
        yield WithheldNumbers(start[0], start[1], last)
