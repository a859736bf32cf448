"""Reads the tree of a log from its tiles: hashes, roots, entries. Believes no tile.

Whoever uses what is read compares it with a root that the log signed.
"""

from __future__ import annotations

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError
from verispect.ledger.log.interface import TileStore
from verispect.tlog.proof import read_root
from verispect.tlog.tiles import TILE_WIDTH, Tile, TileHashes, decode_entries, tile_at


class TileReader:
    """Tiles by name, from any store; a partial tile that is gone is taken from the full one."""

    def __init__(self, tiles: TileStore) -> None:
        self._tiles = tiles

    def tile(self, tile: Tile) -> bytes:
        """Return the bytes of a tile of hashes.

        Raises:
            StoreError: `store-failed`.
        """
        return self._get(tile.path(), tile.full().path())

    def entries(self, tile: Tile) -> list[bytes]:
        """Return the entries below a tile of level 0: as many as it is wide.

        Raises:
            StoreError: `store-failed`.
            MalformedError: `malformed-tile`.
        """
        data = self._tiles.get(tile.entries_path())
        if data is not None:
            return decode_entries(data, tile.width)
        full = self._get(tile.full().entries_path(), tile.entries_path())
        return decode_entries(full, TILE_WIDTH)[: tile.width]

    def leaf(self, index: int, size: int) -> bytes:
        """Return the leaf at `index` of a tree of `size` leaves.

        Raises:
            StoreError: `store-failed`.
            MalformedError: `malformed-tile`.
        """
        return self.entries(tile_at(0, index // TILE_WIDTH, size))[index % TILE_WIDTH]

    def hashes(self, size: int) -> TileHashes:
        """Return the hashes of a tree of `size` leaves."""
        return TileHashes(size, self.tile)

    def root(self, size: int, stored: int) -> Digest:
        """Return the root of the first `size` leaves of a tree of `stored` leaves.

        Raises:
            StoreError: `store-failed`.
            MalformedError: `malformed-tile`.
        """
        return read_root(self.hashes(stored), size)

    def _get(self, *paths: str) -> bytes:
        for path in paths:
            data = self._tiles.get(path)
            if data is not None:
                return data
        raise StoreError(f"{paths[0]} is missing", reason=Reason.STORE_FAILED)
