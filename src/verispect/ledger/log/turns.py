"""Turns at one database among the threads of a process, first come, first served.

SQLite lets one connection write at a time, and those that wait try again after a sleep: whoever
commits without a pause keeps all others out. Threads therefore queue before they ask SQLite.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and give it up afterwards."""
        self._take()
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().release()  # Handed over: it stays taken.
                else:
                    self._taken = False

    def _take(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()


_guard = threading.Lock()
_turns: dict[Path, Turns] = {}


def turns_at(database: Path) -> Turns:
    """Return the turns at a database: the same for all threads of this process."""
    with _guard:
        return _turns.setdefault(database.resolve(), Turns())
