"""The Merkle tree: the published values of Certificate Transparency, and the right edge."""

from __future__ import annotations

import pytest

from tlog_log import naive_root
from verispect.tlog.merkle import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    Frontier,
    Node,
    complete_subtrees,
    fold,
    leaf_hash,
    node_hash,
    root_of,
)
from verispect.tlog.proof import verify_consistency, verify_inclusion

# The eight leaves and the roots that Certificate Transparency's implementations share.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    """Each tree over the published leaves has the published root."""
    assert root_of(HASHES[:size]).hex() == ROOTS[size]
    assert naive_root(HASHES[:size]).hex() == ROOTS[size]


def test_leaf_and_node_hashes_are_the_published_ones():
    """Leaves and nodes are hashed apart, as published."""
    assert HASHES[3].hex() == "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7"
    assert (
        node_hash(HASHES[4], HASHES[5]).hex()
        == "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
    )
    assert EMPTY_ROOT.hex() == ROOTS[0]


def test_the_published_consistency_proof_verifies():
    """The published proof from six to eight leaves is accepted."""
    path = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    verify_consistency(
        old_size=6,
        old_root=bytes.fromhex(ROOTS[6]),
        new_size=8,
        new_root=bytes.fromhex(ROOTS[8]),
        path=[bytes.fromhex(each) for each in path],
    )


def test_the_published_inclusion_path_verifies():
    """The path of the sixth leaf among eight is made of published nodes."""
    path = [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    verify_inclusion(
        HASHES[5],
        index=5,
        size=8,
        path=[bytes.fromhex(each) for each in path],
        root=bytes.fromhex(ROOTS[8]),
    )


def test_a_frontier_grows_the_same_however_it_is_fed():
    """Appending one by one, in pieces or from a rebuilt frontier gives one tree."""
    hashes = [leaf_hash(bytes((number,))) for number in range(100)]
    one_by_one, pieces = Frontier(), Frontier()
    for each in hashes:
        one_by_one.append(each)
    for start in (0, 1, 4, 32, 33, 99):
        end = {0: 1, 1: 4, 4: 32, 32: 33, 33: 99, 99: 100}[start]
        pieces.extend(hashes[start:end])
        pieces = Frontier(pieces.size, pieces.hashes)
        assert pieces.root() == naive_root(hashes[:end])
    assert one_by_one.root() == pieces.root()
    assert len(pieces.hashes) == 3  # 64 + 32 + 4.


def test_a_copy_is_independent():
    """What is appended to a copy is not in the original."""
    frontier = Frontier()
    frontier.append(HASHES[0])
    copy = frontier.copy()
    copy.append(HASHES[1])
    assert (frontier.size, copy.size) == (1, 2)
    assert frontier.root() == HASHES[0]


def test_a_frontier_refuses_hashes_that_do_not_fit_its_size():
    """The number and length of the hashes must be those of the size."""
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier(3, [HASHES[0]])
    with pytest.raises(ValueError, match="32 bytes"):
        Frontier(1, [b"short"])
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier(-1, [])
    full = Frontier(MAX_TREE_SIZE, [HASHES[0]] * 63)
    with pytest.raises(ValueError, match="at most"):
        full.append(HASHES[0])


def test_complete_subtrees_cover_a_range_from_the_left():
    """The largest subtrees come first."""
    assert complete_subtrees(0, 7) == [Node(2, 0), Node(1, 2), Node(0, 6)]
    assert complete_subtrees(4, 6) == [Node(1, 2)]
    assert complete_subtrees(5, 5) == []
    assert Node(2, 3).leaves() == range(12, 16)
    assert fold([]) == EMPTY_ROOT
