"""What a log keeps, and the two kinds of store that keep it.

`LogState` is a database: the order of entries, the head of the tree, who may move it, the index.
`TileStore` holds immutable files by path, and one that changes, the checkpoint. Both make durable
what they were given before they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from verispect.core.encoding import Digest
from verispect.tlog.merkle import EMPTY_ROOT

CHECKPOINT_PATH: Final = "checkpoint"
"""The one path whose bytes change."""

DESCRIPTION_PATH: Final = "description"

MAX_ACCEPTED: Final = 65_536
"""Entries in one call of `accept`."""

GROUP_ENTRIES: Final = 256
"""Entries are kept in groups, so that a database writes one row where it would write many."""


class NewEntry(NamedTuple):
    """A leaf that wants a place in the log."""

    key: Digest
    """What makes it the same as another: the receipt's digest, else the leaf's hash."""
    leaf: bytes
    receipt: bytes | None = None
    """The receipt, where it is not kept elsewhere."""


class Placed(NamedTuple):
    """The index of an entry, for ever."""

    leaf_index: int
    is_new: bool
    """False where the key was in the log, or waiting for it, before."""


class Cursor(NamedTuple):
    """How far a source of entries was read, kept in the same commit as what was read."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log stands."""

    generation: int = 0
    """Who may integrate: the appender that took this number, and no earlier one."""
    sequenced: int = 0
    """How many entries have an index."""
    size: int = 0
    """How many of them are in the tree."""
    root: Digest = EMPTY_ROOT
    integrated_at: int = 0
    """Milliseconds since the epoch, by the log's clock; never falls."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that the log signed."""

    size: int
    root: Digest
    note: bytes
    """As the log signed it, without cosignatures."""
    cose_protected: bytes
    """Protected header of COSE receipts for this tree; their signature is the same for all."""
    cose_signature: bytes
    integrated_at: int


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """Evidence that arrived for a receipt and lies in the evidence store."""

    receipt: Digest
    kind: str
    evidence: Digest
    endorsements: Digest | None
    size: int
    delivered_at: int


class LogState(Protocol):
    """The database of one log. One object is used from one thread at a time.

    Every method that changes something returns only after it is durable, and changes all or
    nothing. All raise `StoreError`: `store-failed` or `store-locked`.
    """

    def take_over(self) -> int:
        """Become the appender: return a generation above all before; earlier ones are fenced."""
        ...

    def head(self) -> Head:
        """Return where the log stands."""
        ...

    def accept(
        self, entries: Sequence[NewEntry], *, cursor: Cursor | None = None
    ) -> Sequence[Placed]:
        """Give each entry an index, in the order given; a key that has one keeps it.

        Args:
            entries: at most `MAX_ACCEPTED`.
            cursor: moved in the same commit.
        """
        ...

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; 0 where it never moved."""
        ...

    def waiting(self, start: int, limit: int) -> Sequence[bytes]:
        """Return leaves that are not in the tree yet, from index `start` on, in order."""
        ...

    def advance(self, generation: int, old_size: int, record: CheckpointRecord) -> None:
        """Move the head from `old_size` to the record's tree, and keep the checkpoint.

        Raises:
            StoreError: `store-conflict` unless `generation` is the latest and the head is at
                `old_size`: another appender is at work.
        """
        ...

    def find(self, keys: Sequence[Digest]) -> Sequence[int | None]:
        """Return the index of each key."""
        ...

    def count(self) -> tuple[int, int]:
        """Return how many keys the index has and how many entries have an index, at one moment."""
        ...

    def receipt(self, index: int) -> bytes | None:
        """Return the receipt that was accepted with the entry at `index`, if one was."""
        ...

    def checkpoint(self, *, at_least: int = 0) -> CheckpointRecord | None:
        """Return the latest checkpoint; with `at_least`, the first of at least that size."""
        ...

    def add_cosignatures(self, size: int, lines: Sequence[str]) -> None:
        """Keep signature lines of witnesses over the checkpoint of this size."""
        ...

    def cosignatures(self, size: int) -> Sequence[str]:
        """Return the lines kept for this size."""
        ...

    def register_evidence(self, record: EvidenceRecord) -> None:
        """Note that evidence arrived; once is as good as twice."""
        ...

    def evidence_of(self, receipt: Digest) -> Sequence[EvidenceRecord]:
        """Return what arrived for a receipt."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class TileStore(Protocol):
    """Immutable files by path. Paths are those of C2SP tlog-tiles and of the evidence store."""

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store files; returns when bytes and names are durable.

        A path that has these bytes is left as it is.

        Raises:
            StoreError: `store-conflict` where a path has other bytes; `store-failed`. Some of the
                files may be stored then.
        """
        ...

    def get(self, path: str) -> bytes | None:
        """Return a file, or `None` where there is none.

        Raises:
            StoreError: `store-failed`.
        """
        ...

    def publish(self, path: str, data: bytes) -> None:
        """Replace a file that may change; readers see the old bytes or the new."""
        ...

    def remove_partials(self, paths: Sequence[str]) -> None:
        """Remove the partial tiles of these full tiles; C2SP allows it once those are there."""
        ...
