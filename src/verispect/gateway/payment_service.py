"""Puts the payments of a gateway together from what the operator decided: mode, prices, payee.

What payments need beyond the base installation is imported here, and only where they are on. The
key that signs offers and receipts of x402 is the one that signs inference receipts; the key that
is paid never comes here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from verispect.core.errors import EngineError, Error, MalformedError, Reason
from verispect.core.keys import Signer
from verispect.gateway.limits import Limits
from verispect.gateway.payment import Payments
from verispect.gateway.payment_watch import RETENTION_SECONDS
from verispect.payments.pricing import MAX_SHEET_BYTES, PriceSheet
from verispect.payments.store import PaymentStore

PAYMENTS_FOLDER: Final = "payments"
"""In the gateway's own folder of state."""
PAYMENTS_FILE: Final = "payments.sqlite3"
PAID_HEADER_BYTES: Final = 48 * 1024
"""Of all headers together: a payment is one of them, and clients send offers back."""
SWEEP_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class PaymentConfiguration:
    """What an operator decides about payments; all of it text and numbers."""

    mode: str
    """`dev`, `facilitator` or `rpc`."""
    prices: str
    """The file of the price sheet."""
    pay_to: str | None = None
    rpc: str | None = None
    facilitator: str | None = None
    key: str | None = None
    """File with the key of the account that pays for gas and authorises claims."""
    base: str | None = None
    """The address under which clients ask this server."""
    confirmations: int = 1
    sweep_seconds: float = SWEEP_SECONDS
    retention_seconds: int = RETENTION_SECONDS
    """How long after their deadlines the content of answers is kept, as openings are."""


def paid_limits(limits: Limits) -> Limits:
    """Return limits with room for payments in the headers."""
    room = max(limits.maximum_header_bytes, PAID_HEADER_BYTES)
    return replace(limits, maximum_header_bytes=room)


def open_payments(configuration: PaymentConfiguration, state: Path, signer: Signer) -> Payments:
    """Open store and till; blocks.

    Args:
        configuration: what the operator decided.
        state: the gateway's folder.
        signer: of receipts.

    Raises:
        EngineError: `engine-unavailable` where the extra is not installed.
        MalformedError: `malformed-price-sheet`, `malformed-payment`, `malformed-key`.
        StoreError, NetworkError, TrustError: as `open_till`.
    """
    if find_spec("x402") is None:
        raise EngineError(
            "payments need the extra payments: pip install 'verispect[payments]'",
            reason=Reason.ENGINE_UNAVAILABLE,
        )
    from verispect.payments.x402_till import PaymentMode, TillSettings, open_till

    sheet = read_prices(Path(configuration.prices))
    folder = state / PAYMENTS_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = TillSettings(
        mode=PaymentMode(configuration.mode),
        sheet=sheet,
        directory=folder,
        pay_to=configuration.pay_to,
        rpc_url=configuration.rpc,
        facilitator_url=configuration.facilitator,
        key_file=None if configuration.key is None else Path(configuration.key),
        confirmations=configuration.confirmations,
    )

    def now() -> int:
        return int(time.time())

    store = PaymentStore(folder / PAYMENTS_FILE)
    try:
        till = open_till(settings, store=store, signer=signer, now=now)
    except BaseException:
        store.close()
        raise
    return Payments(
        till,
        store,
        sheet,
        now=now,
        base=configuration.base,
        is_development=till.is_development,
        serves_pending=till.backend.chain is None,
        sweep_seconds=configuration.sweep_seconds,
        retention_seconds=configuration.retention_seconds,
    )


def read_prices(path: Path) -> PriceSheet:
    """Read a price sheet.

    Raises:
        MalformedError: `malformed-price-sheet`.
        UnsupportedError: `unsupported-version`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SHEET_BYTES + 1).decode("utf-8")
    except (OSError, ValueError) as error:
        raise MalformedError(
            f"cannot read the price sheet {path}", reason=Reason.MALFORMED_PRICE_SHEET
        ) from error
    return PriceSheet.from_toml(text)


class PaymentFigures(Collector):
    """How many payments are in which state, and what they charge."""

    def __init__(self, store: PaymentStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; nothing where the store cannot be read just now."""
        try:
            totals = self._store.totals()
        except Error:
            return
        count = GaugeMetricFamily(
            "verispect_payments", "Payments by where they stand.", labels=("state",)
        )
        charged = GaugeMetricFamily(
            "verispect_payment_charges",
            "Charges of payments by where they stand, in the token's smallest unit.",
            labels=("state",),
        )
        for state, (number, charge) in totals.items():
            count.add_metric((state.value,), number)
            charged.add_metric((state.value,), charge)
        yield count
        yield charged
