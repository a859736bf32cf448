"""What a transaction adds to its parts, and what it costs to verify; `make bench-transaction`.

The same hundred inferences run through the same routes in one process, alone and as one
transaction, in interleaved rounds; a fake model answers, so that nothing hides the difference.
Every receipt is durable in either way. The figure is the difference of the medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from report import figure, progress

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.transaction_files import TransactionBundle
from verispect.gateway.completions import create_completion
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.state import GatewayState
from verispect.gateway.transaction_bundle import bundle_of
from verispect.gateway.transaction_routes import create_transaction
from verispect.gateway.transactions import Transactions
from verispect.ledger import ReceiptStore
from verispect.ledger.transactions import TransactionStore
from verispect.testing.echo_model import EchoLanguageModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

from running_gateway import EchoPool

PARTS = 100
ROUNDS = 15


def request(path: str, body: Any) -> HttpRequest:
    """Return a request as the dispatcher hands it to a route."""
    return HttpRequest(
        method="POST",
        path=path,
        query={},
        headers={"content-type": "application/json"},
        body=msgspec.json.encode(body),
        disconnected=asyncio.Event(),
        received_at=time.time_ns() // 1_000_000,
    )


def completion(number: int) -> dict[str, Any]:
    """Return the body of one part."""
    return {"model": "echo", "prompt": f"word {number}", "max_tokens": 4}


async def alone(state: GatewayState) -> float:
    """Run the inferences one after the other and return the seconds."""
    started = time.perf_counter()
    for number in range(PARTS):
        answer = await create_completion(state, request("/v1/completions", completion(number)))
        assert answer.status == 200
    return time.perf_counter() - started


async def together(state: GatewayState) -> tuple[float, HttpResponse]:
    """Run them as one transaction and return the seconds."""
    parts = [{"path": "/v1/completions", "body": completion(number)} for number in range(PARTS)]
    started = time.perf_counter()
    answer = await create_transaction(state, request("/v1/transactions", {"parts": parts}))
    seconds = time.perf_counter() - started
    assert answer.status == 200, answer.body[:300]
    return seconds, answer


async def measure(directory: Path) -> None:
    """Print the figures."""
    issuer = Issuer.create(directory / "keys", name="bench", development=False, now=0)
    store = ReceiptStore.open(directory / "receipts", issuer_key_id=issuer.signer.public_key.key_id)
    state = GatewayState(
        pool=EchoPool(EchoLanguageModel()),
        recorder=Recorder(
            issuer,
            store,
            opening_secret=os.urandom(32),
            published=PublishedRecords(directory / "records"),
        ),
        transactions=Transactions(TransactionStore(directory / "transactions.sqlite")),
    )
    assert state.transactions is not None
    await alone(state)
    _, answer = await together(state)
    apart, whole, added = [], [], []
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        apart.append(await alone(state))
        seconds, answer = await together(state)
        whole.append(seconds)
        added.append(seconds - apart[-1])
    parts, one = statistics.median(apart), statistics.median(whole)
    figure("transaction.parts_alone", 1000 * parts, "ms", parts=PARTS)
    figure("transaction.parts_together", 1000 * one, "ms", parts=PARTS)
    figure("transaction.added", 1000 * (one - parts), "ms", parts=PARTS, most=5)
    figure("transaction.added_paired", 1000 * statistics.median(added), "ms", parts=PARTS)
    _verify(state, issuer, msgspec.json.decode(answer.body)["id"])
    await state.transactions.stop()
    await store.close()


def _verify(state: GatewayState, issuer: Issuer, identifier: str) -> None:
    assert state.transactions is not None
    stored = state.transactions.store.find(bytes.fromhex(identifier))
    assert stored is not None
    data = bundle_of(state, stored).encode()
    verifier = TransactionVerifier(TrustedRoot([issuer.trusted_key()]))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        verifier.appraise(TransactionBundle.parse(data), policy=SIGNED, now=10**13)
        times.append(time.perf_counter() - started)
    figure("transaction.bytes", len(data), "bytes", parts=PARTS)
    figure("transaction.verify", 1000 * statistics.median(times), "ms", parts=PARTS)


def main() -> None:
    """Measure in a folder of its own."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(Path(directory)))


if __name__ == "__main__":
    main()
