"""Coverage: what the receipts of a part of the log achieved, counted from its leaves alone.

Anyone who has the leaves and names the same nodes gets the same figures, byte for byte; an operator
publishes them as a signed leaf per epoch, which `differences` compares. What a receipt achieved is
decided by the status replay's rules. Receipts that are met and wait for nothing more are added up
and let go: most are such, so that memory holds those that are pending, failed, asked for verdicts
or part of a transaction, and sums of all others. What is let go is looked up again in the log where
a verdict is about it or its number is used twice.

What the receipts' ids are, nobody checks here: a receipt that an operator lists again under its
next number is counted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, encode
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, Reason
from verispect.core.keys import KeyId
from verispect.ledger.coverage_figures import Figures, Unmet
from verispect.ledger.coverage_leaves import Kind, read_settled, tokens_of
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import Refusal
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status import (
    MAX_GRACE_MILLISECONDS,
    REEXECUTION_SOURCES,
    VERDICTS_KIND,
    ReceiptRow,
    StatusReplay,
)
from verispect.tlog.status_table import NodePolicy, State
from verispect.tlog.verdict import NodeVerdict, Outcome


class CoverageCounter(StatusReplay):
    """Counts a log leaf by leaf; `figures` may be asked for at any point.

    Args:
        nodes: whose verdicts count.
        leaves: gives all leaves from index 0 again, for the rare receipt that has to be looked at
            a second time: one that a verdict is about, or whose number was used twice.
    """

    def __init__(
        self, nodes: NodePolicy | None = None, *, leaves: Callable[[], Iterable[bytes]]
    ) -> None:
        super().__init__(nodes)
        self._leaves = leaves
        self._start = 0
        self._tallies: dict[Kind, list[int]] = {}
        self._refusals: list[tuple[int, Refusal]] = []
        self._sources: dict[Digest, set[Source]] = {}
        self._deadlines: list[tuple[int, Digest]] = []
        self._newly_met: list[ReceiptRow] = []
        self._recalling = False

    @property
    def followed(self) -> int:
        """How many receipts are kept one by one."""
        return len(self._rows)

    def begin(self) -> None:
        """Begin an epoch at the next leaf."""
        self._start = self._size
        self._tallies = {}
        self._refusals = []

    def replay(self, leaves: Iterable[bytes]) -> None:
        """Count the next leaves, in the order of the log."""
        highest, tallies, deadlines = self._highest, self._tallies, self._deadlines
        clock = self.clock
        for data in leaves:
            read = read_settled(data)
            if read is not None:
                issuer, sequence, signed_at, due, kind, tokens, charge = read
                in_time = clock <= due + MAX_GRACE_MILLISECONDS
                if in_time and highest.get(KeyId(issuer)) == sequence - 1:
                    highest[KeyId(issuer)] = sequence
                elif not in_time or not self._is_new(KeyId(issuer), sequence, signed_at):
                    read = None
            if read is None:
                self._look_at(data)
                clock = self.clock
                continue
            try:
                tally = tallies[kind]
            except KeyError:
                tally = tallies[kind] = [0, 0, 0]
            tally[0] += 1
            tally[1] += tokens
            tally[2] += charge
            self._size += 1
            if signed_at > self._operator_clock:
                self._operator_clock = signed_at
                clock = max(clock, signed_at)
                if deadlines and deadlines[0][0] < clock:
                    self._expire()

    def _is_new(self, key: KeyId, sequence: int, at: int) -> bool:
        """Take a number that is the first of its issuer, above a gap or missing until now."""
        last = self._highest.get(key)
        if last is None or sequence > last or (key, sequence) in self._missing:
            self._pass_number(key, sequence, at)
            return True
        return False

    def _look_at(self, data: bytes) -> None:
        index = self._size
        try:
            leaf = decode_leaf(data)
        except Error:
            leaf = None
        self._size += 1
        if leaf is None:
            return
        if isinstance(leaf, SignedLeaf):
            if isinstance(leaf.payload, Refusal):
                self._refusals.append((index, leaf.payload))
            elif isinstance(leaf.payload, NodeVerdict) and _can_fail(leaf.payload):
                digest = leaf.payload.receipt
                listed = self._nodes.author(leaf.envelope) is not None
                if listed and digest not in self._rows:
                    self._recall(lambda each: each[8:40] == digest, index)
        self._apply(leaf, index)
        while self._newly_met:
            self._let_go(self._newly_met.pop())

    # -- Receipts that are kept one by one, and those that are not ---------------------------------

    def _receipt(self, leaf: ReceiptLeaf, index: int, before: int) -> None:
        if leaf.receipt in self._rows:
            return
        key, sequence = leaf.issuer_key, leaf.sequence
        known = sequence in self._numbers.get(key, {}) or (key, sequence) in self._missing
        if not known and sequence <= self._highest.get(key, -1):
            number = b"\x05" + encode(sequence) + b"\x06"
            self._recall(lambda each: each[43:75] == key and each.startswith(number, 75), index)
        super()._receipt(leaf, index, before)
        if leaf.receipt in self._open:
            self._await(leaf)

    def _number(self, leaf: ReceiptLeaf) -> None:
        if not self._recalling:  # It was counted among the numbers in its turn.
            super()._number(leaf)

    def _decide(self, row: ReceiptRow, state: State, reason: Reason | None = None) -> None:
        super()._decide(row, state, reason)
        if row.state is State.MET and not self._recalling:
            self._newly_met.append(row)

    def _let_go(self, row: ReceiptRow) -> None:
        """Add up a receipt that nothing changes any more but what `_recall` is for."""
        leaf = row.leaf
        asks = any(each.kind == VERDICTS_KIND for each in leaf.evidence)
        if row.state is not State.MET or row.withheld_from or asks or leaf.transaction is not None:
            return
        if row.index >= self._start:
            self._add(leaf, 1)
        del self._rows[leaf.receipt]
        del self._numbers[leaf.issuer_key][leaf.sequence]

    def _recall(self, is_it: Callable[[bytes], bool], before: int) -> None:
        """Follow a receipt that was let go, as if it had been kept from the start."""
        for index, data in enumerate(self._leaves()):
            if index >= before:
                return
            if not is_it(data):
                continue
            try:
                leaf = decode_leaf(data)
            except Error:
                continue
            if isinstance(leaf, ReceiptLeaf) and leaf.receipt not in self._rows:
                self._keep(leaf, index)
                return

    def _keep(self, leaf: ReceiptLeaf, index: int) -> None:
        self._numbers.setdefault(leaf.issuer_key, {}).setdefault(leaf.sequence, leaf.receipt)
        size, self._size, self._recalling = self._size, index + 1, True
        super()._receipt(leaf, index, 0)
        row = self._rows[leaf.receipt]
        self._decide(row, State.MET)  # Only what was met is let go.
        row.affirmed = leaf.receipt in self._sources
        self._size, self._recalling = size, False
        if index >= self._start:
            self._add(leaf, -1)

    def _add(self, leaf: ReceiptLeaf, sign: int) -> None:
        kind, amounts = _counted(leaf, is_met=True)
        tally = self._tallies.setdefault(kind, [0, 0, 0])
        for place, amount in enumerate(amounts):
            tally[place] += sign * amount

    # -- Deadlines ---------------------------------------------------------------------------------

    def _await(self, leaf: ReceiptLeaf) -> None:
        latest: dict[str, int] = {}
        for each in leaf.evidence:
            if each.digest is None and each.due_at is not None:
                latest[each.kind] = max(latest.get(each.kind, 0), each.due_at)
        for due in latest.values():
            heappush(self._deadlines, (due + MAX_GRACE_MILLISECONDS, leaf.receipt))

    def _expire(self) -> None:
        """As the replay does, looking only at receipts whose deadline has passed."""
        now = self.clock
        while self._deadlines and self._deadlines[0][0] < now:
            row = self._open.get(heappop(self._deadlines)[1])
            if row is not None:
                self._fail_overdue(row, now)

    # -- Verdicts, figures -------------------------------------------------------------------------

    def _verdict(self, envelope: SignedEnvelope, verdict: NodeVerdict, before: int) -> None:
        super()._verdict(envelope, verdict, before)
        affirmed = {
            each.source
            for each in verdict.findings
            if each.outcome is Outcome.AFFIRMED
            and each.claim is Claim.EXECUTION
            and each.source in REEXECUTION_SOURCES
        }
        refutes = any(each.outcome is Outcome.REFUTED for each in verdict.findings)
        if affirmed and not refutes and self._nodes.author(envelope) is not None:
            self._sources.setdefault(verdict.receipt, set()).update(affirmed)

    def figures(self) -> Figures:
        """Return the figures of the epoch that began last, by the leaves until now."""
        found = Figures(self._start, self._size)
        for kind, tally in self._tallies.items():
            if tally[0]:
                found.outcomes["met"] += tally[0]
                found.count(kind, tally, frozenset())
        for row in self._rows.values():
            if row.index < self._start:
                continue
            found.outcomes[row.state.name.lower()] += 1
            if row.state is State.FAILED:
                reason = row.reason.value if row.reason else ""
                found.failures[reason] += 1
                found.unmet.setdefault(row.leaf.assurance, Unmet()).failures[reason] += 1
            if row.state in (State.MET, State.PENDING):
                sources = frozenset(self._sources.get(row.leaf.receipt, ()))
                found.count(*_counted(row.leaf, is_met=row.state is State.MET), sources)
        for index, refusal in self._refusals:
            if index >= self._start:
                found.refusals[refusal.reason] += 1
                found.unmet.setdefault(refusal.assurance, Unmet()).refusals[refusal.reason] += 1
        found.outcomes["refused"] = sum(found.refusals.values())
        return found


def _can_fail(verdict: NodeVerdict) -> bool:
    """Tell whether a verdict may change the state of a receipt that is met."""
    return any(
        each.outcome is Outcome.REFUTED or each.reason == Reason.RECEIPT_WITHHELD.value
        for each in verdict.findings
    )


def _counted(leaf: ReceiptLeaf, *, is_met: bool) -> tuple[Kind, tuple[int, int, int]]:
    """Return what a receipt is counted by, with the evidence that is there, and what it adds."""
    kinds = frozenset(each.kind for each in leaf.evidence if is_met or each.digest is not None)
    asset, charge = leaf.charge or (None, 0)
    kind = (leaf.assurance, kinds, leaf.model_id, asset)
    return kind, (1, tokens_of(leaf.usage or {}), charge)
