"""Openings of the hash tree: one form, and nothing else leads to the root."""

from __future__ import annotations

import itertools
import random

import pytest

from verispect.core.errors import MalformedError
from verispect.proof import merkle


def levels(log_leaves: int) -> list[list[bytes]]:
    found = [[merkle.leaf_hash(bytes([i])) for i in range(1 << log_leaves)]]
    while len(found[-1]) > 1:
        below = found[-1]
        found.append([merkle.node_hash(below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return found


def opening(tree: list[list[bytes]], positions: list[int]) -> bytes:
    needed = merkle.missing_nodes(len(tree) - 1, positions)
    return b"".join(tree[level][index] for level, index in needed)


@pytest.mark.parametrize("log_leaves", [0, 1, 2, 3])
def test_every_set_of_leaves_leads_to_the_root(log_leaves):
    """Every set of positions of a small tree opens to its root."""
    tree = levels(log_leaves)
    for size in range(1, (1 << log_leaves) + 1):
        for chosen in itertools.combinations(range(1 << log_leaves), size):
            nodes = opening(tree, list(chosen))
            leaves = [tree[0][i] for i in chosen]
            found = merkle.root_of_opening(log_leaves, chosen, leaves, nodes)
            assert found == tree[-1][0]
            assert merkle.count_missing(log_leaves, chosen) == len(nodes) // 32


def test_order_of_nodes_is_by_level_then_index():
    """The nodes come level by level from the leaves, in ascending index, none that is known."""
    assert list(merkle.missing_nodes(4, [0, 1, 5, 15])) == [
        (0, 4), (0, 14), (1, 1), (1, 3), (1, 6), (2, 2),
    ]  # fmt: skip


def test_changed_openings_lead_elsewhere():
    """A changed leaf, node or position leads to another root or is refused."""
    tree = levels(6)
    positions = sorted(random.Random(3).sample(range(64), 9))
    leaves = [tree[0][i] for i in positions]
    nodes = opening(tree, positions)
    root = tree[-1][0]
    for place in range(len(nodes)):
        wrong = bytearray(nodes)
        wrong[place] ^= 1
        assert merkle.root_of_opening(6, positions, leaves, bytes(wrong)) != root
    for index in range(len(leaves)):
        other = [*leaves]
        other[index] = merkle.leaf_hash(b"other")
        assert merkle.root_of_opening(6, positions, other, nodes) != root
    swapped = [leaves[1], leaves[0], *leaves[2:]]
    assert merkle.root_of_opening(6, positions, swapped, nodes) != root
    for wrong_length in (nodes[:-32], nodes + bytes(32), nodes[:-1], nodes + b"\0", b""):
        with pytest.raises(MalformedError):
            merkle.root_of_opening(6, positions, leaves, wrong_length)


def test_leaves_are_no_nodes():
    """The octets of two hashes as a column do not hash to their parent."""
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize("positions", [[1, 1], [2, 1], [0, 16], [-1, 2]])
def test_positions_are_distinct_ascending_and_inside(positions):
    """Positions that the caller did not sort or bound are its error."""
    with pytest.raises(ValueError, match="position"):
        merkle.count_missing(4, positions)
