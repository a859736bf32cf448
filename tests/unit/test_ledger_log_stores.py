"""What every store of the log keeps, whichever it is: the same tests against both kinds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import ClassVar

import pytest

from log_stores import (
    EmbeddedStores,
    ServedStores,
    Stores,
    object_options,
    running_object_store,
    running_postgres,
)
from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Reason, StoreError
from verispect.ledger.log.interface import (
    GROUP_ENTRIES,
    CheckpointRecord,
    Cursor,
    EvidenceRecord,
    Head,
    NewEntry,
)
from verispect.ledger.log.tile_objects import ObjectTiles

_NAMES = count()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with running_postgres() as connection, running_object_store() as address:
        yield connection, address


@pytest.fixture(params=["embedded", "served"])
def stores(request, tmp_path) -> Stores:
    if request.param == "embedded":
        return EmbeddedStores(tmp_path)
    return ServedStores(*request.getfixturevalue("servers"), f"stores-{next(_NAMES)}")


@pytest.fixture
def state(stores):
    with_state = stores.state()
    yield with_state
    with_state.close()


@pytest.fixture
def tiles(stores):
    with_tiles = stores.tiles()
    yield with_tiles
    with_tiles.close()


def entry(number: int, *, receipt: bytes | None = None) -> NewEntry:
    return NewEntry(sha256(b"%d" % number), b"leaf %d" % number, receipt)


def record(size: int) -> CheckpointRecord:
    return CheckpointRecord(size, sha256(b"root %d" % size), b"note", b"header", b"signature", 7)


def test_entries_get_the_next_indexes_in_order(state):
    """Indexes have no gap and follow the order in which entries were given."""
    first = state.accept([entry(n) for n in range(3)])
    second = state.accept([entry(n) for n in range(3, 700)])
    assert [placed.leaf_index for placed in (*first, *second)] == list(range(700))
    assert all(placed.is_new for placed in (*first, *second))
    assert state.head() == Head(sequenced=700)


def test_a_key_keeps_the_index_that_it_got_first(state):
    """What comes again, later or in the same call, is not there twice."""
    state.accept([entry(1), entry(2)])
    placed = state.accept([entry(2), entry(3), entry(3), entry(1)])
    assert [tuple(each) for each in placed] == [(1, False), (2, True), (2, False), (0, False)]
    assert state.count() == (3, 3)
    assert state.waiting(0, 10) == [b"leaf 1", b"leaf 2", b"leaf 3"]


def test_keys_are_found_and_unknown_ones_are_not(state):
    """`find` answers for each key in the order asked."""
    state.accept([entry(1), entry(2)])
    asked = [entry(2).key, entry(9).key, entry(1).key]
    assert list(state.find(asked)) == [1, None, 0]


def test_a_cursor_moves_with_the_entries(state, stores):
    """A cursor is kept with what it covers, and is found again by another connection."""
    assert state.cursor("receipts") == 0
    state.accept([entry(1)], cursor=Cursor("receipts", 5))
    state.accept([], cursor=Cursor("receipts", 9))
    state.accept([], cursor=Cursor("others", 1))
    other = stores.state()
    assert (other.cursor("receipts"), other.cursor("others")) == (9, 1)
    other.close()


def test_what_waits_is_given_from_any_index(state):
    """Leaves come from the index asked for, across groups, at most as many as asked."""
    state.accept([entry(n) for n in range(GROUP_ENTRIES + 3)])
    state.accept([entry(n) for n in range(GROUP_ENTRIES + 3, 3 * GROUP_ENTRIES)])
    whole = [entry(n).leaf for n in range(3 * GROUP_ENTRIES)]
    for start in (0, 1, GROUP_ENTRIES - 1, GROUP_ENTRIES, GROUP_ENTRIES + 2, GROUP_ENTRIES + 3):
        assert state.waiting(start, 2 * GROUP_ENTRIES) == whole[start:][: 2 * GROUP_ENTRIES]
    assert state.waiting(len(whole) - 1, 10) == whole[-1:]
    assert state.waiting(len(whole), 10) == []


def test_what_went_into_the_tree_is_never_mistaken_for_what_follows(state):
    """Whoever asks for leaves that were taken gets none, and not the next ones."""
    state.accept([entry(n) for n in range(GROUP_ENTRIES)])
    state.accept([entry(n) for n in range(1000, 1010)])
    state.advance(state.take_over(), 0, record(GROUP_ENTRIES))
    assert state.waiting(0, 10) == []
    assert state.waiting(GROUP_ENTRIES, 10) == [entry(n).leaf for n in range(1000, 1010)]


def test_the_head_moves_only_from_where_the_appender_thinks_it_is(state):
    """A head that moved meanwhile is not moved again, and no checkpoint is kept."""
    state.accept([entry(n) for n in range(20)])
    generation = state.take_over()
    state.advance(generation, 0, record(10))
    with pytest.raises(StoreError) as failure:
        state.advance(generation, 0, record(12))
    assert failure.value.reason is Reason.STORE_CONFLICT
    assert state.head() == Head(generation, 20, 10, record(10).root, 7)
    assert state.checkpoint() == record(10)


def test_an_earlier_appender_is_fenced(state, stores):
    """Once another took over, the earlier one moves nothing."""
    state.accept([entry(n) for n in range(20)])
    earlier = state.take_over()
    other = stores.state()
    later = other.take_over()
    assert later > earlier
    with pytest.raises(StoreError) as failure:
        state.advance(earlier, 0, record(10))
    assert failure.value.reason is Reason.STORE_CONFLICT
    other.advance(later, 0, record(10))
    other.close()


def test_the_head_never_passes_what_has_an_index(state):
    """A tree of more leaves than entries is refused by the database itself."""
    state.accept([entry(1)])
    with pytest.raises(StoreError):
        state.advance(state.take_over(), 0, record(2))
    assert state.head().size == 0


def test_checkpoints_are_found_by_size(state):
    """The latest, or the first that is large enough."""
    assert state.checkpoint() is None
    state.accept([entry(n) for n in range(20)])
    generation = state.take_over()
    state.advance(generation, 0, record(5))
    state.advance(generation, 5, record(12))
    assert state.checkpoint() == record(12)
    assert state.checkpoint(at_least=1) == record(5)
    assert state.checkpoint(at_least=6) == record(12)
    assert state.checkpoint(at_least=13) is None


def test_receipts_are_kept_with_their_entries(state):
    """A receipt is found by its index; an entry without one has none."""
    numbers = range(GROUP_ENTRIES + 10)
    state.accept([entry(n, receipt=b"receipt %d" % n if n % 3 else None) for n in numbers])
    state.accept([entry(5000)])
    for index in (0, 1, GROUP_ENTRIES - 1, GROUP_ENTRIES, GROUP_ENTRIES + 9):
        expected = b"receipt %d" % index if index % 3 else None
        assert state.receipt(index) == expected
    assert state.receipt(GROUP_ENTRIES + 10) is None
    assert state.receipt(10**6) is None


def test_cosignatures_are_kept_once(state):
    """A line that comes twice is kept once, for its own size."""
    state.accept([entry(1)])
    state.advance(state.take_over(), 0, record(1))
    state.add_cosignatures(1, ["b\n", "a\n"])
    state.add_cosignatures(1, ["a\n"])
    assert state.cosignatures(1) == ["a\n", "b\n"]
    assert state.cosignatures(2) == []


def test_evidence_is_registered_once(state):
    """A second delivery of the same evidence leaves the first time standing."""
    receipt, evidence = sha256(b"receipt"), sha256(b"evidence")
    first = EvidenceRecord(receipt, "proof", evidence, None, 9, 100)
    state.register_evidence(first)
    state.register_evidence(EvidenceRecord(receipt, "proof", evidence, None, 9, 200))
    other = EvidenceRecord(receipt, "proof", sha256(b"more"), sha256(b"endorsed"), 4, 50)
    state.register_evidence(other)
    assert state.evidence_of(receipt) == [other, first]
    assert state.evidence_of(sha256(b"nothing")) == []


def test_acceptors_at_the_same_time_share_the_indexes(stores):
    """Several connections that accept at once give every entry one index, without a gap."""
    stores.state().close()
    results: list[list[int]] = []

    def accept(first: int) -> None:
        state = stores.state()
        for start in range(first, first + 100, 10):
            placed = state.accept([entry(number) for number in range(start, start + 10)])
            results.append([each.leaf_index for each in placed])
        state.close()

    threads = [threading.Thread(target=accept, args=(first,)) for first in (0, 50, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = stores.state()
    assert {index for result in results for index in result} == set(range(250))
    assert len(state.waiting(0, 1000)) == 250
    assert state.count() == (250, 250)
    state.close()


def test_a_tile_is_there_after_it_was_put(tiles):
    """What was put is read back, and nothing else is there."""
    tiles.put([("tile/0/000", b"a" * 8192), ("tile/0/x001/000.p/5", b"b"), ("tile/1/000.p/1", b"")])
    assert tiles.get("tile/0/000") == b"a" * 8192
    assert tiles.get("tile/0/x001/000.p/5") == b"b"
    assert tiles.get("tile/1/000.p/1") == b""
    assert tiles.get("tile/0/001") is None
    assert tiles.get("tile/0/x001/000.p") is None


def test_a_path_never_gets_other_bytes(tiles, stores):
    """The same bytes again are fine; others are refused, and the first stay."""
    tiles.put([("tile/0/000", b"first")])
    again = stores.tiles()
    again.put([("tile/0/000", b"first"), ("tile/0/001", b"next")])
    for writer in (tiles, again):
        with pytest.raises(StoreError) as failure:
            writer.put([("tile/0/000", b"other")])
        assert failure.value.reason is Reason.STORE_CONFLICT
    assert tiles.get("tile/0/000") == b"first"
    assert tiles.get("tile/0/001") == b"next"
    again.close()


def test_writers_at_the_same_time_never_overwrite_each_other(stores):
    """Of several that write other bytes to one path at once, one wins and the others are told."""
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def write(number: int) -> None:
        tiles = stores.tiles()
        barrier.wait()
        try:
            tiles.put([("tile/0/000", b"%d" % number)])
            outcomes.append(str(number))
        except StoreError as error:
            outcomes.append(error.reason)
        tiles.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [each for each in outcomes if each != Reason.STORE_CONFLICT]
    tiles = stores.tiles()
    assert tiles.get("tile/0/000") == winner.encode()
    tiles.close()


def test_a_published_path_is_replaced(tiles):
    """The checkpoint is the one path whose bytes change."""
    tiles.publish("checkpoint", b"one")
    tiles.publish("checkpoint", b"two")
    assert tiles.get("checkpoint") == b"two"


def test_partial_tiles_are_removed_and_full_ones_stay(tiles):
    """Removing takes the partial tiles of the named full ones, and no others."""
    tiles.put([("tile/0/000.p/5", b"5"), ("tile/0/000.p/9", b"9"), ("tile/0/001.p/2", b"2")])
    tiles.put([("tile/0/000", b"full")])
    tiles.remove_partials(["tile/0/000", "tile/entries/000"])
    assert tiles.get("tile/0/000.p/5") is None
    assert tiles.get("tile/0/000.p/9") is None
    assert tiles.get("tile/0/000") == b"full"
    assert tiles.get("tile/0/001.p/2") == b"2"
    tiles.put([("tile/0/000.p/7", b"7")])
    assert tiles.get("tile/0/000.p/7") == b"7"


class _Overwriting(BaseHTTPRequestHandler):
    """An object store that takes every condition and ignores it."""

    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_an_object_store_that_overwrites_is_refused():
    """A store that ignores the condition is found out before it holds a tile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Overwriting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        tiles = ObjectTiles("bucket", options=object_options(address))
        with pytest.raises(StoreError, match="overwrites") as failure:
            tiles.put([("tile/0/000", b"tile")])
        assert failure.value.reason is Reason.STORE_FAILED
        assert not any("tile" in path for path in _Overwriting.objects)
        tiles.close()
    finally:
        server.shutdown()
        server.server_close()


def test_a_database_that_may_forget_commits_is_refused(servers):
    """PostgreSQL without synchronous commits is no log's database."""
    from verispect.ledger.log.state_postgres import PostgresState

    with pytest.raises(StoreError, match="synchronous_commit"):
        PostgresState(f"{servers[0]} options='-c synchronous_commit=off'", schema="forgetful")


def test_a_lost_connection_is_opened_again(servers):
    """A connection that the server ends fails once, with our error, and then works again."""
    import psycopg

    from verispect.ledger.log.state_postgres import PostgresState

    state = PostgresState(servers[0], schema="lost")
    state.accept([entry(1)])
    with psycopg.connect(servers[0], autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
    with pytest.raises(StoreError) as failure:
        state.accept([entry(2)])
    assert failure.value.reason is Reason.STORE_FAILED
    assert [placed.leaf_index for placed in state.accept([entry(1), entry(2)])] == [0, 1]
    state.close()


def test_a_file_that_is_no_state_is_refused(tmp_path):
    """Another database in its place is not taken for a log's."""
    import sqlite3

    from verispect.ledger.log.state_sqlite import SqliteState

    with sqlite3.connect(tmp_path / "state.sqlite3") as other:
        other.execute("CREATE TABLE anything (x)")
    with pytest.raises(StoreError) as failure:
        SqliteState(tmp_path / "state.sqlite3")
    assert failure.value.reason is Reason.STORE_FAILED


def test_what_a_dead_writer_left_is_removed(tmp_path):
    """Files without a path, of a writer that is gone, do not stay for ever."""
    stores = EmbeddedStores(tmp_path)
    left = tmp_path / "tiles" / ".incoming" / "dead"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half")
    living = stores.tiles()
    living.put([("tile/0/000", b"a")])
    tiles = stores.tiles()
    tiles.put([("tile/0/001", b"b")])
    assert not left.exists()
    living.put([("tile/0/002", b"c")])
    assert Digest(sha256(b"c")) == sha256(living.get("tile/0/002") or b"")
    living.close()
    tiles.close()
