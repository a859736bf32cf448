"""Errors as OpenAI clients read them: `{"error": {"message", "type", "param", "code"}}`.

`code` is our stable reason code, except where OpenAI has a code of its own that clients test for.
A message from our own error tree is shown, because that tree never holds prompts, outputs or
secrets; what failed inside this server, or by accident, is shown only as a number under which the
log has the details. This module refuses to put anything else of an exception into an answer.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from verispect.core.errors import (
    EngineError,
    Error,
    MalformedError,
    ModelError,
    NetworkError,
    Reason,
    RequestError,
    StoreError,
    UnsupportedError,
)
from verispect.gateway.http import HttpResponse

_logger = logging.getLogger(__name__)

_OPENAI_CODES: Final[Mapping[Reason, str]] = {Reason.MODEL_NOT_FOUND: "model_not_found"}

_STATUS_OF_REASON: Final[Mapping[Reason, int]] = {
    Reason.MODEL_NOT_FOUND: 404,
    Reason.RECEIPT_NOT_FOUND: 404,
    Reason.OPENING_FORBIDDEN: 403,
    Reason.CONFIDENTIAL_KEY_UNKNOWN: 422,
    Reason.CONFIDENTIAL_REPLAYED: 409,
    Reason.TRANSACTION_NOT_FOUND: 404,
    Reason.TRANSACTION_FORBIDDEN: 403,
    Reason.TRANSACTION_CLOSED: 409,
    Reason.TRANSACTION_BUSY: 409,
    Reason.NONCE_REUSED: 409,
    Reason.PAYMENT_REQUIRED: 402,
    Reason.PAYMENT_PENDING: 503,
    Reason.PAYMENT_CONFLICT: 409,
    Reason.PAYMENT_INVALID: 402,
    Reason.PAYMENT_OVERDUE: 402,
    Reason.PAYMENT_STALE: 402,
    Reason.PAYMENT_BUSY: 402,
    Reason.MODEL_CHANGED: 503,
    Reason.ENGINE_FAILED: 500,
    Reason.PROOF_FAILED: 500,
    Reason.ENGINE_UNAVAILABLE: 503,
    Reason.ENGINE_OVERLOADED: 503,
    Reason.SERVER_OVERLOADED: 503,
    Reason.ATTESTER_UNAVAILABLE: 503,
    Reason.UPSTREAM_FAILED: 502,
    Reason.NETWORK_FAILED: 502,
    Reason.STORE_FAILED: 503,
    Reason.STORE_LOCKED: 503,
}

_RETRY_AFTER: Final = {
    Reason.ENGINE_OVERLOADED,
    Reason.SERVER_OVERLOADED,
    Reason.PAYMENT_BUSY,
    Reason.PAYMENT_PENDING,
}


class HttpError(RequestError):
    """A request refused by the HTTP front itself.

    Args:
        message: lower case, no full stop, free of secrets, prompts and outputs.
        status: HTTP status.
        reason: the stable code.
        parameter: the request field at fault, where one is.
        headers: response headers to send with it.
        close: whether the connection must not be used again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: Reason = Reason.INVALID_REQUEST,
        parameter: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, parameter=parameter)
        self.status = status
        self.headers = list(headers)
        self.close = close


def status_of(error: Error) -> int:
    """Return the HTTP status for one of our errors."""
    if isinstance(error, HttpError):
        return error.status
    status = _STATUS_OF_REASON.get(error.reason)
    if status is not None:
        return status
    if isinstance(error, (RequestError, MalformedError, UnsupportedError)):
        return 400
    return 503 if isinstance(error, (EngineError, ModelError, NetworkError)) else 500


def type_of(status: int) -> str:
    """Return OpenAI's error type for an HTTP status."""
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_member(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the `error` object for any exception.

    An exception that is not ours, or that speaks of this server's own storage or keys, is logged
    without its message and answered with a number that finds it in the log.
    """
    if isinstance(error, Error):
        status = status_of(error)
        code = _OPENAI_CODES.get(error.reason, error.reason.value)
        if status != 500 and not isinstance(error, StoreError):
            parameter = error.parameter if isinstance(error, RequestError) else None
            return status, _member(error.message, status, code, parameter)
        if isinstance(error, EngineError):
            return status, _member(error.message, status, code, None)
    else:
        status, code = 500, Reason.INTERNAL_ERROR.value
    number = _log_hidden(error)
    message = f"the server failed, see error {number} in its log"
    return status, _member(message, status, code, None)


def _member(message: str, status: int, code: str, parameter: str | None) -> dict[str, Any]:
    return {"message": message, "type": type_of(status), "param": parameter, "code": code}


def _log_hidden(error: BaseException) -> str:
    """Log where `error` arose, without its message, which may quote a request."""
    number = secrets.token_hex(8)
    frames = "".join(traceback.format_tb(error.__traceback__))
    kind = type(error).__name__
    reason = f" ({error.reason.value})" if isinstance(error, Error) else ""
    if isinstance(error, StoreError):
        # Ours, and about files and locks: the operator needs the words.
        reason = f": {error}"
    _logger.error("error %s: %s%s\n%s", number, kind, reason, frames)
    return number


def error_response(error: BaseException, *, retry_after_seconds: int = 1) -> HttpResponse:
    """Return the whole HTTP answer for any exception."""
    status, member = error_member(error)
    headers: list[tuple[str, str]] = []
    if isinstance(error, HttpError):
        headers += error.headers
        if error.close:
            headers.append(("connection", "close"))
    if isinstance(error, Error) and error.reason in _RETRY_AFTER:
        headers.append(("retry-after", str(retry_after_seconds)))
    return HttpResponse(status=status, body=msgspec.json.encode({"error": member}), headers=headers)
