"""The parent's side of the llama.cpp worker: starts it, talks to it, starts it again.

A worker that ends, for whatever reason, fails the requests it was answering with `EngineError`;
the next request starts a new one. A new worker must describe itself as the first one did, so that
an engine identity that was signed stays true.

This module refuses to keep a request for a later worker: what was in flight has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from verispect.core.errors import EngineError, ModelError, Reason
from verispect.engines.llama_worker import MAX_FRAME_BYTES, encode_frame

_DROPPED_PREFIXES: Final = ("LLAMA_", "GGML_", "LLGUIDANCE_", "OMP_")
"""Environment variables that could change what the library computes or writes."""

_CLOSE_SECONDS: Final = 5.0


class WorkerProcess:
    """One worker at a time, restarted when it has ended.

    Args:
        configuration: the worker's first frame.
        file_descriptor: an open model file that the worker inherits, or `None`.
    """

    def __init__(self, configuration: Mapping[str, Any], file_descriptor: int | None) -> None:
        self._configuration = dict(configuration)
        self._descriptor = file_descriptor
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._inboxes: dict[int, asyncio.Queue[dict[str, Any] | None]] = {}
        self._starting = asyncio.Lock()
        self._description: dict[str, Any] | None = None
        self._next_identifier = 0
        self._alive = False
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """The running worker's process id."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> dict[str, Any]:
        """Start a worker unless one runs; return its description.

        Raises:
            ModelError: `unsupported-model` where llama.cpp cannot load the model.
            EngineError: where the worker cannot start, or is not the engine it was.
        """
        async with self._starting:
            if self._closed:
                raise EngineError("the engine is closed", reason=Reason.ENGINE_UNAVAILABLE)
            if self._alive and self._description is not None:
                return self._description
            return await self._spawn()

    async def _spawn(self) -> dict[str, Any]:
        threads = str(self._configuration["threads"])
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_DROPPED_PREFIXES)
        }
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": threads}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "verispect.engines.llama_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            pass_fds=() if self._descriptor is None else (self._descriptor,),
            start_new_session=True,
        )
        self._process = process
        try:
            await self._write(self._configuration)
            frame = await _read_frame(process)
            description = self._check_description(frame)
        except BaseException:
            await _end(process, patience_seconds=0)
            raise
        self._alive = True
        self._reader = asyncio.create_task(self._dispatch(process))
        return description

    def _check_description(self, frame: dict[str, Any] | None) -> dict[str, Any]:
        if frame is None:
            raise EngineError(
                "the engine's process ended while it loaded the model",
                reason=Reason.ENGINE_FAILED,
            )
        if "failed" in frame:
            reason = Reason(frame["reason"])
            kind = ModelError if reason is Reason.UNSUPPORTED_MODEL else EngineError
            raise kind(frame["failed"], reason=reason)
        description: dict[str, Any] = frame["ready"]
        if self._description is not None and description != self._description:
            raise EngineError(
                "the engine is not the one that was started first",
                reason=Reason.ENGINE_UNAVAILABLE,
            )
        self._description = description
        return description

    async def _dispatch(self, process: asyncio.subprocess.Process) -> None:
        try:
            while (frame := await _read_frame(process)) is not None:
                inbox = self._inboxes.get(frame["id"])
                if inbox is not None:
                    inbox.put_nowait(frame)
        finally:
            # First, so that no request joins a worker that will not answer it.
            self._alive = False
            for inbox in self._inboxes.values():
                inbox.put_nowait(None)
            await _end(process)

    async def _write(self, frame: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode_frame(frame))
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise _ended() from error

    @contextlib.asynccontextmanager
    async def request(
        self, frame: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Send a request and give the iterator of its answers; leaving the block cancels it.

        Raises:
            EngineError: `engine-failed` when the worker ends before the block does.
        """
        await self.start()
        identifier = self._next_identifier
        self._next_identifier += 1
        inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._inboxes[identifier] = inbox
        try:
            await self._write({**frame, "id": identifier})
            yield _answers(inbox)
        finally:
            del self._inboxes[identifier]
            # A worker that has finished the request ignores this.
            with contextlib.suppress(EngineError):
                await asyncio.shield(self._write({"op": "cancel", "id": identifier}))

    async def call(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request that has one answer and return it."""
        async with self.request(frame) as answers:
            return await anext(answers)

    async def close(self) -> None:
        """End the worker."""
        async with self._starting:
            self._closed = True
            process, self._process = self._process, None
            if process is None:
                return
            if process.stdin is not None:
                process.stdin.close()
            await _end(process)
            if self._reader is not None:
                await self._reader


async def _end(
    process: asyncio.subprocess.Process, patience_seconds: float = _CLOSE_SECONDS
) -> None:
    """Wait for a process that should be ending, then kill it."""
    try:
        await asyncio.wait_for(process.wait(), patience_seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _ended() -> EngineError:
    return EngineError("the engine's process ended", reason=Reason.ENGINE_FAILED)


async def _answers(inbox: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[dict[str, Any]]:
    while True:
        frame = await inbox.get()
        if frame is None:
            raise _ended()
        yield frame


async def _read_frame(process: asyncio.subprocess.Process) -> dict[str, Any] | None:
    assert process.stdout is not None
    try:
        (length,) = struct.unpack(">I", await process.stdout.readexactly(4))
        if length > MAX_FRAME_BYTES:
            return None
        frame: dict[str, Any] = json.loads(await process.stdout.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None
    return frame
