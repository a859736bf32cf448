"""The till of a server that is paid by x402: opened for a mode, then used through `Till`.

It knows prices, schemes and channels, and has a settlement; it refuses to decide when something is
run or captured, which is the machine's (`verispect.payments.machine`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from verispect.core.errors import Reason, UnsupportedError
from verispect.core.keys import Signer
from verispect.payments.pricing import PriceSheet
from verispect.payments.store import PaymentStore
from verispect.payments.till import Till


class PaymentMode(StrEnum):
    """Who brings payments to which chain."""

    DEV = "dev"
    """A chain in this process, whose money is worth nothing."""
    FACILITATOR = "facilitator"
    """Somebody else's facilitator; with a node of ours as the witness, if there is one."""
    RPC = "rpc"
    """Our own account, through a node."""


@dataclass(frozen=True, slots=True)
class TillSettings:
    """What an operator configures."""

    mode: PaymentMode
    sheet: PriceSheet
    directory: Path
    """Where channels are kept, and the chain of the mode `dev`."""
    pay_to: str | None = None
    """Address that is paid; the development payee in the mode `dev`, needed otherwise."""
    rpc_url: str | None = None
    """Node; needed in the mode `rpc`. It may hold a password and appears in no message."""
    facilitator_url: str | None = None
    """Base address; needed in the mode `facilitator`."""
    key_file: Path | None = None
    """Key of the account that pays for gas and authorises claims of channels."""
    confirmations: int = 1
    """Blocks that must confirm what is believed, its own counted."""


def open_till(
    settings: TillSettings, *, store: PaymentStore, signer: Signer, now: Callable[[], int]
) -> Till:
    """Open the till of a mode. It blocks, and MUST be closed by `close`.

    Args:
        settings: what the operator configured.
        store: the payments; the till reads where they stand, and never moves them.
        signer: signs offers and receipts; never the key that is paid.
        now: seconds since 1970.

    Raises:
        MalformedError: `malformed-payment`, `malformed-price-sheet`, `malformed-key`.
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
        NetworkError: `network-failed`, `chain-failed`.
        TrustError: `chain-unexpected`, `development-chain`.
    """
    del store, signer, now
    raise UnsupportedError(
        f"the mode {settings.mode} is not there yet", reason=Reason.UNSUPPORTED_VERSION
    )
