"""The receipt store as its callers see it."""

import asyncio
import os
import sqlite3
import threading
from hashlib import sha256

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.records import MAX_OPENINGS_BYTES, MAX_RECEIPT_BYTES
from verispect.ledger.schema import APPLICATION_ID, DATABASE_NAME, SCHEMA_VERSION

KEY_ID = b"issuer-a"


def an_id(number):
    return number.to_bytes(16, "big")


def a_receipt(number, *, openings=None):
    return NewReceipt(
        an_id(number), lambda sequence: b"receipt %d of %d" % (sequence, number), openings
    )


def a_store(path, **options):
    return ReceiptStore.open(path, issuer_key_id=options.pop("issuer_key_id", KEY_ID), **options)


async def test_a_receipt_is_found_by_both_of_its_names(tmp_path):
    """What `issue` returns is what `find` returns, by inference id and by receipt id."""
    async with a_store(tmp_path, clock=lambda: 1234) as store:
        stored = await store.issue(a_receipt(7))
        assert stored.sequence == 1
        assert stored.receipt == b"receipt 1 of 7"
        assert stored.receipt_id == sha256(b"receipt 1 of 7").digest()
        assert stored.issued_at == 1234
        assert store.find(an_id(7)) == stored
        assert store.find(stored.receipt_id) == stored


@pytest.mark.parametrize("identifier", [b"", b"x" * 15, an_id(8), b"x" * 32, b"x" * 33])
async def test_an_unknown_name_finds_nothing(tmp_path, identifier):
    """An identifier that names no receipt, of whatever length, gives `None`."""
    async with a_store(tmp_path) as store:
        await store.issue(a_receipt(7))
        assert store.find(identifier) is None


async def test_concurrent_callers_get_distinct_gapless_numbers(tmp_path):
    """500 callers at once get exactly the numbers 1 to 500, and each its own receipt."""
    async with a_store(tmp_path) as store:
        stored = await asyncio.gather(*(store.issue(a_receipt(n)) for n in range(500)))
        assert sorted(one.sequence for one in stored) == list(range(1, 501))
        for number, one in enumerate(stored):
            assert one.receipt == b"receipt %d of %d" % (one.sequence, number)
            assert store.find(an_id(number)) == one
        assert store.check().problems == ()


async def test_numbers_go_on_after_reopening(tmp_path):
    """The first number after a restart is the one after the last."""
    async with a_store(tmp_path) as store:
        await store.issue(a_receipt(1))
        await store.issue(a_receipt(2))
    async with a_store(tmp_path) as store:
        assert (await store.issue(a_receipt(3))).sequence == 3
        assert store.find(an_id(1)).sequence == 1


async def test_each_issuer_key_counts_for_itself(tmp_path):
    """Two keys in one store each start at 1, and either finds the receipts of both."""
    async with a_store(tmp_path) as first, a_store(tmp_path, issuer_key_id=b"b") as second:
        assert (await first.issue(a_receipt(1))).sequence == 1
        assert (await second.issue(a_receipt(2))).sequence == 1
        assert (await first.issue(a_receipt(3))).sequence == 2
        assert second.find(an_id(3)).sequence == 2
        assert first.check().highest == {KEY_ID: 2, b"b": 1}


async def test_a_mint_that_raises_fails_alone_and_spends_no_number(tmp_path):
    """The error reaches its own caller unchanged; the others of the batch have gapless numbers."""

    def failing(sequence):
        raise ZeroDivisionError

    async with a_store(tmp_path) as store:
        work = [a_receipt(n) for n in range(9)]
        work[4] = NewReceipt(an_id(4), failing)
        outcomes = await asyncio.gather(*map(store.issue, work), return_exceptions=True)
        assert isinstance(outcomes.pop(4), ZeroDivisionError)
        assert [one.sequence for one in outcomes] == list(range(1, 9))
        assert store.find(an_id(4)) is None


async def test_an_id_used_twice_is_refused_and_the_first_receipt_stays(tmp_path):
    """A second receipt for an inference is a conflict, in the same batch or a later one."""
    async with a_store(tmp_path) as store:
        work = [a_receipt(1), a_receipt(2), a_receipt(1), a_receipt(3)]
        outcomes = await asyncio.gather(*map(store.issue, work), return_exceptions=True)
        assert outcomes.pop(2).reason is Reason.STORE_CONFLICT
        assert [one.sequence for one in outcomes] == [1, 2, 3]
        with pytest.raises(StoreError) as caught:
            await store.issue(a_receipt(2))
        assert caught.value.reason is Reason.STORE_CONFLICT
        assert store.find(an_id(2)).sequence == 2
        assert (await store.issue(a_receipt(4))).sequence == 4


async def test_the_same_receipt_bytes_twice_are_refused(tmp_path):
    """A mint that ignores its number cannot put one receipt under two numbers."""
    async with a_store(tmp_path) as store:
        await store.issue(NewReceipt(an_id(1), lambda _: b"same"))
        with pytest.raises(StoreError) as caught:
            await store.issue(NewReceipt(an_id(2), lambda _: b"same"))
        assert caught.value.reason is Reason.STORE_CONFLICT
        assert (await store.issue(a_receipt(3))).sequence == 2


@pytest.mark.parametrize("minted", [None, "text", bytearray(b"x"), b""])
async def test_a_mint_must_return_bytes(tmp_path, minted):
    """Anything but bytes is the programmer's fault, and spends no number."""
    async with a_store(tmp_path) as store:
        with pytest.raises(TypeError):
            await store.issue(NewReceipt(an_id(1), lambda _: minted))
        assert (await store.issue(a_receipt(1))).sequence == 1


async def test_sizes_are_limited(tmp_path):
    """A receipt, openings or recovery bytes over their limit are refused as too large."""
    async with a_store(tmp_path) as store:
        attempts = [
            store.issue(NewReceipt(an_id(1), lambda _: bytes(MAX_RECEIPT_BYTES + 1))),
            store.issue(a_receipt(1, openings=bytes(MAX_OPENINGS_BYTES + 1))),
            store.open_stream(an_id(1), bytes(MAX_OPENINGS_BYTES + 1)),
        ]
        for attempt in attempts:
            with pytest.raises(StoreError) as caught:
                await attempt
            assert caught.value.reason is Reason.TOO_LARGE
        assert (await store.issue(a_receipt(1))).sequence == 1
        with pytest.raises(ValueError, match="16 bytes"):
            await store.issue(NewReceipt(b"short", lambda _: b"x"))


async def test_openings_are_kept_apart_and_can_be_erased(tmp_path):
    """Erasing takes the openings before a time, from the files too, and leaves every receipt."""
    now = 100
    secret = b"the prompt nobody should find " * 400
    async with a_store(tmp_path, clock=lambda: now) as store:
        await store.issue(a_receipt(1, openings=secret))
        await store.issue(a_receipt(2))
        now = 200
        await store.issue(a_receipt(3, openings=b"younger"))
        assert store.openings(an_id(1)) == secret
        assert store.openings(an_id(2)) is None
        assert store.openings(an_id(9)) is None
        assert await store.erase_openings(older_than=100) == 0
        assert await store.erase_openings(older_than=200) == 1
        assert store.openings(an_id(1)) is None
        assert store.openings(an_id(3)) == b"younger"
        assert store.find(an_id(1)).sequence == 1
        for file in tmp_path.glob("receipts*"):
            assert b"nobody should find" not in file.read_bytes()
        assert store.check().problems == ()


async def test_many_openings_are_erased_while_receipts_are_issued(tmp_path):
    """Erasing in slices reports the whole count and holds nobody up for good."""
    async with a_store(tmp_path, clock=lambda: 5) as store:
        await asyncio.gather(*(store.issue(a_receipt(n, openings=b"x")) for n in range(700)))
        erased, stored = await asyncio.gather(
            store.erase_openings(older_than=6), store.issue(a_receipt(1000))
        )
        assert erased == 700
        assert stored.sequence == 701


async def test_openings_may_be_empty(tmp_path):
    """No openings and empty openings are told apart."""
    async with a_store(tmp_path) as store:
        await store.issue(a_receipt(1, openings=b""))
        assert store.openings(an_id(1)) == b""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE receipts SET receipt = x'00' WHERE sequence = 1",
        "DELETE FROM receipts WHERE sequence = 2",
        "INSERT INTO receipts VALUES (9, 1, 4, zeroblob(16), zeroblob(32), 0, x'00')",
        "INSERT INTO receipts VALUES (9, 1, 2, zeroblob(16), zeroblob(32), 0, x'00')",
    ],
)
async def test_the_database_itself_refuses_changes_and_gaps(tmp_path, statement):
    """A receipt cannot be changed, deleted, renumbered or skipped from a SQL shell."""
    async with a_store(tmp_path) as store:
        await store.issue(a_receipt(1))
        await store.issue(a_receipt(2))
        connection = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
        connection.close()
        assert store.check().problems == ()


async def test_commits_are_synchronous(tmp_path):
    """The writing connection has the settings that durability rests on."""
    async with a_store(tmp_path) as store:
        connection = store._writer.connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_a_later_schema_is_refused(tmp_path):
    """A store written by a later version is left alone."""
    async with a_store(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / DATABASE_NAME)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError) as caught:
        a_store(tmp_path)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION


@pytest.mark.parametrize("content", [b"not a database at all" * 300, None])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    """Neither noise nor another program's database is taken for a receipt store."""
    file = tmp_path / DATABASE_NAME
    if content is None:
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(StoreError) as caught:
        a_store(tmp_path)
    assert caught.value.reason is Reason.STORE_FAILED
    if content is not None:
        assert file.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    """A path below a file is one of our errors."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        a_store(tmp_path / "file" / "store")
    assert caught.value.reason is Reason.STORE_FAILED


async def test_a_closed_store_refuses_and_loses_nothing(tmp_path):
    """Work asked for before `close` is done; work after it is refused."""
    store = a_store(tmp_path)
    asked = [asyncio.ensure_future(store.issue(a_receipt(n))) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert [one.sequence for one in await asyncio.gather(*asked)] == list(range(1, 51))
    with pytest.raises(StoreError, match="closed"):
        await store.issue(a_receipt(99))
    with pytest.raises(StoreError, match="closed"):
        store.find(an_id(1))


async def test_closing_leaves_no_thread_and_no_lock(tmp_path):
    """After `close` the process has the threads, and the directory the owners, of before."""
    before = {thread.name for thread in threading.enumerate()}
    async with a_store(tmp_path):
        assert len(list((tmp_path / "owners").iterdir())) == 1
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if name.startswith("verispect")}
    assert list((tmp_path / "owners").iterdir()) == []


async def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path):
    """The batch of a caller who went away is committed, and the number is not lost."""
    async with a_store(tmp_path) as store:
        gone = asyncio.ensure_future(store.issue(a_receipt(1)))
        await asyncio.sleep(0)
        gone.cancel()
        stored = await store.issue(a_receipt(2))
        assert stored.sequence == 2
        assert store.find(an_id(1)).sequence == 1


async def test_several_event_loops_share_one_store(tmp_path):
    """Callers on other threads' loops are answered on their own loops."""
    async with a_store(tmp_path) as store:

        async def issue_some(base):
            return [(await store.issue(a_receipt(base + n))).sequence for n in range(100)]

        results = await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, issue_some(base)) for base in (1000, 2000, 3000))
        )
        assert sorted(number for numbers in results for number in numbers) == list(range(1, 301))


async def test_a_loop_that_closed_while_it_waited_harms_nobody(tmp_path):
    """An abandoned event loop does not stop the writer."""
    async with a_store(tmp_path) as store:
        waits = threading.Event()

        def slow(sequence):
            waits.wait(5)
            return b"slow"

        def ask_and_leave():
            loop = asyncio.new_event_loop()
            task = loop.create_task(store.issue(NewReceipt(an_id(1), slow)))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            return task

        task = await asyncio.to_thread(ask_and_leave)
        waits.set()
        assert (await store.issue(a_receipt(2))).sequence == 2
        del task


async def test_another_process_holding_the_lock_is_waited_for_up_to_the_bound(tmp_path):
    """A lock held too long is `store-locked`, and the number is not spent."""
    async with a_store(tmp_path, lock_timeout_seconds=0.05) as store:
        holder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            await store.issue(a_receipt(1))
        assert caught.value.reason is Reason.STORE_LOCKED
        assert store.find(an_id(1)) is None
        holder.execute("ROLLBACK")
        holder.close()
        assert (await store.issue(a_receipt(1))).sequence == 1


async def test_readers_do_not_wait_for_the_writer(tmp_path):
    """`find` answers while somebody holds the write lock."""
    async with a_store(tmp_path) as store:
        stored = await store.issue(a_receipt(1))
        holder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        assert store.find(an_id(1)) == stored
        holder.close()


async def test_a_forked_child_is_refused(tmp_path):
    """After a fork the child's copy raises and the parent's goes on."""
    async with a_store(tmp_path) as store:
        await store.issue(a_receipt(1))
        child = os.fork()
        if child == 0:
            try:
                store.find(an_id(1))
            except RuntimeError:
                os._exit(42)
            os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 42
        assert (await store.issue(a_receipt(2))).sequence == 2


def test_the_file_says_whose_it_is(tmp_path):
    """The database carries the application id in its header."""
    asyncio.run(a_store(tmp_path).close())
    header = (tmp_path / DATABASE_NAME).read_bytes()[:100]
    assert header[68:72] == APPLICATION_ID.to_bytes(4, "big")


@pytest.mark.parametrize("key_id", [b"", b"x" * 129])
def test_a_key_id_has_a_length(tmp_path, key_id):
    """An empty or overlong key id is misuse."""
    with pytest.raises(ValueError, match="key id"):
        a_store(tmp_path, issuer_key_id=key_id)
