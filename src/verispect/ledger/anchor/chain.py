"""What the anchor needs of an EVM chain, and the one module that knows `web3`.

A chain is whatever a node says it is: this module checks that the node serves the chain asked for
and believes the rest. An auditor asks a node of their own, or several. What is read for a verdict
is read at one block, some blocks below the head, so that a reorganisation of the newest blocks
cannot change an answer that was given.

The address of a node may hold a password, so that it appears in no message.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import (
    is_checksum_address,
    is_checksum_formatted_address,
    is_hex_address,
    to_checksum_address,
)
from requests.exceptions import RequestException
from web3 import HTTPProvider, Web3
from web3.exceptions import (
    BlockNotFound,
    ContractLogicError,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.types import RPCEndpoint, TxParams

from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    TrustError,
    VerificationError,
)
from verispect.ledger.anchor.recursion import restore

restore()

DEVELOPMENT_CHAIN_IDS: Final = frozenset({131277322940537, 1337, 31337})
"""Chain ids of eth-tester, of geth's and ganache's development mode, of Anvil and Hardhat."""

POLL_SECONDS: Final = 2.0
DEFAULT_PRIORITY_FEE: Final = 1_000_000_000

# A node may answer anything, and web3 reads it as what it should be.
_NODE_ERRORS: Final = (
    Web3Exception,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the chain as it is now."""

    number: int
    hash: bytes
    time: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a contract left in the chain for others to find."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    transaction: bytes
    block_number: int


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A transaction in a block."""

    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    contract: str | None
    """Address of the contract that it created."""

    logs: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Fees:
    """Price of a unit of gas, in wei."""

    maximum: int
    priority: int | None
    """Absent where the chain has no base fee (before EIP-1559)."""

    def fields(self) -> dict[str, int]:
        """Return the fields of a transaction that carry them."""
        if self.priority is None:
            return {"gasPrice": self.maximum}
        return {"type": 2, "maxFeePerGas": self.maximum, "maxPriorityFeePerGas": self.priority}


def checked_address(text: str) -> str:
    """Return an address with its checksum.

    Raises:
        MalformedError: `malformed-key`, also for capitals that are a wrong checksum.
    """
    mistyped = is_checksum_formatted_address(text) and not is_checksum_address(text)
    if not text.startswith("0x") or not is_hex_address(text) or mistyped:
        raise MalformedError("not an address of a chain", reason=Reason.MALFORMED_KEY)
    return str(to_checksum_address(text))


@contextlib.contextmanager
def _node(doing: str) -> Iterator[None]:
    """Turn what web3 raises into our errors, without the node's words."""
    try:
        yield
    except ContractLogicError as error:
        raise VerificationError(
            f"the contract refused: {_revert_reason(error)}", reason=Reason.CHAIN_REVERTED
        ) from error
    except (RequestException, OSError) as error:
        raise NetworkError(
            f"cannot {doing}: the node cannot be reached", reason=Reason.NETWORK_FAILED
        ) from error
    except _NODE_ERRORS as error:
        raise NetworkError(
            f"cannot {doing}: the node refused", reason=Reason.CHAIN_FAILED
        ) from error


def _revert_reason(error: ContractLogicError) -> str:
    words = str(error.message or "").removeprefix("execution reverted").strip(": ")
    return words if words.isprintable() and 0 < len(words) <= 64 else "no reason given"


class Chain:
    """One chain, through one node.

    Args:
        web3: the connection.
        expected_id: refuse any other chain.
    """

    def __init__(self, web3: Web3, *, expected_id: int | None = None) -> None:
        self.web3 = web3
        """For rooms that need more of web3 than this class offers."""
        with _node("ask for the chain's id"):
            self.chain_id = int(web3.eth.chain_id)
        if expected_id is not None and self.chain_id != expected_id:
            raise TrustError(
                f"expected chain {expected_id}, got chain {self.chain_id}",
                reason=Reason.CHAIN_UNEXPECTED,
            )

    @classmethod
    def connect(
        cls, url: str, *, expected_id: int | None = None, timeout_seconds: float = 30.0
    ) -> Chain:
        """Connect to a node over HTTP.

        Raises:
            NetworkError: `network-failed`, `chain-failed`.
            TrustError: `chain-unexpected`.
        """
        provider = HTTPProvider(url, request_kwargs={"timeout": timeout_seconds})
        return cls(Web3(provider), expected_id=expected_id)

    @classmethod
    def development(cls, directory: Path | None = None) -> Chain:
        """Open the embedded development chain; with a directory it outlives the process.

        Raises:
            StoreError: `store-failed` where its journal is damaged.
        """
        from verispect.ledger.anchor.development_chain import DevelopmentProvider

        return cls(Web3(DevelopmentProvider(directory)))

    @property
    def is_development(self) -> bool:
        """Whether the chain is known to be for development."""
        return self.chain_id in DEVELOPMENT_CHAIN_IDS

    @property
    def _is_embedded(self) -> bool:
        return hasattr(self.web3.provider, "tester")

    def fund_for_development(self, address: str) -> None:
        """Give play money to an account of the embedded chain.

        Raises:
            TypeError: on any other chain; this is misuse.
        """
        if not self._is_embedded:
            raise TypeError("only the embedded chain gives money away")
        self.web3.provider.fund(address)  # type: ignore[attr-defined]

    # -- Reading ------------------------------------------------------------------------------

    def head(self) -> Block:
        """Return the newest block."""
        with _node("read the newest block"):
            return _block(self.web3.eth.get_block("latest"))

    def block(self, number: int) -> Block | None:
        """Return the block of that number on the chain as it is now."""
        with _node("read a block"):
            try:
                return _block(self.web3.eth.get_block(number))
            except BlockNotFound:
                return None

    def call(
        self, to: str, data: bytes, *, block: int | None = None, sender: str | None = None
    ) -> bytes:
        """Ask a contract, changing nothing, as the sender would ask it.

        Raises:
            VerificationError: `chain-reverted`.
            NetworkError: `network-failed`, `chain-failed`.
        """
        transaction: TxParams = {"to": _address(to), "data": _hex(data)}
        if sender is not None:
            transaction["from"] = _address(sender)
        with _node("call the contract"):
            return bytes(self.web3.eth.call(transaction, "latest" if block is None else block))

    def code(self, address: str) -> bytes:
        """Return the code at an address."""
        with _node("read the contract's code"):
            return bytes(self.web3.eth.get_code(_address(address)))

    def balance(self, address: str) -> int:
        """Return what an account has, in wei."""
        with _node("read the account's balance"):
            return int(self.web3.eth.get_balance(_address(address)))

    def events(
        self, address: str, topics: Sequence[bytes | None], *, first: int, last: int
    ) -> list[Event]:
        """Return the events of a contract in a range of blocks, in order.

        Args:
            address: of the contract.
            topics: what they must be, in order; `None` is any.
            first: number of the first block.
            last: number of the last one.
        """
        wanted: list[Any] = [None if topic is None else _hex(topic) for topic in topics]
        with _node("look for events"):
            found = self.web3.eth.get_logs(
                {
                    "address": _address(address),
                    "topics": wanted,
                    "fromBlock": HexStr(hex(first)),
                    "toBlock": HexStr(hex(last)),
                }
            )
            return [_event(log) for log in found]

    # -- Sending ------------------------------------------------------------------------------

    def pending_nonce(self, address: str) -> int:
        """Return how many transactions of the account are in blocks or wait for one."""
        with _node("read the account's nonce"):
            return int(self.web3.eth.get_transaction_count(_address(address), "pending"))

    def next_nonce(self, address: str) -> int:
        """Return how many transactions of the account are in blocks."""
        with _node("read the account's nonce"):
            return int(self.web3.eth.get_transaction_count(_address(address)))

    def estimate_gas(self, sender: str, to: str | None, data: bytes) -> int:
        """Try a transaction without sending it.

        Raises:
            VerificationError: `chain-reverted` where it would fail.
            NetworkError: `network-failed`, `chain-failed`.
        """
        transaction: TxParams = {"from": _address(sender), "data": _hex(data)}
        if to is not None:
            transaction["to"] = _address(to)
        with _node("estimate the gas"):
            return int(self.web3.eth.estimate_gas(transaction))

    def fees(self) -> Fees:
        """Return what a transaction should offer now: room for the base fee to double."""
        with _node("read the fees"):
            base = self.web3.eth.get_block("latest").get("baseFeePerGas")
            if base is None:
                return Fees(int(self.web3.eth.gas_price), None)
            try:
                priority = int(self.web3.eth.max_priority_fee)
            except Web3RPCError:
                priority = DEFAULT_PRIORITY_FEE
            return Fees(2 * int(base) + priority, priority)

    def submit(self, raw: bytes, transaction_hash: bytes) -> None:
        """Hand a signed transaction to the node; one that it knows already is no error.

        Raises:
            NetworkError: `network-failed` where it may or may not have arrived, `chain-failed`
                where the node refused it.
        """
        with _node("send the transaction"):
            try:
                self.web3.eth.send_raw_transaction(raw)
            except Web3RPCError:
                # Nodes have many words for "I have it"; whether it is there says more.
                if not self._is_known(transaction_hash):
                    raise

    def _is_known(self, transaction_hash: bytes) -> bool:
        try:
            self.web3.eth.get_transaction(_hash(transaction_hash))
        except TransactionNotFound:
            return False
        return True

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Return where a transaction is in the chain as it is now, if it is."""
        with _node("look for the transaction"):
            try:
                receipt = self.web3.eth.get_transaction_receipt(_hash(transaction_hash))
            except TransactionNotFound:
                return None
            contract = receipt.get("contractAddress")
            return Inclusion(
                int(receipt["blockNumber"]),
                bytes(receipt["blockHash"]),
                int(receipt["status"]) == 1,
                int(receipt["gasUsed"]),
                None if contract is None else str(contract),
                tuple(_event(log) for log in receipt.get("logs") or ()),
            )

    def confirmations(self, inclusion: Inclusion) -> int:
        """Return how many blocks confirm it, its own counted; 0 where its block is gone."""
        block = self.block(inclusion.block_number)
        if block is None or block.hash != inclusion.block_hash:
            return 0
        return self.head().number - inclusion.block_number + 1

    def pass_time(self) -> None:
        """Let another block come: the embedded chain makes one, others are waited for."""
        if not self._is_embedded:
            time.sleep(POLL_SECONDS)
            return
        with _node("make a block"):
            self.web3.manager.request_blocking(RPCEndpoint("evm_mine"), [])


def _block(value: Any) -> Block:
    return Block(int(value["number"]), bytes(value["hash"]), int(value["timestamp"]))


def _event(value: Any) -> Event:
    return Event(
        str(value["address"]),
        tuple(bytes(topic) for topic in value["topics"]),
        bytes(value["data"]),
        bytes(value["transactionHash"]),
        int(value["blockNumber"]),
    )


def _address(text: str) -> ChecksumAddress:
    return to_checksum_address(text)


def _hex(data: bytes) -> HexStr:
    return HexStr("0x" + data.hex())


def _hash(data: bytes) -> HexStr:
    return _hex(data)
