"""A facilitator of our own, over HTTP: `POST /verify`, `POST /settle`, `GET /supported`.

A small ASGI application over anything that can verify and settle, in threads, so that a slow block
does not stop the answers to others. Copies of one settlement that come at once, or again, get the
answer of the first: that they settle nothing twice is the contract's rule, that they cost no gas is
this one's. Answers are kept in memory only; after a restart the chain refuses the copy.

It refuses bodies above a size, other methods, and to say what went wrong inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from verispect.core.encoding import Digest, sha256

MAX_BODY_BYTES: Final = 64 * 1024
MAX_KEPT_ANSWERS: Final = 10_000
THREADS: Final = 16

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Facilitator(Protocol):
    """Verifies and settles; methods block and MAY be called from any thread."""

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
        """Return x402's answer to a verification."""
        ...

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
        """Return x402's answer to a settlement."""
        ...

    def supported(self) -> dict[str, Any]:
        """Return which kinds of payment it takes."""
        ...


class FacilitatorService:
    """The ASGI application.

    Args:
        facilitator: does the work.
    """

    def __init__(self, facilitator: Facilitator) -> None:
        self._facilitator = facilitator
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="facilitator")
        self._settled: OrderedDict[Digest, asyncio.Future[dict[str, Any]]] = OrderedDict()

    def close(self) -> None:
        """Wait for what is being settled, and stop."""
        self._threads.shutdown(wait=True)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, self.close)
            return
        if scope["type"] != "http":
            return
        route = scope["method"], scope["path"]
        if route == ("GET", "/supported"):
            await _answer(send, 200, self._facilitator.supported())
            return
        if route not in {("POST", "/verify"), ("POST", "/settle")}:
            await _answer(send, 404, {"error": "not found"})
            return
        parts = _parts(await _body(receive))
        if parts is None:
            await _answer(send, 400, {"error": "the body is not a payment"})
            return
        try:
            answer = await (self._verify if route[1] == "/verify" else self._settle)(*parts)
        except Exception:  # noqa: BLE001  whatever a payload provokes is said to nobody
            await _answer(send, 500, {"error": "the facilitator failed"})
            return
        await _answer(send, 200, answer)

    async def _verify(
        self, payload: dict[str, Any], requirements: dict[str, Any]
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        work = self._facilitator.verify
        return await loop.run_in_executor(self._threads, work, payload, requirements)

    async def _settle(
        self, payload: dict[str, Any], requirements: dict[str, Any]
    ) -> dict[str, Any]:
        text = json.dumps([payload.get("payload"), requirements], sort_keys=True)
        name = sha256(text.encode())
        running = self._settled.get(name)
        if running is None:
            loop = asyncio.get_running_loop()
            work = self._facilitator.settle
            running = loop.run_in_executor(self._threads, work, payload, requirements)
            self._settled[name] = running
            running.add_done_callback(lambda done: self._forget_failure(name, done))
            while len(self._settled) > MAX_KEPT_ANSWERS:
                self._settled.popitem(last=False)
        # A caller that goes away does not stop a settlement that has begun.
        return await asyncio.shield(running)

    def _forget_failure(self, name: Digest, done: asyncio.Future[dict[str, Any]]) -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed or done.result().get("success") is not True:
            self._settled.pop(name, None)


def _parts(body: bytes | None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        value = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    if type(value) is not dict:
        return None
    payload, requirements = value.get("paymentPayload"), value.get("paymentRequirements")
    if not isinstance(payload, dict) or not isinstance(requirements, dict):
        return None
    return payload, requirements


async def _body(receive: _Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return body


async def _answer(send: _Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: _Receive, send: _Send, close: Callable[[], None]) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await asyncio.to_thread(close)
            await send({"type": "lifespan.shutdown.complete"})
            return
