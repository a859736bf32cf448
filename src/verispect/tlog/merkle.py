"""The Merkle tree of RFC 6962 section 2.1 over SHA-256, and its right edge.

A leaf is hashed with a leading 0x00 and a node with a leading 0x01, so that neither is ever taken
for the other. `Frontier` holds the roots of the complete subtrees of a tree, one per bit of its
size: all that an append needs, in O(log n) memory.

This module never sees where hashes are stored (`verispect.tlog.tiles`) and makes no proofs
(`verispect.tlog.proof`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest, sha256

MAX_TREE_SIZE: Final = (1 << 63) - 1
"""The largest tree: every size and index fits in a signed integer of 64 bits."""

EMPTY_ROOT: Final = sha256(b"")
"""The root of the tree without leaves."""

_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: the `index`-th of those that span `2 ** level` leaves."""

    level: int
    index: int

    def leaves(self) -> range:
        """Return the indexes of the leaves below this node."""
        return range(self.index << self.level, (self.index + 1) << self.level)


def leaf_hash(data: bytes) -> Digest:
    """Return the hash of a leaf whose content is `data`."""
    return Digest(_sha256(b"\x00" + data).digest())


def leaf_hashes(entries: Iterable[bytes]) -> list[Digest]:
    """Return the leaf hash of each entry."""
    return [Digest(_sha256(b"\x00" + data).digest()) for data in entries]


def node_hash(left: bytes, right: bytes) -> Digest:
    """Return the hash of the node above `left` and `right`."""
    return Digest(_sha256(b"\x01" + left + right).digest())


def parent_hashes(hashes: Sequence[Digest]) -> list[Digest]:
    """Return the hashes one level up; an odd last one has no parent yet and is left out."""
    return [
        Digest(_sha256(b"\x01" + left + right).digest())
        for left, right in zip(hashes[::2], hashes[1::2], strict=False)
    ]


def root_of(hashes: Sequence[Digest]) -> Digest:
    """Return the root of the tree whose leaf hashes are `hashes`."""
    frontier = Frontier()
    frontier.extend(hashes)
    return frontier.root()


def complete_subtrees(start: int, end: int) -> list[Node]:
    """Return the largest complete subtrees that cover leaves `start` to `end`, left to right.

    Args:
        start: the first leaf; it must be where a subtree as large as the whole range may begin,
            as it is for every range that a root or a proof speaks of.
        end: the leaf after the last.
    """
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def fold(hashes: Sequence[Digest]) -> Digest:
    """Return the root over complete subtrees of falling size, given left to right.

    Args:
        hashes: the hashes of what `complete_subtrees` names; none for the empty tree.
    """
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Frontier:
    """The right edge of a tree: its size, and the root of each complete subtree under it.

    Args:
        size: the number of leaves.
        hashes: those of `complete_subtrees(0, size)`, largest first.

    Raises:
        ValueError: unless there is one hash of 32 bytes for each subtree; this is misuse.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self, size: int = 0, hashes: Sequence[Digest] = ()) -> None:
        nodes = complete_subtrees(0, size)
        if not 0 <= size <= MAX_TREE_SIZE or len(nodes) != len(hashes):
            raise ValueError(f"a tree of {size} leaves has another number of complete subtrees")
        if any(len(each) != DIGEST_BYTES for each in hashes):
            raise ValueError(f"a hash has {DIGEST_BYTES} bytes")
        self._size = size
        self._levels: dict[int, Digest] = {
            node.level: each for node, each in zip(nodes, hashes, strict=True)
        }

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> list[Digest]:
        """The roots of the complete subtrees, largest first: enough to build this again."""
        return [self._levels[level] for level in sorted(self._levels, reverse=True)]

    def copy(self) -> Frontier:
        """Return an independent frontier of the same tree."""
        return Frontier(self._size, self.hashes)

    def append(self, leaf: Digest) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Sequence[Digest]) -> None:
        """Add leaf hashes, level by level: as quick as the hashing itself.

        Raises:
            ValueError: beyond `MAX_TREE_SIZE`.
        """
        if self._size + len(leaves) > MAX_TREE_SIZE:
            raise ValueError(f"a tree has at most {MAX_TREE_SIZE} leaves")
        row: Sequence[Digest] = leaves
        level = 0
        while row:
            waiting = self._levels.pop(level, None)
            if waiting is not None:
                row = [waiting, *row]
            if len(row) % 2:
                self._levels[level] = row[-1]
            row = parent_hashes(row)
            level += 1
        self._size += len(leaves)

    def root(self) -> Digest:
        """Return the root of the whole tree."""
        return fold(self.hashes)
