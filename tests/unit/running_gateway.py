"""A gateway on loopback for protocol tests: real store, recorder and server, a fake model."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import OpenAI

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.attesters.interface import Attester
from verispect.attesters.signer import Issuer
from verispect.core.commitments import decode_openings
from verispect.core.encoding import from_base64url, sha256
from verispect.core.errors import ModelError, Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import Determinism, ModelIdentity
from verispect.core.stream import StreamChain
from verispect.engines.interface import Lane, LanguageModel, TensorModel
from verispect.evidence.attestation import EvidenceClass
from verispect.gateway.app import create_app
from verispect.gateway.attestation import KeyAttestation
from verispect.gateway.confidential import ConfidentialDoor
from verispect.gateway.connection import make_protocol
from verispect.gateway.limits import Limits
from verispect.gateway.payment import Payments
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.response_store import ResponseStore
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState
from verispect.gateway.transactions import Transactions
from verispect.ledger import ReceiptStore
from verispect.ledger.schema import DATABASE_NAME
from verispect.ledger.transactions import TransactionStore
from verispect.testing.echo_model import EchoLanguageModel

NAMES = ("echo", "team/echo")


@dataclass(slots=True)
class EchoPool:
    """Serves one fake model under two names."""

    model: EchoLanguageModel
    served: dict[str, ServedModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.served[name] = ServedModel(
                name=name,
                model_id=sha256(name.encode()),
                created=1_700_000_000,
                owner="tests",
                kind="language",
                identity=ModelIdentity.LOCAL_WEIGHTS,
                determinism=Determinism.EXACT,
                lanes=(Lane.THROUGHPUT, Lane.DETERMINISTIC),
            )

    def names(self) -> list[str]:
        return sorted(self.served)

    def find(self, name: str) -> ServedModel:
        if name not in self.served:
            raise ModelError("no such model", reason=Reason.MODEL_NOT_FOUND)
        return self.served[name]

    async def language(self, served: ServedModel, lane: Lane) -> LanguageModel:
        return self.model

    async def tensor(self, served: ServedModel) -> TensorModel:
        raise RequestError("no tensor model", parameter="model")

    async def close(self) -> None:
        await self.model.close()


@dataclass(slots=True)
class RunningGateway:
    """What a test sees of the server."""

    base_url: str
    model: EchoLanguageModel
    state: GatewayState

    def openai(self) -> OpenAI:
        """Return the official client, without retries so that a refusal is seen once."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key="none", max_retries=0)

    def http(self) -> httpx.Client:
        """Return a plain client."""
        return httpx.Client(base_url=self.base_url, timeout=30)

    def verify(
        self, member: Mapping[str, str], opening_key: str, **expected: Any
    ) -> VerifiedReceipt:
        """Verify the receipt of a `verispect` member, with its openings, as a caller would."""
        with self.http() as client:
            answer = client.get(
                f"/v1/receipts/{member['inference']}/openings",
                headers={"verispect-opening-key": opening_key},
            )
        answer.raise_for_status()
        return self.verify_bytes(from_base64url(member["receipt"]), answer.content, **expected)

    def verify_bytes(self, receipt: bytes, openings: bytes, **expected: Any) -> VerifiedReceipt:
        """Verify a receipt's bytes."""
        root = TrustedRoot(issuer_keys=[self.state.recorder.issuer.trusted_key()])
        return Verifier(root).verify(
            InferenceReceipt.parse(receipt),
            opened=decode_openings(openings),
            policy=SIGNED,
            now=10**13,
            expected=Expected(**expected),
        )


def chain_of(inference: str, payloads: list[bytes]) -> Any:
    """Return the stream binding of the payloads that a caller was shown."""
    chain = StreamChain(bytes.fromhex(inference))
    for payload in payloads:
        chain.absorb(payload)
    return chain.binding()


@contextmanager
def run_gateway(
    directory: Path,
    model: EchoLanguageModel,
    *,
    with_responses: bool = True,
    attester: Attester | None = None,
    limits: Limits | None = None,
    sell: Callable[[Issuer], Payments] | None = None,
) -> Iterator[RunningGateway]:
    """Serve on a free loopback port until the block ends.

    Args:
        directory: for keys, receipts and what else is kept.
        model: what answers.
        with_responses: whether responses may be stored.
        attester: vouches for the signing key, as development evidence, and for a key of this run
            to which requests can be encrypted.
        limits: other limits than the usual.
        sell: opens the payments of a gateway that sells.
    """
    limits = limits or Limits()
    keys = directory / "keys"
    # A gateway that is run again in one directory is the same issuer.
    if keys.exists():
        issuer = Issuer.load(keys)
    else:
        issuer = Issuer.create(keys, name="tests", development=False, now=0)
    store = ReceiptStore.open(directory / "receipts", issuer_key_id=issuer.signer.public_key.key_id)
    responses = ResponseStore(directory / "responses.sqlite") if with_responses else None
    door = attestation = None
    if attester is not None:
        door = ConfidentialDoor(limits)
        attestation = KeyAttestation(
            attester,
            EvidenceClass.DEVELOPMENT,
            issuer.signer.public_key.key_id,
            directory / "evidence",
            hpke_key_digest=door.key_digest,
        )
    payments = None if sell is None else sell(issuer)
    transactions = Transactions(
        TransactionStore(directory / "transactions.sqlite"),
        receipts=directory / "receipts" / DATABASE_NAME,
        listeners=() if payments is None else (payments.watch,),
    )
    state = GatewayState(
        pool=EchoPool(model),
        recorder=Recorder(
            issuer,
            store,
            opening_secret=os.urandom(32),
            published=PublishedRecords(directory / "records"),
            attestation=attestation,
        ),
        responses=responses,
        limits=limits,
        confidential=door,
        transactions=transactions,
        payments=payments,
    )
    state.recorder.sells = payments is not None
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(state),
            http=make_protocol(limits),
            log_level="critical",
            lifespan="on",
            access_log=False,
        )
    )

    async def serve() -> None:
        if payments is not None:
            await payments.start(state)
        transactions.start(state)
        await server.serve(sockets=[listener])
        await transactions.stop()
        if payments is not None:
            await payments.stop()
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        host, port = listener.getsockname()
        yield RunningGateway(f"http://{host}:{port}", model, state)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        if responses is not None:
            responses.close()
    assert not thread.is_alive()
