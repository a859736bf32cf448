"""A channel under deliveries, releases, crashes, copies, sweeps and refunds, on a real chain.

What the payee gets is what was owed and nothing else, what the payer loses is what the payee got
and what is left in the channel, and every payment whose assurance was met is captured in the end.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from test_payments_till import channel_of, refunded
from till_shop import CEILING, Customer, Shop

from verispect.core.errors import Error
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.store import State


class ChannelLife(RuleBasedStateMachine):
    """One payer, one channel, and a shop whose process ends at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.shop = Shop(self.folder)
        self.customer = Customer(self.shop, "batch-settlement")
        self.before = self.shop.world.balance(self.customer.address)
        self.earned: dict[bytes, int] = {}
        self.waiting: list[bytes] = []
        self.requests = 0
        self.last: tuple[str, bytes] | None = None

    @property
    def body(self) -> bytes:
        self.requests += 1
        return b"request %d" % self.requests

    @rule(charge=st.integers(1, CEILING), assured=st.booleans())
    def buy(self, charge: int, assured: bool) -> None:
        answer = self.customer.ask(self.body, charge=charge, assured=assured)
        assert answer.status == 200, answer.error
        if assured:
            self.earned[answer.payment.payment_id] = charge
        else:
            self.waiting.append(answer.payment.payment_id)

    @rule(charge=st.integers(1, CEILING))
    def buy_and_lose_the_answer(self, charge: int) -> None:
        """The client never learns what it was charged."""
        body = self.body
        demand = self.shop.demand(body)
        _, header = self.customer.sign(self.shop.till.demand(demand))
        try:
            payment = self.shop.serve(header, demand, charge=charge)
        except Error:
            return
        self.earned[payment.payment_id] = charge
        self.last = (header, body)

    @precondition(lambda self: self.last is not None)
    @rule()
    def present_it_again(self) -> None:
        header, body = self.last
        ran = self.shop.ran
        self.shop.serve(header, self.shop.demand(body), charge=1)
        assert self.shop.ran == ran

    @precondition(lambda self: self.waiting)
    @rule(first=st.booleans(), met=st.booleans())
    def assurance(self, first: bool, met: bool) -> None:
        payment_id = self.waiting.pop(0 if first else -1)
        payment = self.shop.payments.get(payment_id)
        if met:
            self.shop.machine.assurance_met(payment_id)
            self.shop.machine.capture(payment_id)
            self.earned[payment_id] = payment.charge
        else:
            self.shop.till.released(self.shop.machine.release(payment_id))

    @rule(delivered=st.booleans(), charge=st.integers(1, CEILING))
    def die_in_the_middle(self, delivered: bool, charge: int) -> None:
        """The process ends while a request runs, or before the till hears of its answer."""
        demand = self.shop.demand(self.body)
        _, header = self.customer.sign(self.shop.till.demand(demand))
        try:
            _, payment, _ = self.shop.reserve(header, demand)
        except Error:
            return
        self.shop.machine.execute(payment.payment_id)
        if delivered:
            self.shop.machine.deliver(payment.payment_id, b"answer", charge=charge)
            self.waiting.append(payment.payment_id)
        self.shop.close()
        self.shop = Shop(self.folder)
        self.customer.shop = self.shop

    @rule()
    def sweep(self) -> None:
        self.shop.sweep()

    @precondition(lambda self: not self.waiting)
    @rule()
    def refund(self) -> None:
        channel = bytes.fromhex(channel_of(self.shop, self.customer)[1][2:])
        known = self.shop.till._store.get(channel)
        if known is None or known.state.deposited <= known.owed:
            return
        refunded(self.shop, self.customer, known.announced)
        self.customer.scheme._storage.delete("0x" + channel.hex())

    @invariant()
    def money_is_where_it_was_earned(self) -> None:
        payee = self.shop.world.balance(self.shop.world.payee)
        channel = self.shop.world.balance(BATCH_SETTLEMENT)
        lost = self.before - self.shop.world.balance(self.customer.address)
        assert lost == payee + channel
        assert payee <= sum(self.earned.values())

    def teardown(self) -> None:
        self.shop.sweep()
        for payment_id in self.earned:
            assert self.shop.payments.get(payment_id).state is State.CAPTURED
        assert self.shop.world.balance(self.shop.world.payee) == sum(self.earned.values())
        self.shop.close()
        shutil.rmtree(self.folder)


ChannelLife.TestCase.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
TestChannelLife = ChannelLife.TestCase
