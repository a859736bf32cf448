"""Mode `rpc`: an account of ours on any chain, through any node.

The key stands in a file that nobody else may read, or in an environment variable, and never in a
configuration. A chain that is known to be for development is refused unless it was asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from verispect.core.encoding import from_hex
from verispect.core.errors import MalformedError, Reason, StoreError, TrustError
from verispect.ledger.anchor.account import KEY_BYTES, ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.chain.signer import CONFIRMATION_SECONDS, ChainSigner


def account_from_environment(variable: str) -> ChainAccount:
    """Read a key from the environment: 64 hexadecimal digits.

    Raises:
        StoreError: `store-failed` where the variable is not set.
        MalformedError: `malformed-key`.
    """
    text = os.environ.get(variable)
    if not text:
        raise StoreError(f"{variable} holds no key", reason=Reason.STORE_FAILED)
    try:
        digits = text.strip().lower().removeprefix("0x")
        return ChainAccount(from_hex(digits, length=KEY_BYTES))
    except MalformedError as error:
        raise MalformedError("not an account's key", reason=Reason.MALFORMED_KEY) from error


def connect_signer(
    url: str,
    account: ChainAccount | Path,
    *,
    network: str,
    allow_development: bool = False,
    confirmation_seconds: float = CONFIRMATION_SECONDS,
) -> ChainSigner:
    """Return a signer on the chain that a node serves.

    Args:
        url: of the node; it may hold a password and appears in no message.
        account: who signs and pays for gas, or the file of its key.
        network: CAIP-2 name of the chain that is expected, such as `eip155:8453`.
        allow_development: whether a development chain will do.
        confirmation_seconds: how long a transaction is waited for.

    Raises:
        MalformedError: `malformed-key`, `malformed-payment` where the network is no EVM chain.
        StoreError: `store-failed`.
        NetworkError: `network-failed`, `chain-failed`.
        TrustError: `chain-unexpected`, `development-chain`.
    """
    kind, _, number = network.partition(":")
    if kind != "eip155" or not (number.isascii() and number.isdigit()):
        raise MalformedError("not the name of an EVM chain", reason=Reason.MALFORMED_PAYMENT)
    signing = ChainAccount.load(account) if isinstance(account, Path) else account
    chain = Chain.connect(url, expected_id=int(number))
    if chain.is_development and not allow_development:
        raise TrustError("this is a development chain", reason=Reason.DEVELOPMENT_CHAIN)
    return ChainSigner(chain, signing, confirmation_seconds=confirmation_seconds)
