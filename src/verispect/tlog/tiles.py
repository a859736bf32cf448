"""Tiles and entry bundles of C2SP tlog-tiles: names, bytes, which ones an append makes.

A tile of level L holds up to 256 hashes, each the root of `256 ** L` leaves; a full tile's root is
one hash of the tile above it. A tree is stored as its full tiles and, at its right edge, one
partial tile per level. `TileEdge` makes the tiles of an append, and `TileHashes` reads the hashes
of a tree back out of tiles.

This module never opens a file: tiles come from a function that the caller gives. A tile's path
has one form, and only that form is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import MalformedError, Reason
from verispect.tlog.merkle import MAX_TREE_SIZE, Node, fold, parent_hashes

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes in a full tile."""

MAX_TILE_LEVEL: Final = 7
"""A tree of `MAX_TREE_SIZE` leaves has no tile above this level."""

MAX_ENTRY_BYTES: Final = (1 << 16) - 1
"""A bundle gives the length of an entry in 16 bits."""

MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)

_INDEX_PATTERN: Final = re.compile(r"(?:x[0-9]{3}/){0,6}[0-9]{3}", re.ASCII)
_TILE_PATTERN: Final = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
    re.ASCII,
)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TILE)


def encode_index(index: int) -> str:
    """Return the path form of a tile's index: 1234067 is `x001/x234/067`."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def decode_index(text: str) -> int:
    """Read the path form of a tile's index.

    Raises:
        MalformedError: `malformed-tile` for any other than the shortest form.
    """
    if not _INDEX_PATTERN.fullmatch(text):
        raise _malformed("not the index of a tile")
    index = int(text.replace("x", "").replace("/", ""))
    if encode_index(index) != text:
        raise _malformed("the index of a tile has leading zeroes")
    return index


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of a tile of hashes."""

    level: int
    index: int
    width: int = TILE_WIDTH
    """How many hashes: 256 in a full tile, 1 to 255 in a partial one."""

    @property
    def is_full(self) -> bool:
        """Whether the tile is full and so never changes again."""
        return self.width == TILE_WIDTH

    def full(self) -> Tile:
        """Return the full tile that this one is a part of."""
        return Tile(self.level, self.index)

    def path(self) -> str:
        """Return the path below the log's prefix."""
        return f"tile/{self.level}/{encode_index(self.index)}{_suffix(self.width)}"

    def entries_path(self) -> str:
        """Return the path of the bundle of entries below this tile, which is of level 0."""
        return f"tile/entries/{encode_index(self.index)}{_suffix(self.width)}"


def _suffix(width: int) -> str:
    return "" if width == TILE_WIDTH else f".p/{width}"


def parse_path(path: str) -> tuple[Tile, bool]:
    """Read the path of a tile or of a bundle.

    Returns:
        The tile, and whether the path is that of its entries.

    Raises:
        MalformedError: `malformed-tile`.
    """
    match = _TILE_PATTERN.fullmatch(path)
    if match is None:
        raise _malformed("not the path of a tile")
    level, index, width = match.groups()
    tile = Tile(
        0 if level == "entries" else int(level),
        decode_index(index),
        TILE_WIDTH if width is None else int(width),
    )
    if width is not None and tile.width >= TILE_WIDTH:
        raise _malformed("a partial tile is narrower than 256")
    return tile, level == "entries"


# -- Bytes ----------------------------------------------------------------------------------------


def encode_tile(hashes: Sequence[Digest]) -> bytes:
    """Return the bytes of a tile."""
    return b"".join(hashes)


def decode_tile(tile: Tile, data: bytes) -> list[Digest]:
    """Read the hashes of a tile.

    Raises:
        MalformedError: `malformed-tile` unless `data` is exactly as wide as the tile.
    """
    if len(data) != tile.width * DIGEST_BYTES:
        raise _malformed(f"expected {tile.width} hashes, got {len(data)} bytes")
    return [Digest(data[at : at + DIGEST_BYTES]) for at in range(0, len(data), DIGEST_BYTES)]


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Return the bytes of a bundle of entries.

    Raises:
        MalformedError: `too-large` for an entry of more than `MAX_ENTRY_BYTES`.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise MalformedError(
                f"expected an entry of at most {MAX_ENTRY_BYTES} bytes, got {len(entry)}",
                reason=Reason.TOO_LARGE,
            )
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_entries(data: bytes, count: int) -> list[bytes]:
    """Read a bundle of exactly `count` entries.

    Raises:
        MalformedError: `malformed-tile`.
    """
    entries = []
    offset = 0
    for _ in range(count):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if start > len(data) or offset > len(data):
            raise _malformed("a bundle of entries ends too early")
        entries.append(data[start:offset])
    if offset != len(data):
        raise _malformed("bytes after the last entry of a bundle")
    return entries


# -- Which tiles ----------------------------------------------------------------------------------


def tile_at(level: int, index: int, size: int) -> Tile:
    """Return the tile at this place in a tree of `size` leaves: full, or partial at the edge.

    Raises:
        ValueError: where that tree has no such tile; this is misuse.
    """
    width = min(TILE_WIDTH, (size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH)
    if width <= 0 or index < 0:
        raise ValueError(f"a tree of {size} leaves has no tile {index} of level {level}")
    return Tile(level, index, width)


def tiles_of(size: int) -> Iterator[Tile]:
    """Return every tile of a tree of `size` leaves, level by level; no older partial one."""
    return tiles_added(0, size)


def tiles_added(old_size: int, new_size: int) -> Iterator[Tile]:
    """Return the tiles that a tree has and did not have before it grew.

    Args:
        old_size: the size before; its partial tiles are not repeated where they stayed the same.
        new_size: the size after.
    """
    for level in range(MAX_TILE_LEVEL + 1):
        shift = TILE_HEIGHT * level
        old_width, new_width = old_size >> shift, new_size >> shift
        if new_width == 0:
            return
        if old_width == new_width:
            continue
        last = (new_width - 1) // TILE_WIDTH
        for index in range(old_width // TILE_WIDTH, last + 1):
            yield tile_at(level, index, new_size)


class TileEdge:
    """The rightmost tiles of a tree, and what an append makes of them. O(log n) memory.

    Args:
        size: the number of leaves.
        read_tile: gives the bytes of the partial tiles of that size; called here and never again.

    Raises:
        MalformedError: `malformed-tile`.
        Error: what `read_tile` raises.
    """

    __slots__ = ("_rows", "_size")

    def __init__(self, size: int = 0, read_tile: Callable[[Tile], bytes] | None = None) -> None:
        if not 0 <= size <= MAX_TREE_SIZE:
            raise ValueError(f"a tree has at most {MAX_TREE_SIZE} leaves")
        self._size = size
        self._rows: list[list[Digest]] = []
        for level in range((max(size, 1).bit_length() - 1) // TILE_HEIGHT + 1):
            width = size >> (TILE_HEIGHT * level)
            row: list[Digest] = []
            if width % TILE_WIDTH:
                if read_tile is None:
                    raise ValueError("the edge of a tree that is not empty is read from its tiles")
                tile = tile_at(level, width // TILE_WIDTH, size)
                row = decode_tile(tile, read_tile(tile))
            self._rows.append(row)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def copy(self) -> TileEdge:
        """Return an independent edge of the same tree."""
        other = TileEdge()
        other._size = self._size
        other._rows = [list(row) for row in self._rows]
        return other

    def extend(self, leaves: Sequence[Digest]) -> list[tuple[Tile, bytes]]:
        """Add leaf hashes and return the tiles to store: the full ones, then the partial ones.

        They are those of `tiles_added`. Full tiles never change; a partial tile has a path of its
        own for each width, so that no path ever gets other bytes.

        Raises:
            ValueError: beyond `MAX_TREE_SIZE`.
        """
        if self._size + len(leaves) > MAX_TREE_SIZE:
            raise ValueError(f"a tree has at most {MAX_TREE_SIZE} leaves")
        made: list[tuple[Tile, bytes]] = []
        partial: list[tuple[Tile, bytes]] = []
        added: Sequence[Digest] = leaves
        level = 0
        while added:
            if level == len(self._rows):
                self._rows.append([])
            index = (self._size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            row = self._rows[level] + list(added)
            whole = len(row) - len(row) % TILE_WIDTH
            above = []
            for start in range(0, whole, TILE_WIDTH):
                hashes = row[start : start + TILE_WIDTH]
                made.append((Tile(level, index), encode_tile(hashes)))
                above.append(_root_of_full(hashes))
                index += 1
            rest = self._rows[level] = row[whole:]
            if rest:
                partial.append((Tile(level, index, len(rest)), encode_tile(rest)))
            added = above
            level += 1
        self._size += len(leaves)
        return made + partial

    def root(self) -> Digest:
        """Return the root of the whole tree."""
        hashes: list[Digest] = []
        for row in reversed(self._rows):
            hashes += _complete_roots(row)
        return fold(hashes)


def _root_of_full(hashes: Sequence[Digest]) -> Digest:
    """Return the root of a complete subtree."""
    while len(hashes) > 1:
        hashes = parent_hashes(hashes)
    return hashes[0]


def _complete_roots(row: Sequence[Digest]) -> list[Digest]:
    """Return the roots of the largest complete subtrees over a tile's hashes."""
    roots = []
    start = 0
    while start < len(row):
        end = start + (1 << ((len(row) - start).bit_length() - 1))
        roots.append(_root_of_full(row[start:end]))
        start = end
    return roots


class TileHashes:
    """The hashes of a tree of `size` leaves, read from its tiles: a `HashReader`.

    Tiles are believed as they come; whoever verifies what is made from them finds out a false one.
    One object reads each tile once, so it is for one proof or a few, not for ever.

    Args:
        size: the size of a published checkpoint, for which partial tiles were stored. Proofs for
            smaller trees are made from it as well.
        read_tile: gives the bytes of a tile. Where a partial tile is gone it MAY give those of
            the full one.
    """

    __slots__ = ("_read_tile", "_rows", "_size")

    def __init__(self, size: int, read_tile: Callable[[Tile], bytes]) -> None:
        self._size = size
        self._read_tile = read_tile
        self._rows: dict[Tile, list[Digest]] = {}

    def read_hashes(self, nodes: Sequence[Node]) -> list[Digest]:
        """Return the hash of each node.

        Raises:
            MalformedError: `malformed-tile`.
            ValueError: for a node that is not complete in this tree; this is misuse.
        """
        return [self._hash(node) for node in nodes]

    def _hash(self, node: Node) -> Digest:
        leaves = node.leaves()
        if leaves.start < 0 or leaves.stop > self._size:
            raise ValueError(f"node {node.index} of level {node.level} is not complete")
        level, height = divmod(node.level, TILE_HEIGHT)
        start = node.index << height
        row = self._row(tile_at(level, start // TILE_WIDTH, self._size))
        offset = start % TILE_WIDTH
        return _root_of_full(row[offset : offset + (1 << height)])

    def _row(self, tile: Tile) -> list[Digest]:
        row = self._rows.get(tile)
        if row is None:
            data = self._read_tile(tile)
            full = TILE_WIDTH * DIGEST_BYTES
            if len(data) == full and not tile.is_full:
                data = data[: tile.width * DIGEST_BYTES]
            row = self._rows[tile] = decode_tile(tile, data)
        return row
