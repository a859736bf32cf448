"""The process that runs llama.cpp: `python -m verispect.engines.llama_worker`.

Frames are a four-byte big-endian length and JSON, over the pipes that were standard input and
output; both are replaced by the null device before the native library is loaded, and so is
standard error, because llama.cpp writes grammars and errors there. The first frame is the
configuration, the answer to it is `{"ready": …}`. The process ends when its input does, so it never
outlives its parent.

This module refuses to listen on a socket and to write a log.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from verispect.core.errors import Error, ModelError, Reason

if TYPE_CHECKING:
    from verispect.engines.llama_sampling import Chooser

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024

_END: Final = object()


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """Return the next frame, or `None` at the end of the input."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    (length,) = struct.unpack(">I", header)
    body = stream.read(length)
    if len(body) < length:
        return None
    frame: dict[str, Any] = json.loads(body)
    return frame


def encode_frame(frame: dict[str, Any]) -> bytes:
    """Return a frame's bytes."""
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
    return struct.pack(">I", len(body)) + body


class Worker:
    """Answers requests with one model, computing in the thread that calls `run`."""

    def __init__(self, configuration: dict[str, Any], output: BinaryIO) -> None:
        # Imported here, after the descriptors are safe and the environment is set.
        from verispect.engines.llama_model_native import LoadError, NativeModel
        from verispect.engines.llama_scheduler import Scheduler

        self._output = output
        try:
            self._model = NativeModel(configuration["path"], configuration)
        except LoadError as error:
            raise ModelError(
                "llama.cpp cannot load the model", reason=Reason.UNSUPPORTED_MODEL
            ) from error
        self._scheduler = Scheduler(
            self._model,
            sequences=configuration["sequences"],
            keep_cache=configuration["keep_cache"],
            batch_tokens=configuration["batch_tokens"],
            emit=self._emit,
        )
        self._emit({"ready": self._model.describe()})

    def run(self, inbox: queue.Queue[Any]) -> None:
        """Serve until the input ends."""
        while True:
            try:
                frame = inbox.get(block=self._scheduler.idle)
            except queue.Empty:
                self._scheduler.step()
                continue
            if frame is _END:
                return
            self._handle(frame)

    def _emit(self, frame: dict[str, Any]) -> None:
        self._output.write(encode_frame(frame))
        self._output.flush()

    def _handle(self, frame: dict[str, Any]) -> None:
        identifier = frame["id"]
        operation = frame["op"]
        if operation == "cancel":
            self._scheduler.cancel(identifier)
        elif operation == "generate":
            self._generate(frame)
        elif operation == "score":
            self._score(frame)
        elif operation == "force":
            self._force(frame)
        elif operation == "tokenize":
            self._tokenize(frame)
        elif operation == "pieces":
            pieces = [self._model.piece(token).hex() for token in frame["tokens"]]
            self._emit({"id": identifier, "pieces": pieces})
        elif operation == "embed":
            self._emit({"id": identifier, "vector": self._model.embed(frame["tokens"])})

    def _chooser(self, frame: dict[str, Any]) -> Chooser | None:
        """Return the sampler of a request; `None` where its grammar was refused, and said so."""
        from verispect.engines.llama_sampling import Chooser, GrammarError

        settings = {**frame["sampling"], "penalty_window": self._model.context_tokens}
        try:
            return Chooser(self._model.library, self._model.vocabulary, settings, frame["grammar"])
        except GrammarError:
            self._emit({"id": frame["id"], "error": "grammar"})
            return None

    def _generate(self, frame: dict[str, Any]) -> None:
        from verispect.engines.llama_scheduler import Job
        from verispect.engines.llama_text import TextAssembler

        settings = frame["sampling"]
        chooser = self._chooser(frame)
        if chooser is None:
            return
        self._scheduler.add(
            Job(
                identifier=frame["id"],
                prompt=frame["prompt"],
                maximum_tokens=settings["maximum_tokens"],
                top_logprobs=settings["top_logprobs"],
                chooser=chooser,
                assembler=TextAssembler(tuple(settings["stop"])),
            )
        )

    def _score(self, frame: dict[str, Any]) -> None:
        from verispect.engines.llama_scheduler import Job

        self._scheduler.add(
            Job(
                identifier=frame["id"],
                prompt=frame["prompt"],
                top_logprobs=frame["top_logprobs"],
            )
        )

    def _force(self, frame: dict[str, Any]) -> None:
        from verispect.engines.llama_scheduler import Job

        beside = None if frame["sampling"] is None else self._chooser(frame)
        if frame["sampling"] is not None and beside is None:
            return
        self._scheduler.add(
            Job(
                identifier=frame["id"],
                prompt=frame["prompt"],
                forced_from=frame["first"],
                beside=beside,
            )
        )

    def _tokenize(self, frame: dict[str, Any]) -> None:
        from verispect.engines.llama_sampling import Grammar, GrammarError

        segments = [(text, own) for text, own in frame["segments"]]
        tokens = self._model.tokenize_segments(segments, begin=frame["begin"])
        if frame["grammar"] is not None:
            try:
                grammar = Grammar(self._model.library, self._model.vocabulary, frame["grammar"])
                grammar.check_start()
            except GrammarError:
                self._emit({"id": frame["id"], "error": "grammar"})
                return
            grammar.close()
        self._emit({"id": frame["id"], "tokens": tokens})


def _read_forever(stream: BinaryIO, inbox: queue.Queue[Any]) -> None:
    while (frame := read_frame(stream)) is not None:
        inbox.put(frame)
    # The parent is gone or closed the pipe: no computation may hold this process up.
    os._exit(0)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the frame pipes away from the standard descriptors and silence those."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return os.fdopen(source, "rb"), os.fdopen(sink, "wb")


def main() -> int:
    """Run the worker; the exit status is 0 at the end of the input, 1 where loading failed."""
    source, sink = _private_pipes()
    configuration = read_frame(source)
    if configuration is None:
        return 0
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read_forever, args=(source, inbox), daemon=True).start()
    try:
        worker = Worker(configuration, sink)
    except Error as error:
        sink.write(encode_frame({"failed": error.message, "reason": error.reason.value}))
        sink.flush()
        return 1
    worker.run(inbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
