"""A gateway with small limits, and raw connections to it, for what no client library would send."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from running_gateway import run_gateway

from verispect.gateway.limits import Limits
from verispect.gateway.state import GatewayState
from verispect.testing.echo_model import EchoLanguageModel

ASK = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class BoundedGateway:
    """What a test sees of the server."""

    port: int
    model: EchoLanguageModel
    state: GatewayState

    def http(self) -> httpx.Client:
        """Return a plain client."""
        # Without TLS there are no certificates to load, which takes longer than a request.
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, verify=False)

    def connect(self) -> socket.socket:
        """Return a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def exchange(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send raw bytes, read to the end, return status, headers and body."""
        with closing(self.connect()) as connection:
            connection.sendall(data)
            return read_answer(connection)

    def assert_alive(self) -> None:
        """The server still answers, with a receipt."""
        with self.http() as client:
            answer = client.post(CHAT, json=ASK)
        assert answer.status_code == 200
        assert answer.json()["verispect"]["receipt"]


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one whole answer, up to the end of the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


def assert_error(answer: tuple[int, object, bytes], status: int, code: str) -> dict[str, object]:
    """The answer is OpenAI-shaped, with this status and code, and quotes no exception."""
    assert answer[0] == status, answer
    document = json.loads(answer[2])
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["code"] == code
    assert document["error"]["type"] == (
        "server_error" if status >= 500 else "invalid_request_error"
    )
    assert "Traceback" not in document["error"]["message"]
    return document["error"]


@contextmanager
def run_bounded_gateway(
    directory: Path, model: EchoLanguageModel, limits: Limits
) -> Iterator[BoundedGateway]:
    """Serve on a free loopback port until the block ends."""
    with run_gateway(directory, model, limits=limits) as running:
        port = int(running.base_url.rstrip("/").rpartition(":")[2])
        yield BoundedGateway(port, model, running.state)
