"""Several processes share one store."""

import subprocess
import sys

from verispect.ledger import ReceiptStore

PROCESSES = 4
EACH = 250

ISSUING = """
import asyncio, os, sys
from verispect.ledger import NewReceipt, ReceiptStore

async def main():
    async with ReceiptStore.open(sys.argv[1], issuer_key_id=b"issuer-a") as store:
        left = iter(range(int(sys.argv[2])))
        async def caller():
            for _ in left:
                name = os.urandom(16)
                stored = await store.issue(NewReceipt(name, lambda number: b"%d" % number + name))
                print(stored.sequence)
        await asyncio.gather(*(caller() for _ in range(8)))

asyncio.run(main())
"""


def test_processes_that_start_together_share_one_gapless_sequence(tmp_path):
    """Four processes at once create, fill and close a store without a gap or a double."""
    directory = tmp_path / "store"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ISSUING, str(directory), str(EACH)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    numbers = []
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        numbers += map(int, output.split())
    assert sorted(numbers) == list(range(1, PROCESSES * EACH + 1))
    report = ReceiptStore.check_directory(directory)
    assert report.problems == ()
    assert report.highest == {b"issuer-a": PROCESSES * EACH}
