"""Gas of anchoring, executed by the embedded development chain under its newest fork's rules.

Gas does not depend on the machine. What rollups charge for data beside gas is not in it.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from report import figure, progress

from verispect.core.encoding import Digest
from verispect.ledger.anchor import contract as calls
from verispect.ledger.anchor import publish
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.artifact import anchor_contract
from verispect.ledger.anchor.chain import Chain
from verispect.ledger.anchor.check import AnchorReference
from verispect.ledger.anchor.intents import Call, IntentStore
from verispect.ledger.anchor.transactions import TransactionSender
from verispect.tlog.merkle import Node, parent_hashes
from verispect.tlog.proof import make_inclusion_proof, read_root

ORIGIN: Final = "log.example/receipts"
BATCHES: Final = (1, 100, 10_000, 1_000_000)
RECEIPTS_OF_A_BATCH: Final = 10_000
MAX_GAS_PER_BATCH: Final = 50_000
MAX_GAS_PER_RECEIPT: Final = 5.0
PROOFS_OF: Final = (10_000, 1_000_000)


class _WholeTree:
    """Every complete subtree of a log whose leaves are numbers."""

    def __init__(self, size: int) -> None:
        row = [
            Digest(hashlib.sha256(b"\x00" + number.to_bytes(8, "big")).digest())
            for number in range(size)
        ]
        self._rows = [row]
        while len(row) > 1:
            row = parent_hashes(row[: len(row) // 2 * 2])
            self._rows.append(row)

    def read_hashes(self, nodes: Sequence[Node]) -> list[Digest]:
        return [self._rows[node.level][node.index] for node in nodes]

    def leaf(self, index: int) -> Digest:
        return self._rows[0][index]


def _publications(
    sender: TransactionSender, reference: AnchorReference, tree: _WholeTree
) -> Iterator[tuple[int, int]]:
    """Anchor a batch of each size, each on top of those before; yield its receipts and its gas."""
    size = 0
    for receipts in BATCHES:
        size += receipts
        root = read_root(tree, size)
        started = time.perf_counter()
        publish.publish(sender, reference, size, root)
        took = time.perf_counter() - started
        gas = sender.run(publish.publication(reference, size, root)).gas_used
        figure(
            "anchor.gas_of_batch",
            gas,
            "gas",
            receipts=receipts,
            gas_per_receipt=round(gas / receipts, 4),
            publish_seconds=round(took, 3),
        )
        yield receipts, gas


def _worst_case(sender: TransactionSender, reference: AnchorReference) -> int:
    """Return the gas of the dearest publication: no zero byte in log, size or root."""
    size, root = (1 << 63) - 1, Digest(b"\xff" * 32)
    publish.publish(sender, reference, size, root)
    return sender.run(publish.publication(reference, size, root)).gas_used


def _verification(sender: TransactionSender, reference: AnchorReference, tree: _WholeTree) -> None:
    """Print what it costs another contract's user to check a leaf on the chain."""
    for size in PROOFS_OF:
        publish.publish(sender, reference, size, read_root(tree, size))
        index = size * 2 // 3
        path = make_inclusion_proof(tree, index, size)
        data = calls.verification(reference.log_id, size, tree.leaf(index), index, path)
        # A transaction, because a node's estimate is one; it changes nothing.
        gas = sender.run(Call(f"check {size}", reference.contract, data)).gas_used
        figure("anchor.gas_of_inclusion_check", gas, "gas", receipts=size, hashes=len(path))


def _new_log(sender: TransactionSender, address: str, number: int) -> AnchorReference:
    log_key = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return publish.register(sender, address, origin=ORIGIN, log_key=log_key)


def _sender(chain: Chain, directory: Path, name: str) -> TransactionSender:
    account = ChainAccount(hashlib.sha256(name.encode()).digest())
    chain.web3.provider.fund(account.address)  # type: ignore[attr-defined]
    store = IntentStore(directory / name, chain_id=chain.chain_id, account=account.address)
    return TransactionSender(chain, account, store)


def main() -> int:
    """Print the figures; fail where a limit is not kept."""
    progress("anchor: hashing a tree")
    tree = _WholeTree(sum(BATCHES))
    chain = Chain.development()
    with tempfile.TemporaryDirectory() as place:
        progress("anchor: publishing")
        first = _sender(chain, Path(place), "first")
        address = publish.deploy(first)
        deployed = first.run(Call("deploy", None, anchor_contract().bytecode)).gas_used
        figure("anchor.gas_of_deployment", deployed, "gas")
        gas_of = dict(_publications(first, _new_log(first, address, 1), tree))
        second = _sender(chain, Path(place), "second")
        _verification(second, _new_log(second, address, 2), tree)
        third = _sender(chain, Path(place), "third")
        worst = max(*gas_of.values(), _worst_case(third, _new_log(third, address, 3)))
    per_receipt = gas_of[RECEIPTS_OF_A_BATCH] / RECEIPTS_OF_A_BATCH
    figure("anchor.gas_per_batch", worst, "gas", limit=MAX_GAS_PER_BATCH)
    figure(
        "anchor.gas_per_receipt",
        per_receipt,
        "gas",
        receipts=RECEIPTS_OF_A_BATCH,
        limit=MAX_GAS_PER_RECEIPT,
    )
    return 0 if worst <= MAX_GAS_PER_BATCH and per_receipt <= MAX_GAS_PER_RECEIPT else 1


if __name__ == "__main__":
    sys.exit(main())
