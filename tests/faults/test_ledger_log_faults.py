"""Every step of an append fails, in both ways, and the process dies at each: nothing is lost,
nothing is twice, nothing forks.

A step that fails "before" did nothing; one that fails "after" did everything and its answer was
lost; one that fails "halfway" stored some of its tiles. A process that dies is killed by SIGKILL at
that very call.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from log_faults import Faults, FaultyState, FaultyTiles, in_child
from log_receipts import LOG_SIGNER, ORIGIN, SIGNER, a_receipt, an_entry
from log_stores import (
    EmbeddedStores,
    ServedStores,
    Stores,
    running_object_store,
    running_postgres,
)
from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError
from verispect.core.receipt import EvidenceEntry
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.interface import CHECKPOINT_PATH, LogState, NewEntry, TileStore
from verispect.ledger.log.sources import ReceiptOutbox, submit
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.merkle import leaf_hashes, root_of
from verispect.tlog.note import VerifierKey

LOG = TrustedLog(ORIGIN, [VerifierKey(ORIGIN, LOG_SIGNER.public_key)])
BATCHES = (range(1, 4), range(4, 300), range(300, 301), range(301, 560))
"""Within a tile, over its edge, by one, and over two edges."""

ENTRIES = {number: an_entry(number) for batch in BATCHES for number in batch}

STEPS = 27
"""Calls that change something in one run; `test_the_steps_are_all_tried` holds it."""

_NAMES = count()


class Run:
    """One log under faults: what was acknowledged, and every checkpoint that a reader saw."""

    def __init__(self, stores: Stores, faults: Faults, *, reopen: bool) -> None:
        self.stores, self.faults, self.reopen = stores, faults, reopen
        self.acknowledged: dict[Digest, int] = {}
        self.seen: list[Checkpoint] = []
        self.appender: Appender | None = None
        self.state: LogState = FaultyState(stores.state(), faults)
        self.tiles: TileStore = FaultyTiles(stores.tiles(), faults)

    def tried(self, work: Callable[[], object]) -> None:
        """Do it, once more if it fails."""
        for _ in range(2):
            try:
                work()
                return
            except StoreError as error:
                if error.message != "injected":
                    raise
                self.look()
                if self.reopen:
                    self.appender = None
        raise AssertionError("one fault made two failures")

    def go(self, note: Callable[[NewEntry, int], None] | None = None) -> None:
        for batch in BATCHES:
            self.tried(lambda batch=batch: self.accept(batch, note))
            self.tried(self.step)
        self.tried(self.step)
        self.look()

    def accept(self, batch: range, note: Callable[[NewEntry, int], None] | None) -> None:
        entries = [ENTRIES[number] for number in batch]
        for entry, placed in zip(entries, self.state.accept(entries), strict=True):
            self.acknowledged[entry.key] = placed.leaf_index
            if note is not None:
                note(entry, placed.leaf_index)

    def step(self) -> None:
        if self.appender is None:
            self.appender = Appender.open(self.state, self.tiles, origin=ORIGIN, signer=LOG_SIGNER)
        while self.appender.step():
            self.look()

    def look(self) -> None:
        data = self.tiles.get(CHECKPOINT_PATH)
        if data is not None:
            self.seen.append(LOG.verify(SignedCheckpoint.parse(data)))


def check(stores: Stores, acknowledged: dict[Digest, int], seen: list[Checkpoint]) -> None:
    """Audit the log: all that was acknowledged is there once, and every tree that was seen."""
    state, tiles = stores.state(), stores.tiles()
    appender = Appender.open(state, tiles, origin=ORIGIN, signer=LOG_SIGNER)
    while appender.step():
        pass
    report = fsck(tiles, LOG, state=state)
    assert report.difference is None
    assert report.size == state.head().sequenced
    assert list(state.find(list(acknowledged))) == list(acknowledged.values())
    order = sorted(ENTRIES.values(), key=lambda entry: acknowledged.get(entry.key, 10**9))
    hashes = leaf_hashes([entry.leaf for entry in order])
    for checkpoint in seen:
        assert checkpoint.root == root_of(hashes[: checkpoint.size])
    assert [each.size for each in seen] == sorted(each.size for each in seen)
    state.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with running_postgres() as connection, running_object_store() as address:
        yield connection, address


@pytest.fixture
def new_stores(request, tmp_path) -> Callable[[], Stores]:
    if request.param == "embedded":
        return lambda: EmbeddedStores(tmp_path / str(next(_NAMES)))
    connection, address = request.getfixturevalue("servers")
    return lambda: ServedStores(connection, address, f"faults-{next(_NAMES)}")


def test_the_steps_are_all_tried(tmp_path):
    """A run without faults makes as many changes as the other tests let fail."""
    run = Run(EmbeddedStores(tmp_path), Faults(0, "never"), reopen=False)
    run.go()
    assert run.faults.calls == STEPS
    check(run.stores, run.acknowledged, run.seen)


@pytest.mark.parametrize(
    ("new_stores", "reopen"),
    [("embedded", False), ("embedded", True), ("served", True)],
    indirect=["new_stores"],
)
@pytest.mark.parametrize("how", ["before", "after", "halfway"])
def test_a_step_that_fails_is_repeated_without_a_trace(new_stores, how, reopen):
    """Whichever change fails, and however, the log goes on and is whole."""
    for at in range(1, STEPS + 1):
        run = Run(new_stores(), Faults(at, how), reopen=reopen)
        run.go()
        assert len(run.acknowledged) == len(ENTRIES)
        check(run.stores, run.acknowledged, run.seen)


DELIVERY_STEPS = 4
"""Body, endorsements, register, leaf."""


@pytest.mark.parametrize("new_stores", ["embedded", "served"], indirect=True)
@pytest.mark.parametrize("how", ["before", "after", "halfway"])
def test_evidence_that_is_delivered_again_is_there_once(new_stores, how):
    """Whichever step of a delivery fails, the next try gives one leaf and the whole evidence."""
    receipt = ENTRIES[1].key
    evidence = EvidenceEntry("proof", "profile", 5, b"body" * 100, b"endorsements")
    for at in range(1, DELIVERY_STEPS + 1):
        stores = new_stores()
        faults = Faults(at, how)
        state, tiles = FaultyState(stores.state(), faults), FaultyTiles(stores.tiles(), faults)
        times = iter((100, 200))

        def deliver(state=state, tiles=tiles, times=times):
            store = EvidenceStore(tiles, state)
            leaf = store.deliver(receipt, evidence, clock=lambda: next(times))
            return submit(state, [leaf.encode()])

        with pytest.raises(StoreError, match="injected"):
            deliver()
        (placed,) = deliver()
        assert placed.leaf_index == 0
        assert state.head().sequenced == 1
        assert EvidenceStore(tiles, state).entries_of(receipt) == [evidence]


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_receipt_that_was_followed_is_not_followed_again(tmp_path, how):
    """Whether or not the commit was made when its answer was lost, each receipt is there once."""
    key_id = SIGNER.public_key.key_id
    async with ReceiptStore.open(tmp_path / "outbox", issuer_key_id=key_id) as store:
        for number in range(1, 6):
            await store.issue(NewReceipt(b"%016d" % number, a_receipt))
    state = EmbeddedStores(tmp_path / "log").state()
    outbox = ReceiptOutbox(tmp_path / "outbox" / "receipts.sqlite3")
    with pytest.raises(StoreError, match="injected"):
        outbox.follow(FaultyState(state, Faults(1, how)))
    assert outbox.follow(state) == (5 if how == "before" else 0)
    assert list(state.find([ENTRIES[number].key for number in range(1, 6)])) == [0, 1, 2, 3, 4]
    assert state.count() == (5, 5)
    outbox.close()
    state.close()


ACKNOWLEDGEMENT = struct.Struct(">32sQ")


def _acknowledged(path: Path) -> dict[Digest, int]:
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) - len(data) % ACKNOWLEDGEMENT.size
    return {Digest(key): index for key, index in ACKNOWLEDGEMENT.iter_unpack(data[:whole])}


def _go_noting(stores: Stores, faults: Faults, acknowledgements: Path) -> None:
    with acknowledgements.open("ab", buffering=0) as file:
        run = Run(stores, faults, reopen=True)
        run.go(lambda entry, index: file.write(ACKNOWLEDGEMENT.pack(entry.key, index)))


@pytest.mark.parametrize("how", ["kill before", "kill after"])
def test_a_process_that_is_killed_at_any_step_loses_nothing(tmp_path, how):
    """After SIGKILL at any change the next process goes on, and what was acknowledged is there."""
    for at in range(1, STEPS + 1):
        stores = EmbeddedStores(tmp_path / str(at))
        noted = tmp_path / f"{at}.acknowledged"
        work = lambda at=at, stores=stores, noted=noted: _go_noting(  # noqa: E731
            stores, Faults(at, how), noted
        )
        assert in_child(work) == signal.SIGKILL
        seen = []
        data = stores.tiles().get(CHECKPOINT_PATH)
        if data is not None:
            seen.append(LOG.verify(SignedCheckpoint.parse(data)))
        before = _acknowledged(noted)
        # The callers who had no answer ask again.
        again = Run(stores, Faults(0, "never"), reopen=False)
        again.go()
        assert before.items() <= again.acknowledged.items()
        check(stores, again.acknowledged, seen + again.seen)


def _append_for_ever(stores: Stores, acknowledgements: Path, seed: int) -> None:
    numbers = random.Random(seed)
    state = stores.state()
    appender = Appender.open(state, stores.tiles(), origin=ORIGIN, signer=LOG_SIGNER)
    with acknowledgements.open("ab", buffering=0) as file:
        while True:
            entries = [ENTRIES[number] for number in numbers.sample(range(1, 560), 5)]
            for entry, placed in zip(entries, state.accept(entries), strict=True):
                file.write(ACKNOWLEDGEMENT.pack(entry.key, placed.leaf_index))
            appender.step()


def test_a_process_that_is_killed_at_any_moment_loses_nothing(tmp_path):
    """Killed again and again while it appends, a log stays one history with all of it."""
    stores = EmbeddedStores(tmp_path / "log")
    noted = tmp_path / "acknowledged"
    moments = random.Random(7)
    seen: list[Checkpoint] = []
    for turn in range(15):
        child = os.fork()
        if child == 0:
            try:
                _append_for_ever(stores, noted, turn)
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0.02, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        data = stores.tiles().get(CHECKPOINT_PATH)
        if data is not None:
            seen.append(LOG.verify(SignedCheckpoint.parse(data)))
    acknowledged = _acknowledged(noted)
    assert acknowledged
    state = stores.state()
    known = {entry.key: state.find([entry.key])[0] for entry in ENTRIES.values()}
    whole = {key: index for key, index in known.items() if index is not None}
    assert acknowledged.items() <= whole.items()
    assert sorted(whole.values()) == list(range(len(whole)))
    check(stores, whole, seen)


def test_a_full_disk_refuses_and_recovers(tmp_path):
    """While nothing can be written nothing is acknowledged; afterwards the log goes on."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        stores = EmbeddedStores(tmp_path)
        run = Run(stores, Faults(0, "never"), reopen=False)
        run.tried(lambda: run.accept(BATCHES[0], None))
        run.tried(run.step)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        refused = 0
        for limit in (100, 5_000, 20_000, 60_000, 200_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            for what in (lambda: run.accept(BATCHES[1], None), run.step):
                try:
                    what()
                except StoreError as error:
                    refused += error.reason is Reason.STORE_FAILED
            assert run.appender is not None
        assert refused >= 3
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        run.go()
        check(stores, run.acknowledged, run.seen)

    assert in_child(work) == 0
