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

import msgspec

from verispect.core.errors import Reason
from verispect.gateway.confidential import ConfidentialExchange
from verispect.gateway.errors import HttpError, error_member, error_response
from verispect.gateway.http import (
    WHOLE_MESSAGES,
    HttpRequest,
    HttpResponse,
    Message,
    Receive,
    StreamedResponse,
    WholeMessages,
)
from verispect.gateway.reading import (
    LeftWhileReadError,
    check_content_headers,
    has_body,
    is_confidential,
    read_body,
    read_headers,
    read_query,
)
from verispect.gateway.routes import Response, Route, RouteTable, make_route_table
from verispect.gateway.state import GatewayState
from verispect.gateway.transaction_routes import join

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_logger = logging.getLogger(__name__)

_OTHER: Final = "other"
_GONE: Final = 499
"""Counted, never sent: the caller left before the answer."""


def create_app(state: GatewayState) -> Application:
    """Return the ASGI application over `state`."""
    return _Dispatcher(state, make_route_table())


class _Dispatcher:
    def __init__(self, state: GatewayState, table: RouteTable) -> None:
        self._state = state
        self._limits = state.limits
        self._table = table
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        state.metrics.active.set_function(lambda: self._active)

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
        try:
            status = await self._answer(scope, receive, send, route)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
            metrics = self._state.metrics
            label = route.pattern if route is not None else _OTHER
            metrics.answered(label, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, route: Route | None) -> int:
        """Answer one request and return the status that was sent."""
        watcher: asyncio.Task[None] | None = None
        exchange: ConfidentialExchange | None = None
        state = self._state
        whole: WholeMessages | None = scope.get(WHOLE_MESSAGES)
        try:
            try:
                request = await self._admit(scope, receive, route, whole)
                if isinstance(request, HttpResponse):
                    response: Response = request
                else:
                    assert route is not None
                    door = state.confidential
                    if door is not None and is_confidential(request.method, request.headers, route):
                        exchange = door.open(request)
                        request, state = exchange.request, exchange.restrict(state)
                        check_content_headers(request.method, request.headers, route)
                    if route.watches_caller:
                        watcher = asyncio.create_task(self._watch(receive, request.disconnected))
                    response = await self._call(state, request, route)
            except LeftWhileReadError:
                return _GONE
            except Exception as error:  # noqa: BLE001 - the one place that turns any error into an answer
                response = self._error(error, route)
                if isinstance(error, HttpError) and error.close and exchange is None:
                    await self._send_and_linger(response, receive, send)
                    return response.status
            if exchange is not None:
                response = exchange.seal(response)
            if isinstance(response, StreamedResponse):
                assert not isinstance(request, HttpResponse)
                await self._send_stream(response, request, send)
            else:
                await _send_whole(response, send, whole)
            return response.status
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _call(self, state: GatewayState, request: HttpRequest, route: Route) -> Response:
        """Answer by the route's handler, for money where the route is sold."""
        payments, ticket = state.payments, None
        if payments is not None and route.is_sold and request.method == "POST":
            # While the body is as it came: it is what was paid for.
            ticket = payments.open(request)
        await join(state, request)
        handler = route.methods["GET" if request.method == "HEAD" else request.method]
        if payments is None or ticket is None:
            return await handler(state, request)
        return await payments.serve(state, ticket, handler)

    async def _admit(
        self, scope: Scope, receive: Receive, route: Route | None, whole: WholeMessages | None
    ) -> HttpRequest | HttpResponse:
        """Check the head, read the body, and return the request or the answer it already has."""
        limits = self._limits
        method: str = scope["method"]
        headers = read_headers(scope["headers"], limits)
        if (
            len(scope.get("raw_path") or b"") + len(scope["query_string"])
            > limits.maximum_target_bytes
        ):
            raise HttpError("the request target is too long", status=414, close=True)
        if route is None:
            raise HttpError(
                "no such route", status=404, reason=Reason.ROUTE_NOT_FOUND, close=has_body(headers)
            )
        if method == "OPTIONS":
            return HttpResponse(204, b"", headers=[("allow", route.allowed())])
        if method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
            payments = self._state.payments
            if payments is not None and route.is_sold and method in {"GET", "HEAD"}:
                raise await payments.unpaid(method, scope["path"], headers.get("host", ""))
            raise HttpError(
                f"expected one of {route.allowed()}",
                status=405,
                reason=Reason.METHOD_NOT_ALLOWED,
                headers=[("allow", route.allowed())],
                close=has_body(headers),
            )
        if self._active > limits.concurrent_requests:
            raise HttpError(
                f"the server is at its limit of {limits.concurrent_requests} requests at once",
                status=503,
                reason=Reason.SERVER_OVERLOADED,
                close=has_body(headers),
            )
        encrypted = self._state.confidential is not None and is_confidential(method, headers, route)
        check_content_headers(method, headers, route, encrypted=encrypted)
        received_at = time.time_ns() // 1_000_000
        maximum = limits.maximum_tensor_bytes if route.takes_tensors else limits.maximum_json_bytes
        body = b""
        if has_body(headers):
            body = await read_body(receive, headers, maximum, limits.body_seconds, whole)
        return HttpRequest(
            method=method,
            path=scope["path"],
            query=read_query(scope["query_string"], limits),
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


async def _send_whole(
    response: HttpResponse,
    send: Send,
    whole: WholeMessages | None = None,
    *,
    more_body: bool = False,
) -> None:
    if whole is not None and whole.answer(response):
        return
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
