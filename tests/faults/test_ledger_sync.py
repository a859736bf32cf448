"""What a power cut would leave: watched at the system calls, since a kill cannot show it."""

import re
import shutil
import subprocess
import sys

import pytest

ANSWERING = """
import asyncio, os, sys
from verispect.ledger import NewReceipt, ReceiptStore

async def main():
    async with ReceiptStore.open(sys.argv[1], issuer_key_id=b"issuer-a") as store:
        for number in range(20):
            name = number.to_bytes(16, "big")
            os.write(1, b"ask\\n")
            await store.issue(NewReceipt(name, lambda sequence: b"receipt %d" % sequence))
            os.write(1, b"answer\\n")

asyncio.run(main())
"""

CALL = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*)>(.*)")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")


def completed_calls(trace):
    """Yield each call where it is complete, except writes, which count from their beginning."""
    pending = {}
    for line in trace.splitlines():
        if begun := CALL.match(line):
            process, *call = begun.groups()
            if line.endswith("<unfinished ...>") and "sync" in call[0]:
                pending[process] = call
            else:
                yield call
        elif (resumed := RESUMED.match(line)) and "sync" in resumed[2]:
            yield pending.pop(resumed[1])


def can_trace():
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="needs strace and leave to use it")
def test_every_answer_waits_until_its_commit_is_on_the_disk(tmp_path):
    """Between a commit's last write and the answer there is a sync of the log, every time."""
    directory, trace = tmp_path / "store", tmp_path / "trace"
    watched = ["strace", "-f", "-y", "-o", trace, "-e", "trace=write,pwrite64,fsync,fdatasync"]
    subprocess.run(
        [*watched, sys.executable, "-c", ANSWERING, directory],
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    unsynced, written, synced, answers = False, 0, set(), 0
    for call, file, rest in completed_calls(trace.read_text(errors="replace")):
        if call == "pwrite64" and file.endswith("-wal"):
            unsynced = True
            written += 1
        elif call in ("fsync", "fdatasync"):
            synced.add(file)
            if file.endswith("-wal"):
                unsynced = False
        elif call == "write" and '"ask' in rest:
            written = 0
        elif call == "write" and '"answer' in rest:
            answers += 1
            assert written, "an answer left before its receipt was written"
            assert not unsynced, "an answer left before its receipt was synced"
            # The names of database and log must survive as well.
            assert str(directory) in synced
    assert answers == 20
