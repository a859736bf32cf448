"""From a request to its receipt: once, durable, and not at all where the store fails."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running_gateway import EchoPool, run_gateway

from verispect.attesters.signer import Issuer
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import to_base64url
from verispect.core.errors import Reason, RequestError, StoreError
from verispect.core.receipt import InferenceReceipt
from verispect.engines.interface import Lane
from verispect.gateway.http import HttpRequest
from verispect.gateway.inference import INTERIM_EVERY_CHUNKS, Inference
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.ledger import ReceiptStore
from verispect.testing.echo_model import EchoLanguageModel

USAGE = {"input_tokens": 1, "output_tokens": 2}
MODEL = EchoLanguageModel()


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    issuer = Issuer.create(tmp_path / "keys", name="tests", development=False, now=0)
    key_id = issuer.signer.public_key.key_id
    store = ReceiptStore.open(tmp_path / "store", issuer_key_id=key_id)
    yield Recorder(
        issuer,
        store,
        opening_secret=os.urandom(32),
        published=PublishedRecords(tmp_path / "records"),
    )
    await store.close()


def begin(
    recorder: Recorder, headers: dict[str, str] | None = None, assurance: str | None = None
) -> Inference:
    request = HttpRequest(
        method="POST",
        path="/",
        query={},
        headers=headers or {},
        body=b"",
        disconnected=asyncio.Event(),
        received_at=time.time_ns() // 1_000_000,
    )
    inference = recorder.begin(
        request,
        operation="chat.completions",
        served=EchoPool(MODEL).find("echo"),
        requested_model="echo",
        lane=Lane.THROUGHPUT,
        assurance=assurance,
    )
    inference.use_engine(MODEL.identity)
    return inference


async def test_finished_inference_is_on_disk_with_its_openings(recorder: Recorder) -> None:
    """What finish returns can be found at once, and says what was committed to."""
    nonce = b"a nonce of mine!"
    inference = begin(recorder, {"verispect-nonce": to_base64url(nonce)})
    inference.commit(Part.OUTPUT, ["text"])
    issued = await inference.finish(finish_reasons=["stop"], usage=USAGE)
    stored = recorder.store.find(bytes.fromhex(issued.receipt_id))
    assert stored is not None
    assert stored.receipt == issued.receipt
    statement = InferenceReceipt.parse(issued.receipt).unverified_statement
    assert statement.nonce == nonce
    assert dict(statement.usage) == USAGE
    openings = recorder.store.openings(stored.inference_id)
    assert openings is not None
    opened = decode_openings(openings)
    opened[Part.OUTPUT].check(statement.commitments[Part.OUTPUT])
    assert opened[Part.OUTPUT].content() == ["text"]


async def test_nothing_is_finished_or_committed_to_twice(recorder: Recorder) -> None:
    """One inference has one receipt, and one content for each part."""
    inference = begin(recorder)
    inference.commit(Part.OUTPUT, ["a"])
    with pytest.raises(RuntimeError):
        inference.commit(Part.OUTPUT, ["b"])
    await inference.finish(finish_reasons=["stop"], usage=USAGE)
    with pytest.raises(RuntimeError):
        await inference.finish(finish_reasons=["stop"], usage=USAGE)


async def test_salts_are_never_used_twice(recorder: Recorder) -> None:
    """Equal content of different parts and inferences has different commitments."""
    salts: list[bytes] = []
    for _ in range(3):
        inference = begin(recorder)
        for part in Part:
            inference.commit(part, "same")
        issued = await inference.finish(finish_reasons=["stop"], usage=USAGE)
        stored = recorder.store.find(bytes.fromhex(issued.receipt_id))
        assert stored is not None
        openings = recorder.store.openings(stored.inference_id)
        assert openings is not None
        salts += [opening.salt for opening in decode_openings(openings).values()]
    assert len(set(salts)) == len(salts) == 3 * len(Part)


async def test_opening_keys_differ_and_do_not_show_each_other(recorder: Recorder) -> None:
    """Every inference has a key of its own, which its identifier does not give away."""
    keys = {dict(begin(recorder).headers)["verispect-opening-key"] for _ in range(50)}
    assert len(keys) == 50


async def test_interim_signature_comes_at_the_stated_interval(recorder: Recorder) -> None:
    """After every so many chunks, and only then, there is one."""
    inference = begin(recorder)
    signed = [await inference.chain(b"x") is not None for _ in range(2 * INTERIM_EVERY_CHUNKS)]
    due = [number % INTERIM_EVERY_CHUNKS == 0 for number in range(1, 2 * INTERIM_EVERY_CHUNKS + 1)]
    assert signed == due


async def test_store_that_fails_gives_no_receipt(recorder: Recorder) -> None:
    """Neither a receipt nor the first chunk of a stream leaves where nothing is durable."""
    inference, stream = begin(recorder), begin(recorder)
    await recorder.store.close()
    with pytest.raises(StoreError):
        await inference.finish(finish_reasons=["stop"], usage=USAGE)
    with pytest.raises(StoreError):
        await stream.chain(b"x")


def test_no_answer_leaves_when_the_store_fails(tmp_path: Path) -> None:
    """Over HTTP a failing store is an error without any word of the answer."""
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway:
        asyncio.run(gateway.state.recorder.store.close())
        body = {"model": "echo", "messages": [{"role": "user", "content": "quokka"}]}
        with gateway.http() as client:
            for stream in (False, True):
                answer = client.post("/v1/chat/completions", json={**body, "stream": stream})
                assert b"quokka" not in answer.content
                assert b"store-failed" in answer.content


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        ("sined", None, Reason.ASSURANCE_UNKNOWN),
        (None, "sined", Reason.ASSURANCE_UNKNOWN),
        ("", None, Reason.ASSURANCE_UNKNOWN),
        ("signed+signed", None, Reason.ASSURANCE_UNKNOWN),
        ("SIGNED", None, Reason.ASSURANCE_UNKNOWN),
        (None, "proven", Reason.ASSURANCE_UNAVAILABLE),
        ("audited+proven", None, Reason.ASSURANCE_UNAVAILABLE),
        ("signed", "proven", Reason.INVALID_REQUEST),
    ],
)
async def test_assurance_is_never_less_than_asked_for(
    recorder: Recorder, header: str | None, body: str | None, reason: Reason
) -> None:
    """What is misspelt, contradictory or cannot be delivered is refused before any work."""
    headers = {} if header is None else {"verispect-assurance": header}
    with pytest.raises(RequestError) as caught:
        begin(recorder, headers, body)
    assert caught.value.reason is reason
    if reason is not Reason.INVALID_REQUEST:
        assert "available here: signed" in caught.value.message


@pytest.mark.parametrize("nonce", ["", "!", "AAAA", "A" * 200, "AAAAAAAAAAAAAAA="])
async def test_nonce_that_is_none_is_refused(recorder: Recorder, nonce: str) -> None:
    """A nonce that could not be compared later is refused now."""
    with pytest.raises(RequestError) as caught:
        begin(recorder, {"verispect-nonce": nonce})
    assert caught.value.parameter == "Verispect-Nonce"
