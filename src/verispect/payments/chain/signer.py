"""The account with which a facilitator works: asks contracts, checks signatures, sends calls.

`ChainSigner` satisfies `FacilitatorEvmSigner` of the `x402` package without importing it. Methods
block; none may run on an event loop. Any number of threads may use one signer: nonces are given
out one at a time, and a call that the contract would refuse is tried first and never sent, so that
no gas is paid for it.

It refuses to send a call twice of its own accord. A lost transaction is not its matter: an
authorisation moves money once, whoever brings it how often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from verispect.core.errors import Error, NetworkError, Reason
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.chain.addresses import NO_ADDRESS
from verispect.payments.chain.calls import (
    call_data,
    find_function,
    read_words,
    signature_of,
    type_of,
)

GAS_MARGIN_PERCENT: Final = 20
CONFIRMATION_SECONDS: Final = 60.0
DEVELOPMENT_GAS: Final = 20_000_000
"""What a transaction may use on the embedded chain, where gas costs nothing."""

NONCE_SECONDS: Final = 30.0
"""How long a node may be behind with what was sent to it."""

_POLL_SECONDS: Final = 0.25
_MAGIC: Final = bytes.fromhex("1626ba7e")
_DOMAIN_TYPES: Final = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}


@dataclass(frozen=True, slots=True)
class ChainReceipt:
    """A transaction in a block, with the events that it left."""

    status: int
    """1 where it succeeded, 0 where it was undone."""
    block_number: int
    tx_hash: str
    logs: list[dict[str, Any]]
    gas_used: int


class ChainSigner:
    """One account on one chain.

    Args:
        chain: where to.
        account: who signs transactions and pays for them.
        confirmation_seconds: how long a transaction is waited for.
        pause: waits a number of seconds.
    """

    def __init__(
        self,
        chain: Chain,
        account: ChainAccount,
        *,
        confirmation_seconds: float = CONFIRMATION_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.chain = chain
        self._account = account
        self._confirmation_seconds = confirmation_seconds
        self._pause = pause
        self._sending = threading.Lock()
        self._next_nonce, self._sent_at = 0, 0.0

    @property
    def address(self) -> str:
        """The account's address, with its checksum."""
        return self._account.address

    def get_addresses(self) -> list[str]:
        """Return the one address."""
        return [self._account.address]

    def get_chain_id(self) -> int:
        """Return the id of the chain."""
        return self.chain.chain_id

    def get_code(self, address: str) -> bytes:
        """Return the code at an address; none is the account of a person."""
        return self.chain.code(address)

    def get_balance(self, address: str, token_address: str) -> int:
        """Return how much of a token, or of the chain's own coin, an address has."""
        if not token_address or token_address == NO_ADDRESS:
            return self.chain.balance(address)
        answer = self.chain.call(token_address, call_data("balanceOf(address)", address))
        return int(read_words(["uint256"], answer)[0])

    def read_contract(
        self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any
    ) -> Any:
        """Ask a contract, or try a call without sending it.

        Raises:
            VerificationError: `chain-reverted`, with the contract's words.
            NetworkError: `network-failed`, `chain-failed`.
        """
        function = find_function(abi, function_name, args)
        data = call_data(signature_of(function), *args)
        answer = self.chain.call(address, data, sender=self.address)
        outputs = [type_of(item) for item in function.get("outputs", [])]
        words = read_words(outputs, answer) if outputs else ()
        return words[0] if len(words) == 1 else (list(words) if words else None)

    def verify_typed_data(
        self,
        address: str,
        domain: Any,
        types: Mapping[str, Sequence[Any]],
        primary_type: str,
        message: Mapping[str, Any],
        signature: bytes,
    ) -> bool:
        """Tell whether an account, or a contract that is one, signed typed data (EIP-712).

        Where there is code at the address, the code alone decides, as it does on the chain.
        """
        try:
            signable = encode_typed_data(
                full_message=_typed_data(domain, types, primary_type, message)
            )
            if self.chain.code(address):
                return self._contract_agrees(address, signable, signature)
            recovered = Account.recover_message(signable, signature=signature)
        except NetworkError:
            raise
        except Exception:  # noqa: BLE001  eth_account raises whatever a hostile message provokes
            return False
        return str(recovered).lower() == address.lower()

    def _contract_agrees(self, address: str, signable: Any, signature: bytes) -> bool:
        digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
        try:
            answer = self.chain.call(
                address, call_data("isValidSignature(bytes32,bytes)", digest, signature)
            )
        except NetworkError:
            raise
        except Error:
            return False
        return answer[:4] == _MAGIC and len(answer) == 32

    # -- Sending ------------------------------------------------------------------------------

    def write_contract(
        self,
        address: str,
        abi: list[dict[str, Any]],
        function_name: str,
        *args: Any,
        data_suffix: str | None = None,
    ) -> str:
        """Send a call and return the hash of its transaction; as `send_transaction`."""
        function = find_function(abi, function_name, args)
        data = call_data(signature_of(function), *args)
        if data_suffix:
            data += bytes.fromhex(data_suffix.removeprefix("0x"))
        return self.send_transaction(address, data)

    def send_transaction(self, to: str, data: bytes) -> str:
        """Send a call and return the hash of its transaction.

        Raises:
            VerificationError: `chain-reverted` where the contract would refuse it; nothing is sent.
            NetworkError: `network-failed` where it may have been sent, `chain-failed`.
        """
        embedded = self._is_embedded
        gas = DEVELOPMENT_GAS
        if not embedded:
            gas = self.chain.estimate_gas(self.address, to, data)
            gas += gas * GAS_MARGIN_PERCENT // 100
        with self._sending:
            nonce = self._take_nonce()
            signed = self._account.sign(
                {
                    "chainId": self.chain.chain_id,
                    "nonce": nonce,
                    "to": to,
                    "value": 0,
                    "gas": gas,
                    "data": data,
                    **self.chain.fees().fields(),
                }
            )
            self.chain.submit(signed.raw, signed.hash)
            self._next_nonce, self._sent_at = nonce + 1, time.monotonic()
        return "0x" + signed.hash.hex()

    @property
    def _is_embedded(self) -> bool:
        return hasattr(self.chain.web3.provider, "tester")

    def _take_nonce(self) -> int:
        """Return the next nonce.

        A node may be behind with what was just sent; one that still does not count it after a
        while has lost it, and its count holds, or every later transaction would wait for it.
        """
        if self._is_embedded:
            return self.chain.next_nonce(self.address)
        pending = self.chain.pending_nonce(self.address)
        if pending < self._next_nonce and time.monotonic() - self._sent_at < NONCE_SECONDS:
            return self._next_nonce
        return pending

    def wait_for_transaction_receipt(self, tx_hash: str) -> ChainReceipt:
        """Wait until a transaction is in a block.

        Raises:
            NetworkError: `chain-unconfirmed` where it is in none in time; it may yet come.
        """
        deadline = time.monotonic() + self._confirmation_seconds
        while True:
            receipt = self.receipt(tx_hash)
            if receipt is not None:
                return receipt
            if time.monotonic() >= deadline:
                raise NetworkError(
                    "the transaction is in no block yet", reason=Reason.CHAIN_UNCONFIRMED
                )
            self._pause(_POLL_SECONDS)

    def receipt(self, tx_hash: str) -> ChainReceipt | None:
        """Return where a transaction is in the chain as it is now, if it is."""
        included = self.chain.inclusion(bytes.fromhex(tx_hash.removeprefix("0x")))
        if included is None:
            return None
        logs = [
            {"address": log.address, "topics": list(log.topics), "data": log.data}
            for log in included.logs
        ]
        status = 1 if included.succeeded else 0
        return ChainReceipt(status, included.block_number, tx_hash, logs, included.gas_used)


def _typed_data(
    domain: Any, types: Mapping[str, Sequence[Any]], primary_type: str, message: Mapping[str, Any]
) -> dict[str, Any]:
    fields = domain if isinstance(domain, Mapping) else _domain_fields(domain)
    written = {
        name: [
            item if isinstance(item, Mapping) else {"name": item.name, "type": item.type}
            for item in items
        ]
        for name, items in types.items()
    }
    own = [{"name": name, "type": kind} for name, kind in _DOMAIN_TYPES.items() if name in fields]
    return {
        "types": {**written, "EIP712Domain": own},
        "primaryType": primary_type,
        "domain": dict(fields),
        "message": dict(message),
    }


def _domain_fields(domain: Any) -> dict[str, Any]:
    fields = {
        "name": domain.name,
        "version": domain.version,
        "chainId": domain.chain_id,
        "verifyingContract": domain.verifying_contract,
    }
    return {name: value for name, value in fields.items() if value}
