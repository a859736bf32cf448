"""Puts the log of a gateway together from what the operator decided: folder, key, witnesses, nodes.

Every process of a gateway has a door (`log_door`); one process of a machine operates the log
(`operate_log`). The log's key is its own, in a folder of its own, made at the first start.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verispect.appraisal.policy import AUDITED, LOGGED
from verispect.attesters.signer import KEY_FILE, Issuer
from verispect.core.errors import RequestError
from verispect.evidence.log_trust import majority, parse_node
from verispect.evidence.proof import KIND as PROOF_KIND
from verispect.gateway.log_door import (
    LOG_PROMISE_MILLISECONDS,
    VERDICTS_PROMISE_MILLISECONDS,
    LogDoor,
    LogSettings,
)
from verispect.gateway.log_evidence import FinishedProofs
from verispect.gateway.promising import forecast_log, forecast_verdicts
from verispect.gateway.recording import Recorder
from verispect.ledger.coverage_outbox import COVERAGE_FILE, COVERAGE_SECONDS, CoverageOutbox
from verispect.ledger.history import SERVICES_FILE, ServiceOutbox
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.operation import LogOperation
from verispect.ledger.log.promises import PromiseBook, PromiseKeeper
from verispect.ledger.log.sources import ReceiptOutbox
from verispect.ledger.log.submission import Parties
from verispect.ledger.log.witnesses import Witness
from verispect.ledger.refusals import REFUSALS_FILE, RefusalBook, RefusalOutbox
from verispect.ledger.schema import DATABASE_NAME
from verispect.tlog.cosignature import WitnessPolicy
from verispect.tlog.receipt_leaf import Disclosure
from verispect.tlog.status_table import NodePolicy

POOL_SECONDS: Final = 0.5
RECEIPTS_FOLDER: Final = "receipts"
PROOFS_DATABASE: Final = "proofs.sqlite"
"""Both in the gateway's own folder of state."""
PROMISES_FILE: Final = "promises.sqlite3"
"""In the log's folder: what its receipts promised and is not in the log yet."""


@dataclass(frozen=True, slots=True)
class LogConfiguration:
    """What an operator decides about its log; all of it text, for worker processes."""

    folder: str
    keys: str
    witnesses: Sequence[str] = ()
    """Each `URL=VKEY`."""
    witness_threshold: int | None = None
    """How many must co-sign; a majority where `None`."""
    auditors: Sequence[str] = ()
    """Each `NAME=KEY`."""
    auditor_threshold: int | None = None
    """How many verdicts make `audited`; a majority where `None`."""
    coverage_seconds: int = COVERAGE_SECONDS
    """How often coverage is published."""
    disclose: Sequence[str] = ()
    """Of `model`, `usage` and `charge`, what leaves show in the clear."""


def _threshold(chosen: int | None, count: int) -> int:
    return majority(count) if chosen is None else chosen


def log_settings(configuration: LogConfiguration, issuer: Issuer) -> LogSettings:
    """Open the log's folder, made where there is none, and read who may do what.

    Args:
        configuration: what the operator decided.
        issuer: whose receipts the log takes.

    Raises:
        MalformedError: `malformed-key`, `malformed-policy`.
        StoreError: `store-failed`, `store-conflict` where the folder is another log's.
    """
    signer = _log_key(configuration, issuer)
    folder = LogFolder.create(
        Path(configuration.folder),
        LogDescription(signer.name, disclosure=_disclosure(configuration)),
        signer=signer.signer,
    )
    witnesses = [Witness.parse(text) for text in configuration.witnesses]
    nodes = [parse_node(text) for text in configuration.auditors]
    return LogSettings(
        folder=folder,
        parties=Parties(
            issuer.name,
            issuer.signer.public_key,
            NodePolicy(_threshold(configuration.auditor_threshold, len(nodes)), nodes),
        ),
        witnesses=WitnessPolicy(
            _threshold(configuration.witness_threshold, len(witnesses)),
            [witness.key for witness in witnesses],
        ),
        development=signer.development,
    )


def open_door(configuration: LogConfiguration, recorder: Recorder) -> LogDoor:
    """Return the log's door, and let the recorder offer what it makes possible.

    `logged` needs a witness, or its receipts would show no time; `audited` needs a node too.

    Raises:
        MalformedError: `malformed-key`, `malformed-policy`.
        StoreError: `store-failed`, `store-conflict`, `store-locked`.
    """
    settings = log_settings(configuration, recorder.issuer)
    door = LogDoor(settings)
    recorder.refusals = RefusalBook(Path(configuration.folder) / REFUSALS_FILE)
    if settings.witnesses.threshold:
        in_log = forecast_log(
            origin=settings.folder.origin,
            witnesses=[each.name for each in settings.witnesses.witnesses],
            threshold=settings.witnesses.threshold,
            milliseconds=LOG_PROMISE_MILLISECONDS,
        )
        recorder.offer(LOGGED, lambda now: door.promises(LOGGED.name, now=now), in_log)
        if settings.parties.auditors.threshold:
            auditors = settings.parties.auditors
            verdicts = forecast_verdicts(
                nodes=[each.name for each in auditors.nodes],
                threshold=auditors.threshold,
                milliseconds=VERDICTS_PROMISE_MILLISECONDS,
            )
            recorder.offer(AUDITED, lambda now: door.promises(AUDITED.name, now=now), verdicts)
    return door


def operate_log(configuration: LogConfiguration, issuer: Issuer, state: Path) -> LogOperation:
    """Start to operate the log: follow the receipts, keep their promises, ask the witnesses.

    Args:
        configuration: what the operator decided.
        issuer: whose receipts the log takes.
        state: the gateway's folder, with the receipt store and the queue of proofs.

    Raises:
        MalformedError: `malformed-key`, `malformed-policy`.
        StoreError: `store-failed`, `store-conflict`.
    """
    settings = log_settings(configuration, issuer)
    book = PromiseBook(Path(configuration.folder) / PROMISES_FILE)
    outbox = ReceiptOutbox(
        state / RECEIPTS_FOLDER / DATABASE_NAME,
        keys=[issuer.signer.public_key],
        notice=book,
        disclose=_disclosure(configuration),
    )
    keeper = PromiseKeeper(
        book,
        settings.folder.tiles,
        evidence={PROOF_KIND: FinishedProofs(state / PROOFS_DATABASE)},
        auditors=settings.parties.auditors,
    )
    operation = LogOperation(
        settings.folder,
        _log_key(configuration, issuer).signer,
        # Versions before receipts: none is used before the log has it.
        sources=[
            ServiceOutbox(state / SERVICES_FILE),
            outbox,
            keeper,
            RefusalOutbox(Path(configuration.folder) / REFUSALS_FILE),
            CoverageOutbox(
                settings.folder,
                issuer,
                settings.parties.auditors,
                shown=state / COVERAGE_FILE,
                seconds=configuration.coverage_seconds,
            ),
        ],
        witnesses=[Witness.parse(text) for text in configuration.witnesses],
        threshold=settings.witnesses.threshold,
        pool_seconds=POOL_SECONDS,
    )
    operation.start()
    return operation


def _disclosure(configuration: LogConfiguration) -> Disclosure:
    """Return what leaves show.

    Raises:
        RequestError: `invalid-request` for another word.
    """
    shown = Disclosure.NOTHING
    for word in configuration.disclose:
        if word.upper() not in Disclosure.__members__:
            raise RequestError("expected model, usage or charge", parameter="log-disclose")
        shown |= Disclosure[word.upper()]
    return shown


def _log_key(configuration: LogConfiguration, issuer: Issuer) -> Issuer:
    """Return the log's own key; its name is the log's origin."""
    directory = Path(configuration.keys)
    if not (directory / KEY_FILE).exists():
        host = issuer.name.partition("://")[2] or issuer.name
        origin = host.replace(" ", "-").replace("+", "-").rstrip("/") + "/log"
        return Issuer.create(
            directory,
            name=origin,
            development=issuer.development,
            now=time.time_ns() // 1_000_000,
        )
    return Issuer.load(directory)
