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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.keys import KeyId, PublicKey
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import (
    LateEvidenceLeaf,
    Leaf,
    MissedDeadlineLeaf,
    decode_leaf,
)
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.verdict import NodeVerdict, Outcome

STATUS_VERSION: Final = 1
MAX_NODES: Final = 64
MAX_NODE_NAME_CHARACTERS: Final = 128
GRACE_MILLISECONDS: Final = 60_000
"""How long after a deadline a leaf may still be on its way into the log, and for how long a
number may be missing: receipts of several processes arrive in another order than their numbers."""

SIGNATURE_KIND: Final = "signature"
LOG_KIND: Final = "log"
VERDICTS_KIND: Final = "verdicts"

REEXECUTION_SOURCES: Final = frozenset({Source.REEXECUTED, Source.STATISTICAL})
"""By which a verdict on `execution` counts as one of the k."""


class State(IntEnum):
    """Where a receipt stands. The numbers are in the canonical form."""

    PENDING = 1
    MET = 2
    FAILED = 3
    SUPERSEDED = 4

    @property
    def label(self) -> str:
        """The word in JSON views; failure is the one that shouts."""
        return "FAILED" if self is State.FAILED else self.name.lower()


@dataclass(frozen=True, slots=True)
class TrustedNode:
    """A verification node whose verdicts count."""

    name: str
    """The issuer that its verdicts name."""
    key: PublicKey


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """Which nodes count and how many of them decide: k of n.

    Raises:
        MalformedError: `malformed-policy` where k is not among 1 to n, or there are too many;
            `malformed-key` where one name or key stands twice.
    """

    threshold: int = 0
    nodes: Sequence[TrustedNode] = ()
    _by_key: Mapping[KeyId, TrustedNode] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.nodes) > MAX_NODES or not (
            1 <= self.threshold <= len(self.nodes) or (not self.nodes and self.threshold == 0)
        ):
            raise MalformedError(
                f"expected 1 to {len(self.nodes)} of at most {MAX_NODES} nodes",
                reason=Reason.MALFORMED_POLICY,
            )
        by_key = {node.key.key_id: node for node in self.nodes}
        names = {node.name for node in self.nodes}
        if len(by_key) != len(self.nodes) or len(names) != len(self.nodes):
            raise MalformedError("a node is listed twice", reason=Reason.MALFORMED_KEY)
        object.__setattr__(self, "_by_key", by_key)

    def author(self, envelope: SignedEnvelope) -> TrustedNode | None:
        """Return the listed node that signed; `None` where none did."""
        node = self._by_key.get(envelope.key_id)
        if node is None or node.name != envelope.issuer:
            return None
        try:
            envelope.verify(node.key)
        except Error:
            return None
        return node


@dataclass(frozen=True, slots=True)
class ReceiptStatus:
    """One row of the table."""

    receipt: Digest
    leaf_index: int
    state: State
    reason: Reason | None
    """Why it failed; `None` in any other state."""
    decided_at: int | None
    """How many leaves the log had when the state was reached; `None` while it is pending."""


@dataclass(frozen=True, slots=True)
class WithheldNumbers:
    """Numbers of an issuer that no receipt of the log has, although later ones are there."""

    issuer_key: KeyId
    first: int
    last: int
    reason: Reason = Reason.RECEIPT_WITHHELD


@dataclass(frozen=True, slots=True)
class ReusedNumber:
    """One number of an issuer that two receipts of the log have."""

    issuer_key: KeyId
    sequence: int
    receipts: tuple[Digest, Digest]
    reason: Reason = Reason.SEQUENCE_REUSED


@dataclass(frozen=True, slots=True)
class StatusTable:
    """What a prefix of the log says."""

    size: int
    """How many leaves it has."""
    clock: int
    """The log's own time, in milliseconds since the epoch."""
    receipts: Sequence[ReceiptStatus]
    """In the order of the log."""
    withheld: Sequence[WithheldNumbers]
    reused: Sequence[ReusedNumber]
    forks: Sequence[int]
    """Indexes of the leaves that show that this log forked."""

    def encode(self) -> bytes:
        """Return the canonical form: the same bytes for whoever replays the same prefix."""
        return encode(
            [
                STATUS_VERSION,
                self.size,
                self.clock,
                [
                    [
                        each.receipt,
                        each.leaf_index,
                        int(each.state),
                        None if each.reason is None else str(each.reason),
                        each.decided_at,
                    ]
                    for each in self.receipts
                ],
                [[each.issuer_key, each.first, each.last] for each in self.withheld],
                [[each.issuer_key, each.sequence, *each.receipts] for each in self.reused],
                list(self.forks),
            ]
        )

    def digest(self) -> Digest:
        """Return the SHA-256 of the canonical form, by which nodes compare tables."""
        return sha256(self.encode())

    def of(self, receipt: Digest) -> ReceiptStatus | None:
        """Return the row of a receipt; `None` where the prefix does not have it."""
        return next((each for each in self.receipts if each.receipt == receipt), None)


@dataclass(slots=True)
class _Row:
    leaf: ReceiptLeaf
    index: int
    in_time: bool
    """Whether the log's own clock had not passed the promise of kind `log`."""
    delivered: dict[str, int] = field(default_factory=dict)
    """Per kind, how many promises were kept."""
    affirming: set[str] = field(default_factory=set)
    """Names of nodes that found the execution good."""
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
        self._rows: dict[Digest, _Row] = {}
        self._open: dict[Digest, _Row] = {}
        self._numbers: dict[KeyId, dict[int, Digest]] = {}
        self._highest: dict[KeyId, int] = {}
        self._missing: dict[tuple[KeyId, int], int] = {}
        self._reused: list[ReusedNumber] = []
        self._places: dict[tuple[KeyId, bytes, int], _Row] = {}
        self._forks: list[int] = []

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
        if self.clock != before:
            self._expire()

    # -- Leaves ------------------------------------------------------------------------------------

    def _receipt(self, leaf: ReceiptLeaf, index: int, before: int) -> None:
        if leaf.receipt in self._rows:
            return
        due = [each.due_at for each in leaf.evidence if each.kind == LOG_KIND]
        in_time = all(each is None or before <= each + GRACE_MILLISECONDS for each in due)
        row = _Row(leaf, index, in_time)
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
        self._missing.pop((key, sequence), None)
        # The first receipt of the log may have any number: a log may begin after its issuer did.
        highest = self._highest.get(key, sequence)
        for absent in range(highest + 1, min(sequence, highest + 1 + _MAX_GAP)):
            self._missing[key, absent] = leaf.signed_at
        self._highest[key] = max(highest, sequence)

    def _late_evidence(self, leaf: LateEvidenceLeaf, before: int) -> None:
        row = self._rows.get(leaf.receipt)
        promised = [] if row is None else _open_promises(row.leaf, leaf.kind)
        if row is None or not promised or leaf.kind in (LOG_KIND, VERDICTS_KIND):
            return
        latest = max(promised)
        # The operator's word about the hour of delivery is bounded by the log's own clock.
        if leaf.delivered_at <= latest and before <= latest + GRACE_MILLISECONDS:
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
            if not due or before <= max(due) + GRACE_MILLISECONDS:
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

    # -- Decisions ---------------------------------------------------------------------------------

    def _is_kept(self, row: _Row, kind: str) -> bool:
        if kind == LOG_KIND:
            return row.in_time
        if kind == VERDICTS_KIND:
            k = self._nodes.threshold
            return k > 0 and len(row.affirming) >= k
        return row.delivered.get(kind, 0) >= len(_open_promises(row.leaf, kind))

    def _look(self, row: _Row) -> None:
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
            kinds = {each.kind for each in row.leaf.evidence if each.digest is None}
            for kind in kinds - {SIGNATURE_KIND}:
                due = _open_promises(row.leaf, kind)
                late = due and now > max(due) + GRACE_MILLISECONDS
                if late and not self._is_kept(row, kind):
                    self._decide(row, State.FAILED, Reason.EVIDENCE_OVERDUE)

    def _decide(self, row: _Row, state: State, reason: Reason | None = None) -> None:
        if row.state is State.FAILED or (row.state is State.SUPERSEDED and state is State.MET):
            return  # A failure is for ever, and its first reason stands.
        row.state, row.reason, row.decided_at = state, reason, self._size
        self._open.pop(row.leaf.receipt, None)

    def table(self) -> StatusTable:
        """Return the table of the prefix that was replayed."""
        now = self.clock
        withheld = sorted(
            place for place, since in self._missing.items() if now > since + GRACE_MILLISECONDS
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
        )


_MAX_GAP: Final = 4096
"""Missing numbers that are remembered of one gap: a number out of thin air must cost nothing."""

_OWN_FAILURES: Final = frozenset(
    (Reason.EVIDENCE_LATE, Reason.EVIDENCE_OVERDUE, Reason.SEQUENCE_REUSED)
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
