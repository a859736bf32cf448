"""The alternative anchor without a contract of ours: the Ethereum Attestation Service's timestamps.

EAS stands at a known address of many chains. Its `timestamp(bytes32)` keeps the block time at
which anybody first named a digest. Named here is a digest of origin, log key, size and root, and
not the root alone, which says neither whose it is nor how large the tree.

It shows when a tree existed and nothing more: anybody may name any digest, so that nothing grows,
nobody is refused, and an operator may name two roots of one size. Nor is the code at the address
ours to compare: the address is trusted as given. Both are why the contract is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    VerificationError,
)
from verispect.ledger.anchor.chain import Chain, checked_address
from verispect.ledger.anchor.intents import Call
from verispect.ledger.anchor.recursion import restore
from verispect.ledger.anchor.transactions import TransactionSender

restore()

OP_STACK_ADDRESS: Final = "0x4200000000000000000000000000000000000021"
"""Where chains of the OP stack have EAS from their first block."""

_DOMAIN: Final = b"verispect-anchor-eas-v1"


@dataclass(frozen=True, slots=True)
class Timestamped:
    """A tree that EAS has a time for."""

    size: int
    root: Digest
    digest: Digest
    """What was named to EAS."""

    anchored_at: int
    """Block time, seconds since 1970."""

    chain_id: int
    is_development: bool


def timestamp_digest(origin: str, log_key: bytes, size: int, root: Digest) -> Digest:
    """Return what is named to EAS for a tree.

    Raises:
        MalformedError: `malformed-key` for a log key that has not 32 bytes.
    """
    if len(log_key) != 32:
        raise MalformedError("a log's key has 32 bytes", reason=Reason.MALFORMED_KEY)
    return sha256(_DOMAIN + log_key + size.to_bytes(8, "big") + root + origin.encode())


class EasTimestamps:
    """EAS at one address of one chain.

    Args:
        chain: where it stands.
        address: where on the chain.
        origin: the log's name.
        log_key: the log's public key.
    """

    def __init__(self, chain: Chain, address: str, *, origin: str, log_key: bytes) -> None:
        self._chain = chain
        self._address = checked_address(address)
        self._origin = origin
        self._log_key = log_key

    def publish(self, sender: TransactionSender, size: int, root: Digest) -> Timestamped:
        """Name a tree, unless somebody has.

        Refuses, from this account's own records, a second root for a size and a smaller size;
        EAS itself would not.

        Raises:
            VerificationError: `anchor-conflict`, `chain-reverted`.
            RequestError: `invalid-request` for an empty tree.
            NetworkError, StoreError: as `TransactionSender.run`.
        """
        if size < 1:
            raise RequestError("an empty tree is not anchored", parameter="size")
        digest = timestamp_digest(self._origin, self._log_key, size, root)
        subject = sha256(self._log_key + self._origin.encode()).hex()
        data = function_signature_to_4byte_selector("timestamp(bytes32)") + encode(
            ["bytes32"], [digest]
        )
        sender.resume()
        found = self._find(size, root, None)
        if found is None:
            sender.run(Call(f"timestamp {subject} {size}", self._address, data, subject, size))
            found = self._find(size, root, None)
        if found is None:
            raise NetworkError(
                "the timestamp left the chain again", reason=Reason.CHAIN_UNCONFIRMED
            )
        return found

    def check(
        self, size: int, root: Digest, *, confirmations: int, accept_development: bool = False
    ) -> Timestamped:
        """Check that a tree has a time.

        Args:
            size: of the tree.
            root: of the tree.
            confirmations: blocks that must confirm it, its own counted.
            accept_development: whether a development chain is good enough.

        Raises:
            VerificationError: `anchor-missing`, `development-chain`.
            NetworkError: `chain-unconfirmed`, `chain-failed`, `network-failed`.
        """
        if self._chain.is_development and not accept_development:
            raise VerificationError(
                f"chain {self._chain.chain_id} is for development", reason=Reason.DEVELOPMENT_CHAIN
            )
        block = self._chain.head().number - confirmations + 1
        if confirmations < 1 or block < 0:
            raise NetworkError("the chain is too short", reason=Reason.CHAIN_UNCONFIRMED)
        found = self._find(size, root, block)
        if found is not None:
            return found
        if self._find(size, root, None) is not None:
            raise NetworkError("the anchor is too new", reason=Reason.CHAIN_UNCONFIRMED)
        raise VerificationError(
            f"the tree of {size} leaves has no timestamp", reason=Reason.ANCHOR_MISSING
        )

    def _find(self, size: int, root: Digest, block: int | None) -> Timestamped | None:
        digest = timestamp_digest(self._origin, self._log_key, size, root)
        data = function_signature_to_4byte_selector("getTimestamp(bytes32)") + encode(
            ["bytes32"], [digest]
        )
        try:
            (seconds,) = decode(["uint64"], self._chain.call(self._address, data, block=block))
        except DecodingError as error:
            raise NetworkError(
                "at the address is no attestation service", reason=Reason.CHAIN_FAILED
            ) from error
        if not seconds:
            return None
        chain = self._chain
        return Timestamped(size, root, digest, seconds, chain.chain_id, chain.is_development)
