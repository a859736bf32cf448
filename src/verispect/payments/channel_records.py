"""What is kept of a channel and of its payments, and how x402 writes it.

The tables hold some of the rules themselves: a channel is held for one request at a time, owes no
more than it announced, and what a payment owed does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, RequestError
from verispect.payments.chain.channel_state import ChannelState
from verispect.payments.chain.terms import VoucherTerms
from verispect.payments.store import Payment

CHANNEL_TABLES: Final = (
    """
CREATE TABLE channels (
  id BLOB PRIMARY KEY CHECK (length(id) = 32),
  payer TEXT NOT NULL, payer_authoriser TEXT NOT NULL,
  receiver TEXT NOT NULL, receiver_authoriser TEXT NOT NULL, token TEXT NOT NULL,
  withdraw_delay INTEGER NOT NULL, salt BLOB NOT NULL,
  deposited INTEGER NOT NULL, claimed INTEGER NOT NULL,
  withdraw_requested_at INTEGER NOT NULL, refund_nonce INTEGER NOT NULL,
  synced_at INTEGER NOT NULL,
  announced INTEGER NOT NULL, owed INTEGER NOT NULL,
  most INTEGER NOT NULL, signature BLOB NOT NULL,
  turn INTEGER NOT NULL,
  claimed_by TEXT,
  CHECK (owed <= announced)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE turns (
  channel BLOB NOT NULL REFERENCES channels (id),
  number INTEGER NOT NULL,
  payment BLOB NOT NULL UNIQUE CHECK (length(payment) = 32),
  cumulative INTEGER NOT NULL,
  request BLOB NOT NULL CHECK (length(request) = 32),
  begun_at INTEGER NOT NULL,
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  readers INTEGER NOT NULL CHECK (readers >= 0),
  deposit TEXT,
  charge INTEGER, announced INTEGER, total INTEGER,
  PRIMARY KEY (channel, number)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX turns_by_voucher ON turns (channel, cumulative, request)",
    "CREATE UNIQUE INDEX one_turn_is_open ON turns (channel) WHERE open = 1",
    (
        "CREATE TRIGGER totals_do_not_change BEFORE UPDATE OF total ON turns"
        " WHEN OLD.total IS NOT NULL BEGIN SELECT RAISE(ABORT, 'what is owed stands'); END"
    ),
)


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel, as it stands."""

    terms: VoucherTerms
    """Its configuration, with the voucher that allows most."""
    state: ChannelState
    synced_at: int
    """When the chain was last asked, in seconds since 1970."""
    announced: int
    owed: int
    turn: int
    """The number of the next payment."""
    claimed_by: str | None
    """The transaction that last claimed it, where it is known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One payment of a channel."""

    channel_id: bytes
    number: int
    payment_id: Digest
    cumulative: int
    request: Digest
    begun_at: int
    is_open: bool
    """Whether the channel is held for it."""
    deposit: str | None
    """The transaction that brought its deposit."""
    charge: int | None
    announced: int | None
    """What the channel was charged in all, once this was delivered."""
    total: int | None
    """What the channel owed in all, once this was owed."""


def payment_holder(payment: Payment) -> bytes:
    """Return the id of the channel that a payment is of."""
    return bytes.fromhex(payment.authorisation.key.holder.removeprefix("0x"))


def busy() -> RequestError:
    """Return the refusal of a payment whose channel pays for another request just now."""
    return RequestError("the channel pays for another request just now", reason=Reason.PAYMENT_BUSY)


def channel_state(
    channel_id: bytes, state: ChannelState, announced: int | None = None
) -> dict[str, Any]:
    """Return a channel's state as x402 writes it."""
    written: dict[str, Any] = {
        "channelId": "0x" + channel_id.hex(),
        "balance": str(state.deposited),
        "totalClaimed": str(state.claimed),
        "withdrawRequestedAt": state.withdraw_requested_at,
        "refundNonce": str(state.refund_nonce),
    }
    if announced is not None:
        written["chargedCumulativeAmount"] = str(announced)
    return written


def correction(channel: Channel) -> dict[str, Any]:
    """Return what lets a client continue from what was charged."""
    return {
        "channelState": channel_state(channel.terms.channel_id, channel.state, channel.announced),
        "voucherState": {
            "signedMaxClaimable": str(channel.terms.most),
            "signature": "0x" + channel.terms.signature.hex(),
        },
    }
