"""The life of a payment: reserve, execute, deliver, capture what assurance earned, or release.

    quoted -> reserved -> executing -> delivered -> capturing -> captured
                 |            |            |            |  ^
                 +------------+------------+            v  |
                              |                       pending -> captured | failed
                              v
                           released

What holds, at every crash and with any facilitator:

- Nothing is executed unless its authorisation is reserved, and it is reserved for one request.
- Nothing is captured unless the answer is stored and `assurance_met` came before the deadline.
- `capturing` is durable before money is asked for, and `captured` is written only on the word of
  the chain: what a facilitator says, or does not say, decides nothing.
- What is owed stays owed until the chain says that it is paid, or can never be.

The machine refuses to decide whether assurance was met, and keeps no clock of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from verispect.core.encoding import Digest
from verispect.core.errors import Error, Reason, RequestError, StoreError, VerificationError
from verispect.payments.authorisation import Authorisation
from verispect.payments.settlement import Settlement, Standing
from verispect.payments.store import EDGES, Payment, PaymentStore, State

_WAITED_FOR = frozenset({State.RESERVED, State.EXECUTING})
_OWED = frozenset({State.CAPTURING, State.PENDING})


@dataclass(frozen=True, slots=True)
class Reservation:
    """The answer to a presented authorisation."""

    payment: Payment
    is_new: bool
    """Whether the caller is to run the inference; a copy waits for its answer instead."""


class PaymentMachine:
    """The payments of one server. Methods block; none may run on an event loop.

    Args:
        store: where they are kept.
        settlement: who moves the money.
        now: seconds since 1970.
    """

    def __init__(
        self, store: PaymentStore, settlement: Settlement, *, now: Callable[[], int]
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._now = now
        self._lock = threading.Lock()
        self._watchers: dict[Digest, list[Callable[[Payment], None]]] = {}
        self._taking: set[Digest] = set()
        self._unasked: set[Digest] = set()
        self._refused: set[Digest] = set()

    # -- Before and during the inference -----------------------------------------------------

    def reserve(
        self,
        authorisation: Authorisation,
        *,
        request: Digest,
        sheet: Digest,
        ceiling: int,
        deadline: int,
        identifier: Digest | None = None,
    ) -> Reservation:
        """Take an authorisation for one request, before anything runs.

        Args:
            authorisation: verified by the caller against what was offered.
            request: digest of the request that it pays for.
            sheet: digest of the price sheet that was quoted from.
            ceiling: the most that the request may cost.
            deadline: seconds since 1970, by which assurance must be met.
            identifier: the payer's own name for this payment, where it gave one.

        Raises:
            RequestError: `payment-conflict` where it pays for another request, or where the
                identifier is that of another payment that was not released; `payment-overdue`
                where it could expire before the deadline.
            VerificationError: `payment-invalid` where the amount does not cover the ceiling.
            StoreError: `store-failed`, `store-locked`.
        """
        known = self._store.get(authorisation.key.digest())
        if known is None:
            if not self._now() < deadline < authorisation.valid_before:
                raise RequestError(
                    "the payment does not last until its deadline", reason=Reason.PAYMENT_OVERDUE
                )
            fixed = authorisation.scheme.is_fixed
            if authorisation.amount < ceiling or (fixed and authorisation.amount != ceiling):
                raise VerificationError(
                    f"expected a payment of {ceiling}, got {authorisation.amount}",
                    reason=Reason.PAYMENT_INVALID,
                )
        wanted = Payment(authorisation, request, sheet, ceiling, deadline)
        if known is not None:
            # Its terms stand, whatever the same request costs by now.
            wanted = Payment(
                known.authorisation, known.request, known.sheet, known.ceiling, known.deadline
            )
        stored, is_new = self._store.reserve(wanted, identifier)
        if stored.request != request:
            raise RequestError(
                "the payment is spent on another request", reason=Reason.PAYMENT_CONFLICT
            )
        return Reservation(stored, is_new)

    def execute(self, payment_id: Digest) -> None:
        """Note that the inference begins; MUST be called once, by whoever reserved.

        Raises:
            StoreError: `store-conflict` where it has begun or was released.
        """
        self._store.move(payment_id, State.RESERVED, State.EXECUTING)

    def deliver(self, payment_id: Digest, answer: bytes, *, charge: int) -> Payment:
        """Store the answer and its metered charge, before the answer leaves.

        A fixed scheme charges its ceiling, unless nothing is charged at all.

        Raises:
            ValueError: where the charge exceeds the ceiling; the caller served too much.
            StoreError: `store-conflict`, `store-failed`, `store-locked`.
        """
        payment = self._known(payment_id)
        if not 0 <= charge <= payment.ceiling:
            raise ValueError("the charge exceeds the ceiling")
        if charge > 0 and payment.authorisation.scheme.is_fixed:
            charge = payment.ceiling
        moved = self._store.move(
            payment_id, State.EXECUTING, State.DELIVERED, charge=charge, answer=answer
        )
        with self._lock:
            self._unasked.add(payment_id)
        self._tell(moved)
        return moved

    def release(self, payment_id: Digest) -> Payment:
        """Give the authorisation up: the inference failed, or its assurance was not met.

        Raises:
            StoreError: `store-conflict` where money is already owed or taken.
        """
        payment = self._known(payment_id)
        if payment.state is State.RELEASED:
            return payment
        if State.RELEASED not in EDGES[payment.state]:
            raise StoreError("the payment is owed or taken", reason=Reason.STORE_CONFLICT)
        moved = self._store.move(payment_id, payment.state, State.RELEASED)
        with self._lock:
            self._unasked.discard(payment_id)
        self._tell(moved)
        return moved

    def watch(self, payment_id: Digest, callback: Callable[[Payment], None]) -> None:
        """Call back once when the answer is stored or the payment released, at once if it is.

        The callback runs in whatever thread brings the news and MUST NOT block.
        """
        with self._lock:
            payment = self._known(payment_id)
            if payment.state in _WAITED_FOR:
                self._watchers.setdefault(payment_id, []).append(callback)
                return
        callback(payment)

    # -- Capture -----------------------------------------------------------------------------

    def assurance_met(self, payment_id: Digest) -> Payment:
        """Note that the required assurance was delivered: from now on the charge is owed.

        Raises:
            RequestError: `payment-overdue` where the deadline has passed; it is released.
            StoreError: `store-conflict` where nothing was delivered or it was released.
        """
        payment = self._known(payment_id)
        if payment.state in _OWED or payment.state is State.CAPTURED:
            return payment
        if payment.state is State.DELIVERED and payment.charge == 0:
            return self.release(payment_id)
        if payment.state is State.DELIVERED and self._now() >= payment.deadline:
            self.release(payment_id)
            raise RequestError("assurance came after its deadline", reason=Reason.PAYMENT_OVERDUE)
        return self._store.move(payment_id, State.DELIVERED, State.CAPTURING)

    def capture(self, payment_id: Digest) -> Payment:
        """Take what is owed, once; what is not known afterwards stays `pending`.

        A second call while one runs returns the payment as it stands.

        Raises:
            StoreError: `store-conflict` where nothing is owed.
        """
        with self._lock:
            payment = self._known(payment_id)
            if payment_id in self._taking or payment.state in {State.CAPTURED, State.FAILED}:
                return payment
            if payment.state not in _OWED:
                raise StoreError("nothing is owed", reason=Reason.STORE_CONFLICT)
            self._taking.add(payment_id)
        try:
            return self._take(payment)
        finally:
            with self._lock:
                self._taking.discard(payment_id)

    def _take(self, payment: Payment) -> Payment:
        """Ask the chain first, and again after: a facilitator may have done it and not said so.

        Where the chain cannot be asked the money is asked for all the same: an authorisation can
        be spent once, whoever asks how often, and a server without a node would never be paid.
        """
        if (known := self._conclude(payment, is_asked=False)) is not None:
            return known
        charge = payment.charge
        if charge is None:
            raise StoreError("a payment is owed without a charge", reason=Reason.STORE_FAILED)
        if payment.state is State.PENDING:
            payment = self._store.move(payment.payment_id, State.PENDING, State.CAPTURING)
        # Whether money moved is on the chain, not in the error.
        with contextlib.suppress(Error):
            self._ask(payment, charge)
        if (known := self._conclude(payment, is_asked=True)) is not None:
            return known
        return self._store.move(payment.payment_id, State.CAPTURING, State.PENDING)

    def _ask(self, payment: Payment, charge: int) -> None:
        """Ask for the money, and remember where that was refused the first time.

        Later a refusal may only say that the money has moved.
        """
        payment_id = payment.payment_id
        with self._lock:
            is_first = payment_id in self._unasked
            self._unasked.discard(payment_id)
        try:
            self._settlement.settle(payment, charge)
        except VerificationError:
            if is_first:
                with self._lock:
                    self._refused.add(payment_id)
            raise
        with self._lock:
            self._refused.discard(payment_id)

    def was_refused(self, payment_id: Digest) -> bool:
        """Tell whether the money was asked for and refused, and never granted since.

        Nothing is decided by it but whether an answer leaves where no chain can be asked.
        """
        with self._lock:
            return payment_id in self._refused

    def _conclude(self, payment: Payment, *, is_asked: bool) -> Payment | None:
        """Write down what the chain says, where it says how it ended; `None` to ask for money.

        Args:
            payment: as it stands.
            is_asked: whether the money was just asked for.
        """
        if payment.charge is None:
            return None
        finding = self._settlement.look(payment, payment.charge)
        match finding.standing:
            case Standing.PAID:
                new, settled = State.CAPTURED, finding.transaction
            case Standing.VOID:
                new, settled = State.FAILED, None
            case Standing.UNKNOWN if is_asked:
                new, settled = State.PENDING, None
            case Standing.UNKNOWN | Standing.UNUSED:
                return None
        return self._store.move(payment.payment_id, payment.state, new, settled=settled)

    # -- After a crash, and from time to time ------------------------------------------------

    def recover(self) -> None:
        """Release what was running when the process ended; MUST run before anything is served.

        Its answer never left, because an answer is stored before it leaves.
        """
        for payment in self._store.unfinished():
            if payment.state in _WAITED_FOR:
                self.release(payment.payment_id)

    def reconcile(self) -> list[Payment]:
        """Release what is overdue and try again for what is owed.

        Returns:
            The payments that were owed, as they stand now.
        """
        owed = []
        for payment in self._store.unfinished():
            if payment.state is State.DELIVERED and self._now() >= payment.deadline:
                self.release(payment.payment_id)
            elif payment.state in _OWED:
                owed.append(self.capture(payment.payment_id))
        return owed

    def _known(self, payment_id: Digest) -> Payment:
        payment = self._store.get(payment_id)
        if payment is None:
            raise StoreError("no such payment", reason=Reason.STORE_CONFLICT)
        return payment

    def _tell(self, payment: Payment) -> None:
        with self._lock:
            watchers = self._watchers.pop(payment.payment_id, [])
        for callback in watchers:
            callback(payment)
