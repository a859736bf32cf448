"""Takes receipts of any issuer that the log knows: examined by worker processes, then accepted.

Ed25519 is what bounds it, and threads do not help: each worker is a process. While they examine the
next chunks the state accepts the last ones, so an outcome is given only after its commit. What was
refused has a reason; what came twice has its first place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Final, Self

from verispect.core.errors import Reason, StoreError
from verispect.evidence.interface import IssuerKey
from verispect.ledger.log.examining import Examined, Examiner
from verispect.ledger.log.interface import LogState, NewEntry, Placed
from verispect.tlog.receipt_leaf import Disclosure

CHUNK: Final = 1024
"""Receipts that go to a worker at once: as many as one batch signature may cover."""

MAX_COMMIT: Final = 16 * CHUNK
"""Receipts in one commit."""

MAX_AHEAD: Final = 16
"""Chunks that are examined while commits are made."""

Outcome = Placed | Reason

_Chunk = tuple[Sequence[bytes], list[Examined]]
_Commit = tuple[list[list[Examined]], Future[Sequence[Placed]]]

_examiner: Examiner | None = None


def _start(issuers: Sequence[IssuerKey], disclose: Disclosure, development_keys: bool) -> None:
    global _examiner
    _examiner = Examiner(issuers, disclose=disclose, development_keys=development_keys)


def _examine(receipts: Sequence[bytes]) -> list[Examined]:
    assert _examiner is not None
    return _examiner.examine(receipts)


class Ingest:
    """The way of other issuers' receipts into one log; used from one thread.

    Args:
        state: a connection of its own, which nobody else uses meanwhile.
        issuers: the keys whose receipts are taken.
        disclose: what leaves show in the clear, by the log's description.
        development_keys: whether receipts of development keys are taken.
        workers: processes that examine.
    """

    def __init__(
        self,
        state: LogState,
        issuers: Sequence[IssuerKey],
        *,
        disclose: Disclosure = Disclosure.NOTHING,
        development_keys: bool = False,
        workers: int = 2,
    ) -> None:
        self._state = state
        self._workers = workers
        # Not forked: this process has threads and an open database.
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("forkserver"),
            initializer=_start,
            initargs=(list(issuers), disclose, development_keys),
        )
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="verispect-ingest")

    def submit(self, receipts: Sequence[bytes]) -> list[Outcome]:
        """Take receipts; durable on return.

        Returns:
            For each its place in the log, or why it is refused.

        Raises:
            StoreError: `store-failed`, `store-locked`; then the same receipts can be given again.
        """
        chunks = (receipts[at : at + CHUNK] for at in range(0, len(receipts), CHUNK))
        return [outcome for outcomes in self.follow(chunks) for outcome in outcomes]

    def follow(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        """Take chunks as they come, and give the outcomes of each after its commit, in order.

        Args:
            chunks: best of `CHUNK` receipts each; read a few ahead of what was committed.

        Raises:
            StoreError: as `submit`.
        """
        ahead: deque[tuple[Sequence[bytes], Future[list[Examined]]]] = deque()
        committing: _Commit | None = None
        source = iter(chunks)
        more = True
        while more or ahead or committing is not None:
            while more and len(ahead) < 2 * self._workers + MAX_AHEAD:
                chunk = next(source, None)
                more = chunk is not None
                if chunk is not None:
                    with _our_error():
                        ahead.append((chunk, self._pool.submit(_examine, chunk)))
            ready = _take_ready(ahead, wait=committing is None)
            # The next commit stands in line while this one is made: the disk never waits.
            previous, committing = committing, self._commit(ready) if ready else None
            if previous is not None:
                yield from _outcomes(previous)

    def _commit(self, ready: Sequence[_Chunk]) -> _Commit:
        entries = [
            NewEntry(examined[0], examined[1], data)
            for chunk, results in ready
            for data, examined in zip(chunk, results, strict=True)
            if not isinstance(examined, Reason)
        ]
        return [results for _, results in ready], self._committer.submit(
            self._state.accept, entries
        )

    def close(self) -> None:
        """End the workers; a commit that was begun is made."""
        self._pool.shutdown(cancel_futures=True)
        self._committer.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def _our_error() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise StoreError("a worker that examines died", reason=Reason.STORE_FAILED) from error


def _take_ready(
    ahead: deque[tuple[Sequence[bytes], Future[list[Examined]]]], *, wait: bool
) -> list[_Chunk]:
    """Take the chunks that were examined, in order; with `wait`, at least the first."""
    ready: list[_Chunk] = []
    size = 0
    while ahead and size < MAX_COMMIT and ((wait and not ready) or ahead[0][1].done()):
        chunk, future = ahead.popleft()
        with _our_error():
            ready.append((chunk, future.result()))
        size += len(chunk)
    return ready


def _outcomes(commit: _Commit) -> Iterator[list[Outcome]]:
    """Wait for a commit and give the outcomes of its chunks."""
    chunks, future = commit
    placed = iter(future.result())
    for results in chunks:
        yield [each if isinstance(each, Reason) else next(placed) for each in results]
