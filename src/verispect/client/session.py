"""Ask a gateway, and check what came back before believing it.

Every request carries a fresh nonce. What was sent and what was shown is compared with what was
committed to, the stream's chunks with the signed chain, and the receipt with the caller's own
trusted root and policy. An answer that does not verify is an exception, never a warning.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.transcript import MAX_ANSWER_BYTES, Answer, read_answer, read_request
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.core.commitments import MAX_OPENINGS_BYTES, Opening, Part, decode_openings
from verispect.core.encoding import from_hex, to_base64url
from verispect.core.errors import NetworkError, Reason, RequestError
from verispect.core.receipt import InferenceReceipt

_NONCE_BYTES: Final = 16
_MAX_ERROR_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as bytes, with receipt and openings: not yet verified."""

    request: bytes
    response: bytes
    receipt: bytes
    openings: bytes
    nonce: bytes

    @property
    def answer(self) -> Answer:
        """The answer as the caller was shown it."""
        return read_answer(self.response)

    def opened(self) -> dict[Part, Opening]:
        """Return the openings."""
        return decode_openings(self.openings)


class GatewayClient:
    """Talks to one gateway.

    Args:
        url: for example `http://127.0.0.1:8402`.
        timeout_seconds: longest silence of the gateway.
        transport: for tests and special networks.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, timeout=timeout_seconds, follow_redirects=False, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool = False,
        assurance: str = "signed",
        lane: str = "throughput",
        options: Mapping[str, Any] | None = None,
        on_text: Callable[[str], None] = lambda _text: None,
    ) -> Exchange:
        """Ask a language model, and fetch receipt and openings. Nothing is verified here.

        Args:
            model: the name the gateway serves it under.
            messages: OpenAI-shaped.
            stream: show text as it is generated.
            assurance: what the gateway must deliver.
            lane: `throughput` or `deterministic`.
            options: further fields of the request.
            on_text: told each piece of text as it arrives, unverified.

        Raises:
            NetworkError: `network-failed`.
            RequestError: the gateway refused; its message is passed on.
            MalformedError: the answer is not of a shape known here.
        """
        body = {"model": model, "messages": list(messages), **(options or {})}
        if stream:
            body["stream"] = True
        return self.exchange("/v1/chat/completions", body, assurance, lane, on_text)

    def exchange(
        self,
        path: str,
        body: Mapping[str, Any],
        assurance: str,
        lane: str = "throughput",
        on_text: Callable[[str], None] = lambda _text: None,
    ) -> Exchange:
        """Send one request to `path`; see `chat`."""
        nonce = os.urandom(_NONCE_BYTES)
        request = json.dumps(body, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "verispect-assurance": assurance,
            "verispect-lane": lane,
            "verispect-nonce": to_base64url(nonce),
        }
        try:
            with self._http.stream("POST", path, content=request, headers=headers) as response:
                received = _read(response, on_text)
            inference = response.headers.get("verispect-inference", "")
            receipt = self._fetch(f"/v1/receipts/{inference}", {})
            opening_key = response.headers.get("verispect-opening-key", "")
            openings = self._fetch(
                f"/v1/receipts/{inference}/openings", {"verispect-opening-key": opening_key}
            )
        except httpx.HTTPError as error:
            raise NetworkError(
                f"the gateway did not answer: {type(error).__name__}",
                reason=Reason.NETWORK_FAILED,
            ) from error
        return Exchange(request, received, receipt, openings, nonce)

    def _fetch(self, path: str, headers: Mapping[str, str]) -> bytes:
        response = self._http.get(path, headers=dict(headers))
        _refuse_error(response)
        if len(response.content) > MAX_OPENINGS_BYTES:
            raise NetworkError("the gateway sent too much", reason=Reason.TOO_LARGE)
        return response.content


def verify_exchange(
    exchange: Exchange, *, trusted_root: TrustedRoot, policy: AssurancePolicy, now: int
) -> VerifiedReceipt:
    """Verify an exchange: the receipt, that it is of *this* request, and of *this* answer.

    Args:
        exchange: what was sent and received.
        trusted_root: what the caller trusts.
        policy: what the caller requires.
        now: the time at which to judge, milliseconds since the epoch.

    Raises:
        VerificationError: the answer is no.
        TrustError: could not tell, because of the trusted root.
        UnsupportedError: could not tell, because of something unknown.
        MalformedError: receipt, openings or answer are not the format.
    """
    receipt = InferenceReceipt.parse(exchange.receipt)
    answer = exchange.answer
    expected = Expected(
        nonce=exchange.nonce,
        parts={**_sent(exchange.request), **answer.parts},
        stream=answer.stream(from_hex(receipt.claimed_inference)),
    )
    return Verifier(trusted_root).verify(
        receipt, opened=exchange.opened(), policy=policy, now=now, expected=expected
    )


def now_milliseconds() -> int:
    """Return this machine's time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _sent(request: bytes) -> dict[Part, Any]:
    return read_request(request) if b'"messages"' in request else {}


def _read(response: httpx.Response, on_text: Callable[[str], None]) -> bytes:
    if response.status_code != httpx.codes.OK:
        response.read()
        _refuse_error(response)
    pieces: list[bytes] = []
    size = 0
    pending = b""
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    for piece in response.iter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise NetworkError("the gateway sent too much", reason=Reason.TOO_LARGE)
        if is_stream:
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                _show(line, on_text)
    received = b"".join(pieces)
    if not is_stream:
        for text in read_answer(received).parts.get(Part.OUTPUT, []):
            if isinstance(text, str):
                on_text(text)
    return received


def _show(line: bytes, on_text: Callable[[str], None]) -> None:
    if not line.startswith(b"data: {"):
        return
    try:
        for choice in json.loads(line[6:]).get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                on_text(text)
    except (ValueError, AttributeError):
        return  # Shown as it comes; whether it is right is decided on the whole.


def _refuse_error(response: httpx.Response) -> None:
    if response.status_code == httpx.codes.OK:
        return
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "no message"
    shown = "".join(c for c in message[:_MAX_ERROR_CHARACTERS] if c.isprintable())
    raise RequestError(f"the gateway answered {response.status_code}: {shown}")
