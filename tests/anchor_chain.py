"""A development chain with the anchor on it, accounts with money, and a log to anchor."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from tlog_log import ORIGIN, SIGNER, naive_path, naive_root
from verispect.core.encoding import Digest
from verispect.ledger.anchor import publish
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.ledger.anchor.check import AnchorAuditor, AnchorReference
from verispect.ledger.anchor.contract import AnchorContract
from verispect.ledger.anchor.intents import IntentStore
from verispect.ledger.anchor.transactions import Patience, TransactionSender

LOG_KEY = SIGNER.public_key.raw
LEAVES = [Digest(sha256(b"\x00" + number.to_bytes(4, "big")).digest()) for number in range(200)]
_REPOSITORY = Path(__file__).resolve().parent.parent
EAS_VARIABLE = "VERISPECT_EAS_CONTRACTS"


def root_at(size: int) -> Digest:
    return Digest(naive_root(LEAVES[:size]))


def other_root_at(size: int) -> Digest:
    """The root of another log of that size."""
    return Digest(naive_root([bytes(32), *LEAVES[1:size]]))


def path_to(index: int, size: int) -> list[bytes]:
    return naive_path(index, LEAVES[:size])


def account(name: str) -> ChainAccount:
    return ChainAccount(sha256(name.encode()).digest())


@dataclass
class AnchoredLog:
    """One operator at work on one chain, its state in a directory."""

    directory: Path
    chain: Chain = field(default_factory=Chain.development)
    operator: ChainAccount = field(default_factory=lambda: account("operator"))
    patience: Patience = field(
        default_factory=lambda: Patience(deadline_seconds=0.0, resend_seconds=0.0)
    )

    def __post_init__(self) -> None:
        if self.chain.balance(self.operator.address) == 0:
            self.chain.web3.provider.fund(self.operator.address)
        self.open()

    def open(self) -> None:
        """Start, as a process does."""
        self.store = IntentStore(
            self.directory, chain_id=self.chain.chain_id, account=self.operator.address
        )
        self.sender = TransactionSender(
            self.chain, self.operator, self.store, patience=self.patience
        )

    def restart(self) -> None:
        self.store.close()
        self.open()

    def set_up(self) -> AnchorReference:
        address = publish.deploy(self.sender)
        self.reference = publish.register(self.sender, address, origin=ORIGIN, log_key=LOG_KEY)
        self.contract = AnchorContract(self.chain, address)
        return self.reference

    def publish(self, size: int):
        return publish.publish(self.sender, self.reference, size, root_at(size))

    def auditor(self, *, confirmations: int = 1) -> AnchorAuditor:
        return AnchorAuditor(
            self.chain, self.reference, confirmations=confirmations, accept_development=True
        )

    def send(self, sender: ChainAccount, data: bytes, *, to: str | None = None) -> bool:
        """Send what anybody can send, past all of our own checks; tell whether it took effect."""
        if self.chain.balance(sender.address) == 0:
            self.chain.web3.provider.fund(sender.address)
        signed = sender.sign(
            {
                "chainId": self.chain.chain_id,
                "nonce": self.chain.next_nonce(sender.address),
                "to": to or self.reference.contract,
                "value": 0,
                "gas": 500_000,
                "data": data,
                **self.chain.fees().fields(),
            }
        )
        self.chain.submit(signed.raw, signed.hash)
        inclusion = self.chain.inclusion(signed.hash)
        assert inclusion is not None
        self.last_gas = inclusion.gas_used
        return inclusion.succeeded

    def snapshot(self):
        return self.chain.web3.provider.tester.take_snapshot()

    def reorganise(self, snapshot) -> None:
        """Take back every block since the snapshot."""
        self.chain.web3.provider.tester.revert_to_snapshot(snapshot)


@pytest.fixture
def anchored(tmp_path: Path) -> AnchoredLog:
    log = AnchoredLog(tmp_path / "state")
    log.set_up()
    yield log
    log.store.close()


def answer_requests(chain: Chain, answer) -> None:
    """Let a function answer instead of the chain, or the chain again."""
    provider = chain.web3.provider
    provider.make_request = answer
    provider._inner._request_func_cache = (None, None)


def eas_contracts() -> dict[str, str]:
    """Byte code of the genuine EAS; skips the test where it is not at hand."""
    folder = (_REPOSITORY / os.environ.get(EAS_VARIABLE, "../shared/vectors/eas")).resolve()
    if not (folder / "contracts.json").is_file():
        pytest.skip(f"no genuine EAS: set {EAS_VARIABLE} to a folder with contracts.json")
    return json.loads((folder / "contracts.json").read_text())
