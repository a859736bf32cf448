"""Payments under crashes, copies and a facilitator that fails or lies, step by step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Error, NetworkError, Reason, RequestError
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme
from verispect.payments.machine import PaymentMachine
from verispect.payments.settlement import Finding, Standing
from verispect.payments.store import Payment, PaymentStore, State

FUNDS = 10_000
CEILING = 100
NETWORK = "eip155:31337"
TOKEN = "0x" + "ab" * 20
PAYER = "0x" + "cd" * 20
NAMES = st.integers(0, 3)
MANNERS = ["honest", "silent", "lying", "broken", "crash-before", "crash-after", "unseen"]


class ProcessDied(BaseException):
    """The process ended here."""


class Bank:
    """A ledger with nonces, and a facilitator before it with the manners of the moment."""

    def __init__(self) -> None:
        self.payer, self.payee = FUNDS, 0
        self.paid: dict[str, int] = {}
        self.transfers: list[str] = []
        self.manner = "honest"
        self.time = 1000

    def settle(self, payment: Payment, amount: int) -> None:
        if self.manner == "crash-before":
            raise ProcessDied
        if self.manner == "broken":
            raise NetworkError("refused", reason=Reason.CHAIN_FAILED)
        if self.manner != "lying":
            self._transfer(payment, amount)
        if self.manner == "crash-after":
            raise ProcessDied
        if self.manner == "silent":
            raise NetworkError("timed out after settling", reason=Reason.NETWORK_FAILED)

    def _transfer(self, payment: Payment, amount: int) -> None:
        mark = payment.authorisation.key.mark
        if mark in self.paid or self.time >= payment.authorisation.valid_before:
            raise NetworkError("reverted", reason=Reason.CHAIN_FAILED)
        self.payer, self.payee = self.payer - amount, self.payee + amount
        self.paid[mark] = amount
        self.transfers.append(mark)

    def look(self, payment: Payment, amount: int) -> Finding:
        mark = payment.authorisation.key.mark
        if self.manner == "unseen":
            return Finding(Standing.UNKNOWN)
        if mark in self.paid:
            return Finding(Standing.PAID, "0x" + sha256(mark.encode()).hex())
        if self.time >= payment.authorisation.valid_before:
            return Finding(Standing.VOID)
        return Finding(Standing.UNUSED)


def authorisation(name: int, scheme: Scheme, valid_before: int) -> Authorisation:
    key = AuthorisationKey.of_transfer(NETWORK, TOKEN, PAYER, "0x" + f"{name:064x}")
    return Authorisation(key, scheme, CEILING, valid_before, b"{}")


class PaymentLife(RuleBasedStateMachine):
    """Any order of requests, deliveries, failures, assurance, captures and crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bank = Bank()
        self.served: dict[int, list[int]] = {}
        self.assured: set[int] = set()
        self.delivered: dict[int, bytes] = {}
        self.owed: set[int] = set()
        self._open()

    def _open(self) -> None:
        self.store = PaymentStore(Path(self.folder.name) / "payments.sqlite3")
        self.machine = PaymentMachine(self.store, self.bank, now=lambda: self.bank.time)

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def _id(self, name: int) -> Digest:
        return authorisation(name, Scheme.UPTO, 1).key.digest()

    def _state(self, name: int) -> State | None:
        payment = self.store.get(self._id(name))
        return None if payment is None else payment.state

    @rule(name=NAMES, request=st.integers(0, 1), scheme=st.sampled_from(Scheme))
    def present(self, name: int, request: int, scheme: Scheme) -> None:
        """A copy never runs, and another request is refused."""
        before = self.store.get(self._id(name))
        digest = sha256(bytes([request]))
        try:
            reservation = self.machine.reserve(
                authorisation(name, scheme, self.bank.time + 50),
                request=digest,
                sheet=sha256(b"sheet"),
                ceiling=CEILING,
                deadline=self.bank.time + 30,
            )
        except RequestError as error:
            if error.reason is not Reason.PAYMENT_CONFLICT or before is None:
                raise
            assert before.request != digest
            return
        assert reservation.is_new == (before is None)
        if before is not None:
            assert reservation.payment == before
            assert before.request == digest
        if reservation.is_new:
            self.machine.execute(self._id(name))
            self.served.setdefault(name, []).append(request)

    @rule(name=NAMES, charge=st.integers(0, CEILING))
    def deliver(self, name: int, charge: int) -> None:
        try:
            stored = self.machine.deliver(self._id(name), bytes([name]), charge=charge)
        except Error:
            assert self._state(name) is not State.EXECUTING
            return
        self.delivered[name] = bytes([name])
        if stored.authorisation.scheme.is_fixed:
            assert stored.charge in {0, CEILING}
        else:
            assert stored.charge == charge

    @rule(name=NAMES)
    def fail(self, name: int) -> None:
        try:
            self.machine.release(self._id(name))
        except Error:
            assert name not in self.served or name in self.owed

    @rule(name=NAMES)
    def assure(self, name: int) -> None:
        try:
            payment = self.machine.assurance_met(self._id(name))
        except Error:
            assert self._state(name) is not State.DELIVERED
            return
        if payment.charge != 0 and name not in self.owed:
            assert payment.state is State.CAPTURING
            self.assured.add(name)
            self.owed.add(name)

    @rule(name=NAMES, manner=st.sampled_from(MANNERS))
    def capture(self, name: int, manner: str) -> None:
        self.bank.manner = manner
        try:
            self.machine.capture(self._id(name))
        except ProcessDied:
            self.crash()
        except Error:
            assert name not in self.owed
        finally:
            self.bank.manner = "honest"

    @rule(manner=st.sampled_from(MANNERS))
    def reconcile(self, manner: str) -> None:
        self.bank.manner = manner
        try:
            self.machine.reconcile()
        except ProcessDied:
            self.crash()
        finally:
            self.bank.manner = "honest"

    @rule()
    def crash(self) -> None:
        """The process ends without closing anything, and another one begins."""
        before = {name: self._state(name) for name in range(4)}
        self.store.close()
        self._open()
        self.machine.recover()
        for name, state in before.items():
            if state in {State.RESERVED, State.EXECUTING}:
                assert self._state(name) is State.RELEASED
            else:
                assert self._state(name) is state

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.bank.time += seconds

    @precondition(lambda self: self.owed)
    @rule()
    def settle_all(self) -> None:
        """With an honest facilitator and a chain to ask, every debt comes to its end."""
        self.bank.manner = "honest"
        self.machine.reconcile()
        for name in self.owed:
            payment = self.store.get(self._id(name))
            assert payment is not None
            assert payment.state in {State.CAPTURED, State.FAILED}
            if payment.state is State.FAILED:
                assert self.bank.time >= payment.authorisation.valid_before

    @invariant()
    def money_is_conserved_and_earned(self) -> None:
        """Every unit that moved was owed, moved once, and is not denied; no answer is lost."""
        assert self.bank.payer + self.bank.payee == FUNDS
        assert len(self.bank.transfers) == len(set(self.bank.transfers))
        for name in range(4):
            payment = self.store.get(self._id(name))
            if payment is None:
                assert name not in self.served
                continue
            moved = self.bank.paid.get(payment.authorisation.key.mark)
            assert len(self.served.get(name, [])) == 1
            if moved is not None:
                assert name in self.assured
                assert moved == payment.charge
                assert payment.state in {State.CAPTURING, State.PENDING, State.CAPTURED}
            if payment.state is State.CAPTURED:
                assert moved == payment.charge
                assert payment.settled is not None
            if name in self.delivered:
                assert payment.answer == self.delivered[name]
            if name in self.owed:
                assert payment.state not in {State.RELEASED, State.DELIVERED}


PaymentLife.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPaymentLife = PaymentLife.TestCase
