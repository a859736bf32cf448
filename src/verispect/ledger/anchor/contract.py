"""How the anchor contract is called: identifiers, arguments and answers, as `spec/anchor.md` says.

Reading is done at one block that the caller names, so that several answers fit together. Nothing
is believed because a contract says it: `is_ours` compares the code at the address with the
committed artifact, byte for byte, and whoever decides anything MUST ask it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import MalformedError, NetworkError, Reason
from verispect.ledger.anchor.artifact import anchor_contract
from verispect.ledger.anchor.chain import Chain, checked_address
from verispect.ledger.anchor.recursion import restore

restore()

LOG_ID_BYTES: Final = 24
MAX_ORIGIN_BYTES: Final = 256
NEVER: Final = (1 << 64) - 1

LogId = NewType("LogId", bytes)
"""The first 24 bytes of a SHA-256 digest: one log of one founder."""

_LOG_DOMAIN: Final = b"verispect-anchor-log-v1"
_VERIFY: Final = "verify(bytes24,uint256,bytes32,uint256,bytes32[])"
_NO_ADDRESS: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class LogState:
    """What the contract holds about a log."""

    size: int
    """Size of the newest anchored tree; 0 before the first."""

    writer: str | None
    owner: str | None
    """Absent where the log is not registered."""


@dataclass(frozen=True, slots=True)
class AnchoredRoot:
    """What the contract holds about a root."""

    size: int
    previous_size: int
    """Size of the tree that was anchored before it; 0 for the first."""

    anchored_at: int
    """Block time, seconds since 1970."""

    block_number: int


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """Dates of a key with which the operator signs receipts, in seconds since 1970."""

    effective_from: int
    revoked_at: int | None
    compromised_at: int | None
    changed_at: int
    """Time of the block that last changed a date."""

    def is_good_at(self, seconds: int) -> bool:
        """Tell whether a signature that is known to be of that time counts.

        A revocation leaves earlier signatures good, a compromise only those before its date. A
        time that the signer states itself is not known: without a log it could be any.
        """
        return (
            self.effective_from <= seconds
            and (self.revoked_at is None or seconds < self.revoked_at)
            and (self.compromised_at is None or seconds < self.compromised_at)
        )


def log_id_of(founder: str, log_key: bytes, origin: str) -> LogId:
    """Return the id of the log that an account registers.

    Args:
        founder: address of the account.
        log_key: the log's public key, 32 bytes.
        origin: the log's name.

    Raises:
        MalformedError: `malformed-key`, `malformed-checkpoint`.
    """
    name = _origin_bytes(origin)
    if len(log_key) != 32:
        raise MalformedError("a log's key has 32 bytes", reason=Reason.MALFORMED_KEY)
    address = bytes.fromhex(checked_address(founder)[2:])
    return LogId(sha256(_LOG_DOMAIN + address + log_key + name)[:LOG_ID_BYTES])


def _origin_bytes(origin: str) -> bytes:
    name = origin.encode()
    if not 0 < len(name) <= MAX_ORIGIN_BYTES:
        raise MalformedError(
            f"an origin has 1 to {MAX_ORIGIN_BYTES} bytes", reason=Reason.MALFORMED_CHECKPOINT
        )
    return name


def _call_data(signature: str, *values: Any) -> bytes:
    return function_signature_to_4byte_selector(signature) + encode(_types(signature), values)


def _types(signature: str) -> list[str]:
    inside = signature.partition("(")[2].removesuffix(")")
    return inside.split(",") if inside else []


# -- What is sent -----------------------------------------------------------------------------


def register_log(log_key: bytes, origin: str) -> bytes:
    """Return the call that registers a log."""
    _origin_bytes(origin)
    return _call_data("register_log(bytes32,string)", log_key, origin)


def publish(size: int, root: Digest) -> bytes:
    """Return the call that anchors a root of the sender's log."""
    return _call_data("publish(uint256,bytes32)", size, root)


def offer_writer(log_id: LogId, writer: str) -> bytes:
    """Return the owner's call that names another writer."""
    return _call_data("offer_writer(bytes24,address)", log_id, writer)


def accept_writer(log_id: LogId) -> bytes:
    """Return the call by which the named writer accepts."""
    return _call_data("accept_writer(bytes24)", log_id)


def dismiss_writer(log_id: LogId) -> bytes:
    """Return the owner's call after which nobody may publish."""
    return _call_data("dismiss_writer(bytes24)", log_id)


def offer_owner(log_id: LogId, owner: str) -> bytes:
    """Return the owner's call that offers the log to another."""
    return _call_data("offer_owner(bytes24,address)", log_id, owner)


def accept_owner(log_id: LogId) -> bytes:
    """Return the call by which the named owner accepts."""
    return _call_data("accept_owner(bytes24)", log_id)


def add_key(log_id: LogId, key_id: bytes, effective_from: int) -> bytes:
    """Return the owner's call that announces a key; 0 means from now on."""
    return _call_data("add_key(bytes24,bytes32,uint256)", log_id, key_id, effective_from)


def revoke_key(log_id: LogId, key_id: bytes, revoked_at: int) -> bytes:
    """Return the owner's call that ends a key's use; 0 means now."""
    return _call_data("revoke_key(bytes24,bytes32,uint256)", log_id, key_id, revoked_at)


def compromise_key(log_id: LogId, key_id: bytes, compromised_at: int) -> bytes:
    """Return the owner's call that dates the compromise of a key."""
    return _call_data("compromise_key(bytes24,bytes32,uint256)", log_id, key_id, compromised_at)


def verification(
    log_id: LogId, size: int, leaf: Digest, index: int, path: Sequence[bytes]
) -> bytes:
    """Return the call that checks a leaf under an anchored root; it changes nothing."""
    return _call_data(_VERIFY, log_id, size, leaf, index, list(path))


# -- What is read -----------------------------------------------------------------------------


class AnchorContract:
    """The contract at one address of one chain, as it was at one block.

    Args:
        chain: where it stands.
        address: where on the chain.
        block: the block to read at; absent for the newest.
    """

    def __init__(self, chain: Chain, address: str, *, block: int | None = None) -> None:
        self.chain = chain
        self.address = checked_address(address)
        self.block = block

    def is_ours(self) -> bool:
        """Tell whether the code at the address is the committed contract."""
        return self.chain.code(self.address) == anchor_contract().runtime_bytecode

    def log(self, log_id: LogId) -> LogState:
        """Return the state of a log."""
        size, writer, owner = self._ask(
            "latest(bytes24)", ["uint256", "address", "address"], log_id
        )
        return LogState(size, _account(writer), _account(owner))

    def root(self, log_id: LogId, root: Digest) -> AnchoredRoot | None:
        """Return the record of a root, if it is anchored."""
        values = self._ask("anchor(bytes24,bytes32)", ["uint256"] * 4, log_id, root)
        return AnchoredRoot(*values) if values[0] else None

    def verify(
        self, log_id: LogId, size: int, leaf: Digest, index: int, path: Sequence[bytes]
    ) -> bool:
        """Let the contract check that a leaf is under an anchored root."""
        (found,) = self._ask(_VERIFY, ["bool"], log_id, size, leaf, index, list(path))
        return bool(found)

    def operator_key(self, log_id: LogId, key_id: bytes) -> OperatorKey | None:
        """Return the dates of a key, if the operator announced it."""
        start, end, bad, changed = self._ask(
            "key(bytes24,bytes32)", ["uint256"] * 4, log_id, key_id
        )
        if not changed:
            return None
        return OperatorKey(
            start, None if end == NEVER else end, None if bad == NEVER else bad, changed
        )

    def _ask(self, signature: str, answers: list[str], *values: Any) -> tuple[Any, ...]:
        data = self.chain.call(self.address, _call_data(signature, *values), block=self.block)
        try:
            return tuple(decode(answers, data))
        except (DecodingError, ValueError) as error:
            raise NetworkError(
                "the contract's answer cannot be read", reason=Reason.CHAIN_FAILED
            ) from error


def _account(address: str) -> str | None:
    return None if address == _NO_ADDRESS else checked_address(address)
