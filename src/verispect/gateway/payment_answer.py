"""An answer that was paid for, as it is kept: whoever presents the payment again gets it again.

It is written before the answer leaves, together with what is needed to decide later, or after a
crash, whether the assurance that was paid for came. Of a request that came encrypted the body is
not kept: it is for its caller alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from verispect.core.encoding import decode, encode
from verispect.core.errors import Reason, StoreError
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpResponse
from verispect.payments.till import ReceiptNotice

RESPONSE_HEADER: Final = "payment-response"
"""x402's: what became of a payment."""

_VERSION: Final = 1
_FIELDS: Final = 11


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One answer with what it was made under."""

    status: int
    content_type: str
    headers: Sequence[tuple[str, str]]
    body: bytes | None
    """`None` where it was for the caller's eyes alone, or its retention has ended."""
    inference_id: bytes
    receipt_id: str
    receipt_url: str
    usage: Mapping[str, int]
    policy: str
    """The required assurance, as TOML."""
    in_transaction: bool
    """Whether its assurance is met with that of a whole transaction, and not before."""

    def encode(self) -> bytes:
        """Return the bytes to keep."""
        return encode(
            [
                _VERSION,
                self.status,
                self.content_type,
                [list(header) for header in self.headers],
                self.body,
                self.inference_id,
                self.receipt_id,
                self.receipt_url,
                dict(self.usage),
                self.policy,
                self.in_transaction,
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> StoredAnswer:
        """Reverse `encode`.

        Raises:
            StoreError: `unsupported-version` where another version wrote it.
            MalformedError: `malformed-cbor` where it is damaged.
        """
        row: Any = decode(data, limit=len(data))
        if type(row) is not list or len(row) != _FIELDS or row[0] != _VERSION:
            raise StoreError(
                "an answer was kept in another form", reason=Reason.UNSUPPORTED_VERSION
            )
        headers = [(name, value) for name, value in row[3]]
        return cls(row[1], row[2], headers, *row[4:])

    def without_content(self) -> StoredAnswer:
        """Return what is kept of it once its content is not."""
        return replace(self, headers=(), body=None)

    def notice(self, charge: int) -> ReceiptNotice:
        """Return what the response says of the receipt."""
        return ReceiptNotice(self.receipt_id, self.receipt_url, dict(self.usage), charge)

    def response(self, payment_response: str) -> HttpResponse:
        """Return the answer, with what became of its payment.

        Raises:
            HttpError: 409 `payment-conflict` where the answer was not kept.
        """
        if self.body is None:
            raise HttpError(
                "the answer is not kept any more, or was encrypted for its caller",
                status=409,
                reason=Reason.PAYMENT_CONFLICT,
                headers=[(RESPONSE_HEADER, payment_response)],
            )
        headers = [
            *self.headers,
            ("cache-control", "private, no-store"),
            (RESPONSE_HEADER, payment_response),
        ]
        return HttpResponse(self.status, self.body, self.content_type, headers)
