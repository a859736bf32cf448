"""What an inference costs on the chain, measured: deposits, one claim, the pay-out, the anchor.

The channels are stand-ins whose gas is near, not equal to, that of the contracts on public chains
(`contracts/stand_ins.sol`). The anchor's gas is the caller's to measure and give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from verispect.payments.chain.addresses import BATCH_SETTLEMENT, ERC3009_DEPOSIT_COLLECTOR
from verispect.payments.chain.calls import call_data, read_words
from verispect.payments.chain.development import (
    TOKEN_ADDRESS,
    TOKEN_NAME,
    TOKEN_VERSION,
    DevelopmentChain,
)
from verispect.payments.chain.terms import VoucherTerms
from verispect.payments.chain.vouchers import Claim, pay_out, send_and_wait, send_claims

DEPOSIT: Final = 1_000_000

_CONFIG: Final = "(address,address,address,address,address,uint40,bytes32)"
_WITHDRAW_DELAY: Final = 86_400
_FAR: Final = 1 << 40
_AUTHORISATION: Final = {
    "from": "address",
    "to": "address",
    "value": "uint256",
    "validAfter": "uint256",
    "validBefore": "uint256",
    "nonce": "bytes32",
}


@dataclass(frozen=True, slots=True)
class GasReport:
    """Gas of one batch."""

    inferences: int
    channels: int
    deposits: int
    claims: int
    pay_out: int
    anchor: int

    @property
    def per_inference(self) -> float:
        """All of it, shared by the inferences of the batch."""
        total = self.deposits + self.claims + self.pay_out + self.anchor
        return total / self.inferences


def measure_gas(*, inferences: int = 10_000, channels: int = 100, anchor_gas: int = 0) -> GasReport:
    """Open channels, charge them for inferences, claim them and pay out, and count the gas.

    Args:
        inferences: in the batch; they share the channels evenly.
        channels: at most 100, each opened by a deposit that is counted too.
        anchor_gas: what anchoring the batch costs.
    """
    world = DevelopmentChain()
    authoriser = world.account("authoriser")
    opened = [_open(world, authoriser, number) for number in range(channels)]
    share = inferences // channels
    claims = [_claim(world, number, config, share) for number, (config, _) in enumerate(opened)]
    claimed = send_claims(world.facilitator_signer, claims, authoriser)
    paid = pay_out(world.facilitator_signer, world.payee, TOKEN_ADDRESS)
    if world.balance(world.payee) != share * channels:
        raise AssertionError("the payee did not get what was claimed")
    deposits = sum(gas for _, gas in opened)
    return GasReport(inferences, channels, deposits, claimed.gas_used, paid.gas_used, anchor_gas)


_Config = tuple[str, str, str, str, str, int, bytes]


def _open(world: DevelopmentChain, authoriser: LocalAccount, number: int) -> tuple[_Config, int]:
    payer, salt = world.payer(number % 8), number.to_bytes(32)
    config = (
        payer.address,
        payer.address,
        world.payee,
        authoriser.address,
        TOKEN_ADDRESS,
        _WITHDRAW_DELAY,
        salt,
    )
    channel_id = _channel_id(world, config)
    message = {
        "from": payer.address,
        "to": ERC3009_DEPOSIT_COLLECTOR,
        "value": DEPOSIT,
        "validAfter": 0,
        "validBefore": _FAR,
        "nonce": keccak(encode(["bytes32", "uint256"], [channel_id, number])),
    }
    fields = [{"name": name, "type": kind} for name, kind in _AUTHORISATION.items()]
    signature = _signed(
        world,
        payer,
        (TOKEN_NAME, TOKEN_VERSION, TOKEN_ADDRESS),
        {"ReceiveWithAuthorization": fields},
        message,
    )
    collected = encode(["uint256", "uint256", "uint256", "bytes"], [0, _FAR, number, signature])
    data = call_data(
        f"deposit({_CONFIG},uint128,address,bytes)",
        config,
        DEPOSIT,
        ERC3009_DEPOSIT_COLLECTOR,
        collected,
    )
    return config, send_and_wait(world.facilitator_signer, BATCH_SETTLEMENT, data).gas_used


def _claim(world: DevelopmentChain, number: int, config: _Config, total: int) -> Claim:
    channel_id = _channel_id(world, config)
    fields = [
        {"name": "channelId", "type": "bytes32"},
        {"name": "maxClaimableAmount", "type": "uint128"},
    ]
    signature = _signed(
        world,
        world.payer(number % 8),
        ("x402 Batch Settlement", "1", BATCH_SETTLEMENT),
        {"Voucher": fields},
        {"channelId": channel_id, "maxClaimableAmount": total},
    )
    return Claim(VoucherTerms(config, channel_id, total, signature), total)


def _channel_id(world: DevelopmentChain, config: _Config) -> bytes:
    asked = call_data(f"getChannelId({_CONFIG})", config)
    (channel_id,) = read_words(["bytes32"], world.chain.call(BATCH_SETTLEMENT, asked))
    return bytes(channel_id)


def _signed(
    world: DevelopmentChain,
    account: LocalAccount,
    domain: tuple[str, str, str],
    types: dict[str, Sequence[dict[str, str]]],
    message: dict[str, object],
) -> bytes:
    name, version, contract = domain
    signable = encode_typed_data(
        domain_data={
            "name": name,
            "version": version,
            "chainId": world.chain.chain_id,
            "verifyingContract": contract,
        },
        message_types=types,
        message_data=message,
    )
    return bytes(account.sign_message(signable).signature)
