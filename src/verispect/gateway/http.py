"""The few HTTP types of the hot path: a request read whole, a response, a streamed response.

The dispatcher in `verispect.gateway.app` speaks raw ASGI and hands these to the routes, so that
neither a framework nor a second copy of the body stands between the socket and the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from verispect.core.encoding import Digest

if TYPE_CHECKING:
    from verispect.appraisal.policy import AssurancePolicy
    from verispect.core.statement import PaymentBinding, Price, TransactionBinding
    from verispect.gateway.inference import Issued

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""As ASGI has them."""


class Confidential(Protocol):
    """What is known of a request that came encrypted."""

    @property
    def key_digest(self) -> Digest:
        """Digest of the key to which it came encrypted."""
        ...

    def seal_openings(self, openings: bytes, inference_id: bytes) -> bytes:
        """Return the openings as only the caller can read them."""
        ...


class TransactionTicket(Protocol):
    """What makes a request a part of a transaction."""

    @property
    def seconds(self) -> int:
        """How long the transaction may take to be decided, at most, beside its evidence."""
        ...

    async def bind(self, inference_id: bytes, policy: AssurancePolicy) -> TransactionBinding:
        """Return the part's place, which its receipt names; called once, before that.

        Raises:
            RequestError: `transaction-closed`, `too-large`: there must be no receipt then.
        """
        ...

    def issued(self, inference_id: bytes, issued: Issued, finish_reasons: Sequence[str]) -> None:
        """Note that the receipt is on disk."""
        ...


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a request wants to have run, as far as its price and its payment depend on it."""

    model: str
    """The name under which it is sold."""
    assurance: str
    """The word under which it is sold."""
    policy: AssurancePolicy
    max_input_tokens: int
    max_output_tokens: int
    streamed: bool
    assurance_seconds: int
    """How long its evidence may take, at most."""
    is_late: bool
    """Whether its assurance is only met after its answer."""


class PaymentTicket(Protocol):
    """What has a request paid for, before anything of it runs."""

    async def require(self, purchase: Purchase) -> None:
        """Return once the request is paid for; called once.

        Raises:
            RequestError: `payment-required`, `price-unknown`, and why a payment is not accepted.
        """
        ...

    def bill(
        self, usage: Mapping[str, int], finish_reasons: Sequence[str]
    ) -> tuple[Price, PaymentBinding | None] | None:
        """Return what the receipt says of price, charge and payment; `None` for no price."""
        ...

    def issued(
        self,
        inference_id: bytes,
        issued: Issued,
        usage: Mapping[str, int],
        finish_reasons: Sequence[str],
    ) -> None:
        """Note that the receipt is on disk."""
        ...


@dataclass(slots=True)
class HttpRequest:
    """One request, its body already read within the size and time limits."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case; a header given twice is refused before this object is made."""
    body: bytes
    disconnected: asyncio.Event
    """Set once the caller has gone away."""
    received_at: int
    """Milliseconds since the epoch."""
    confidential: Confidential | None = None
    """`None` for a request that came in the clear."""
    transaction: TransactionTicket | None = None
    """`None` for an inference that stands alone."""
    payment: PaymentTicket | None = None
    """`None` where this server sells nothing, or this is no inference of its own."""


@dataclass(slots=True)
class HttpResponse:
    """A whole response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class StreamedResponse:
    """A response whose body is sent as it is made; closing `body` ends the work behind it."""

    status: int
    body: AsyncIterator[bytes]
    content_type: str = "text/event-stream"
    headers: list[tuple[str, str]] = field(default_factory=list)


WHOLE_MESSAGES: Final = "verispect.whole_messages"
"""The key of an ASGI scope under which our own server offers `WholeMessages`."""


class WholeMessages(Protocol):
    """A request and its answer in one step each, where ASGI takes several and a task's switches.

    What it cannot do in one step it leaves to the messages of ASGI, and nothing has happened then.
    """

    def take_body(self) -> bytes | None:
        """Return the body where all of it has arrived; `None` where it is to be received."""
        ...

    def answer(self, response: HttpResponse) -> bool:
        """Write the whole answer; `False` where it is to be sent."""
        ...
