"""The till, paid by the stock `x402` client in every scheme on the development chain."""

from __future__ import annotations

import pytest
from payment_wires import approve_permit2
from till_shop import CEILING, Clock, Customer, Shop, decoded, encoded
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id

from verispect.core.errors import Error, Reason
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.schemes.signatures import channel_id_of
from verispect.payments.store import State


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def test_every_way_to_pay_is_offered_best_first_and_small(shop):
    """The 402 lists channels, metered and fixed transfers, below 8 KB, each with an offer."""
    header = shop.till.demand(shop.demand(b"one"))
    offered = decoded(header)
    assert len(header) < 8_000
    assert [entry["scheme"] for entry in offered["accepts"]] == [
        "batch-settlement",
        "upto",
        "exact",
        "exact",
    ]
    assert {entry["amount"] for entry in offered["accepts"]} == {str(CEILING)}
    assert len(offered["extensions"]["offer-receipt"]["info"]["offers"]) == 4
    info = offered["extensions"]["verispect"]["info"]
    assert (info["assurance"], info["priceSheet"]) == (
        "signed",
        shop.till.price_list()["sheet"]["digest"],
    )


def test_what_is_streamed_is_sold_through_channels_alone(shop):
    """Nothing is offered that could not be taken once the answer has begun to leave."""
    offered = decoded(shop.till.demand(shop.demand(b"one", streamed=True)))
    assert [entry["scheme"] for entry in offered["accepts"]] == ["batch-settlement"]
    fixed = Customer(shop, "exact")
    _, header = fixed.sign(shop.till.demand(shop.demand(b"one")))
    with pytest.raises(Error, match="not offered"):
        shop.till.read(header, shop.demand(b"one", streamed=True))


@pytest.mark.parametrize(("scheme", "moved"), [("exact", CEILING), ("upto", 1_234)])
def test_a_stock_client_pays_a_transfer(shop, scheme, moved):
    """A fixed transfer moves its ceiling and a metered one its charge, once, to the payee."""
    if scheme == "upto":
        approve_permit2(shop.world)
    customer = Customer(shop, scheme)
    answer = customer.ask(b"one")
    assert answer.status == 200, answer.error
    assert answer.payment.state is State.CAPTURED
    assert answer.settled["success"] is True
    assert answer.settled["amount"] == str(moved)
    assert answer.settled["extensions"]["verispect"]["info"]["charge"] == "1234"
    assert shop.world.balance(shop.world.payee) == moved


@pytest.mark.parametrize("has_node", [True, False])
def test_a_stock_client_pays_many_requests_from_one_deposit(shop, has_node):
    """After one deposit vouchers are enough, and one claim takes what all of them were charged."""
    customer = Customer(shop, "batch-settlement", has_node=has_node)
    before = shop.world.balance(customer.address)
    charges = [1_234, 12_000, 1, 777]
    for number, charge in enumerate(charges):
        answer = customer.ask(b"request %d" % number, charge=charge)
        assert answer.status == 200, answer.error
        assert answer.payment.state is State.PENDING
        assert answer.settled["extra"]["chargedAmount"] == str(charge)
    deposited = before - shop.world.balance(customer.address)
    assert deposited == 10 * CEILING
    assert shop.world.balance(shop.world.payee) == 0
    assert shop.sweep() == len(charges)
    assert shop.world.balance(shop.world.payee) == sum(charges)
    assert {payment.state for payment in shop.payments.unfinished()} == set()
    assert shop.sweep() == 0


def test_a_channel_is_topped_up_when_it_runs_low(shop):
    """The stock client deposits again, and goes on in the same channel."""
    customer = Customer(shop, "batch-settlement")
    for number in range(12):
        answer = customer.ask(b"request %d" % number, charge=CEILING)
        assert answer.status == 200, answer.error
    shop.sweep()
    assert shop.world.balance(shop.world.payee) == 12 * CEILING
    assert shop.world.balance(BATCH_SETTLEMENT) == 8 * CEILING


def test_the_same_cumulative_amount_can_pay_twice_and_is_two_payments(shop):
    """A cheap answer leaves room for a voucher with the same total, which is another payment."""
    customer = Customer(shop, "batch-settlement")
    first = customer.ask(b"one", charge=2_000)
    second = customer.ask(b"two", charge=500, tokens=800)
    assert first.status == second.status == 200, second.error
    keys = [answer.payment.authorisation.key for answer in (first, second)]
    assert keys[0].cumulative == keys[1].cumulative
    assert keys[0] != keys[1]
    assert shop.sweep() == 2
    assert shop.world.balance(shop.world.payee) == 2_500


def test_a_charge_that_was_released_is_never_claimed(shop):
    """Assurance that never came is not paid for, though later vouchers continue from its charge."""
    customer = Customer(shop, "batch-settlement")
    first = customer.ask(b"one", charge=5_000, assured=False)
    shop.till.released(shop.machine.release(first.payment.payment_id))
    second = customer.ask(b"two", charge=300)
    assert second.status == 200
    assert second.settled["extra"]["channelState"]["chargedCumulativeAmount"] == "5300"
    assert shop.sweep() == 1
    assert shop.world.balance(shop.world.payee) == 300
    refund = decoded(refunded(shop, customer, 5_300))
    assert refund["amount"] == str(10 * CEILING - 300)
    assert shop.world.balance(BATCH_SETTLEMENT) == 0


def refunded(shop: Shop, customer: Customer, charged: int, amount: str | None = None) -> str:
    from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher

    offered = decoded(shop.till.demand(shop.demand(b"refund")))["accepts"][0]
    config, channel = channel_of(shop, customer)
    signer = customer.scheme._signer
    voucher = sign_voucher(signer, channel, str(charged), offered["network"])
    payload = {"type": "refund", "channelConfig": config.to_dict(), "voucher": voucher.to_dict()}
    if amount is not None:
        payload["amount"] = amount
    answer = shop.till.refund(encoded({"x402Version": 2, "accepted": offered, "payload": payload}))
    assert answer is not None
    return answer


def channel_of(shop: Shop, customer: Customer) -> tuple[ChannelConfig, str]:
    from x402.schemas import PaymentRequirements

    offered = decoded(shop.till.demand(shop.demand(b"refund")))["accepts"][0]
    config = customer.scheme.build_channel_config(PaymentRequirements.model_validate(offered))
    return config, compute_channel_id(config, offered["network"])


def test_what_is_left_in_a_channel_is_refunded_and_the_channel_lives_on(shop):
    """Less than all goes back first, then all but what is owed, and a new deposit continues."""
    customer = Customer(shop, "batch-settlement")
    before = shop.world.balance(customer.address)
    customer.ask(b"one", charge=1_000)
    some = decoded(refunded(shop, customer, 1_000, "10000"))
    assert (some["success"], some["amount"]) == (True, "10000")
    rest = decoded(refunded(shop, customer, 1_000))
    assert rest["amount"] == str(10 * CEILING - 10_000 - 1_000)
    assert before - shop.world.balance(customer.address) == 1_000
    shop.sweep()
    with pytest.raises(Error, match="nothing is left"):
        refunded(shop, customer, 1_000)
    customer.scheme._storage.delete(channel_of(shop, customer)[1].lower())
    again = customer.ask(b"two", charge=70)
    assert again.status == 200, again.error
    shop.sweep()
    assert {payment.state for payment in shop.payments.unfinished()} == set()


def test_a_payment_that_is_presented_again_is_the_same_payment(shop):
    """Copies of a payment for one request run once, in every scheme."""
    approve_permit2(shop.world)
    for payer, scheme in enumerate(["exact", "batch-settlement"]):
        customer = Customer(shop, scheme, payer)
        demand = shop.demand(b"one")
        _, header = customer.sign(shop.till.demand(demand))
        ran = shop.ran
        first = shop.serve(header, demand, charge=100)
        again = shop.serve(header, demand, charge=100)
        assert first.payment_id == again.payment_id
        assert shop.ran == ran + 1
        assert again.answer == b"answer"


def test_a_client_that_lost_track_is_put_right(shop):
    """A voucher that does not continue gets a 402 from which the stock client goes on."""
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"one", charge=1_000)
    forgetful = Customer(shop, "batch-settlement")
    _, channel = channel_of(shop, customer)
    known = customer.scheme._storage.get(channel.lower())
    stale = known.copy()
    stale.charged_cumulative_amount = "0"
    forgetful.scheme._storage.set(channel.lower(), stale)
    answer = forgetful.ask(b"two", charge=500)
    assert answer.status == 200, answer.error
    assert answer.settled["extra"]["channelState"]["chargedCumulativeAmount"] == "1500"
    assert shop.ran == 2


def test_a_channel_pays_for_one_request_at_a_time(shop):
    """A second request is refused as busy until the first was delivered or given up."""
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"zero", charge=10)
    demand, other = shop.demand(b"one"), shop.demand(b"two")
    _, header = customer.sign(shop.till.demand(demand))
    _, payment, _ = shop.reserve(header, demand)
    with pytest.raises(Error) as refused:
        shop.till.read(header, other)
    assert refused.value.reason is Reason.PAYMENT_BUSY
    assert decoded(shop.till.demand(other, refused.value))["error"].endswith("channel_busy")
    shop.till.released(shop.machine.release(payment.payment_id))
    assert shop.serve(header, other, charge=5).charge == 5


def test_a_channel_is_free_again_after_a_crash(tmp_path):
    """Whatever the process did not get to say, the next one finds out from the payments."""
    clock = Clock()
    shop = Shop(tmp_path, clock)
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"zero", charge=10)
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    _, payment, _ = shop.reserve(header, demand)
    shop.machine.execute(payment.payment_id)
    shop.machine.deliver(payment.payment_id, b"answer", charge=20)
    # Here the process ends: the till was not told of the delivery.
    shop.close()
    shop = Shop(tmp_path, clock)
    customer.shop = shop
    answer = customer.ask(b"two", charge=5)
    assert answer.status == 200, answer.error
    assert answer.settled["extra"]["channelState"]["chargedCumulativeAmount"] == "35"
    # And here: it was read, and never reserved.
    _, header = customer.sign(shop.till.demand(demand))
    shop.till.read(header, shop.demand(b"three"))
    shop.close()
    clock.ahead = 31
    shop = Shop(tmp_path, clock)
    customer.shop = shop
    assert customer.ask(b"four", charge=5).status == 200
    shop.close()


def test_channel_ids_are_those_of_the_package(shop):
    """What this software derives for itself is what the `x402` package derives."""
    config, channel = channel_of(shop, Customer(shop, "batch-settlement"))
    ours = (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        bytes.fromhex(config.salt[2:]),
    )
    assert "0x" + channel_id_of(shop.world.chain.chain_id, ours).hex() == channel


def test_identifiers_are_the_payers_own(shop):
    """The client's payment identifier is read, and one that is none is refused."""
    customer = Customer(shop, "exact")
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    value = decoded(header)
    value["extensions"]["payment-identifier"]["info"]["id"] = "a-name-of-the-payer"
    presented = shop.till.read(encoded(value), demand)
    assert presented.identifier == "a-name-of-the-payer"
    value["extensions"]["payment-identifier"]["info"]["id"] = "short"
    with pytest.raises(Error) as refused:
        shop.till.read(encoded(value), demand)
    assert refused.value.reason is Reason.MALFORMED_PAYMENT


def test_a_voucher_is_served_without_asking_the_chain(shop):
    """Between one look at a channel and the next, nothing of the chain is touched."""
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"zero", charge=10)
    calls = []
    provider = shop.world.chain.web3.provider
    ask = provider.make_request
    provider.make_request = lambda *args: calls.append(args) or ask(*args)
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    calls.clear()
    shop.serve(header, demand, charge=10)
    assert calls == []
