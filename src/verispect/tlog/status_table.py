"""The words of the status of receipts: states, the nodes that count, the table and its bytes.

`verispect.tlog.status` makes tables of the leaves of a log; this module refuses to decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.keys import KeyId, PublicKey

STATUS_VERSION: Final = 1
MAX_NODES: Final = 64
MAX_NODE_NAME_CHARACTERS: Final = 128


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
class ContradictedTransaction:
    """One transaction that ended in two ways: both leaves name one issuer key.

    Their signatures are for whoever has that key; nobody else could have made both.
    """

    issuer_key: KeyId
    transaction_id: bytes
    leaves: tuple[int, int]
    """Indexes of its first final leaf, and of one that says something else."""
    reason: Reason = Reason.TRANSACTION_CONTRADICTED


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
    contradicted: Sequence[ContradictedTransaction] = ()

    def encode(self) -> bytes:
        """Return the canonical form: the same bytes for whoever replays the same prefix."""
        contradicted = [
            [each.issuer_key, each.transaction_id, *each.leaves] for each in self.contradicted
        ]
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
                *([contradicted] if contradicted else []),
            ]
        )

    def digest(self) -> Digest:
        """Return the SHA-256 of the canonical form, by which nodes compare tables."""
        return sha256(self.encode())

    def of(self, receipt: Digest) -> ReceiptStatus | None:
        """Return the row of a receipt; `None` where the prefix does not have it."""
        return next((each for each in self.receipts if each.receipt == receipt), None)
