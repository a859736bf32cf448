"""Who is paid, with what and in which ways: the entries of `accepts`, and which one was meant.

Entries are in our order of preference: channels, then a metered transfer, then a fixed one. What
is streamed, or whose assurance comes later, is sold through channels alone, because nothing else
can be taken before the answer has left. The module refuses to read payments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.payments.authorisation import Scheme
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.till import SETTLEMENT_SECONDS, Demand
from verispect.payments.wire import PaymentHeader

WITHDRAW_SECONDS: Final = 86_400
"""How long a payer that leaves waits for its deposit; until then its vouchers are good."""

DEPOSIT_CEILINGS: Final = 10
"""How many of the dearest requests a deposit is suggested for."""

EIP3009: Final = "eip3009"
PERMIT2: Final = "permit2"


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as whoever signs for it has to know it (EIP-712)."""

    address: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Merchant:
    """Who is paid."""

    network: str
    """CAIP-2 name of the chain."""
    token: Token
    pay_to: str
    schemes: Sequence[Scheme]
    """The ways that can be paid, of which `accepts` keeps its own order."""
    facilitator: str | None = None
    """Who alone may bring metered transfers."""
    authoriser: str | None = None
    """Whose signature a claim of a channel needs."""
    withdraw_seconds: int = WITHDRAW_SECONDS
    min_deposit: int = 0
    """Smallest deposit that is brought to the chain, because that costs the server gas."""

    @property
    def chain_id(self) -> int:
        """The number of the chain."""
        return int(self.network.partition(":")[2])

    def accepts(self, demand: Demand) -> list[dict[str, Any]]:
        """Return every way in which a demand can be paid, best first."""
        ways = [(Scheme.BATCH_SETTLEMENT, EIP3009)]
        if not demand.streamed:
            ways += [(Scheme.UPTO, PERMIT2), (Scheme.EXACT, EIP3009), (Scheme.EXACT, PERMIT2)]
        return [self._way(*way, demand) for way in ways if way[0] in self.schemes]

    def meant(self, header: PaymentHeader, demand: Demand, method: str = EIP3009) -> dict[str, Any]:
        """Return the entry of `accepts` that a payment says it accepted.

        Args:
            header: the payment.
            demand: what is to be paid.
            method: in which the payment moves the token.

        Raises:
            RefusedPaymentError: `payment-invalid` where there is none, as after a change of prices.
        """
        if header.network != self.network:
            raise RefusedPaymentError("the payment is for another chain", "network_mismatch")
        if header.asset != self.token.address.lower():
            raise RefusedPaymentError("the payment is in another token", "unsupported_scheme")
        if header.pay_to != self.pay_to.lower():
            raise RefusedPaymentError(
                "the payment is to somebody else", "invalid_exact_evm_payload_recipient_mismatch"
            )
        if header.amount != demand.quote.ceiling:
            raise RefusedPaymentError(
                f"expected a payment of {demand.quote.ceiling}, got {header.amount}",
                "invalid_exact_evm_payload_authorization_value_mismatch",
            )
        for entry in self.accepts(demand) if header.method in {None, method} else []:
            if (entry["scheme"], entry["extra"]["assetTransferMethod"]) == (header.scheme, method):
                return entry
        raise RefusedPaymentError(
            "the payment is of a scheme that is not offered", "unsupported_scheme"
        )

    def channel_way(self, amount: int, seconds: int) -> dict[str, Any]:
        """Return the entry for channels.

        Args:
            amount: the ceiling of a request.
            seconds: for which a deposit's authorisation is to last.
        """
        return self._entry(
            Scheme.BATCH_SETTLEMENT,
            amount,
            seconds,
            assetTransferMethod=EIP3009,
            receiverAuthorizer=self.authoriser,
            withdrawDelay=self.withdraw_seconds,
            minDeposit=str(max(self.min_deposit, DEPOSIT_CEILINGS * amount)),
        )

    def _way(self, scheme: Scheme, method: str, demand: Demand) -> dict[str, Any]:
        amount = demand.quote.ceiling
        seconds = demand.lasting_seconds + SETTLEMENT_SECONDS
        if scheme is Scheme.BATCH_SETTLEMENT:
            return self.channel_way(amount, seconds)
        extra = {"assetTransferMethod": method}
        if scheme is Scheme.UPTO and self.facilitator is not None:
            extra["facilitatorAddress"] = self.facilitator
        return self._entry(scheme, amount, seconds, **extra)

    def _entry(self, scheme: Scheme, amount: int, seconds: int, **extra: Any) -> dict[str, Any]:
        return {
            "scheme": scheme.value,
            "network": self.network,
            "amount": str(amount),
            "asset": self.token.address,
            "payTo": self.pay_to,
            "maxTimeoutSeconds": seconds,
            "extra": {"name": self.token.name, "version": self.token.version, **extra},
        }
