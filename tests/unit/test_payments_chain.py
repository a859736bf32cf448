"""The development chain, and what is settled and read on it."""

from __future__ import annotations

import time

import pytest
from payment_wires import (
    AMOUNT,
    Channel,
    EverythingIsOwed,
    approve_permit2,
    exact_payment,
    permit2_payment,
)
from x402.mechanisms.evm import constants
from x402.mechanisms.evm.batch_settlement import constants as channel_constants

from verispect.core.errors import MalformedError, Reason, TrustError, VerificationError
from verispect.payments.authorisation import Scheme
from verispect.payments.chain import addresses
from verispect.payments.chain.artifacts import contracts, read_file
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.development import TOKEN_ADDRESS, DevelopmentChain
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.chain.vouchers import send_and_wait
from verispect.payments.settlement import Standing


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


def test_contracts_stand_where_x402_looks_for_them():
    """The addresses are those of the pinned package."""
    assert addresses.PERMIT2 == constants.PERMIT2_ADDRESS
    assert addresses.EXACT_PERMIT2_PROXY == constants.X402_EXACT_PERMIT2_PROXY_ADDRESS
    assert addresses.UPTO_PERMIT2_PROXY == constants.X402_UPTO_PERMIT2_PROXY_ADDRESS
    assert addresses.MULTICALL3 == constants.MULTICALL3_ADDRESS
    assert addresses.BATCH_SETTLEMENT == channel_constants.BATCH_SETTLEMENT_ADDRESS
    assert (
        addresses.ERC3009_DEPOSIT_COLLECTOR == channel_constants.ERC3009_DEPOSIT_COLLECTOR_ADDRESS
    )
    assert (
        addresses.PERMIT2_DEPOSIT_COLLECTOR == channel_constants.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
    )


def test_artifacts_are_of_the_committed_sources():
    """Whoever changes a contract's source has to build it again."""
    from verispect.core.encoding import sha256

    for name, source in {
        "DevelopmentDollar": "token.sol",
        "Permit2StandIn": "stand_ins.sol",
    }.items():
        assert contracts()[name].source_sha256 == sha256(read_file(source).encode()).hex()


def test_a_transfer_is_paid_once_and_found(world, settlement):
    """A settled payment is found by the chain's state, with and without knowing where."""
    payment = exact_payment(world)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNUSED
    settlement.settle(payment, AMOUNT)
    found = settlement.look(payment, AMOUNT)
    assert found.standing is Standing.PAID
    assert world.balance(world.payee) == AMOUNT
    stranger = ChainSettlement(world.facilitator_signer)
    assert stranger.look(payment, AMOUNT) == found
    with pytest.raises(VerificationError):
        stranger.settle(payment, AMOUNT)
    assert world.balance(world.payee) == AMOUNT


def test_a_payment_that_somebody_else_brought_is_paid(world, settlement):
    """Who sends the transaction does not matter, where the money went does."""
    payment = exact_payment(world)
    ChainSettlement(world.signer("payer-3")).settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID
    assert settlement.look(payment, AMOUNT - 1).standing is Standing.VOID


def test_a_nonce_spent_on_another_payee_is_void(world, settlement):
    """A payer that front-runs with the same nonce, for somebody else, has not paid."""
    from eth_account.messages import encode_typed_data

    from verispect.payments.chain.terms import read_transfer

    payment = exact_payment(world)
    terms = read_transfer(payment.authorisation)
    payer, thief = world.payer(), world.payer(5).address
    fields = {
        "from": payer.address,
        "to": thief,
        "value": AMOUNT,
        "validAfter": 0,
        "validBefore": terms.valid_before,
        "nonce": terms.nonce.to_bytes(32),
    }
    kinds = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]
    signed = payer.sign_message(
        encode_typed_data(
            domain_data={
                "name": world.token.name,
                "version": world.token.version,
                "chainId": world.chain.chain_id,
                "verifyingContract": TOKEN_ADDRESS,
            },
            message_types={
                "TransferWithAuthorization": [
                    {"name": name, "type": kind} for name, kind in zip(fields, kinds, strict=True)
                ]
            },
            message_data=fields,
        )
    )
    signature = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
    data = call_data(signature, *fields.values(), bytes(signed.signature))
    send_and_wait(world.facilitator_signer, TOKEN_ADDRESS, data)
    assert settlement.look(payment, AMOUNT).standing is Standing.VOID
    assert world.balance(world.payee) == 0


def test_a_false_hint_is_not_believed(world, settlement):
    """A transaction that pays something else is not taken for this payment."""
    paid, unpaid = exact_payment(world), exact_payment(world)
    settlement.settle(paid, AMOUNT)
    settlement.hint(unpaid, settlement.look(paid, AMOUNT).transaction)
    assert settlement.look(unpaid, AMOUNT).standing is Standing.UNUSED


def test_a_payment_expires_by_the_chains_clock():
    """Once the chain is past its end, a payment that was not used is void."""
    ahead = [0]
    world = DevelopmentChain(now=lambda: int(time.time()) + ahead[0])
    settlement = ChainSettlement(world.facilitator_signer)
    payment = exact_payment(world)
    ahead[0] = 10_000
    with pytest.raises(VerificationError) as refused:
        settlement.settle(payment, AMOUNT)
    assert refused.value.reason is Reason.CHAIN_REVERTED
    assert settlement.look(payment, AMOUNT).standing is Standing.VOID


def test_nothing_is_paid_before_enough_blocks_confirm_it(world):
    """With three confirmations a payment is unknown for two blocks, and then paid."""
    payment = exact_payment(world)
    for _ in range(3):
        world.chain.pass_time()
    settlement = ChainSettlement(world.facilitator_signer, confirmations=3)
    settlement.settle(payment, AMOUNT)
    assert settlement.look(payment, AMOUNT).standing is Standing.UNKNOWN
    world.chain.pass_time()
    world.chain.pass_time()
    assert settlement.look(payment, AMOUNT).standing is Standing.PAID


@pytest.mark.parametrize(("scheme", "charge"), [(Scheme.EXACT, AMOUNT), (Scheme.UPTO, 777)])
def test_permit2_moves_what_is_charged(world, settlement, scheme, charge):
    """A Permit2 payment is made through its proxy and found again by whoever did not send it."""
    approve_permit2(world)
    payment = permit2_payment(world, scheme, charge=charge)
    assert settlement.look(payment, charge).standing is Standing.UNUSED
    settlement.settle(payment, charge)
    assert world.balance(world.payee) == charge
    found = ChainSettlement(world.facilitator_signer).look(payment, charge)
    assert found.standing is Standing.PAID
    with pytest.raises(VerificationError):
        settlement.settle(payment, charge)
    assert world.balance(world.payee) == charge


def test_vouchers_of_many_channels_are_claimed_at_once(world, settlement):
    """One claim takes the newest total of each channel; what was not charged stays the payer's."""
    channels = [Channel(world, payer=number, salt=number) for number in range(3)]
    owed = [(channel.payment(charge), charge) for channel in channels for charge in (100, 250)]
    assert settlement.look(*owed[0]).standing is Standing.UNUSED
    assert settlement.claim(owed) == len(owed)
    assert all(settlement.look(*each).standing is Standing.PAID for each in owed)
    assert world.balance(world.payee) == 0
    settlement.pay_out(world.payee, TOKEN_ADDRESS)
    assert world.balance(world.payee) == 3 * 350
    assert world.balance(addresses.BATCH_SETTLEMENT) == 3 * (100_000 - 350)
    settlement.claim(owed)
    settlement.pay_out(world.payee, TOKEN_ADDRESS)
    assert world.balance(world.payee) == 3 * 350


def test_one_voucher_settles_alone(world, settlement):
    """A later voucher is not paid by the claim of an earlier one."""
    channel = Channel(world)
    first, second = channel.payment(500), channel.payment(600)
    settlement.settle(first, 500)
    assert settlement.look(first, 500).standing is Standing.PAID
    assert settlement.look(second, 600).standing is Standing.UNUSED


def test_a_forged_voucher_does_not_spoil_the_others(world, settlement):
    """A claim that is refused for one channel is made for the rest."""
    import dataclasses

    good, bad = Channel(world, salt=1), Channel(world, payer=1, salt=2)
    honest, forged = good.payment(100), bad.payment(100)
    wire = forged.authorisation.wire
    start = wire.rindex(b'"signature": "0x') + 20
    broken = wire[:start] + (b"1" if wire[start : start + 1] != b"1" else b"2") + wire[start + 1 :]
    forged = dataclasses.replace(
        forged, authorisation=dataclasses.replace(forged.authorisation, wire=broken)
    )
    assert settlement.claim([(honest, 100), (forged, 100)]) == 1
    assert settlement.look(honest, 100).standing is Standing.PAID
    assert settlement.look(forged, 100).standing is Standing.UNUSED


def test_what_was_reserved_is_what_is_settled(world, settlement):
    """A payload that is not what its key says is settled by nobody."""
    import dataclasses

    one, other = exact_payment(world), exact_payment(world)
    swapped = dataclasses.replace(
        one, authorisation=dataclasses.replace(one.authorisation, wire=other.authorisation.wire)
    )
    with pytest.raises(MalformedError):
        settlement.settle(swapped, AMOUNT)
    key = dataclasses.replace(one.authorisation.key, network="eip155:8453")
    elsewhere = dataclasses.replace(
        one, authorisation=dataclasses.replace(one.authorisation, key=key)
    )
    with pytest.raises(TrustError):
        settlement.settle(elsewhere, AMOUNT)
    assert settlement.look(elsewhere, AMOUNT).standing is Standing.UNKNOWN


def test_a_chain_with_a_directory_outlives_the_process(tmp_path):
    """Whoever opens the directory again finds the same money."""
    world = DevelopmentChain(tmp_path)
    payment = exact_payment(world)
    ChainSettlement(world.facilitator_signer).settle(payment, AMOUNT)
    again = DevelopmentChain(tmp_path)
    assert again.balance(again.payee) == AMOUNT
    found = ChainSettlement(again.facilitator_signer).look(payment, AMOUNT)
    assert found.standing is Standing.PAID


def test_a_burst_does_not_run_ahead_of_the_clock(tmp_path):
    """Many blocks share a second, so that payments do not expire because there are many."""
    clock = int(time.time())
    world = DevelopmentChain(tmp_path, now=lambda: clock)
    for _ in range(20):
        world.mint(world.payee, 1)
    assert world.chain.head().time == clock
    again = DevelopmentChain(tmp_path, now=lambda: clock)
    assert again.chain.head() == world.chain.head()
