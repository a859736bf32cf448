"""A count of coverage that is kept: it goes on as if it had never stopped, or is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_ledger_coverage import leaf, random_log

from log_leaves import nodes
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer, SoftwareSigner
from verispect.cli.main import main
from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError, VerificationError
from verispect.ledger.coverage import CoverageCounter
from verispect.ledger.coverage_state import (
    CountedTree,
    ResumableCounter,
    load_count,
    save_count,
)
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.interface import NewEntry
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.merkle import leaf_hashes, root_of
from verispect.tlog.status_table import NodePolicy

LOG = "log.example"


def root(leaves: Sequence[bytes], size: int) -> Digest:
    return root_of(leaf_hashes(list(leaves[:size])))


def save(path: Path, leaves: list[bytes], policy: NodePolicy, start: int = 0) -> ResumableCounter:
    counter = ResumableCounter(policy, leaves=lambda: iter(leaves))
    counter.replay(leaves[:start])
    counter.begin()
    counter.replay(leaves[start:])
    save_count(path, counter, CountedTree(LOG, len(leaves), root(leaves, len(leaves))), policy)
    return counter


def load(
    path: Path, leaves: list[bytes], policy: NodePolicy | None = None, *, log: str = LOG
) -> ResumableCounter:
    return load_count(
        path,
        policy or nodes(2),
        log=log,
        size=len(leaves),
        root=lambda size: root(leaves, size),
        leaves=lambda: iter(leaves),
    )


def test_a_count_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Stopped anywhere and taken up from the file, it gives the same report, byte for byte."""
    path = tmp_path / "count"
    for seed in range(120):
        draw = random.Random(seed)
        leaves = random_log(draw)
        stop = draw.randrange(0, len(leaves) + 1)
        start = draw.randrange(0, stop + 1)
        path.unlink(missing_ok=True)
        save(path, leaves[:stop], nodes(2), start)
        resumed = load(path, leaves)
        assert resumed.size == stop
        resumed.replay(leaves[stop:])
        whole = CoverageCounter(nodes(2), leaves=lambda leaves=leaves: iter(leaves))
        whole.replay(leaves[:start])
        whole.begin()
        whole.replay(leaves[start:])
        assert resumed.figures().report() == whole.figures().report(), seed


def test_a_count_of_another_log_is_refused(tmp_path: Path) -> None:
    """Another name, another first leaf, fewer leaves, other nodes: each by its own reason."""
    path = tmp_path / "count"
    leaves = [leaf(number) for number in range(1, 9)]
    save(path, leaves, nodes(2))
    assert load(path, [*leaves, leaf(9)]).size == len(leaves)
    with pytest.raises(StoreError) as caught:
        load(path, leaves, log="other.example")
    assert caught.value.reason is Reason.STORE_CONFLICT
    with pytest.raises(StoreError) as caught:
        load(path, leaves, nodes(3))
    assert caught.value.reason is Reason.STORE_CONFLICT
    with pytest.raises(StoreError) as caught:
        load(path, leaves[:-1])
    assert caught.value.reason is Reason.STORE_ROLLED_BACK
    with pytest.raises(VerificationError) as refused:
        load(path, [leaf(77), *leaves[1:], leaf(9)])
    assert refused.value.reason is Reason.LOG_FORKED


def test_a_damaged_count_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, or changed in any byte, the file is damaged, never a smaller count."""
    path = tmp_path / "count"
    leaves = random_log(random.Random(5))
    save(path, leaves, nodes(2))
    good = path.read_bytes()
    for end in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:end])
        with pytest.raises(StoreError):
            load(path, leaves)
    draw = random.Random(1)
    for _ in range(60):
        at = draw.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises((StoreError, VerificationError)):
            load(path, leaves)
    path.write_bytes(good)
    assert load(path, leaves).size == len(leaves)


def test_a_crash_leaves_the_count_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that dies while it writes leaves behind is the last whole count."""
    path = tmp_path / "count"
    leaves = [leaf(number) for number in range(1, 9)]
    save(path, leaves[:4], nodes(2))

    def full(_: int) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StoreError):
            save(path, leaves, nodes(2))
    assert load(path, leaves).size == 4
    assert [each.name for each in tmp_path.iterdir()] == ["count"]


def test_the_command_line_counts_only_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run reads on from the first; a log that is another is refused with exit code 1."""
    issuer = Issuer("tests", SoftwareSigner(bytes(range(32))), False, 0)
    (tmp_path / "root.json").write_bytes(TrustedRoot([issuer.trusted_key()]).to_json())
    signer = SoftwareSigner(bytes(reversed(range(32))))

    def grow(name: str, numbers: Sequence[int]) -> None:
        place = tmp_path / name
        if place.exists():
            folder = LogFolder(place)
        else:
            folder = LogFolder.create(place, LogDescription(LOG), signer=signer)
        state = folder.open_state()
        appender = Appender.open(state, folder.tiles, origin=LOG, signer=signer)
        leaves = [leaf(number) for number in numbers]
        state.accept([NewEntry(decode_leaf(data).receipt, data) for data in leaves])
        appender.step()
        state.close()

    def count(name: str, *more: str) -> int:
        return main(
            [
                "coverage",
                f"--log={tmp_path / name}",
                f"--trusted-root={tmp_path / 'root.json'}",
                f"--state={tmp_path / 'count'}",
                "--json",
                *more,
            ]
        )

    grow("log", range(1, 301))
    assert count("log") == 0
    assert json.loads(capsys.readouterr().out)["outcomes"]["met"] == 300
    grow("log", range(301, 310))
    # What was counted is not read again: its first bundle may be gone.
    (bundle,) = (tmp_path / "log").rglob("entries/000")
    bundle.unlink()
    assert count("log") == 0
    assert json.loads(capsys.readouterr().out)["outcomes"]["met"] == 309
    grow("fork", range(2, 400))
    assert count("fork") == 1
    assert "log-forked" in capsys.readouterr().err
    assert count("log", "--check") == 2
