"""A payment that somebody signed, as the store knows it: one key, one form, whatever was sent.

The same authorisation written in other capitals is the same one: keys are made of checked, lower
case text only, so that it cannot be presented twice as two. The module refuses to judge whether
an authorisation is genuine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verispect.appraisal.metering import FIXED_SCHEMES
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason
from verispect.payments.pricing import MAX_AMOUNT

MAX_AUTHORISATION_BYTES: Final = 16 * 1024

_DOMAIN: Final = "verispect-payment-v1"
_NETWORK: Final = re.compile(r"eip155:[1-9][0-9]{0,31}")
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_VOUCHER_MARK: Final = re.compile(r"([1-9][0-9]{0,18})-(?:0|[1-9][0-9]{0,18})")
_WORD: Final = re.compile(r"0x[0-9a-f]{64}")


class Scheme(StrEnum):
    """The x402 scheme by which money moves."""

    BATCH_SETTLEMENT = "batch-settlement"
    UPTO = "upto"
    EXACT = "exact"

    @property
    def is_fixed(self) -> bool:
        """Whether the signed amount moves whole or not at all."""
        return self.value in FIXED_SCHEMES


@dataclass(frozen=True, slots=True)
class AuthorisationKey:
    """What makes an authorisation the same one: it can be spent once.

    For a single transfer the holder is the payer and the mark its nonce. For a channel the holder
    is the channel and the mark the cumulative amount of the voucher with the turn of the channel: a
    request that costs less than its ceiling leaves room for a later one with the same cumulative
    amount, and that is another payment.
    """

    network: str
    asset: str
    holder: str
    mark: str

    @classmethod
    def of_transfer(cls, network: str, asset: str, payer: str, nonce: str) -> AuthorisationKey:
        """Return the key of a single transfer.

        Raises:
            MalformedError: `malformed-payment`.
        """
        return cls(
            _checked(_NETWORK, network),
            _checked(_ADDRESS, asset),
            _checked(_ADDRESS, payer),
            _checked(_WORD, nonce),
        )

    @classmethod
    def of_voucher(
        cls, network: str, asset: str, channel: str, cumulative: int, turn: int
    ) -> AuthorisationKey:
        """Return the key of one voucher of a channel.

        Args:
            network: CAIP-2 name of the chain.
            asset: address of the token.
            channel: its id.
            cumulative: the amount of the voucher.
            turn: how many payments the channel had before, as its server counts them.

        Raises:
            MalformedError: `malformed-payment`.
        """
        if not (0 < cumulative <= MAX_AMOUNT and 0 <= turn <= MAX_AMOUNT):
            raise MalformedError("the amount is out of range", reason=Reason.MALFORMED_PAYMENT)
        return cls(
            _checked(_NETWORK, network),
            _checked(_ADDRESS, asset),
            _checked(_WORD, channel),
            f"{cumulative}-{turn}",
        )

    @property
    def cumulative(self) -> int:
        """The amount of the voucher whose key this is.

        Raises:
            MalformedError: `malformed-payment` where it is no voucher's.
        """
        match = _VOUCHER_MARK.fullmatch(self.mark)
        if match is None:
            raise MalformedError("the payment is not a voucher's", reason=Reason.MALFORMED_PAYMENT)
        return int(match[1])

    def digest(self) -> Digest:
        """Return the payment's id, which the statement of the inference commits to."""
        return sha256(encode([_DOMAIN, self.network, self.asset, self.holder, self.mark]))


@dataclass(frozen=True, slots=True)
class Authorisation:
    """A signed payment, with all that is needed to take it after a crash."""

    key: AuthorisationKey
    scheme: Scheme
    amount: int
    """The most that it can move."""
    valid_before: int
    """Seconds since 1970; afterwards nothing can be taken."""
    wire: bytes
    """The payload as it came, for whoever settles it."""

    def __post_init__(self) -> None:
        if not 0 < self.amount <= MAX_AMOUNT or not 0 < self.valid_before <= MAX_AMOUNT:
            raise MalformedError(
                "an amount or a time of the payment is out of range",
                reason=Reason.MALFORMED_PAYMENT,
            )
        if len(self.wire) > MAX_AUTHORISATION_BYTES:
            raise MalformedError("the payment is too large", reason=Reason.TOO_LARGE)


def _checked(form: re.Pattern[str], text: str) -> str:
    lowered = text.lower()
    if not form.fullmatch(lowered):
        raise MalformedError(
            "a field of the payment is not of its form", reason=Reason.MALFORMED_PAYMENT
        )
    return lowered
