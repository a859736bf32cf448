"""Refusals of a payment that carry what x402 says of them: its error code, and a channel's state.

They are errors of our tree; the code is what a client of x402 acts on, such as by signing a voucher
that continues from what was charged.
"""

from __future__ import annotations

from typing import Any, Final

from verispect.core.errors import Error, Reason, VerificationError

MISMATCH: Final = "invalid_batch_settlement_evm_cumulative_amount_mismatch"
BUSY: Final = "invalid_batch_settlement_evm_channel_busy"

_CODES: Final = {
    Reason.PAYMENT_BUSY: BUSY,
    Reason.PAYMENT_STALE: MISMATCH,
    Reason.PAYMENT_OVERDUE: "invalid_exact_evm_payload_authorization_valid_before",
    Reason.PAYMENT_CONFLICT: "payment_conflict",
    Reason.MALFORMED_PAYMENT: "invalid_payload",
    Reason.TOO_LARGE: "invalid_payload",
}


class RefusedPaymentError(VerificationError):
    """A payment is not what was demanded.

    Args:
        message: as of every error.
        code: x402's error code.
    """

    def __init__(
        self,
        message: str,
        code: str = "invalid_payload",
        *,
        reason: Reason = Reason.PAYMENT_INVALID,
    ) -> None:
        super().__init__(message, reason=reason)
        self.code = code


class StaleVoucherError(RefusedPaymentError):
    """A voucher does not continue from what its channel was charged.

    Args:
        state: `channelState` and, where a voucher of the channel is known, `voucherState`.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__(
            "the voucher does not continue from what was charged",
            MISMATCH,
            reason=Reason.PAYMENT_STALE,
        )
        self.state = state


def code_of(error: Error) -> str:
    """Return x402's code for a refusal."""
    if isinstance(error, RefusedPaymentError):
        return error.code
    return _CODES.get(error.reason, "unexpected_verify_error")
