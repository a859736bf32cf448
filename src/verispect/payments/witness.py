"""A node of ours beside somebody else's facilitator: what it says is checked, what it does is seen.

Nothing here can send a transaction or hold money.
"""

from __future__ import annotations

import secrets
from typing import Any

from verispect.core.errors import Reason, TrustError
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.chain.facilitator_client import FacilitatorClient
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.x402_adapter_facilitator import OwnFacilitator, X402Facilitator


class WitnessedFacilitator:
    """A facilitator that settles, and is not believed when it says that a payment is good.

    Payments are verified by a node of ours, so that nothing is served on a stranger's word.

    Args:
        client: of the facilitator.
        chain: of our node.
        address: the facilitator's, which metered transfers name.
    """

    def __init__(self, client: FacilitatorClient, chain: Chain, address: str | None) -> None:
        self._client = client
        self._own = OwnFacilitator(X402Facilitator(ObservingSigner(chain, address)))

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> None:
        """Verify a payment by our node.

        Raises:
            RefusedPaymentError: `payment-invalid`.
        """
        self._own.verify(payload, requirements)

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> str:
        """Ask the facilitator to settle.

        Raises:
            VerificationError, NetworkError: as `FacilitatorClient.settle`.
        """
        return self._client.settle(payload, requirements)


class ObservingSigner(ChainSigner):
    """Asks a chain as a facilitator would, and can send nothing: it has another's address only.

    Args:
        chain: of our node.
        address: the facilitator's.
    """

    def __init__(self, chain: Chain, address: str | None) -> None:
        super().__init__(chain, ChainAccount(secrets.token_bytes(32)))
        self._observed = address or super().address

    @property
    def address(self) -> str:
        """The facilitator's address."""
        return self._observed

    def get_addresses(self) -> list[str]:
        """Return the one address."""
        return [self._observed]

    def send_transaction(self, to: str, data: bytes) -> str:  # noqa: ARG002
        """Refuse.

        Raises:
            TrustError: `chain-unexpected`.
        """
        raise TrustError("nothing is sent from here", reason=Reason.CHAIN_UNEXPECTED)
