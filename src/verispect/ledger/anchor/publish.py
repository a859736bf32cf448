"""What an operator does with the anchor: deploy it, register the log, publish its roots.

Each of the three may be called again at any time, after a crash in particular: what is in the
chain already is found there, and what was meant to be is brought to its end. A tree is published
once; another root for a size that was ever meant to be published is refused before anything is
sent, and by the contract if somebody else sends it.
"""

from __future__ import annotations

from verispect.core.encoding import Digest
from verispect.core.errors import NetworkError, Reason, RequestError, VerificationError
from verispect.ledger.anchor import contract as calls
from verispect.ledger.anchor.artifact import anchor_contract
from verispect.ledger.anchor.check import AnchorReference
from verispect.ledger.anchor.contract import AnchorContract, AnchoredRoot, LogId
from verispect.ledger.anchor.intents import Call
from verispect.ledger.anchor.transactions import TransactionSender


def deploy(sender: TransactionSender) -> str:
    """Return the address of the contract that this account deployed, now if it had not.

    Raises:
        VerificationError: `anchor-contract-unknown` where the chain holds other code there.
        NetworkError, StoreError: as `TransactionSender.run`.
    """
    inclusion = sender.run(Call("deploy", None, anchor_contract().bytecode))
    address = inclusion.contract
    if address is None:
        raise NetworkError("the node names no contract", reason=Reason.CHAIN_FAILED)
    _require_ours(AnchorContract(sender.chain, address))
    return address


def register(
    sender: TransactionSender, address: str, *, origin: str, log_key: bytes
) -> AnchorReference:
    """Register a log with the sender's account as owner and writer, unless it is.

    Args:
        sender: whose account will own the log.
        address: the anchor contract.
        origin: the log's name, as in its checkpoints.
        log_key: the log's public key, 32 bytes.

    Raises:
        VerificationError: `anchor-contract-unknown`; `chain-reverted`, as where the account
            writes another log already.
        NetworkError, StoreError: as `TransactionSender.run`.
    """
    _require_ours(AnchorContract(sender.chain, address))
    account = sender.account.address
    reference = AnchorReference(sender.chain.chain_id, address, account, origin, log_key)
    sender.resume()
    if AnchorContract(sender.chain, address).log(reference.log_id).owner is None:
        name = f"register {reference.log_id.hex()}"
        sender.run(Call(name, address, calls.register_log(log_key, origin)))
    return reference


def publication(reference: AnchorReference, size: int, root: Digest) -> Call:
    """Return the call that anchors a tree, under the name that it has once and for all."""
    log_id = reference.log_id.hex()
    data = calls.publish(size, root)
    return Call(f"publish {log_id} {size}", reference.contract, data, log_id, size)


def publish(
    sender: TransactionSender, reference: AnchorReference, size: int, root: Digest
) -> AnchoredRoot:
    """Anchor a tree, unless it is.

    Args:
        sender: whose account is the log's writer.
        reference: where.
        size: of the tree.
        root: of the tree. The caller MUST have verified that the log signed it.

    Raises:
        VerificationError: `anchor-conflict` where another root has this size, or a larger tree
            came before; `anchor-contract-unknown`; `chain-reverted`.
        RequestError: `invalid-request` for an empty tree.
        NetworkError, StoreError: as `TransactionSender.run`.
    """
    if size < 1:
        raise RequestError("an empty tree is not anchored", parameter="size")
    contract = AnchorContract(sender.chain, reference.contract)
    _require_ours(contract)
    # Goes first, so that a crashed publication is found before the chain is asked.
    sender.resume()
    anchored = contract.root(reference.log_id, root)
    if anchored is not None and anchored.size != size:
        raise VerificationError(
            f"the root is anchored at size {anchored.size}, not {size}",
            reason=Reason.ANCHOR_CONFLICT,
        )
    if anchored is not None:
        return anchored
    _require_growth(contract, reference.log_id, size)
    sender.run(publication(reference, size, root))
    anchored = contract.root(reference.log_id, root)
    if anchored is None:
        raise NetworkError("the anchor left the chain again", reason=Reason.CHAIN_UNCONFIRMED)
    return anchored


def change(sender: TransactionSender, reference: AnchorReference, name: str, data: bytes) -> None:
    """Send one of the owner's or writer's other calls, once.

    Args:
        sender: whose account may.
        reference: where.
        name: what for; another call under the same name is refused.
        data: as `contract` encodes it.

    Raises:
        VerificationError: `chain-reverted`, `anchor-conflict`, `anchor-contract-unknown`.
        NetworkError, StoreError: as `TransactionSender.run`.
    """
    _require_ours(AnchorContract(sender.chain, reference.contract))
    sender.run(Call(name, reference.contract, data))


def _require_ours(contract: AnchorContract) -> None:
    if not contract.is_ours():
        raise VerificationError(
            "the code at the address is not the anchor contract",
            reason=Reason.ANCHOR_CONTRACT_UNKNOWN,
        )


def _require_growth(contract: AnchorContract, log_id: LogId, size: int) -> None:
    latest = contract.log(log_id).size
    if latest >= size:
        raise VerificationError(
            f"a tree of {latest} leaves is anchored already", reason=Reason.ANCHOR_CONFLICT
        )
