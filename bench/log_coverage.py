"""Coverage over ten million receipts; `make bench-coverage`.

Leaves that show model and usage, one in twenty with a promise of the log, are written as bundles of
256 and read back, decoded and counted, as `verispect coverage` does. The second figure is the count
going on for one more percent.

`VERISPECT_BENCH_RECEIPTS` makes a shorter run.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from report import figure, progress

from verispect.appraisal.policy import LOGGED, SIGNED
from verispect.core.encoding import sha256
from verispect.core.keys import KeyId
from verispect.core.statement import PromisedEvidence
from verispect.ledger.coverage import CoverageCounter
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.tiles import TILE_WIDTH, decode_entries, encode_entries

RECEIPTS = int(os.environ.get("VERISPECT_BENCH_RECEIPTS", "10000000"))
LOGGED_EVERY = 20
NOW = 1_790_000_000_000


def leaf(number: int) -> bytes:
    logged = number % LOGGED_EVERY == 0
    later = (PromisedEvidence("log", None, NOW + number + 60_000),) if logged else ()
    return ReceiptLeaf(
        receipt=sha256(number.to_bytes(8, "big")),
        issuer_key=KeyId(b"k" * 32),
        sequence=number + 1,
        signed_at=NOW + number,
        assurance=(LOGGED if logged else SIGNED).digest(),
        evidence=(PromisedEvidence("signature"), *later),
        model=sha256(b"m"),
        model_id=sha256(b"model"),
        usage={"input_tokens": 31 + number % 900, "output_tokens": 20 + number % 400},
    ).encode()


def write(folder: Path, count: int) -> None:
    for first in range(0, count, TILE_WIDTH):
        numbers = range(first, min(first + TILE_WIDTH, count))
        data = encode_entries([leaf(number) for number in numbers])
        (folder / str(first // TILE_WIDTH)).write_bytes(data)
        if first % (TILE_WIDTH * 4096) == 0:
            progress(f"{first} leaves written")


def read(folder: Path, start: int, end: int) -> Iterator[bytes]:
    for index in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        width = min(TILE_WIDTH, end - index * TILE_WIDTH)
        data = (folder / str(index)).read_bytes()
        yield from decode_entries(data, TILE_WIDTH)[:width]


def main() -> None:
    count = RECEIPTS // TILE_WIDTH * TILE_WIDTH
    more = max(TILE_WIDTH, count // 100 // TILE_WIDTH * TILE_WIDTH)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, count + more)
        counter = CoverageCounter(leaves=lambda: read(folder, 0, count))
        started, busy = time.perf_counter(), time.process_time()
        counter.replay(read(folder, 0, count))
        figures = counter.figures()
        seconds = time.perf_counter() - started
        assert sum(figures.outcomes.values()) == count
        figure("coverage.count_seconds", seconds, "s", receipts=count)
        figure("coverage.count_cpu_seconds", time.process_time() - busy, "s", receipts=count)
        started = time.perf_counter()
        counter.replay(read(folder, count, count + more))
        counter.figures()
        figure("coverage.more_seconds", time.perf_counter() - started, "s", receipts=more)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figure("coverage.peak_memory", peak, "MiB", receipts=count)


if __name__ == "__main__":
    main()
