"""Signed payments as an x402 client makes them, for tests of what takes them."""

from __future__ import annotations

import json
import time
from typing import Any

from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.mechanisms.evm.upto.client import UptoEvmScheme
from x402.schemas import PaymentRequirements

from verispect.core.encoding import sha256
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme
from verispect.payments.chain.addresses import PERMIT2
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.development import TOKEN_ADDRESS, DevelopmentChain
from verispect.payments.chain.terms import read_voucher
from verispect.payments.chain.vouchers import Claim, send_and_wait
from verispect.payments.store import Payment, State

AMOUNT = 12_345


def requirements(world: DevelopmentChain, scheme: str, **extra: Any) -> PaymentRequirements:
    return PaymentRequirements(
        scheme=scheme,
        network=world.network,
        amount=str(AMOUNT),
        asset=TOKEN_ADDRESS,
        pay_to=world.payee,
        max_timeout_seconds=600,
        extra={"name": world.token.name, "version": world.token.version, **extra},
    )


def payment_of(
    wanted: PaymentRequirements,
    scheme: Scheme,
    key: AuthorisationKey,
    payload: dict[str, Any],
    *,
    charge: int,
    amount: int = AMOUNT,
    valid_before: int | None = None,
) -> Payment:
    ends = int(time.time()) + 600 if valid_before is None else valid_before
    accepted = wanted.model_dump(mode="json", by_alias=True)
    wire = json.dumps({"x402Version": 2, "accepted": accepted, "payload": payload}).encode()
    authorisation = Authorisation(key, scheme, amount, ends, wire)
    return Payment(
        authorisation,
        sha256(wire),
        sha256(b"sheet"),
        amount,
        ends - 1,
        State.DELIVERED,
        charge,
        b"answer",
    )


def exact_payment(world: DevelopmentChain, payer: int = 0) -> Payment:
    """A payment by EIP-3009."""
    wanted = requirements(world, "exact")
    made = ExactEvmClientScheme(EthAccountSigner(world.payer(payer))).create_payment_payload(wanted)
    signed = made["authorization"]
    key = AuthorisationKey.of_transfer(
        world.network, TOKEN_ADDRESS, signed["from"], signed["nonce"]
    )
    ends = int(signed["validBefore"])
    return payment_of(wanted, Scheme.EXACT, key, made, charge=AMOUNT, valid_before=ends)


def approve_permit2(world: DevelopmentChain, payer: int = 0) -> None:
    data = call_data("approve(address,uint256)", PERMIT2, 2**256 - 1)
    send_and_wait(world.signer(f"payer-{payer}"), TOKEN_ADDRESS, data)


def permit2_payment(world: DevelopmentChain, scheme: Scheme, *, charge: int = AMOUNT) -> Payment:
    """A payment by Permit2; the payer has to have approved it."""
    wanted = requirements(
        world,
        scheme.value,
        assetTransferMethod="permit2",
        facilitatorAddress=world.facilitator_signer.address,
    )
    client = {Scheme.EXACT: ExactEvmClientScheme, Scheme.UPTO: UptoEvmScheme}[scheme]
    made = client(EthAccountSigner(world.payer())).create_payment_payload(wanted)
    signed = made["permit2Authorization"]
    nonce = f"0x{int(signed['nonce']):064x}"
    key = AuthorisationKey.of_transfer(world.network, TOKEN_ADDRESS, signed["from"], nonce)
    return payment_of(wanted, scheme, key, made, charge=charge)


class EverythingIsOwed:
    """A book of channels in which no payment was released."""

    def claim(self, payment: Payment, charge: int) -> Claim:
        terms = read_voucher(payment.authorisation)
        return Claim(terms, terms.most - payment.authorisation.amount + charge)


class Channel:
    """A channel of a payer with a deposit in it."""

    def __init__(
        self, world: DevelopmentChain, *, payer: int = 0, salt: int = 0, deposit: int = 100_000
    ) -> None:
        from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
            create_batch_settlement_eip3009_deposit_payload,
        )
        from x402.mechanisms.evm.batch_settlement.facilitator.scheme import (
            BatchSettlementEvmFacilitator,
        )
        from x402.schemas import PaymentPayload

        self.world = world
        account = world.payer(payer)
        self.signer = EthAccountSigner(account)
        self.config = ChannelConfig(
            payer=account.address,
            payer_authorizer=account.address,
            receiver=world.payee,
            receiver_authorizer=world.account("authoriser").address,
            token=TOKEN_ADDRESS,
            withdraw_delay=900,
            salt="0x" + salt.to_bytes(32).hex(),
        )
        self.id = compute_channel_id(self.config, world.network)
        self.charged = self.turn = 0
        wanted = requirements(
            world, "batch-settlement", receiverAuthorizer=self.config.receiver_authorizer
        )
        made = create_batch_settlement_eip3009_deposit_payload(
            self.signer, wanted, self.config, str(deposit), str(AMOUNT)
        )
        self.requirements = wanted
        made = made.to_dict()
        settled = BatchSettlementEvmFacilitator(world.facilitator_signer).settle(
            PaymentPayload(x402_version=2, accepted=wanted, payload=made), wanted
        )
        assert settled.success, settled

    def payment(self, charge: int, ceiling: int = AMOUNT) -> Payment:
        """The next voucher, as the payment of a request that costs `charge`."""
        mark = self.charged + ceiling
        voucher = sign_voucher(self.signer, self.id, str(mark), self.world.network)
        made = {
            "type": "voucher",
            "channelConfig": self.config.to_dict(),
            "voucher": voucher.to_dict(),
        }
        self.charged += charge
        key = AuthorisationKey.of_voucher(
            self.world.network, TOKEN_ADDRESS, self.id, mark, self.turn
        )
        self.turn += 1
        return payment_of(
            self.requirements,
            Scheme.BATCH_SETTLEMENT,
            key,
            made,
            charge=charge,
            amount=ceiling,
        )
