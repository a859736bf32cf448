"""What the chain says of a single transfer: used or not, and whether the money reached the payee.

1. Whether the authorisation is used is read at a block that enough others confirm.
2. Not used: it is void once that block is past its end, and can be taken until then. Where only a
   newer block says that it was used, it is not known yet.
3. Used: the transaction that used it is found, and the money counts as paid only where that very
   use moved the right amount to the payee. A cancellation, and a use of the same nonce for another
   payee, leave nothing.
4. What cannot be found is not known. Nothing is guessed.

The room refuses to look at anything that a facilitator said, but for where to look first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from web3.exceptions import TransactionNotFound, Web3Exception

from verispect.core.errors import NetworkError, Reason
from verispect.ledger.anchor.chain import Chain, Event, Inclusion
from verispect.payments.chain.addresses import (
    EXACT_PERMIT2_PROXY,
    PERMIT2,
    UPTO_PERMIT2_PROXY,
)
from verispect.payments.chain.calls import address_topic, call_data, event_topic, read_words
from verispect.payments.chain.terms import Method, TransferTerms
from verispect.payments.settlement import Finding, Standing

CHUNK_BLOCKS: Final = 2_000
SEARCH_BLOCKS: Final = 200_000
"""How far back a use is searched for; beyond it what became of the money is not known."""

TRANSFER: Final = event_topic("Transfer(address,address,uint256)")
USED: Final = event_topic("AuthorizationUsed(address,bytes32)")
CANCELED: Final = event_topic("AuthorizationCanceled(address,bytes32)")

_PERMIT: Final = "((address,uint256),uint256,uint256)"
EXACT_SETTLE: Final = f"settle({_PERMIT},address,(address,uint256),bytes)"
UPTO_SETTLE: Final = f"settle({_PERMIT},uint256,address,(address,address,uint256),bytes)"

_UNKNOWN: Final = Finding(Standing.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Sight:
    """The blocks that are looked at."""

    first: int
    confirmed: int
    """Number of the newest block that enough others confirm."""
    confirmed_time: int


class TransferReader:
    """Finds out about single transfers.

    Args:
        chain: where.
        confirmations: blocks that must confirm an answer, its own counted.
        search_blocks: how far back to search.
    """

    def __init__(
        self, chain: Chain, *, confirmations: int = 1, search_blocks: int = SEARCH_BLOCKS
    ) -> None:
        if confirmations < 1:
            raise ValueError("a block confirms itself")
        self.chain = chain
        self.confirmations = confirmations
        self._search_blocks = search_blocks

    def look(self, terms: TransferTerms, amount: int, *, hint: str | None = None) -> Finding:
        """Return what the chain says.

        Args:
            terms: what was signed.
            amount: what is owed.
            hint: hash of the transaction that is said to have moved it.

        Raises:
            NetworkError: where the chain cannot be asked.
        """
        sight = self.sight()
        if sight is None:
            return _UNKNOWN
        if self._is_used(terms, sight.confirmed):
            return self._find_use(terms, amount, sight, hint)
        if sight.confirmed_time >= terms.valid_before:
            return Finding(Standing.VOID)
        if self.confirmations > 1 and self._is_used(terms, None):
            return _UNKNOWN
        return Finding(Standing.UNUSED)

    def sight(self) -> Sight | None:
        """Return which blocks to look at; none where the chain is younger than confirmations."""
        head = self.chain.head()
        number = head.number - self.confirmations + 1
        if number < 0:
            return None
        block = head if number == head.number else self.chain.block(number)
        if block is None:
            return None
        return Sight(max(0, number - self._search_blocks), number, block.time)

    def _is_used(self, terms: TransferTerms, block: int | None) -> bool:
        if terms.method is Method.EIP3009:
            asked = call_data(
                "authorizationState(address,bytes32)", terms.payer, terms.nonce.to_bytes(32)
            )
            return bool(read_words(["bool"], self.chain.call(terms.token, asked, block=block))[0])
        asked = call_data("nonceBitmap(address,uint256)", terms.payer, terms.nonce >> 8)
        (word,) = read_words(["uint256"], self.chain.call(PERMIT2, asked, block=block))
        return bool(word >> (terms.nonce & 0xFF) & 1)

    def _find_use(
        self, terms: TransferTerms, amount: int, sight: Sight, hint: str | None
    ) -> Finding:
        if hint is not None:
            finding = self._read_use(bytes.fromhex(hint.removeprefix("0x")), terms, amount, sight)
            if finding is not None:
                return finding
        for transaction in self._candidates(terms, sight):
            finding = self._read_use(transaction, terms, amount, sight)
            if finding is not None:
                return finding
        return _UNKNOWN

    def _candidates(self, terms: TransferTerms, sight: Sight) -> list[bytes]:
        """Return the transactions that may have used it, newest first."""
        last = sight.confirmed
        while last >= sight.first:
            first = max(sight.first, last - CHUNK_BLOCKS + 1)
            found = self._search(terms, first, last)
            if found and terms.method is Method.EIP3009:
                return [event.transaction for event in found]
            if found:
                # A payer may have paid often: all of them are read.
                return [event.transaction for event in reversed(found)] + (
                    self._candidates(terms, Sight(sight.first, first - 1, 0))
                )
            block = self.chain.block(first)
            if block is None or block.time < terms.valid_after:
                return []
            last = first - 1
        return []

    def _search(self, terms: TransferTerms, first: int, last: int) -> list[Event]:
        payer = address_topic(terms.payer)
        if terms.method is not Method.EIP3009:
            topics = [TRANSFER, payer, address_topic(terms.pay_to)]
            return self.chain.events(terms.token, topics, first=first, last=last)
        nonce = terms.nonce.to_bytes(32)
        for topic in (USED, CANCELED):
            found = self.chain.events(terms.token, [topic, payer, nonce], first=first, last=last)
            if found:
                return found
        return []

    def _read_use(
        self, transaction: bytes, terms: TransferTerms, amount: int, sight: Sight
    ) -> Finding | None:
        """Return what a transaction did with the authorisation; `None` where it did nothing."""
        inclusion = self.chain.inclusion(transaction)
        if inclusion is None or not inclusion.succeeded:
            return None
        if inclusion.block_number > sight.confirmed:
            return None
        if terms.method is Method.EIP3009:
            paid = _authorised_transfer(inclusion, terms, amount)
        elif not self._settles(transaction, terms, amount):
            return None
        else:
            paid = _has_transfer(inclusion, terms, amount)
        if paid is None:
            return None
        if paid:
            return Finding(Standing.PAID, "0x" + transaction.hex())
        return Finding(Standing.VOID, "0x" + transaction.hex())

    def _settles(self, transaction: bytes, terms: TransferTerms, amount: int) -> bool:
        """Tell whether a transaction is a proxy's settlement of this very permit.

        Permit2 leaves no event, so that the call itself is read. One that was wrapped in another
        contract's call is not recognised, and stays unknown.
        """
        try:
            value = self.chain.web3.eth.get_transaction("0x" + transaction.hex())  # type: ignore[arg-type]
            target, data = str(value.get("to")), bytes(value["input"])
        except TransactionNotFound:
            return False
        except (Web3Exception, OSError, LookupError, TypeError, ValueError) as error:
            raise NetworkError(
                "cannot read the transaction: the node refused", reason=Reason.CHAIN_FAILED
            ) from error
        upto = terms.method is Method.PERMIT2_UPTO
        proxy = UPTO_PERMIT2_PROXY if upto else EXACT_PERMIT2_PROXY
        return target.lower() == proxy.lower() and data == settle_data(terms, amount)


def settle_data(terms: TransferTerms, amount: int) -> bytes:
    """Return the call of the proxy that makes a Permit2 payment."""
    permit = ((terms.token, terms.amount), terms.nonce, terms.valid_before - 1)
    if terms.method is Method.PERMIT2_UPTO:
        witness = (terms.pay_to, terms.facilitator, terms.valid_after)
        return call_data(UPTO_SETTLE, permit, amount, terms.payer, witness, terms.signature)
    return call_data(
        EXACT_SETTLE, permit, terms.payer, (terms.pay_to, terms.valid_after), terms.signature
    )


def _authorised_transfer(inclusion: Inclusion, terms: TransferTerms, amount: int) -> bool | None:
    """Tell whether the use of the authorisation moved the money; `None` where neither is shown.

    The token says that it was used and, next, what it moved. Only that next event counts: another
    transfer in the same transaction belongs to another authorisation.
    """
    nonce = terms.nonce.to_bytes(32)
    own = [event for event in inclusion.logs if event.address.lower() == terms.token.lower()]
    for position, event in enumerate(own):
        if event.topics == (CANCELED, address_topic(terms.payer), nonce):
            return False
        if event.topics == (USED, address_topic(terms.payer), nonce):
            following = own[position + 1 : position + 2]
            if not following or following[0].topics[:1] != (TRANSFER,):
                return None
            return _is_transfer(following[0], terms, amount)
    return None


def _has_transfer(inclusion: Inclusion, terms: TransferTerms, amount: int) -> bool:
    return any(
        event.address.lower() == terms.token.lower() and _is_transfer(event, terms, amount)
        for event in inclusion.logs
    )


def _is_transfer(event: Event, terms: TransferTerms, amount: int) -> bool:
    wanted = (TRANSFER, address_topic(terms.payer), address_topic(terms.pay_to))
    return event.topics == wanted and int.from_bytes(event.data) == amount
