"""Moves money on a chain with an account of ours, and says where it is by the chain alone.

`settle` brings a signed payment to the chain; that an authorisation moves money once is the
contract's rule, so that bringing it twice costs gas and nothing else. `look` believes no
transaction that we sent either: it reads the state and the events (`reading.py`, `vouchers.py`).

A voucher counts as paid once it is claimed: the money is then the payee's, and `pay_out` sends it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    TrustError,
    VerificationError,
)
from verispect.payments.authorisation import Authorisation, Scheme
from verispect.payments.chain.addresses import EXACT_PERMIT2_PROXY, UPTO_PERMIT2_PROXY
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.reading import SEARCH_BLOCKS, TransferReader, settle_data
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.chain.terms import Method, TransferTerms, read_transfer
from verispect.payments.chain.vouchers import (
    MAX_CLAIMS,
    Authoriser,
    ChannelBook,
    Claim,
    channel_totals,
    newest_claims,
    pay_out,
    send_claims,
)
from verispect.payments.settlement import Finding, Standing
from verispect.payments.store import Payment

MAX_HINTS: Final = 10_000

_TRANSFER: Final = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32"


class ChainSettlement:
    """A `Settlement` that needs nobody else. Methods block; threads may share it.

    Args:
        signer: the account that brings payments to the chain and pays the gas.
        book: what channels owe; without it vouchers are neither taken nor found.
        authoriser: the payee's key for claims; none where the signer itself may claim.
        confirmations: blocks that must confirm what is believed, its own counted.
        search_blocks: how far back a use of an authorisation is searched for.
    """

    def __init__(
        self,
        signer: ChainSigner,
        *,
        book: ChannelBook | None = None,
        authoriser: Authoriser | None = None,
        confirmations: int = 1,
        search_blocks: int = SEARCH_BLOCKS,
    ) -> None:
        self._signer = signer
        self._book = book
        self._authoriser = authoriser
        self._reader = TransferReader(
            signer.chain, confirmations=confirmations, search_blocks=search_blocks
        )
        self._network = f"eip155:{signer.get_chain_id()}"
        self._lock = threading.Lock()
        self._hints: OrderedDict[Digest, str] = OrderedDict()

    # -- Moving -------------------------------------------------------------------------------

    def settle(self, payment: Payment, amount: int) -> None:
        """Bring a payment to the chain and wait for its block.

        Raises:
            MalformedError: `malformed-payment`.
            TrustError: `chain-unexpected` where it is of another chain.
            VerificationError: `payment-invalid`, `chain-reverted`.
            NetworkError: `network-failed`, `chain-failed`, `chain-unconfirmed`: it may have moved.
        """
        authorisation = payment.authorisation
        self._check(authorisation, amount)
        if authorisation.scheme is Scheme.BATCH_SETTLEMENT:
            receipt = send_claims(self._signer, [self._claim(payment, amount)], self._authoriser)
            self.hint(payment, receipt.tx_hash)
            return
        terms = read_transfer(authorisation)
        sent = self._sent(payment)
        if sent is not None and self._signer.receipt(sent) is None:
            # It may still be on its way: it is waited for, not sent again.
            with contextlib.suppress(NetworkError):
                self._signer.wait_for_transaction_receipt(sent)
                return
        target, data = _settling_call(terms, amount)
        transaction = self._signer.send_transaction(target, data)
        self.hint(payment, transaction)
        receipt = self._signer.wait_for_transaction_receipt(transaction)
        if receipt.status != 1:
            raise VerificationError(
                "the contract refused the payment", reason=Reason.CHAIN_REVERTED
            )

    def claim(self, owed: Sequence[tuple[Payment, int]]) -> int:
        """Claim many vouchers, of any number of channels, in as few transactions as can be.

        Where a transaction is refused for one of its channels, its channels are claimed singly.

        Returns:
            How many payments were claimed; what the chain says of each is for `look`.
        """
        vouchers = [
            (payment, charge)
            for payment, charge in owed
            if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        ]
        claims = newest_claims(self._claim(payment, charge) for payment, charge in vouchers)
        claimed: dict[bytes, str] = {}
        for start in range(0, len(claims), MAX_CLAIMS):
            rows = claims[start : start + MAX_CLAIMS]
            try:
                receipt = send_claims(self._signer, rows, self._authoriser)
                claimed.update({row.terms.channel_id: receipt.tx_hash for row in rows})
            except VerificationError:
                for row in rows:
                    with contextlib.suppress(VerificationError):
                        receipt = send_claims(self._signer, [row], self._authoriser)
                        claimed[row.terms.channel_id] = receipt.tx_hash
        count = 0
        for payment, _ in vouchers:
            transaction = claimed.get(bytes.fromhex(payment.authorisation.key.holder[2:]))
            if transaction is not None:
                self.hint(payment, transaction)
                count += 1
        return count

    def pay_out(self, receiver: str, token: str) -> str:
        """Have what was claimed sent to the payee; return the transaction's hash.

        Raises:
            VerificationError: `chain-reverted`.
            NetworkError: `network-failed`, `chain-failed`, `chain-unconfirmed`.
        """
        return pay_out(self._signer, receiver, token).tx_hash

    def _check(self, authorisation: Authorisation, amount: int) -> None:
        if authorisation.key.network != self._network:
            raise TrustError(
                f"expected a payment on {self._network}", reason=Reason.CHAIN_UNEXPECTED
            )
        fixed = authorisation.scheme.is_fixed
        if not 0 < amount <= authorisation.amount or (fixed and amount != authorisation.amount):
            raise VerificationError(
                "the charge is not what was authorised", reason=Reason.PAYMENT_INVALID
            )

    # -- Looking ------------------------------------------------------------------------------

    def look(self, payment: Payment, amount: int) -> Finding:
        """Return what the chain says; `UNKNOWN` where it cannot be asked."""
        authorisation = payment.authorisation
        if authorisation.key.network != self._network:
            return Finding(Standing.UNKNOWN)
        try:
            if authorisation.scheme is Scheme.BATCH_SETTLEMENT:
                return self._look_at_channel(payment, amount)
            terms = read_transfer(authorisation)
            return self._reader.look(terms, amount, hint=self._sent(payment))
        except (NetworkError, VerificationError, MalformedError):
            return Finding(Standing.UNKNOWN)

    def _look_at_channel(self, payment: Payment, amount: int) -> Finding:
        """Tell whether the channel's claimed total covers the payment.

        A voucher has no end and its channel can be filled again, so that it is never void.
        """
        claim = self._claim(payment, amount)
        sight = self._reader.sight()
        if sight is None:
            return Finding(Standing.UNKNOWN)
        total, chain, channel_id = claim.total, self._signer.chain, claim.terms.channel_id
        if channel_totals(chain, channel_id, block=sight.confirmed).claimed >= total:
            return Finding(Standing.PAID, self._sent(payment))
        if channel_totals(chain, channel_id).claimed >= total:
            return Finding(Standing.UNKNOWN)
        return Finding(Standing.UNUSED)

    def _claim(self, payment: Payment, charge: int) -> Claim:
        if self._book is None:
            raise VerificationError("no channels are kept here", reason=Reason.PAYMENT_INVALID)
        return self._book.claim(payment, charge)

    # -- Where to look first ------------------------------------------------------------------

    def hint(self, payment: Payment, transaction: str) -> None:
        """Note which transaction is said to move a payment; it is looked at first, not believed."""
        with self._lock:
            self._hints[payment.payment_id] = transaction
            while len(self._hints) > MAX_HINTS:
                self._hints.popitem(last=False)

    def _sent(self, payment: Payment) -> str | None:
        with self._lock:
            return self._hints.get(payment.payment_id)


def _settling_call(terms: TransferTerms, amount: int) -> tuple[str, bytes]:
    """Return the contract and the call that make a payment."""
    if terms.method is Method.PERMIT2_EXACT:
        return EXACT_PERMIT2_PROXY, settle_data(terms, amount)
    if terms.method is Method.PERMIT2_UPTO:
        return UPTO_PERMIT2_PROXY, settle_data(terms, amount)
    fields = (
        terms.payer,
        terms.pay_to,
        terms.amount,
        terms.valid_after,
        terms.valid_before,
        terms.nonce.to_bytes(32),
    )
    signature = terms.signature
    if len(signature) != 65:
        return terms.token, call_data(f"{_TRANSFER},bytes)", *fields, signature)
    v = signature[64] + 27 if signature[64] in {0, 1} else signature[64]
    split = (v, signature[:32], signature[32:64])
    return terms.token, call_data(f"{_TRANSFER},uint8,bytes32,bytes32)", *fields, *split)
