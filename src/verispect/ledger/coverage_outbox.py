"""Publishes coverage of the operator's own log, epoch by epoch, as one of the log's sources.

An epoch ends where the tree stands when its time is over and something was counted; the next one
begins there. The count goes on from the leaf where it stopped; after a restart it begins at leaf 0
once. The report is kept with the log's evidence, under the digest that the leaf gives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from verispect.attesters.signer import Issuer
from verispect.core.encoding import decode_content
from verispect.core.envelope import sign_envelope
from verispect.core.errors import Reason, StoreError
from verispect.ledger.coverage import CoverageCounter
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.entries import entry_of_leaf
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.interface import Cursor, LogState
from verispect.ledger.log.reading import TileReader
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.publications import COVERAGE_TYPE
from verispect.tlog.status_table import NodePolicy
from verispect.tlog.tiles import TILE_WIDTH, tile_at

COVERAGE_FILE: Final = "coverage.json"
"""In the gateway's state directory: the latest report, for its metrics."""
COVERAGE_SECONDS: Final = 3600


class CoverageOutbox:
    """Coverage leaves, as a source of entries.

    Args:
        folder: the log.
        issuer: who signs.
        nodes: whose verdicts count.
        shown: where the latest report is left as JSON.
        seconds: how long an epoch takes at least.
        clock: seconds that never fall.
    """

    CURSOR: Final = "coverage"

    def __init__(
        self,
        folder: LogFolder,
        issuer: Issuer,
        nodes: NodePolicy,
        *,
        shown: Path,
        seconds: float = COVERAGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = TileReader(folder.tiles)
        self._tiles = folder.tiles
        self._issuer = issuer
        self._shown = shown
        self._seconds = seconds
        self._clock = clock
        self._due = clock() + seconds
        self._size = 0
        self._counter = CoverageCounter(nodes, leaves=lambda: self._leaves(0, self._size))

    def follow(self, state: LogState) -> int:
        """Publish the epoch that ended, if one did.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        if self._clock() < self._due:
            return 0
        self._due = self._clock() + self._seconds
        start, self._size = state.cursor(self.CURSOR), state.head().size
        counter = self._counter
        if counter.size < start:
            counter.replay(self._leaves(counter.size, start))
            counter.begin()
        counter.replay(self._leaves(counter.size, self._size))
        figures = counter.figures()
        if not sum(figures.outcomes.values()):
            return 0  # Nothing but leaves of ours: an idle log does not grow.
        report = figures.report()
        EvidenceStore(self._tiles, state).put(report)
        envelope = sign_envelope(
            figures.publication(time.time_ns() // 1_000_000).encode(),
            content_type=COVERAGE_TYPE,
            issuer=self._issuer.name,
            subject=f"leaves {figures.first_leaf} to {figures.end_leaf}",
            signer=self._issuer.signer,
        )
        leaf = SignedLeaf.of(envelope).encode()
        state.accept([entry_of_leaf(leaf)], cursor=Cursor(self.CURSOR, figures.end_leaf))
        counter.begin()
        self._show(report)
        return 1

    def _leaves(self, start: int, end: int) -> Iterator[bytes]:
        for index in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
            entries = self._reader.entries(tile_at(0, index, end))
            yield from entries[max(0, start - index * TILE_WIDTH) :]

    def _show(self, report: bytes) -> None:
        draft = self._shown.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(decode_content(report)), encoding="utf-8")
            draft.replace(self._shown)
        except OSError as error:
            raise StoreError("cannot show the coverage", reason=Reason.STORE_FAILED) from error
