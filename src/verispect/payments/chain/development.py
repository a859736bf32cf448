"""A whole payment world in this process: a chain, a token, money, and a facilitator's account.

For trials, tests and demonstrations. It is a real EVM that executes real contracts, with nobody
behind it: the token is worth nothing, and every key here is known to everybody. Its network is
`NETWORK`, which no public chain has, so that nothing that was paid here can pass as paid.

The contracts stand at the addresses where x402 looks for them since the first block. The token is
ours; Permit2, the proxies, the channels and Multicall3 are stand-ins that answer to the same calls
(`contracts/stand_ins.sol`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from web3 import Web3

from verispect.core.encoding import sha256
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.ledger.anchor.development_chain import DEVELOPMENT_CHAIN_ID, DevelopmentProvider
from verispect.payments.chain.artifacts import STAND_INS, TOKEN_CONTRACT, contracts
from verispect.payments.chain.calls import call_data
from verispect.payments.chain.signer import ChainSigner

NETWORK: Final = f"eip155:{DEVELOPMENT_CHAIN_ID}"
TOKEN_ADDRESS: Final = "0xDE00000000000000000000000000000000000402"  # noqa: S105  an address
TOKEN_NAME: Final = "Verispect Development Dollar"  # noqa: S105
TOKEN_VERSION: Final = "2"  # noqa: S105
TOKEN_DECIMALS: Final = 6
ASSET: Final = f"{NETWORK}/erc20:{TOKEN_ADDRESS.lower()}"

PAYERS: Final = 8
PAYER_FUNDS: Final = 1_000_000 * 10**TOKEN_DECIMALS
COINS: Final = 1_000 * 10**18
"""What each account has of the chain's own coin, for gas."""

_SUPPLY_SLOT, _BALANCES_SLOT = 0, 1
_FIRST_ACCOUNT: Final = Account.from_key((1).to_bytes(32, "big")).address


def development_key(role: str) -> bytes:
    """Return the private key of a role; everybody knows it.

    Args:
        role: `facilitator`, `payee`, `authoriser`, or `payer-0` and so on.
    """
    return bytes(sha256(b"verispect-development-key\n" + role.encode()))


@dataclass(frozen=True, slots=True)
class TokenDomain:
    """What a client has to know of a token to sign for it (`accepts[].extra`)."""

    address: str
    name: str
    version: str
    decimals: int


class DevelopmentChain:
    """The world; methods block, and any number of threads may use it.

    Args:
        directory: where the chain is kept; without one it ends with the process.
        now: seconds since 1970, for the times of blocks.
    """

    network: Final = NETWORK
    asset: Final = ASSET
    token: Final = TokenDomain(TOKEN_ADDRESS, TOKEN_NAME, TOKEN_VERSION, TOKEN_DECIMALS)

    def __init__(
        self, directory: Path | None = None, *, now: Callable[[], int] | None = None
    ) -> None:
        clock: dict[str, Any] = {} if now is None else {"now": now}
        provider = DevelopmentProvider(directory, genesis=_genesis(), **clock)
        self.chain = Chain(Web3(provider))
        self.facilitator_signer = ChainSigner(
            self.chain, ChainAccount(development_key("facilitator"))
        )
        """Satisfies `FacilitatorEvmSigner` of the `x402` package."""

    @property
    def payee(self) -> str:
        """The address that development money is paid to."""
        return self.account("payee").address

    def account(self, role: str) -> LocalAccount:
        """Return the account of a role, which signs; see `development_key`."""
        account: LocalAccount = Account.from_key(development_key(role))
        return account

    def payer(self, number: int = 0) -> LocalAccount:
        """Return an account that has coins and tokens.

        Args:
            number: below `PAYERS`.
        """
        if not 0 <= number < PAYERS:
            raise ValueError("no such payer")
        return self.account(f"payer-{number}")

    def signer(self, role: str) -> ChainSigner:
        """Return a signer that sends transactions of a role's account."""
        return ChainSigner(self.chain, ChainAccount(development_key(role)))

    def balance(self, address: str) -> int:
        """Return how much of the token an address has."""
        return self.facilitator_signer.get_balance(address, TOKEN_ADDRESS)

    def mint(self, address: str, amount: int) -> None:
        """Make tokens out of nothing."""
        signer = self.facilitator_signer
        sent = signer.send_transaction(
            TOKEN_ADDRESS, call_data("mint(address,uint256)", address, amount)
        )
        signer.wait_for_transaction_receipt(sent)

    def fund(self, address: str) -> None:
        """Give coins for gas to an address."""
        self.chain.fund_for_development(address)


def _genesis() -> dict[bytes, dict[str, Any]]:
    payers = [_address(f"payer-{number}") for number in range(PAYERS)]
    holders = [*payers, _address("facilitator"), _address("payee"), _address("authoriser")]
    storage = {_SUPPLY_SLOT: PAYERS * PAYER_FUNDS}
    for payer in payers:
        slot = keccak(bytes(12) + payer + _BALANCES_SLOT.to_bytes(32, "big"))
        storage[int.from_bytes(slot, "big")] = PAYER_FUNDS
    first = bytes.fromhex(_FIRST_ACCOUNT[2:])
    state = {address: _account_state(balance=COINS) for address in holders}
    # The account that `DevelopmentProvider.fund` gives from.
    state[first] = _account_state(balance=10**9 * 10**18)
    token = bytes.fromhex(TOKEN_ADDRESS[2:])
    built = contracts()
    state[token] = _account_state(code=built[TOKEN_CONTRACT].runtime_bytecode, storage=storage)
    for name, place in STAND_INS.items():
        code = built[name].runtime_bytecode
        state[bytes.fromhex(place[2:])] = _account_state(code=code)
    return state


def _account_state(
    *, balance: int = 0, code: bytes = b"", storage: dict[int, int] | None = None
) -> dict[str, Any]:
    return {"balance": balance, "nonce": 1 if code else 0, "code": code, "storage": storage or {}}


def _address(role: str) -> bytes:
    return bytes.fromhex(str(Account.from_key(development_key(role)).address)[2:])
