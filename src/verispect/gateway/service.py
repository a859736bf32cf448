"""Puts a gateway together: key, store, registry, recorder and application.

At start it signs the receipts of streams whose process died; while it runs it erases openings
whose retention has ended. It refuses to start with a key, a store or a model that is not as it was
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from verispect.attesters.choice import make_attester
from verispect.attesters.signer import Issuer
from verispect.core.encoding import Digest
from verispect.core.errors import Reason, StoreError
from verispect.evidence.attested import FIELD_BYTES
from verispect.gateway.app import Application, create_app
from verispect.gateway.attestation import KeyAttestation
from verispect.gateway.confidential import ConfidentialDoor
from verispect.gateway.limits import Limits
from verispect.gateway.log_door import LogDoor
from verispect.gateway.log_service import (
    PROOFS_DATABASE,
    RECEIPTS_FOLDER,
    LogConfiguration,
    open_door,
)
from verispect.gateway.metrics import Metrics
from verispect.gateway.minting import mint
from verispect.gateway.payment_service import (
    PaymentConfiguration,
    PaymentFigures,
    open_payments,
    paid_limits,
)
from verispect.gateway.pool import EngineOptions, RegistryPool
from verispect.gateway.proving import PROOF_SECONDS, Proving, can_prove
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.recovery import decode_recovery
from verispect.gateway.response_store import ResponseStore
from verispect.gateway.services import Services
from verispect.gateway.state import GatewayState
from verispect.gateway.transaction_trust import own_trust
from verispect.gateway.transactions import Transactions
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.coverage_outbox import COVERAGE_FILE
from verispect.ledger.history import SERVICES_FILE, ServiceRegistry
from verispect.ledger.measured import MeasuredHistory
from verispect.ledger.schema import DATABASE_NAME
from verispect.ledger.transactions import TransactionStore
from verispect.models.registry import ModelRegistry

CONFIGURATION_VARIABLE: Final = "VERISPECT_SERVE"
"""Where the worker processes of `verispect serve --workers` find their configuration."""

_OPENING_FILE: Final = "opening.secret"
_OPENING_BYTES: Final = 32
_ERASE_EVERY_SECONDS: Final = 60.0
_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Objects made for a young collection, young ones for a middle one, middle ones for a full one."""


@dataclass(frozen=True, slots=True)
class ServiceConfiguration:
    """What an operator decides."""

    keys: str
    state: str
    registry: str
    models: Sequence[str] | None = None
    """Names to serve; all that are registered where `None`."""
    openings_retention_seconds: int = 86_400
    llama_threads: int | None = None
    upstream_key_variables: dict[str, str] = field(default_factory=dict)
    """By model name, the environment variable that holds the upstream's API key."""

    proof_seconds: int = PROOF_SECONDS
    """When a promised proof is due after its answer."""

    share_succinct_proofs: bool = False
    """Whether requests share proofs in mode succinct too, which show them to each other."""

    log: dict[str, Any] | None = None
    """Of a server that keeps a public log, the fields of its `LogConfiguration`."""

    attester: str | None = None
    """Which attester vouches for the signing key (`verispect.attesters.choice`)."""

    payments: dict[str, Any] | None = None
    """Of a server that asks for money, the fields of its `PaymentConfiguration`."""

    own_trusted_root: str | None = None
    """A trusted root file: what this operator trusts of attestation when it judges transactions."""

    def to_json(self) -> str:
        """Return the form in which worker processes get it; it holds no secret."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


class Service:
    """One running gateway.

    Args:
        configuration: what the operator decided.
        limits: the gateway's limits.

    Raises:
        StoreError: key or store are missing, damaged, rolled back or locked.
        ModelError: a model is missing or changed.
    """

    def __init__(self, configuration: ServiceConfiguration, limits: Limits | None = None) -> None:
        self._configuration = configuration
        state = Path(configuration.state)
        issuer = Issuer.load(Path(configuration.keys))
        pool = RegistryPool(
            ModelRegistry(Path(configuration.registry)),
            names=configuration.models,
            options=EngineOptions(
                llama_threads=configuration.llama_threads,
                upstream_keys={
                    model: os.environ[variable]
                    for model, variable in configuration.upstream_key_variables.items()
                    if variable in os.environ
                },
            ),
        )
        self.store = ReceiptStore.open(
            state / RECEIPTS_FOLDER, issuer_key_id=issuer.signer.public_key.key_id
        )
        attestation = door = None
        limits = limits or Limits()
        if configuration.payments is not None:
            limits = paid_limits(limits)
        if configuration.attester is not None:
            attester, evidence_class = make_attester(configuration.attester, state)
            # A server that was told to attest and cannot does not start.
            attester.attest(bytes(FIELD_BYTES), None)
            door = ConfidentialDoor(limits)
            attestation = KeyAttestation(
                attester,
                evidence_class,
                issuer.signer.public_key.key_id,
                state / "evidence",
                hpke_key_digest=door.key_digest,
            )
        metrics = Metrics(coverage=state / COVERAGE_FILE)
        published = PublishedRecords(state / "records")
        for name in pool.names():
            published.publish(pool.manifest(name).to_bytes())
        proving = None
        if can_prove() and any(pool.find(name).provable for name in pool.names()):
            proving = Proving(
                Path(configuration.registry),
                state / PROOFS_DATABASE,
                seconds=configuration.proof_seconds,
                share_succinct=configuration.share_succinct_proofs,
            )
        self.recorder = Recorder(
            issuer,
            self.store,
            opening_secret=_opening_secret(state),
            published=published,
            metrics=metrics,
            attestation=attestation,
            proving=proving,
        )
        log = None
        if configuration.log is not None:
            log = open_door(LogConfiguration(**configuration.log), self.recorder)
        services = Services(
            ServiceRegistry(state / SERVICES_FILE),
            published,
            is_logged=None if log is None else _leaf_finder(log),
        )
        trusted = own_trust(configuration.own_trusted_root, configuration.attester)
        payments = None
        if configuration.payments is not None:
            self.recorder.sells = True
            payments = open_payments(
                PaymentConfiguration(**configuration.payments), state, issuer.signer
            )
            payments.watch.trusted = trusted
            metrics.register(PaymentFigures(payments.store))
        responses = ResponseStore(state / "responses.sqlite")
        self.state = GatewayState(
            pool=pool,
            responses=responses,
            recorder=self.recorder,
            limits=limits,
            metrics=metrics,
            confidential=door,
            log=log,
            services=services,
            transactions=Transactions(
                TransactionStore(state / "transactions.sqlite"),
                receipts=state / "receipts" / DATABASE_NAME,
                trusted=trusted,
                listeners=() if payments is None else (payments.watch,),
            ),
            measured=MeasuredHistory(
                state / RECEIPTS_FOLDER / DATABASE_NAME, state / PROOFS_DATABASE
            ),
            payments=payments,
            on_start=self._start,
            on_stop=self._stop,
        )
        self._responses = responses
        self._eraser: asyncio.Task[None] | None = None

    def application(self) -> Application:
        """Return the ASGI application."""
        return create_app(self.state)

    async def _start(self) -> None:
        if self.recorder.attestation is not None:
            await self.recorder.attestation.session()
        await self.recover()
        if self.recorder.proving is not None:
            self.recorder.proving.jobs.recover(self._has_receipt)
            await self.recorder.proving.start()
        if self.state.payments is not None:
            await self.state.payments.start(self.state)
        if self.state.transactions is not None:
            self.state.transactions.start(self.state)
        self._eraser = asyncio.create_task(self._erase_openings())

    def _has_receipt(self, inference_id: bytes) -> bool:
        return self.store.find(inference_id) is not None

    async def recover(self) -> int:
        """Sign the receipts of streams whose process died, and return how many there were."""
        interrupted = await self.store.interrupted_streams()
        for stream in interrupted:
            draft, openings = decode_recovery(stream.recovery)
            subject = stream.inference_id.hex()

            def sign(sequence: int, draft: Any = draft, subject: str = subject) -> bytes:
                return mint(draft, sequence, subject, self.recorder.issuer)

            await self.store.issue(NewReceipt(stream.inference_id, sign, openings))
        return len(interrupted)

    async def _erase_openings(self) -> None:
        retention = self._configuration.openings_retention_seconds * 1000
        while True:
            # The store may be busy or full for a while; the next round erases what is left.
            with contextlib.suppress(StoreError):
                await self.store.erase_openings(older_than=time.time_ns() // 1_000_000 - retention)
            await asyncio.sleep(_ERASE_EVERY_SECONDS)

    async def close(self) -> None:
        """Stop every engine and close what is kept on disk."""
        await self._stop()

    async def _stop(self) -> None:
        if self._eraser is not None:
            self._eraser.cancel()
        if self.state.transactions is not None:
            await self.state.transactions.stop()
        if self.state.payments is not None:
            await self.state.payments.stop()
        if self.recorder.proving is not None:
            await self.recorder.proving.stop()
        await self.state.pool.close()
        self._responses.close()
        if self.state.services is not None:
            self.state.services.close()
        if self.state.log is not None:
            self.state.log.close()
        await self.store.close()


def create_from_environment() -> Application:
    """Return the application of a worker process."""
    values = json.loads(os.environ[CONFIGURATION_VARIABLE])
    application = Service(ServiceConfiguration(**values)).application()
    prepare_process()
    return application


def prepare_process() -> None:
    """Spare a process that does nothing but serve the search for garbage in what it keeps.

    What was made until now lives as long as the process. A request leaves next to no cycles, but
    makes enough objects to have the collector walk all of them, every few requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _leaf_finder(log: LogDoor) -> Callable[[Digest], Awaitable[bool]]:
    async def is_logged(leaf: Digest) -> bool:
        return await log.do(lambda: log.has_leaf(leaf))

    return is_logged


def _opening_secret(state: Path) -> bytes:
    """Return the secret from which opening keys are derived, made at the first start."""
    path = state / _OPENING_FILE
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written under another name and linked, so that of two processes one wins with a whole
        # file and the other reads it.
        draft = state / f"{_OPENING_FILE}.{os.getpid()}"
        if not path.exists():
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_OPENING_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        secret = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot keep state in {state}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if len(secret) != _OPENING_BYTES:
        raise StoreError(f"{path} is damaged", reason=Reason.STORE_FAILED)
    return secret
