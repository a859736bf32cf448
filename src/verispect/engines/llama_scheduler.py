"""Runs generations and scorings over one llama.cpp context, a step at a time.

A step decodes at most one batch: one token for every running generation, then as many prompt
tokens as still fit. In the deterministic lane there is one sequence, and each request begins with
an empty cache, so a request's batches depend on nothing but itself. In the throughput lane
requests share batches and a sequence keeps its tokens, so that a later prompt with the same
beginning is not computed again.

This module refuses to run in the gateway's process: only `llama_worker` imports it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from verispect.engines import llama_native as native
from verispect.engines.llama_sampling import (
    Chooser,
    GrammarError,
    log_probabilities,
    standing,
)
from verispect.engines.llama_text import Piece, TextAssembler

SCORE_BATCH: Final = 32
"""Prompt tokens scored in one batch: each needs a row of logits over the whole vocabulary."""

Emit = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Job:
    """One generation (`chooser` given), scoring, or forcing (`forced_from` given)."""

    identifier: int
    prompt: list[int]
    maximum_tokens: int = 0
    top_logprobs: int | None = None
    chooser: Chooser | None = None
    forced_from: int | None = None
    """Where in `prompt` the answer begins that is shown to the model."""
    beside: Chooser | None = None
    """The sampler that runs beside a forced answer."""
    assembler: TextAssembler = field(default_factory=TextAssembler)
    sequence: int = -1
    done: int = 0
    """Prompt and generated tokens that are in the cache."""
    generated: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def scored_from(self) -> int:
        """The first position whose logits are wanted; the last one's always are."""
        if self.chooser is not None:
            return len(self.prompt) - 1
        return 0 if self.forced_from is None else self.forced_from - 1

    @property
    def prefilled(self) -> bool:
        """The whole prompt is in the cache."""
        return self.done >= len(self.prompt)


class DecodeError(Exception):
    """llama.cpp could not decode a batch."""


class Scheduler:
    """Owns one context and the jobs in it."""

    def __init__(
        self, model: Any, *, sequences: int, keep_cache: bool, batch_tokens: int, emit: Emit
    ) -> None:
        self._model = model
        self._library = model.library
        self._emit = emit
        self._keep_cache = keep_cache
        self._batch_tokens = batch_tokens
        self._cached: list[list[int]] = [[] for _ in range(sequences)]
        self._running: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._memory = self._library.llama_get_memory(model.context)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._waiting

    def add(self, job: Job) -> None:
        """Queue a job."""
        self._waiting.append(job)

    def cancel(self, identifier: int) -> None:
        """Drop a job; its sequence is free from now on."""
        for job in [*self._running, *self._waiting]:
            if job.identifier == identifier:
                self._drop(job)

    def step(self) -> None:
        """Admit what fits, decode one batch and emit what came of it.

        Raises:
            DecodeError: when llama.cpp fails; the worker must not go on.
        """
        self._admit()
        rows = self._plan()
        if not rows:
            return
        tokens = [row[1] for row in rows]
        positions = [row[2] for row in rows]
        self._decode(rows, tokens, positions)
        for index, (job, token, position, wants_logits) in enumerate(rows):
            self._cached[job.sequence].append(token)
            job.done = position + 1
            if wants_logits and not job.finished:
                self._use_logits(job, index, position)
        for job in [job for job in self._running if job.finished]:
            self._drop(job)

    def _admit(self) -> None:
        while self._waiting:
            taken = {job.sequence for job in self._running}
            free = [number for number in range(len(self._cached)) if number not in taken]
            if not free:
                return
            job = self._waiting.popleft()
            reuse = [self._reusable(job, number) for number in free]
            best = max(range(len(free)), key=lambda index: (reuse[index], -free[index]))
            job.sequence, job.done = free[best], reuse[best]
            self._trim(job.sequence, job.done)
            if not self._cached[job.sequence]:
                job.done = 0
            self._running.append(job)

    def _reusable(self, job: Job, sequence: int) -> int:
        if not self._keep_cache or job.chooser is None:
            return 0
        common = 0
        for ours, theirs in zip(job.prompt, self._cached[sequence], strict=False):
            if ours != theirs:
                break
            common += 1
        # The last prompt token is always computed, because its logits are needed.
        return min(common, len(job.prompt) - 1)

    def _trim(self, sequence: int, keep: int) -> None:
        """Remove all but the first `keep` tokens of a sequence from the cache."""
        if not self._keep_cache:
            self._library.llama_memory_clear(self._memory, True)
            self._cached[sequence].clear()
            return
        if not self._library.llama_memory_seq_rm(self._memory, sequence, keep, -1):
            # Recurrent models cannot forget a part.
            self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            keep = 0
        del self._cached[sequence][keep:]

    def _plan(self) -> list[tuple[Job, int, int, bool]]:
        """Return `(job, token, position, logits wanted)` for the next batch."""
        rows: list[tuple[Job, int, int, bool]] = [
            (job, job.generated[-1], job.done, True) for job in self._running if job.prefilled
        ]
        for job in self._running:
            room = self._batch_tokens - len(rows)
            if job.prefilled or room <= 0:
                continue
            end = min(
                len(job.prompt), job.done + room, max(job.done, job.scored_from) + SCORE_BATCH
            )
            rows.extend(
                (job, job.prompt[at], at, at >= job.scored_from) for at in range(job.done, end)
            )
        return rows

    def _decode(
        self,
        rows: Sequence[tuple[Job, int, int, bool]],
        tokens: list[int],
        positions: list[int],
    ) -> None:
        count = len(rows)
        integer = ctypes.c_int32
        sequences = (integer * count)(*[row[0].sequence for row in rows])
        base = ctypes.addressof(sequences)
        size = ctypes.sizeof(integer)
        pointer = ctypes.POINTER(integer)
        pointers = (pointer * count)(
            *[ctypes.cast(base + index * size, pointer) for index in range(count)]
        )
        batch = native.Batch(
            count,
            (integer * count)(*tokens),
            None,
            (integer * count)(*positions),
            (integer * count)(*[1] * count),
            pointers,
            (ctypes.c_int8 * count)(*[int(row[3]) for row in rows]),
        )
        status = self._library.llama_decode(self._model.context, batch)
        if status != 0:
            raise DecodeError(str(status))

    def _use_logits(self, job: Job, index: int, position: int) -> None:
        pointer = self._library.llama_get_logits_ith(self._model.context, index)
        logits = np.ctypeslib.as_array(pointer, (self._model.vocabulary_size,))
        if job.chooser is not None:
            self._generate(job, job.chooser, logits)
        elif job.forced_from is not None:
            self._force(job, logits, position)
        else:
            self._score(job, logits, position)

    def _score(self, job: Job, logits: np.ndarray[Any, Any], position: int) -> None:
        if position + 1 < len(job.prompt):
            entry = self._entry(job, logits, job.prompt[position + 1])
            self._emit({"id": job.identifier, "entries": [entry]})
            return
        job.finished = True
        self._emit({"id": job.identifier, "finish": "scored"})

    def _force(self, job: Job, logits: np.ndarray[Any, Any], position: int) -> None:
        last = position + 1 == len(job.prompt)
        token = None if last else job.prompt[position + 1]
        try:
            chosen = None if job.beside is None else job.beside.follow(logits, token)
        except GrammarError:
            job.finished = True
            self._emit({"id": job.identifier, "error": "grammar"})
            return
        if token is not None:
            row = [*standing(logits, [token]), chosen]
            self._emit({"id": job.identifier, "forced": row})
            return
        ends = None if chosen is None else self._model.ends_generation(chosen)
        row = [*standing(logits, self._model.ending_tokens), ends]
        job.finished = True
        self._emit({"id": job.identifier, "finish": "forced", "ending": row})

    def _generate(self, job: Job, chooser: Chooser, logits: np.ndarray[Any, Any]) -> None:
        try:
            token = chooser.choose(logits)
        except GrammarError:
            job.finished = True
            self._emit({"id": job.identifier, "error": "grammar"})
            return
        job.generated.append(token)
        if self._model.ends_generation(token):
            self._finish(job, token, job.assembler.finish(), "stop")
            return
        entry = None if job.top_logprobs is None else self._entry(job, logits, token)
        piece = job.assembler.push(self._model.piece(token), entry)
        if piece.stopped:
            self._finish(job, token, piece, "stop")
        elif len(job.generated) >= job.maximum_tokens:
            rest = job.assembler.finish()
            reason = "stop" if rest.stopped else "length"
            rest.text, rest.entries = piece.text + rest.text, piece.entries + rest.entries
            self._finish(job, token, rest, reason)
        else:
            self._send(job, token, piece, None)

    def _finish(self, job: Job, token: int, piece: Piece, reason: str) -> None:
        job.finished = True
        self._send(job, token, piece, reason)

    def _send(self, job: Job, token: int, piece: Piece, finish: str | None) -> None:
        self._emit(
            {
                "id": job.identifier,
                "token": token,
                "text": piece.text,
                "entries": piece.entries,
                "finish": finish,
            }
        )

    def _entry(self, job: Job, logits: np.ndarray[Any, Any], token: int) -> list[Any]:
        value, best = log_probabilities(logits, token, job.top_logprobs or 0)
        hexadecimal = self._model.piece(token, special=True).hex()
        return [
            token,
            hexadecimal,
            value,
            [[other, self._model.piece(other, special=True).hex(), its] for other, its in best],
        ]

    def _drop(self, job: Job) -> None:
        if job in self._running:
            self._running.remove(job)
        else:
            self._waiting.remove(job)
        for chooser in (job.chooser, job.beside):
            if chooser is not None:
                chooser.close()
