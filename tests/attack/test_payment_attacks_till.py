"""Attacks on the till: payments that are false, spent, promised twice or rolled back."""

from __future__ import annotations

import copy
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from payment_wires import approve_permit2
from test_payments_till import channel_of, refunded
from till_shop import CEILING, Clock, Customer, Shop, decoded, encoded

from verispect.core.encoding import sha256
from verispect.core.errors import Error, MalformedError, Reason
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.development import TOKEN_ADDRESS
from verispect.payments.chain.vouchers import send_and_wait
from verispect.payments.store import Payment, State
from verispect.payments.till import Demand

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CONFIG = "(address,address,address,address,address,uint40,bytes32)"
STRANGER = "0x" + "12" * 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    approve_permit2(shop.world)
    yield shop
    shop.close()


def signed(shop: Shop, scheme: str, payer: int = 0, body: bytes = b"one") -> dict[str, Any]:
    """A good payment, as its header says."""
    customer = Customer(shop, scheme, payer)
    return decoded(customer.sign(shop.till.demand(shop.demand(body)))[1])


def refusal(shop: Shop, value: dict[str, Any] | str, body: bytes = b"one") -> Error:
    header = value if isinstance(value, str) else encoded(value)
    with pytest.raises(Error) as refused:
        shop.till.read(header, shop.demand(body))
    return refused.value


def mirrored(signature: str) -> str:
    raw = bytes.fromhex(signature.removeprefix("0x"))
    other = ORDER - int.from_bytes(raw[32:64])
    return "0x" + (raw[:32] + other.to_bytes(32) + bytes([55 - raw[64]])).hex()


def changed(value: dict[str, Any], path: str, new: Any) -> dict[str, Any]:
    value = copy.deepcopy(value)
    *parents, last = path.split(".")
    part = value
    for name in parents:
        part = part[name]
    part[last] = new(part[last]) if callable(new) else new
    return value


EXACT = "payload.authorization."
PERMIT = "payload.permit2Authorization."


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("accepted.network", "eip155:8453"),
        ("accepted.asset", STRANGER),
        ("accepted.payTo", STRANGER),
        ("accepted.amount", "1"),
        ("accepted.scheme", "upto"),
        ("accepted.extra.assetTransferMethod", "permit2"),
        (EXACT + "to", STRANGER),
        (EXACT + "value", "1"),
        (EXACT + "value", str(CEILING + 1)),
        (EXACT + "from", STRANGER),
        (EXACT + "nonce", "0x" + "ab" * 32),
        (EXACT + "validBefore", "1"),
        (EXACT + "validBefore", "99999999999"),
        (EXACT + "validAfter", "99999999999"),
        ("payload.signature", mirrored),
        ("payload.signature", lambda signature: signature + "00"),
        ("payload.signature", "0x" + "00" * 65),
    ],
)
def test_a_fixed_transfer_that_is_not_as_demanded_buys_nothing(shop, path, new):
    """Another chain, token, payee, amount, time, payer, nonce or form of signature is refused."""
    error = refusal(shop, changed(signed(shop, "exact"), path, new))
    assert error.reason in {Reason.PAYMENT_INVALID, Reason.MALFORMED_PAYMENT}


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (PERMIT + "witness.facilitator", STRANGER),
        (PERMIT + "witness.to", STRANGER),
        (PERMIT + "spender", STRANGER),
        (PERMIT + "permitted.token", STRANGER),
        (PERMIT + "permitted.amount", "1"),
        (PERMIT + "deadline", "1"),
        (PERMIT + "nonce", "7"),
        ("payload.signature", mirrored),
    ],
)
def test_a_metered_transfer_that_is_not_as_demanded_buys_nothing(shop, path, new):
    """Another facilitator, payee, contract, token, amount, time or nonce is refused."""
    error = refusal(shop, changed(signed(shop, "upto"), path, new))
    assert error.reason in {Reason.PAYMENT_INVALID, Reason.MALFORMED_PAYMENT}


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("payload.voucher.maxClaimableAmount", str(2 * CEILING)),
        ("payload.voucher.channelId", "0x" + "ab" * 32),
        ("payload.voucher.signature", mirrored),
        ("payload.voucher.signature", "0x" + "11" * 65),
        ("payload.channelConfig.receiver", STRANGER),
        ("payload.channelConfig.receiverAuthorizer", STRANGER),
        ("payload.channelConfig.token", STRANGER),
        ("payload.channelConfig.withdrawDelay", 900),
        ("payload.channelConfig.payerAuthorizer", "0x" + "00" * 20),
        ("payload.channelConfig.salt", "0x" + "22" * 32),
        ("payload.type", "refund"),
        ("payload.deposit.amount", "1"),
        ("payload.deposit.authorization.erc3009Authorization.signature", "0x" + "11" * 65),
    ],
)
def test_a_voucher_that_is_not_as_demanded_buys_nothing(shop, path, new):
    """Another channel, payee, delay, amount or signature is refused, before any deposit is made."""
    before = shop.world.balance(BATCH_SETTLEMENT)
    error = refusal(shop, changed(signed(shop, "batch-settlement", 5), path, new))
    assert error.reason in {Reason.PAYMENT_INVALID, Reason.MALFORMED_PAYMENT, Reason.PAYMENT_STALE}
    assert shop.world.balance(BATCH_SETTLEMENT) == before


def test_a_payment_for_one_request_does_not_buy_another(shop):
    """A replay for another request is a conflict, and is not run."""
    value = encoded(signed(shop, "exact", 1, b"mine"))
    shop.serve(value, shop.demand(b"mine"), charge=10)
    ran = shop.ran
    with pytest.raises(Error) as refused:
        shop.serve(value, shop.demand(b"other"), charge=10)
    assert refused.value.reason is Reason.PAYMENT_CONFLICT
    assert shop.ran == ran


def test_a_copy_is_given_to_nobody_without_the_signature(shop):
    """Who knows nonce and request, and not the signature, does not get the stored answer."""
    value = signed(shop, "exact", 1, b"secret")
    shop.serve(encoded(value), shop.demand(b"secret"), charge=10)
    for false in (changed(value, "payload.signature", "0x" + "11" * 64 + "1b"),):
        assert refusal(shop, false, b"secret").reason is Reason.PAYMENT_INVALID


def test_a_nonce_that_is_spent_on_the_chain_buys_nothing(shop):
    """Front-run: the transfer was made by somebody else, before it was presented to us."""
    from verispect.payments.x402_adapter_facilitator import X402Facilitator

    value = signed(shop, "exact", 2, b"front-run")
    made = X402Facilitator(shop.world.signer("payer-7")).settle(value, value["accepted"])
    assert made["success"], made
    assert refusal(shop, value, b"front-run").reason is Reason.PAYMENT_INVALID


def test_the_same_money_is_not_promised_twice(tmp_path):
    """A payer may not have more on promise than it has, over all that is not captured."""
    shop = Shop(tmp_path)
    data = call_data(
        "transfer(address,uint256)",
        shop.world.payer(1).address,
        shop.world.balance(shop.world.payer().address) - 2 * CEILING,
    )
    send_and_wait(shop.world.signer("payer-0"), TOKEN_ADDRESS, data)
    customer = Customer(shop, "exact")
    demands = [shop.demand(b"%d" % number) for number in range(8)]
    headers = [customer.sign(shop.till.demand(demand))[1] for demand in demands]

    def read(number: int) -> bool:
        try:
            shop.till.read(headers[number], demands[number])
        except Error:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        read_well = list(threads.map(read, range(8)))
    assert sum(read_well) == 2
    for number in range(8):
        if read_well[number]:
            shop.serve(headers[number], demands[number], charge=1)
    assert shop.world.balance(shop.world.payee) == 2 * CEILING
    shop.close()


def test_an_older_voucher_buys_nothing(tmp_path):
    """Rolled back to what it signed before, a payer is refused, and told where its channel is."""
    shop = Shop(tmp_path)
    customer = Customer(shop, "batch-settlement")
    headers = []
    for number in range(3):
        demand = shop.demand(b"%d" % number)
        payload, header = customer.sign(shop.till.demand(demand))
        payment = shop.serve(header, demand, charge=CEILING)
        response = {"PAYMENT-RESPONSE": shop.till.response(payment, None)}
        customer.http.process_payment_result(payload, response.get, 200)
        headers.append(header)
    for header in headers:
        error = refusal(shop, header, b"another")
        assert error.reason is Reason.PAYMENT_STALE
        offered = decoded(shop.till.demand(shop.demand(b"another"), error))
        state = offered["accepts"][0]["extra"]
        assert state["channelState"]["chargedCumulativeAmount"] == str(3 * CEILING)
        assert state["voucherState"]["signedMaxClaimable"] == str(3 * CEILING)
    shop.close()


def test_a_payer_that_leaves_buys_nothing_more_and_pays_what_it_owes(tmp_path):
    """Once a withdrawal is asked for, vouchers are refused, and what is owed is claimed in time."""
    clock = Clock()
    shop = Shop(tmp_path, clock)
    customer = Customer(shop, "batch-settlement")
    assert customer.ask(b"one", charge=5_000).status == 200
    config, _ = channel_of(shop, customer)
    fields = (*list(config.to_dict().values())[:6], bytes.fromhex(config.salt[2:]))
    payer = shop.world.signer("payer-0")
    data = call_data(f"initiateWithdraw({CONFIG},uint128)", fields, 10 * CEILING)
    send_and_wait(payer, BATCH_SETTLEMENT, data)
    clock.ahead = 61
    left = customer.ask(b"two")
    assert (left.status, left.error.reason) == (402, Reason.PAYMENT_INVALID)
    assert shop.sweep() == 1
    clock.ahead = 86_500
    send_and_wait(payer, BATCH_SETTLEMENT, call_data(f"finalizeWithdraw({CONFIG})", fields))
    assert shop.world.balance(shop.world.payee) == 5_000
    assert shop.world.balance(BATCH_SETTLEMENT) == 0
    shop.close()


def test_a_deposit_is_made_once_whoever_sends_it_how_often(tmp_path):
    """Copies of a first payment at once make one deposit and one inference."""
    shop = Shop(tmp_path)
    customer = Customer(shop, "batch-settlement")
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    with ThreadPoolExecutor(8) as threads:
        paid = list(
            threads.map(lambda _: shop.serve(header, demand, charge=7).payment_id, range(24))
        )
    assert len(set(paid)) == 1
    assert shop.ran == 1
    assert shop.world.balance(BATCH_SETTLEMENT) == 10 * CEILING
    shop.close()


def test_giving_a_copy_up_does_not_free_the_channel_of_the_other(tmp_path):
    """Two vouchers of one base never run at once, though a copy of the first is given up."""
    shop = Shop(tmp_path)
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"before", charge=1)
    one, two = shop.demand(b"one"), shop.demand(b"two")
    _, header = customer.sign(shop.till.demand(one))

    def give_up(demand: Demand) -> None:
        key = shop.till.read(header, demand).authorisation
        shop.till.released(
            Payment(key, demand.request, demand.quote.sheet, demand.quote.ceiling, 0)
        )

    first = shop.till.read(header, one)
    give_up(one)
    assert refusal(shop, header, b"two").reason is Reason.PAYMENT_BUSY
    _, payment, is_new = shop.reserve(header, one)
    assert is_new
    assert payment.payment_id == first.authorisation.key.digest()
    give_up(one)
    assert refusal(shop, header, b"two").reason is Reason.PAYMENT_BUSY
    shop.till.released(shop.machine.release(payment.payment_id))
    give_up(two)
    assert shop.serve(header, one, charge=3).charge == 3
    shop.close()


def test_a_payment_that_is_reserved_late_keeps_its_channel(tmp_path):
    """A hold that ended is not the end of a payment that was reserved after all."""
    clock = Clock()
    shop = Shop(tmp_path, clock)
    customer = Customer(shop, "batch-settlement")
    customer.ask(b"before", charge=1)
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    late = shop.till.read(header, demand).authorisation
    clock.ahead = 31
    key = shop.till.read(header, shop.demand(b"two")).authorisation
    shop.till.released(Payment(key, sha256(b"two"), demand.quote.sheet, CEILING, 0))
    shop.machine.reserve(
        late,
        request=demand.request,
        sheet=demand.quote.sheet,
        ceiling=CEILING,
        deadline=shop.clock() + demand.lasting_seconds,
    )
    assert refusal(shop, header, b"three").reason is Reason.PAYMENT_BUSY
    shop.close()


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
def test_a_thousand_copies_buy_one_inference(tmp_path, scheme):
    """However many copies of one payment come at once, one of them is run."""
    shop = Shop(tmp_path)
    customer = Customer(shop, scheme)
    if scheme == "batch-settlement":
        customer.ask(b"before", charge=1)
        shop.ran = 0
    demand = shop.demand(b"one")
    _, header = customer.sign(shop.till.demand(demand))
    with ThreadPoolExecutor(16) as threads:
        is_new = list(threads.map(lambda _: shop.reserve(header, demand)[2], range(1_000)))
    assert sum(is_new) == 1
    shop.close()


def test_a_refund_takes_nothing_that_is_owed_or_may_be(tmp_path):
    """While an answer awaits its assurance nothing goes back, and a stranger gets nothing."""
    shop = Shop(tmp_path)
    customer = Customer(shop, "batch-settlement")
    answer = customer.ask(b"one", charge=4_000, assured=False)
    with pytest.raises(Error) as refused:
        refunded(shop, customer, 4_000)
    assert refused.value.reason is Reason.PAYMENT_BUSY
    shop.machine.assurance_met(answer.payment.payment_id)
    shop.machine.capture(answer.payment.payment_id)
    with pytest.raises(Error) as refused:
        refunded(shop, customer, 3_999)
    assert refused.value.reason is Reason.PAYMENT_STALE
    for amount in ("0", "-1", "1e3", str(10 * CEILING)):
        with pytest.raises(Error):
            refunded(shop, customer, 4_000, amount)
    assert decoded(refunded(shop, customer, 4_000))["amount"] == str(10 * CEILING - 4_000)
    shop.sweep()
    assert shop.world.balance(shop.world.payee) == 4_000
    (state,) = {payment.state for payment in [shop.payments.get(answer.payment.payment_id)]}
    assert state is State.CAPTURED
    shop.close()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "!!!",
        "e30=",
        "bnVsbA==",
        "A" * 20_000,
        encoded({"x402Version": 1}),
        encoded({"x402Version": True, "accepted": {}, "payload": {}}),
        encoded({"x402Version": 2, "accepted": [], "payload": {}}),
        encoded({"x402Version": 2, "accepted": {"scheme": "exact"}, "payload": {}}),
    ],
)
def test_a_header_that_is_no_payment_is_refused_by_name(shop, header):
    """Empty, huge and malformed headers are told apart from payments that are false."""
    error = refusal(shop, header)
    assert isinstance(error, MalformedError)
    assert error.reason in {Reason.MALFORMED_PAYMENT, Reason.TOO_LARGE}


def test_what_two_readers_could_read_as_two_things_is_refused(shop):
    """A key given twice, a fraction, and depth without end are no payments."""
    import base64

    text = json.dumps(signed(shop, "exact"))
    twice = text.replace('"x402Version"', '"x402Version": 1, "x402Version"', 1)
    fraction = text.replace('"x402Version": 2', '"x402Version": 2.0', 1)
    deep = text.replace('"x402Version"', '"x": ' + "[" * 40 + "]" * 40 + ', "x402Version"', 1)
    both = signed(shop, "exact")
    both["payload"]["permit2Authorization"] = signed(shop, "upto")["payload"][
        "permit2Authorization"
    ]
    for false in (twice, fraction, deep, json.dumps(both)):
        assert false != text
        error = refusal(shop, base64.b64encode(false.encode()).decode())
        assert error.reason is Reason.MALFORMED_PAYMENT


GOOD: dict[str, dict[str, Any]] = {}
"""One good payment of each scheme, since what is drawn may depend on nothing that changes."""

# A deposit that was made before, for the same voucher, is not looked at again.
UNSIGNED = (["payload", "deposit"], ["payload", "type"])

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 300),
    st.text(max_size=8),
    st.sampled_from(["0x", "0x00", "0x" + "ff" * 32, "-1", "1" * 80, "0x" + "zz" * 20]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("scheme", ["exact", "upto", "batch-settlement"])
def test_whatever_stands_in_a_payment_the_answer_is_one_of_ours(shop, scheme, data):
    """A field of any other type or value is refused with one of our errors, never with another."""
    if scheme not in GOOD:
        GOOD[scheme] = signed(shop, scheme, 6)
    value = GOOD[scheme]
    part: Any = value
    path = []
    while isinstance(part, dict) and part:
        name = data.draw(st.sampled_from(sorted(part)))
        path.append(name)
        part = part[name]
        if data.draw(st.booleans()):
            break
    if path[0] in {"extensions", "resource"}:
        return
    false = changed(value, ".".join(path), lambda _: data.draw(_LEAVES))
    try:
        shop.till.read(encoded(false), shop.demand(b"one"))
    except Error:
        return
    # What was changed did not matter: it is no part of what is signed or demanded.
    assert path[0] == "accepted" or false == value or path[:2] in UNSIGNED
