"""What the gateway asks of the payment layer: what to demand, what was presented, what to answer.

One `Till` stands between HTTP and the schemes. It knows the wire form of x402 and the chain, so
that the gateway knows neither. It refuses to decide when something is run or captured; that is the
machine's (`verispect.payments.machine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import Error
from verispect.payments.authorisation import Authorisation
from verispect.payments.pricing import Quote
from verispect.payments.settlement import Settlement
from verispect.payments.store import Payment

EXECUTION_SECONDS: Final = 240
"""How long an answer may take to make; its payment has to last for it."""

SETTLEMENT_SECONDS: Final = 120
"""How long an authorisation must outlast its deadline: for its way here, and to be settled."""

_IDENTIFIER_DOMAIN: Final = "verispect-payment-identifier-v1"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request has to be paid with."""

    quote: Quote
    resource: str
    """The URL that was asked, without query."""
    request: Digest
    """Digest of the request that is paid for: of its method, path and body."""
    streamed: bool
    """Whether anything of the answer leaves before it is captured: it is streamed, or its assurance
    comes later. Only what is already enforceable is then accepted."""
    assurance_seconds: int
    """How long the required assurance may take after the answer, at most."""

    @property
    def lasting_seconds(self) -> int:
        """How long after it is presented a payment MUST last; what is offered lasts longer.

        The deadline that the machine is given is so many seconds after the reservation.
        """
        return EXECUTION_SECONDS + self.assurance_seconds


@dataclass(frozen=True, slots=True)
class Presented:
    """A payment that came with a request, checked against its demand."""

    authorisation: Authorisation
    payer: str
    """Address of the payer, in lower case."""
    identifier: str | None
    """The client's `payment-identifier`, where it sent one."""
    demand: Demand

    @property
    def identifier_digest(self) -> Digest | None:
        """What the machine reserves under: nobody can take up another payer's identifiers."""
        if self.identifier is None:
            return None
        return sha256(encode([_IDENTIFIER_DOMAIN, self.payer, self.identifier]))


@dataclass(frozen=True, slots=True)
class ReceiptNotice:
    """What the response says of the inference receipt; everything large is fetched by digest."""

    receipt_id: str
    """Hexadecimal SHA-256 of the receipt."""
    url: str
    usage: dict[str, int]
    charge: int


class Till(Protocol):
    """Methods MAY block; none may run on an event loop."""

    @property
    def settlement(self) -> Settlement:
        """Who moves the money, for the payment machine."""
        ...

    def price_list(self) -> dict[str, Any]:
        """Return the public price list: sheet, schemes in order, networks, assets, payee."""
        ...

    def demand(self, demand: Demand, refused: Error | None = None) -> str:
        """Return the value of `PAYMENT-REQUIRED`: every accepted way to pay, with signed offers.

        Args:
            demand: what is to be paid.
            refused: why the payment that was presented is not accepted.
        """
        ...

    def read(self, header: str, demand: Demand) -> Presented:
        """Read and verify the value of `PAYMENT-SIGNATURE`.

        The machine is to reserve at once afterwards, with `Demand.lasting_seconds` to the deadline
        and `Presented.identifier_digest`. A deposit is made here, since a voucher is worth nothing
        before it, and the channel is held for the request; a hold that no reservation follows
        ends by itself. Where reserving fails, `demand` says why.

        Raises:
            MalformedError: `malformed-payment`, `too-large`.
            VerificationError: `payment-invalid` where the signature, the amount, the recipient,
                the network, the balance or the time is not as demanded; `payment-stale` where the
                voucher does not continue from what was charged.
            RequestError: `payment-busy` where the channel pays for another request just now,
                `payment-overdue` where the payment does not last until its deadline.
            NetworkError: `chain-failed` where the chain cannot be asked.
        """
        ...

    def refund(self, header: str) -> str | None:
        """Refund what is left in a channel, where `PAYMENT-SIGNATURE` asks for that.

        To be asked before `read`, for any method and without any inference.

        Returns:
            The value of `PAYMENT-RESPONSE`; `None` where the header is no refund.

        Raises:
            MalformedError: `malformed-payment`, `too-large`.
            VerificationError: `payment-invalid`, `payment-stale`.
            RequestError: `payment-busy`.
        """
        ...

    def released(self, payment: Payment) -> None:
        """Note that an authorisation was given up, so that its channel is free again.

        Either its payment was released, and telling that again changes nothing; or it was read and
        will not be reserved by who read it, to be told once for each reading. Where others read
        copies of it, the channel stays held for them.
        """
        ...

    def delivered(self, payment: Payment) -> None:
        """Note, durably, what was delivered and charged: a voucher's charged total moves.

        Told again after a crash; the second time changes nothing.
        """
        ...

    def response(self, payment: Payment, notice: ReceiptNotice | None) -> str:
        """Return the value of `PAYMENT-RESPONSE`, below 8 KB.

        Args:
            payment: as it stands; one that failed or was released says so.
            notice: of the receipt, where there is one.
        """
        ...

    def sweep(self, owed: Sequence[Payment]) -> int:
        """Settle many payments in as few transactions as can be; return how many payments.

        Vouchers are taken by this alone: capturing one leaves it `pending`, since it is money
        already and a transaction for each would cost more than most of them are worth. After a
        sweep the machine reconciles them to `captured`.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...
