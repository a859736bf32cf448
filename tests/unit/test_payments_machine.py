"""The life of a payment: copies, terms, deadlines, and what the database itself refuses."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Error, MalformedError
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme
from verispect.payments.machine import PaymentMachine, Reservation
from verispect.payments.settlement import Finding, Standing
from verispect.payments.store import Payment, PaymentStore, State

TOKEN, PAYER = "0x" + "ab" * 20, "0x" + "cd" * 20
NONCE = "0x" + "ef" * 32


class Till:
    """A settlement that moves at once, and counts."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def settle(self, payment: Payment, amount: int) -> None:
        self.taken.append(amount)

    def look(self, payment: Payment, amount: int) -> Finding:
        return Finding(Standing.PAID, "0x01") if self.taken else Finding(Standing.UNUSED)


class Desk:
    """A machine over a store, with a clock that is set."""

    def __init__(self, path: Path) -> None:
        self.time = 1000
        self.till = Till()
        self.store = PaymentStore(path)
        self.machine = PaymentMachine(self.store, self.till, now=lambda: self.time)

    def reserve(
        self,
        *,
        nonce: str = NONCE,
        request: bytes = b"request",
        amount: int = 100,
        scheme: Scheme = Scheme.UPTO,
        valid_before: int = 2000,
        identifier: Digest | None = None,
    ) -> Reservation:
        key = AuthorisationKey.of_transfer("eip155:31337", TOKEN, PAYER, nonce)
        return self.machine.reserve(
            Authorisation(key, scheme, amount, valid_before, b"{}"),
            request=sha256(request),
            sheet=sha256(b"sheet"),
            ceiling=100,
            deadline=1500,
            identifier=identifier,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "payments.sqlite3")


def test_one_payment_buys_one_inference(desk: Desk) -> None:
    """Of many copies at once exactly one runs, and all get its answer."""
    new: list[bool] = []
    answers: list[bytes | None] = []

    def present() -> None:
        reservation = desk.reserve()
        new.append(reservation.is_new)
        payment = reservation.payment.payment_id
        desk.machine.watch(payment, lambda found: answers.append(found.answer))
        if reservation.is_new:
            desk.machine.execute(payment)
            desk.machine.deliver(payment, b"answer", charge=40)

    threads = [threading.Thread(target=present) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert new.count(True) == 1
    assert answers == [b"answer"] * 50


def test_another_request_is_a_conflict(desk: Desk) -> None:
    """An authorisation that is spent on one request buys no other."""
    desk.reserve()
    with pytest.raises(Error, match="payment-conflict"):
        desk.reserve(request=b"another")


def test_another_spelling_is_the_same_authorisation(desk: Desk) -> None:
    """Capitals in a nonce make no second payment of it."""
    assert desk.reserve().is_new
    assert not desk.reserve(nonce=NONCE.upper().replace("0X", "0x")).is_new


@pytest.mark.parametrize("nonce", ["0x" + "ef" * 31, "ef" * 32, NONCE + "\n", "0x" + "é" * 64])
def test_a_key_of_another_form_is_malformed(desk: Desk, nonce: str) -> None:
    """Text that is not a nonce is refused before it is stored."""
    with pytest.raises(MalformedError, match="malformed-payment"):
        desk.reserve(nonce=nonce)


def test_a_payment_that_could_expire_first_is_refused(desk: Desk) -> None:
    """Money that could be gone before assurance comes is not worked for."""
    with pytest.raises(Error, match="payment-overdue"):
        desk.reserve(valid_before=1500)


@pytest.mark.parametrize(("scheme", "amount"), [(Scheme.UPTO, 99), (Scheme.EXACT, 101)])
def test_an_amount_that_does_not_fit_is_refused(desk: Desk, scheme: Scheme, amount: int) -> None:
    """Less than the ceiling pays for nothing, and a fixed scheme pays exactly."""
    with pytest.raises(Error, match="payment-invalid"):
        desk.reserve(scheme=scheme, amount=amount)


def test_nothing_is_captured_without_assurance(desk: Desk) -> None:
    """A delivered answer alone earns nothing, and late assurance earns nothing."""
    payment = desk.reserve().payment.payment_id
    desk.machine.execute(payment)
    desk.machine.deliver(payment, b"answer", charge=40)
    with pytest.raises(Error, match="store-conflict"):
        desk.machine.capture(payment)
    desk.time = 1500
    with pytest.raises(Error, match="payment-overdue"):
        desk.machine.assurance_met(payment)
    assert desk.till.taken == []
    assert desk.store.totals() == {State.RELEASED: (1, 40)}


def test_a_charge_is_captured_once(desk: Desk) -> None:
    """What was metered is taken, and taken once however often it is asked for."""
    payment = desk.reserve().payment.payment_id
    desk.machine.execute(payment)
    with pytest.raises(ValueError, match="exceeds the ceiling"):
        desk.machine.deliver(payment, b"answer", charge=101)
    desk.machine.deliver(payment, b"answer", charge=40)
    desk.machine.assurance_met(payment)
    for _ in range(3):
        assert desk.machine.capture(payment).state is State.CAPTURED
    assert desk.till.taken == [40]
    with pytest.raises(Error, match="store-conflict"):
        desk.machine.release(payment)


def test_the_database_refuses_a_false_hand(desk: Desk, tmp_path: Path) -> None:
    """Terms, edges and rows stand even against SQL."""
    desk.reserve()
    connection = sqlite3.connect(tmp_path / "payments.sqlite3", isolation_level=None)
    for statement in (
        "DELETE FROM payments",
        "UPDATE payments SET ceiling = 1",
        "UPDATE payments SET state = 'captured'",
        "UPDATE payments SET state = 'delivered'",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    connection.close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A database that holds something else is left alone."""
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (one INTEGER)")
    with pytest.raises(Error, match="store-failed"):
        PaymentStore(path)


def test_an_identifier_names_one_payment_until_that_is_released(desk: Desk) -> None:
    """A second authorisation under a name in use is refused and takes nothing."""
    name, other = sha256(b"name"), "0x" + "01" * 32
    first = desk.reserve(identifier=name)
    assert not desk.reserve(identifier=name).is_new
    with pytest.raises(Error, match="payment-conflict"):
        desk.reserve(nonce=other, identifier=name)
    assert len(desk.store.unfinished()) == 1, "the refused one left no trace"
    desk.machine.release(first.payment.payment_id)
    assert desk.reserve(nonce=other, identifier=name).is_new
