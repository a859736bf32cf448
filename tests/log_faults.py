"""Injected faults for tests of the log: the n-th change fails, or the process dies at it.

A step that fails "before" did nothing; one that fails "after" did everything and its answer was
lost; one that fails "halfway" stored some of its tiles. "kill before" and "kill after" are a
SIGKILL at that very call.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from verispect.core.errors import Reason, StoreError
from verispect.ledger.log.interface import LogState, TileStore
from verispect.ledger.log.promises import PromiseBook


class Faults:
    """Fails the n-th call that changes something; 0 fails none."""

    def __init__(self, at: int, how: str) -> None:
        self.left = at
        self.how = how
        self.calls = 0

    def around(self, call: Callable[[], object], half: Callable[[], object] | None) -> object:
        self.calls += 1
        self.left -= 1
        if self.left != 0:
            return call()
        if self.how.startswith("kill"):
            if self.how == "kill after":
                call()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "after":
            call()
        if self.how == "halfway" and half is not None:
            half()
        raise StoreError("injected", reason=Reason.STORE_FAILED)


class FaultyState:
    """A state whose changes may fail."""

    def __init__(self, inner: LogState, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str):
        method = getattr(self._inner, name)
        if name not in ("take_over", "accept", "advance", "register_evidence"):
            return method
        return lambda *arguments, **named: self._faults.around(
            lambda: method(*arguments, **named), None
        )


class FaultyTiles:
    """A tile store whose changes may fail."""

    def __init__(self, inner: TileStore, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def get(self, path: str) -> bytes | None:
        return self._inner.get(path)

    def put(self, files) -> None:
        half = files[: len(files) // 2]
        self._faults.around(lambda: self._inner.put(files), lambda: self._inner.put(half))

    def publish(self, path: str, data: bytes) -> None:
        self._faults.around(lambda: self._inner.publish(path, data), None)

    def remove_partials(self, paths) -> None:
        self._faults.around(lambda: self._inner.remove_partials(paths), None)


class FaultyBook:
    """A book of promises whose changes may fail."""

    def __init__(self, inner: PromiseBook, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str):
        method = getattr(self._inner, name)
        if name not in ("receipts", "missed", "close_promise"):
            return method
        return lambda *arguments, **named: self._faults.around(
            lambda: method(*arguments, **named), None
        )


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own and return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
