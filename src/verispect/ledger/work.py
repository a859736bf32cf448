"""What callers ask of the writer: one class per kind of work, and how its outcome gets back.

Several event loops may wait at one writer; outcomes go back with one wake-up per loop and batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from verispect.ledger.records import NewReceipt


@dataclass(frozen=True, slots=True)
class Issue:
    """Number, mint and keep a receipt; ends the open stream of that inference, if there is one."""

    new: NewReceipt


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Remember that a stream has begun."""

    inference_id: bytes
    recovery: bytes


@dataclass(frozen=True, slots=True)
class CheckpointStream:
    """Replace what an open stream would leave behind."""

    inference_id: bytes
    recovery: bytes


@dataclass(frozen=True, slots=True)
class TakeInterruptedStreams:
    """Make this process the owner of the streams whose process is gone."""


@dataclass(frozen=True, slots=True)
class EraseOpenings:
    """Delete one slice of the openings issued before `older_than` milliseconds."""

    older_than: int


@dataclass(frozen=True, slots=True)
class TruncateLog:
    """Empty the WAL, so that erased bytes are not left in it."""


Work = Issue | OpenStream | CheckpointStream | TakeInterruptedStreams | EraseOpenings | TruncateLog


@dataclass(slots=True)
class Waiting:
    """A piece of work, the future that waits for it and, once decided, its outcome."""

    work: Work
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    outcome: Any = None

    @property
    def size(self) -> int:
        """Bytes of content that this will write, as far as known before minting."""
        match self.work:
            case Issue(new):
                return len(new.openings) if new.openings is not None else 0
            case OpenStream(recovery=recovery) | CheckpointStream(recovery=recovery):
                return len(recovery)
            case _:
                return 0


def deliver(batch: Iterable[Waiting]) -> None:
    """Resolve the futures of `batch` on their own loops; an outcome that is an error is raised."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Waiting]] = defaultdict(list)
    for waiting in batch:
        by_loop[waiting.loop].append(waiting)
    for loop, decided in by_loop.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, decided)


def _resolve(decided: list[Waiting]) -> None:
    for waiting in decided:
        if waiting.future.done():
            continue
        if isinstance(waiting.outcome, BaseException):
            waiting.future.set_exception(waiting.outcome)
        else:
            waiting.future.set_result(waiting.outcome)
