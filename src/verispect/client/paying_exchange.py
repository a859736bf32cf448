"""Asks a gateway for money: the price, a payment, and the same payment until its answer came.

A payment that was sent may have been taken, whatever the gateway says next. So silence, a broken
answer, 202 and every 5xx mean that the same payment is presented again, for as long as the payer
has patience, and afterwards when the same request is asked once more. This module never signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import httpx

from verispect.appraisal.transcript import MAX_ANSWER_BYTES
from verispect.client.paying import Payer, Purchase
from verispect.client.reading import read_pieces, refuse
from verispect.core.errors import NetworkError, Reason, RequestError

REQUIRED_HEADER: Final = "payment-required"
SIGNATURE_HEADER: Final = "payment-signature"
RESPONSE_HEADER: Final = "payment-response"

_WHOLE: Final = httpx.codes.OK

Stream = Callable[[str, str, bytes, Mapping[str, str]], AbstractContextManager[httpx.Response]]


@dataclass(slots=True)
class ShownOnce:
    """Shows text once, although the answer may come several times."""

    show: Callable[[str], None]
    shown: int = 0
    seen: int = 0

    def again(self) -> None:
        """Note that the answer begins anew."""
        self.seen = 0

    def __call__(self, text: str) -> None:
        """Show what was not shown before."""
        new = text[max(self.shown - self.seen, 0) :]
        self.seen += len(text)
        if new:
            self.shown = self.seen
            self.show(new)


def ask_paying(
    payer: Payer,
    stream: Stream,
    url: httpx.URL,
    body: bytes,
    headers: Mapping[str, str],
    on_text: Callable[[str], None],
) -> tuple[Purchase, httpx.Headers, bytes]:
    """Send a request and pay for it; return the purchase, and head and body of the answer.

    Args:
        payer: who pays.
        stream: sends a request.
        url: of the resource.
        body: of the request.
        headers: ours.
        on_text: told each piece of text as it arrives, unverified.

    Raises:
        NetworkError: `network-failed`: the answer did not come; ask the same again.
        RequestError: the gateway refused, or the payer does (`spend-limit`, `payment-unproven`).
        VerificationError: `offer-invalid`.
    """
    purchase = payer.begin(origin_of(url), url.path, body, headers)
    shown = ShownOnce(on_text)
    try:
        if purchase.signature is None:
            free = _ask_price(purchase, stream, url, body, shown)
            if free is not None:
                return purchase, *free
        head, received = _present(purchase, stream, url, body, shown)
    except BaseException:
        purchase.end()
        raise
    return purchase, head, received


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port of an address."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _ask_price(
    purchase: Purchase, stream: Stream, url: httpx.URL, body: bytes, shown: ShownOnce
) -> tuple[httpx.Headers, bytes] | None:
    """Sign what a 402 asks for; return the answer of a gateway that asks for nothing."""
    with stream("POST", url.path, body, _plain(purchase)) as answer:
        if answer.status_code == _WHOLE:
            return answer.headers, _read(answer, shown)
        required = answer.headers.get(REQUIRED_HEADER)
        if answer.status_code != httpx.codes.PAYMENT_REQUIRED or required is None:
            refuse(answer.status_code, answer.iter_raw())
    purchase.sign(required)
    return None


def _present(
    purchase: Purchase, stream: Stream, url: httpx.URL, body: bytes, shown: ShownOnce
) -> tuple[httpx.Headers, bytes]:
    """Present the payment until its answer came, or patience ends."""
    assert purchase.signature is not None
    headers = {**_plain(purchase), SIGNATURE_HEADER: purchase.signature}
    pauses = iter(purchase.payer.patience)
    while True:
        shown.again()
        try:
            with stream("POST", url.path, body, headers) as answer:
                if answer.status_code == _WHOLE:
                    return answer.headers, _read(answer, shown)
                _refuse(answer)
        except NetworkError as error:
            if error.reason is Reason.TOO_LARGE:
                raise
            pause = next(pauses, -1.0)
            if pause < 0:
                raise NetworkError(
                    f"{error.message}; the payment may have been taken: ask the same again",
                    reason=Reason.NETWORK_FAILED,
                ) from error
        time.sleep(pause)


def _refuse(answer: httpx.Response) -> None:
    """Say why there is no answer, as `NetworkError` where the same payment may still get one."""
    status = answer.status_code
    try:
        refuse(status, answer.iter_raw())
    except RequestError as error:
        if status == httpx.codes.PAYMENT_REQUIRED:
            raise RequestError(error.message, reason=Reason.PAYMENT_REQUIRED) from error
        raise


def _read(answer: httpx.Response, shown: ShownOnce) -> bytes:
    kind = answer.headers.get("content-type", "")
    return read_pieces(answer.iter_raw(), kind, MAX_ANSWER_BYTES, shown)


def _plain(purchase: Purchase) -> dict[str, str]:
    return {**purchase.headers, "content-type": "application/json"}
