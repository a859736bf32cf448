"""Audits a log: derives every tile, the root and the index again from the entries alone.

In this order, for each bundle and then for the whole:

1. the bundle holds as many entries as its place in the tree says,
2. each entry is a leaf in its one strict form, or of a kind from a later version,
3. the index knows each entry at its place, and nothing else,
4. each full tile of hashes is what the entries give,
5. so is each partial tile at the right edge,
6. the root is the one that the log signed,
7. and readers are shown a checkpoint of this tree or of an earlier one with its root.

Memory is O(log n) and a constant. The first difference ends the audit; nothing is repaired.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.ledger.log.entries import key_of_leaf
from verispect.ledger.log.interface import CHECKPOINT_PATH, LogState, TileStore
from verispect.ledger.log.reading import TileReader
from verispect.tlog.checkpoint import SignedCheckpoint, TrustedLog
from verispect.tlog.merkle import EMPTY_ROOT, leaf_hash, leaf_hashes
from verispect.tlog.tiles import (
    MAX_TILE_LEVEL,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    TileEdge,
    tile_at,
)

_BUNDLES_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class LogReport:
    """What an audit found."""

    size: int
    """Leaves that were read before the first difference."""
    root: Digest
    """The root of these, derived from the entries."""
    difference: str | None
    """The first difference, without content of entries; `None` where all is well."""


class _DifferenceError(Exception):
    """Carries the first difference out of the audit."""


@dataclass(slots=True)
class _Audit:
    state: LogState | None
    tiles: TileStore
    log: TrustedLog
    check_leaves: bool
    edge: TileEdge = field(default_factory=TileEdge)
    partial: dict[int, tuple[Tile, bytes]] = field(default_factory=dict)
    """The last partial tile of each level."""

    def run(self) -> None:
        signed = self._signed()
        size = signed.size
        reader = TileReader(self.tiles)
        bundles = (size + TILE_WIDTH - 1) // TILE_WIDTH
        for first in range(0, bundles, _BUNDLES_AT_ONCE):
            entries: list[bytes] = []
            for index in range(first, min(first + _BUNDLES_AT_ONCE, bundles)):
                entries += self._bundle(reader, tile_at(0, index, size))
            self._check_entries(entries, first * TILE_WIDTH)
            for tile, data in self.edge.extend(leaf_hashes(entries)):
                if tile.is_full:
                    self._compare(tile, data)
                else:
                    self.partial[tile.level] = (tile, data)
        self._partial_tiles(size)
        if self.edge.root() != signed.root:
            raise _DifferenceError(f"the root of {size} leaves is not the one that was signed")
        if self.state is not None and self.check_leaves:
            keys, entries_known = self.state.count()
            if keys != entries_known:
                raise _DifferenceError(f"the index has {keys} keys of {entries_known} entries")

    def _signed(self) -> SignedHead:
        """Return the tree to audit: the latest that the state knows, else what readers see."""
        data = self.tiles.get(CHECKPOINT_PATH)
        if data is None:
            raise _DifferenceError("no checkpoint is published")
        published = self.log.verify(SignedCheckpoint.parse(data))
        if self.state is None:
            return SignedHead(published.size, published.root)
        record = self.state.checkpoint()
        head = self.state.head()
        if record is None:
            raise _DifferenceError("the state has no checkpoint")
        latest = self.log.verify(SignedCheckpoint.parse(record.note))
        if (latest.size, latest.root) != (head.size, head.root):
            raise _DifferenceError("the head is not the latest checkpoint")
        if published.size > latest.size:
            raise _DifferenceError("readers are shown a larger tree than the state knows")
        older = self.state.checkpoint(at_least=published.size) if published.size else None
        if older is not None and (older.size, older.root) != (published.size, published.root):
            raise _DifferenceError("readers are shown a tree that the state does not know")
        return SignedHead(latest.size, latest.root)

    def _bundle(self, reader: TileReader, tile: Tile) -> list[bytes]:
        try:
            return reader.entries(tile)
        except Error as error:
            raise _DifferenceError(f"{tile.entries_path()}: {error.message}") from error

    def _check_entries(self, entries: list[bytes], start: int) -> None:
        if not self.check_leaves:
            return
        keys = []
        for index, entry in enumerate(entries, start):
            try:
                keys.append(key_of_leaf(entry))
            except UnsupportedError:
                keys.append(leaf_hash(entry))
            except MalformedError as error:
                raise _DifferenceError(f"entry {index}: {error}") from error
        if self.state is None:
            return
        for index, known in enumerate(self.state.find(keys), start):
            if known != index:
                place = "nowhere" if known is None else f"at {known}"
                raise _DifferenceError(f"entry {index}: the index has it {place}")

    def _compare(self, tile: Tile, data: bytes) -> None:
        stored = self.tiles.get(tile.path())
        if stored is None:
            raise _DifferenceError(f"{tile.path()} is missing")
        if stored != data:
            raise _DifferenceError(f"{tile.path()} is not what the entries give")

    def _partial_tiles(self, size: int) -> None:
        for level in range(MAX_TILE_LEVEL + 1):
            width = size >> (TILE_HEIGHT * level)
            if width % TILE_WIDTH:
                tile = tile_at(level, width // TILE_WIDTH, size)
                last, data = self.partial[level]
                assert last == tile
                self._compare(tile, data)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Size and root of a tree that the log signed."""

    size: int
    root: Digest


def fsck(
    tiles: TileStore, log: TrustedLog, *, state: LogState | None = None, check_leaves: bool = True
) -> LogReport:
    """Audit a whole log.

    Args:
        tiles: its tiles.
        log: its name and keys.
        state: its database, whose head and index are audited too.
        check_leaves: decode each entry and look it up; without it only the tree is audited.

    Raises:
        StoreError: `store-failed` where the store cannot be read at all.
    """
    audit = _Audit(state, tiles, log, check_leaves)
    difference = None
    try:
        audit.run()
    except _DifferenceError as found:
        difference = str(found)
    except Error as error:
        if error.reason in (Reason.STORE_FAILED, Reason.STORE_LOCKED):
            raise
        difference = str(error)
    size = audit.edge.size
    return LogReport(size, audit.edge.root() if size else EMPTY_ROOT, difference)
