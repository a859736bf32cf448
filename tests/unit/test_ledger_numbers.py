"""Who decides the next number: a writer that is alone proposes one, and the database refuses it
where it is not the next."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.transaction import Transaction

KEY_ID = b"issuer-a"


class Receipts:
    """Makes receipts, and keeps the numbers that each was minted with."""

    def __init__(self) -> None:
        self.minted: list[int] = []

    def new(self, number: int, openings: bytes | None = None) -> NewReceipt:
        def mint(sequence: int) -> bytes:
            self.minted.append(sequence)
            return b"receipt %d of %d" % (sequence, number)

        return NewReceipt(number.to_bytes(16, "big"), mint, openings)


async def alone(store: ReceiptStore, receipts: Receipts) -> None:
    """Issue until the writer has found nobody's numbers but its own."""
    for number in (1, 2):
        await store.issue(receipts.new(number))
    assert store._writer._alone


def trace(store: ReceiptStore) -> list[str]:
    statements: list[str] = []
    connection = store._writer.connection
    assert connection is not None
    connection.set_trace_callback(lambda sql: statements.append(sql.split()[0]))
    return statements


async def test_a_writer_that_is_alone_commits_a_batch_with_one_statement(tmp_path):
    """Without others' numbers to expect there is nothing to read first; openings go along."""
    receipts = Receipts()
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await alone(store, receipts)
        statements = trace(store)
        new = [receipts.new(10), receipts.new(11, b"kept"), receipts.new(12, b"")]
        stored = await asyncio.gather(*(store.issue(each) for each in new))
        assert [each.sequence for each in stored] == [3, 4, 5]
        assert not {"BEGIN", "SELECT", "COMMIT"} & set(statements)
        assert [store.openings(each.inference_id) for each in stored] == [None, b"kept", b""]
        assert [store.find(each.receipt_id) for each in stored] == stored
        assert store.check().problems == ()


async def test_a_number_that_another_writer_took_is_proposed_to_nobody(tmp_path):
    """A proposal that was overtaken is refused whole, minted again, and then read first."""
    receipts, others = Receipts(), Receipts()
    async with (
        ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store,
        ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as other,
    ):
        await alone(store, receipts)
        assert (await other.issue(others.new(100))).sequence == 3
        stored = await asyncio.gather(*(store.issue(receipts.new(n)) for n in (10, 11)))
        assert [each.sequence for each in stored] == [4, 5]
        assert receipts.minted == [1, 2, 3, 4, 4, 5]
        assert [each.receipt for each in stored] == [b"receipt 4 of 10", b"receipt 5 of 11"]
        assert not store._writer._alone
        statements = trace(store)
        assert (await store.issue(receipts.new(12))).sequence == 6
        assert statements[:2] == ["BEGIN", "SELECT"]
        assert store._writer._alone
        assert store.check().problems == ()


async def test_two_writers_that_take_turns_leave_no_gap(tmp_path):
    """However the writers of two stores interleave, each number is given once."""
    receipts = Receipts()
    async with (
        ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store,
        ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as other,
    ):

        async def run(own: ReceiptStore, start: int) -> list[int]:
            numbers = []
            for number in range(start, start + 60):
                numbers.append((await own.issue(receipts.new(number))).sequence)
                if number % 7 == 0:
                    await asyncio.sleep(0.002)
            return numbers

        found = await asyncio.gather(run(store, 1000), run(other, 2000))
        assert sorted(found[0] + found[1]) == list(range(1, 121))
        assert store.check().problems == ()


async def test_another_issuer_does_not_take_this_one_s_numbers(tmp_path):
    """Entries are shared and numbers are not: who writes under another key is not in the way."""
    receipts, others = Receipts(), Receipts()
    async with (
        ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store,
        ReceiptStore.open(tmp_path, issuer_key_id=b"issuer-b") as other,
    ):
        await alone(store, receipts)
        assert (await other.issue(others.new(100, b"theirs"))).sequence == 1
        mine = await store.issue(receipts.new(10, b"mine"))
        assert mine.sequence == 3
        assert receipts.minted == [1, 2, 3]
        assert store.openings(mine.inference_id) == b"mine"
        assert store.openings((100).to_bytes(16, "big")) == b"theirs"
        assert store.check().problems == ()


async def test_an_id_used_twice_is_refused_alone_in_a_proposed_batch(tmp_path):
    """The others of the batch get their numbers, without a gap for the refused one."""
    receipts = Receipts()
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await alone(store, receipts)
        outcomes = await asyncio.gather(
            *(store.issue(receipts.new(number)) for number in (10, 1, 11)), return_exceptions=True
        )
        assert [getattr(each, "sequence", None) for each in outcomes] == [3, None, 4]
        assert isinstance(outcomes[1], StoreError)
        assert outcomes[1].reason is Reason.STORE_CONFLICT
        assert store.check().problems == ()


async def test_a_writer_that_is_alone_waits_for_the_lock_all_the_same(tmp_path):
    """A lock held by another process makes a proposal wait and then succeed."""
    receipts = Receipts()
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await alone(store, receipts)
        holder = sqlite3.connect(tmp_path / "receipts.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.issue(receipts.new(10)))
        for _ in range(2000):
            if len(receipts.minted) == 3:
                break
            await asyncio.sleep(0.001)
        assert not waiting.done()
        holder.execute("ROLLBACK")
        holder.close()
        assert (await waiting).sequence == 3


async def test_a_proposal_kept_by_a_disk_that_reported_failure_keeps_its_number(
    tmp_path, monkeypatch
):
    """Its caller is refused; the receipt stays under its number, and the next one follows it."""
    receipts = Receipts()
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await alone(store, receipts)
        stage = Transaction.stage

        def kept_and_failed(self, batch, *, after=None):
            stage(self, batch, after=after)
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(Transaction, "stage", kept_and_failed)
            with pytest.raises(StoreError) as caught:
                await store.issue(receipts.new(10))
        assert caught.value.reason is Reason.STORE_FAILED
        kept = store.find((10).to_bytes(16, "big"))
        assert kept is not None
        assert kept.sequence == 3
        assert (await store.issue(receipts.new(11))).sequence == 4
        assert store.check().problems == ()


@pytest.mark.parametrize("count", [1, 63, 64, 127, 128, 129, 300])
async def test_batches_of_every_size_are_whole(tmp_path, count):
    """What is asked for at once is numbered in the order of asking, up to and beyond a batch."""
    receipts = Receipts()
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await alone(store, receipts)
        numbers = range(1000, 1000 + count)
        stored = await asyncio.gather(*(store.issue(receipts.new(n, b"o")) for n in numbers))
        assert [each.sequence for each in stored] == list(range(3, 3 + count))
        report = store.check()
        assert (report.receipts, report.openings, report.problems) == (count + 2, count, ())
