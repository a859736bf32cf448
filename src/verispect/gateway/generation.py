"""One generation with its choices: prepared, run, watched, and committed to.

Chat, completions and responses share this. It refuses to shape answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from verispect.core.commitments import Part
from verispect.core.errors import EngineError, Reason
from verispect.engines.interface import (
    ChatInput,
    Delta,
    LanguageModel,
    PreparedInput,
    PromptInput,
    Sampling,
    TokenLogprob,
    ToolCall,
)
from verispect.gateway.inference import Inference, Issued
from verispect.gateway.streaming import CallerGoneError, Outcome


@dataclass(slots=True)
class Choice:
    """One answer of a generation, as far as it was made (plain) or sent (streamed)."""

    index: int
    texts: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    upstream: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.texts)

    def count(self, delta: Delta) -> None:
        """Note the tokens, usage and upstream report of `delta`, but none of its content."""
        self.completion_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.prompt_tokens = delta.prompt_tokens
            self.completion_tokens = delta.completion_tokens
            self.upstream = delta.upstream

    def absorb(self, delta: Delta) -> None:
        """Note everything of `delta`."""
        self.count(delta)
        self.texts.append(delta.text)
        self.tool_calls += delta.tool_calls
        self.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    def forget(self) -> None:
        """Drop the content: nothing of it was sent."""
        self.texts, self.tool_calls, self.logprobs = [], [], []


@dataclass(frozen=True, slots=True)
class Run:
    """One choice to make: its own seed, and the input as it will really be sent."""

    prepared: PreparedInput
    sampling: Sampling


@dataclass(slots=True)
class Generation:
    """All choices of one request; made by `prepare_generation`."""

    model: LanguageModel
    runs: Sequence[Run]
    choices: list[Choice]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each prompt counted once."""
        counted: dict[int, int] = {}
        for run, choice in zip(self.runs, self.choices, strict=True):
            tokens = choice.prompt_tokens or run.prepared.token_count
            key = id(run.prepared.record)
            counted[key] = max(tokens, counted.get(key, 0))
        return sum(counted.values())

    @property
    def maximum_tokens(self) -> int | None:
        """The most that all choices together can generate; `None` where that is open."""
        total = 0
        for run in self.runs:
            if run.sampling.maximum_tokens is None:
                return None
            total += run.sampling.maximum_tokens
        return total

    async def pay(self, inference: Inference, *, streamed: bool) -> None:
        """Have this generation paid for, before it begins.

        Raises:
            RequestError: as `Inference.pay`.
        """
        await inference.pay(
            max_input_tokens=self.prompt_tokens,
            max_output_tokens=self.maximum_tokens,
            streamed=streamed,
        )

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(choice.completion_tokens for choice in self.choices)

    async def deltas(
        self, disconnected: asyncio.Event
    ) -> AsyncGenerator[tuple[Choice, Delta], None]:
        """Yield the deltas of one choice after the other.

        Raises:
            CallerGoneError: when `disconnected` is set; the engine has then been stopped.
            EngineError: when the engine fails or breaks its contract.
        """
        for run, choice in zip(self.runs, self.choices, strict=True):
            finished = False
            stream = until_gone(self.model.generate(run.prepared, run.sampling), disconnected)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    finished = finished or delta.finish_reason is not None
                    yield choice, delta
            if not finished:
                raise EngineError(
                    "the engine stopped without a finish reason", reason=Reason.ENGINE_FAILED
                )

    async def collect(self, disconnected: asyncio.Event) -> None:
        """Make all choices, whole.

        Raises:
            CallerGoneError: as `deltas`.
            EngineError: as `deltas`.
        """
        async with aclosing(self.deltas(disconnected)) as deltas:
            async for choice, delta in deltas:
                choice.absorb(delta)

    def commit_outcome(self, inference: Inference) -> None:
        """Commit to what the choices hold."""
        inference.commit(Part.OUTPUT, [choice.text for choice in self.choices])
        if any(choice.tool_calls for choice in self.choices):
            calls = [
                [
                    {"id": call.identifier, "name": call.name, "arguments": call.arguments}
                    for call in choice.tool_calls
                ]
                for choice in self.choices
            ]
            inference.commit(Part.TOOL_CALLS, calls)
        if any(choice.logprobs for choice in self.choices):
            logprobs = [[logprob_content(item) for item in c.logprobs] for c in self.choices]
            inference.commit(Part.LOGPROBS, logprobs)
        reports = [dict(choice.upstream) for choice in self.choices if choice.upstream is not None]
        if reports:
            inference.commit(Part.UPSTREAM, reports[0] if len(self.choices) == 1 else reports)

    async def finish(self, inference: Inference, outcome: Outcome) -> Issued:
        """Commit to what the choices hold and return the durable receipt."""
        self.commit_outcome(inference)
        if outcome is not Outcome.COMPLETE:
            cut = [choice for choice in self.choices if choice.finish_reason is None]
            # A stream cut after its last word is still not a whole one.
            for choice in cut or self.choices[-1:]:
                choice.finish_reason = outcome.value
        reasons = [choice.finish_reason or Outcome.ERROR.value for choice in self.choices]
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens}
        return await inference.finish(finish_reasons=reasons, usage=usage)


def logprob_content(item: TokenLogprob) -> dict[str, Any]:
    """Return the form in which a token's log-probability is committed to."""
    return {
        "token": item.token,
        "token_id": item.token_id,
        "logprob": item.logprob,
        "bytes": item.token_bytes,
        "alternatives": [list(alternative) for alternative in item.alternatives],
    }


async def prepare_generation(
    model: LanguageModel,
    sources: Sequence[ChatInput | PromptInput],
    requested: Sampling,
    *,
    count: int,
    inference: Inference,
) -> Generation:
    """Prepare `count` choices for each source and commit to what will run.

    The choices of one source differ in their seed: the first has the resolved one, each further
    one the next number. The resolved settings of the first are the committed ones.

    Raises:
        RequestError: for what the model cannot take or the engine cannot honour.
    """
    inference.use_engine(model.identity)
    runs: list[Run] = []
    sampling = inference.with_defaults(requested)
    for source in sources:
        prepared = await model.prepare(source)
        # The seed that the first prompt was given holds for the others too.
        sampling = model.resolve(sampling, prompt_tokens=prepared.token_count)
        for number in range(count):
            one = sampling
            if number and sampling.seed is not None:
                one = replace(sampling, seed=sampling.seed + number)
                one = model.resolve(one, prompt_tokens=prepared.token_count)
            runs.append(Run(model.finalize(prepared, one), one))
    records = [run.prepared.record for run in runs]
    if all(record == records[0] for record in records):
        inference.commit(Part.EFFECTIVE_INPUT, records[0])
    else:
        inference.commit(Part.EFFECTIVE_INPUT, {"choices": records})
    return Generation(model, runs, [Choice(index) for index in range(len(runs))])


async def until_gone(
    deltas: AsyncIterator[Delta], disconnected: asyncio.Event
) -> AsyncGenerator[Delta, None]:
    """Yield from `deltas` until the caller goes away, even while the engine is silent.

    Raises:
        CallerGoneError: when `disconnected` is set.
    """
    gone = asyncio.ensure_future(disconnected.wait())
    step: asyncio.Future[Delta | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(_next(deltas))
            await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise CallerGoneError
            delta = step.result()
            if delta is None:
                return
            yield delta
    finally:
        gone.cancel()
        if step is not None and not step.done():
            step.cancel()
            await asyncio.wait({step})
        close = getattr(deltas, "aclose", None)
        if close is not None:
            await close()


async def _next(deltas: AsyncIterator[Delta]) -> Delta | None:
    return await anext(deltas, None)
