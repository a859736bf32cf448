"""How a payment of each scheme is signed, once it was decided on, counted, and its channel held.

Each way gives the payload and the key by which the receipt has to name the payment. This module
decides nothing: amount, payee and channel are those of an offer that was verified.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.client.paying_channels import MAX_WITHDRAW_SECONDS, ChannelTerms, ChannelUse
from verispect.client.paying_offer import Offer
from verispect.client.wallet import TransferOrder, Wallet
from verispect.core.encoding import Digest
from verispect.payments.authorisation import AuthorisationKey, Scheme
from verispect.payments.nonce import request_bound_nonce
from verispect.payments.pricing import MAX_AMOUNT

MAX_TURNS_AHEAD: Final = 64
"""How many payments of a voucher a gateway may have released before the one that it answered."""

_SALT_BYTES: Final = 32
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class SignedPayment:
    """A payment that was signed and not sent."""

    payload: dict[str, Any]
    key: AuthorisationKey
    salt: bytes
    """Opens the nonce where it commits to the request; empty otherwise."""
    cumulative: int | None = None
    """Of a voucher."""


def is_payable(offer: Offer) -> bool:
    """Tell whether an offer can be paid in the way that it names."""
    extra = offer.entry["extra"]
    method = extra.get("assetTransferMethod")
    if offer.scheme is Scheme.BATCH_SETTLEMENT:
        return method == "eip3009" and _channel_fields(extra) is not None
    if offer.scheme is Scheme.UPTO:
        named = extra.get("facilitatorAddress")
        return method == "permit2" and type(named) is str and bool(_ADDRESS.fullmatch(named))
    return method in {None, "eip3009"}


def channel_terms(offer: Offer, origin: str, payer: str) -> ChannelTerms | None:
    """Return what an offer wants of a channel; nothing where it wants none."""
    if offer.scheme is not Scheme.BATCH_SETTLEMENT:
        return None
    fields = _channel_fields(offer.entry["extra"])
    assert fields is not None
    authoriser, delay, suggested = fields
    return ChannelTerms(origin, offer.asset, payer, offer.pay_to, authoriser, delay, suggested)


def sign_payment(
    wallet: Wallet, offer: Offer, asked: Digest, use: ChannelUse | None, now: int
) -> SignedPayment:
    """Sign a payment.

    Args:
        wallet: who pays.
        offer: what was decided on.
        asked: digest of the request.
        use: the channel, where it is one's.
        now: seconds since 1970.
    """
    if offer.scheme is Scheme.EXACT:
        return _exact(wallet, offer, asked, now)
    from verispect.payments import x402_adapter_client as adapter

    if offer.scheme is Scheme.UPTO:
        payload = adapter.metered_payload(wallet.account, offer.entry)
        nonce = f"0x{int(payload['permit2Authorization']['nonce']):064x}"
        key = AuthorisationKey.of_transfer(offer.network, offer.token, wallet.address, nonce)
        return SignedPayment(payload, key, b"")
    assert use is not None
    fields = _channel_fields(offer.entry["extra"])
    assert fields is not None
    channel = adapter.PayerChannel(
        offer.network, wallet.address, offer.pay_to, fields[0], offer.token, fields[1], use.salt
    )
    payload = adapter.voucher_payload(
        wallet.account, offer.entry, channel, cumulative=use.cumulative, deposit=use.deposit
    )
    key = AuthorisationKey.of_voucher(
        offer.network, offer.token, channel.channel_id(), use.cumulative, use.turn
    )
    return SignedPayment(payload, key, b"", use.cumulative)


def turn_of_payment(header: Mapping[str, Any], payment_id: Digest, first: int) -> int | None:
    """Return the turn in which a voucher is the payment of this id; nothing where in none.

    Args:
        header: what was presented.
        payment_id: as the receipt has it.
        first: the turn that the channel had.
    """
    accepted, voucher = header["accepted"], header["payload"]["voucher"]
    for turn in range(first, first + MAX_TURNS_AHEAD):
        key = AuthorisationKey.of_voucher(
            accepted["network"],
            accepted["asset"],
            voucher["channelId"],
            int(voucher["maxClaimableAmount"]),
            turn,
        )
        if key.digest() == payment_id:
            return turn
    return None


def _exact(wallet: Wallet, offer: Offer, asked: Digest, now: int) -> SignedPayment:
    salt = os.urandom(_SALT_BYTES)
    nonce = request_bound_nonce(asked, salt)
    order = TransferOrder(
        offer.chain_id,
        offer.token,
        offer.token_name,
        offer.token_version,
        offer.pay_to,
        offer.amount,
        now + offer.lasting_seconds,
        nonce,
    )
    key = AuthorisationKey.of_transfer(offer.network, offer.token, wallet.address, nonce)
    return SignedPayment(wallet.sign_transfer(order), key, salt)


def _channel_fields(extra: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """Return receiver's authoriser, withdrawal delay and suggested deposit."""
    authoriser, delay = extra.get("receiverAuthorizer"), extra.get("withdrawDelay")
    suggested = extra.get("minDeposit", "0")
    if (
        type(authoriser) is not str
        or not _ADDRESS.fullmatch(authoriser)
        or type(delay) is not int
        or not 0 < delay <= MAX_WITHDRAW_SECONDS
        or type(suggested) is not str
        or not _NUMBER.fullmatch(suggested)
        or int(suggested) > MAX_AMOUNT
    ):
        return None
    return authoriser, delay, int(suggested)
