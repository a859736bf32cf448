"""Inclusion and consistency proofs of RFC 6962 sections 2.1.1 and 2.1.2.

Proofs are made from the hashes of complete subtrees, wherever a `HashReader` finds them, and
verified from bytes alone by the algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2, which are
another way to the same answer than the one by which they are made.

This module refuses to say that a root is anybody's: that is the business of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import Reason, VerificationError
from verispect.tlog.merkle import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    Node,
    complete_subtrees,
    fold,
    node_hash,
)

MAX_PROOF_HASHES: Final = 63
"""The longest proof of either kind in a tree of `MAX_TREE_SIZE` leaves."""


class HashReader(Protocol):
    """Whoever knows the hashes of a tree's complete subtrees."""

    def read_hashes(self, nodes: Sequence[Node]) -> Sequence[Digest]:
        """Return the hash of each node, in the order asked for.

        An implementation MUST raise one of our errors where it lacks a node; it MUST NOT return
        fewer hashes.
        """
        ...


# -- Making ---------------------------------------------------------------------------------------


def read_root(reader: HashReader, size: int) -> Digest:
    """Return the root of the first `size` leaves.

    Raises:
        Error: what the reader raises.
    """
    return fold(reader.read_hashes(complete_subtrees(0, size)))


def make_inclusion_proof(reader: HashReader, index: int, size: int) -> list[Digest]:
    """Return the path from leaf `index` to the root of the first `size` leaves.

    Args:
        reader: knows the hashes of a tree of at least `size` leaves.
        index: the leaf, from 0.
        size: the tree that the proof is for.

    Raises:
        ValueError: unless `0 <= index < size`; this is misuse.
        Error: what the reader raises.
    """
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    return _read_ranges(reader, _inclusion_ranges(index, size))


def make_consistency_proof(reader: HashReader, old_size: int, new_size: int) -> list[Digest]:
    """Return the proof that the first `old_size` leaves begin the first `new_size`.

    Args:
        reader: knows the hashes of a tree of at least `new_size` leaves.
        old_size: the smaller tree; from the empty one, and to an equal one, the proof is empty.
        new_size: the larger tree.

    Raises:
        ValueError: unless `0 <= old_size <= new_size`; this is misuse.
        Error: what the reader raises.
    """
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise ValueError(f"a tree of {old_size} leaves does not grow to {new_size}")
    if old_size in (0, new_size):
        return []
    return _read_ranges(reader, _consistency_ranges(old_size, new_size))


_Range = tuple[int, int]


def _split(start: int, end: int) -> int:
    """Return where the left child of the node over `start` to `end` ends."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _inclusion_ranges(index: int, size: int) -> list[_Range]:
    start, end = 0, size
    siblings = []
    while end - start > 1:
        middle = _split(start, end)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    siblings.reverse()  # From the leaf's sibling up.
    return siblings


def _consistency_ranges(old_size: int, new_size: int) -> list[_Range]:
    # SUBPROOF of RFC 6962 section 2.1.2, from the root down. While the old tree fills the whole
    # range from leaf 0, its root is known to the verifier and is not part of the proof.
    start, end = 0, new_size
    ranges = []
    while old_size != end:
        middle = _split(start, end)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start != 0:
        ranges.append((start, end))
    ranges.reverse()
    return ranges


def _read_ranges(reader: HashReader, ranges: Sequence[_Range]) -> list[Digest]:
    """Read what all ranges need at once, then return the root of each."""
    parts = [complete_subtrees(start, end) for start, end in ranges]
    hashes = iter(reader.read_hashes([node for part in parts for node in part]))
    return [fold([next(hashes) for _ in part]) for part in parts]


# -- Verifying ------------------------------------------------------------------------------------


def inclusion_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> Digest:
    """Return the root that `path` leads to from a leaf hash (RFC 9162 section 2.1.3.2).

    Raises:
        VerificationError: `inclusion-invalid` where no tree of `size` leaves has such a path.
    """
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise _no_inclusion("the index is not in the tree")
    if len(leaf) != DIGEST_BYTES or any(len(each) != DIGEST_BYTES for each in path):
        raise _no_inclusion(f"a hash is not {DIGEST_BYTES} bytes")
    place, last = index, size - 1
    root = Digest(leaf)
    for sibling in path:
        if last == 0:
            raise _no_inclusion("the path is too long")
        if place & 1 or place == last:
            root = node_hash(sibling, root)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        place >>= 1
        last >>= 1
    if last != 0:
        raise _no_inclusion("the path is too short")
    return root


def _no_inclusion(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.INCLUSION_INVALID)


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf with this hash is the `index`-th of the tree with this size and root.

    Args:
        leaf: the leaf's hash, which the caller computed from the leaf itself.
        index: its place, from 0.
        size: the size of the tree.
        path: the proof, from the leaf's sibling up.
        root: the root that the caller trusts.

    Raises:
        VerificationError: `inclusion-invalid`.
    """
    if inclusion_root(leaf, index, size, path) != root:
        raise _no_inclusion("the path leads to another root")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the newer tree begins with all of the older one (RFC 9162 section 2.1.4.2).

    From the empty tree, and between trees of one size, the proof is empty and the roots alone
    decide.

    Args:
        old_size: the size of the older tree.
        old_root: its root, which the caller trusts.
        new_size: the size of the newer tree.
        new_root: its root.
        path: the proof.

    Raises:
        VerificationError: `consistency-invalid`.
    """
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise _not_consistent("the newer tree is smaller")
    if old_size in (0, new_size):
        if path:
            raise _not_consistent("the path must be empty")
        if old_root != (EMPTY_ROOT if old_size == 0 else new_root):
            raise _not_consistent("the roots of one size differ")
        return
    if consistent_root(old_size, old_root, new_size, path) != new_root:
        raise _not_consistent("the path leads to another root")


def consistent_root(old_size: int, old_root: bytes, new_size: int, path: Sequence[bytes]) -> Digest:
    """Return the newer root that `path` leads to from the older one.

    Args:
        old_size: the size of the older tree, not zero.
        old_root: its root.
        new_size: the size of the newer tree, which is larger.
        path: the proof.

    Raises:
        VerificationError: `consistency-invalid` where no tree of `new_size` leaves that begins
            with the older one has such a path.
    """
    if not 0 < old_size < new_size <= MAX_TREE_SIZE or len(old_root) != DIGEST_BYTES:
        raise _not_consistent("the newer tree is not larger")
    if not path or any(len(each) != DIGEST_BYTES for each in path):
        raise _not_consistent("the path is empty, or a hash has the wrong length")
    from_old, from_new = _walk_both(old_size, Digest(old_root), new_size, path)
    if from_old != old_root:
        raise _not_consistent("the path leads to another older root")
    return from_new


def _not_consistent(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.CONSISTENCY_INVALID)


def _walk_both(
    old_size: int, old_root: Digest, new_size: int, path: Sequence[bytes]
) -> tuple[Digest, Digest]:
    """Return the older and the newer root that the path leads to."""
    steps = [Digest(each) for each in path]
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)  # A power of two: the old root is itself a node of the new tree.
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place >>= 1
        last >>= 1
    from_old = from_new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise _not_consistent("the path is too long")
        if place & 1 or place == last:
            from_old = node_hash(step, from_old)
            from_new = node_hash(step, from_new)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            from_new = node_hash(from_new, step)
        place >>= 1
        last >>= 1
    if last != 0:
        raise _not_consistent("the path is too short")
    return from_old, from_new
