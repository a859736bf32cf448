"""How a durable connection is opened, by several at once on a file that is not there yet."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger.schema import open_writer


def test_a_new_file_may_be_opened_by_several_at_once(tmp_path):
    """All that open one new database together get it, in WAL mode, and can write."""
    together = threading.Barrier(8)

    def open_and_write(path):
        together.wait()
        with contextlib.closing(open_writer(path, busy_milliseconds=30_000)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE IF NOT EXISTS written (by INTEGER)")
            connection.execute("INSERT INTO written VALUES (1)")
            connection.execute("COMMIT")
            return connection.execute("PRAGMA journal_mode").fetchone()[0]

    with ThreadPoolExecutor(8) as pool:
        for turn in range(10):
            path = tmp_path / f"{turn}.sqlite3"
            assert list(pool.map(open_and_write, [path] * 8)) == ["wal"] * 8
            with contextlib.closing(sqlite3.connect(path)) as connection:
                assert connection.execute("SELECT count(*) FROM written").fetchone() == (8,)


def test_a_file_that_another_one_writes_is_waited_for(tmp_path):
    """Whoever must wait to change the mode waits as long as it was told, and no longer."""
    path = tmp_path / "new.sqlite3"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as refused:
        open_writer(path, busy_milliseconds=20)
    assert refused.value.reason is Reason.STORE_LOCKED
    timer = threading.Timer(0.2, other.execute, ["COMMIT"])
    timer.start()
    open_writer(path, busy_milliseconds=30_000).close()
    timer.join()
    other.close()
