"""Reads the head and the body of a request, within limits of size, number and time.

What exceeds a limit is refused with its name; nothing is cut to size, and a header or a query
field that is given twice is refused. This module refuses to look into bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from verispect.core.confidential import REQUEST_TYPE
from verispect.core.errors import Reason
from verispect.gateway.errors import HttpError
from verispect.gateway.http import Receive, WholeMessages
from verispect.gateway.limits import Limits
from verispect.gateway.routes import Route

_NO_QUERY: Final[dict[str, str]] = {}


class LeftWhileReadError(Exception):
    """The caller left while its request was read: nobody to answer."""


def read_headers(pairs: Sequence[tuple[bytes, bytes]], limits: Limits) -> dict[str, str]:
    """Return the headers by name.

    Raises:
        HttpError: 431 `too-large`, or 400 for one that is given twice.
    """
    if len(pairs) > limits.maximum_headers:
        raise HttpError(
            f"expected at most {limits.maximum_headers} headers",
            status=431,
            reason=Reason.TOO_LARGE,
            close=True,
        )
    headers: dict[str, str] = {}
    size = 0
    for name, value in pairs:
        size += len(name) + len(value)
        headers[name.decode("latin-1")] = value.decode("latin-1")
    if size > limits.maximum_header_bytes:
        raise HttpError(
            f"expected at most {limits.maximum_header_bytes} bytes of headers",
            status=431,
            reason=Reason.TOO_LARGE,
            close=True,
        )
    if len(headers) != len(pairs):
        raise HttpError("a header is given twice", status=400, close=True)
    return headers


def read_query(query: bytes, limits: Limits) -> dict[str, str]:
    """Return the fields of a query string.

    Raises:
        HttpError: 400 where it is not one, or a field is given twice.
    """
    if not query:
        return _NO_QUERY
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=limits.maximum_query_fields,
        )
    except ValueError as error:
        raise HttpError("the query string is not valid", status=400) from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HttpError("a query field is given twice", status=400)
    return fields


def has_body(headers: Mapping[str, str]) -> bool:
    """Tell whether a body follows the head."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def is_confidential(method: str, headers: Mapping[str, str], route: Route) -> bool:
    """Tell whether a request says that it is encrypted, on a route that takes such."""
    named = headers.get("content-type") == REQUEST_TYPE
    return named and method == "POST" and route.takes_confidential


def check_content_headers(
    method: str, headers: Mapping[str, str], route: Route, *, encrypted: bool = False
) -> None:
    """Check that the body is of the media type that the route takes, or an encrypted request.

    Raises:
        HttpError: 415 `media-type-unsupported`.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise HttpError(
            "an encoded body is not accepted",
            status=415,
            reason=Reason.MEDIA_TYPE_UNSUPPORTED,
            close=has_body(headers),
        )
    if method != "POST" or not route.takes_json or encrypted:
        return
    media, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower()
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise HttpError(
            "expected content type application/json in UTF-8",
            status=415,
            reason=Reason.MEDIA_TYPE_UNSUPPORTED,
            close=has_body(headers),
        )


async def read_body(
    receive: Receive,
    headers: Mapping[str, str],
    maximum: int,
    seconds: float,
    whole: WholeMessages | None = None,
) -> bytes:
    """Return the whole body.

    Args:
        receive: as ASGI has it.
        headers: names in lower case.
        maximum: bytes that are accepted.
        seconds: how long the body may take to arrive.
        whole: where the server can give a body that has arrived at once.

    Raises:
        HttpError: 400, 408 `request-timeout` or 413 `too-large`.
        LeftWhileReadError: the caller left.
    """
    declared = headers.get("content-length")
    if declared is not None and (not declared.isascii() or not declared.isdigit()):
        raise HttpError("the content length is not a number", status=400, close=True)
    if declared is not None and (len(declared) > 18 or int(declared) > maximum):
        raise _too_large(maximum)
    if whole is not None and (body := whole.take_body()) is not None:
        if len(body) > maximum:
            raise _too_large(maximum)
        return body
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise LeftWhileReadError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > maximum:
                    raise _too_large(maximum)
                chunks.append(chunk)
                if not message.get("more_body"):
                    break
    except TimeoutError as error:
        raise HttpError(
            f"the body did not arrive within {seconds:g} seconds",
            status=408,
            reason=Reason.REQUEST_TIMEOUT,
            close=True,
        ) from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(maximum: int) -> HttpError:
    return HttpError(
        f"expected a body of at most {maximum} bytes",
        status=413,
        reason=Reason.TOO_LARGE,
        close=True,
    )
