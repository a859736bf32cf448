"""Runs an appender in a thread of its own: follows the sources, pools, integrates, publishes.

Entries wait for each other at most `pool_seconds`, or until a whole batch is there. A store that
fails is tried again; an appender that was fenced ends, and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from verispect.core.errors import Error, Reason, StoreError
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.interface import LogState
from verispect.ledger.log.sources import MAX_FOLLOWED, Source

POOL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class LogRunner(threading.Thread):
    """The appender's thread. `start` it; `stop` puts what waits into the tree and ends it.

    Args:
        open_appender: opens state and appender; called in the thread, which owns both.
        sources: followed before each step.
        pool_seconds: how long entries wait for others.
    """

    def __init__(
        self,
        open_appender: Callable[[], tuple[LogState, Appender]],
        *,
        sources: Sequence[Source] = (),
        pool_seconds: float = POOL_SECONDS,
    ) -> None:
        super().__init__(name="verispect-log", daemon=True)
        self._open_appender = open_appender
        self._sources = sources
        self._pool_seconds = pool_seconds
        self._poked = threading.Event()
        self._stopping = False
        self.failure: Error | None = None
        """Why the thread ended by itself, or what last made it wait; `None` when all is well."""

    def run(self) -> None:
        """Follow, integrate and publish until told to stop."""
        try:
            state, appender = self._open_appender()
        except Error as error:
            self.failure = error
            _log.error("the log cannot be continued: %s", error)
            return
        try:
            self._run(state, appender)
        finally:
            state.close()

    def _run(self, state: LogState, appender: Appender) -> None:
        while True:
            last = self._stopping
            started = time.monotonic()
            try:
                while self._turn(state, appender):
                    pass  # A whole batch was there: no pool has to fill.
                self.failure = None
                wait = self._pool_seconds - (time.monotonic() - started)
            except Error as error:
                self.failure = error
                if isinstance(error, StoreError) and error.reason is Reason.STORE_CONFLICT:
                    _log.error("the log has another appender, or other tiles: %s", error)
                    return
                _log.warning("the log waits: %s", error)
                wait = RETRY_SECONDS
            if last:
                return
            self._poked.wait(max(wait, 0.0))
            self._poked.clear()

    def _turn(self, state: LogState, appender: Appender) -> bool:
        """Follow and integrate once, and tell whether to go on at once."""
        followed = 0
        failed: Error | None = None
        for source in self._sources:
            try:
                followed = max(followed, source.follow(state))
            except Error as error:
                failed = error  # One source that fails does not hold up the others.
        integrated = appender.step()
        if failed is not None:
            raise failed
        if self._stopping:
            return followed + integrated > 0
        return followed >= MAX_FOLLOWED or integrated >= appender.maximum_batch

    def poke(self) -> None:
        """Integrate now rather than when the pool's time is over."""
        self._poked.set()

    def stop(self) -> None:
        """Integrate what waits and end the thread."""
        self._stopping = True
        self._poked.set()
        self.join()
