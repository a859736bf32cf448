"""GGUF language models through llama.cpp, in a worker process of their own.

`LlamaModel` implements `LanguageModel`. Template, token ids, grammar and the whole sampler chain
are resolved here and stand in the record, in the sampling or in the identity; the worker adds
nothing. Completion tokens are counted as they were drawn, the token that ended the generation
included.

This module refuses chat where the model has no template, and content that is not text.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.chat_template import ChatTemplate, Segment
from verispect.engines.forced import TokenScores
from verispect.engines.interface import (
    ChatInput,
    Delta,
    EngineIdentity,
    Lane,
    PreparedInput,
    PromptInput,
    Sampling,
    TokenLogprob,
)
from verispect.engines.llama_answers import call_context, read_delta, read_logprob
from verispect.engines.llama_forced import force_answer, sampling_frame
from verispect.engines.llama_options import LlamaOptions as LlamaOptions
from verispect.engines.llama_parameters import (
    MAX_TOP_LOGPROBS,
    resolve_sampling,
)
from verispect.engines.llama_process import WorkerProcess
from verispect.engines.llama_prompt import template_messages
from verispect.engines.tool_calls import ToolCallReader, build_grammar, read_tools

MAX_SCORED_TOKENS: Final = 512
MAX_EMBEDDING_INPUTS: Final = 256


class LlamaModel:
    """One GGUF model in one lane; make it with `start`."""

    def __init__(
        self,
        worker: WorkerProcess,
        description: dict[str, Any],
        options: LlamaOptions,
        template: ChatTemplate | None,
        descriptor: int | None,
    ) -> None:
        self._worker = worker
        self._options = options
        self._template = template
        self._descriptor = descriptor
        self._context_tokens: int = description["context_tokens"]
        self._vocabulary_size: int = description["vocabulary_size"]
        self._active = 0
        self._identity = EngineIdentity(
            name="llama.cpp",
            version=description["version"],
            library_digest=Digest(bytes.fromhex(description["library_digest"])),
            kernel_class=description["kernel_class"],
            settings=options.settings(self._context_tokens),
        )

    @classmethod
    async def start(
        cls,
        model_path: str,
        *,
        chat_template: str | None,
        options: LlamaOptions | None = None,
        file_descriptor: int | None = None,
    ) -> LlamaModel:
        """Start a worker and load the model.

        Args:
            model_path: the GGUF file; not opened where `file_descriptor` is given.
            chat_template: the model's Jinja template, or `None` for a model without chat.
            options: lane and sizes.
            file_descriptor: an open descriptor of the verified bytes, for example a sealed memory
                file; the worker opens exactly that file. It is duplicated and stays the caller's.

        Raises:
            ModelError: where the model or its template cannot be used.
            EngineError: where the worker cannot start.
        """
        options = options or LlamaOptions()
        descriptor = None if file_descriptor is None else os.dup(file_descriptor)
        path = model_path if descriptor is None else f"/proc/self/fd/{descriptor}"
        configuration = {
            "path": path,
            "context_tokens": options.context_tokens,
            "batch_tokens": options.batch_tokens,
            "sequences": options.sequences,
            "threads": options.threads,
            "keep_cache": options.lane is Lane.THROUGHPUT,
        }
        worker = WorkerProcess(configuration, descriptor)
        try:
            description = await worker.start()
            template = (
                None
                if chat_template is None
                else ChatTemplate(
                    chat_template,
                    bos=description["bos"],
                    eos=description["eos"],
                    control_texts=description["control_texts"],
                )
            )
            return cls(worker, description, options, template, descriptor)
        except BaseException:
            await worker.close()
            if descriptor is not None:
                os.close(descriptor)
            raise

    @property
    def identity(self) -> EngineIdentity:
        """The engine that runs the model in this lane."""
        return self._identity

    @property
    def lane(self) -> Lane:
        """The lane."""
        return self._options.lane

    @property
    def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self._context_tokens

    @property
    def worker_process_id(self) -> int | None:
        """Process id of the running worker, for supervision and fault tests."""
        return self._worker.process_id

    def resolve(self, sampling: Sampling, *, prompt_tokens: int) -> Sampling:
        """Fill in defaults and bounds; see `llama_parameters`.

        Raises:
            RequestError: for a value out of range.
        """
        return resolve_sampling(
            sampling,
            prompt_tokens=prompt_tokens,
            context_tokens=self._context_tokens,
            vocabulary_size=self._vocabulary_size,
        )

    async def prepare(self, source: ChatInput | PromptInput) -> PreparedInput:
        """Apply template, tools and grammar, and tokenise.

        Raises:
            RequestError: for content the model cannot take, or a prompt beyond the context.
            EngineError: where the worker fails.
        """
        if isinstance(source, PromptInput):
            return await self._prepare_prompt(source.prompt)
        if self._template is None:
            raise RequestError("the model has no chat template", parameter="messages")
        use = read_tools(source.tools, source.tool_choice, parallel=source.parallel_tool_calls)
        renders_tools = self._template.renders_tools
        messages = template_messages(source, use, renders_tools=renders_tools)
        definitions = [tool.definition() for tool in use.tools] if renders_tools else []
        segments = self._template.render(messages, definitions)
        grammar = build_grammar(use, source.response_format)
        blamed = "response_format" if source.response_format and not use else "tools"
        tokens = await self._tokenize(segments, grammar, parameter="messages", blamed=blamed)
        return self._prepared(
            "".join(text for text, _ in segments), tokens, grammar, calls=bool(use)
        )

    async def _prepare_prompt(self, prompt: str | Sequence[int]) -> PreparedInput:
        if isinstance(prompt, str):
            # The caller writes the whole prompt here, control tokens included.
            tokens = await self._tokenize([(prompt, True)], None, parameter="prompt", blamed="")
            return self._prepared(prompt, tokens, None, calls=False)
        tokens = list(prompt)
        if not all(type(token) is int and 0 <= token < self._vocabulary_size for token in tokens):
            raise RequestError("a token id is not in the vocabulary", parameter="prompt")
        self._check_length(tokens, "prompt")
        return self._prepared(None, tokens, None, calls=False)

    async def _tokenize(
        self, segments: Sequence[Segment], grammar: str | None, *, parameter: str, blamed: str
    ) -> list[int]:
        try:
            for text, _ in segments:
                text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("the text is not Unicode", parameter=parameter) from error
        # A token has at least one byte in common vocabularies' text; this bounds the work.
        if sum(len(text) for text, _ in segments) > self._context_tokens * 64:
            raise RequestError(
                f"the prompt is longer than the context of {self._context_tokens} tokens",
                parameter=parameter,
            )
        answer = await self._worker.call(
            {"op": "tokenize", "segments": segments, "begin": True, "grammar": grammar}
        )
        if "error" in answer:
            raise RequestError("the schema cannot be enforced", parameter=blamed)
        tokens: list[int] = answer["tokens"]
        self._check_length(tokens, parameter)
        return tokens

    def _check_length(self, tokens: Sequence[int], parameter: str) -> None:
        if not tokens:
            raise RequestError("the prompt is empty", parameter=parameter)
        if len(tokens) >= self._context_tokens:
            raise RequestError(
                f"expected fewer than {self._context_tokens} prompt tokens, got {len(tokens)}",
                parameter=parameter,
            )

    def _prepared(
        self, text: str | None, tokens: list[int], grammar: str | None, *, calls: bool
    ) -> PreparedInput:
        return PreparedInput(
            record={"text": text, "token_ids": tokens, "grammar": grammar},
            token_count=len(tokens),
            constraints={"tool_calls": calls},
        )

    def finalize(self, prepared: PreparedInput, sampling: Sampling) -> PreparedInput:  # noqa: ARG002
        """Return `prepared`: what it records is what the model is given."""
        return prepared

    async def generate(self, prepared: PreparedInput, sampling: Sampling) -> AsyncIterator[Delta]:
        """Yield deltas as they are generated; closing the iterator stops the work.

        Raises:
            EngineError: when the engine fails, is overloaded or its process dies.
        """
        tokens: list[int] = list(prepared.record["token_ids"])
        frame = {
            "op": "generate",
            "prompt": tokens,
            "sampling": sampling_frame(sampling),
            "grammar": prepared.record["grammar"],
        }
        reader = ToolCallReader(
            active=bool(prepared.constraints.get("tool_calls")),
            context=call_context(tokens, sampling),
        )
        produced = 0
        self._enter()
        try:
            async with self._worker.request(frame) as answers:
                async for answer in answers:
                    if "error" in answer:
                        raise EngineError("the grammar failed", reason=Reason.ENGINE_FAILED)
                    produced += 1
                    delta = read_delta(answer, reader, len(tokens), produced)
                    if delta is not None:
                        yield delta
                    if answer["finish"] is not None:
                        return
        finally:
            self._active -= 1

    def _enter(self) -> None:
        if self._active >= self._options.sequences + self._options.queue_limit:
            raise EngineError("too many requests wait", reason=Reason.ENGINE_OVERLOADED)
        self._active += 1

    async def score(self, prepared: PreparedInput, *, top_logprobs: int) -> Sequence[TokenLogprob]:
        """Return a log-probability per prompt token but the first (`echo` with `logprobs`).

        Raises:
            RequestError: for more than `MAX_SCORED_TOKENS` tokens.
            EngineError: when the engine fails or is overloaded.
        """
        tokens: list[int] = list(prepared.record["token_ids"])
        if len(tokens) > MAX_SCORED_TOKENS:
            raise RequestError(
                f"expected at most {MAX_SCORED_TOKENS} tokens to score", parameter="prompt"
            )
        if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
            raise RequestError(
                f"logprobs must be from 0 to {MAX_TOP_LOGPROBS}", parameter="logprobs"
            )
        entries: list[TokenLogprob] = []
        self._enter()
        try:
            frame = {"op": "score", "prompt": tokens, "top_logprobs": top_logprobs}
            async with self._worker.request(frame) as answers:
                async for answer in answers:
                    if "finish" in answer:
                        break
                    entries.extend(read_logprob(entry) for entry in answer["entries"])
        finally:
            self._active -= 1
        return entries

    async def tokenize_answer(self, text: str) -> list[int]:
        """Return the tokens of an answer's text; see `engines.forced`."""
        answer = await self._worker.call(
            {"op": "tokenize", "segments": [(text, False)], "begin": False, "grammar": None}
        )
        return list(answer["tokens"])

    async def token_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes that tokens put into an answer's text; see `engines.forced`."""
        answer = await self._worker.call({"op": "pieces", "tokens": list(tokens)})
        return [bytes.fromhex(each) for each in answer["pieces"]]

    async def force(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        *,
        sampling: Sampling | None = None,
        grammar: str | None = None,
    ) -> TokenScores:
        """Score an answer in one pass; see `engines.forced`."""
        await self._prepare_prompt([*prompt])
        if not all(type(each) is int and 0 <= each < self._vocabulary_size for each in answer):
            raise RequestError("a token id is not in the vocabulary", parameter="answer")
        room = self._context_tokens - len(prompt)
        self._enter()
        try:
            return await force_answer(
                self._worker, prompt, answer, room=room, sampling=sampling, grammar=grammar
            )
        finally:
            self._active -= 1

    async def embed(
        self, inputs: Sequence[str | Sequence[int]]
    ) -> tuple[Sequence[Sequence[float]], int]:
        """Return one L2-normalised mean-pooled vector per input, and the prompt tokens used.

        Raises:
            RequestError: for an empty or too long input.
            EngineError: when the engine fails or is overloaded.
        """
        if not 1 <= len(inputs) <= MAX_EMBEDDING_INPUTS:
            raise RequestError(
                f"expected 1 to {MAX_EMBEDDING_INPUTS} inputs, got {len(inputs)}",
                parameter="input",
            )
        vectors: list[Sequence[float]] = []
        used = 0
        self._enter()
        try:
            for source in inputs:
                try:
                    prepared = await self._prepare_prompt(source)
                except RequestError as error:
                    raise RequestError(error.message, parameter="input") from error
                answer = await self._worker.call(
                    {"op": "embed", "tokens": prepared.record["token_ids"]}
                )
                vectors.append(answer["vector"])
                used += prepared.token_count
        finally:
            self._active -= 1
        return vectors, used

    async def close(self) -> None:
        """Stop the worker and free the model."""
        await self._worker.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
