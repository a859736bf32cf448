"""Vendors' services on loopback: a server that replays answers, and one that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn


@dataclass(frozen=True)
class Reply:
    """One recorded answer."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ReplayingServer:
    """Answers by method and path with query; everything else is not found."""

    url: str = ""
    replies: dict[str, Reply | Callable[[bytes], Reply]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """What was asked, in order."""
    received: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request."""

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode()
        name = f"{scope['method']} {scope['path']}" + (f"?{query}" if query else "")
        self.asked.append(name)
        self.received.append({k.decode(): v.decode() for k, v in scope["headers"]})
        reply = self.replies.get(name, Reply(b"nothing here", 404))
        if not isinstance(reply, Reply):
            reply = reply(body)
        headers = [(k.encode(), v.encode()) for k, v in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


@contextmanager
def replaying(**tls: Any) -> Iterator[ReplayingServer]:
    """Serve on a free loopback port until the block ends; `tls` is passed to uvicorn."""
    replayed = ReplayingServer()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(replayed, lifespan="off", log_level="critical", loop="asyncio", **tls)
    )
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    scheme = "https" if tls else "http"
    replayed.url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield replayed
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def raw_server(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections, read each request's head, and let `speak` say anything at all."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        listener.settimeout(0.05)
        while not done.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    speak(connection)
                except OSError:
                    continue  # The client had enough.

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        thread.join()
        listener.close()
