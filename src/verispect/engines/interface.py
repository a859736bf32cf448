"""What every engine offers: it runs a model and says exactly what it ran.

Two shapes exist. A `LanguageModel` turns a chat or a prompt into tokens; a `TensorModel` turns
named tensors into named tensors. Both carry an `EngineIdentity`, whose digest goes into the
receipt. Everything that can change the output is either in the model manifest, in the engine
identity, in `PreparedInput.record` or in `Sampling`: an engine adds nothing on its own. What an
engine cannot honour it refuses with `RequestError`; it never ignores a parameter.

Engines refuse to sign, to judge, to substitute a model and to log prompts or outputs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from verispect.core.encoding import Digest, encode_content, sha256


class Lane(StrEnum):
    """How a request shares the engine with others."""

    DETERMINISTIC = "deterministic"
    """One context, no prompt cache, pinned batch sizes: exact re-execution may be promised."""
    THROUGHPUT = "throughput"
    """Continuous batching and prompt cache: never claims exact re-execution."""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Which software ran the model, and every setting that can change its output."""

    name: str
    """For example `onnxruntime` or `llama.cpp`."""
    version: str
    """Version of the wheel, or what an upstream reports of itself."""
    library_digest: Digest | None
    """SHA-256 of the loaded native library; `None` for a remote engine."""
    kernel_class: str
    """For example `x86-64-avx2`; `remote` for an upstream."""
    settings: Mapping[str, Any]
    """Every setting that can change output: threads, batch sizes, KV type, optimisation."""

    def to_content(self) -> dict[str, Any]:
        """Return the JSON-like form that is digested and published."""
        return {
            "name": self.name,
            "version": self.version,
            "library_sha256": self.library_digest.hex() if self.library_digest else None,
            "kernel_class": self.kernel_class,
            "settings": dict(self.settings),
        }

    def digest(self) -> Digest:
        """Return the digest that a statement carries."""
        return sha256(encode_content(self.to_content()))


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation as the gateway understood it, before the model's template is applied."""

    system_prompt: str | None
    """Text of the system and developer messages at the head, or `None`."""
    messages: Sequence[Mapping[str, Any]]
    """The other messages, OpenAI-shaped, content as text or as a list of parts."""
    tools: Sequence[Mapping[str, Any]] = ()
    """OpenAI-shaped tool definitions."""
    tool_choice: str | Mapping[str, Any] = "auto"
    """`none`, `auto`, `required`, or `{"type": "function", "function": {"name": …}}`."""
    parallel_tool_calls: bool = True
    response_format: Mapping[str, Any] | None = None
    """`{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {…}}`, or `None`."""


@dataclass(frozen=True, slots=True)
class PromptInput:
    """A bare prompt for completion: text, or token ids."""

    prompt: str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The *requested* sampler settings; `None` means the model's default, which is resolved.

    `LanguageModel.resolve` returns a copy in which nothing is `None` but `seed` of a greedy run;
    that copy is what runs and what the receipt commits to.
    """

    maximum_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    """`None`: no log-probabilities; 0 to 20: that many alternatives per token."""

    def to_content(self) -> dict[str, Any]:
        """Return the JSON-like form that the receipt commits to; every field, always."""
        return {
            "maximum_tokens": self.maximum_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": list(self.stop),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {str(token): bias for token, bias in self.logit_bias.items()},
            "top_logprobs": self.top_logprobs,
        }


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """What the model really receives."""

    record: Mapping[str, Any]
    """Committed as the *effective input*: for a local model `{"text": rendered prompt,
    "token_ids": […], "grammar": … or None}`, for an upstream `{"upstream_request": exact body
    bytes}`. Nothing else reaches the model."""
    token_count: int
    """Prompt tokens; 0 where an upstream reports them only afterwards."""
    constraints: Mapping[str, Any] = field(default_factory=dict)
    """For the engine's own use (grammar, expected tool calls); derived from `record`."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token, natural logarithm, before sampling."""

    token: str
    token_id: int | None
    logprob: float
    alternatives: Sequence[tuple[str, int | None, float]] = ()
    """`(token, token id, logprob)`, most likely first."""
    token_bytes: bytes | None = None
    """The token's exact bytes where its text is not whole UTF-8."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model asks for; `arguments` is JSON text."""

    identifier: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of a generation. The last one has a `finish_reason` and the usage."""

    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    tool_calls: Sequence[ToolCall] = ()
    """Whole calls, each given once."""
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls` or `content_filter`; only in the last delta."""
    prompt_tokens: int = 0
    """In the last delta."""
    completion_tokens: int = 0
    """In the last delta."""
    upstream: Mapping[str, Any] | None = None
    """In the last delta of a remote model: what the upstream reported of itself (model name,
    response id, fingerprint, endpoint); committed, and marked as reported."""


class LanguageModel(Protocol):
    """One loaded language model in one lane."""

    @property
    def identity(self) -> EngineIdentity:
        """The engine that runs the model in this lane."""
        ...

    @property
    def lane(self) -> Lane:
        """The lane."""
        ...

    def resolve(self, sampling: Sampling, *, prompt_tokens: int) -> Sampling:
        """Fill in defaults and bounds.

        Raises:
            RequestError: for a value out of range or one the engine cannot honour.
        """
        ...

    async def prepare(self, source: ChatInput | PromptInput) -> PreparedInput:
        """Apply template, tools and grammar, and tokenise.

        Raises:
            RequestError: for content the model cannot take, or a prompt beyond the context.
        """
        ...

    def finalize(self, prepared: PreparedInput, sampling: Sampling) -> PreparedInput:
        """Return the record as it will really be sent.

        `sampling` must come from `resolve`. A remote engine writes its request body here, so that
        what is committed is what leaves; local engines return `prepared` unchanged.

        Raises:
            RequestError: for a combination that the engine cannot honour.
        """
        ...

    def generate(self, prepared: PreparedInput, sampling: Sampling) -> AsyncIterator[Delta]:
        """Yield deltas as they are generated; closing the iterator stops the work.

        `sampling` must come from `resolve`.

        Raises:
            EngineError: when the engine fails, is overloaded or its process dies.
        """
        ...

    async def score(self, prepared: PreparedInput, *, top_logprobs: int) -> Sequence[TokenLogprob]:
        """Return a log-probability per prompt token but the first (`echo` with `logprobs`).

        Raises:
            RequestError: where the engine cannot score prompts.
        """
        ...

    async def embed(
        self, inputs: Sequence[str | Sequence[int]]
    ) -> tuple[Sequence[Sequence[float]], int]:
        """Return one normalised vector per input, and the prompt tokens used.

        Raises:
            RequestError: where the model makes no embeddings.
        """
        ...

    async def close(self) -> None:
        """Stop and free the model."""
        ...


@dataclass(frozen=True, slots=True)
class TensorSpecification:
    """Name, element type and shape of one input or output."""

    name: str
    datatype: str
    """Open Inference Protocol name: `FP32`, `INT64`, `UINT8`, `BOOL`, `BYTES`, …"""
    shape: tuple[int, ...]
    """-1 for a dimension that varies."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor in its one canonical form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    """Row-major, little-endian; `BYTES` elements each behind a little-endian 32-bit length (the
    Triton binary-tensor form)."""


class TensorModel(Protocol):
    """One loaded tensor model."""

    @property
    def identity(self) -> EngineIdentity:
        """The engine that runs the model."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpecification]:
        """Inputs, in the model's order."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpecification]:
        """Outputs, in the model's order."""
        ...

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Sequence[Tensor]:
        """Run once and return the named outputs (all of them where `outputs` is empty).

        Raises:
            RequestError: for missing, unknown, duplicate or ill-typed tensors and wrong shapes.
            EngineError: when the runtime fails.
        """
        ...

    async def close(self) -> None:
        """Free the model."""
        ...
