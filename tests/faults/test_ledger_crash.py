"""Kill the processes that issue receipts, at random moments, and look at what is left.

Run as a script, this file is such a process: it issues receipts as fast as it can from many
callers and writes each acknowledgement to its standard output after `issue` has returned.
"""

import asyncio
import contextlib
import os
import random
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from hashlib import sha256

import pytest

from verispect.ledger import NewReceipt, ReceiptStore, high_water, housekeeper
from verispect.ledger.schema import DATABASE_NAME

KEY_ID = b"issuer-a"
CALLERS = 24
ROUNDS = 48
TWO_PROCESSES_EVERY = 3
SEED = 20261123

# Kind (R receipt, S stream opened), sequence, receipt id or padded inference id.
ACKNOWLEDGEMENT = struct.Struct("!cQ32s")


def a_receipt(inference_id):
    filling = inference_id * (inference_id[1] % 90)
    return NewReceipt(
        inference_id,
        lambda sequence: struct.pack("!Q", sequence) + inference_id + filling,
        filling if inference_id[2] < 64 else None,
    )


async def issue_for_ever(directory):
    # Checkpoints and notes all the time, so that kills fall into them too.
    housekeeper.PAUSE_SECONDS = 0.005
    housekeeper.CHECKPOINT_BYTES = 300_000
    high_water.NOTE_INTERVAL = 50
    store = ReceiptStore.open(directory, issuer_key_id=KEY_ID)

    async def caller():
        while True:
            inference_id = os.urandom(16)
            if inference_id[0] < 32:
                await store.open_stream(inference_id, b"begun " + inference_id)
                os.write(1, ACKNOWLEDGEMENT.pack(b"S", 0, inference_id))
            stored = await store.issue(a_receipt(inference_id))
            # 41 bytes at once are never torn in a pipe.
            os.write(1, ACKNOWLEDGEMENT.pack(b"R", stored.sequence, stored.receipt_id))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


class Victim:
    """One issuing process and what it has acknowledged."""

    def __init__(self, directory):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(directory)], stdout=subprocess.PIPE
        )
        self.acknowledged = b""
        self.begun = threading.Event()
        self.reading = threading.Thread(target=self._read)
        self.reading.start()

    def _read(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            self.acknowledged += chunk
            self.begun.set()
        self.begun.set()

    def kill(self):
        self.ended_by_itself = self.process.poll() is not None
        self.process.kill()
        self.process.wait()
        self.reading.join()
        self.process.stdout.close()

    def acknowledgements(self):
        assert not self.ended_by_itself, "the process ended before it was killed"
        return ACKNOWLEDGEMENT.iter_unpack(self.acknowledged)


def stored_receipts(directory, above):
    with contextlib.closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        return connection.execute(
            "SELECT sequence, receipt_id, inference_id, receipt FROM receipts"
            " WHERE sequence > ? ORDER BY sequence",
            (above,),
        ).fetchall()


def run_and_kill(directory, number, chance):
    victims = [Victim(directory) for _ in range(2 if number % TWO_PROCESSES_EVERY == 0 else 1)]
    if number % 8 == 7:
        # Not yet at work: somewhere in start-up, recovery or the first commits.
        time.sleep(chance.uniform(0.05, 0.4))
    else:
        for victim in victims:
            victim.begun.wait(30)
        time.sleep(chance.uniform(0, 0.15))
    chance.shuffle(victims)
    for victim in victims:
        victim.kill()
    return victims


@pytest.mark.slow
def test_kill_at_any_moment_loses_nothing_acknowledged(tmp_path):
    """After each of many kills every acknowledged receipt is there and no number came twice."""
    chance = random.Random(SEED)
    directory = tmp_path / "store"
    everything, all_acknowledged, streams = [], {}, set()
    for number in range(ROUNDS):
        victims = run_and_kill(directory, number, chance)
        fresh = {}
        for victim in victims:
            for kind, sequence, name in victim.acknowledgements():
                if kind == b"S":
                    streams.add(name[:16])
                    continue
                assert sequence not in fresh, "two processes acknowledged one number"
                assert sequence not in all_acknowledged, "a number was acknowledged again"
                fresh[sequence] = name
        if not directory.joinpath(DATABASE_NAME).exists():
            assert not fresh
            continue
        found = stored_receipts(directory, len(everything)) if fresh or everything else []
        for sequence, receipt_id, inference_id, receipt in found:
            assert sequence == len(everything) + 1, "the sequence has a gap"
            assert sha256(receipt).digest() == receipt_id
            assert receipt[:24] == struct.pack("!Q", sequence) + inference_id
            everything.append(receipt_id)
        for sequence, receipt_id in fresh.items():
            assert sequence <= len(everything), "an acknowledged receipt was lost"
            assert everything[sequence - 1] == receipt_id, "an acknowledged receipt was replaced"
        all_acknowledged.update(fresh)

    # All of it again at the end: later rounds changed nothing of earlier ones.
    assert [row[1] for row in stored_receipts(directory, 0)] == everything
    assert len(all_acknowledged) > ROUNDS * 10
    asyncio.run(no_stream_is_lost(directory, streams))


async def no_stream_is_lost(directory, streams):
    async with ReceiptStore.open(directory, issuer_key_id=KEY_ID) as store:
        assert store.check().problems == ()
        interrupted = dict(await store.interrupted_streams())
        for inference_id in streams:
            ended = store.find(inference_id) is not None
            assert ended != (interrupted.get(inference_id) == b"begun " + inference_id)
        assert interrupted, "no kill fell into a stream: the test proves less than it should"
        for inference_id in interrupted:
            await store.issue(
                NewReceipt(inference_id, lambda sequence: b"interrupted %d" % sequence)
            )
        report = store.check()
        assert (report.open_streams, report.problems) == (0, ())


if __name__ == "__main__":
    asyncio.run(issue_for_ever(sys.argv[1]))
