"""What the machine asks of whoever moves the money: a facilitator, or our own signer on a chain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from verispect.payments.store import Payment


class Standing(Enum):
    """What the chain says about an authorisation."""

    UNUSED = "unused"
    """Nothing moved, and it can still be taken."""
    PAID = "paid"
    """The money is with the payee, whoever brought it there."""
    VOID = "void"
    """Nothing moved, and nothing can: it was cancelled, has expired or was spent elsewhere."""
    UNKNOWN = "unknown"
    """The chain could not be asked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A standing, with the transaction where there is one."""

    standing: Standing
    transaction: str | None = None


class Settlement(Protocol):
    """Moves money and looks where it is; an implementation MAY block, and MAY lie in `settle`."""

    def settle(self, payment: Payment, amount: int) -> None:
        """Ask for the money to be moved.

        What is returned or raised proves nothing. It MUST raise one of our errors where it fails,
        and MUST NOT move money twice for one authorisation.
        """
        ...

    def look(self, payment: Payment, amount: int) -> Finding:
        """Return what the chain says; `UNKNOWN` where it cannot be asked, never a guess."""
        ...
