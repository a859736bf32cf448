"""Transactions of one gateway: opened, joined, decided once, and told to the log and the payments.

Every way to an end goes through `_decide`, which signs and moves the state in one compare-and-set;
whoever comes second gets the bytes of the first. A watcher aborts what is past its time-out,
decides what waited for evidence, and tells the log and the listeners of what is final: at least
once, after it is durable. This module refuses to run an inference.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.appraisal.references import Link
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import INFERENCE_ID_BYTES
from verispect.core.transaction import (
    Failure,
    PartOutcome,
    TransactionOutcome,
    TransactionStatement,
    encode_parts,
    nonce_digest,
    policy_digest,
)
from verispect.gateway.errors import error_member
from verispect.gateway.transaction_bundle import bundle_of, read_rows
from verispect.gateway.transaction_parts import (
    MAX_SECONDS,
    Judgement,
    OpenTicket,
    PartRecord,
    judge,
    load_records,
    make_parts,
    own_trusted_root,
)
from verispect.gateway.transaction_statements import (
    STATE_OF,
    TransactionListener,
    attempt,
    outcome_of,
    publish,
    search_parts,
    sign_statement,
)
from verispect.gateway.transaction_statements import key_of as key_of
from verispect.ledger.transactions import (
    Decision,
    StoredTransaction,
    TransactionState,
    TransactionStore,
)
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.transaction_tree import parts_root

if TYPE_CHECKING:
    from verispect.gateway.state import GatewayState

DEFAULT_SECONDS: Final = 600
_WATCH_SECONDS: Final = 0.25
_JUDGE_EVERY: Final = 4
"""Rounds between two looks at what waits for evidence: a proof that is there is verified again."""
_OPEN: Final = (TransactionState.OPEN,)
_UNDECIDED: Final = (TransactionState.OPEN, TransactionState.PENDING)
_UNJUDGED: Final = Judgement(PartOutcome.PENDING)


class Transactions:
    """The transactions of one gateway.

    Args:
        store: where they stand.
        receipts: the database of the receipt store, to find parts of a process that died.
        trusted: what the operator trusts beside itself: attestation, logs and nodes.
        listeners: told of what is final.
    """

    def __init__(
        self,
        store: TransactionStore,
        *,
        receipts: Path | None = None,
        trusted: TrustedRoot | None = None,
        listeners: Sequence[TransactionListener] = (),
    ) -> None:
        self.store = store
        self._receipts = receipts
        self._trusted = trusted
        self._listeners = listeners
        self._watcher: asyncio.Task[None] | None = None

    def now(self) -> int:
        """Return this machine's time, milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    # -- While it is open ---------------------------------------------------------------------

    async def open(
        self, *, seconds: int, fixed_count: int, nonce: bytes | None
    ) -> StoredTransaction:
        """Begin a transaction.

        Raises:
            RequestError: `invalid-request`, `nonce-reused`, `server-overloaded`.
        """
        if not 1 <= seconds <= MAX_SECONDS:
            raise RequestError(f"expected 1 to {MAX_SECONDS} seconds", parameter="timeout_seconds")
        now = self.now()
        return await asyncio.to_thread(
            self.store.open,
            os.urandom(INFERENCE_ID_BYTES),
            now=now,
            expires_at=now + seconds * 1000,
            fixed_count=fixed_count,
            nonce=nonce,
        )

    async def find(
        self, state: GatewayState, identifier: str, key: str | None
    ) -> StoredTransaction:
        """Return a transaction for whoever has its key.

        Args:
            state: of the gateway.
            identifier: the id, in hexadecimal.
            key: the transaction's key; `None` where what is asked for needs none.

        Raises:
            RequestError: `transaction-not-found`, `transaction-forbidden`.
        """
        known = len(identifier) == 2 * INFERENCE_ID_BYTES and _HEX.issuperset(identifier)
        stored = None
        if known:
            stored = await asyncio.to_thread(self.store.find, bytes.fromhex(identifier))
        if stored is None:
            raise RequestError("no such transaction", reason=Reason.TRANSACTION_NOT_FOUND)
        expected = key_of(state, stored.transaction_id)
        if key is not None and not hmac.compare_digest(key.encode(), expected.encode()):
            raise RequestError(
                "this needs the transaction's key", reason=Reason.TRANSACTION_FORBIDDEN
            )
        return stored

    def ticket(
        self, stored: StoredTransaction, links: Sequence[Link], nonce: bytes | None = None
    ) -> OpenTicket:
        """Return the ticket of one more part.

        Raises:
            RequestError: `transaction-closed`; `nonce-reused` for the transaction's own nonce.
        """
        if (
            stored.state is not TransactionState.OPEN
            or stored.fixed_count
            or self.now() >= stored.expires_at
        ):
            raise RequestError(
                "the transaction is not open any more", reason=Reason.TRANSACTION_CLOSED
            )
        if nonce is not None and nonce == stored.nonce:
            raise RequestError(
                "a part carries the transaction's own nonce", reason=Reason.NONCE_REUSED
            )
        return OpenTicket(self.store, stored.transaction_id, links, self.now, nonce)

    # -- Its end ------------------------------------------------------------------------------

    async def commit(self, state: GatewayState, stored: StoredTransaction) -> StoredTransaction:
        """Commit what was opened, or say how it ended already.

        Raises:
            RequestError: `transaction-closed` after an abort, `transaction-busy`,
                `invalid-request` without parts.
        """
        if stored.state is TransactionState.OPEN and stored.fixed_count:
            raise RequestError("it is committed by itself", reason=Reason.TRANSACTION_BUSY)
        if stored.state is TransactionState.OPEN:
            parts = await asyncio.to_thread(self.store.parts, stored.transaction_id)
            if not parts:
                raise RequestError("a transaction without parts is not committed")
            records = await asyncio.to_thread(load_records, state, parts)
            stored = await self.decide(state, stored, records, expected_parts=len(records))
            if stored.state is TransactionState.OPEN:
                raise RequestError("a part came meanwhile", reason=Reason.TRANSACTION_BUSY)
        if stored.state is TransactionState.ABORTED:
            raise RequestError("the transaction was aborted", reason=Reason.TRANSACTION_CLOSED)
        return stored

    async def abort(
        self,
        state: GatewayState,
        stored: StoredTransaction,
        reason: Reason = Reason.TRANSACTION_ABORTED,
        records: Sequence[PartRecord] | None = None,
    ) -> StoredTransaction:
        """Give up what is open, or say that it was given up already.

        Raises:
            RequestError: `transaction-closed` where it was committed, or has failed.
        """
        if stored.state is TransactionState.OPEN:
            if records is None:
                records = await asyncio.to_thread(self._find_records, state, stored)
            stored = await self._decide(
                state, stored, records, [_UNJUDGED] * len(records), _OPEN, Failure(reason.value)
            )
        if stored.state is not TransactionState.ABORTED:
            raise RequestError(
                f"the transaction is {stored.state.value}", reason=Reason.TRANSACTION_CLOSED
            )
        return stored

    async def decide(
        self,
        state: GatewayState,
        stored: StoredTransaction,
        records: Sequence[PartRecord],
        *,
        failure: Failure | None = None,
        expected_parts: int | None = None,
    ) -> StoredTransaction:
        """Judge every part and decide; return what stands, whoever decided.

        Args:
            state: of the gateway.
            stored: the transaction.
            records: its parts, with receipts.
            failure: where a part ended with an error and without a receipt.
            expected_parts: as `Decision` has it.
        """
        now = self.now()
        root = own_trusted_root(state, self._trusted)
        judged = [await judge(state, record, root, now) for record in records]
        return await self._decide(
            state, stored, records, judged, _UNDECIDED, failure, expected_parts=expected_parts
        )

    async def _decide(
        self,
        state: GatewayState,
        stored: StoredTransaction,
        records: Sequence[PartRecord],
        judged: Sequence[Judgement],
        since: Sequence[TransactionState],
        failure: Failure | None,
        *,
        expected_parts: int | None = None,
    ) -> StoredTransaction:
        if any(record.links for record in records):
            parts = await asyncio.to_thread(make_parts, state, records, judged)
        else:
            parts = make_parts(state, records, judged)
        outcome, failure = outcome_of(parts, failure)
        now = max(self.now(), stored.opened_at)
        pending = outcome is TransactionOutcome.PENDING
        due = [each.due_at for each in judged if each.due_at is not None]
        due_at = max(due) if pending and due else None
        if pending and stored.state is TransactionState.PENDING and stored.due_at is not None:
            return stored  # Nothing new to sign.
        statement = TransactionStatement(
            transaction_id=stored.transaction_id,
            opened_at=stored.opened_at,
            decided_at=now,
            outcome=outcome,
            policy=policy_digest(part.assurance for part in parts),
            count=len(parts),
            root=parts_root(stored.transaction_id, parts),
            failure=failure,
            nonce=None
            if stored.nonce is None
            else nonce_digest(stored.transaction_id, stored.nonce),
            due_at=due_at,
        )
        decision = Decision(
            state=STATE_OF[outcome],
            decided_at=now,
            envelope=sign_statement(state, statement),
            parts=encode_parts(parts),
            due_at=due_at,
            kept_parts=[record.to_stored() for record in records] if pending else (),
            expected_parts=expected_parts,
        )
        moved, _ = await asyncio.to_thread(
            self.store.decide, stored.transaction_id, decision, since=since
        )
        return moved

    def _find_records(self, state: GatewayState, stored: StoredTransaction) -> list[PartRecord]:
        """Return the parts that have receipts, also those of a process that died; blocks."""
        if stored.fixed_count and self._receipts is not None:
            return search_parts(self._receipts, stored)
        found: list[PartRecord] = []
        for part in self.store.parts(stored.transaction_id):
            try:
                found += load_records(state, [part])
            except RequestError:
                break  # What follows would stand at another place than its receipt says.
        return found

    # -- In the background --------------------------------------------------------------------

    def start(self, state: GatewayState) -> None:
        """Begin to watch."""
        self._watcher = asyncio.create_task(self._watch(state))

    async def stop(self) -> None:
        """End the watcher and close the store."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        self.store.close()

    async def _watch(self, state: GatewayState) -> None:
        rounds = 0
        while True:
            try:
                await self.look(state, judge_pending=rounds % _JUDGE_EVERY == 0)
            except Exception as error:  # noqa: BLE001 - what is left undone is done in the next round
                error_member(error)
            rounds += 1
            await asyncio.sleep(_WATCH_SECONDS)

    async def look(self, state: GatewayState, *, judge_pending: bool = True) -> None:
        """Abort what is overdue or whose process died, decide what waited, and tell what is final.

        What goes wrong with one transaction is tried again in the next round, and keeps no other
        one waiting.
        """
        for identifier in await asyncio.to_thread(self.store.abandoned):
            await attempt(self._give_up(state, identifier, Reason.TRANSACTION_INCOMPLETE))
        for identifier in await asyncio.to_thread(self.store.expired, self.now()):
            await attempt(self._give_up(state, identifier, Reason.REQUEST_TIMEOUT))
        for identifier in await asyncio.to_thread(self.store.pending) if judge_pending else ():
            await attempt(self._judge_again(state, identifier))
        for final in await asyncio.to_thread(self.store.unannounced):
            await attempt(self._announce(state, final))

    async def _give_up(self, state: GatewayState, identifier: bytes, reason: Reason) -> None:
        stored = await asyncio.to_thread(self.store.find, identifier)
        if stored is not None and stored.state is TransactionState.OPEN:
            with contextlib.suppress(RequestError):  # Somebody else ended it.
                await self.abort(state, stored, reason)

    async def _judge_again(self, state: GatewayState, identifier: bytes) -> None:
        stored = await asyncio.to_thread(self.store.find, identifier)
        if stored is not None and stored.state is TransactionState.PENDING:
            parts = await asyncio.to_thread(self.store.parts, identifier)
            records = await asyncio.to_thread(load_records, state, parts, read_rows(stored))
            await self.decide(state, stored, records)

    async def _announce(self, state: GatewayState, stored: StoredTransaction) -> None:
        bundle = await asyncio.to_thread(bundle_of, state, stored)
        receipts = [each.receipt for each in bundle.parts if each.receipt is not None]
        if state.log is not None and stored.parts is not None and bundle.parts:
            leaf = SignedLeaf.of(bundle.envelope).encode()
            await asyncio.to_thread(publish, state, leaf)
        for listener in self._listeners:
            if stored.state is TransactionState.COMMITTED:
                await listener.committed(stored.transaction_id, receipts)
            else:
                failure = bundle.statement.failure
                reason = Reason.TRANSACTION_FAILED.value if failure is None else failure.reason
                await listener.failed(stored.transaction_id, receipts, reason)
        await asyncio.to_thread(self.store.announced, stored.transaction_id)


_HEX: Final = frozenset("0123456789abcdef")
