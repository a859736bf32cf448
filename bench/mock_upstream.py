"""An OpenAI-compatible upstream that answers every chat at once with the same words.

Whole or streamed, as it is asked. The gateway always asks for a stream, because it commits to
what the upstream really sent; LiteLLM passes on what its caller asked for.

    python bench/mock_upstream.py
"""

from __future__ import annotations

import json
import socket
from typing import Any

import uvicorn

_COMMON = {"id": "chatcmpl-mock", "created": 1_790_000_000, "model": "mock"}
_TEXT = "Red, yellow and blue."
_USAGE = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps({**_COMMON, **document}, separators=(",", ":")).encode()


def _chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _encode({"object": "chat.completion.chunk", "choices": [choice]})


_MESSAGE = {"role": "assistant", "content": _TEXT}
_WHOLE = _encode(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
_STREAM = b"".join(
    b"data: " + payload + b"\n\n"
    for payload in (
        _chunk(_MESSAGE, None),
        _chunk({}, "stop"),
        _encode({"object": "chat.completion.chunk", "choices": [], "usage": _USAGE}),
        b"[DONE]",
    )
)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Read the request whole and answer it."""
    if scope["type"] != "http":
        return
    request = b""
    more = True
    while more:
        message = await receive()
        request += message.get("body", b"")
        more = message.get("more_body", False)
    streamed = b'"stream":true' in request.replace(b": ", b":")
    body = _STREAM if streamed else _WHOLE
    media = b"text/event-stream" if streamed else b"application/json"
    headers = [(b"content-type", media), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve on a free loopback port."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, loop="uvloop", lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
