"""Tiles: their names, their bytes, and which ones an append makes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tlog_log import MemoryLog, entries
from verispect.core.errors import MalformedError, Reason
from verispect.tlog.merkle import MAX_TREE_SIZE, Node, leaf_hash
from verispect.tlog.tiles import (
    MAX_ENTRY_BYTES,
    MAX_TILE_LEVEL,
    Tile,
    TileEdge,
    TileHashes,
    decode_entries,
    decode_index,
    decode_tile,
    encode_entries,
    encode_index,
    encode_tile,
    parse_path,
    tile_at,
    tiles_added,
    tiles_of,
)


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (0, "000"),
        (7, "007"),
        (999, "999"),
        (1000, "x001/000"),
        (1234067, "x001/x234/067"),
        (10**9, "x001/x000/x000/000"),
    ],
)
def test_an_index_is_split_as_the_specification_shows(index, text):
    """An index has three digits per path element, all but the last one marked."""
    assert encode_index(index) == text
    assert decode_index(text) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "7",
        "0007",
        "x000/007",
        "001/067",
        "x1/067",
        "x001/67",
        "x001/x067",
        "\u0660\u0660\u0667",
    ],
)
def test_an_index_of_another_form_is_refused(text):
    """One index has one path."""
    with pytest.raises(MalformedError) as caught:
        decode_index(text)
    assert caught.value.reason is Reason.MALFORMED_TILE


@pytest.mark.parametrize(
    ("path", "tile", "of_entries"),
    [
        ("tile/0/000", Tile(0, 0), False),
        ("tile/1/x001/067.p/17", Tile(1, 1067, 17), False),
        ("tile/entries/000.p/255", Tile(0, 0, 255), True),
        ("tile/entries/x123/456", Tile(0, 123456), True),
        ("tile/63/000", Tile(63, 0), False),
    ],
)
def test_a_path_is_read_and_written(path, tile, of_entries):
    """A path names one tile, or the entries below it."""
    assert parse_path(path) == (tile, of_entries)
    assert (tile.entries_path() if of_entries else tile.path()) == path


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/../000",
        "tile/entries/x000/000",
        "tile/0/000\n",
        "checkpoint",
        "tile/0/" + "x001/" * 7 + "000",
    ],
)
def test_a_path_of_another_form_is_refused(path):
    """What is not exactly the path of a tile is not read as one."""
    with pytest.raises(MalformedError) as caught:
        parse_path(path)
    assert caught.value.reason is Reason.MALFORMED_TILE


def test_a_tree_of_70000_has_the_tiles_that_the_specification_lists():
    """273 full and one partial tile below, one full and one partial above, one on top."""
    tiles = list(tiles_of(70_000))
    assert len(tiles) == 274 + 2 + 1
    assert tiles[273] == Tile(0, 273, 112)
    assert tiles[274:] == [Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


def test_the_largest_tree_has_no_tile_above_the_stated_level():
    """The stated level is the highest one there is."""
    assert MAX_TREE_SIZE >> (8 * MAX_TILE_LEVEL)
    assert not MAX_TREE_SIZE >> (8 * (MAX_TILE_LEVEL + 1))


@pytest.mark.parametrize("sizes", [(0, 1, 255, 256, 257, 600), (0, 300, 301, 65_536, 65_800)])
def test_an_append_makes_exactly_the_tiles_that_are_new(sizes):
    """What `extend` returns is what `tiles_added` names, and no tile ever changes."""
    hashes = [leaf_hash(entry) for entry in entries(sizes[-1])]
    edge, stored = TileEdge(), {}
    for old, new in pairwise(sizes):
        made = dict(edge.extend(hashes[old:new]))
        assert set(made) == set(tiles_added(old, new))
        assert not made.keys() & stored.keys()
        stored |= made
        assert TileEdge(new, stored.__getitem__).root() == edge.root()
    assert edge.extend([]) == []


def test_an_edge_is_read_back_from_its_partial_tiles_only():
    """To go on after a restart, no more than the rightmost tiles are read."""
    log = MemoryLog(entries(70_000), batch=20_000)
    read = []

    def read_tile(tile):
        read.append(tile)
        return log.resources[tile.path()]

    edge = TileEdge(70_000, read_tile)
    assert read == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    copy = edge.copy()
    copy.extend([leaf_hash(b"more")])
    assert edge.root() == log.root != copy.root()


def test_an_edge_that_is_not_empty_needs_its_tiles():
    """A size without tiles is misuse, and so is a size beyond the limit."""
    with pytest.raises(ValueError, match="read from its tiles"):
        TileEdge(5)
    with pytest.raises(ValueError, match="at most"):
        TileEdge(MAX_TREE_SIZE + 1)
    with pytest.raises(MalformedError):
        TileEdge(5, lambda tile: b"short")
    # A size without a partial tile at any level but the top needs only that one.
    assert TileEdge(256, lambda tile: bytes(32)).root() == bytes(32)


def test_hashes_are_read_from_a_full_tile_where_the_partial_one_is_gone():
    """A reader cuts the full tile to the width that its tree has."""
    log = MemoryLog(entries(300))
    old = TileHashes(200, lambda tile: log.resources[tile.full().path()])
    assert old.read_hashes([Node(0, 199), Node(7, 0)]) == log.reader().read_hashes(
        [Node(0, 199), Node(7, 0)]
    )
    with pytest.raises(ValueError, match="not complete"):
        old.read_hashes([Node(0, 200)])
    with pytest.raises(ValueError, match="no tile"):
        tile_at(1, 0, 200)


@pytest.mark.parametrize("width", [1, 2, 255, 256])
def test_a_tile_is_read_only_at_its_width(width):
    """One byte more or less is another tile."""
    tile = Tile(0, 0, width)
    hashes = [leaf_hash(bytes((number % 256,))) for number in range(width)]
    data = encode_tile(hashes)
    assert decode_tile(tile, data) == hashes
    for wrong in (data[:-1], data + b"\x00", data[:-32], b""):
        with pytest.raises(MalformedError) as caught:
            decode_tile(tile, wrong)
        assert caught.value.reason is Reason.MALFORMED_TILE


def test_a_bundle_holds_entries_of_every_length():
    """Entries come back as they went in, the empty one and the longest too."""
    bundle = [b"", b"a", bytes(300), bytes(MAX_ENTRY_BYTES)]
    data = encode_entries(bundle)
    assert decode_entries(data, 4) == bundle
    assert data[:5] == b"\x00\x00\x00\x01a"
    for cut in (0, 1, 2, 3, 4, len(data) - 1):
        with pytest.raises(MalformedError):
            decode_entries(data[:cut], 4)
    with pytest.raises(MalformedError):
        decode_entries(data, 3)
    with pytest.raises(MalformedError):
        decode_entries(data, 5)


def test_an_entry_that_is_too_long_is_refused():
    """A length of 16 bits is never wrapped around."""
    with pytest.raises(MalformedError) as caught:
        encode_entries([bytes(MAX_ENTRY_BYTES + 1)])
    assert caught.value.reason is Reason.TOO_LARGE
