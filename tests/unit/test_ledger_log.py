"""The log as its operator and its readers meet it: appending, proving, auditing, refusing."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from docs_blocks import ROOT

from log_receipts import (
    LOG_SIGNER,
    ORIGIN,
    SIGNED_AT,
    SIGNER,
    a_receipt,
    an_entry,
)
from log_stores import (
    EmbeddedStores,
    ServedStores,
    Stores,
    make_bucket,
    running_object_store,
    running_postgres,
)
from verispect.attesters.signer import SoftwareSigner
from verispect.cli.main import main
from verispect.core.encoding import Digest, sha256
from verispect.core.errors import (
    Error,
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    StoreError,
    VerificationError,
)
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.log import description, evidence_store, examining, interface, promises
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.entries import entry_of_leaf, key_of_leaf
from verispect.ledger.log.evidence_store import EvidenceStore, evidence_path
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.interface import CHECKPOINT_PATH, Cursor, NewEntry, Placed
from verispect.ledger.log.proofs import Proofs
from verispect.ledger.log.sources import ReceiptOutbox, submit
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.cosignature import WitnessPolicy, cosign, witness_key
from verispect.tlog.leaf import LateEvidenceLeaf, MissedDeadlineLeaf
from verispect.tlog.merkle import leaf_hash, leaf_hashes, root_of
from verispect.tlog.note import VerifierKey
from verispect.tlog.proof import verify_consistency
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf

KEY = VerifierKey(ORIGIN, LOG_SIGNER.public_key)
LOG = TrustedLog(ORIGIN, [KEY])
NO_WITNESSES = WitnessPolicy(0, ())
WITNESS = SoftwareSigner(b"w" * 32)
_NAMES = count()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with running_postgres() as connection, running_object_store() as address:
        yield connection, address


@pytest.fixture(params=["embedded", "served"])
def stores(request, tmp_path) -> Stores:
    if request.param == "embedded":
        return EmbeddedStores(tmp_path)
    return ServedStores(*request.getfixturevalue("servers"), f"log-{next(_NAMES)}")


@pytest.fixture
def embedded(tmp_path) -> EmbeddedStores:
    return EmbeddedStores(tmp_path)


class Opened:
    """A log with its appender."""

    def __init__(self, stores: Stores, **options: object) -> None:
        self.state, self.tiles = stores.state(), stores.tiles()
        self.appender = Appender.open(
            self.state, self.tiles, origin=ORIGIN, signer=LOG_SIGNER, **options
        )
        self.proofs = Proofs(self.state, self.tiles, origin=ORIGIN, key=LOG_SIGNER.public_key)

    def audit(self) -> None:
        report = fsck(self.tiles, LOG, state=self.state)
        assert report.difference is None
        assert report.root == self.state.head().root

    def grow(self, numbers: range) -> None:
        self.state.accept([an_entry(n) for n in numbers])
        while self.appender.step():
            pass


# -- appending and proving --------------------------------------------------------------------


def test_the_tree_is_that_of_the_entries_whatever_the_batches(stores):
    """Batches of any size give the one tree that RFC 6962 defines, and the audit agrees."""
    log = Opened(stores, maximum_batch=700)
    numbers = random.Random(5)
    entries: list[NewEntry] = []
    for size in (1, 254, 1, 1, 3, 600, 256, 0, 512, 5):
        batch = [an_entry(n) for n in range(len(entries) + 1, len(entries) + 1 + size)]
        entries += batch
        log.state.accept(batch)
        if numbers.random() < 0.8:
            log.appender.step()
    while log.appender.step():
        pass
    head = log.state.head()
    assert head.size == head.sequenced == len(entries) == 1633
    assert head.root == root_of(leaf_hashes([entry.leaf for entry in entries]))
    log.audit()


def test_every_receipt_is_proven_in_both_forms(stores):
    """The proof file and the COSE receipt of any entry verify against the log's key alone."""
    log = Opened(stores)
    log.grow(range(1, 300))
    for number in (1, 2, 200, 255, 256, 257, 299):
        entry = an_entry(number)
        proof = log.proofs.inclusion(entry.key)
        inclusion = proof.verify(entry.leaf, log=LOG, witnesses=NO_WITNESSES, now_seconds=0)
        assert inclusion.index == number - 1
        cose = log.proofs.cose_receipt(entry.key)
        root = cose.verify_inclusion(entry.leaf, origin=ORIGIN, key=LOG_SIGNER.public_key)
        assert root == inclusion.checkpoint.root
        with pytest.raises(VerificationError):
            proof.verify(b"another", log=LOG, witnesses=NO_WITNESSES, now_seconds=0)


def test_the_log_proves_that_it_only_grew(stores):
    """Between any two of its checkpoints there is a proof of consistency, in both forms."""
    log = Opened(stores)
    sizes = []
    for start, stop in ((1, 4), (4, 300), (300, 557)):
        log.grow(range(start, stop))
        sizes.append(log.state.head())
    for old in sizes[:-1]:
        record, path = log.proofs.consistency(old.size)
        verify_consistency(
            old_size=old.size,
            old_root=old.root,
            new_size=record.size,
            new_root=record.root,
            path=path,
        )
        cose = log.proofs.cose_consistency(old.size)
        cose.verify_consistency(
            old_size=old.size, old_root=old.root, origin=ORIGIN, key=LOG_SIGNER.public_key
        )


def test_an_entry_is_promised_before_it_is_proven(stores):
    """Before a step the entry has its index and no proof; an unknown one is another answer."""
    log = Opened(stores)
    (placed,) = log.state.accept([an_entry(1)])
    with pytest.raises(RequestError) as waiting:
        log.proofs.inclusion(an_entry(1).key)
    assert waiting.value.reason is Reason.LEAF_PENDING
    with pytest.raises(RequestError) as unknown:
        log.proofs.inclusion(an_entry(2).key)
    assert unknown.value.reason is Reason.RECEIPT_NOT_FOUND
    log.appender.step()
    assert log.proofs.inclusion(an_entry(1).key).index == placed.leaf_index
    assert log.proofs.leaf(0) == an_entry(1).leaf
    assert log.proofs.receipt(an_entry(1).key) == a_receipt(1)


def test_a_proof_can_be_had_for_a_checkpoint_that_was_cosigned(stores):
    """Cosignatures are served with their checkpoint, and proofs against it stay available."""
    log = Opened(stores)
    log.grow(range(1, 10))
    record = log.state.checkpoint()
    assert record is not None
    signed = LOG.verify(SignedCheckpoint.parse(record.note))
    line = cosign(signed, name="witness.example", seconds=1_790_000_100, signer=WITNESS)
    log.state.add_cosignatures(9, [line.encode()])
    log.appender.publish()
    witnesses = WitnessPolicy(1, [witness_key("witness.example", WITNESS)])
    published = SignedCheckpoint.parse(log.tiles.get(CHECKPOINT_PATH) or b"")
    assert len(witnesses.verify(published, now_seconds=1_790_000_200)) == 1
    log.grow(range(10, 400))
    proof = log.proofs.inclusion(an_entry(3).key, at_least=9)
    found = proof.verify(an_entry(3).leaf, log=LOG, witnesses=witnesses, now_seconds=1_790_000_200)
    assert found.checkpoint.size == 9


def test_an_empty_log_has_a_checkpoint(stores):
    """Readers see a signed empty tree before anything is appended."""
    log = Opened(stores)
    published = LOG.verify(SignedCheckpoint.parse(log.tiles.get(CHECKPOINT_PATH) or b""))
    assert published.size == 0
    assert log.appender.step() == 0
    log.audit()


# -- going on, and refusing to ------------------------------------------------------------------


def test_a_new_appender_goes_on_where_the_last_one_was(stores):
    """Closed and opened again, at any width of the edge, the log is one."""
    for stop in (1, 3, 255, 256, 257, 511, 520):
        log = Opened(stores)
        start = log.state.head().size
        log.grow(range(start + 1, stop + 1))
        log.state.close()
    log = Opened(stores)
    expected = root_of(leaf_hashes([an_entry(n).leaf for n in range(1, 521)]))
    assert log.state.head().root == expected
    log.audit()


def test_of_two_appenders_the_earlier_loses_cleanly(stores):
    """Two started by mistake make one history: the first is refused and has changed nothing."""
    first = Opened(stores)
    first.grow(range(1, 10))
    second = Opened(stores)
    first.state.accept([an_entry(n) for n in range(10, 20)])
    with pytest.raises(StoreError) as failure:
        first.appender.step()
    assert failure.value.reason is Reason.STORE_CONFLICT
    assert second.appender.step() == 10
    second.audit()


def test_an_appender_that_is_fenced_in_the_middle_of_a_step_makes_no_fork(stores):
    """What a slow appender wrote before it was fenced is what the other one writes."""
    first = Opened(stores)
    first.grow(range(1, 10))
    others: list[Opened] = []
    original = first.tiles.put

    def put_then_lose(files):
        original(files)
        if not others:
            others.append(Opened(stores))
            others[0].state.accept([an_entry(n) for n in range(20, 30)])
            others[0].appender.step()

    first.tiles.put = put_then_lose
    first.state.accept([an_entry(n) for n in range(10, 20)])
    with pytest.raises(StoreError) as failure:
        first.appender.step()
    assert failure.value.reason is Reason.STORE_CONFLICT
    assert others[0].state.head().size == 29
    others[0].audit()


def test_a_clock_that_jumps_back_does_not_make_time_fall(stores):
    """Checkpoints go on, and their times never fall."""
    times = iter([1000, 2000, 500, 3000])
    log = Opened(stores, clock=lambda: next(times))
    seen = []
    for number in range(1, 4):
        log.grow(range(number, number + 1))
        seen.append(log.state.head().integrated_at)
    assert seen == [2000, 2000, 3000]
    assert [log.proofs.integrated_at(an_entry(n).key) for n in (1, 2, 3)] == seen
    log.audit()


def test_a_state_from_a_backup_refuses_to_publish(embedded):
    """A database older than the published checkpoint signs nothing."""
    log = Opened(embedded)
    log.grow(range(1, 10))
    log.state.close()
    backup = embedded.folder / "backup"
    shutil.copy(embedded.folder / "state.sqlite3", backup)
    log = Opened(embedded)
    log.grow(range(10, 20))
    before = log.tiles.get(CHECKPOINT_PATH)
    log.state.close()
    shutil.copy(backup, embedded.folder / "state.sqlite3")
    with pytest.raises(StoreError) as failure:
        Opened(embedded)
    assert failure.value.reason is Reason.STORE_ROLLED_BACK
    assert log.tiles.get(CHECKPOINT_PATH) == before


def test_a_whole_folder_from_a_backup_is_found_out_by_the_witnesses(embedded, tmp_path):
    """Where everything was restored, the last co-signed checkpoint says so."""
    log = Opened(embedded)
    log.grow(range(1, 10))
    log.state.close()
    backup = tmp_path.parent / f"{tmp_path.name}-backup"
    shutil.copytree(tmp_path, backup)
    log = Opened(embedded)
    log.grow(range(10, 20))
    cosigned = Checkpoint(ORIGIN, 19, log.state.head().root)
    log.state.close()
    restored = EmbeddedStores(backup)
    generation = restored.state().head().generation
    with pytest.raises(StoreError) as failure:
        Opened(restored, witnessed=lambda: [cosigned])
    assert failure.value.reason is Reason.STORE_ROLLED_BACK
    assert restored.state().head().generation == generation
    Opened(embedded, witnessed=lambda: [cosigned]).audit()


def test_another_history_in_a_witness_is_a_fork(stores):
    """A co-signed tree that is not the beginning of ours is refused, at any size."""
    log = Opened(stores)
    log.grow(range(1, 10))
    for size in (4, 9):
        other = Checkpoint(ORIGIN, size, sha256(b"another history"))
        with pytest.raises(StoreError) as failure:
            Opened(stores, witnessed=lambda other=other: [other])
        assert failure.value.reason is Reason.LOG_FORKED


def test_witnesses_that_cannot_be_asked_keep_the_log_closed(stores):
    """Without an answer nothing is published, and the running appender is not fenced."""

    def unreachable():
        raise NetworkError("no witness answers", reason=Reason.NETWORK_FAILED)

    log = Opened(stores)
    with pytest.raises(NetworkError):
        Opened(stores, witnessed=unreachable)
    log.grow(range(1, 3))


def test_tiles_that_do_not_lead_to_the_root_stop_the_appender(embedded):
    """An edge that was changed on disk is never built upon."""
    log = Opened(embedded)
    log.grow(range(1, 10))
    log.state.close()
    path = embedded.folder / "tiles" / "tile" / "0" / "000.p" / "9"
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    with pytest.raises(StoreError) as failure:
        Opened(embedded)
    assert failure.value.reason is Reason.LOG_FORKED


# -- audit ----------------------------------------------------------------------------------------


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_the_audit_finds_any_changed_or_missing_tile(embedded):
    """A flipped bit, or a file that is gone, in any bundle or tile, is the difference reported."""
    log = Opened(embedded)
    log.grow(range(1, 600))
    root = embedded.folder / "tiles" / "tile"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    current = [
        path
        for path in files
        if not path.parent.name.endswith(".p") or path.name in {str(599 - 512), str(599 // 256)}
    ]
    assert len(current) == 7
    for path in current:
        good = path.read_bytes()
        _damage(path)
        assert fsck(log.tiles, LOG, state=log.state).difference, path
        path.unlink()
        assert fsck(log.tiles, LOG).difference, path
        path.write_bytes(good)
        log.audit()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE leaf_names SET leaf = 4 - leaf WHERE leaf < 5",
        "DELETE FROM leaf_names WHERE leaf = 3",
        "INSERT INTO leaf_names VALUES (5, 3)",
        "INSERT INTO leaf_keys_apart VALUES (randomblob(32), 3)",
        "UPDATE leaf_keys SET keys = randomblob(length(keys))",
        "DELETE FROM leaf_keys WHERE start = 0",
        "UPDATE head SET size = size - 1",
        "UPDATE head SET root = randomblob(32)",
        "DELETE FROM checkpoints WHERE size = 9",
    ],
)
def test_the_audit_finds_a_changed_state(embedded, change):
    """Head, checkpoints and index are held to the entries."""
    log = Opened(embedded)
    log.grow(range(1, 5))
    log.grow(range(5, 10))
    with sqlite3.connect(embedded.folder / "state.sqlite3") as hand:
        hand.execute("DROP TRIGGER names_are_not_updated")
        hand.execute("DROP TRIGGER keys_are_not_updated")
        hand.execute(change)
    hand.close()
    assert fsck(log.tiles, LOG, state=log.state).difference


def test_keys_that_begin_alike_are_told_apart(stores):
    """Who makes digests begin alike gets entries like anybody else's, and knows of no other's."""
    state = Opened(stores).state
    alike = [Digest(bytes(16) + sha256(bytes((number,)))[:16]) for number in range(6)]
    entries = [NewEntry(key, key) for key in alike]
    assert [each.leaf_index for each in state.accept(entries[:1])] == [0]
    assert state.accept(entries[:3]) == [Placed(0, False), Placed(1, True), Placed(2, True)]
    assert state.accept([*entries[3:5], entries[1]]) == [
        Placed(3, True),
        Placed(4, True),
        Placed(1, False),
    ]
    assert state.find([alike[4], alike[5], alike[0]]) == [4, None, 0]
    assert state.count() == (5, 5)


def test_the_audit_finds_a_checkpoint_of_another_tree(embedded):
    """Readers who are shown what the log never made are noticed."""
    log = Opened(embedded)
    log.grow(range(1, 10))
    other = Opened(EmbeddedStores(embedded.folder / "other"))
    other.grow(range(5, 10))
    log.tiles.publish(CHECKPOINT_PATH, other.tiles.get(CHECKPOINT_PATH) or b"")
    assert fsck(log.tiles, LOG, state=log.state).difference
    assert fsck(log.tiles, LOG).difference


def test_the_audit_finds_what_is_no_leaf(stores):
    """An entry that no reader could understand is a difference."""
    log = Opened(stores)
    log.state.accept([NewEntry(leaf_hash(b"no leaf"), b"no leaf")])
    log.appender.step()
    report = fsck(log.tiles, LOG, state=log.state)
    assert report.difference is not None
    assert report.difference.startswith("entry 0")
    assert fsck(log.tiles, LOG, check_leaves=False).difference is None


# -- sources --------------------------------------------------------------------------------------


async def _issue(folder: Path, numbers: range) -> None:
    key_id = SIGNER.public_key.key_id
    store = ReceiptStore.open(folder, issuer_key_id=key_id)
    async with store:
        await asyncio.gather(
            *(
                store.issue(NewReceipt(b"%016d" % number, lambda sequence: a_receipt(sequence)))
                for number in numbers
            )
        )


async def test_the_gateway_s_receipts_reach_the_log_once(embedded, tmp_path):
    """What the receipt store issued is followed in order, across restarts, without a copy of it."""
    outbox = tmp_path / "outbox"
    await _issue(outbox, range(5))
    log = Opened(embedded)
    source = ReceiptOutbox(outbox / "receipts.sqlite3")
    assert source.follow(log.state) == 5
    assert source.follow(log.state) == 0
    await _issue(outbox, range(5, 12))
    again = ReceiptOutbox(outbox / "receipts.sqlite3")
    assert again.follow(log.state) == 7
    log.appender.step()
    for sequence in range(1, 13):
        receipt = InferenceReceipt.parse(a_receipt(sequence))
        proof = log.proofs.inclusion(receipt.receipt_id)
        leaf = ReceiptLeaf.of(receipt).encode()
        index = proof.verify(leaf, log=LOG, witnesses=NO_WITNESSES, now_seconds=0).index
        assert index == sequence - 1
    log.audit()
    source.close()
    again.close()


async def test_a_receipt_store_that_lost_receipts_is_refused(embedded, tmp_path):
    """A store with fewer receipts than were followed is an older copy."""
    await _issue(tmp_path / "outbox", range(3))
    log = Opened(embedded)
    log.state.accept([], cursor=Cursor("receipts", 4))
    source = ReceiptOutbox(tmp_path / "outbox" / "receipts.sqlite3")
    with pytest.raises(StoreError) as failure:
        source.follow(log.state)
    assert failure.value.reason is Reason.STORE_ROLLED_BACK
    source.close()


def test_submitted_leaves_are_taken_once(stores):
    """Leaves of other kinds get a place; a second time they keep it."""
    log = Opened(stores)
    missed = MissedDeadlineLeaf(sha256(b"receipt"), "proof", 100, 200).encode()
    first = submit(log.state, [missed])
    second = submit(log.state, [missed])
    assert (first[0].leaf_index, first[0].is_new) == (0, True)
    assert (second[0].leaf_index, second[0].is_new) == (0, False)
    log.appender.step()
    assert log.proofs.leaf(0) == missed
    log.audit()


@pytest.mark.parametrize("leaf", [b"", b"\xa0", b"\xa2\x01\x01\x02\x18\x63", b"x" * 70_000])
def test_what_is_no_leaf_is_not_taken(embedded, leaf):
    """Bytes that no reader could understand never get an index."""
    log = Opened(embedded)
    with pytest.raises(Error):
        submit(log.state, [MissedDeadlineLeaf(sha256(b"r"), "proof", 1, 2).encode(), leaf])
    assert log.state.head().sequenced == 0


def test_a_receipt_s_leaf_is_not_submitted_without_its_receipt():
    """Otherwise anyone could claim that a receipt was issued."""
    with pytest.raises(MalformedError) as failure:
        entry_of_leaf(an_entry(1).leaf)
    assert failure.value.reason is Reason.MALFORMED_LEAF


def test_the_key_of_a_leaf_is_the_one_that_it_was_taken_under():
    """The audit finds for each leaf the key of its entry."""
    late = LateEvidenceLeaf(sha256(b"receipt"), "proof", sha256(b"evidence"), 5, 200).encode()
    for entry in (an_entry(1), entry_of_leaf(late)):
        assert key_of_leaf(entry.leaf) == entry.key


# -- evidence -------------------------------------------------------------------------------------


def test_evidence_is_found_by_its_digest_and_once(stores):
    """Evidence that arrived is read back whole; a second delivery gives the same leaf."""
    state, tiles = stores.state(), stores.tiles()
    evidence = EvidenceStore(tiles, state)
    entry = EvidenceEntry("proof", "profile", 5, b"body" * 1000, b"endorsed")
    receipt = sha256(b"receipt")
    times = iter([100, 200])
    first = evidence.deliver(receipt, entry, clock=lambda: next(times))
    second = evidence.deliver(receipt, entry, clock=lambda: next(times))
    assert first == second == LateEvidenceLeaf(receipt, "proof", entry.digest(), 4000, 100)
    assert evidence.entries_of(receipt) == [entry]
    assert evidence.get(sha256(b"nothing")) is None


def test_a_forged_blob_is_never_an_answer(embedded):
    """Bytes that are not what their digest says are an error."""
    tiles = embedded.tiles()
    evidence = EvidenceStore(tiles, embedded.state())
    digest = evidence.put(b"evidence")
    _damage(embedded.folder / "tiles" / evidence_path(digest))
    with pytest.raises(StoreError) as failure:
        evidence.get(digest)
    assert failure.value.reason is Reason.STORE_FAILED


def test_evidence_beyond_the_limit_is_refused(embedded):
    """Nobody fills the disk with one blob."""
    evidence = EvidenceStore(embedded.tiles(), embedded.state())
    with pytest.raises(MalformedError) as failure:
        evidence.put(bytes(9 * 1024 * 1024))
    assert failure.value.reason is Reason.TOO_LARGE


# -- description ----------------------------------------------------------------------------------


def test_a_description_is_read_as_it_was_signed():
    """Delay and disclosure come back; another key's description is refused."""
    for disclosure in (Disclosure.NOTHING, Disclosure.MODEL | Disclosure.CHARGE):
        described = LogDescription(ORIGIN, 2500, disclosure)
        assert LogDescription.verify(described.sign(LOG_SIGNER), KEY) == described
    with pytest.raises(VerificationError):
        LogDescription.verify(LogDescription(ORIGIN).sign(SIGNER), KEY)


def test_a_description_never_passes_for_a_checkpoint():
    """One key signs both, and neither form can be read as the other."""
    with pytest.raises(MalformedError):
        SignedCheckpoint.parse(LogDescription(ORIGIN).sign(LOG_SIGNER))


def test_a_merge_delay_that_was_broken_shows():
    """A tree co-signed after the delay without the receipt is a breach; with it, or early, none."""
    described = LogDescription(ORIGIN, 10_000)

    def breached(index: int | None, *, seconds_later: int) -> bool:
        return described.is_breached(
            signed_at=SIGNED_AT,
            leaf_index=index,
            tree_size=100,
            cosigned_at_seconds=SIGNED_AT // 1000 + seconds_later,
        )

    assert breached(None, seconds_later=71)
    assert breached(100, seconds_later=71)
    assert not breached(99, seconds_later=71)
    assert not breached(None, seconds_later=70)  # A witness's clock may be a minute ahead.


def test_the_specification_states_the_limits_of_the_code():
    """Each row of limits is the constant that the code enforces."""
    text = (ROOT / "spec" / "log-service.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", text, re.MULTILINE))
    modules = (interface, examining, evidence_store, description, promises)
    enforced = {
        name: str(value)
        for module in modules
        for name, value in vars(module).items()
        if name.startswith(("MAX_", "MISSED_"))
        and name != "MAX_WATCHED"
        and re.search(rf"^{name}: ", inspect.getsource(module), re.MULTILINE)
    }
    assert stated == enforced


# -- the folder, its thread and the command line ------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> LogFolder:
    return LogFolder.create(tmp_path / "log", LogDescription(ORIGIN, 5000), signer=LOG_SIGNER)


def test_a_thread_integrates_what_is_accepted(folder):
    """What is accepted while the thread runs is proven when it has stopped, at the latest."""
    runner = folder.runner(LOG_SIGNER, pool_seconds=0.02)
    runner.start()
    state = folder.open_state()
    threads = [
        threading.Thread(
            target=lambda first=first: folder.open_state().accept(
                [an_entry(n) for n in range(first, first + 40)]
            )
        )
        for first in (1, 41, 81)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.stop()
    assert runner.failure is None
    assert state.head().size == 120
    assert folder.open_proofs().inclusion(an_entry(120).key).checkpoint.unverified.size == 120
    assert fsck(folder.tiles, folder.trusted, state=state).difference is None


def test_a_poke_ends_the_wait_for_other_entries(folder):
    """With a pool of an hour an entry is integrated when somebody asks for it."""
    runner = folder.runner(LOG_SIGNER, pool_seconds=3600)
    runner.start()
    state = folder.open_state()
    for number in range(1, 4):
        state.accept([an_entry(number)])
        deadline = time.monotonic() + 60
        while state.head().size != number and time.monotonic() < deadline:
            runner.poke()
            time.sleep(0.01)
        assert state.head().size == number
    runner.stop()


def test_a_source_that_fails_does_not_stop_the_log(folder):
    """Other entries are integrated, and the failure shows."""

    class Broken:
        def follow(self, state):
            raise StoreError("the outbox is gone", reason=Reason.STORE_FAILED)

    folder.open_state().accept([an_entry(1)])
    runner = folder.runner(LOG_SIGNER, sources=[Broken()], pool_seconds=0.02)
    runner.start()
    runner.stop()
    assert folder.open_state().head().size == 1
    assert runner.failure is not None


def test_a_thread_that_was_fenced_says_so(folder):
    """The earlier of two threads ends with the reason."""
    first = folder.runner(LOG_SIGNER, pool_seconds=0.02)
    first.start()
    while folder.open_state().checkpoint() is None:
        time.sleep(0.01)
    second = folder.runner(LOG_SIGNER, pool_seconds=0.02)
    second.start()
    first.join(timeout=30)
    assert isinstance(first.failure, StoreError)
    assert first.failure.reason is Reason.STORE_CONFLICT
    second.stop()
    assert second.failure is None


def test_another_log_s_folder_is_refused(folder, tmp_path):
    """A folder is one log's for ever."""
    with pytest.raises(StoreError) as failure:
        LogFolder.create(tmp_path / "log", LogDescription("other.example"), signer=LOG_SIGNER)
    assert failure.value.reason is Reason.STORE_CONFLICT
    assert folder.description() == LogDescription(ORIGIN, 5000)


def test_a_folder_may_name_other_stores(tmp_path, servers, monkeypatch):
    """With `stores.toml` the same log lives in PostgreSQL and an object store, CLI included."""
    connection, address = servers
    make_bucket(address, "named")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "stores.toml").write_text(
        f'[state]\npostgres = "{connection}"\nschema = "named"\n'
        f'[tiles]\nbucket = "named"\nprefix = "a/"\nendpoint = "{address}"\n'
        'region = "us-east-1"\nallow_http = true\n'
    )
    log = LogFolder.create(folder, LogDescription(ORIGIN), signer=LOG_SIGNER)
    log.open_state().accept([an_entry(n) for n in range(1, 300)])
    runner = log.runner(LOG_SIGNER)
    runner.start()
    runner.stop()
    assert runner.failure is None
    assert {each.name for each in folder.iterdir()} == {"log.vkey", "stores.toml"}
    assert log.open_proofs().inclusion(an_entry(299).key).index == 298
    assert main(["log", "fsck", "--log", str(folder)]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "[state]\npostgre = 'x'",
        "[state]\nschema = 'x'",
        "[state]\npostgres = 5",
        "[tiles]\nregion = 'x'",
        "[tile]\nbucket = 'x'",
        "state = 1",
        "not toml",
        "#" * 20_000,
    ],
)
def test_a_misspelt_store_is_an_error_and_no_default(folder, tmp_path, text):
    """A folder that says something unknown about its stores is not opened."""
    (tmp_path / "log" / "stores.toml").write_text(text)
    with pytest.raises(StoreError) as failure:
        LogFolder(tmp_path / "log")
    assert failure.value.reason is Reason.STORE_FAILED


def test_the_command_line_audits_shows_and_proves(folder, tmp_path, capsys):
    """`fsck` says all is well and then not; `show` and `prove` speak of the same tree."""
    folder.open_state().accept([an_entry(n) for n in range(1, 300)])
    runner = folder.runner(LOG_SIGNER)
    runner.start()
    runner.stop()
    log = str(tmp_path / "log")
    assert main(["log", "show", "--log", log]) == 0
    shown = capsys.readouterr().out
    assert '"size": 299' in shown
    assert KEY.encode() in shown
    (tmp_path / "receipt").write_bytes(a_receipt(7))
    arguments = ["log", "prove", str(tmp_path / "receipt"), "--log", log]
    assert main([*arguments, "--out", str(tmp_path / "proof")]) == 0
    assert (tmp_path / "proof").read_bytes().startswith(b"c2sp.org/tlog-proof@v1\nindex 6\n")
    assert main([*arguments, "--cose", "--out", str(tmp_path / "cose")]) == 0
    assert (tmp_path / "cose").read_bytes()[:1] == b"\xd2"
    assert main(["log", "fsck", "--log", log]) == 0
    assert folder.open_state().head().root.hex() in capsys.readouterr().out
    _damage(tmp_path / "log" / "tiles" / "tile" / "entries" / "000")
    assert main(["log", "fsck", "--log", log]) == 1
    assert "FAIL: " in capsys.readouterr().err
    (tmp_path / "unknown").write_bytes(a_receipt(5000))
    assert main(
        ["log", "prove", str(tmp_path / "unknown"), "--log", log, "--out", str(tmp_path / "no")]
    ) not in (0, 1)
