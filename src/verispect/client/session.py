"""Ask a gateway, and check what came back before believing it.

Every request carries a fresh nonce. What was sent and what was shown is compared with what was
committed to, the stream's chunks with the signed chain, and the receipt with the caller's own
trusted root and policy. An answer that does not verify is an exception, never a warning.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import httpx

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.event_stream import EventReader
from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.transcript import MAX_ANSWER_BYTES, Answer, read_answer
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.core.commitments import MAX_OPENINGS_BYTES, Opening, Part, decode_openings
from verispect.core.encoding import from_hex, to_base64url
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt

_NONCE_BYTES: Final = 16
_MAX_ERROR_CHARACTERS: Final = 300
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_RECEIPT_BYTES: Final = 64 * 1024 * 1024
_INFERENCE: Final = re.compile(r"[0-9a-f]{32}")
_OPENING_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRY_LATER: Final = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as bytes, with receipt and openings: not yet verified."""

    request: bytes
    response: bytes
    receipt: bytes
    openings: bytes
    nonce: bytes
    assurance: str
    """The word with which assurance was asked for."""

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

    Raises:
        RequestError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            self._http = httpx.Client(
                base_url=url, timeout=timeout_seconds, follow_redirects=False, transport=transport
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise RequestError("the gateway's address is not a URL", parameter="url") from error

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
        headers = {
            "content-type": "application/json",
            "verispect-assurance": assurance,
            "verispect-lane": lane,
            "verispect-nonce": to_base64url(nonce),
        }
        try:
            request = json.dumps(body, ensure_ascii=False).encode()
            head, received = self._send("POST", path, request, headers, MAX_ANSWER_BYTES, on_text)
        except (UnicodeEncodeError, httpx.InvalidURL) as error:
            raise RequestError("the request holds text that cannot be sent") from error
        inference = head.get("verispect-inference", "")
        opening_key = head.get("verispect-opening-key", "")
        if not _INFERENCE.fullmatch(inference) or not _OPENING_KEY.fullmatch(opening_key):
            raise MalformedError("the answer names no receipt", reason=Reason.MALFORMED_TRANSCRIPT)
        where = f"/v1/receipts/{inference}"
        _, receipt = self._send("GET", f"{where}?evidence=attached", b"", {}, _MAX_RECEIPT_BYTES)
        _, openings = self._send(
            "GET",
            f"{where}/openings",
            b"",
            {"verispect-opening-key": opening_key},
            MAX_OPENINGS_BYTES,
        )
        return Exchange(request, received, receipt, openings, nonce, assurance)

    def _send(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        limit: int,
        on_text: Callable[[str], None] | None = None,
    ) -> tuple[httpx.Headers, bytes]:
        # Nothing compressed: a few bytes could become more than there is memory.
        all_headers = {**headers, "accept-encoding": "identity"}
        try:
            with self._http.stream(method, path, content=content, headers=all_headers) as response:
                if response.status_code != httpx.codes.OK:
                    _refuse(response)
                return response.headers, _read(response, limit, on_text)
        except httpx.HTTPError as error:
            raise NetworkError(
                f"the gateway did not answer: {type(error).__name__}",
                reason=Reason.NETWORK_FAILED,
            ) from error


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
    if answer.receipt is not None and not _is_same(answer.receipt, receipt):
        raise VerificationError(
            "the receipt in the answer is not the one the gateway keeps",
            reason=Reason.CONTENT_MISMATCH,
        )
    required = PRESETS.get(exchange.assurance)
    if required is None:
        raise UnsupportedError(
            "the assurance asked for is unknown here", reason=Reason.ASSURANCE_UNKNOWN
        )
    expected = expect(
        read_request(exchange.request),
        answer,
        inference_id=from_hex(receipt.claimed_inference),
        nonce=exchange.nonce,
        assurance=required.digest(),
    )
    return Verifier(trusted_root).verify(
        receipt, opened=exchange.opened(), policy=policy, now=now, expected=expected
    )


def _is_same(data: bytes, receipt: InferenceReceipt) -> bool:
    """Tell whether `data` is the same signed statement, whatever evidence travels with either."""
    try:
        return InferenceReceipt.parse(data).receipt_id == receipt.receipt_id
    except (MalformedError, UnsupportedError):
        return False


def now_milliseconds() -> int:
    """Return this machine's time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _read(response: httpx.Response, limit: int, on_text: Callable[[str], None] | None) -> bytes:
    pieces: list[bytes] = []
    size = 0
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    reader = EventReader()
    for piece in response.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise NetworkError("the gateway sent too much", reason=Reason.TOO_LARGE)
        if on_text is not None and is_stream:
            for event in reader.feed(piece):
                _show(event, on_text)
    received = b"".join(pieces)
    if on_text is not None and not is_stream:
        for text in read_answer(received).parts.get(Part.OUTPUT, []):
            if isinstance(text, str):
                on_text(text)
    return received


def _show(event: bytes, on_text: Callable[[str], None]) -> None:
    try:
        for choice in json.loads(event).get("choices", []):
            text = choice.get("delta", {}).get("content")
            if isinstance(text, str) and text:
                on_text(text)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return  # Shown as it comes; whether it is right is decided on the whole.


def _refuse(response: httpx.Response) -> NoReturn:
    status = response.status_code
    body = b""
    for piece in response.iter_raw():
        body += piece[:_MAX_ERROR_BYTES]
        if len(body) >= _MAX_ERROR_BYTES:
            break
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "no message"
    shown = "".join(c for c in message[:_MAX_ERROR_CHARACTERS] if c.isprintable())
    told = f"the gateway answered {status}: {shown}"
    if httpx.codes.is_client_error(status) and status not in _TRY_LATER:
        raise RequestError(told)
    raise NetworkError(told, reason=Reason.NETWORK_FAILED)
