"""What the chain says of a channel, at one block."""

from __future__ import annotations

from dataclasses import dataclass

from verispect.ledger.anchor.chain import Chain
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.calls import call_data, read_words
from verispect.payments.chain.vouchers import channel_totals


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel on the chain."""

    deposited: int
    """What was deposited and not given back."""
    claimed: int
    withdraw_requested_at: int
    """Seconds since 1970, or zero; after the delay the payer takes what was not claimed."""
    refund_nonce: int


def unpaid(chain: Chain, receiver: str, token: str) -> int:
    """Return how much was claimed for a payee and not sent to it yet.

    Raises:
        NetworkError: `network-failed`, `chain-failed`.
    """
    asked = call_data("receivers(address,address)", receiver, token)
    claimed, sent = read_words(["uint128", "uint128"], chain.call(BATCH_SETTLEMENT, asked))
    return int(claimed - sent)


def read_channel(chain: Chain, channel_id: bytes, *, confirmed: int | None = None) -> ChannelState:
    """Read a channel.

    Args:
        chain: where.
        channel_id: 32 bytes.
        confirmed: number of the block by which the claimed total is told, which is what captures
            payments; the newest one without it.

    Raises:
        NetworkError: `network-failed`, `chain-failed`.
    """
    totals = channel_totals(chain, channel_id)
    claimed = totals.claimed
    if confirmed is not None:
        claimed = channel_totals(chain, channel_id, block=confirmed).claimed
    asked = call_data("pendingWithdrawals(bytes32)", channel_id)
    _, since = read_words(["uint128", "uint40"], chain.call(BATCH_SETTLEMENT, asked))
    asked = call_data("refundNonce(bytes32)", channel_id)
    (nonce,) = read_words(["uint256"], chain.call(BATCH_SETTLEMENT, asked))
    return ChannelState(totals.deposited, claimed, since, nonce)
