"""The HTTP front: a thin raw-ASGI dispatcher that owns limits, routing and errors.

What it holds to:

- A request is read whole, within limits of size, count and time, before a route sees it.
- Every refusal is a clear error in the shape the protocol's clients read; no exception, and
  nothing a caller wrote, passes into an answer or the log.
- When a caller goes away the work behind the answer is told at once, and a stream's body is
  closed, so that it can write the receipt of what was really sent.

It refuses to parse bodies, to know of models and to sign.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from verispect.core.errors import Reason
from verispect.gateway.errors import HttpError, error_member, error_response
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.limits import Limits
from verispect.gateway.routes import Response, Route, RouteTable, make_route_table
from verispect.gateway.state import GatewayState

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_logger = logging.getLogger(__name__)

_NO_QUERY: Final[dict[str, str]] = {}
_OTHER: Final = "other"
_GONE: Final = 499
"""Counted, never sent: the caller left before the answer."""


def create_app(state: GatewayState) -> Application:
    """Return the ASGI application over `state`."""
    return _Dispatcher(state, make_route_table())


class _CallerGoneError(Exception):
    """The caller left while its request was read: nobody to answer."""


class _Dispatcher:
    def __init__(self, state: GatewayState, table: RouteTable) -> None:
        self._state = state
        self._limits = state.limits
        self._table = table
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        steps = {"startup": self._state.on_start, "shutdown": self._state.on_stop}
        for name, step in steps.items():
            await receive()
            try:
                if name == "shutdown":
                    await self._drain()
                if step is not None:
                    await step()
            except Exception as error:
                message = f"{name} failed: {error}"
                await send({"type": f"lifespan.{name}.failed", "message": message})
                raise
            await send({"type": f"lifespan.{name}.complete"})

    async def _drain(self) -> None:
        """Let cut streams write their receipts before the store is closed.

        A server that stops cancels its requests and does not wait for what they do about it.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.disconnect_seconds):
                await self._idle.wait()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        route = self._table.find(scope["path"])
        status = _GONE
        self._active += 1
        self._idle.clear()
        self._state.metrics.active.inc()
        try:
            status = await self._answer(scope, receive, send, route)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
            metrics = self._state.metrics
            metrics.active.dec()
            label = route.pattern if route is not None else _OTHER
            metrics.answered(label, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, route: Route | None) -> int:
        """Answer one request and return the status that was sent."""
        watcher: asyncio.Task[None] | None = None
        try:
            try:
                request = await self._admit(scope, receive, route)
                if isinstance(request, HttpResponse):
                    response: Response = request
                else:
                    assert route is not None
                    handler = route.methods["GET" if request.method == "HEAD" else request.method]
                    if route.watches_caller:
                        watcher = asyncio.create_task(self._watch(receive, request.disconnected))
                    response = await handler(self._state, request)
            except _CallerGoneError:
                return _GONE
            except Exception as error:  # noqa: BLE001 - the one place that turns any error into an answer
                response = self._error(error, route)
                if isinstance(error, HttpError) and error.close:
                    await self._send_and_linger(response, receive, send)
                    return response.status
            if isinstance(response, StreamedResponse):
                assert not isinstance(request, HttpResponse)
                await self._send_stream(response, request, send)
            else:
                await _send_whole(response, send)
            return response.status
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _admit(
        self, scope: Scope, receive: Receive, route: Route | None
    ) -> HttpRequest | HttpResponse:
        """Check the head, read the body, and return the request or the answer it already has."""
        limits = self._limits
        method: str = scope["method"]
        headers = _read_headers(scope, limits)
        if (
            len(scope.get("raw_path") or b"") + len(scope["query_string"])
            > limits.maximum_target_bytes
        ):
            raise HttpError("the request target is too long", status=414, close=True)
        if route is None:
            raise HttpError(
                "no such route", status=404, reason=Reason.ROUTE_NOT_FOUND, close=_has_body(headers)
            )
        if method == "OPTIONS":
            return HttpResponse(204, b"", headers=[("allow", route.allowed())])
        if method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
            raise HttpError(
                f"expected one of {route.allowed()}",
                status=405,
                reason=Reason.METHOD_NOT_ALLOWED,
                headers=[("allow", route.allowed())],
                close=_has_body(headers),
            )
        if self._active > limits.concurrent_requests:
            raise HttpError(
                f"the server is at its limit of {limits.concurrent_requests} requests at once",
                status=503,
                reason=Reason.SERVER_OVERLOADED,
                close=_has_body(headers),
            )
        _check_content_headers(method, headers, route)
        received_at = time.time_ns() // 1_000_000
        maximum = limits.maximum_tensor_bytes if route.takes_tensors else limits.maximum_json_bytes
        body = b""
        if _has_body(headers):
            body = await _read_body(receive, headers, maximum, limits.body_seconds)
        return HttpRequest(
            method=method,
            path=scope["path"],
            query=_read_query(scope["query_string"], limits),
            headers=headers,
            body=body,
            disconnected=asyncio.Event(),
            received_at=received_at,
        )

    def _error(self, error: Exception, route: Route | None) -> HttpResponse:
        response = error_response(error, retry_after_seconds=self._limits.retry_after_seconds)
        if route is not None and route.takes_tensors:
            # The Open Inference Protocol's error is one string.
            member = msgspec.json.decode(response.body)["error"]
            response.body = msgspec.json.encode(
                {"error": member["message"], "code": member["code"]}
            )
        return response

    async def _watch(self, receive: Receive, disconnected: asyncio.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        disconnected.set()

    async def _send_stream(
        self, response: StreamedResponse, request: HttpRequest, send: Send
    ) -> None:
        """Send a stream as it is made; stop when the caller is gone, however that shows."""
        body = response.body
        overdue = asyncio.create_task(
            self._cancel_overdue(request.disconnected, asyncio.current_task())
        )
        try:
            await send(_head(response.status, response.content_type, response.headers, None))
            async for chunk in body:
                async with asyncio.timeout(self._limits.send_seconds):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if request.disconnected.is_set():
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:  # noqa: BLE001 - the head is out: all that is left is to cut the stream
            if not request.disconnected.is_set():
                error_member(error)
        finally:
            overdue.cancel()
            await _close(body)

    async def _cancel_overdue(
        self, disconnected: asyncio.Event, task: asyncio.Task[Any] | None
    ) -> None:
        """Cancel a stream that has not ended by itself some time after its caller left."""
        await disconnected.wait()
        await asyncio.sleep(self._limits.disconnect_seconds)
        if task is not None:
            task.cancel()

    async def _send_and_linger(self, response: HttpResponse, receive: Receive, send: Send) -> None:
        """Answer, then read on for a moment: closing on unread bytes would destroy the answer."""
        await _send_whole(response, send, more_body=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _read_headers(scope: Scope, limits: Limits) -> dict[str, str]:
    pairs = scope["headers"]
    if len(pairs) > limits.maximum_headers:
        raise HttpError(
            f"expected at most {limits.maximum_headers} headers",
            status=431,
            reason=Reason.TOO_LARGE,
            close=True,
        )
    headers: dict[str, str] = {}
    size = 0
    for name, value in pairs:
        size += len(name) + len(value)
        headers[name.decode("latin-1")] = value.decode("latin-1")
    if size > limits.maximum_header_bytes:
        raise HttpError(
            f"expected at most {limits.maximum_header_bytes} bytes of headers",
            status=431,
            reason=Reason.TOO_LARGE,
            close=True,
        )
    if len(headers) != len(pairs):
        raise HttpError("a header is given twice", status=400, close=True)
    return headers


def _read_query(query: bytes, limits: Limits) -> dict[str, str]:
    if not query:
        return _NO_QUERY
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=limits.maximum_query_fields,
        )
    except ValueError as error:
        raise HttpError("the query string is not valid", status=400) from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HttpError("a query field is given twice", status=400)
    return fields


def _has_body(headers: dict[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _check_content_headers(method: str, headers: dict[str, str], route: Route) -> None:
    if headers.get("content-encoding", "identity") != "identity":
        raise HttpError(
            "an encoded body is not accepted",
            status=415,
            reason=Reason.MEDIA_TYPE_UNSUPPORTED,
            close=_has_body(headers),
        )
    if method != "POST" or not route.takes_json:
        return
    media, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower()
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise HttpError(
            "expected content type application/json in UTF-8",
            status=415,
            reason=Reason.MEDIA_TYPE_UNSUPPORTED,
            close=_has_body(headers),
        )


async def _read_body(
    receive: Receive, headers: dict[str, str], maximum: int, seconds: float
) -> bytes:
    declared = headers.get("content-length")
    if declared is not None and (not declared.isascii() or not declared.isdigit()):
        raise HttpError("the content length is not a number", status=400, close=True)
    if declared is not None and (len(declared) > 18 or int(declared) > maximum):
        raise _too_large(maximum)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _CallerGoneError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > maximum:
                    raise _too_large(maximum)
                chunks.append(chunk)
                if not message.get("more_body"):
                    break
    except TimeoutError as error:
        raise HttpError(
            f"the body did not arrive within {seconds:g} seconds",
            status=408,
            reason=Reason.REQUEST_TIMEOUT,
            close=True,
        ) from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(maximum: int) -> HttpError:
    return HttpError(
        f"expected a body of at most {maximum} bytes",
        status=413,
        reason=Reason.TOO_LARGE,
        close=True,
    )


def _head(
    status: int, content_type: str, headers: list[tuple[str, str]], length: int | None
) -> Message:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if status != 204:
        raw.append((b"content-type", content_type.encode("latin-1")))
    if length is not None and status != 204:
        raw.append((b"content-length", b"%d" % length))
    elif length is None:
        # A proxy that buffers would hold back what the caller should see at once.
        raw += [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def _send_whole(response: HttpResponse, send: Send, *, more_body: bool = False) -> None:
    body = response.body
    await send(_head(response.status, response.content_type, response.headers, len(body)))
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


async def _close(body: AsyncIterator[bytes]) -> None:
    """Close an iterator, where it can be closed; a generator then runs its own endings."""
    close = getattr(body, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception as error:  # noqa: BLE001 - the answer is over; what fails now belongs in the log
        error_member(error)
