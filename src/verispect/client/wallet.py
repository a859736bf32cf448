"""The account that pays: an address, and signatures of transfers that its owner allowed.

The key comes from a file that nobody else may read, or from the environment; never from an
argument, which every user of a machine can see. It is in no representation and in no error. The
wallet signs what it is told to; what may be signed is the payer's to decide.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from verispect.core.errors import MalformedError, Reason, RequestError, StoreError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

WALLET_VARIABLE: Final = "VERISPECT_WALLET_KEY"

_KEY: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_MAX_KEY_BYTES: Final = 256
_TRANSFER: Final = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """One transfer by EIP-3009, before it is signed."""

    chain_id: int
    token: str
    token_name: str
    token_version: str
    pay_to: str
    amount: int
    valid_before: int
    """Seconds since 1970."""
    nonce: str
    """32 bytes in hexadecimal, with `0x`."""


class Wallet:
    """An account of the chain.

    Args:
        key: its private key.

    Raises:
        MalformedError: `malformed-key`.
        RequestError: the packages for paying are not installed.
    """

    def __init__(self, key: bytes) -> None:
        try:
            from eth_account import Account
        except ImportError as error:
            raise RequestError("paying needs the extra payments: verispect[payments]") from error
        try:
            self._account: LocalAccount = Account.from_key(key)
        except Exception:  # noqa: BLE001 - whatever it says could hold the key
            raise _malformed() from None

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read the key, in hexadecimal, from a file or from `VERISPECT_WALLET_KEY`.

        Args:
            path: the file; the environment where `None`.

        Raises:
            MalformedError: `malformed-key`.
            RequestError: there is no key, or others may read the file.
            StoreError: the file cannot be read.
        """
        text = os.environ.get(WALLET_VARIABLE) if path is None else _read(path)
        if not text:
            raise RequestError(f"no key to pay with: give a file, or set {WALLET_VARIABLE}")
        match = _KEY.fullmatch(text.strip())
        if match is None:
            raise _malformed()
        return cls(bytes.fromhex(match[1]))

    @property
    def address(self) -> str:
        """The address that pays."""
        return str(self._account.address)

    @property
    def account(self) -> LocalAccount:
        """The account, for the schemes that sign otherwise."""
        return self._account

    def sign_transfer(self, order: TransferOrder) -> dict[str, Any]:
        """Return the payload of a payment by EIP-3009.

        Args:
            order: what the payer decided to pay.
        """
        message = {
            "from": self.address,
            "to": order.pay_to,
            "value": order.amount,
            "validAfter": 0,
            "validBefore": order.valid_before,
            "nonce": bytes.fromhex(order.nonce[2:]),
        }
        domain = {
            "name": order.token_name,
            "version": order.token_version,
            "chainId": order.chain_id,
            "verifyingContract": order.token,
        }
        signed = self._account.sign_typed_data(domain, _TRANSFER, message)
        return {
            "authorization": {
                "from": self.address,
                "to": order.pay_to,
                "value": str(order.amount),
                "validAfter": "0",
                "validBefore": str(order.valid_before),
                "nonce": order.nonce,
            },
            "signature": "0x" + bytes(signed.signature).hex(),
        }


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise RequestError("others may read the key's file: chmod 600", parameter="wallet")
            return file.read(_MAX_KEY_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise _malformed() from None
    except OSError as error:
        raise StoreError(
            f"cannot read the key's file: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error


def _malformed() -> MalformedError:
    return MalformedError("the key to pay with is none", reason=Reason.MALFORMED_KEY)
