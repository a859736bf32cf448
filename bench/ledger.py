"""The log: ingest, time to checkpoint, a log of ten million leaves; `make bench-ledger`.

Receipts are minted first, into files, by as many processes as there are cores. Then they are
ingested as the log does it for issuers that it does not run itself: read, verified by worker
processes, deduplicated, committed, integrated, signed and published, each durable. A rate is over
the whole way, from the first receipt that is read to the checkpoint that holds the last.

`VERISPECT_BENCH_RECEIPTS` (1,000,000) and `VERISPECT_BENCH_LEAVES` (10,000,000) make shorter runs;
`VERISPECT_BENCH_FOLDER` says on which disk. The large log is made by the same appender, of leaves
and receipts of real size whose signatures nobody checks.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from report import figure, progress

from verispect.attesters.signer import SoftwareSigner
from verispect.core.batch import MAX_BATCH_STATEMENTS
from verispect.core.commitments import Part
from verispect.core.encoding import Digest, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope, sign_envelopes
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PromisedEvidence,
    ServedLane,
)
from verispect.evidence.interface import IssuerKey
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.entries import entry_of_receipt
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.groups import join, split
from verispect.ledger.log.ingest import Ingest
from verispect.ledger.log.interface import CHECKPOINT_PATH, LogState, NewEntry
from verispect.ledger.log.places import STATE_FILE, TILES_FOLDER
from verispect.ledger.log.runner import LogRunner
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.ledger.log.tile_files import FileTiles
from verispect.tlog.cosignature import WitnessPolicy
from verispect.tlog.receipt_leaf import Disclosure
from verispect.tlog.tlog_proof import TlogProof

RECEIPTS = int(os.environ.get("VERISPECT_BENCH_RECEIPTS", "1000000"))
LEAVES = int(os.environ.get("VERISPECT_BENCH_LEAVES", "10000000"))
WORKERS = os.cpu_count() or 1
POOL_SECONDS = 0.25
SIGNED_CHUNK = 256
BUILD_BATCH = 16_384
PROOFS = 1000

ISSUER = "https://inference.example"
SIGNER = SoftwareSigner(bytes(range(32)))
LOG_SIGNER = SoftwareSigner(bytes(reversed(range(32))))
NOW = 1_790_000_000_000
ORIGIN = "log.example/bench"


def statement(sequence: int) -> bytes:
    """Encode a chat's statement; its commitments differ from every other's."""
    salt = sequence.to_bytes(8, "big")
    parts = (Part.SYSTEM_PROMPT, Part.MESSAGES, Part.PARAMETERS, Part.EFFECTIVE_INPUT, Part.OUTPUT)
    return InferenceStatement(
        sequence=sequence,
        received_at=NOW + sequence,
        completed_at=NOW + sequence + 350,
        signed_at=NOW + sequence + 351,
        operation="chat.completions",
        requested_model="smollm2-135m-instruct",
        model=ExecutedModel(
            ModelIdentity.LOCAL_WEIGHTS,
            Digest(b"m" * 32),
            Digest(b"e" * 32),
            Determinism.EXACT,
            ServedLane.DETERMINISTIC,
        ),
        commitments={part: sha256(bytes((part,)) + salt) for part in parts},
        finish_reasons=["stop"],
        usage={"input_tokens": 31 + sequence % 900, "output_tokens": 20 + sequence % 400},
        assurance=Digest(b"p" * 32),
        evidence=[PromisedEvidence("signature")],
        nonce=sha256(salt)[:16],
    ).encode()


def mint(job: tuple[Path, int, int, bool]) -> None:
    """Write the receipts `start` to `stop` into a file, in chunks behind their length."""
    path, start, stop, batch = job
    size = MAX_BATCH_STATEMENTS if batch else SIGNED_CHUNK
    with path.open("wb") as file:
        for first in range(start, stop, size):
            numbers = range(first, min(first + size, stop))
            payloads = [(statement(number), f"{number:032x}") for number in numbers]
            named = {"content_type": STATEMENT_TYPE, "issuer": ISSUER, "signer": SIGNER}
            if batch:
                signed = sign_envelopes(payloads, **named)
            else:
                signed = [sign_envelope(data, subject=name, **named) for data, name in payloads]
            group = join([envelope.encode() for envelope in signed])
            file.write(struct.pack(">I", len(group)) + group)


def minted(folder: Path, count: int, *, batch: bool) -> list[Path]:
    """Mint receipts into one file for each core, and return the files."""
    share = -(-count // WORKERS // MAX_BATCH_STATEMENTS) * MAX_BATCH_STATEMENTS
    jobs = [
        (folder / f"receipts-{start}", start + 1, min(start + share, count) + 1, batch)
        for start in range(0, count, share)
    ]
    with multiprocessing.get_context("forkserver").Pool(WORKERS) as pool:
        pool.map(mint, jobs)
    return [path for path, *_ in jobs]


def chunks(paths: Sequence[Path]) -> Iterator[list[bytes]]:
    """Read the chunks of all files."""
    for path in paths:
        with path.open("rb") as file:
            while head := file.read(4):
                yield split(file.read(*struct.unpack(">I", head)))


class TimedTiles(FileTiles):
    """Notes when each checkpoint was published."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.published: list[tuple[int, float]] = []

    def publish(self, path: str, data: bytes) -> None:
        super().publish(path, data)
        if path == CHECKPOINT_PATH:
            self.published.append((int(data.split(b"\n")[1]), time.perf_counter()))


def ingest(folder: Path, paths: Sequence[Path], count: int) -> tuple[float, list[float], int]:
    """Ingest all; return receipts per second, seconds to checkpoint of each chunk, bytes."""
    LogFolder.create(folder, LogDescription(ORIGIN), signer=LOG_SIGNER)
    tiles: list[TimedTiles] = []

    def open_appender() -> tuple[LogState, Appender]:
        state = SqliteState(folder / STATE_FILE)
        tiles.append(TimedTiles(folder / TILES_FOLDER))
        return state, Appender.open(state, tiles[0], origin=ORIGIN, signer=LOG_SIGNER)

    issuers = [IssuerKey(ISSUER, SIGNER.public_key, False, 0)]
    state = SqliteState(folder / STATE_FILE)
    runner = LogRunner(open_appender, pool_seconds=POOL_SECONDS)
    given: list[float] = []
    last: list[int] = []

    def timed() -> Iterator[list[bytes]]:
        for chunk in chunks(paths):
            given.append(time.perf_counter())
            yield chunk

    with Ingest(state, issuers, workers=WORKERS) as way:
        way.submit(next(chunks(paths))[:8])  # The workers are started before the clock is.
        runner.start()
        started = time.perf_counter()
        done = 0
        for outcomes in way.follow(timed()):
            last.append(max(placed.leaf_index for placed in outcomes))
            done += len(outcomes)
            if len(last) % 256 == 0:
                progress(f"ingested {done:,} of {count:,}")
        runner.stop()
    assert runner.failure is None, runner.failure
    assert done == count == state.head().size
    published = iter(tiles[0].published)
    size, at = next(published)
    waits = []
    for begun, index in zip(given, last, strict=True):
        while size <= index:
            size, at = next(published)
        waits.append(at - begun)
    state.close()
    return count / (tiles[0].published[-1][1] - started), waits, stored(folder)


def stored(folder: Path) -> int:
    """Return what the files of a folder take on the disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def bench_ingest(folder: Path, *, batch: bool) -> list[float]:
    """Measure one kind of receipt."""
    kind = "batch" if batch else "signed"
    progress(f"minting {RECEIPTS:,} receipts ({kind})")
    (folder / "minted").mkdir()
    paths = minted(folder / "minted", RECEIPTS, batch=batch)
    rate, waits, size = ingest(folder / "log", paths, RECEIPTS)
    figure(
        f"ingest.{kind}_per_second",
        rate,
        "1/s",
        receipts=RECEIPTS,
        workers=WORKERS,
        bytes_per_receipt=round(size / RECEIPTS),
        p99_seconds_to_checkpoint=round(percentile(waits, 99), 3),
        least=60_000 if batch else 8_000,
    )
    shutil.rmtree(folder / "log")
    shutil.rmtree(folder / "minted")
    return waits


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def synthetic(count: int) -> Iterator[list[NewEntry]]:
    """Make entries of real size: a real leaf and a real receipt with other digests."""
    receipt = sign_envelope(
        statement(5_000_000),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=f"{5_000_000:032x}",
        signer=SIGNER,
    ).encode()
    model = entry_of_receipt(InferenceReceipt.parse(receipt), disclose=Disclosure.NOTHING)
    start = model.leaf.index(model.key)
    head, tail = model.leaf[:start], model.leaf[start + 32 :]
    noise = os.urandom(len(receipt) - 32)
    for first in range(0, count, BUILD_BATCH):
        batch = []
        for number in range(first, min(first + BUILD_BATCH, count)):
            key = Digest(hashlib.sha256(number.to_bytes(8, "big")).digest())
            batch.append(NewEntry(key, head + key + tail, key + noise))
        yield batch


def bench_large(folder: Path) -> None:
    """Build a large log and measure proofs, disk and audit."""
    log = LogFolder.create(folder, LogDescription(ORIGIN), signer=LOG_SIGNER)
    state = log.open_state()
    appender = Appender.open(state, log.tiles, origin=ORIGIN, signer=LOG_SIGNER)
    started = time.perf_counter()
    for number, batch in enumerate(synthetic(LEAVES)):
        state.accept(batch)
        appender.step()
        if number % 16 == 0:
            progress(f"built {number * BUILD_BATCH:,} of {LEAVES:,} leaves")
    build_seconds = time.perf_counter() - started
    state.close()
    name = "log_10m"
    figure(
        f"{name}.bytes_per_receipt",
        stored(folder) / LEAVES,
        "bytes",
        leaves=LEAVES,
        build_seconds=round(build_seconds, 1),
        most=1024,
    )
    times = prove(log)
    figure(
        f"{name}.inclusion_proof_seconds",
        statistics.median(times),
        "s",
        leaves=LEAVES,
        p99=round(percentile(times, 99), 6),
        slowest=round(max(times), 6),
        most=0.005,
    )
    progress("auditing")
    audit(folder, LEAVES)


def prove(log: LogFolder) -> list[float]:
    """Prove receipts at random places; each proof is verified, outside the time."""
    proofs = log.open_proofs()
    nobody = WitnessPolicy(0, ())
    places = random.Random(1)
    times = []
    for _ in range(PROOFS):
        number = places.randrange(LEAVES)
        key = Digest(hashlib.sha256(number.to_bytes(8, "big")).digest())
        started = time.perf_counter()
        proof = proofs.inclusion(key).encode()
        times.append(time.perf_counter() - started)
        read = TlogProof.parse(proof)
        read.verify(proofs.leaf(number), log=log.trusted, witnesses=nobody, now_seconds=0)
    return times


def audit(folder: Path, leaves: int) -> None:
    """Audit in a process of its own, so that its memory is its own."""
    result = subprocess.run(
        [sys.executable, __file__, "fsck", str(folder)], check=True, capture_output=True, text=True
    )
    seconds, size, before, after = result.stdout.split()
    assert int(size) == leaves
    figure(
        "log_10m.fsck_seconds",
        float(seconds),
        "s",
        leaves=leaves,
        memory_mib=round(int(after) / 1024),
        memory_before_mib=round(int(before) / 1024),
    )


def fsck_alone(folder: Path) -> None:
    """Print seconds, size, and the highest memory before and after, in KiB."""
    log = LogFolder(folder)
    before = highest_memory()
    started = time.perf_counter()
    report = fsck(log.tiles, log.trusted, state=log.open_state())
    assert report.difference is None, report.difference
    seconds = time.perf_counter() - started
    print(seconds, report.size, before, highest_memory())


def highest_memory() -> int:
    """Return the most memory that this process had, in KiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


def bench_limits(folder: Path) -> None:
    """Measure what bounds all of this: signatures, hashing, the disk."""
    message = bytes(600)
    signature = SIGNER.sign(message)
    started = time.process_time()
    for _ in range(5000):
        SIGNER.public_key.verify(message, signature)
    rate = 5000 / (time.process_time() - started)
    figure("limit.ed25519_verify_per_second", rate, "1/s", cores=1)
    pair = bytes(65)
    started = time.process_time()
    for _ in range(300_000):
        hashlib.sha256(pair).digest()
    figure("limit.sha256_nodes_per_second", 300_000 / (time.process_time() - started), "1/s")
    block = os.urandom(1024 * 1024)
    path = folder / "limit"
    with path.open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(200):
            file.write(block)
            os.fdatasync(file.fileno())
        figure("limit.disk_mib_per_second", 200 / (time.perf_counter() - started), "MiB/s")
        started = time.perf_counter()
        for _ in range(200):
            file.write(b"x")
            os.fsync(file.fileno())
        figure("limit.fsync_per_second", 200 / (time.perf_counter() - started), "1/s")
    path.unlink()


def main() -> int:
    """Measure and print."""
    if sys.argv[1:2] == ["fsck"]:
        fsck_alone(Path(sys.argv[2]))
        return 0
    where = os.environ.get("VERISPECT_BENCH_FOLDER")
    with tempfile.TemporaryDirectory(prefix="verispect-bench-", dir=where) as name:
        folder = Path(name)
        bench_limits(folder)
        waits = bench_ingest(folder, batch=False)
        waits += bench_ingest(folder, batch=True)
        figure("checkpoint.p99_seconds", percentile(waits, 99), "s", most=2.0)
        bench_large(folder / "large")
    anchor = Path(__file__).with_name("anchor.py")
    return subprocess.run([sys.executable, anchor], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
