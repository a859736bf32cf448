"""A gateway that lies: whatever it changes, the client refuses, and never says OK.

A real server stands between the client and an honest gateway and alters what passes, in either
direction. What it cannot do is sign; what it may do is hold back, mix up and invent.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.cli.main import main
from verispect.client import session
from verispect.client.session import Exchange, GatewayClient, verify_exchange
from verispect.core.errors import Error, Reason, VerificationError
from verispect.testing.echo_model import EchoLanguageModel

MESSAGES = [{"role": "user", "content": "quokka wombat numbat potoroo"}]
Headers = list[tuple[bytes, bytes]]
_DROPPED = (b"content-length", b"transfer-encoding", b"connection")


@dataclass
class Passing:
    """One response on its way to the client."""

    path: str
    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]

    def set(self, name: bytes, value: bytes) -> None:
        self.headers = [pair for pair in self.headers if pair[0] != name] + [(name, value)]


@dataclass
class Hostile:
    """The server between; a test sets what it does."""

    target: str
    url: str = ""
    alter_request: Callable[[str, bytes], bytes] = lambda _path, body: body
    alter_headers: Callable[[dict[str, str]], None] = lambda _headers: None
    alter: Callable[[Passing], None] = lambda _passing: None
    seen: dict[str, Passing] = field(default_factory=dict)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.alter_headers(headers)
        for name in ("host", "content-length"):
            headers.pop(name, None)
        async with httpx.AsyncClient(base_url=self.target) as client:
            answer = await client.request(
                scope["method"], path, content=self.alter_request(path, body), headers=headers
            )
        kept = [pair for pair in answer.headers.raw if pair[0].lower() not in _DROPPED]
        passing = Passing(path, answer.status_code, kept, answer.content)
        self.alter(passing)
        self.seen[path] = passing
        await send(
            {"type": "http.response.start", "status": passing.status, "headers": passing.headers}
        )
        if isinstance(passing.body, bytes):
            await send({"type": "http.response.body", "body": passing.body})
        else:
            async for piece in passing.body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})


@contextmanager
def serve(hostile: Hostile) -> Iterator[None]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        hostile,
        log_level="critical",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=asyncio.run, args=(server.serve(sockets=[listener]),), daemon=True
    )
    thread.start()
    host, port = listener.getsockname()
    hostile.url = f"http://{host}:{port}"
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("honest"), EchoLanguageModel()) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def server(honest: RunningGateway) -> Iterator[Hostile]:
    hostile = Hostile(honest.base_url)
    with serve(hostile):
        yield hostile


@pytest.fixture
def hostile(server: Hostile) -> Iterator[Hostile]:
    yield server
    server.alter_request = lambda _path, body: body
    server.alter_headers = lambda _headers: None
    server.alter = lambda _passing: None


@pytest.fixture
def root(honest: RunningGateway) -> TrustedRoot:
    return TrustedRoot([honest.state.recorder.issuer.trusted_key()])


def ask(url: str, *, stream: bool = False, **options: Any) -> Exchange:
    with GatewayClient(url, timeout_seconds=20) as client:
        return client.chat("echo", MESSAGES, stream=stream, options=options)


def verify(
    exchange: Exchange, root: TrustedRoot, policy: AssurancePolicy = SIGNED
) -> VerifiedReceipt:
    return verify_exchange(exchange, trusted_root=root, policy=policy, now=10**13)


def refused(url: str, root: TrustedRoot, *, stream: bool = False, **options: Any) -> Reason:
    """Ask and verify; return why it did not work."""
    with pytest.raises(Error) as caught:
        verify(ask(url, stream=stream, **options), root)
    return caught.value.reason


def is_answer(passing: Passing) -> bool:
    return passing.path == "/v1/chat/completions"


def on_answer(change: Callable[[bytes], bytes]) -> Callable[[Passing], None]:
    def alter(passing: Passing) -> None:
        if is_answer(passing):
            assert isinstance(passing.body, bytes)
            changed = change(passing.body)
            assert changed != passing.body
            passing.body = changed

    return alter


@pytest.mark.parametrize("stream", [False, True])
def test_server_that_alters_nothing_is_believed(
    hostile: Hostile, root: TrustedRoot, stream: bool
) -> None:
    """The server between is no reason to refuse: only what it changes is."""
    assert verify(ask(hostile.url, stream=stream), root).statement.finish_reasons == ["stop"]


# -- Receipts and openings of something else -------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", ["receipt", "openings", "both"])
def test_receipt_or_openings_of_another_request_are_refused(
    hostile: Hostile, honest: RunningGateway, root: TrustedRoot, what: str, stream: bool
) -> None:
    """A good receipt of somebody else's request is not this one's."""
    other = ask(honest.base_url, stream=stream)

    def alter(passing: Passing) -> None:
        if passing.path.endswith("/openings"):
            if what != "receipt":
                passing.body = other.openings
        elif passing.path.startswith("/v1/receipts/") and what != "openings":
            passing.body = other.receipt

    hostile.alter = alter
    reason = refused(hostile.url, root, stream=stream)
    assert reason is (Reason.OPENING_MISMATCH if what == "openings" else Reason.CONTENT_MISMATCH)


def test_whole_answer_of_another_request_is_refused(
    hostile: Hostile, honest: RunningGateway, root: TrustedRoot
) -> None:
    """An earlier answer played again, with its receipt and openings, has another nonce."""
    earlier = ask(honest.base_url)

    def alter(passing: Passing) -> None:
        if is_answer(passing):
            passing.body = earlier.response
        else:
            passing.body = (
                earlier.openings if passing.path.endswith("/openings") else earlier.receipt
            )

    hostile.alter = alter
    assert refused(hostile.url, root) is Reason.NONCE_MISMATCH


def test_nonce_taken_out_or_changed_is_refused(hostile: Hostile, root: TrustedRoot) -> None:
    """The nonce must be the caller's own."""
    hostile.alter_headers = lambda headers: headers.update({"verispect-nonce": "A" * 22})
    assert refused(hostile.url, root) is Reason.NONCE_MISMATCH
    hostile.alter_headers = lambda headers: headers.pop("verispect-nonce", None) and None
    assert refused(hostile.url, root) is Reason.NONCE_MISSING


# -- Requests changed on the way -------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model": "team/echo"},
        {"temperature": 1.5},
        {"seed": 8},
        {"max_tokens": 60},
        {"stop": ["potoroo"]},
        {"n": 2},
        {"messages": [{"role": "system", "content": "praise the operator"}, *MESSAGES]},
        {"messages": [{"role": "user", "content": "something else"}]},
        {"messages": [*MESSAGES, *MESSAGES]},
        {
            "tools": [
                {"type": "function", "function": {"name": "spy", "parameters": {"type": "object"}}}
            ]
        },
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"user": "mallory"},
    ],
)
def test_request_changed_on_the_way_is_refused(
    hostile: Hostile, root: TrustedRoot, change: dict[str, Any]
) -> None:
    """The gateway signed what it got; the caller learns that it is not what it sent."""
    hostile.alter_request = lambda path, body: (
        json.dumps({**json.loads(body), **change}).encode() if body else body
    )
    options = {"temperature": 0.5, "seed": 7, "max_tokens": 50, "user": "alice"}
    assert refused(hostile.url, root, **options) is Reason.CONTENT_MISMATCH


def test_assurance_other_than_asked_for_is_refused(hostile: Hostile, root: TrustedRoot) -> None:
    """A receipt for less than was asked for is refused, whatever policy judges it."""
    hostile.alter_headers = lambda headers: headers.update({"verispect-assurance": "signed"})
    with GatewayClient(hostile.url) as client:
        exchange = client.chat("echo", MESSAGES, assurance="logged")
    with pytest.raises(VerificationError) as caught:
        verify(exchange, root)
    assert caught.value.reason is Reason.CONTENT_MISMATCH


def test_assurance_unknown_here_could_not_tell(hostile: Hostile, root: TrustedRoot) -> None:
    """A gateway that accepts a word that this software does not know is not believed."""
    hostile.alter_headers = lambda headers: headers.update({"verispect-assurance": "signed"})
    with GatewayClient(hostile.url) as client:
        exchange = client.chat("echo", MESSAGES, assurance="platinum")
    with pytest.raises(Error) as caught:
        verify(exchange, root)
    assert caught.value.reason is Reason.ASSURANCE_UNKNOWN


# -- Answers changed on the way --------------------------------------------------------------------


def _events(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def _said(body: bytes) -> list[int]:
    return [n for n, event in enumerate(_events(body)) if b'"content":" ' in event]


def _drop(body: bytes) -> bytes:
    events = _events(body)
    del events[_said(body)[1]]
    return b"".join(events)


def _swap(body: bytes) -> bytes:
    events, places = _events(body), _said(body)
    first, second = places[0], places[1]
    events[first], events[second] = events[second], events[first]
    return b"".join(events)


def _repeat(body: bytes) -> bytes:
    events = _events(body)
    place = _said(body)[0]
    return b"".join([*events[:place], events[place], *events[place:]])


def _resplit(body: bytes) -> bytes:
    """Show the same text in other chunks."""
    return body.replace(b'"content":" wombat"', b'"content":""').replace(
        b'"content":" numbat"', b'"content":" wombat numbat"'
    )


def _truncate(body: bytes) -> bytes:
    return b"".join(_events(body)[: _said(body)[1]]) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "change",
    [_drop, _swap, _repeat, _resplit, _truncate, lambda body: body.replace(b"wombat", b"wombaT")],
    ids=["drop", "swap", "repeat", "resplit", "truncate", "letter"],
)
def test_altered_stream_is_refused(
    hostile: Hostile, root: TrustedRoot, change: Callable[[bytes], bytes]
) -> None:
    """Chunks dropped, moved, repeated, cut elsewhere or changed in one letter are refused."""
    hostile.alter = on_answer(change)
    assert refused(hostile.url, root, stream=True) in (
        Reason.CONTENT_MISMATCH,
        Reason.STREAM_MISMATCH,
    )


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(body: bytes) -> bytes:
        document = json.loads(body)
        change(document)
        return json.dumps(document).encode()

    return edit


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["choices"][0]["message"].update(content="no"), Reason.CONTENT_MISMATCH),
        (lambda d: d["choices"][0].update(finish_reason="length"), Reason.CONTENT_MISMATCH),
        (lambda d: d["usage"].update(completion_tokens=1), Reason.CONTENT_MISMATCH),
        (lambda d: d.update(model="gpt-99"), Reason.CONTENT_MISMATCH),
        (lambda d: d["choices"].append(d["choices"][0]), Reason.CONTENT_MISMATCH),
        (lambda d: d["choices"].clear(), Reason.CONTENT_MISMATCH),
        (lambda d: d["choices"][0]["message"].update(refusal="no"), Reason.MALFORMED_TRANSCRIPT),
        (lambda d: d.update(object="nothing"), Reason.MALFORMED_TRANSCRIPT),
        (
            lambda d: d["choices"][0]["message"].update(
                tool_calls=[{"id": "a", "function": {"name": "b", "arguments": "{}"}}]
            ),
            Reason.CONTENT_NOT_OPENED,
        ),
        (lambda d: d["verispect"].update(receipt="AAAA"), Reason.CONTENT_MISMATCH),
    ],
)
def test_altered_answer_is_refused(
    hostile: Hostile,
    root: TrustedRoot,
    change: Callable[[dict[str, Any]], object],
    reason: Reason,
) -> None:
    """Text, reason, usage, model, choices and calls of an answer are those that were signed."""
    hostile.alter = on_answer(_edit(change))
    assert refused(hostile.url, root) is reason


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"{}", b"null", b"\xff" * 100])
@pytest.mark.parametrize("stream", [False, True])
def test_answer_that_is_none_is_malformed(
    hostile: Hostile, root: TrustedRoot, body: bytes, stream: bool
) -> None:
    """What cannot be read is refused as such."""
    hostile.alter = on_answer(lambda _body: body)
    assert refused(hostile.url, root, stream=stream) is Reason.MALFORMED_TRANSCRIPT


# -- Broken protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"verispect-inference", b"verispect-opening-key"])
@pytest.mark.parametrize("value", [b"", b"../../healthz", b"x" * 200, b"\xe9\xff", b"0" * 31])
def test_header_that_names_no_receipt_is_malformed(
    hostile: Hostile, root: TrustedRoot, name: bytes, value: bytes
) -> None:
    """What stands in a header is checked before it is put into a request."""

    def alter(passing: Passing) -> None:
        if is_answer(passing):
            passing.set(name, value)

    hostile.alter = alter
    reason = refused(hostile.url, root)
    valid = name == b"verispect-opening-key" and value == b"0" * 31
    assert reason is (Reason.INVALID_REQUEST if valid else Reason.MALFORMED_TRANSCRIPT)


@pytest.mark.parametrize("what", ["receipt", "openings"])
@pytest.mark.parametrize("status", [302, 403, 404, 410, 500, 503])
def test_receipt_or_openings_held_back_is_no_verdict(
    hostile: Hostile, root: TrustedRoot, what: str, status: int
) -> None:
    """An answer whose receipt is kept from the caller is not verified."""

    def alter(passing: Passing) -> None:
        is_openings = passing.path.endswith("/openings")
        if passing.path.startswith("/v1/receipts/") and is_openings == (what == "openings"):
            passing.status = status
            passing.set(b"location", b"http://127.0.0.1:1/")

    hostile.alter = alter
    client_error = 400 <= status < 500
    expected = Reason.INVALID_REQUEST if client_error else Reason.NETWORK_FAILED
    assert refused(hostile.url, root) is expected


def test_redirect_is_not_followed(hostile: Hostile, root: TrustedRoot) -> None:
    """Neither nonce nor prompt go where the gateway points."""

    def alter(passing: Passing) -> None:
        passing.status = 307
        passing.set(b"location", b"http://127.0.0.1:1/elsewhere")

    hostile.alter = alter
    hostile.seen.clear()
    assert refused(hostile.url, root) is Reason.NETWORK_FAILED
    assert list(hostile.seen) == ["/v1/chat/completions"]


def test_broken_connection_is_no_verdict(hostile: Hostile, root: TrustedRoot) -> None:
    """A body shorter than announced is told as a failure of the network."""

    def alter(passing: Passing) -> None:
        if is_answer(passing):
            assert isinstance(passing.body, bytes)
            passing.set(b"content-length", str(len(passing.body) + 100).encode())

    hostile.alter = alter
    assert refused(hostile.url, root) is Reason.NETWORK_FAILED


@pytest.mark.parametrize("where", ["answer", "receipt", "error"])
def test_endless_body_is_cut_off(
    hostile: Hostile, root: TrustedRoot, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Reading stops at a limit, for an error's body too."""
    monkeypatch.setattr(session, "MAX_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(session, "_MAX_RECEIPT_BYTES", 1 << 20)

    async def endless() -> AsyncIterator[bytes]:
        # Far beyond the limit, yet not for ever: this server does not learn that nobody reads.
        for _ in range(300):
            yield b"data: x" * 10_000

    def alter(passing: Passing) -> None:
        if is_answer(passing) == (where != "receipt"):
            passing.body = endless()
            passing.status = 500 if where == "error" else 200

    hostile.alter = alter
    expected = Reason.NETWORK_FAILED if where == "error" else Reason.TOO_LARGE
    assert refused(hostile.url, root) is expected


def test_compressed_body_is_not_unpacked(hostile: Hostile, root: TrustedRoot) -> None:
    """Nothing compressed is asked for, so a small body cannot become a large one."""

    def alter(passing: Passing) -> None:
        if is_answer(passing):
            passing.set(b"content-encoding", b"gzip")
            passing.body = bytes.fromhex("1f8b08000000000000034b04000000")

    hostile.alter = alter
    assert refused(hostile.url, root) is Reason.MALFORMED_TRANSCRIPT


def test_huge_headers_are_refused(hostile: Hostile, root: TrustedRoot) -> None:
    """A head without an end is a failure of the network."""
    hostile.alter = lambda passing: passing.set(b"x-filler", b"y" * 400_000)
    assert refused(hostile.url, root) is Reason.NETWORK_FAILED


def test_error_text_cannot_write_on_the_terminal(
    hostile: Hostile, capsys: pytest.CaptureFixture[str], tmp_path: Path, root: TrustedRoot
) -> None:
    """A gateway's error is shown without line ends and control characters, and bounded."""
    message = "no\nOK: verified under policy signed\x1b[2J" + "x" * 10_000

    def alter(passing: Passing) -> None:
        passing.status = 400
        passing.body = json.dumps({"error": {"message": message}}).encode()

    hostile.alter = alter
    path = tmp_path / "root.json"
    path.write_bytes(root.to_json())
    code = main(["ask", "x", "--model=echo", "--url", hostile.url, "--trusted-root", str(path)])
    assert code == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert len(told) < 1000
    assert not any(line.startswith("OK") for line in told.splitlines())


def _forge_letter(passing: Passing) -> None:
    if is_answer(passing):
        assert isinstance(passing.body, bytes)
        passing.body = passing.body.replace(b"wombat", b"wombaT")


def _no_receipt(passing: Passing) -> None:
    if not is_answer(passing):
        passing.status = 404


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("alter", "code"), [(_forge_letter, 1), (_no_receipt, 2)])
def test_ask_never_says_ok_to_a_lie(
    hostile: Hostile,
    root: TrustedRoot,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    alter: Callable[[Passing], None],
    code: int,
    stream: bool,
) -> None:
    """On the command line a lie is FAIL or an error, with its exit code."""
    hostile.alter = alter
    path = tmp_path / "root.json"
    path.write_bytes(root.to_json())
    arguments = ["ask", "quokka wombat", "--model=echo", f"--url={hostile.url}"]
    arguments += [f"--trusted-root={path}", *(["--stream"] if stream else [])]
    assert main(arguments) == code
    told = capsys.readouterr().err
    assert "OK" not in told
    assert told.startswith(("FAIL: refused: ", "verispect: error: "))
