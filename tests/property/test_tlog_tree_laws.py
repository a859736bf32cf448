"""Laws of the tree: every proof against the definition, and any other proof refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlog_log import MemoryLog, entries, naive_consistency, naive_path, naive_root
from verispect.core.errors import VerificationError
from verispect.tlog.merkle import Frontier, leaf_hash
from verispect.tlog.proof import (
    make_consistency_proof,
    make_inclusion_proof,
    read_root,
    verify_consistency,
    verify_inclusion,
)
from verispect.tlog.tiles import TileEdge, decode_index, encode_index, tile_at, tiles_added

SMALL = 40
LARGE = 300
LOG = MemoryLog(entries(LARGE), batch=37)
HASHES = LOG.hashes()
ROOTS = [naive_root(HASHES[:size]) for size in range(LARGE + 1)]


def test_every_small_inclusion_is_that_of_the_definition():
    """For all indexes and sizes to 40, the path is PATH and verifies for its place only."""
    for size in range(1, SMALL + 1):
        reader = LOG.reader()
        for index in range(size):
            path = make_inclusion_proof(reader, index, size)
            assert path == naive_path(index, HASHES[:size])
            verify_inclusion(HASHES[index], index=index, size=size, path=path, root=ROOTS[size])
            with pytest.raises(VerificationError):
                verify_inclusion(
                    HASHES[index], index=(index + 1) % (size + 1), size=size, path=path,
                    root=ROOTS[size],
                )  # fmt: skip


def test_every_small_consistency_is_that_of_the_definition():
    """For all pairs of sizes to 40, the proof is PROOF and verifies for these roots only."""
    for new in range(1, SMALL + 1):
        reader = LOG.reader()
        for old in range(1, new + 1):
            path = make_consistency_proof(reader, old, new)
            assert path == naive_consistency(old, HASHES[:new])
            good = {"old_size": old, "new_size": new, "path": path}
            verify_consistency(old_root=ROOTS[old], new_root=ROOTS[new], **good)
            for roots in ((ROOTS[old - 1], ROOTS[new]), (ROOTS[old], ROOTS[new - 1])):
                with pytest.raises(VerificationError):
                    verify_consistency(old_root=roots[0], new_root=roots[1], **good)


@given(st.integers(1, LARGE), st.data())
@settings(max_examples=300, deadline=None)
def test_inclusion_in_any_tree(size, data):
    """Any leaf of any tree of up to 300 leaves, read from tiles, is proven as defined."""
    index = data.draw(st.integers(0, size - 1))
    path = make_inclusion_proof(LOG.reader(), index, size)
    assert path == naive_path(index, HASHES[:size])
    verify_inclusion(HASHES[index], index=index, size=size, path=path, root=ROOTS[size])


@given(st.integers(0, LARGE), st.data())
@settings(max_examples=300, deadline=None)
def test_consistency_of_any_two_trees(new, data):
    """Any two trees of up to 300 leaves are proven consistent as defined."""
    old = data.draw(st.integers(0, new))
    path = make_consistency_proof(LOG.reader(), old, new)
    if old:
        assert path == naive_consistency(old, HASHES[:new])
    verify_consistency(
        old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], path=path
    )


@given(st.integers(2, LARGE), st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_an_inclusion_proof_is_refused(size, data):
    """A flipped bit, a hash more, less, swapped or doubled, another index, size or root: no."""
    index = data.draw(st.integers(0, size - 1))
    path = make_inclusion_proof(LOG.reader(), index, size)
    changed = data.draw(changes_of(path))
    with pytest.raises(VerificationError):
        verify_inclusion(HASHES[index], index=index, size=size, path=changed, root=ROOTS[size])
    other = data.draw(st.integers(-1, LARGE).filter(lambda each: each != index))
    with pytest.raises(VerificationError):
        verify_inclusion(HASHES[index], index=other, size=size, path=path, root=ROOTS[size])
    with pytest.raises(VerificationError):
        verify_inclusion(HASHES[index - 1], index=index, size=size, path=path, root=ROOTS[size])


@given(st.integers(2, LARGE), st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_a_consistency_proof_is_refused(new, data):
    """A damaged consistency proof is refused, and so is an honest one for other roots."""
    old = data.draw(st.integers(1, new - 1))
    path = make_consistency_proof(LOG.reader(), old, new)
    changed = data.draw(changes_of(path))
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=old, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], path=changed
        )
    other = data.draw(st.integers(0, LARGE).filter(lambda each: each != old))
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=old, old_root=ROOTS[other], new_size=new, new_root=ROOTS[new], path=path
        )
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=other, old_root=ROOTS[old], new_size=new, new_root=ROOTS[new], path=path
        )


def changes_of(path):
    def flipped(place, bit):
        changed = list(path)
        each = bytearray(changed[place])
        each[bit // 8] ^= 1 << (bit % 8)
        changed[place] = bytes(each)
        return changed

    kinds = [
        st.builds(lambda: [*path, bytes(32)]),
        st.builds(lambda: [bytes(32), *path]),
        st.builds(lambda: list(path)[:-1]),
        st.builds(lambda: list(path)[1:]),
        st.builds(flipped, st.integers(0, len(path) - 1), st.integers(0, 255)),
        st.builds(lambda: [path[0][:-1], *path[1:]]),
        st.builds(lambda: [path[0], *path]),
    ]
    if len(path) > 1:
        kinds.append(st.builds(lambda: [path[1], path[0], *path[2:]]))
    return st.one_of(kinds).filter(lambda changed: changed != list(path))


@given(st.lists(st.integers(0, 700), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_tiles_and_frontier_agree_however_a_tree_grew(steps):
    """Any sequence of appends gives the tiles that are named, and one root three ways."""
    edge, frontier, stored = TileEdge(), Frontier(), {}
    for step in steps:
        hashes = [leaf_hash(f"{edge.size + each}".encode()) for each in range(step)]
        before = edge.size
        made = dict(edge.extend(hashes))
        assert set(made) == set(tiles_added(before, edge.size))
        for tile, data in made.items():
            assert stored.setdefault(tile, data) == data
        frontier.extend(hashes)
    assert edge.root() == frontier.root()
    from verispect.tlog.tiles import TileHashes

    assert read_root(TileHashes(edge.size, stored.__getitem__), edge.size) == edge.root()


@given(st.integers(0, 10**12))
def test_an_index_survives_its_path(index):
    """Encoding and decoding an index are inverse."""
    assert decode_index(encode_index(index)) == index


@given(st.integers(0, 2**40), st.integers(0, 70_000))
@settings(max_examples=60, deadline=None)
def test_new_tiles_are_the_difference_of_two_trees(old, grown):
    """Each named tile exists in the new tree, at its width, and did not in the old one."""
    new = old + grown
    for tile in tiles_added(old, new):
        assert tile == tile_at(tile.level, tile.index, new)
        start = tile.index * 256
        before = min(256, max(0, (old >> (8 * tile.level)) - start))
        assert before < tile.width


class Sparse:
    """A tree too large to store: every leaf is the same, so every complete subtree is known."""

    def __init__(self):
        self.by_level = [leaf_hash(b"")]
        for _ in range(63):
            last = self.by_level[-1]
            frontier = Frontier(1, [last])
            frontier.append(last)
            self.by_level.append(frontier.root())

    def read_hashes(self, nodes):
        return [self.by_level[node.level] for node in nodes]


SPARSE = Sparse()
HUGE = st.integers(1, (1 << 63) - 1)


@given(HUGE, HUGE)
@settings(max_examples=200, deadline=None)
def test_proofs_hold_in_huge_trees(first, second):
    """Up to the largest size, proofs are short, verify, and are refused for the next index."""
    old, new = sorted((first, second))
    root, path = read_root(SPARSE, new), make_inclusion_proof(SPARSE, old - 1, new)
    assert len(path) <= 63
    verify_inclusion(SPARSE.by_level[0], index=old - 1, size=new, path=path, root=root)
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(b"x"), index=old - 1, size=new, path=path, root=root)
    consistency = make_consistency_proof(SPARSE, old, new)
    assert len(consistency) <= 64
    verify_consistency(
        old_size=old,
        old_root=read_root(SPARSE, old),
        new_size=new,
        new_root=root,
        path=consistency,
    )
