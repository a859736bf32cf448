"""What a node serves: co-signing as a C2SP witness, its view of the log, forks and reports.

`POST /add-checkpoint` compares with the latest checkpoint that was co-signed and replaces it in one
transaction, and signs only when that is durable. Two trees of one size that the log signed are kept
as evidence of a fork. Everything that is served is public; nothing that is served is secret.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import Error, MalformedError, Reason, StoreError
from verispect.core.keys import Signer
from verispect.node.state import NodeState
from verispect.tlog.checkpoint import SignedCheckpoint, TrustedLog
from verispect.tlog.cosignature import cosign
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.witness import (
    MAX_WITNESS_REQUEST_BYTES,
    SIZE_MEDIA_TYPE,
    AddCheckpointRequest,
    Conflict,
    Cosign,
    Refused,
    decide,
    encode_cosignatures,
)

_TEXT: Final = "text/plain; charset=utf-8"
Message = MutableMapping[str, Any]
Answer = tuple[int, str, bytes]


class TlogWitness:
    """Co-signs checkpoints of one log.

    Args:
        name: of the witness, in its key.
        signer: holder of the node's private key.
        log: the log that it knows.
        state: where the latest checkpoint is kept.
        clock: milliseconds since the epoch.
        on_fork: told of evidence of a fork.
    """

    def __init__(
        self,
        name: str,
        signer: Signer,
        log: TrustedLog,
        state: NodeState,
        *,
        clock: Callable[[], int],
        on_fork: Callable[[ForkEvidence], None],
    ) -> None:
        self._name = name
        self._signer = signer
        self._trusted = log
        self._state = state
        self._clock = clock
        self._on_fork = on_fork

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer `add-checkpoint` (C2SP tlog-witness)."""
        try:
            request = AddCheckpointRequest.parse(body)
        except MalformedError:
            return 400, _TEXT, b"malformed\n"
        origin = request.checkpoint.unverified.origin
        known = self._trusted if origin == self._trusted.origin else None
        with self._state.transaction() as connection:
            row = connection.execute(
                "SELECT note FROM witnessed WHERE origin = ?", (origin,)
            ).fetchone()
            latest = None if row is None else SignedCheckpoint.parse(row[0])
            decision = decide(
                request, log=known, latest=None if latest is None else latest.unverified
            )
            if isinstance(decision, Cosign):
                connection.execute(
                    "INSERT INTO witnessed VALUES (?, ?, ?) ON CONFLICT (origin)"
                    " DO UPDATE SET size = excluded.size, note = excluded.note",
                    (
                        origin,
                        decision.checkpoint.size,
                        self._trusted.bare(request.checkpoint).encode(),
                    ),
                )
        return self._answer(decision, request, latest)

    def _answer(
        self,
        decision: Cosign | Conflict | Refused,
        request: AddCheckpointRequest,
        latest: SignedCheckpoint | None,
    ) -> Answer:
        if isinstance(decision, Cosign):
            line = cosign(
                decision.checkpoint,
                name=self._name,
                seconds=self._clock() // 1000,
                signer=self._signer,
            )
            return 200, _TEXT, encode_cosignatures([line])
        if isinstance(decision, Refused):
            return decision.status, _TEXT, f"{decision.reason.value}\n".encode()
        if decision.forked and latest is not None:
            bare = self._trusted.bare(request.checkpoint)
            self._on_fork(ForkEvidence(latest, bare, bare.unverified.root, ()))
        return decision.status, SIZE_MEDIA_TYPE, decision.body()

    def latest(self, origin: str) -> bytes | None:
        """Return the latest checkpoint of a log that this witness co-signed."""
        with self._state.transaction() as connection:
            row = connection.execute(
                "SELECT note FROM witnessed WHERE origin = ?", (origin,)
            ).fetchone()
        return None if row is None else bytes(row[0])


class NodeApp:
    """The ASGI application of a node.

    Args:
        witness: the witness.
        state: reports and forks.
        view: gives the checkpoint that the node verified every leaf of.
    """

    def __init__(
        self, witness: TlogWitness, state: NodeState, view: Callable[[], SignedCheckpoint | None]
    ) -> None:
        self._witness = witness
        self._state = state
        self._view = view

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        body = await _read(receive)
        try:
            status, media, data = self._answer(scope, body)
        except StoreError:
            status, media, data = 503, _TEXT, b"try again\n"
        except Error:
            status, media, data = 400, _TEXT, b"malformed\n"
        headers = [(b"content-type", media.encode()), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _answer(self, scope: Message, body: bytes | None) -> Answer:
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == "/add-checkpoint":
            if body is None:
                return 413, _TEXT, b"too large\n"
            return self._witness.add_checkpoint(body)
        if method != "GET":
            return 405, _TEXT, b"method not allowed\n"
        if path == "/checkpoint":
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            data = self._witness.latest(query.get("origin", [""])[0])
            return _found(data, _TEXT)
        if path == "/view":
            view = self._view()
            return _found(None if view is None else view.encode(), _TEXT)
        if path == "/forks":
            forks = [b64encode(each).decode() for each in self._state.forks()]
            return 200, "application/json", json.dumps(forks).encode()
        if path.startswith("/reports/"):
            return _found(self._report(path.removeprefix("/reports/")), "application/cbor")
        if path == "/healthz":
            return 200, "application/json", b'{"status":"ok"}'
        return _found(None, _TEXT)

    def _report(self, text: str) -> bytes | None:
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            return None
        return self._state.report(digest) if len(digest) == DIGEST_BYTES else None


def _found(data: bytes | None, media: str) -> Answer:
    if data is None:
        return 404, _TEXT, f"{Reason.ROUTE_NOT_FOUND.value}\n".encode()
    return 200, media, data


async def _read(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_WITNESS_REQUEST_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
