"""A store that was put back to an older state is refused."""

import asyncio
import logging
import shutil

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore, high_water, housekeeper
from verispect.ledger.schema import DATABASE_NAME

KEY_ID = b"issuer-a"


def a_store(path, **options):
    return ReceiptStore.open(path, issuer_key_id=KEY_ID, **options)


async def issue(store, numbers):
    for number in numbers:
        await store.issue(
            NewReceipt(number.to_bytes(16, "big"), lambda sequence: b"receipt %d" % sequence)
        )


@pytest.fixture
async def rolled_back(tmp_path):
    """A store with 8 receipts whose database was replaced by its copy with 5."""
    directory = tmp_path / "store"
    async with a_store(directory) as store:
        await issue(store, range(5))
    shutil.copy(directory / DATABASE_NAME, tmp_path / "backup")
    async with a_store(directory) as store:
        await issue(store, range(5, 8))
    shutil.copy(tmp_path / "backup", directory / DATABASE_NAME)
    return directory


def test_an_older_database_is_refused(rolled_back):
    """A restored backup cannot make the issuer use numbers twice."""
    with pytest.raises(StoreError, match="expected sequence 8 or above, got 5") as caught:
        a_store(rolled_back)
    assert caught.value.reason is Reason.STORE_ROLLED_BACK


def test_a_refusal_is_not_forgotten(rolled_back):
    """Trying again does not help."""
    for _ in range(2):
        with pytest.raises(StoreError):
            a_store(rolled_back)


def test_a_deleted_database_is_refused(rolled_back):
    """Beginning again from 1 is a rollback too."""
    (rolled_back / DATABASE_NAME).unlink()
    with pytest.raises(StoreError) as caught:
        a_store(rolled_back)
    assert caught.value.reason is Reason.STORE_ROLLED_BACK


async def test_a_rollback_can_be_accepted_by_name_only(rolled_back, caplog):
    """The escape hatch continues after the older state, once, and leaves a warning."""
    with caplog.at_level(logging.WARNING):
        async with a_store(rolled_back, unsafe_accept_rollback=True) as store:
            await issue(store, [20])
            assert store.find((20).to_bytes(16, "big")).sequence == 6
    assert "rolled back from sequence 8 to 5" in caplog.text
    async with a_store(rolled_back) as store:
        assert store.check().highest == {KEY_ID: 6}


async def test_another_key_may_go_on_in_a_rolled_back_store(rolled_back):
    """A new issuer key is the honest way on, and needs no escape hatch."""
    async with ReceiptStore.open(rolled_back, issuer_key_id=b"new") as store:
        stored = await store.issue(NewReceipt(b"n" * 16, lambda _: b"by the new key"))
        assert stored.sequence == 1
        assert any("high-water note 8 is above" in line for line in store.check().problems)


async def test_the_note_follows_without_a_clean_close(tmp_path, monkeypatch):
    """Once the load pauses the note catches up, so that a crash leaves little undetected."""
    monkeypatch.setattr(housekeeper, "PAUSE_SECONDS", 0.01)
    async with a_store(tmp_path) as store:
        await issue(store, range(3))
        for _ in range(1000):
            if high_water.read(tmp_path).get(KEY_ID) == 3:
                break
            await asyncio.sleep(0.01)
        assert high_water.read(tmp_path) == {KEY_ID: 3}


async def test_a_missing_note_is_written_again(tmp_path):
    """A store from before the note, or whose note was lost, is accepted and noted."""
    async with a_store(tmp_path) as store:
        await issue(store, range(4))
    (tmp_path / high_water.FILE_NAME).unlink()
    async with a_store(tmp_path):
        assert high_water.read(tmp_path) == {KEY_ID: 4}


def test_a_note_is_never_lowered(tmp_path):
    """A process that is behind another cannot take its note back."""
    high_water.note(tmp_path, KEY_ID, 10)
    high_water.note(tmp_path, KEY_ID, 9)
    high_water.note(tmp_path, b"other", 1)
    assert high_water.read(tmp_path) == {KEY_ID: 10, b"other": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"verispect high-water 2\nab 1\n",
        b"verispect high-water 1\nab 1",
        b"verispect high-water 1\nab 01\n",
        b"verispect high-water 1\nab -1\n",
        b"verispect high-water 1\nAB 1\n",
        b"verispect high-water 1\n\nab 1\n",
        b"verispect high-water 1\nab 1\xff\n",
        b"verispect high-water 1\n" + b"ab 1\n" * 300_000,
    ],
)
def test_a_damaged_note_is_refused(tmp_path, content):
    """A note that cannot be read is not taken for none."""
    (tmp_path / high_water.FILE_NAME).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        a_store(tmp_path)
    assert caught.value.reason is Reason.STORE_FAILED
