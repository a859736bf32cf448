"""The appender: puts the entries that wait into the tree and signs what it made.

One step does, each durable before the next:

1. the bundles of entries,
2. the tiles of hashes,
3. the checkpoint, by compare-and-swap in the state,
4. the checkpoint where readers find it.

An entry has its index before any of this, so a step that is repeated after a crash writes the same
bytes at the same paths. Of two appenders the later fences the earlier: that one's next checkpoint
is refused, and what it wrote until then is what the other writes.

`Appender.open` refuses to go on from a state that is older than what the log published, here or in
the eyes of its witnesses: a restored backup would sign a second history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Self

from verispect.core.errors import Reason, StoreError
from verispect.core.keys import Signer
from verispect.ledger.log.interface import (
    CHECKPOINT_PATH,
    CheckpointRecord,
    Head,
    LogState,
    TileStore,
)
from verispect.ledger.log.reading import TileReader
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog, sign_checkpoint
from verispect.tlog.cose_receipt import InclusionProof, sign_cose_receipt
from verispect.tlog.merkle import leaf_hashes
from verispect.tlog.note import VerifierKey, parse_signature_lines
from verispect.tlog.tiles import (
    TILE_WIDTH,
    Tile,
    TileEdge,
    encode_entries,
    tile_at,
)

MAX_BATCH: Final = 16_384
"""Entries that one step takes."""

Witnessed = Callable[[], Sequence[Checkpoint]]
"""Asks the witnesses of the log for the latest checkpoint that each co-signed. It raises where they
cannot be asked: then nothing is published."""


def _nobody() -> Sequence[Checkpoint]:
    return ()


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class Appender:
    """The one writer of a log's tree. Made by `open`; used from one thread."""

    def __init__(
        self,
        state: LogState,
        tiles: TileStore,
        *,
        origin: str,
        signer: Signer,
        clock: Callable[[], int],
        maximum_batch: int,
    ) -> None:
        self._state = state
        self._tiles = tiles
        self._origin = origin
        self._signer = signer
        self._clock = clock
        self._maximum_batch = maximum_batch
        self._reader = TileReader(tiles)
        self._generation = 0
        self._head = Head()
        self._edge = TileEdge()
        self._last_bundle: list[bytes] = []
        self._published_size = -1

    @classmethod
    def open(
        cls,
        state: LogState,
        tiles: TileStore,
        *,
        origin: str,
        signer: Signer,
        witnessed: Witnessed = _nobody,
        clock: Callable[[], int] = _wall_clock,
        maximum_batch: int = MAX_BATCH,
    ) -> Self:
        """Take the log over and bring it to where readers can see it.

        Args:
            state: the database, for this appender alone.
            tiles: the tiles.
            origin: the log's name, the same for ever.
            signer: holder of the log's private key.
            witnessed: asks the configured witnesses what they co-signed last.
            clock: milliseconds since the epoch.
            maximum_batch: entries that one step takes.

        Raises:
            StoreError: `store-rolled-back` where the log published, or a witness co-signed, more
                than the state knows; `log-forked` where one of them has another root;
                `store-conflict`, `store-failed`, `store-locked`.
            Error: what `witnessed` raises.
        """
        appender = cls(
            state,
            tiles,
            origin=origin,
            signer=signer,
            clock=clock,
            maximum_batch=maximum_batch,
        )
        appender._recover(witnessed)
        return appender

    @property
    def head(self) -> Head:
        """The head that this appender made or found last."""
        return self._head

    @property
    def maximum_batch(self) -> int:
        """Entries that one step takes."""
        return self._maximum_batch

    def _recover(self, witnessed: Witnessed) -> None:
        head = self._state.head()
        self._load(head)
        published = self._published()
        for seen in ([] if published is None else [published]) + list(witnessed()):
            self._check_seen(seen, head)
        # From here on an earlier appender is fenced.
        self._generation = self._state.take_over()
        self._head = self._state.head()
        if self._head.size != head.size:
            raise StoreError("another appender took over", reason=Reason.STORE_CONFLICT)
        if self._state.checkpoint() is None:
            self._head = self._signed_head(
                self._head, self._edge
            )  # Even an empty log has a checkpoint.
        self.publish()

    def _load(self, head: Head) -> None:
        """Read the right edge of the tree that the state knows."""
        edge = TileEdge(head.size, self._reader.tile)
        if edge.root() != head.root:
            raise StoreError("the tiles lead to another root", reason=Reason.LOG_FORKED)
        rest = head.size % TILE_WIDTH
        last = tile_at(0, head.size // TILE_WIDTH, head.size) if rest else None
        self._last_bundle = self._reader.entries(last) if last else []
        self._edge, self._head = edge, head

    def _published(self) -> Checkpoint | None:
        data = self._tiles.get(CHECKPOINT_PATH)
        if data is None:
            return None
        key = VerifierKey(self._origin, self._signer.public_key)
        return TrustedLog(self._origin, [key]).verify(SignedCheckpoint.parse(data))

    def _check_seen(self, seen: Checkpoint, head: Head) -> None:
        """Check that what others saw of this log is what the state knows."""
        if seen.origin != self._origin:
            raise StoreError("a witness knows another log", reason=Reason.LOG_UNKNOWN)
        if seen.size > head.size:
            raise StoreError(
                f"{seen.size} leaves were published and {head.size} are known",
                reason=Reason.STORE_ROLLED_BACK,
            )
        if self._reader.root(seen.size, head.size) != seen.root:
            raise StoreError(
                f"another tree of {seen.size} leaves was published", reason=Reason.LOG_FORKED
            )

    def step(self) -> int:
        """Put what waits into the tree, at most one batch, and publish. Returns how much it was.

        Raises:
            StoreError: `store-conflict` where another appender took over: this one is done.
                `store-failed` and `store-locked`: try again later, nothing is lost.
        """
        head = self._state.head()
        if head.generation != self._generation:
            raise StoreError("another appender took over", reason=Reason.STORE_CONFLICT)
        if head.size != self._edge.size:
            self._load(head)  # A commit was made and its answer was lost.
        leaves = self._state.waiting(head.size, self._maximum_batch)
        if leaves:
            edge = self._edge.copy()
            made = edge.extend(leaf_hashes(leaves))
            bundles, last_bundle = self._bundles(leaves)
            # 1. Entries.
            self._tiles.put(bundles)
            # 2. Tiles.
            self._tiles.put([(tile.path(), data) for tile, data in made])
            # 3. The checkpoint. Only after it does this object believe in the new tree.
            self._head = self._signed_head(head, edge)
            self._edge, self._last_bundle = edge, last_bundle
        # 4. Where readers look.
        if self._published_size != self._edge.size:
            self.publish()
        if leaves:
            self._remove_partials(head.size, [tile for tile, _ in made])
        return len(leaves)

    def _bundles(self, leaves: Sequence[bytes]) -> tuple[list[tuple[str, bytes]], list[bytes]]:
        """Return the bundles to store, and the entries of the last one if it is not full."""
        first = self._head.size // TILE_WIDTH
        entries = [*self._last_bundle, *leaves]
        bundles = []
        for start in range(0, len(entries), TILE_WIDTH):
            part = entries[start : start + TILE_WIDTH]
            tile = Tile(0, first + start // TILE_WIDTH, len(part))
            bundles.append((tile.entries_path(), encode_entries(part)))
        return bundles, entries[len(entries) - len(entries) % TILE_WIDTH :]

    def _signed_head(self, old: Head, edge: TileEdge) -> Head:
        """Sign the tree of the edge and move the state's head to it."""
        size, root = edge.size, edge.root()
        # A clock that jumps back does not make the log's time fall.
        integrated_at = max(self._clock(), old.integrated_at)
        note = sign_checkpoint(Checkpoint(self._origin, size, root), signer=self._signer).encode()
        # The signature of COSE receipts covers size and root, not the leaf: one serves them all.
        cose = sign_cose_receipt(
            InclusionProof(size, 0, ()), root, origin=self._origin, signer=self._signer
        )
        record = CheckpointRecord(size, root, note, cose.protected, cose.signature, integrated_at)
        self._state.advance(self._generation, old.size, record)
        return Head(self._generation, old.sequenced, size, root, integrated_at)

    def publish(self) -> None:
        """Show readers the latest checkpoint with the cosignatures that there are.

        Raises:
            StoreError: `store-failed`.
        """
        record = self._state.checkpoint()
        if record is not None:
            self._tiles.publish(CHECKPOINT_PATH, with_cosignatures(self._state, record).encode())
            self._published_size = record.size

    def _remove_partials(self, old_size: int, made: Sequence[Tile]) -> None:
        """Remove partial tiles that full ones replace; those of the latest checkpoint stay."""
        paths: list[str] = []
        for tile in made:
            if tile.is_full and tile.index == (old_size >> (8 * tile.level)) // TILE_WIDTH:
                paths.append(tile.path())
                if tile.level == 0:
                    paths.append(tile.entries_path())
        self._tiles.remove_partials(paths)


def with_cosignatures(state: LogState, record: CheckpointRecord) -> SignedCheckpoint:
    """Return a checkpoint with the cosignatures that are kept for it.

    Raises:
        StoreError: `store-failed`.
        MalformedError: `malformed-note` where the state is damaged.
    """
    signed = SignedCheckpoint.parse(record.note)
    lines = state.cosignatures(record.size)
    if not lines:
        return signed
    return signed.with_signatures(parse_signature_lines("".join(lines)))
