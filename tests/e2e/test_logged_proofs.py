"""A gateway that keeps a log and proves: its proofs reach the log, and a missed one is admitted."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.encoding import Digest
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.log_service import LogConfiguration, operate_log
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.reading import TileReader
from verispect.tlog.status import replay_status
from verispect.tlog.status_table import State
from verispect.tlog.tiles import tile_at

sys.path.insert(0, str(Path(__file__).parent))
from test_proven_receipts import ask, make_home, prover_process, serving, wait_for

pytestmark = pytest.mark.slow
SECONDS = 60.0


@contextmanager
def logging_gateway(home, **options):
    """Serve with a log beside the gateway, as `verispect serve --log` does."""
    configuration = {"folder": str(home / "log"), "keys": str(home / "log-keys")}
    with serving(home, log=configuration, **options) as (address, service):
        operation = operate_log(
            LogConfiguration(**configuration), Issuer.load(home / "keys"), home / "state"
        )
        try:
            yield address, service
        finally:
            operation.stop()


def status(home, receipt):
    """Audit the log as it stands on disk, and replay it."""
    log = LogFolder(home / "log")
    state = log.open_state()
    size = state.head().size
    report = fsck(log.tiles, log.trusted, state=state)
    state.close()
    if report.difference is not None:  # It grows while it is read.
        return None
    reader = TileReader(log.tiles)
    leaves = [
        leaf for at in range(-(-size // 256)) for leaf in reader.entries(tile_at(0, at, size))
    ]
    table = replay_status(leaves, log=log.trusted)
    rows = [row for row in table.receipts if row.receipt == receipt]
    return rows[0] if rows else None


def await_status(home, receipt, state):
    deadline = time.monotonic() + SECONDS
    row = None
    while time.monotonic() < deadline:
        row = status(home, receipt)
        if row is not None and row.state is state:
            return row
        time.sleep(0.1)
    raise AssertionError(row)


def test_a_finished_proof_reaches_the_log(tmp_path):
    """A proven receipt is met by the log alone, and its evidence is served under its digest."""
    home = make_home(tmp_path)
    with logging_gateway(home) as (address, _):
        answer = ask(address)
        identifier = answer.headers["verispect-receipt-id"]
        wait_for(address, identifier, "done")
        await_status(home, Digest(bytes.fromhex(identifier)), State.MET)
        attached = httpx.get(f"{address}/v1/receipts/{identifier}?evidence=attached").content
        (entry,) = InferenceReceipt.parse(attached).evidence
        served = httpx.get(f"{address}/log/evidence/{entry.digest().hex()}")
        assert served.status_code == 200
        assert entry.body in served.content
        shown = httpx.get(f"{address}/.well-known/verispect").json()
        (log,) = TrustedRoot.from_json(json.dumps(shown["trustedRoot"]).encode()).log_trust.logs
        assert log.origin == shown["log"]["origin"] == LogFolder(home / "log").origin
        assert shown["log"]["development"] is False


def test_a_proof_that_does_not_come_is_admitted(tmp_path):
    """While the prover stands still the deadline passes, and the operator's own leaf says so."""
    home = make_home(tmp_path)
    with logging_gateway(home, proof_seconds=1) as (address, service):
        prover = prover_process(service)
        os.kill(prover, signal.SIGSTOP)
        try:
            identifier = ask(address).headers["verispect-receipt-id"]
            row = await_status(home, Digest(bytes.fromhex(identifier)), State.FAILED)
            assert row.reason == "evidence-overdue"
        finally:
            os.kill(prover, signal.SIGCONT)
