"""What every route is handed: the models, the recorder of receipts, the limits and the counters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from verispect.gateway.confidential import ConfidentialDoor
from verispect.gateway.limits import Limits
from verispect.gateway.log_door import LogDoor
from verispect.gateway.metrics import Metrics
from verispect.gateway.recording import Recorder
from verispect.gateway.response_store import ResponseStore
from verispect.gateway.services import Services
from verispect.gateway.serving import ModelPool
from verispect.ledger.measured import MeasuredHistory

if TYPE_CHECKING:
    from verispect.gateway.payment import Payments
    from verispect.gateway.transactions import Transactions


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Shared by all requests of one application; made once, by whoever starts the server."""

    pool: ModelPool
    recorder: Recorder
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    responses: ResponseStore | None = None
    """Where `/v1/responses` keeps answers; without it `store` must be false."""
    confidential: ConfidentialDoor | None = None
    """Opens encrypted requests; `None` where this server attests no key for them."""
    log: LogDoor | None = None
    """Serves the public log; `None` where this server keeps none."""
    services: Services | None = None
    """Answers for `service:NAME`; `None` where this server has none."""
    transactions: Transactions | None = None
    """Keeps transactions of several inferences; `None` where this server takes none."""
    measured: MeasuredHistory | None = None
    """What this server's own history says of latency and proofs, for its advice."""
    payments: Payments | None = None
    """Has inferences paid for; `None` where this server asks for no money."""
    on_start: Callable[[], Awaitable[None]] | None = None
    """Awaited at the start of the application's lifespan."""
    on_stop: Callable[[], Awaitable[None]] | None = None
    """Awaited at its end, after the last request."""
