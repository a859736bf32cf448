"""A log in operation: the appender, the push to its witnesses, and the start of both.

A log starts only after its witnesses said what they saw (`witnesses.ask_witnesses`). Where they
cannot be reached it waits, and takes entries in the meantime; where they saw more than the state
knows it refuses, for good: somebody restored an old backup.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from verispect.core.errors import Error, NetworkError
from verispect.core.keys import Signer
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.runner import POOL_SECONDS, LogRunner
from verispect.ledger.log.sources import Source
from verispect.ledger.log.witnesses import Witness, WitnessPush, ask_witnesses

RESTART_SECONDS: Final = 2.0


class LogOperation(threading.Thread):
    """Runs one log. `start` it; `stop` integrates what waits.

    Args:
        folder: the log.
        signer: holder of its private key.
        sources: where entries come from.
        witnesses: who co-signs.
        threshold: how many of them make a checkpoint count.
        pool_seconds: how long entries wait for others.
    """

    def __init__(
        self,
        folder: LogFolder,
        signer: Signer,
        *,
        sources: Sequence[Source] = (),
        witnesses: Sequence[Witness] = (),
        threshold: int = 0,
        pool_seconds: float = POOL_SECONDS,
    ) -> None:
        super().__init__(name="verispect-log-operation", daemon=True)
        self._folder = folder
        self._signer = signer
        self._sources = sources
        self._witnesses = witnesses
        self._threshold = threshold
        self._pool_seconds = pool_seconds
        self._ended = threading.Event()
        self._runner: LogRunner | None = None
        self._push: WitnessPush | None = None

    @property
    def failure(self) -> Error | None:
        """Why the log does not go on; `None` when all is well or it is only starting."""
        return None if self._runner is None else self._runner.failure

    def run(self) -> None:
        """Start the log, again and again while its witnesses cannot be reached."""
        if self._witnesses:
            self._push = WitnessPush(
                self._witnesses,
                self._folder.trusted,
                open_state=self._folder.open_state,
                tiles=self._folder.tiles,
            )
            self._push.start()
        while not self._ended.is_set():
            self._runner = self._folder.runner(
                self._signer,
                sources=self._sources,
                witnessed=lambda: ask_witnesses(
                    self._witnesses, self._threshold, self._folder.trusted
                ),
                pool_seconds=self._pool_seconds,
            )
            self._runner.start()
            while self._runner.is_alive() and not self._ended.wait(RESTART_SECONDS):
                pass
            if not self._runner.is_alive() and not isinstance(self._runner.failure, NetworkError):
                break  # Fenced, forked or rolled back: what waits stays, and nothing is published.
            self._ended.wait(RESTART_SECONDS)

    def stop(self) -> None:
        """Integrate what waits and end."""
        self._ended.set()
        self.join()
        if self._runner is not None and self._runner.is_alive():
            self._runner.stop()
        if self._push is not None:
            self._push.stop()
