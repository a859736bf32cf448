"""A node's own copy of the log: every leaf, verified against a checkpoint that the log signed.

A new checkpoint is believed only where all leaves since the last one, added to this copy, lead to
its root; then the log only grew, and nothing of what the operator says of its tiles matters. Where
they do not, either the operator served other bytes than it signed, or the log forked: the
operator's own tiles then give the proof that needs nobody's word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verispect.core.encoding import Digest
from verispect.core.errors import Error, NetworkError, Reason, StoreError, VerificationError
from verispect.ledger.log.reading import TileReader
from verispect.ledger.log.tile_files import FileTiles
from verispect.node.operator_client import HttpSource
from verispect.node.state import NodeState
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.merkle import EMPTY_ROOT, leaf_hashes
from verispect.tlog.proof import make_consistency_proof, read_root
from verispect.tlog.tiles import (
    TILE_WIDTH,
    Tile,
    TileEdge,
    TileHashes,
    decode_entries,
    encode_entries,
    tile_at,
)


@dataclass(frozen=True, slots=True)
class Grown:
    """The log grew, and the copy with it."""

    checkpoint: Checkpoint
    old_size: int


class Mirror:
    """The copy of one log.

    Args:
        folder: where tiles are kept.
        state: where the node stands.
        log: the log that is followed.
    """

    def __init__(self, folder: Path, state: NodeState, log: TrustedLog) -> None:
        self._tiles = FileTiles(folder)
        self._reader = TileReader(self._tiles)
        self._state = state
        self.log = log

    @property
    def size(self) -> int:
        """How many leaves were verified."""
        followed = self._state.followed()
        return 0 if followed is None else followed[0]

    def latest(self) -> SignedCheckpoint | None:
        """Return the checkpoint that the copy was verified against."""
        followed = self._state.followed()
        return None if followed is None else SignedCheckpoint.parse(followed[1])

    def leaves(self, start: int = 0) -> Iterator[bytes]:
        """Yield the leaves from an index on."""
        size = self.size
        for index in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
            entries = self._reader.entries(tile_at(0, index, size))
            first = index * TILE_WIDTH
            yield from entries[max(0, start - first) :]

    def leaf(self, index: int) -> bytes:
        """Return one leaf."""
        return self._reader.leaf(index, self.size)

    def root(self, size: int) -> Digest:
        """Return the root of the first leaves."""
        return EMPTY_ROOT if size == 0 else self._reader.root(size, self.size)

    def follow(self, source: HttpSource) -> Grown | ForkEvidence | None:
        """Fetch what is new. Returns `None` where nothing is, and evidence where the log forked.

        Raises:
            NetworkError: the operator is not reachable, or has no such bytes.
            VerificationError: `signature-invalid`, `key-unknown`, `log-unknown` for a checkpoint
                that is not the log's; `content-mismatch` where the leaves are not those it signed.
            MalformedError: what came is not of its form.
            StoreError: `store-failed`.
        """
        signed = SignedCheckpoint.parse(source.checkpoint())
        checkpoint = self.log.verify(signed)
        return self.extend(source, self.log.bare(signed), checkpoint)

    def extend(
        self, source: HttpSource, signed: SignedCheckpoint, checkpoint: Checkpoint
    ) -> Grown | ForkEvidence | None:
        """Extend the copy to a checkpoint of the log, or show that it contradicts the copy."""
        size = self.size
        if checkpoint.size <= size:
            return self._compare_smaller(signed, checkpoint)
        # A long way is gone in steps, each to a root that the whole way confirms at its end.
        edge = TileEdge(size, self._reader.tile)
        entries = self._own_rest(size)
        made: list[tuple[str, bytes]] = []
        for bundle in self._fetch(source, size, checkpoint.size):
            start = edge.size
            tiles = edge.extend(leaf_hashes(bundle))
            made += [(tile.path(), data) for tile, data in tiles]
            entries = [*entries, *bundle]
            tile = Tile(0, start // TILE_WIDTH, len(entries))
            made.append((tile.entries_path(), encode_entries(entries)))
            entries = [] if len(entries) == TILE_WIDTH else entries
        if edge.root() != checkpoint.root:
            return self._contradiction(source, signed, checkpoint)
        self._tiles.put(made)
        self._state.advance(size, checkpoint.size, signed.encode(), checkpoint.text())
        return Grown(checkpoint, size)

    def compare(self, signed: SignedCheckpoint) -> ForkEvidence | None:
        """Compare a checkpoint that somebody else saw with the copy; a larger one is left alone.

        Raises:
            VerificationError: it is not the log's.
        """
        checkpoint = self.log.verify(signed)
        if checkpoint.size > self.size:
            return None
        return self._compare_smaller(self.log.bare(signed), checkpoint)

    def _compare_smaller(
        self, signed: SignedCheckpoint, checkpoint: Checkpoint
    ) -> ForkEvidence | None:
        own = self.latest()
        if own is None or checkpoint.size == 0:
            return None
        root = self.root(checkpoint.size)
        if root == checkpoint.root:
            return None
        hashes = self._reader.hashes(self.size)
        path = make_consistency_proof(hashes, checkpoint.size, self.size)
        evidence = ForkEvidence(signed, own, root, tuple(path))
        evidence.verify(self.log)
        return evidence

    def _own_rest(self, size: int) -> list[bytes]:
        rest = size % TILE_WIDTH
        return self._reader.entries(tile_at(0, size // TILE_WIDTH, size)) if rest else []

    def _fetch(self, source: HttpSource, start: int, size: int) -> Iterator[list[bytes]]:
        """Yield the new leaves, one bundle's worth at a time."""
        for index in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
            tile = tile_at(0, index, size)
            data, width = source.tile(tile.entries_path()), tile.width
            if data is None:
                # The partial bundle is gone once the full one is there.
                data, width = source.tile(tile.full().entries_path()), TILE_WIDTH
            if data is None:
                raise NetworkError("leaves are missing", reason=Reason.NETWORK_FAILED)
            entries = decode_entries(data, width)[: tile.width]
            yield entries[max(0, start - index * TILE_WIDTH) :]

    def _contradiction(
        self, source: HttpSource, signed: SignedCheckpoint, checkpoint: Checkpoint
    ) -> ForkEvidence:
        own = self.latest()
        try:
            if own is not None and own.unverified.size:
                evidence = self._from_operator(source, own, signed, checkpoint)
                evidence.verify(self.log)
                return evidence
        except StoreError:
            raise
        except Error:
            pass  # No proof of a fork: it served other bytes than it signed.
        raise VerificationError(
            "the leaves do not lead to the root that the log signed",
            reason=Reason.CONTENT_MISMATCH,
        )

    def _from_operator(
        self,
        source: HttpSource,
        own: SignedCheckpoint,
        signed: SignedCheckpoint,
        checkpoint: Checkpoint,
    ) -> ForkEvidence:
        """Make the proof from the operator's tiles; `ForkEvidence.verify` says what it is worth."""

        def read(tile: Tile) -> bytes:
            data = source.tile(tile.path())
            if data is None and not tile.is_full:
                data = source.tile(tile.full().path())
            if data is None:
                raise NetworkError("a tile is missing", reason=Reason.NETWORK_FAILED)
            return data

        old_size = own.unverified.size
        hashes = TileHashes(checkpoint.size, read)
        path = make_consistency_proof(hashes, old_size, checkpoint.size)
        return ForkEvidence(own, signed, read_root(hashes, old_size), tuple(path))
