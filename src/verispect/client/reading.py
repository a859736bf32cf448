"""Reads what a gateway answers, within limits: a body shown as it arrives, or a refusal.

Shown text is unverified, and a gateway's words are cut and cleared of what a terminal would obey.
This module refuses to decide whether an answer is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import httpx

from verispect.appraisal.event_stream import EventReader
from verispect.appraisal.transcript import read_answer
from verispect.core.commitments import Part
from verispect.core.errors import NetworkError, Reason, RequestError

_MAX_ERROR_CHARACTERS: Final = 300
_MAX_ERROR_BYTES: Final = 64 * 1024
_TRY_LATER: Final = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


def read_pieces(
    arriving: Iterable[bytes],
    content_type: str,
    limit: int,
    on_text: Callable[[str], None] | None,
) -> bytes:
    """Return a whole body, showing text as it arrives.

    Args:
        arriving: the body.
        content_type: whether it is a stream of events.
        limit: most bytes that are taken.
        on_text: told each piece of text; nothing is shown where it is `None`.

    Raises:
        NetworkError: `too-large`.
    """
    pieces: list[bytes] = []
    size = 0
    is_stream = content_type.startswith("text/event-stream")
    reader = EventReader()
    for piece in arriving:
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


def refuse(status: int, pieces: Iterable[bytes]) -> NoReturn:
    """Pass on the refusal of a gateway.

    Args:
        status: its HTTP status.
        pieces: the body that explains it; only its beginning is read.

    Raises:
        RequestError: the request is at fault.
        NetworkError: `network-failed` where the gateway is, or where it may be tried later.
    """
    body = b""
    for piece in pieces:
        body += piece[:_MAX_ERROR_BYTES]
        if len(body) >= _MAX_ERROR_BYTES:
            break
    try:
        error = json.loads(body)["error"]
        # The Open Inference Protocol's errors are text; the other interfaces' are objects.
        message = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "no message"
    shown = "".join(c for c in message[:_MAX_ERROR_CHARACTERS] if c.isprintable())
    told = f"the gateway answered {status}: {shown}"
    if httpx.codes.is_client_error(status) and status not in _TRY_LATER:
        raise RequestError(told)
    raise NetworkError(told, reason=Reason.NETWORK_FAILED)


def _show(event: bytes, on_text: Callable[[str], None]) -> None:
    try:
        for choice in json.loads(event).get("choices", []):
            text = choice.get("delta", {}).get("content")
            if isinstance(text, str) and text:
                on_text(text)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return  # Shown as it comes; whether it is right is decided on the whole.
