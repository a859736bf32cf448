"""What a till asks of a facilitator, ours or somebody else's: to look at a payment, and to settle.

Payloads and requirements are x402's, as plain dictionaries.
"""

from __future__ import annotations

from typing import Any, Protocol


class Facilitating(Protocol):
    """Methods block; threads may share it."""

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> None:
        """Have a payment looked at.

        Raises:
            VerificationError: `payment-invalid` where it is refused.
            NetworkError: where nobody could be asked.
        """
        ...

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> str:
        """Have a payment settled and return the transaction that is said to do it.

        Raises:
            VerificationError: `payment-invalid` where it was not settled.
            NetworkError: where it may or may not have been.
        """
        ...
