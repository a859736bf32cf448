"""Asks vendors' services over HTTP, within limits, and keeps their answers.

One `Retriever` serves all fetchers. Every request has a limit of time and of bytes. TLS is always
verified; plain HTTP goes to this machine only. Redirects, compressed answers and proxies from the
environment are refused, so that what is asked and who answers is what the caller named. A service
that is overloaded (429) is asked again at most twice, after the time that it asks for, if that is
short.

An answer is kept only after it was read as what it should be. Reading is a matter of form; this
module refuses to judge what is fetched.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from verispect.attesters.endorsements.cache import Answer, EndorsementCache
from verispect.core.encoding import sha256
from verispect.core.errors import Error, NetworkError, Reason, RequestError, StoreError

if TYPE_CHECKING:
    import httpx

MAX_RETRIES: Final = 2
MAX_RETRY_SECONDS: Final = 10
"""A service that asks for more patience is given up."""

DEFAULT_RETRY_SECONDS: Final = 1
MAX_HEADER_CHARACTERS: Final = 32 * 1024
"""Upper limit of one header that is kept; Intel's certificate chains have 3 kB."""

USER_AGENT: Final = "verispect"

_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_MAX_PORT: Final = 65535
_OK: Final = 200
_NOT_FOUND: Final = 404
_TOO_MANY_REQUESTS: Final = 429

T = TypeVar("T")


class NotServedError(NetworkError):
    """The service answered that it has no such thing (404)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait."""

    connect_seconds: float = 5.0
    read_seconds: float = 10.0
    """Between two pieces of an answer."""
    total_seconds: float = 30.0
    """For one request, retries included."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request."""

    url: str
    limit: int
    """The largest body accepted."""
    body: bytes | None = None
    """What is posted; without it the request is a GET."""
    content_type: str = "application/octet-stream"
    """Of the body that is posted."""
    headers: tuple[str, ...] = ()
    """Lower-case names of the headers that belong to the content."""

    @property
    def key(self) -> str:
        """The whole request as text, the name of its answer in a cache."""
        if self.body is None:
            return f"GET {self.url}"
        return f"POST {self.url} {self.content_type} {sha256(self.body).hex()}"


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What an answer was read as."""

    value: T
    good_until: int | None = None
    """When it ends by its own word, milliseconds since the epoch."""


class Retriever:
    """A client of vendors' services, with or without a cache.

    Args:
        cache: where answers are kept; `None` keeps nothing.
        clock: the time, milliseconds since the epoch.
        timeouts: how long to wait.
        certificates: a PEM file of roots for TLS instead of the usual ones, for a service of
            one's own.
        sleep: waits for seconds; for tests.

    Raises:
        StoreError: `store-failed` where `certificates` cannot be read.
    """

    def __init__(
        self,
        cache: EndorsementCache | None = None,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        timeouts: Timeouts | None = None,
        certificates: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        import httpx

        self._cache = cache
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._sleep = sleep
        self._client = httpx.AsyncClient(
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
            timeout=httpx.Timeout(
                self._timeouts.read_seconds, connect=self._timeouts.connect_seconds
            ),
            verify=True if certificates is None else _tls_context(certificates),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def obtain(
        self,
        question: Question,
        read: Callable[[Answer], Reading[T]],
        *,
        lifetime: int,
        usable: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """Return what the service answers, or answered not too long ago.

        Args:
            question: the request.
            read: reads the answer's form; raises one of our errors for another.
            lifetime: how long an answer may be kept at most, in milliseconds; 0 keeps nothing.
            usable: tells whether a kept answer still serves; one that does not is fetched anew.

        Raises:
            RequestError: `invalid-request` for an address that is not HTTPS.
            NotServedError: `network-failed` where the service has no such thing.
            NetworkError: `network-failed` for everything else that goes wrong.
        """
        kept = self._kept(question, read) if lifetime > 0 else None
        if kept is not None and usable(kept.value):
            return kept.value
        answer = await self._ask(question)
        try:
            reading = read(answer)
        except Error as error:
            raise NetworkError(
                f"{_host(question.url)} answered with something else: {error.message}",
                reason=Reason.NETWORK_FAILED,
            ) from error
        if self._cache is not None and lifetime > 0:
            now = self._clock()
            ends = now + lifetime
            if reading.good_until is not None:
                ends = min(ends, reading.good_until)
            self._cache.put(question.key, answer, now=now, expires=ends)
        return reading.value

    def _kept(self, question: Question, read: Callable[[Answer], Reading[T]]) -> Reading[T] | None:
        answer = self._cache.get(question.key, self._clock()) if self._cache is not None else None
        if answer is None or len(answer.body) > question.limit:
            return None
        try:
            return read(answer)
        except Error:
            return None

    async def _ask(self, question: Question) -> Answer:
        import httpx

        host = _host(question.url)
        try:
            async with asyncio.timeout(self._timeouts.total_seconds):
                return await self._ask_patiently(question, host)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _failed(f"{host} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _failed(f"{host} cannot be asked: {type(error).__name__}") from error

    async def _ask_patiently(self, question: Question, host: str) -> Answer:
        for attempt in range(MAX_RETRIES + 1):
            answer = await self._ask_once(question, host)
            if isinstance(answer, Answer):
                return answer
            if attempt == MAX_RETRIES or answer > MAX_RETRY_SECONDS:
                break
            await self._sleep(answer)
        raise _failed(f"{host} is overloaded (429)")

    async def _ask_once(self, question: Question, host: str) -> Answer | float:
        """Return the answer, or how many seconds the service asks to wait."""
        posted = {} if question.body is None else {"content-type": question.content_type}
        async with self._client.stream(
            "GET" if question.body is None else "POST",
            question.url,
            content=question.body,
            headers=posted,
        ) as response:
            if response.status_code == _TOO_MANY_REQUESTS:
                return _retry_after(response)
            if response.status_code == _NOT_FOUND:
                raise NotServedError(f"{host} has no such thing", reason=Reason.NETWORK_FAILED)
            if response.status_code != _OK:
                raise _failed(f"{host} answered with status {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _failed(f"{host} answered with a compressed body")
            headers = _kept_headers(response.headers, question.headers, host)
            return Answer(await _read_body(response, question.limit, host), headers)


async def _read_body(response: httpx.Response, limit: int, host: str) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limit:
            raise _failed(f"{host} answered with more than {limit} bytes")
    return bytes(body)


def _kept_headers(
    headers: Mapping[str, str], names: tuple[str, ...], host: str
) -> Mapping[str, str]:
    kept = {name: headers[name] for name in names if name in headers}
    if any(len(value) > MAX_HEADER_CHARACTERS for value in kept.values()):
        raise _failed(f"{host} answered with too large a header")
    return kept


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    # A date is not read: what it means depends on two clocks.
    if text.isascii() and text.isdigit():
        return float(text[:9])
    return DEFAULT_RETRY_SECONDS


def base_address(text: str) -> str:
    """Return the address of a service without a slash at its end.

    Raises:
        RequestError: `invalid-request` unless it is HTTPS, or HTTP to this machine.
    """
    import httpx

    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError):
        url = httpx.URL("")
    named = _is_host(url.raw_host.decode("ascii", "replace")) and (url.port or 0) <= _MAX_PORT
    if not named or url.userinfo or url.query or url.fragment:
        raise RequestError("the service's address is not a URL", parameter="base_url")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise RequestError("the service's address is not https", parameter="base_url")
    return str(url).rstrip("/")


def _is_host(host: str) -> bool:
    # Names that httpx lets pass and no resolver knows would fail with errors that are not ours.
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return _NAME.fullmatch(host) is not None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(url: str) -> str:
    import httpx

    return httpx.URL(url).host


def _tls_context(certificates: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:  # `ssl.SSLError` among them.
        raise StoreError(
            f"cannot read TLS roots from {certificates}", reason=Reason.STORE_FAILED
        ) from error


def _failed(what: str) -> NetworkError:
    return NetworkError(what, reason=Reason.NETWORK_FAILED)
