"""A disk that is full or refuses to grow: nothing is acknowledged, no number is spent."""

import asyncio
import json
import subprocess
import sys

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore

KEY_ID = b"issuer-a"

# The file size limit of the process plays the full disk: writes beyond it fail with EFBIG.
FULL_DISK = """
import asyncio, json, os, resource, sys
from verispect.core.errors import StoreError
from verispect.ledger import NewReceipt, ReceiptStore

def receipt(number):
    return NewReceipt(
        number.to_bytes(16, "big"), lambda sequence: b"receipt %d " % sequence + bytes(3000))

async def main():
    store = ReceiptStore.open(sys.argv[1], issuer_key_id=b"issuer-a")
    log = []
    for number in range(20):
        log.append((await store.issue(receipt(number))).sequence)
    full = os.path.getsize(os.path.join(sys.argv[1], "receipts.sqlite3-wal")) + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    refused = []
    for start in range(100, 400, 10):
        outcomes = await asyncio.gather(
            *(store.issue(receipt(start + n)) for n in range(10)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, StoreError):
                refused.append(outcome.reason.value)
            else:
                log.append(outcome.sequence)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for number in range(500, 520):
        log.append((await store.issue(receipt(number))).sequence)
    problems = store.check().problems
    await store.close()
    print(json.dumps({"acknowledged": log, "refused": refused, "problems": problems}))

asyncio.run(main())
"""


def a_receipt(number, size=10):
    return NewReceipt(
        number.to_bytes(16, "big"), lambda sequence: b"receipt %d " % sequence + bytes(size)
    )


@pytest.mark.parametrize("room", [0, 1, 4096, 20_000, 61_234])
def test_a_full_disk_acknowledges_nothing_and_heals(tmp_path, room):
    """While nothing can be written every caller is refused; afterwards numbers go on gapless."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(room)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = json.loads(done.stdout)
    assert set(result["refused"]) == {Reason.STORE_FAILED.value}
    assert result["acknowledged"] == list(range(1, len(result["acknowledged"]) + 1))
    assert result["problems"] == []
    report = ReceiptStore.check_directory(tmp_path)
    assert report.receipts == len(result["acknowledged"])
    assert report.problems == ()


async def test_a_database_at_its_page_limit_fails_the_batch_only(tmp_path):
    """SQLite's own "disk full" refuses the whole batch, and the next one gets its numbers."""
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        await store.issue(a_receipt(1))
        connection = store._writer.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        outcomes = await asyncio.gather(
            *(store.issue(a_receipt(n, size=9000)) for n in range(2, 7)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {StoreError}
        assert {outcome.reason for outcome in outcomes} == {Reason.STORE_FAILED}
        assert "SQLITE_FULL" in str(outcomes[0])
        # The limit went with the connection that met it.
        assert (await store.issue(a_receipt(9))).sequence == 2
        assert store.check().problems == ()


async def test_an_unexpected_failure_in_the_writer_reaches_every_caller(tmp_path, monkeypatch):
    """A defect in staging is an error to those who wait, and the thread goes on."""
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:

        def broken(self, batch):
            raise KeyError("defect")

        with monkeypatch.context() as patch:
            patch.setattr("verispect.ledger.transaction.Transaction.stage", broken)
            with pytest.raises(StoreError) as caught:
                await store.issue(a_receipt(1))
            assert caught.value.reason is Reason.STORE_FAILED
        assert (await store.issue(a_receipt(1))).sequence == 1


async def test_a_note_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, caplog):
    """The high-water note is retried later; receipts do not wait for it."""
    monkeypatch.setattr("verispect.ledger.housekeeper.PAUSE_SECONDS", 0.005)
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        (tmp_path / "high-water.new").mkdir()
        await store.issue(a_receipt(1))
        for _ in range(1000):
            if "high-water" in caplog.text:
                break
            await asyncio.sleep(0.005)
        assert "cannot take the high-water note" in caplog.text
        (tmp_path / "high-water.new").rmdir()
        assert (await store.issue(a_receipt(2))).sequence == 2
    assert b" 2\n" in (tmp_path / "high-water").read_bytes()
