"""What becomes of payments after their answers: captured with their assurance, or released.

Each delivered payment waits for the evidence that was promised for it. It is judged by the offline
verifier with what this operator trusts; met before its deadline it is owed, and else it is given
up. A part of a transaction waits for the whole. What is owed is asked for until the chain says
that it is there; what channels owe is claimed together, from time to time.

This module refuses to take anything that was not judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.encoding import Digest
from verispect.core.errors import Error, Reason, RequestError, StoreError
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import PartOutcome
from verispect.gateway.errors import error_member
from verispect.gateway.payment_answer import StoredAnswer
from verispect.gateway.payment_request import UNCHARGED_REASONS
from verispect.gateway.transaction_bundle import bundle_of
from verispect.gateway.transaction_parts import PartRecord, judge, own_trusted_root
from verispect.payments.authorisation import Scheme
from verispect.payments.machine import PaymentMachine
from verispect.payments.store import Payment, PaymentStore, State
from verispect.payments.till import Till

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

LOOK_SECONDS: Final = 0.5
"""Between two looks at what waits; one that waits long is looked at less often."""
SLOWEST_LOOK_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 15.0
"""Between two times that a transfer is asked for whose end is not known."""
RETENTION_SECONDS: Final = 86_400
OVERDUE_SECONDS: Final = 600
"""After its deadline, until a payment is given up that nothing became of."""

_OWED: Final = frozenset({State.CAPTURING, State.PENDING})
_ENDED_BY_CALLER: Final = frozenset(
    {
        Reason.TRANSACTION_ABORTED.value,
        Reason.TRANSACTION_INCOMPLETE.value,
        Reason.REQUEST_TIMEOUT.value,
    }
)
_SIGNED_DIGEST: Final = SIGNED.digest()


class Met(Enum):
    """Where the assurance of an answer stands."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@dataclass(slots=True)
class _Awaiting:
    """A delivered payment whose assurance is not there yet."""

    stored: StoredAnswer
    next_look: float = 0.0
    pause: float = LOOK_SECONDS


class PaymentWatch:
    """Also a `TransactionListener`.

    Args:
        machine: moves payments.
        till: is told of what was given up, and claims what channels owe.
        store: the payments.
        do: runs what blocks on a thread.
        now: seconds since 1970.
        sweep_seconds: how often what channels owe is claimed.
        retention_seconds: how long after their deadlines the content of answers is kept.
    """

    def __init__(
        self,
        machine: PaymentMachine,
        till: Till,
        store: PaymentStore,
        do: Callable[..., Any],
        *,
        now: Callable[[], int],
        sweep_seconds: float,
        retention_seconds: int = RETENTION_SECONDS,
    ) -> None:
        self.trusted: TrustedRoot | None = None
        """What the operator trusts beside itself: attestation, logs and nodes."""
        self._machine = machine
        self._till = till
        self._store = store
        self._do = do
        self._now = now
        self._sweep_seconds = sweep_seconds
        self._retention_seconds = retention_seconds
        self._erased_until = 0
        self._awaiting: dict[Digest, _Awaiting] = {}
        self._transfers: set[Digest] = set()
        self._capturing: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    # -- Start and end ------------------------------------------------------------------------

    def recover(self) -> None:
        """Give up what ran when a process died, and take up what was left; blocks."""
        for payment in self._store.unfinished():
            match payment.state:
                case State.RESERVED | State.EXECUTING:
                    self.give_up(payment.payment_id)
                case State.DELIVERED if payment.answer is not None:
                    self._till.delivered(payment)
                    self.add(payment.payment_id, StoredAnswer.decode(payment.answer))
                case State.CAPTURING | State.PENDING:
                    self._note(payment)
                    if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
                        # Its debt is only written down; its channel is asked in the next sweep.
                        # A transfer may take long, and is asked for once this server serves.
                        self._machine.capture(payment.payment_id)
        self._machine.recover()

    def start(self, state: GatewayState) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(state))

    async def stop(self) -> None:
        """End the watch, and wait for what is on its way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._capturing:
            await asyncio.wait(self._capturing)

    # -- What is delivered --------------------------------------------------------------------

    async def judge(self, state: GatewayState, stored: StoredAnswer) -> Met:
        """Decide whether the assurance of an answer is there, by this operator's own appraisal."""
        if stored.in_transaction:
            met = await self._by_its_whole(state, stored)
            if met is not None:
                return met
        policy = AssurancePolicy.from_toml(stored.policy)
        if policy.digest() == _SIGNED_DIGEST:
            return Met.NOW  # The receipt is on disk, and its signature is this server's own.
        found = state.recorder.store.find(stored.inference_id)
        if found is None:
            return Met.LATER
        record = PartRecord(
            0, stored.inference_id, found.receipt, Digest(found.receipt_id), policy, (), ()
        )
        root = own_trusted_root(state, self.trusted)
        judgement = await judge(state, record, root, time.time_ns() // 1_000_000)
        if judgement.outcome is PartOutcome.MET:
            return Met.NOW
        return Met.LATER if judgement.outcome is PartOutcome.PENDING else Met.NEVER

    async def _by_its_whole(self, state: GatewayState, stored: StoredAnswer) -> Met | None:
        """Return what its transaction makes of a part; `None` where it stands alone.

        The listener is not enough: a transaction may end while a part of it is still sent.
        """
        found = state.recorder.store.find(stored.inference_id)
        if found is None or state.transactions is None:
            return Met.LATER
        place = InferenceReceipt.parse(found.receipt).unverified_statement.transaction
        whole = None
        if place is not None:
            whole = await self._do(state.transactions.store.find, place.transaction_id)
        if whole is None or not whole.state.is_final:
            return Met.LATER
        bundle = await self._do(bundle_of, state, whole)
        failure = bundle.statement.failure
        if failure is None:
            return Met.NOW
        parts = [each.receipt for each in bundle.parts if each.receipt is not None]
        return None if _stand_alone(failure.reason, parts) else Met.NEVER

    def add(self, payment_id: Digest, stored: StoredAnswer) -> None:
        """Wait for the assurance of a delivered payment."""
        self._awaiting[payment_id] = _Awaiting(stored)

    def owe(self, payment: Payment) -> None:
        """Take what is owed, in the background."""
        task = asyncio.create_task(self._capture(payment))
        self._capturing.add(task)
        task.add_done_callback(self._capturing.discard)

    async def _capture(self, payment: Payment) -> None:
        try:
            self._note(await self._do(self._machine.capture, payment.payment_id))
        except Exception as error:  # noqa: BLE001 - it stays owed, and is asked for again
            error_member(error)
            self._note(payment)

    def _note(self, payment: Payment) -> None:
        """Remember which transfers are to be asked for again; channels are swept."""
        is_voucher = payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        if payment.state in _OWED and not is_voucher:
            self._transfers.add(payment.payment_id)
        else:
            self._transfers.discard(payment.payment_id)

    def give_up(self, payment_id: Digest) -> None:
        """Release a payment and free its channel; one that is owed or taken stays so. Blocks."""
        with contextlib.suppress(StoreError):
            self._till.released(self._machine.release(payment_id))

    def give_up_overdue(self) -> None:
        """Give up what should have been given up or delivered long ago; blocks.

        Where the store could not be written just then, a channel would be held until a restart.
        """
        until = self._now() - OVERDUE_SECONDS
        for payment in self._store.unfinished():
            runs = payment.state in {State.RESERVED, State.EXECUTING}
            if runs and payment.deadline <= until:
                self.give_up(payment.payment_id)

    # -- Transactions -------------------------------------------------------------------------

    async def committed(
        self, transaction_id: bytes, parts: Sequence[InferenceReceipt]
    ) -> None:  # transaction_id: the parts name their payments
        """Take what all parts cost; see `TransactionListener`."""
        del transaction_id
        for payment in [await self._do(self._met, each) for each in _payments_of(parts)]:
            if payment is not None and payment.state in _OWED:
                self.owe(payment)

    async def failed(
        self, transaction_id: bytes, parts: Sequence[InferenceReceipt], reason: str
    ) -> None:
        """Take nothing of what the parts cost; see `TransactionListener`.

        Where its caller ended it, each part stands alone: its answer has left, and whoever gives
        up a transaction, or cuts a part of it, must not have had the others for nothing.
        """
        del transaction_id
        alone = _stand_alone(reason, parts)
        for payment_id in _payments_of(parts):
            if alone:
                await self._do(self._let_alone, payment_id)
            else:
                await self._do(self.give_up, payment_id)
                self._awaiting.pop(payment_id, None)

    def _let_alone(self, payment_id: Digest) -> None:
        payment = self._store.get(payment_id)
        if payment is None or payment.state is not State.DELIVERED or payment.answer is None:
            return
        stored = replace(StoredAnswer.decode(payment.answer), in_transaction=False)
        self._store.keep_less(payment_id, stored.encode())
        self.add(payment_id, stored)

    def _met(self, payment_id: Digest) -> Payment | None:
        payment = self._store.get(payment_id)
        if payment is None or payment.state in {State.RELEASED, State.FAILED}:
            self._awaiting.pop(payment_id, None)
            return None
        try:
            payment = self._machine.assurance_met(payment_id)
        except RequestError as error:
            if error.reason is not Reason.PAYMENT_OVERDUE:
                raise
            payment = self._machine.release(payment_id)
        self._awaiting.pop(payment_id, None)
        if payment.state is State.RELEASED:
            self._till.released(payment)
        return payment

    # -- In the background --------------------------------------------------------------------

    async def _run(self, state: GatewayState) -> None:
        swept = time.monotonic()
        # What a process left that died is asked for at once.
        retried = swept - RETRY_SECONDS if self._transfers else swept
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            try:
                await self.look(state)
                if now - retried >= RETRY_SECONDS:
                    retried = now
                    await self.retry()
                    await self._do(self.give_up_overdue)
                    await self._do(self.erase)
                if now - swept >= self._sweep_seconds:
                    swept = now
                    await self.sweep()
            except Exception as error:  # noqa: BLE001 - what is left undone is done in the next round
                error_member(error)

    async def look(self, state: GatewayState) -> None:
        """Look at everything that waits for its assurance."""
        for payment_id, awaiting in list(self._awaiting.items()):
            now = time.monotonic()
            if now < awaiting.next_look:
                continue
            awaiting.pause = min(2 * awaiting.pause, SLOWEST_LOOK_SECONDS)
            awaiting.next_look = now + awaiting.pause
            try:
                await self._look_at(state, payment_id, awaiting)
            except Exception as error:  # noqa: BLE001 - one that fails keeps no other waiting
                error_member(error)

    async def look_now(self, state: GatewayState, payment_id: Digest) -> None:
        """Look at one payment, where it waits for its assurance, and take what it costs."""
        awaiting = self._awaiting.get(payment_id)
        if awaiting is not None:
            await self._look_at(state, payment_id, awaiting)
            await asyncio.gather(*self._capturing)

    async def _look_at(self, state: GatewayState, payment_id: Digest, awaiting: _Awaiting) -> None:
        payment = await self._do(self._store.get, payment_id)
        if payment is None or payment.state is not State.DELIVERED:
            self._awaiting.pop(payment_id, None)
            return
        met = Met.NEVER
        if self._now() < payment.deadline:
            met = await self.judge(state, awaiting.stored)
        if met is Met.NOW:
            payment = await self._do(self._met, payment_id)
            if payment is not None and payment.state in _OWED:
                self.owe(payment)
        elif met is Met.NEVER:
            await self._do(self.give_up, payment_id)
            self._awaiting.pop(payment_id, None)

    async def retry(self) -> None:
        """Ask again for the transfers whose end is not known."""
        for payment_id in list(self._transfers):
            payment = await self._do(self._store.get, payment_id)
            if payment is not None:
                await self._capture(payment)

    def erase(self) -> None:
        """Erase the content of answers whose retention has ended; blocks."""
        until = self._now() - self._retention_seconds
        for payment in self._store.due_between(self._erased_until, until):
            if payment.answer is not None:
                kept = StoredAnswer.decode(payment.answer).without_content()
                self._store.keep_less(payment.payment_id, kept.encode())
        self._erased_until = max(self._erased_until, until)

    async def sweep(self) -> int:
        """Claim what channels owe; return how many payments the chain now says are paid."""
        count: int = await self._do(self._sweep)
        return count

    def _sweep(self) -> int:
        owed = [each for each in self._store.unfinished() if each.state in _OWED]
        try:
            swept = self._till.sweep(owed)
        except Error as error:
            error_member(error)
            swept = 0
        for payment in owed:
            if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
                self._machine.capture(payment.payment_id)
        return swept


def _stand_alone(reason: str, parts: Sequence[InferenceReceipt]) -> bool:
    """Tell whether the parts of what ended for this reason are owed one by one."""
    reasons = {word for each in parts for word in each.unverified_statement.finish_reasons}
    return reason in _ENDED_BY_CALLER and UNCHARGED_REASONS.isdisjoint(reasons)


def _payments_of(parts: Sequence[InferenceReceipt]) -> list[Digest]:
    bindings = [each.unverified_statement.payment for each in parts]
    return [each.authorisation for each in bindings if each is not None]
