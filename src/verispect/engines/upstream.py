"""A language model behind an OpenAI-compatible API, such as vLLM or a vendor's service.

What is committed is what is sent: `finalize` writes the exact body, `generate` posts those bytes
and nothing else. What comes back is the upstream's word: its model name, response id and
fingerprint are kept as reported, and the engine identity is `remote`, so that no receipt shows it
like weights that were hashed here.

This module refuses redirects, retries (a second post could be billed twice), compressed bodies,
proxies from the environment, plain HTTP beyond this machine, and parameters that the OpenAI
interface does not know. The API key is never logged, shown or put into an error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from verispect.core.errors import EngineError, Reason, RequestError
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
from verispect.engines.upstream_stream import (
    MAX_RESPONSE_BYTES,
    Assembler,
    EventReader,
    fail,
    parse_json,
    read_usage,
    read_vectors,
)

MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
"""Upper limit of a body sent to an upstream."""

MAX_STOPS: Final = 4
"""The OpenAI interface's limit of stop strings."""

_CHAT: Final = "/chat/completions"
_COMPLETIONS: Final = "/completions"
_EMBEDDINGS: Final = "/embeddings"
_CALLERS_FAULT: Final = frozenset({400, 413, 415, 422})
"""The other refusals (key, quota, unknown model) are between this server and its upstream."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Where an upstream is, and how long to wait for it."""

    base_url: str
    """Up to and including the version, for example `https://api.example.com/v1`."""
    model: str
    """The model's name at the upstream."""
    api_key: str | None = field(default=None, repr=False)
    connect_seconds: float = 10.0
    read_seconds: float = 120.0
    """Between two pieces of the answer."""
    total_seconds: float = 900.0
    """For a whole answer."""
    concurrency: int = 64
    """Requests at once; one more is refused as overload."""
    legacy_token_limit: bool = False
    """Send `max_tokens` instead of `max_completion_tokens` in chats, for older servers."""
    unsafe_plain_http: bool = False
    """Allow `http` to another machine: key, prompts and answers are then open to the network."""


class UpstreamModel:
    """One model of one upstream; implements `LanguageModel`.

    Args:
        settings: where it is.

    Raises:
        EngineError: `engine-unavailable` for settings that cannot work.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        url = _checked_url(settings)
        self._settings = settings
        self._base = str(url).rstrip("/")
        self._host = url.netloc.decode("ascii")
        self._running = 0
        self._client = httpx.AsyncClient(
            headers=_headers(settings.api_key),
            timeout=httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds),
            limits=httpx.Limits(max_connections=settings.concurrency),
            follow_redirects=False,
            trust_env=False,
        )
        self._identity = EngineIdentity(
            name="upstream",
            version="unreported",
            library_digest=None,
            kernel_class="remote",
            settings={"endpoint": self._base, "model": settings.model},
        )

    @property
    def identity(self) -> EngineIdentity:
        """The endpoint; what runs behind it is not known."""
        return self._identity

    @property
    def lane(self) -> Lane:
        """Always throughput: nobody can promise another's determinism."""
        return Lane.THROUGHPUT

    def resolve(self, sampling: Sampling, *, prompt_tokens: int) -> Sampling:  # noqa: ARG002
        """Check bounds; what was not asked for stays `None` and is not sent.

        An upstream's defaults are its own and are not known here, so none is stated.

        Raises:
            RequestError: for a value out of range or one the OpenAI interface does not know.
        """
        if sampling.top_k is not None:
            raise RequestError("this model's upstream does not take top_k", parameter="top_k")
        if sampling.min_p is not None:
            raise RequestError("this model's upstream does not take min_p", parameter="min_p")
        for name, value, low, high in (
            ("max_tokens", sampling.maximum_tokens, 1, (1 << 31) - 1),
            ("temperature", sampling.temperature, 0, 2),
            ("top_p", sampling.top_p, 0, 1),
            ("seed", sampling.seed, -(1 << 63), (1 << 63) - 1),
            ("presence_penalty", sampling.presence_penalty, -2, 2),
            ("frequency_penalty", sampling.frequency_penalty, -2, 2),
            ("top_logprobs", sampling.top_logprobs, 0, 20),
        ):
            if value is not None and not low <= value <= high:
                raise RequestError(f"expected a value from {low} to {high}", parameter=name)
        if len(sampling.stop) > MAX_STOPS:
            raise RequestError(f"expected at most {MAX_STOPS} stop strings", parameter="stop")
        if not all(-100 <= bias <= 100 for bias in sampling.logit_bias.values()):
            raise RequestError("expected values from -100 to 100", parameter="logit_bias")
        return sampling

    async def prepare(self, source: ChatInput | PromptInput) -> PreparedInput:
        """Draft the request; `finalize` completes it. Tokens are not known beforehand."""
        if isinstance(source, ChatInput):
            draft, path = _chat_draft(source), _CHAT
        else:
            prompt = source.prompt
            draft = {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
            path = _COMPLETIONS
        return PreparedInput(record={}, token_count=0, constraints={"draft": draft, "path": path})

    def finalize(self, prepared: PreparedInput, sampling: Sampling) -> PreparedInput:
        """Write the body, which is the record: its bytes are committed and posted.

        Raises:
            RequestError: for content that is not JSON, or too large.
        """
        path: str = prepared.constraints["path"]
        body = {
            "model": self._settings.model,
            **prepared.constraints["draft"],
            **self._sampling_members(sampling, chat=path == _CHAT),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return PreparedInput(
            record={
                "upstream_request": _encode(body),
                "url_host": self._host,
                "url_path": httpx.URL(self._base + path).path,
            },
            token_count=0,
            constraints={**prepared.constraints, "sampling": sampling},
        )

    def _sampling_members(self, sampling: Sampling, *, chat: bool) -> dict[str, Any]:
        legacy = self._settings.legacy_token_limit or not chat
        members: dict[str, Any] = {
            "max_tokens" if legacy else "max_completion_tokens": sampling.maximum_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": {str(k): v for k, v in sampling.logit_bias.items()} or None,
        }
        if sampling.top_logprobs is not None:
            members["logprobs"] = True if chat else sampling.top_logprobs
            members["top_logprobs"] = sampling.top_logprobs if chat else None
        return {name: value for name, value in members.items() if value is not None}

    async def generate(self, prepared: PreparedInput, sampling: Sampling) -> AsyncIterator[Delta]:
        """Post the committed bytes once, and yield what comes back.

        Raises:
            RequestError: where the upstream says that the request is at fault.
            EngineError: `engine-overloaded` or `upstream-failed`.
        """
        if prepared.constraints.get("sampling") != sampling:
            raise RuntimeError("generate takes what finalize returned for the same sampling")
        path: str = prepared.constraints["path"]
        reader = EventReader()
        assembler = Assembler(endpoint_host=self._host, chat=path == _CHAT)
        body: bytes = prepared.record["upstream_request"]
        async with self._post(path, body, expected="text/event-stream") as chunks:
            async for chunk in chunks:
                for data in reader.feed(chunk):
                    if data.strip() == b"[DONE]":
                        yield assembler.finish()
                        return
                    delta = assembler.absorb(parse_json(data))
                    if delta is not None:
                        yield delta
        fail("ended its stream too early")

    async def score(
        self,
        prepared: PreparedInput,  # noqa: ARG002 - the interface's signature
        *,
        top_logprobs: int,  # noqa: ARG002
    ) -> Sequence[TokenLogprob]:
        """Refuse: the OpenAI interface gives no log-probabilities of a prompt.

        Raises:
            RequestError: always.
        """
        raise RequestError("this model's upstream cannot score prompts", parameter="echo")

    async def embed(
        self, inputs: Sequence[str | Sequence[int]]
    ) -> tuple[Sequence[Sequence[float]], int]:
        """Return one normalised vector per input, and the prompt tokens used.

        Raises:
            RequestError: where the upstream says that the request is at fault.
            EngineError: `engine-overloaded` or `upstream-failed`.
        """
        if len({isinstance(item, str) for item in inputs}) > 1:
            raise RequestError("expected either texts or token lists", parameter="input")
        body = _encode(
            {
                "model": self._settings.model,
                "input": [item if isinstance(item, str) else list(item) for item in inputs],
                "encoding_format": "float",
            }
        )
        parts: list[bytes] = []
        size = 0
        async with self._post(_EMBEDDINGS, body, expected="application/json") as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    fail(f"sent more than {MAX_RESPONSE_BYTES} bytes")
                parts.append(chunk)
        answer = parse_json(b"".join(parts))
        usage = answer.get("usage")
        return read_vectors(answer.get("data"), len(inputs)), read_usage(usage)[0] if usage else 0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def _post(
        self, path: str, body: bytes, *, expected: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Post once; give the pieces of a successful answer of the expected media type."""
        if self._running >= self._settings.concurrency:
            raise EngineError("upstream is overloaded", reason=Reason.ENGINE_OVERLOADED)
        self._running += 1
        try:
            # Errors are not chained: those of httpx carry the request, and with it the key.
            async with self._client.stream("POST", self._base + path, content=body) as response:
                _check_answer(response, expected)
                async with aclosing(self._pieces(response)) as pieces:
                    yield pieces
        except httpx.TimeoutException:
            raise EngineError("upstream took too long", reason=Reason.UPSTREAM_FAILED) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise EngineError(
                f"upstream could not be reached or broke off ({type(error).__name__})",
                reason=Reason.UPSTREAM_FAILED,
            ) from None
        except RuntimeError:
            if self._client.is_closed:
                raise EngineError("model is closed", reason=Reason.ENGINE_UNAVAILABLE) from None
            raise
        finally:
            self._running -= 1

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        deadline = time.monotonic() + self._settings.total_seconds
        async for chunk in response.aiter_raw():
            yield chunk
            if time.monotonic() > deadline:
                fail("took too long")
            # A flood that is always ready must not keep other requests from running.
            await asyncio.sleep(0)


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "verispect",
    }
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and " " not in api_key and api_key):
            raise EngineError("api key is not plain text", reason=Reason.ENGINE_UNAVAILABLE)
        headers["authorization"] = f"Bearer {api_key}"
    return headers


def _checked_url(settings: UpstreamSettings) -> httpx.URL:
    try:
        url = httpx.URL(settings.base_url)
    except (httpx.InvalidURL, TypeError, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("https", "http") or not url.host:
        raise EngineError("upstream address is not a URL", reason=Reason.ENGINE_UNAVAILABLE)
    if url.userinfo or url.query or url.fragment:
        raise EngineError(
            "upstream address has credentials, a query or a fragment",
            reason=Reason.ENGINE_UNAVAILABLE,
        )
    if url.scheme == "http" and not (settings.unsafe_plain_http or _is_loopback(url.host)):
        raise EngineError("upstream address is not https", reason=Reason.ENGINE_UNAVAILABLE)
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _chat_draft(source: ChatInput) -> dict[str, Any]:
    messages: list[Mapping[str, Any]] = list(source.messages)
    if source.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": source.system_prompt})
    draft: dict[str, Any] = {"messages": messages}
    if source.tools:
        draft["tools"] = list(source.tools)
        draft["tool_choice"] = source.tool_choice
        draft["parallel_tool_calls"] = source.parallel_tool_calls
    if source.response_format is not None:
        draft["response_format"] = source.response_format
    return draft


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        encoded = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        raise RequestError("request cannot be written as JSON in UTF-8") from None
    if len(encoded) > MAX_REQUEST_BYTES:
        raise RequestError(f"request exceeds {MAX_REQUEST_BYTES} bytes", reason=Reason.TOO_LARGE)
    return encoded


def _check_answer(response: httpx.Response, expected: str) -> None:
    status = response.status_code
    if status == 429:
        raise EngineError("upstream is overloaded", reason=Reason.ENGINE_OVERLOADED)
    if status in _CALLERS_FAULT:
        raise RequestError(f"the model's upstream refused the request with status {status}")
    if status != 200:
        fail(f"answered with status {status}")
    if response.headers.get("content-encoding", "identity") != "identity":
        fail("sent a compressed answer that was not asked for")
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != expected:
        fail(f"sent something other than {expected}")
