"""Puts one call into a chain once, over crashes, lost answers, stuck fees and reorganisations.

1. What is open is brought to its end first, in the order of nonces.
2. The call is tried without sending; what the contract would refuse is never signed.
3. The signed transaction is written down, then sent.
4. It is looked for by its hash until enough blocks confirm it; meanwhile the same bytes are sent
   again, or bytes with the same nonce that pay more.
5. Where another transaction has used the nonce, the call is signed anew. Should the chain turn
   around and take both, the contract refuses the second: every call of ours is one that it takes
   once.

A call that was in the chain and left it with its block is open again. Refused: a fee above the
ceiling, an account that cannot pay, and a deadline that passed; the intent stays, and the next
run goes on with it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.errors import NetworkError, Reason, VerificationError
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain, Fees, Inclusion
from verispect.ledger.anchor.intents import Attempt, Call, Intent, IntentState, IntentStore

GAS_MARGIN_PERCENT: Final = 20
RAISE_NUMERATOR, RAISE_DENOMINATOR = 9, 8
"""Nodes replace a transaction by one that pays at least a tenth more."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, for how many blocks, and at what price."""

    confirmations: int = 1
    """Blocks that must confirm a call, its own counted."""

    deadline_seconds: float = 300.0
    resend_seconds: float = 30.0
    """Send again, and pay more where the market wants it, after so long without a block."""

    fee_ceiling: int | None = None
    """Most that a unit of gas may cost, in wei."""


class TransactionSender:
    """Sends calls of one account.

    Args:
        chain: where to.
        account: who signs and pays.
        store: where intents are kept; of this chain and this account.
        patience: limits of waiting and of price.
    """

    def __init__(
        self,
        chain: Chain,
        account: ChainAccount,
        store: IntentStore,
        *,
        patience: Patience = Patience(),
    ) -> None:
        self.chain = chain
        self.account = account
        self._store = store
        self._patience = patience

    def run(self, call: Call) -> Inclusion:
        """See to it that the call is in the chain, and return where.

        Raises:
            VerificationError: `anchor-conflict` where another content had this name,
                `chain-reverted` where the contract refuses the call.
            NetworkError: `chain-unconfirmed`, `chain-failed`, `network-failed`: it may yet come.
            StoreError: where the intent cannot be written.
        """
        self._store.check(call)
        self.resume()
        intent = self._store.find(call)
        if intent is None:
            nonce = max(self.chain.next_nonce(self.account.address), self._store.next_nonce())
            attempt = self._sign(call, nonce)
            intent = self._store.begin(call, attempt)
        elif intent.state is IntentState.REFUSED:
            intent = self._start_anew(intent)
        if intent.inclusion is not None and intent.state is IntentState.DONE:
            return intent.inclusion
        return self._drive(intent)

    def resume(self) -> None:
        """Bring what is open to its end, and look whether what was done still is.

        Raises:
            NetworkError: as `run`.
        """
        self._reopen_lost()
        for intent in self._store.open_intents():
            try:
                self._drive(intent)
            except VerificationError as error:
                _logger.warning("the contract refused %s: %s", intent.call.name, error.message)

    def _reopen_lost(self) -> None:
        # Nonces are taken in order: where the newest is still there, so are those before it.
        for intent in self._store.done_intents():
            if intent.inclusion is not None and self.chain.confirmations(intent.inclusion) > 0:
                return
            found = self._look_for(intent)
            if found is not None:
                # Another block has it; the earlier ones may have moved as well.
                self._store.finish(intent, found)
                continue
            _logger.warning("%s left the chain with its block", intent.call.name)
            self._store.set_state(intent, IntentState.OPEN)

    def _drive(self, intent: Intent) -> Inclusion:
        deadline = time.monotonic() + self._patience.deadline_seconds
        sent_at: float | None = None
        while True:
            inclusion = self._look_for(intent)
            if inclusion is not None:
                if self.chain.confirmations(inclusion) >= self._patience.confirmations:
                    return self._finish(intent, inclusion)
            elif self.chain.next_nonce(self.account.address) > intent.nonce:
                # Between the two questions it may have come in itself.
                if self._look_for(intent) is None:
                    intent = self._start_anew(intent)
                    sent_at = None
                continue
            elif sent_at is None:
                intent = self._send(intent)
                sent_at = time.monotonic()
                continue
            elif time.monotonic() - sent_at > self._patience.resend_seconds:
                intent = self._send(self._pay_more(intent))
                sent_at = time.monotonic()
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"{intent.call.name} is not confirmed yet", reason=Reason.CHAIN_UNCONFIRMED
                )
            self.chain.pass_time()

    def _send(self, intent: Intent) -> Intent:
        attempt = _newest(intent)
        try:
            self.chain.submit(attempt.raw, attempt.hash)
        except NetworkError as error:
            if error.reason is not Reason.CHAIN_FAILED:
                raise
            if self.chain.next_nonce(self.account.address) > attempt.nonce:
                # The nonce has just been used: `_drive` sees to it.
                return intent
            # What was signed before a crash may be below today's price, and is refused for it.
            dearer = self._pay_more(intent)
            if _newest(dearer) == attempt:
                raise
            attempt = _newest(dearer)
            self.chain.submit(attempt.raw, attempt.hash)
            return dearer
        return intent

    def _look_for(self, intent: Intent) -> Inclusion | None:
        for attempt in reversed(intent.attempts):
            inclusion = self.chain.inclusion(attempt.hash)
            if inclusion is not None:
                return inclusion
        return None

    def _finish(self, intent: Intent, inclusion: Inclusion) -> Inclusion:
        self._store.finish(intent, inclusion)
        if not inclusion.succeeded:
            raise VerificationError(
                f"the contract refused {intent.call.name}", reason=Reason.CHAIN_REVERTED
            )
        return inclusion

    def _start_anew(self, intent: Intent) -> Intent:
        return self._sign_again(intent, self.chain.next_nonce(self.account.address), None)

    def _sign_again(self, intent: Intent, nonce: int, fees: Fees | None) -> Intent:
        try:
            attempt = self._sign(intent.call, nonce, fees=fees)
        except VerificationError:
            self._store.set_state(intent, IntentState.REFUSED)
            raise
        return self._store.retry(intent, attempt)

    def _pay_more(self, intent: Intent) -> Intent:
        old = _newest(intent).fees
        market = self.chain.fees()
        if market.maximum <= old.maximum and (market.priority or 0) <= (old.priority or 0):
            return intent
        fees = Fees(
            max(market.maximum, _raised(old.maximum)),
            None
            if market.priority is None or old.priority is None
            else max(market.priority, _raised(old.priority)),
        )
        if self._patience.fee_ceiling is not None and fees.maximum > self._patience.fee_ceiling:
            return intent
        return self._sign_again(intent, intent.nonce, fees)

    def _sign(self, call: Call, nonce: int, *, fees: Fees | None = None) -> Attempt:
        # First, because nodes have many words for a trial that the account cannot pay for.
        balance = self.chain.balance(self.account.address)
        self._require_funds(balance, 1)
        gas = self.chain.estimate_gas(self.account.address, call.target, call.data)
        gas += gas * GAS_MARGIN_PERCENT // 100
        fees = fees or self.chain.fees()
        ceiling = self._patience.fee_ceiling
        if ceiling is not None and fees.maximum > ceiling:
            raise NetworkError(
                f"gas costs {fees.maximum} wei, above the ceiling of {ceiling}",
                reason=Reason.CHAIN_FAILED,
            )
        self._require_funds(balance, gas * fees.maximum)
        transaction: dict[str, Any] = {
            "chainId": self.chain.chain_id,
            "nonce": nonce,
            "value": 0,
            "gas": gas,
            "data": call.data,
            **fees.fields(),
        }
        if call.target is not None:
            transaction["to"] = call.target
        signed = self.account.sign(transaction)
        return Attempt(nonce, signed.hash, signed.raw, fees)

    def _require_funds(self, balance: int, needed: int) -> None:
        if balance < needed:
            raise NetworkError(
                f"account {self.account.address} has {balance} wei and needs {needed}",
                reason=Reason.CHAIN_FAILED,
            )


def _newest(intent: Intent) -> Attempt:
    return [attempt for attempt in intent.attempts if attempt.nonce == intent.nonce][-1]


def _raised(fee: int) -> int:
    return fee * RAISE_NUMERATOR // RAISE_DENOMINATOR + 1
