"""How a till's money moves: transfers one by one, vouchers many at once.

A voucher is money as soon as it is accepted, so that capturing its payment asks for nothing: what
it owes is written down, and `sweep` claims what all channels owe in as few transactions as can be.
Until then the payment is `pending`. Whether it is captured is what the chain said of its channel
when it was last asked, and a channel is asked after every claim.

The room refuses to believe that its own transactions did anything.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from verispect.core.errors import Error, MalformedError, StoreError, VerificationError
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.channel_state import ChannelState
from verispect.payments.chain.vouchers import Claim
from verispect.payments.channels import ChannelStore
from verispect.payments.settlement import Finding, Settlement, Standing
from verispect.payments.store import Payment


class BatchSettlement(Settlement, Protocol):
    """A settlement that can also claim channels."""

    def claim(self, owed: Sequence[tuple[Payment, int]]) -> int:
        """Claim many vouchers in as few transactions as can be; return how many payments."""
        ...

    def pay_out(self, receiver: str, token: str) -> str:
        """Have what was claimed sent to the payee; return the transaction's hash."""
        ...


class TillSettlement:
    """A `Settlement` in which vouchers wait for the next sweep.

    Args:
        inner: moves transfers, and claims.
        channels: what channels owe.
        look: asks the chain about a channel; none where no chain can be asked.
        unpaid: asks the chain what was claimed and not sent to the payee yet.
        now: seconds since 1970.
    """

    def __init__(
        self,
        inner: BatchSettlement,
        channels: ChannelStore,
        *,
        look: Callable[[bytes], ChannelState] | None,
        unpaid: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        self._inner = inner
        self._channels = channels
        self._look = look
        self._unpaid = unpaid
        self._now = now
        # Two sweeps at once would pay gas for the same claims.
        self._sweeping = threading.Lock()

    def settle(self, payment: Payment, amount: int) -> None:
        """Move a transfer; a voucher is only noted as owed.

        Raises:
            MalformedError, VerificationError, TrustError, NetworkError: as the inner one.
        """
        if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
            self._channels.claim(payment, amount)
        else:
            self._inner.settle(payment, amount)

    def look(self, payment: Payment, amount: int) -> Finding:
        """Return what the chain says; of a channel, what it said when it was last asked."""
        if payment.authorisation.scheme is not Scheme.BATCH_SETTLEMENT:
            return self._inner.look(payment, amount)
        try:
            claim = self._channels.claim(payment, amount)
            channel = self._channels.get(claim.terms.channel_id)
        except (VerificationError, MalformedError, StoreError):
            return Finding(Standing.UNKNOWN)
        if channel is None:
            return Finding(Standing.UNKNOWN)
        if channel.state.claimed >= claim.total:
            return Finding(Standing.PAID, channel.claimed_by)
        return Finding(Standing.UNUSED)

    def sweep(self, owed: Sequence[Payment], receiver: str, token: str) -> int:
        """Claim what channels owe, have it paid out, and ask the chain what became of it.

        Args:
            owed: payments whose assurance was met; those of other schemes are left alone.
            receiver: the payee's address.
            token: the token's address.

        Returns:
            How many payments the chain now says are paid.
        """
        with self._sweeping:
            return self._sweep(owed, receiver, token)

    def _sweep(self, owed: Sequence[Payment], receiver: str, token: str) -> int:
        waiting: list[tuple[Payment, int]] = []
        newest: dict[bytes, _Newest] = {}
        for payment in owed:
            if payment.authorisation.scheme is not Scheme.BATCH_SETTLEMENT or not payment.charge:
                continue
            # A payment that no voucher covers must not keep the others from being claimed.
            if self.look(payment, payment.charge).standing is not Standing.UNUSED:
                continue
            waiting.append((payment, payment.charge))
            claim = self._channels.claim(payment, payment.charge)
            known = newest.get(claim.terms.channel_id)
            if known is None or claim.total > known.claim.total:
                newest[claim.terms.channel_id] = _Newest(payment, payment.charge, claim)
        if self._look is None:
            return 0
        self._claim(list(newest.values()), receiver, token)
        for each in newest.values():
            self._ask(each)
        return sum(
            self.look(payment, charge).standing is Standing.PAID for payment, charge in waiting
        )

    def _claim(self, newest: Sequence[_Newest], receiver: str, token: str) -> None:
        """Claim what no block says is claimed; what waits to be confirmed costs no gas twice."""
        unclaimed = [
            (each.payment, each.charge)
            for each in newest
            if self._inner.look(each.payment, each.charge).standing is Standing.UNUSED
        ]
        # Whatever goes wrong, the chain is asked afterwards, and what is owed stays owed.
        with contextlib.suppress(Error):
            if unclaimed:
                self._inner.claim(unclaimed)
        with contextlib.suppress(Error):
            if self._unpaid() > 0:
                self._inner.pay_out(receiver, token)

    def _ask(self, each: _Newest) -> None:
        if self._look is None:
            return
        with contextlib.suppress(Error):
            at = self._now()
            state = self._look(each.claim.terms.channel_id)
            transaction = self._inner.look(each.payment, each.charge).transaction
            self._channels.sync(each.claim.terms, state, at=at, claimed_by=transaction)


@dataclass(frozen=True, slots=True)
class _Newest:
    """The payment with the highest total of a channel; its claim takes all before it."""

    payment: Payment
    charge: int
    claim: Claim
