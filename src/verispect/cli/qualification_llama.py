"""Connects qualification to llama.cpp: lanes, threads, micro-batches, prompt cache, company.

A few fixed prompts with a common beginning are completed greedily; an observation is the token
ids and their log-probabilities. Every variation starts a worker of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from verispect.core.encoding import decode_content, encode_content, sha256
from verispect.engines.interface import Lane, PromptInput, Sampling
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.models.qualification import Variation, VariationKind
from verispect.models.verified import VerifiedFiles

TOKENS: Final = 24
CONTEXT: Final = 512
BATCH: Final = 256

_BEGINNING: Final = (
    "The following notes describe how a small weather station works, which instruments it holds"
    " and how often each of them is read during the day. "
)
PROMPTS: Final = tuple(
    _BEGINNING + ending
    for ending in (
        "The thermometer is",
        "When it rains, the gauge",
        "At night the station sends",
        "Wind is measured in",
    )
)

_REFERENCE: Final = Variation("deterministic lane", VariationKind.REPEAT)
_THREADS: Final = Variation("two threads", VariationKind.THREADS)
_MICRO_BATCH: Final = Variation("micro-batch of 32", VariationKind.MICRO_BATCH)
_CACHE: Final = Variation("prompt cache", VariationKind.CACHE)
_COMPANY: Final = Variation("four at once", VariationKind.CONCURRENCY)


class LlamaSubject:
    """A GGUF model in llama.cpp."""

    def __init__(self, files: VerifiedFiles) -> None:
        self._descriptor = files.main_sealed.descriptor
        self._engine: Mapping[str, Any] | None = None

    @property
    def engine(self) -> Mapping[str, Any]:
        """The identity of the engine in the deterministic lane; known after the first run."""
        if self._engine is None:
            raise RuntimeError("no variation was run yet")
        return self._engine

    @property
    def cases(self) -> Mapping[str, Any]:
        """The prompts, by digest, and how many tokens were asked for."""
        return {
            "kind": "greedy-completions",
            "count": len(PROMPTS),
            "prompts_sha256": bytes(sha256(encode_content(list(PROMPTS)))),
            "tokens": TOKENS,
        }

    @property
    def variations(self) -> Sequence[Variation]:
        """The variations."""
        repeat = Variation("fresh worker", VariationKind.REPEAT)
        return (_REFERENCE, repeat, _THREADS, _MICRO_BATCH, _CACHE, _COMPANY)

    def run(self, variation: Variation) -> Sequence[bytes]:
        """Complete every prompt in a worker of its own."""
        return asyncio.run(self._run(variation))

    async def _run(self, variation: Variation) -> list[bytes]:
        options = _options(variation)
        model = await LlamaModel.start(
            "", chat_template=None, options=options, file_descriptor=self._descriptor
        )
        try:
            if self._engine is None:
                self._engine = model.identity.to_content()
            if variation.kind is VariationKind.CONCURRENCY:
                return list(await asyncio.gather(*(_complete(model, text) for text in PROMPTS)))
            if variation.kind is VariationKind.CACHE:
                for text in PROMPTS:
                    await _complete(model, text)
            return [await _complete(model, text) for text in PROMPTS]
        finally:
            await model.close()

    def distance(self, expected: bytes, actual: bytes) -> float | None:
        """Return the largest difference of log-probabilities; other tokens have no measure."""
        left, right = decode_content(expected), decode_content(actual)
        if [token for token, _ in left] != [token for token, _ in right]:
            return None
        return max(
            (abs(first - second) for (_, first), (_, second) in zip(left, right, strict=True)),
            default=0.0,
        )


def _options(variation: Variation) -> LlamaOptions:
    shared = variation.kind in (VariationKind.CACHE, VariationKind.CONCURRENCY)
    return LlamaOptions(
        lane=Lane.THROUGHPUT if shared else Lane.DETERMINISTIC,
        context_tokens=CONTEXT,
        batch_tokens=32 if variation.kind is VariationKind.MICRO_BATCH else BATCH,
        threads=2 if variation.kind is VariationKind.THREADS else 1,
        parallel=len(PROMPTS),
    )


async def _complete(model: LlamaModel, text: str) -> bytes:
    prepared = await model.prepare(PromptInput(text))
    sampling = model.resolve(
        Sampling(maximum_tokens=TOKENS, temperature=0.0, top_logprobs=0),
        prompt_tokens=prepared.token_count,
    )
    seen: list[list[Any]] = []
    async for delta in model.generate(prepared, sampling):
        seen += [[entry.token_id, float(entry.logprob)] for entry in delta.logprobs]
    return encode_content(seen)
