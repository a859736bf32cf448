"""Work on its way from the event loops to the writer: larger batches, fewer wake-ups.

What one busy turn of a loop asks for is handed over together, so that the writer is woken once
and does not fight the loop for the interpreter lock while it still makes work. Nothing waits for
time to pass: a loop with nothing else to do hands over at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Final

from verispect.ledger.work import Waiting

QUIET_TURNS: Final = 2
"""Turns of the loop that bring nothing new: one reads a request, the next one runs it."""

MOST_TURNS: Final = 16
"""Turns after which a busy loop hands over all the same."""


class Gathering:
    """What several event loops have asked for and the writer has not got yet.

    Args:
        inbox: the writer's.
        gate: guards this object; the caller of any method MUST hold it.
    """

    def __init__(self, inbox: queue.SimpleQueue[Waiting | None], gate: threading.Lock) -> None:
        self._inbox = inbox
        self._gate = gate
        self._by_loop: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_loop.values()))

    def add(self, waiting: Waiting) -> None:
        """Take work; its loop, which is the running one, will hand it over."""
        loop = waiting.loop
        gathered = self._by_loop.get(loop)
        if gathered is not None:
            gathered.append(waiting)
            return
        self._by_loop[loop] = [waiting]
        loop.call_soon(self._turn, loop, 0, 0, 0)
        if len(self._by_loop) > 1:
            # A loop that was closed hands nothing over any more, but what it asked for counts.
            for closed in [other for other in self._by_loop if other.is_closed()]:
                self._hand_over(closed)

    def hand_over_all(self) -> None:
        """Give the writer everything now."""
        for loop in list(self._by_loop):
            self._hand_over(loop)

    def _turn(self, loop: asyncio.AbstractEventLoop, seen: int, quiet: int, turn: int) -> None:
        with self._gate:
            count = len(self._by_loop.get(loop, ()))
            quiet = quiet + 1 if count == seen else 0
            if count and quiet < QUIET_TURNS and turn < MOST_TURNS:
                loop.call_soon(self._turn, loop, count, quiet, turn + 1)
            else:
                self._hand_over(loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        for waiting in self._by_loop.pop(loop, ()):
            self._inbox.put(waiting)
