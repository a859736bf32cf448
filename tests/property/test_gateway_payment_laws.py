"""The laws of money over a whole gateway: real store, till, chain and HTTP, in any order of events.

Nothing is served unpaid, nothing is taken twice or without an answer, and no payment is lost, with
an engine that fails, a settlement that hangs before or after it moved the money, and restarts.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from paid_gateway import PaidChannel, opened, run_paid_gateway

from verispect.core.errors import NetworkError, Reason
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.store import State
from verispect.testing.echo_model import EchoLanguageModel

MANNERS = ("honest", "hangs", "settles and hangs")
FINAL = {State.CAPTURED, State.RELEASED, State.FAILED}
_SETTLE = ChainSettlement.settle


class Shop(RuleBasedStateMachine):
    """Any order of payments, copies, failures, restarts and sweeps."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        self.manner = "honest"
        self.model = EchoLanguageModel()
        self.headers: list[str] = []
        self.answers: dict[str, bytes] = {}
        self.running: Any = None
        self.channel: PaidChannel | None = None
        self.voucher: str | None = None

    @initialize()
    def begin(self) -> None:
        self.patch.setattr(ChainSettlement, "settle", self._settle)
        self._start()
        self.start_payer = self.gateway.balance("payer-0")

    def _start(self) -> None:
        self.running = run_paid_gateway(self.folder, self.model)
        self.gateway = self.running.__enter__()

    def _settle(self, *arguments: Any) -> None:
        # A method of this object in the place of one of the settlement: it is called without it.
        if self.manner != "hangs":
            _SETTLE(self.gateway.payments.till.backend.settlement, *arguments)
        if self.manner != "honest":
            raise NetworkError("timed out", reason=Reason.NETWORK_FAILED)

    def teardown(self) -> None:
        if self.running is not None:
            self.running.__exit__(None, None, None)
        self.stack.close()

    @rule(new=st.booleans(), manner=st.sampled_from(MANNERS), fails=st.booleans(), data=st.data())
    def present(self, new: bool, manner: str, fails: bool, data: st.DataObject) -> None:
        """A transfer's answer leaves once the chain has the money, and is always the same."""
        if new or not self.headers:
            self.headers.append(self.gateway.pay())
        self.manner, self.model.fail_after = manner, 0 if fails else None
        header = data.draw(st.sampled_from(self.headers))
        before = self.gateway.balance("payee")
        answer = self.gateway.ask(header)
        assert answer.status_code in {200, 402, 500, 503}, answer.text
        if answer.status_code == 200:
            assert opened(answer.headers["payment-response"])["success"], "served unpaid"
            assert self.answers.setdefault(header, answer.content) == answer.content
        elif header in self.answers:
            raise AssertionError(f"an answer that was paid for is gone: {answer.text}")
        assert self.gateway.balance("payee") - before in {0, 219}

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def present_for_another(self, data: st.DataObject) -> None:
        """A spent transfer buys nothing else."""
        header = data.draw(st.sampled_from(sorted(self.answers)))
        started = self.model.started
        assert self.gateway.ask(header, user="somebody else").status_code == 409
        assert self.model.started == started

    @rule(fails=st.booleans())
    def use_a_channel(self, fails: bool) -> None:
        """A voucher that was answered is charged; one that was not can be signed again."""
        self.model.fail_after = 0 if fails else None
        if self.channel is None:
            self.channel = self.gateway.channel()
        header = self.channel.sign(self.gateway.ask())
        answer = self.gateway.ask(header)
        if answer.status_code == 200:
            self.channel.paid(opened(answer.headers["payment-response"]))
            self.voucher = header
        else:
            assert self.model.fail_after == 0 or answer.status_code == 402, answer.text
            # A deposit that came with it is there all the same.
            self.channel._is_open = self.gateway.world.balance(BATCH_SETTLEMENT) > 0

    @precondition(lambda self: self.voucher)
    @rule()
    def replay_a_voucher(self) -> None:
        """A voucher that was answered runs nothing again."""
        started = self.model.started
        self.gateway.ask(self.voucher)
        assert self.model.started == started

    @rule()
    def restart(self) -> None:
        """The process ends and starts again on the same disk."""
        self.running.__exit__(None, None, None)
        self._start()

    @rule()
    def sweep(self) -> None:
        """What channels owe is claimed."""
        self.gateway.payments.watch._sweep()

    @precondition(lambda self: self.running is not None)
    @invariant()
    def money_is_conserved(self) -> None:
        """What the payer spent is with the payee or in channels; what was taken was answered."""
        for _ in range(50):
            # A transfer may be on its way in the background while the three are read.
            spent = self.start_payer - self.gateway.balance("payer-0")
            payee = self.gateway.balance("payee")
            held = self.gateway.world.balance(BATCH_SETTLEMENT)
            if spent == payee + held:
                break
            time.sleep(0.02)
        assert spent == payee + held
        charged = self.channel.charged if self.channel is not None else 0
        owed = self.gateway.payments.store.unfinished()
        transfers = [each for each in owed if each.authorisation.scheme is Scheme.EXACT]
        most = 219 * (len(self.answers) + len(transfers)) + charged
        assert payee <= most, "taken without an answer"

    def check_end(self) -> None:
        """Once everything works again, every payment that was answered ends captured."""
        self.manner = "honest"
        deadline = time.monotonic() + 20
        store = self.gateway.payments.store
        while time.monotonic() < deadline:
            for header in self.headers:
                self.gateway.ask(header)
            self.gateway.payments.watch._sweep()
            if not store.unfinished():
                break
            time.sleep(0.1)
        assert {state for state, _ in store.totals().items()} <= FINAL


class ShopThatEnds(Shop):
    """Also looks at the end."""

    def teardown(self) -> None:
        try:
            if self.running is not None:
                self.check_end()
        finally:
            super().teardown()


ShopThatEnds.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestGatewayPaymentLaws = ShopThatEnds.TestCase
