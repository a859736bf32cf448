"""uvicorn's HTTP protocol with bounds on what comes before a request is whole.

uvicorn itself waits for the head of a request as long as the caller likes, and lets it grow. Here
a head has a time limit (slow loris) and a size limit, and bytes that are not HTTP are refused in
the shape that all our errors have. Requests and answers that are whole pass in one step instead
of several messages (`WholeMessages`). This module refuses to look at bodies: the dispatcher does.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from verispect.core.errors import Error, MalformedError, Reason
from verispect.gateway.errors import HttpError, error_member
from verispect.gateway.http import WHOLE_MESSAGES, HttpResponse
from verispect.gateway.limits import Limits

_STATUS_LINES: Final[dict[int, bytes]] = {
    HTTPStatus.OK: b"HTTP/1.1 200 OK\r\n",
    # Every client that pays as it goes gets one of these first.
    HTTPStatus.PAYMENT_REQUIRED: b"HTTP/1.1 402 Payment Required\r\n",
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def make_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config(http=…)` takes; it can be sent to a worker process."""
    # uvicorn only calls it; a class made here could not be pickled.
    return cast("type[asyncio.Protocol]", partial(BoundedHttpProtocol, limits=limits))


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection; `make_protocol` gives it its limits."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits

    _in_head = True
    """Whether the head of a request is awaited or has begun; not while a connection idles."""
    _head_bytes = 0
    _heads = 0
    """Heads that were whole."""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is whole."""
        self._in_head = False
        self._head_bytes = 0
        self._heads += 1
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            cast("dict[str, Any]", self.scope)[WHOLE_MESSAGES] = _WholeMessages(cycle)

    def data_received(self, data: bytes) -> None:
        """Parse, and bound a head that is not whole yet."""
        heads, began = self._heads, self._in_head
        super().data_received(data)
        if not self._in_head:
            self._stop_timer()
            return
        self._watch_head()
        if began and heads == self._heads:
            # Only bytes that are all of one head count: others end a request before it.
            self._head_bytes += len(data)
        limits = self._limits
        if self._head_bytes > limits.maximum_header_bytes + limits.maximum_target_bytes:
            self._refuse(
                HttpError(
                    "the head of the request is too large", status=431, reason=Reason.TOO_LARGE
                )
            )

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not needed
        """Refuse bytes that are not HTTP."""
        self._refuse(MalformedError("the request is not HTTP", reason=Reason.INVALID_REQUEST))

    def _watch_head(self) -> None:
        if self._head_timer is None:
            seconds = self._limits.header_seconds
            self._head_timer = self.loop.call_later(seconds, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._head_bytes:
            # Nothing was asked, so there is nothing to answer.
            self.transport.close()
            return
        seconds = self._limits.header_seconds
        self._refuse(
            HttpError(
                f"the head of the request did not arrive within {seconds:g} seconds",
                status=408,
                reason=Reason.REQUEST_TIMEOUT,
            )
        )

    def _refuse(self, error: Error) -> None:
        """Answer and close; a response under way is cut, since nothing can follow it."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            status, member = error_member(error)
            body = msgspec.json.encode({"error": member})
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        if cycle is not None:
            # What the application still sends must not follow this.
            cycle.disconnected = True
        self.transport.close()


class _WholeMessages:
    """Does to uvicorn's cycle what its `receive` and `send` would do, for the usual case of each.

    Whatever is unusual (a body under way, a caller gone or slow, an error, a connection about to
    end) is refused here and takes uvicorn's own way.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def take_body(self) -> bytes | None:
        cycle = self._cycle
        if (
            cycle.more_body
            or cycle.disconnected
            or cycle.response_started
            or cycle.waiting_for_100_continue
            or cycle.flow.read_paused
        ):
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        return body

    def answer(self, response: HttpResponse) -> bool:
        cycle = self._cycle
        if (
            response.status not in _STATUS_LINES
            or cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or cycle.flow.write_paused
            or cycle.scope["method"] == "HEAD"
            or _CONTROL.search("".join([value for _, value in response.headers]))
        ):
            return False
        ours = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        body = response.body
        end = f"content-type: {response.content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        head = [_STATUS_LINES[response.status]]
        for name, value in cycle.default_headers:
            head += (name, b": ", value, b"\r\n")
        head += ((ours + end).encode("latin-1"), body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.chunked_encoding = False
        cycle.transport.write(b"".join(head))
        cycle.message_event.set()
        cycle.on_response()
        return True
