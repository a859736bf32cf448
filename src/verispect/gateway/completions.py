"""`POST /v1/completions`, plain and streamed: prompts as text or token ids, `echo` with logprobs.

`best_of` other than `n` and `suffix` are refused. `max_tokens` is 16 where none is given, as
OpenAI documents; 0 is allowed with `echo`, to score a prompt without generating.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from verispect.core.commitments import Part
from verispect.core.errors import RequestError
from verispect.engines.interface import (
    Delta,
    LanguageModel,
    PreparedInput,
    PromptInput,
    Sampling,
    TokenLogprob,
)
from verispect.gateway.answer import LanguageAnswer
from verispect.gateway.chat_shapes import (
    Count,
    Identifier,
    Penalty,
    Probability,
    Seed,
    StreamOptions,
    Temperature,
)
from verispect.gateway.generation import Choice, Generation, prepare_generation
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.limits import Limits
from verispect.gateway.state import GatewayState
from verispect.gateway.streaming import Event
from verispect.gateway.wire import (
    decode_body,
    read_lane,
    read_logit_bias,
    read_stops,
    refuse_unsupported,
)

OPERATION: Final = "completions"

_DEFAULT_TOKENS: Final = 16
_MAXIMUM_TOKEN_ID: Final = 2**31 - 1
_MAXIMUM_CHOICES: Final = 128
"""Of all prompts together: as many finish reasons as a statement holds."""


class CompletionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    model: Identifier
    prompt: str | list[Any]
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Count | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    user: Identifier | None = None
    assurance: str | dict[str, Any] | None = None
    suffix: Any = None

    def parameters(self) -> dict[str, Any]:
        """Return the fields that go into the commitment beside the resolved sampling."""
        content: dict[str, Any] = {
            "n": self.n or 1,
            "stream": bool(self.stream),
            "echo": bool(self.echo),
        }
        if self.best_of is not None:
            content["best_of"] = self.best_of
        if self.user is not None:
            content["user"] = self.user
        if self.stream_options is not None:
            content["stream_options"] = {"include_usage": bool(self.stream_options.include_usage)}
        if self.max_tokens == 0:
            content["maximum_tokens"] = 0
        return content


async def create_completion(
    state: GatewayState, request: HttpRequest
) -> HttpResponse | StreamedResponse:
    """Continue one prompt or several.

    Raises:
        RequestError: for anything that cannot be honoured, before the model runs.
        ModelError: `model-not-found`.
        EngineError: when the engine fails before the first word of a stream, or in a plain answer.
    """
    body = decode_body(request.body, CompletionRequest, state.limits)
    prompts = read_prompts(body.prompt, state.limits)
    _check(body, len(prompts), state.limits)
    sampling = _read_sampling(body, state.limits)
    lane = read_lane(request)
    served = state.pool.find(body.model)
    inference = state.recorder.begin(
        request,
        operation=OPERATION,
        served=served,
        requested_model=body.model,
        lane=lane,
        assurance=body.assurance,
    )
    model = await state.pool.language(served, lane)
    generation = await prepare_generation(
        model if body.max_tokens != 0 else _Silent(model),
        [PromptInput(prompt) for prompt in prompts],
        sampling,
        count=body.n or 1,
        inference=inference,
    )
    inference.commit(Part.MESSAGES, [{"prompt": body.prompt}])
    resolved = generation.runs[0].sampling.to_content()
    inference.commit(Part.PARAMETERS, {**resolved, **body.parameters()})
    await generation.pay(inference, streamed=bool(body.stream))
    echoes = await _echoes(model, generation, prompts, body) if body.echo else []
    options = body.stream_options
    include_usage = options is not None and bool(options.include_usage)
    answer = CompletionAnswer(
        request, inference, generation, body.model, include_usage, echoes=echoes
    )
    return await answer.stream() if body.stream else await answer.whole()


def read_prompts(prompt: str | list[Any], limits: Limits) -> list[str | list[int]]:
    """Return the prompts, each text or token ids.

    Raises:
        RequestError: for an empty list, a mixed one, too many prompts, or ids that are none.
    """
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(item) for item in prompt}
    if kinds == {int}:
        _check_token_ids(prompt)
        return [prompt]
    if kinds not in ({str}, {list}):
        raise RequestError(
            "a prompt is text, token ids, or a list of either kind", parameter="prompt"
        )
    if len(prompt) > limits.maximum_prompts:
        raise RequestError(f"expected at most {limits.maximum_prompts} prompts", parameter="prompt")
    for item in prompt:
        if isinstance(item, list):
            _check_token_ids(item)
    return prompt


def _check_token_ids(token_ids: list[Any]) -> None:
    if not token_ids:
        raise RequestError("a prompt has no token", parameter="prompt")
    for token in token_ids:
        if type(token) is not int or not 0 <= token <= _MAXIMUM_TOKEN_ID:
            raise RequestError("a prompt has something else than token ids", parameter="prompt")


def _check(body: CompletionRequest, prompts: int, limits: Limits) -> None:
    refuse_unsupported({"suffix": (body.suffix, ())})
    count = body.n if body.n is not None else 1
    if not 1 <= count <= limits.maximum_choices:
        raise RequestError(f"n must be 1 to {limits.maximum_choices}", parameter="n")
    if count * prompts > _MAXIMUM_CHOICES:
        raise RequestError(f"expected at most {_MAXIMUM_CHOICES} choices", parameter="n")
    if body.best_of is not None and body.best_of != count:
        raise RequestError("best_of must equal n", parameter="best_of")
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream", parameter="stream_options")
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("max_tokens 0 needs echo", parameter="max_tokens")
    if body.logprobs is not None and body.logprobs > limits.maximum_completion_logprobs:
        raise RequestError(
            f"logprobs must be 0 to {limits.maximum_completion_logprobs}", parameter="logprobs"
        )


def _read_sampling(body: CompletionRequest, limits: Limits) -> Sampling:
    return Sampling(
        # Nothing to generate is not a setting of an engine: see `_Silent`.
        maximum_tokens=_DEFAULT_TOKENS if body.max_tokens is None else (body.max_tokens or 1),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        stop=read_stops(body.stop, limits),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=read_logit_bias(body.logit_bias, limits),
        top_logprobs=body.logprobs,
    )


class _Silent:
    """A model that is asked to generate nothing: it prepares and scores, and ends at once."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def generate(self, prepared: PreparedInput, sampling: Sampling) -> AsyncIterator[Delta]:  # noqa: ARG002
        yield Delta(finish_reason="length", prompt_tokens=prepared.token_count)


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it is given back."""

    text: str
    logprobs: Sequence[TokenLogprob] | None
    """Of every token but the first; `None` where none are asked for."""

    @property
    def first_token(self) -> str:
        """Text of the token that has no log-probability."""
        rest = "".join(item.token for item in self.logprobs or ())
        return self.text.removesuffix(rest) if self.text.endswith(rest) else ""


async def _echoes(
    model: LanguageModel,
    generation: Generation,
    prompts: Sequence[str | list[int]],
    body: CompletionRequest,
) -> list[Echo]:
    """Return what each choice gives back of its prompt."""
    count = body.n or 1
    echoes: list[Echo] = []
    for number, prompt in enumerate(prompts):
        prepared = generation.runs[number * count].prepared
        text = prompt if isinstance(prompt, str) else prepared.record.get("text")
        if not isinstance(text, str):
            raise RequestError("this model cannot echo token ids", parameter="echo")
        logprobs = None
        if body.logprobs is not None:
            logprobs = await model.score(prepared, top_logprobs=body.logprobs)
        echoes += [Echo(text, logprobs)] * count
    return echoes


@dataclass(slots=True)
class CompletionAnswer(LanguageAnswer):
    """An answer in the shape of `text_completion`, whole and streamed alike."""

    echoes: Sequence[Echo] = ()
    """One per choice, or none."""
    sent: dict[int, int] = field(default_factory=dict)
    """Characters sent so far, by choice."""

    def envelope(self, *, streamed: bool) -> dict[str, Any]:  # noqa: ARG002
        """Return `id` and `object`."""
        return {"id": f"cmpl-{self.inference.identifier}", "object": "text_completion"}

    async def whole(self) -> HttpResponse:
        """Put the echoes in front and make the answer."""
        for choice, echo in zip(self.generation.choices, self.echoes, strict=False):
            _absorb_echo(choice, echo)
        return await super(CompletionAnswer, self).whole()

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        """Return the text and why it ended."""
        echo = self.echoes[choice.index] if self.echoes else None
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._logprobs(choice.logprobs, echo, 0),
            "finish_reason": choice.finish_reason,
        }

    def opening_events(self) -> Iterator[Event]:
        """Yield the echoes."""
        for choice, echo in zip(self.generation.choices, self.echoes, strict=False):
            _absorb_echo(choice, echo)
            yield self._choice_chunk(choice, echo.text, echo.logprobs or (), echo=echo)

    def delta_events(self, choice: Choice, delta: Delta) -> Iterator[Event]:
        """Yield text and end as one chunk."""
        choice.count(delta)
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return
        choice.texts.append(delta.text)
        choice.logprobs += delta.logprobs
        choice.finish_reason = delta.finish_reason
        yield self._choice_chunk(choice, delta.text, delta.logprobs)

    def _choice_chunk(
        self,
        choice: Choice,
        text: str,
        logprobs: Sequence[TokenLogprob],
        *,
        echo: Echo | None = None,
    ) -> Event:
        offset = self.sent.get(choice.index, 0)
        self.sent[choice.index] = offset + len(text)
        return self.chunk(
            {
                "index": choice.index,
                "text": text,
                "logprobs": self._logprobs(logprobs, echo, offset),
                "finish_reason": choice.finish_reason,
            }
        )

    def _logprobs(
        self, items: Sequence[TokenLogprob], echo: Echo | None, offset: int
    ) -> dict[str, Any] | None:
        scored = echo is not None and echo.logprobs is not None
        if not items and not scored:
            return None
        first = echo.first_token if echo is not None and scored else None
        return legacy_logprobs(items, first_token=first, offset=offset)


def _absorb_echo(choice: Choice, echo: Echo) -> None:
    choice.texts.append(echo.text)
    choice.logprobs += echo.logprobs or ()


def legacy_logprobs(
    items: Sequence[TokenLogprob], *, first_token: str | None, offset: int
) -> dict[str, Any]:
    """Return the `logprobs` object of a completion.

    Args:
        items: the tokens with their log-probabilities.
        first_token: text of a token before them that has none, if there is one.
        offset: where the first token starts in the text of the choice.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    top: list[dict[str, float] | None] = []
    offsets: list[int] = []
    if first_token is not None:
        tokens.append(first_token)
        values.append(None)
        top.append(None)
        offsets.append(offset)
        offset += len(first_token)
    for item in items:
        tokens.append(item.token)
        values.append(item.logprob)
        # The token itself is always among them, as clients that score prompts expect.
        ranked = {token: logprob for token, _identifier, logprob in reversed(item.alternatives)}
        top.append({**ranked, item.token: item.logprob})
        offsets.append(offset)
        offset += len(item.token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
