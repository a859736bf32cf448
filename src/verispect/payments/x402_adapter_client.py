"""The payer's half of the `x402` package, with plain dictionaries on the outside.

It signs metered transfers, deposits and vouchers for whoever decided on them; it chooses no way to
pay, keeps no state and asks no chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
    create_batch_settlement_eip3009_deposit_payload,
)
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.upto.client import UptoEvmScheme
from x402.schemas import PaymentRequirements


@dataclass(frozen=True, slots=True)
class PayerChannel:
    """What makes a channel the same one."""

    network: str
    payer: str
    receiver: str
    authoriser: str
    token: str
    withdraw_seconds: int
    salt: bytes

    def channel_id(self) -> str:
        """Return its id, in hexadecimal with `0x`."""
        return str(compute_channel_id(_config(self), self.network))


def metered_payload(account: LocalAccount, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of a payment of the scheme `upto`.

    Args:
        account: who pays.
        entry: of `accepts`.
    """
    wanted = PaymentRequirements.model_validate(dict(entry))
    made: dict[str, Any] = UptoEvmScheme(EthAccountSigner(account)).create_payment_payload(wanted)
    return made


def voucher_payload(
    account: LocalAccount,
    entry: Mapping[str, Any],
    channel: PayerChannel,
    *,
    cumulative: int,
    deposit: int = 0,
) -> dict[str, Any]:
    """Return the payload of a voucher, with a deposit where there is one.

    Args:
        account: who pays.
        entry: of `accepts`.
        channel: of the voucher.
        cumulative: the most that may be claimed of the channel in all.
        deposit: what is brought to the channel first.
    """
    signer, config = EthAccountSigner(account), _config(channel)
    if deposit:
        wanted = PaymentRequirements.model_validate(dict(entry))
        made: dict[str, Any] = create_batch_settlement_eip3009_deposit_payload(
            signer, wanted, config, str(deposit), str(cumulative)
        ).to_dict()
        return made
    voucher = sign_voucher(signer, channel.channel_id(), str(cumulative), channel.network)
    return {"type": "voucher", "channelConfig": config.to_dict(), "voucher": voucher.to_dict()}


def _config(channel: PayerChannel) -> ChannelConfig:
    return ChannelConfig(
        payer=channel.payer,
        payer_authorizer=channel.payer,
        receiver=channel.receiver,
        receiver_authorizer=channel.authoriser,
        token=channel.token,
        withdraw_delay=channel.withdraw_seconds,
        salt="0x" + channel.salt.hex(),
    )
