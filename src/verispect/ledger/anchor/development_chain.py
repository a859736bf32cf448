"""The embedded development chain: a real EVM in this process, with nobody behind it.

For trials, tests and demonstrations. Whoever can write its journal can write its history, so that
what is anchored in it is worth nothing to anybody else; policies refuse it unless they name it.
Its chain id is `DEVELOPMENT_CHAIN_ID`, and it shows in every transaction and every report.

With a directory the chain outlives the process: each block is a line of a journal, and whoever
opens the directory executes the journal again and gets the same blocks, bit for bit. Processes
take turns by a lock on the journal. A transaction is executed before it is written, so that the
journal holds none that the chain refuses; one that was executed and not written is lost, as one
that never reached a node.

The chain refuses to sleep: every transaction makes a block at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from eth.vm.forks.prague import PragueVM
from eth_account import Account
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from eth_utils.exceptions import ValidationError
from hexbytes import HexBytes
from web3.providers.base import BaseProvider
from web3.providers.eth_tester import EthereumTesterProvider
from web3.types import RPCEndpoint, RPCResponse

from verispect.core.encoding import sha256
from verispect.core.errors import Reason, StoreError
from verispect.ledger.anchor.recursion import restore

restore()

DEVELOPMENT_CHAIN_ID: Final = 131277322940537
"""The chain id of eth-tester; no public network has it."""

JOURNAL_NAME: Final = "development-chain.jsonl"
GENESIS_TIME: Final = 1_700_000_000
MAX_JOURNAL_BYTES: Final = 64 * 1024 * 1024

_FUNDING_KEY: Final = (1).to_bytes(32, "big")
"""The key of eth-tester's first account, which everybody knows."""

_HEADER: Final = {"verispect": "development-chain", "version": 1}


Genesis: TypeAlias = Mapping[bytes, Mapping[str, Any]]
"""For each address its `balance`, `nonce`, `code` and `storage` in the first block."""


class _UnhurriedVM(PragueVM):
    """Prague, with many blocks in a second, as rollups have them.

    With a second for each block, a burst of payments would run ahead of the clock by which their
    payers say until when they hold.
    """

    @classmethod
    def validate_header(cls, header: Any, parent_header: Any) -> None:
        """Check a header, whose time may be its parent's."""
        if parent_header is not None and header.timestamp == parent_header.timestamp:
            header = header.copy(timestamp=header.timestamp + 1)
        super().validate_header(header, parent_header)


class _DeterministicBackend(PyEVMBackend):  # type: ignore[misc]
    """py-evm whose blocks depend on nothing but their transactions and the times given."""

    def __init__(self, genesis: Genesis | None) -> None:
        super().__init__(
            genesis_parameters=PyEVMBackend.generate_genesis_params({"timestamp": GENESIS_TIME}),
            genesis_state=genesis,
            vm_configuration=None if genesis is None else ((0, _UnhurriedVM),),
        )
        self._step = 1 if genesis is None else 0

    def set_next_time(self, seconds: int) -> None:
        """Give the block that comes next its time."""
        self.chain.header = self.chain.header.copy(timestamp=seconds)

    @property
    def next_time(self) -> int:
        """The earliest time that the next block may have."""
        parent = self.chain.get_canonical_block_header_by_number(self.chain.header.block_number - 1)
        return int(parent.timestamp) + self._step

    def mine_blocks(self, num_blocks: int = 1, coinbase: bytes = bytes(20)) -> tuple[bytes, ...]:
        """Finish blocks, as the parent class, but with no randomness in them."""
        hashes = []
        for _ in range(num_blocks):
            number = self.chain.header.block_number
            block = self.chain.mine_block(
                coinbase=coinbase, mix_hash=sha256(number.to_bytes(8, "big")), blob_gas_used=0
            )
            hashes.append(block.hash)
        return tuple(hashes)


class DevelopmentProvider(BaseProvider):
    """The chain behind web3, with errors in the form that a node gives them.

    Args:
        directory: where the journal is kept; without one the chain ends with the process.
        now: seconds since 1970, for the times of blocks.
        genesis: what the first block holds, where it is more than eth-tester's accounts. A journal
            is opened only with the genesis that it began with. Such a chain makes any number of
            blocks in a second.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        now: Callable[[], int] = lambda: int(time.time()),
        genesis: Genesis | None = None,
    ) -> None:
        super().__init__()
        self._now = now
        self._genesis = genesis
        self._lock = threading.RLock()
        self._start()
        self._journal: Path | None = None
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._journal = directory / JOURNAL_NAME
            with self._turn():
                pass

    def _start(self) -> None:
        self._backend = _DeterministicBackend(self._genesis)
        self.tester = EthereumTester(self._backend)
        self._inner = EthereumTesterProvider(self.tester)
        self._middleware = self._inner._middleware  # noqa: SLF001  web3 has no other door to it
        self._applied = 0

    def request_func(self, w3: Any, middleware_onion: Any) -> Callable[..., RPCResponse]:
        """Return how web3 makes a request: eth-tester's translation around our `make_request`."""
        self._inner.make_request = self.make_request  # type: ignore[method-assign]
        return self._inner.request_func(w3, middleware_onion)

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Answer one request."""
        try:
            with self._turn() as turn:
                if method == "eth_sendRawTransaction":
                    return self._answer(self.send(bytes(HexBytes(params[0])), turn))
                if method == "evm_mine":
                    self._finish_block(None, None, turn)
                    return self._answer("0x0")
                return EthereumTesterProvider.make_request(self._inner, method, params)
        except TransactionFailed as error:
            return self._error(3, str(error.args[0]))
        except ValidationError as error:
            return self._error(-32000, str(error))

    def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: ARG002
        """Tell that the chain is there."""
        return True

    def fund(self, address: str, wei: int = 10**20) -> None:
        """Give play money to an account."""
        funder = Account.from_key(_FUNDING_KEY)
        with self._turn() as turn:
            transaction = {
                "type": 2,
                "chainId": DEVELOPMENT_CHAIN_ID,
                "nonce": self.tester.get_nonce(funder.address),
                "to": address,
                "value": wei,
                "gas": 21_000,
                "maxFeePerGas": 10**12,
                "maxPriorityFeePerGas": 1,
            }
            self.send(bytes(funder.sign_transaction(transaction).raw_transaction), turn)

    def send(self, raw: bytes, turn: int | None) -> str:
        """Execute a transaction in a block of its own."""
        return self._finish_block(raw, None, turn)

    # -- Blocks -------------------------------------------------------------------------------

    def _finish_block(self, raw: bytes | None, block_time: int | None, turn: int | None) -> str:
        """Make the next block, with one transaction or none, and write it down."""
        replaying = block_time is not None
        seconds = max(self._backend.next_time, self._now()) if block_time is None else block_time
        self._backend.set_next_time(seconds)
        transaction = ""
        if raw is None:
            self.tester.mine_block()
        else:
            transaction = self.tester.send_raw_transaction("0x" + raw.hex())
        if turn is not None and not replaying:
            block = self.tester.get_block_by_number("latest")
            line = {"time": seconds, "raw": raw and raw.hex(), "hash": block["hash"]}
            self._applied += os.write(turn, json.dumps(line).encode() + b"\n")
            os.fsync(turn)
        return transaction

    @contextlib.contextmanager
    def _turn(self) -> Iterator[int | None]:
        """Hold the journal, with every block of other processes executed here too."""
        with self._lock:
            if self._journal is None:
                yield None
                return
            descriptor = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._catch_up(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)

    def _catch_up(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size > MAX_JOURNAL_BYTES:
            raise StoreError("the development chain is too long", reason=Reason.STORE_FAILED)
        if size == 0:
            self._applied = os.write(descriptor, json.dumps(_HEADER).encode() + b"\n")
            os.fsync(descriptor)
            return
        if size == self._applied:
            return
        news = os.pread(descriptor, size - self._applied, self._applied)
        whole = news[: news.rfind(b"\n") + 1]
        try:
            for line in whole.splitlines():
                self._replay(json.loads(line))
        except (ValueError, KeyError, TypeError, TransactionFailed, ValidationError) as error:
            raise StoreError(
                "the journal of the development chain is damaged", reason=Reason.STORE_FAILED
            ) from error
        self._applied += len(whole)
        # A line cut short is a block that nobody was told of.
        os.ftruncate(descriptor, self._applied)

    def _replay(self, line: dict[str, Any]) -> None:
        if "verispect" in line:
            if line != _HEADER:
                raise ValueError("another journal")
            return
        raw = line["raw"]
        self._finish_block(None if raw is None else bytes.fromhex(raw), line["time"], None)
        if self.tester.get_block_by_number("latest")["hash"] != line["hash"]:
            raise ValueError("another block")

    @staticmethod
    def _answer(result: Any) -> RPCResponse:
        return {"id": 1, "jsonrpc": "2.0", "result": result}

    @staticmethod
    def _error(code: int, message: str) -> RPCResponse:
        return {"id": 1, "jsonrpc": "2.0", "error": {"code": code, "message": message}}
