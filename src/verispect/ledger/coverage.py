"""Coverage: what the receipts of a part of the log achieved, counted from its leaves alone.

Anyone who has the leaves and names the same nodes gets the same figures, byte for byte; an operator
publishes them as a signed leaf per epoch, which `differences` compares. Receipts that promise
nothing are counted as they come and not kept: most are such, and ten million of them pass in a
minute. All others are followed by the status replay, whose rules decide.

What counts as achieved is what the log shows: evidence that a receipt lists, by its kind, where its
status is met. Attestation counts as `hardware` only under a policy that demands the class hardware.
Nothing here looks at evidence itself: nodes do, and a refuting verdict fails the receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from verispect.appraisal.policy import PRESETS
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source
from verispect.core.encoding import Digest, decode, encode, encode_content, sha256
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, Reason
from verispect.core.keys import KeyId
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import Coverage, CoverageRow, Refusal
from verispect.tlog.receipt_leaf import LEAF_VERSION, RECEIPT_KIND, ReceiptLeaf
from verispect.tlog.status import REEXECUTION_SOURCES, StatusReplay
from verispect.tlog.status_table import NodePolicy, State
from verispect.tlog.verdict import NodeVerdict, Outcome

REPORT_VERSION: Final = 1

_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_ATTESTED: Final = (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_KINDS: Final = frozenset({"signature", "log", "verdicts", "proof"})
_NAME_OF_PRESET: Final = {policy.digest(): name for name, policy in PRESETS.items()}
_HARDWARE: Final = frozenset(
    digest for digest, name in _NAME_OF_PRESET.items() if "attested" in name.split("+")
)
"""Presets that demand hardware: those of the other two classes have names of their own."""


class Shown(NamedTuple):
    """What a leaf shows in the clear."""

    model_id: Digest | None
    tokens: int
    asset: str | None
    charge: int


@dataclass(slots=True)
class Amounts:
    """How many inferences, their tokens and what was charged, by asset."""

    inferences: int = 0
    tokens: int = 0
    charges: Counter[str] = field(default_factory=Counter)

    def add(self, shown: Shown, count: int = 1) -> None:
        """Count inferences that each show this."""
        self.inferences += count
        self.tokens += shown.tokens * count
        if shown.asset is not None:
            self.charges[shown.asset] += shown.charge * count

    def to_content(self) -> dict[str, Any]:
        """Return the form in a report."""
        charges = dict(sorted(self.charges.items()))
        return {"inferences": self.inferences, "tokens": self.tokens, "charges": charges}


@dataclass(slots=True)
class Unmet:
    """Why what a policy required was not delivered, and how often."""

    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def to_content(self) -> dict[str, Any]:
        """Return the form in a report."""
        return {
            "failures": dict(sorted(self.failures.items())),
            "refusals": dict(sorted(self.refusals.items())),
        }


@dataclass(slots=True)
class Figures:
    """The figures of one epoch; a function of a prefix of the log, the epoch's start and nodes."""

    first_leaf: int
    end_leaf: int
    outcomes: Counter[str] = field(default_factory=Counter)
    claims: dict[tuple[Claim, Source], Amounts] = field(default_factory=dict)
    assurance: dict[Digest, Amounts] = field(default_factory=dict)
    models: dict[Digest | None, Amounts] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    unmet: dict[Digest | None, Unmet] = field(default_factory=dict)
    """By the policy that was required; `None` for refusals that name none."""

    def count(self, leaf: tuple[Digest, Shown], sources: Iterable[tuple[Claim, Source]]) -> None:
        """Count a receipt under its policy and model, and under what it achieved."""
        assurance, shown = leaf
        self.assurance.setdefault(assurance, Amounts()).add(shown)
        self.models.setdefault(shown.model_id, Amounts()).add(shown)
        for row in sources:
            self.claims.setdefault(row, Amounts()).add(shown)

    def report(self) -> bytes:
        """Return the detached report, with every dimension; deterministic."""
        return encode_content(
            {
                "verispectCoverage": REPORT_VERSION,
                "leaves": [self.first_leaf, self.end_leaf],
                "outcomes": dict(sorted(self.outcomes.items())),
                "claims": [
                    {"claim": str(claim), "source": str(source), **amounts.to_content()}
                    for (claim, source), amounts in sorted(self.claims.items())
                ],
                "assurance": [
                    {
                        "digest": digest.hex(),
                        "preset": _NAME_OF_PRESET.get(digest),
                        **amounts.to_content(),
                    }
                    for digest, amounts in sorted(self.assurance.items())
                ],
                "models": [
                    {"modelId": digest.hex() if digest else None, **amounts.to_content()}
                    for digest, amounts in sorted(
                        self.models.items(), key=lambda item: item[0] or b""
                    )
                ],
                "failures": dict(sorted(self.failures.items())),
                "refusals": dict(sorted(self.refusals.items())),
                "unmet": [
                    {
                        "digest": digest.hex() if digest else None,
                        "preset": _NAME_OF_PRESET.get(digest) if digest else None,
                        **unmet.to_content(),
                    }
                    for digest, unmet in sorted(self.unmet.items(), key=lambda item: item[0] or b"")
                ],
            }
        )

    def publication(self, published_at: int) -> Coverage:
        """Return what is signed into the log."""
        return Coverage(
            first_leaf=self.first_leaf,
            end_leaf=self.end_leaf,
            published_at=published_at,
            met=self.outcomes["met"],
            pending=self.outcomes["pending"],
            failed=self.outcomes["failed"],
            refused=self.outcomes["refused"],
            rows=[
                CoverageRow(claim, source, amounts.inferences, amounts.tokens)
                for (claim, source), amounts in sorted(self.claims.items())
            ],
            report=sha256(self.report()),
        )


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
        self._plain: dict[tuple[bytes, Shown], int] = {}
        self._refusals: list[tuple[int, Refusal]] = []
        self._sources: dict[Digest, set[Source]] = {}
        self._earliest = 0
        self._looked_over = -1
        self._recalling = False

    def begin(self) -> None:
        """Begin an epoch at the next leaf."""
        self._start = self._size
        self._plain = {}
        self._refusals = []

    def replay(self, leaves: Iterable[bytes]) -> None:
        """Count the next leaves, in the order of the log."""
        plain, highest = self._plain, self._highest
        for data in leaves:
            place = _read_plain(data)
            if place is not None:
                issuer, sequence, signed_at, kind = place
                last = highest.get(issuer)
                if last is None or sequence == last + 1:
                    highest[issuer] = sequence
                    plain[kind] = plain.get(kind, 0) + 1
                    self._size += 1
                    if signed_at > self._operator_clock:
                        self._operator_clock = signed_at
                        if self._open:
                            self._expire()
                    continue
            self._look_at(data)

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
                    self._recall(lambda each: each.receipt == digest, index)
        self._apply(leaf, index)

    def _number(self, leaf: ReceiptLeaf) -> None:
        if self._recalling:
            return  # It was counted among the numbers in its turn.
        key, sequence = leaf.issuer_key, leaf.sequence
        known = sequence in self._numbers.get(key, {})
        missing = (key, sequence) in self._missing
        if not known and not missing and sequence <= self._highest.get(key, -1):
            self._recall(
                lambda each: (each.issuer_key, each.sequence) == (key, sequence), self._size - 1
            )
        super()._number(leaf)

    def _recall(self, wanted: Callable[[ReceiptLeaf], bool], before: int) -> None:
        """Follow a receipt that was counted and not kept, as if it had been from the start."""
        for index, data in enumerate(self._leaves()):
            if index >= before:
                return
            place = _read_plain(data)
            if place is None:
                continue
            leaf = decode_leaf(data)
            if isinstance(leaf, ReceiptLeaf) and wanted(leaf) and leaf.receipt not in self._rows:
                self._numbers.setdefault(leaf.issuer_key, {}).setdefault(
                    leaf.sequence, leaf.receipt
                )
                size, self._size = self._size, index + 1
                self._keep(leaf, index)
                self._size = size
                if index >= self._start:
                    self._plain[place[3]] -= 1
                return

    def _keep(self, leaf: ReceiptLeaf, index: int) -> None:
        self._recalling = True
        super()._receipt(leaf, index, 0)
        self._recalling = False
        self._rows[leaf.receipt].affirmed = leaf.receipt in self._sources

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

    def _expire(self) -> None:
        """As the replay does, and only where a deadline can have passed."""
        now = self.clock
        if now <= self._earliest and len(self._open) == self._looked_over:
            return
        super()._expire()
        due = [
            each.due_at
            for row in self._open.values()
            for each in row.leaf.evidence
            if each.due_at is not None
        ]
        self._earliest = min(due, default=1 << 63)
        self._looked_over = len(self._open)

    def figures(self) -> Figures:
        """Return the figures of the epoch that began last, by the leaves until now."""
        found = Figures(self._start, self._size)
        for (assurance, shown), count in self._plain.items():
            if count:
                found.outcomes["met"] += count
                found.assurance.setdefault(Digest(assurance), Amounts()).add(shown, count)
                found.models.setdefault(shown.model_id, Amounts()).add(shown, count)
                for claimed in _SIGNED_ROWS:
                    found.claims.setdefault(claimed, Amounts()).add(shown, count)
        for row in self._rows.values():
            if row.index < self._start:
                continue
            found.outcomes[row.state.name.lower()] += 1
            if row.state is State.FAILED:
                reason = row.reason.value if row.reason else ""
                found.failures[reason] += 1
                found.unmet.setdefault(row.leaf.assurance, Unmet()).failures[reason] += 1
            if row.state in (State.MET, State.PENDING):
                sources = self._sources.get(row.leaf.receipt, set())
                kinds = _kinds_of(row.leaf, is_met=row.state is State.MET)
                achieved = _achieved(row.leaf.assurance, kinds, sources)
                found.count((row.leaf.assurance, _shown_of(row.leaf)), achieved)
        for index, refusal in self._refusals:
            if index >= self._start:
                found.refusals[refusal.reason] += 1
                found.unmet.setdefault(refusal.assurance, Unmet()).refusals[refusal.reason] += 1
        found.outcomes["refused"] = sum(found.refusals.values())
        return found


def differences(own: Coverage, published: Coverage) -> list[str]:
    """Return in words in what a published coverage differs from one's own count of its leaves."""
    found = [
        f"{name}: {getattr(published, name)} published, {getattr(own, name)} counted"
        for name in ("first_leaf", "end_leaf", "met", "pending", "failed", "refused")
        if getattr(published, name) != getattr(own, name)
    ]
    ours = {(row.claim, row.source): (row.inferences, row.tokens) for row in own.rows}
    theirs = {(row.claim, row.source): (row.inferences, row.tokens) for row in published.rows}
    found += [
        f"{row[0]} by {row[1]}: {theirs.get(row)} published, {ours.get(row)} counted"
        for row in sorted(ours.keys() | theirs.keys())
        if ours.get(row) != theirs.get(row)
    ]
    if not found and own.report != published.report:
        found.append("the detached report is another")
    return found


def _can_fail(verdict: NodeVerdict) -> bool:
    """Tell whether a verdict may change the state of a receipt that promised nothing."""
    return any(
        each.outcome is Outcome.REFUTED or each.reason == Reason.RECEIPT_WITHHELD.value
        for each in verdict.findings
    )


# -- What a receipt achieved ----------------------------------------------------------------------


def _kinds_of(leaf: ReceiptLeaf, *, is_met: bool) -> frozenset[str]:
    """Return the kinds of evidence that are there: all where it is met, else those that were."""
    return frozenset(each.kind for each in leaf.evidence if is_met or each.digest is not None)


def _achieved(
    assurance: Digest, kinds: frozenset[str], verdicts: Iterable[Source]
) -> Sequence[tuple[Claim, Source]]:
    found: dict[Claim, set[Source]] = {claim: set() for claim in Claim}
    found[Claim.LOGGED].add(Source.LOGGED)
    if "log" in kinds:
        found[Claim.TIME].add(Source.LOGGED)
    for claim in _COMPUTED:
        if "proof" in kinds:
            found[claim].add(Source.PROVEN)
        if "verdicts" in kinds:
            found[claim].update(verdicts)
    if kinds - _KINDS and assurance in _HARDWARE:
        for claim in _ATTESTED:
            found[claim].add(Source.HARDWARE)
    for claim, sources in found.items():
        if not sources:
            signed = claim in CLAIMS_OF_A_SIGNATURE
            sources.add(Source.ASSERTED if signed else Source.UNSTATED)
    return [(claim, source) for claim, sources in found.items() for source in sorted(sources)]


_SIGNED_ROWS: Final = _achieved(Digest(bytes(32)), frozenset({"signature"}), ())


def _shown_of(leaf: ReceiptLeaf) -> Shown:
    asset, charge = leaf.charge or (None, 0)
    return Shown(leaf.model_id, _tokens(leaf.usage or {}), asset, charge)


def _tokens(usage: Any) -> int:
    return int(usage.get("input_tokens", 0) + usage.get("output_tokens", 0))


# -- The commonest leaf, read by offsets ----------------------------------------------------------

_AFTER: Final = b"\x08" + encode([["signature", None, None]]) + b"\x09\x58\x20"
_START: Final = bytes((1, LEAF_VERSION, 2, RECEIPT_KIND, 3, 0x58, 0x20))
_WIDTHS: Final = {0x18: 1, 0x19: 2, 0x1A: 4, 0x1B: 8}
_Plain = tuple[KeyId, int, int, tuple[bytes, Shown]]


def _read_plain(data: bytes) -> _Plain | None:
    """Read a receipt's leaf that lists the signature alone and is in no transaction.

    `None` for any other leaf, and for one that is not exactly of its form: `decode_leaf` decides.
    """
    if data[1:8] != _START or data[40:43] != b"\x04\x58\x20" or data[75:76] != b"\x05":
        return None
    head = data[76]
    at = 77
    sequence = head
    if head >= 24:
        width = _WIDTHS.get(head, 0)
        at += width
        sequence = int.from_bytes(data[77:at], "big")
        if width < 2 or sequence >> (4 * width) == 0:
            return None
    if not sequence or data[at : at + 2] != b"\x06\x1b":
        return None
    signed_at = int.from_bytes(data[at + 2 : at + 10], "big")
    end = at + 45 + len(_AFTER) + 32
    if (
        not 1 << 32 <= signed_at < 1 << 63
        or sequence >= 1 << 63
        or data[at + 10 : at + 13] != b"\x07\x58\x20"
        or data[at + 45 : end - 32] != _AFTER
        or len(data) < end
    ):
        return None
    shown = _NOTHING_SHOWN if data[0] == 0xA9 and len(data) == end else _rest(data[0], data[end:])
    if shown is None:
        return None
    return KeyId(data[43:75]), sequence, signed_at, (data[at + 13 : at + 45], shown)


_NOTHING_SHOWN: Final = Shown(None, 0, None, 0)


@lru_cache(maxsize=1 << 16)
def _rest(head: int, rest: bytes) -> Shown | None:
    """Read what follows the required fields; `None` where it is not what it should be."""
    try:
        read = decode(bytes((0xA0 | (head - 0xA9),)) + rest) if 0xA9 < head <= 0xAC else None
    except Error:
        return None
    if type(read) is not dict or not read.keys() <= {11, 12, 13}:
        return None
    template = ReceiptLeaf(
        Digest(bytes(32)), KeyId(bytes(32)), 1, 1 << 32, Digest(bytes(32)), (), Digest(bytes(32))
    )
    required = {1: 1, 2: 1, 3: bytes(32), 4: bytes(32), 5: 1, 6: 1, 7: bytes(32), 8: []}
    try:
        leaf = ReceiptLeaf.from_map({**required, 9: template.model, **read})
    except Error:
        return None
    return _shown_of(leaf)
