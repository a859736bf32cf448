"""Attacks on a payment on the chain: rewritten, cancelled, redirected, overcharged, taken back."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from web3 import Web3
from web3.providers.base import BaseProvider

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from payment_wires import (
    AMOUNT,
    Channel,
    EverythingIsOwed,
    approve_permit2,
    exact_payment,
    permit2_payment,
)

from verispect.core.errors import Reason, StoreError, VerificationError
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.development import (
    TOKEN_ADDRESS,
    DevelopmentChain,
    development_key,
)
from verispect.payments.chain.rpc import account_from_environment
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.chain.terms import read_transfer, read_voucher
from verispect.payments.chain.vouchers import send_and_wait
from verispect.payments.settlement import Standing

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CONFIG = "(address,address,address,address,address,uint40,bytes32)"


@pytest.fixture
def world() -> DevelopmentChain:
    return DevelopmentChain()


@pytest.fixture
def settlement(world) -> ChainSettlement:
    return ChainSettlement(
        world.facilitator_signer,
        book=EverythingIsOwed(),
        authoriser=world.account("authoriser"),
    )


def rewritten(payment, change) -> Any:
    value = json.loads(payment.authorisation.wire)
    change(value["payload"])
    wire = json.dumps(value).encode()
    return dataclasses.replace(
        payment, authorisation=dataclasses.replace(payment.authorisation, wire=wire)
    )


def test_the_other_form_of_a_signature_is_refused(world, settlement):
    """A signature mirrored on the curve is the same one rewritten, and moves nothing."""

    def mirror(payload: dict[str, Any]) -> None:
        raw = bytes.fromhex(payload["signature"].removeprefix("0x"))
        other = ORDER - int.from_bytes(raw[32:64])
        payload["signature"] = "0x" + (raw[:32] + other.to_bytes(32) + bytes([55 - raw[64]])).hex()

    payment = exact_payment(world)
    with pytest.raises(VerificationError):
        settlement.settle(rewritten(payment, mirror), AMOUNT)
    assert world.balance(world.payee) == 0
    assert settlement.look(payment, AMOUNT).standing is Standing.UNUSED


def test_a_cancelled_authorisation_is_void(world, settlement):
    """A payer that cancels has not paid, and cannot be charged."""
    payment = exact_payment(world)
    nonce = read_transfer(payment.authorisation).nonce.to_bytes(32)
    fields = [{"name": "authorizer", "type": "address"}, {"name": "nonce", "type": "bytes32"}]
    payer = world.payer()
    signed = payer.sign_message(
        encode_typed_data(
            domain_data={
                "name": world.token.name,
                "version": world.token.version,
                "chainId": world.chain.chain_id,
                "verifyingContract": TOKEN_ADDRESS,
            },
            message_types={"CancelAuthorization": fields},
            message_data={"authorizer": payer.address, "nonce": nonce},
        )
    )
    data = call_data(
        "cancelAuthorization(address,bytes32,bytes)", payer.address, nonce, bytes(signed.signature)
    )
    send_and_wait(world.facilitator_signer, TOKEN_ADDRESS, data)
    with pytest.raises(VerificationError):
        settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.VOID


def test_a_payer_without_money_has_not_paid_and_may_yet(world, settlement):
    """An underfunded payment stays unused: it can be taken when the money is there."""
    payment = exact_payment(world)
    payer = world.payer()
    everything = world.balance(payer.address)
    data = call_data("transfer(address,uint256)", world.payer(1).address, everything)
    send_and_wait(world.signer("payer-0"), TOKEN_ADDRESS, data)
    with pytest.raises(VerificationError):
        settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNUSED
    world.mint(payer.address, AMOUNT)
    settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID


def test_the_facilitator_cannot_redirect_or_overcharge(world, settlement):
    """What is signed is who is paid, at most how much, and who may bring it."""
    approve_permit2(world)
    payment = permit2_payment(world, Scheme.UPTO, charge=10)
    thief = world.payer(5).address

    def redirect(payload: dict[str, Any]) -> None:
        payload["permit2Authorization"]["witness"]["to"] = thief

    with pytest.raises(VerificationError):
        settlement.settle(rewritten(payment, redirect), 10)
    with pytest.raises(VerificationError) as refused:
        settlement.settle(payment, AMOUNT + 1)
    assert refused.value.reason is Reason.PAYMENT_INVALID
    with pytest.raises(VerificationError):
        ChainSettlement(world.signer("payer-4")).settle(payment, 10)
    assert world.balance(thief) == world.balance(world.payer(6).address)
    assert settlement.look(payment, 10).standing is Standing.UNUSED


def test_a_spent_permit_nonce_without_its_payment_is_not_paid(world, settlement):
    """A payer that burns the nonce of a permit, and pays as much otherwise, has not paid it."""
    from verispect.payments.chain.addresses import PERMIT2

    approve_permit2(world)
    payment = permit2_payment(world, Scheme.EXACT)
    nonce = read_transfer(payment.authorisation).nonce
    payer = world.signer("payer-0")
    burn = call_data("invalidateUnorderedNonces(uint256,uint256)", nonce >> 8, 1 << (nonce & 255))
    send_and_wait(payer, PERMIT2, burn)
    data = call_data("transfer(address,uint256)", world.payee, AMOUNT)
    send_and_wait(payer, TOKEN_ADDRESS, data)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNKNOWN


def test_a_block_that_is_taken_back_takes_the_payment_back(world, settlement):
    """After a reorganisation the chain is read again, and the payment can be taken again."""
    payment = exact_payment(world)
    tester = world.chain.web3.provider.tester
    snapshot = tester.take_snapshot()
    settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID
    tester.revert_to_snapshot(snapshot)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNUSED
    assert world.balance(world.payee) == 0


def test_a_channel_pays_no_more_than_was_signed_and_less_never_again(world, settlement):
    """A claim above its voucher is refused, and an older total changes nothing."""
    channel = Channel(world)
    old, new = channel.payment(300), channel.payment(400)
    settlement.settle(new, 400)
    settlement.settle(old, 300)
    settlement.pay_out(world.payee, TOKEN_ADDRESS)
    assert world.balance(world.payee) == 700
    with pytest.raises(VerificationError):
        settlement.settle(channel.payment(1), AMOUNT + 1)
    assert settlement.look(old, 300).standing is Standing.PAID


def test_a_payer_withdraws_only_what_was_not_claimed():
    """What is claimed in time is the payee's; the rest goes back after the delay."""
    ahead = [0]
    world = DevelopmentChain(now=lambda: int(time.time()) + ahead[0])
    settlement = ChainSettlement(
        world.facilitator_signer,
        book=EverythingIsOwed(),
        authoriser=world.account("authoriser"),
    )
    before = world.balance(world.payer().address)
    channel = Channel(world, deposit=20_000)
    payment = channel.payment(2_500)
    config = read_voucher(payment.authorisation).channel
    payer = world.signer("payer-0")
    send_and_wait(
        payer, BATCH_SETTLEMENT, call_data(f"initiateWithdraw({CONFIG},uint128)", config, 20_000)
    )
    finalize = call_data(f"finalizeWithdraw({CONFIG})", config)
    with pytest.raises(VerificationError):
        send_and_wait(payer, BATCH_SETTLEMENT, finalize)
    settlement.settle(payment, 2_500)
    ahead[0] = 1_000
    send_and_wait(payer, BATCH_SETTLEMENT, finalize)
    settlement.pay_out(world.payee, TOKEN_ADDRESS)
    assert world.balance(world.payee) == 2_500
    assert before - world.balance(world.payer().address) == 2_500
    assert world.balance(BATCH_SETTLEMENT) == 0


class Node(BaseProvider):
    """The development chain as a node far away, which is not known to be embedded."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    def request_func(self, w3: Any, middleware_onion: Any) -> Any:
        return self._inner.request_func(w3, middleware_onion)


def test_over_a_node_what_would_be_refused_is_never_sent(world):
    """The call is tried first, so that a refused payment costs no gas, and nonces follow on."""
    chain = Chain(Web3(Node(world.chain.web3.provider)))
    signer = ChainSigner(chain, ChainAccount(development_key("facilitator")))
    settlement = ChainSettlement(signer)
    payment = exact_payment(world)
    settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID
    sent = chain.next_nonce(signer.address)
    with pytest.raises(VerificationError) as refused:
        ChainSettlement(signer).settle(payment, AMOUNT)
    assert refused.value.reason is Reason.CHAIN_REVERTED
    assert chain.next_nonce(signer.address) == sent
    settlement.settle(exact_payment(world), AMOUNT)
    assert world.balance(world.payee) == 2 * AMOUNT


def test_a_key_is_read_from_the_environment_and_never_shown(monkeypatch):
    """A variable that is not set is an error, and the key is in no message."""
    monkeypatch.setenv("PAYMENT_KEY", "0x" + development_key("payee").hex())
    assert development_key("payee").hex() not in repr(account_from_environment("PAYMENT_KEY"))
    monkeypatch.delenv("PAYMENT_KEY")
    with pytest.raises(StoreError):
        account_from_environment("PAYMENT_KEY")
