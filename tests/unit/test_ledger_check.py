"""The audit of a store finds what was done behind its back."""

import sqlite3

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.schema import DATABASE_NAME

KEY_ID = b"issuer-a"


@pytest.fixture
async def store(tmp_path):
    async with ReceiptStore.open(tmp_path, issuer_key_id=KEY_ID) as store:
        for number in range(1, 6):
            await store.issue(
                NewReceipt(number.to_bytes(16, "big"), lambda sequence: b"receipt %d" % sequence)
            )
        yield store


def tamper(directory, *statements):
    connection = sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)
    for trigger in ("not_updated", "not_deleted"):
        connection.execute(f"DROP TRIGGER receipts_are_{trigger}")
    connection.execute("DROP TRIGGER receipts_have_no_gap")
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_a_sound_store_has_no_problems(store):
    """The report counts what is there."""
    report = store.check()
    assert (report.receipts, report.highest, report.problems) == (5, {KEY_ID: 5}, ())


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM receipts WHERE sequence = 3", "expected sequence 3, got 4"),
        ("DELETE FROM receipts WHERE sequence = 5", "high-water note 5 is above"),
        (
            "UPDATE receipts SET receipt = x'00' WHERE sequence = 2",
            "receipt id is not the digest",
        ),
        ("UPDATE receipts SET sequence = 9 WHERE sequence = 5", "expected sequence 5, got 9"),
        ("UPDATE receipts SET issuer = 7 WHERE sequence = 5", "issuer 7 is not known"),
    ],
)
async def test_tampering_is_reported(store, tmp_path, statement, problem):
    """A missing, changed or renumbered receipt is named by the audit."""
    await store.close()
    tamper(tmp_path, statement)
    report = ReceiptStore.check_directory(tmp_path)
    assert any(problem in line for line in report.problems)


async def test_a_damaged_page_is_reported(store, tmp_path):
    """Bytes overwritten in the file do not pass."""
    await store.close()
    file = tmp_path / DATABASE_NAME
    content = bytearray(file.read_bytes())
    start = content.index(b"receipt 4")
    content[start : start + 9] = b"receipt 9"
    file.write_bytes(content)
    problems = ReceiptStore.check_directory(tmp_path).problems
    assert any("entry 4: receipt id is not the digest" in line for line in problems)


def test_a_directory_without_a_store_cannot_be_checked(tmp_path):
    """No store is an error, not a sound empty one."""
    with pytest.raises(StoreError) as caught:
        ReceiptStore.check_directory(tmp_path)
    assert caught.value.reason is Reason.STORE_FAILED
