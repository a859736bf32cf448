"""Refunds of channels: what was deposited and is not owed goes back to its payer, when it asks.

A refund is asked for by a voucher that names exactly what was charged, so that only the payer can
ask, and only one that knows where its channel stands. What is owed is claimed in the same
transaction. A charge that was released, because its assurance never came, goes back too.

A channel that pays for a request, or whose last answers await their assurance, is refused as busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.errors import NetworkError, Reason, VerificationError
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.terms import VoucherTerms
from verispect.payments.chain.vouchers import Authoriser, Claim, claim_payload, sign_refund
from verispect.payments.channel_records import Channel, busy, channel_state, correction
from verispect.payments.channels import ChannelStore
from verispect.payments.facilitator import Facilitating
from verispect.payments.merchant import Merchant
from verispect.payments.refusals import RefusedPaymentError, StaleVoucherError
from verispect.payments.schemes.batch_settlement import Channels
from verispect.payments.store import PaymentStore, State
from verispect.payments.wire import X402_VERSION, PaymentHeader, write_header

REFUND_SECONDS: Final = 600

_PREFIX: Final = "invalid_batch_settlement_evm_"


@dataclass(frozen=True, slots=True)
class Refunds:
    """Gives back. Methods block; threads may share it."""

    merchant: Merchant
    channels: Channels
    store: ChannelStore
    payments: PaymentStore
    facilitator: Facilitating
    authoriser: Authoriser
    now: Callable[[], int]

    def refund(self, header: PaymentHeader) -> str:
        """Refund a channel; return the value of `PAYMENT-RESPONSE`.

        Raises:
            MalformedError, VerificationError, RequestError, NetworkError: as `Till.refund`.
        """
        terms = self.channels.checked_terms(header)
        with self.channels.door(terms.channel_id):
            self.channels.clear(terms.channel_id)
            self.channels.synced(terms)
            channel = self.store.get(terms.channel_id)
            if channel is None:
                raise RefusedPaymentError("no such channel", _PREFIX + "channel_not_found")
            if any(self._awaits(turn.payment_id) for turn in self.store.awaiting(terms.channel_id)):
                raise busy()
            if terms.most != channel.announced:
                raise StaleVoucherError(correction(channel))
            amount, whole = _amount(header.payload, channel)
            return self._give_back(terms, channel, amount, whole=whole)

    def _awaits(self, payment_id: bytes) -> bool:
        payment = self.payments.get(payment_id)  # type: ignore[arg-type]
        return payment is not None and payment.state is not State.RELEASED

    def _give_back(self, terms: VoucherTerms, channel: Channel, amount: int, *, whole: bool) -> str:
        state, chain_id = channel.state, self.merchant.chain_id
        # The newest voucher covers what is owed; the one that asks may be of less.
        payload = claim_payload([Claim(channel.terms, channel.owed)], self.authoriser, chain_id)
        if channel.owed <= state.claimed:
            payload = {"claims": []}
        signature = sign_refund(
            self.authoriser, chain_id, terms.channel_id, nonce=state.refund_nonce, amount=amount
        )
        value = {
            **payload,
            "type": "refund",
            "channelConfig": _config(terms),
            "voucher": {
                "channelId": "0x" + terms.channel_id.hex(),
                "maxClaimableAmount": str(terms.most),
                "signature": "0x" + terms.signature.hex(),
            },
            "amount": str(amount),
            "refundNonce": str(state.refund_nonce),
            "refundAuthorizerSignature": "0x" + signature.hex(),
        }
        entry = self.merchant.channel_way(0, REFUND_SECONDS)
        body = {"x402Version": X402_VERSION, "accepted": entry, "payload": value}
        try:
            transaction = self.facilitator.settle(body, entry)
        except (VerificationError, NetworkError):
            # It may have been given back without a word; the nonce says so.
            after = self.channels.synced(terms)
            if after.refund_nonce == state.refund_nonce:
                raise
            transaction = ""
        at = self.now()
        after = self.channels.synced(terms)
        if after.refund_nonce == state.refund_nonce:
            raise NetworkError("the refund is in no block yet", reason=Reason.CHAIN_UNCONFIRMED)
        self.store.refunded(terms, after, at=at, whole=whole)
        return write_header(
            {
                "success": True,
                "payer": terms.channel[0].lower(),
                "transaction": transaction,
                "network": self.merchant.network,
                "amount": str(amount),
                "extra": {
                    "channelState": channel_state(terms.channel_id, after, channel.announced)
                },
            }
        )


def is_refund(header: PaymentHeader) -> bool:
    """Tell whether a payment asks for money back."""
    return header.scheme is Scheme.BATCH_SETTLEMENT and header.payload.get("type") == "refund"


def _amount(payload: dict[str, Any], channel: Channel) -> tuple[int, bool]:
    """Return how much goes back, and whether that is all."""
    everything = channel.state.deposited - max(channel.owed, channel.state.claimed)
    if everything <= 0:
        raise RefusedPaymentError("nothing is left to refund", _PREFIX + "refund_no_balance")
    asked = payload.get("amount")
    if asked is None:
        return everything, True
    if type(asked) is not str or not asked.isascii() or not asked.isdigit() or len(asked) > 19:
        raise RefusedPaymentError(
            "the amount to refund is not one", _PREFIX + "refund_amount_invalid"
        )
    # Less than all leaves what the payer was told that it was charged.
    if not 0 < int(asked) <= channel.state.deposited - channel.announced:
        raise RefusedPaymentError("less than that is left", _PREFIX + "refund_no_balance")
    return int(asked), False


def _config(terms: VoucherTerms) -> dict[str, Any]:
    names = ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token")
    *addresses, delay, salt = terms.channel
    return {
        **dict(zip(names, addresses, strict=True)),
        "withdrawDelay": delay,
        "salt": "0x" + salt.hex(),
    }
