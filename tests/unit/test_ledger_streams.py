"""Open streams: what a process leaves behind when it dies in the middle of an answer."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from verispect.core.errors import Reason, StoreError
from verispect.ledger import NewReceipt, ReceiptStore

KEY_ID = b"issuer-a"

# Opens three streams, checkpoints one, ends one, says so and waits; with "fork", a child of its
# own outlives it.
DYING = """
import asyncio, os, sys, time
from verispect.ledger import NewReceipt, ReceiptStore

async def main():
    store = ReceiptStore.open(sys.argv[1], issuer_key_id=b"issuer-a")
    for name in (b"a", b"b", b"c"):
        await store.open_stream(name * 16, b"begun " + name)
    await store.checkpoint_stream(b"b" * 16, b"sent 3 chunks of b")
    await store.issue(NewReceipt(b"c" * 16, lambda sequence: b"receipt c"))
    child = 0
    if sys.argv[2] == "fork":
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(1)
            os.write(tell, b"x")  # After the hooks of the fork have run.
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
    print(child, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def a_store(path):
    return ReceiptStore.open(path, issuer_key_id=KEY_ID)


def a_receipt(inference_id):
    return NewReceipt(inference_id, lambda sequence: b"receipt %d" % sequence)


def start_dying(path, how="plain"):
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(path), how], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


LEFT = [(b"a" * 16, b"begun a"), (b"b" * 16, b"sent 3 chunks of b")]


async def test_a_killed_process_leaves_its_streams_with_their_last_checkpoint(tmp_path):
    """What was open is handed over once its process is gone, and ended streams are not."""
    process, _ = start_dying(tmp_path)
    async with a_store(tmp_path) as store:
        assert await store.interrupted_streams() == []
        process.kill()
        process.wait()
        assert sorted(await store.interrupted_streams()) == LEFT
        # Ours now: neither handed out again nor refused an ending.
        assert await store.interrupted_streams() == []
        assert (await store.issue(a_receipt(b"a" * 16))).sequence == 2
        assert store.check().open_streams == 1
    async with a_store(tmp_path) as store:
        assert await store.interrupted_streams() == LEFT[1:]


async def test_a_forked_grandchild_does_not_keep_a_dead_owner_alive(tmp_path):
    """The lock of a killed process ends with it, even while a child that it forked lives on."""
    process, grandchild = start_dying(tmp_path, "fork")
    try:
        async with a_store(tmp_path) as store:
            process.kill()
            process.wait()
            assert sorted(await store.interrupted_streams()) == LEFT
            os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


async def test_each_interrupted_stream_is_handed_to_one_process(tmp_path):
    """Two stores that start together share the streams of a dead one without overlap."""
    process, _ = start_dying(tmp_path)
    process.kill()
    process.wait()
    async with a_store(tmp_path) as first, a_store(tmp_path) as second:
        handed = await asyncio.gather(first.interrupted_streams(), second.interrupted_streams())
        assert sorted(handed[0] + handed[1]) == LEFT


async def test_a_closed_store_leaves_its_open_streams_as_interrupted(tmp_path):
    """Closing in the middle of a stream loses nothing of it."""
    async with a_store(tmp_path) as store:
        await store.open_stream(b"s" * 16, b"begun")
    async with a_store(tmp_path) as store:
        assert await store.interrupted_streams() == [(b"s" * 16, b"begun")]


async def test_issuing_ends_the_stream_in_the_same_commit(tmp_path):
    """Open, checkpoint and issue may even be one batch."""
    async with a_store(tmp_path) as store:
        await asyncio.gather(
            store.open_stream(b"s" * 16, b"begun"),
            store.checkpoint_stream(b"s" * 16, b"later"),
            store.issue(a_receipt(b"s" * 16)),
        )
        report = store.check()
        assert (report.receipts, report.open_streams, report.problems) == (1, 0, ())


async def test_a_stream_that_cannot_be_minted_stays_open(tmp_path):
    """A mint that raises does not forget the stream."""

    def failing(sequence):
        raise ZeroDivisionError

    async with a_store(tmp_path) as store:
        await store.open_stream(b"s" * 16, b"begun")
        with pytest.raises(ZeroDivisionError):
            await store.issue(NewReceipt(b"s" * 16, failing))
        assert store.check().open_streams == 1
        await store.issue(a_receipt(b"s" * 16))
        assert store.check().open_streams == 0


async def test_streams_out_of_order_are_conflicts(tmp_path):
    """A stream is opened once, before its receipt, and only an open one is checkpointed."""
    async with a_store(tmp_path) as store, a_store(tmp_path) as other:
        await store.open_stream(b"s" * 16, b"begun")
        await store.issue(a_receipt(b"r" * 16))
        for attempt in (
            store.open_stream(b"s" * 16, b"again"),
            store.open_stream(b"r" * 16, b"late"),
            store.checkpoint_stream(b"r" * 16, b"late"),
            other.checkpoint_stream(b"s" * 16, b"not theirs"),
        ):
            with pytest.raises(StoreError) as caught:
                await attempt
            assert caught.value.reason is Reason.STORE_CONFLICT
        assert store.check().open_streams == 1
