"""The hash tree over the columns of a commitment, and its openings (spec/proof.md, section 4).

An opening has one form: the authentication nodes it needs, in their order, and no other. Because a
leaf and a node begin with different octets, neither can pass for the other.

This module refuses an opening with a node too few or too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from verispect.core.errors import MalformedError, Reason

HASH_BYTES: Final = 32
SALT_BYTES: Final = 32
"""Random octets at the end of every leaf of a commitment that hides."""
LEAF: Final = b"\x00"
NODE: Final = b"\x01"


def leaf_hash(column: bytes) -> bytes:
    """Return the hash of one leaf: a column's octets, and its salt where the commitment hides."""
    return hashlib.sha256(LEAF + column).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of one node."""
    return hashlib.sha256(NODE + left + right).digest()


def missing_nodes(log_leaves: int, positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the authentication nodes of an opening, in order.

    Args:
        log_leaves: the logarithm of the number of leaves.
        positions: the opened leaves, distinct and ascending.

    Yields:
        The level, counted from the leaves, and the index in it.
    """
    _check_positions(log_leaves, positions)
    known = list(positions)
    for level in range(log_leaves):
        members = set(known)
        yield from ((level, index ^ 1) for index in known if index ^ 1 not in members)
        known = sorted({index >> 1 for index in known})


def count_missing(log_leaves: int, positions: Sequence[int]) -> int:
    """Return how many authentication nodes an opening has."""
    return sum(1 for _ in missing_nodes(log_leaves, positions))


def root_of_opening(
    log_leaves: int, positions: Sequence[int], leaves: Sequence[bytes], nodes: bytes
) -> bytes:
    """Return the root that opened leaves and their authentication nodes lead to.

    Args:
        log_leaves: the logarithm of the number of leaves.
        positions: the opened leaves, distinct and ascending, at least one.
        leaves: their hashes.
        nodes: the authentication nodes, concatenated.

    Raises:
        MalformedError: `MALFORMED_PROOF` for a node too few or too many.
    """
    _check_positions(log_leaves, positions)
    if not positions or len(leaves) != len(positions):
        raise ValueError("expected a hash for every opened leaf")
    start = 0
    level = dict(zip(positions, leaves, strict=True))
    for _ in range(log_leaves):
        above: dict[int, bytes] = {}
        for index, known in level.items():
            sibling = level.get(index ^ 1)
            if sibling is None:
                sibling = nodes[start : start + HASH_BYTES]
                start += HASH_BYTES
            elif index & 1:
                continue
            above[index >> 1] = (
                node_hash(sibling, known) if index & 1 else node_hash(known, sibling)
            )
        level = above
    if start != len(nodes):
        raise MalformedError(
            "an opening has another number of authentication nodes than its positions need",
            reason=Reason.MALFORMED_PROOF,
        )
    return level[0]


def _check_positions(log_leaves: int, positions: Sequence[int]) -> None:
    previous = -1
    for position in positions:
        if position <= previous:
            raise ValueError("positions are distinct and ascending")
        previous = position
    if previous >= 1 << log_leaves:
        raise ValueError("a position is not in the tree")
