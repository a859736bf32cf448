"""The account that pays for anchoring and signs its transactions: a secp256k1 key in a file.

It is another key than the issuer's and the log's, and worth less than either: whoever has it can
stop the log from being anchored by anchoring nonsense, and cannot change what was anchored. The
module refuses a key file that others may read, and never shows the private half.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.signers.local import LocalAccount

from verispect.core.encoding import from_hex
from verispect.core.errors import MalformedError, Reason, StoreError
from verispect.ledger.anchor.recursion import restore
from verispect.ledger.locks import sync_directory

restore()

KEY_FILE_NAME: Final = "account.key"
KEY_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """The bytes that a node takes, and the hash by which they are found."""

    raw: bytes
    hash: bytes


class ChainAccount:
    """One account of an EVM chain."""

    def __init__(self, key: bytes) -> None:
        try:
            self._account: LocalAccount = Account.from_key(key)
        except ValueError as error:
            raise MalformedError("not a secp256k1 key", reason=Reason.MALFORMED_KEY) from error

    def __repr__(self) -> str:
        return f"ChainAccount({self.address})"

    @property
    def address(self) -> str:
        """The address, with its checksum in capitals (EIP-55)."""
        return str(self._account.address)

    def sign(self, transaction: dict[str, Any]) -> SignedTransaction:
        """Sign a transaction that names its chain."""
        signed = self._account.sign_transaction(transaction)
        return SignedTransaction(bytes(signed.raw_transaction), bytes(signed.hash))

    def sign_message(self, signable_message: Any) -> Any:
        """Sign typed data (EIP-712), as `eth_account` does."""
        return self._account.sign_message(signable_message)

    @classmethod
    def load(cls, path: Path) -> ChainAccount:
        """Read a key file: 64 hexadecimal digits.

        Raises:
            StoreError: `store-failed` where it cannot be read, or others may read it.
            MalformedError: `malformed-key`.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(MAX_KEY_FILE_BYTES + 1)
        except OSError as error:
            raise StoreError(
                f"cannot read the account's key: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        if mode & 0o077:
            raise StoreError("others may read the account's key", reason=Reason.STORE_FAILED)
        try:
            digits = text.decode("ascii").strip().lower().removeprefix("0x")
            return cls(from_hex(digits, length=KEY_BYTES))
        except (UnicodeDecodeError, MalformedError) as error:
            raise MalformedError("not an account's key", reason=Reason.MALFORMED_KEY) from error

    @classmethod
    def create(cls, path: Path) -> ChainAccount:
        """Make a key and write it; an existing file is never replaced.

        Raises:
            StoreError: `store-conflict` where the file is there; `store-failed`.
        """
        key = secrets.token_bytes(KEY_BYTES)
        account = cls(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.hex().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                # A link refuses where a rename would replace.
                path.hardlink_to(temporary)
            finally:
                temporary.unlink()
            sync_directory(path.parent)
        except FileExistsError as error:
            raise StoreError(
                "the account's key is there already", reason=Reason.STORE_CONFLICT
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write the account's key: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        return account
