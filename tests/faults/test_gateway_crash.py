"""Kill the whole gateway at random moments under mixed load, and look at what callers have.

Tensor requests, chats and streams run side by side. After each kill the gateway starts again on
the same state, and every answer that somebody received is held against what is found there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest
from onnx import TensorProto, helper

from verispect.client.session import Exchange
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement
from verispect.core.stream import StreamChain
from verispect.gateway.inference import INTERIM_EVERY_CHUNKS
from verispect.ledger import ReceiptStore
from verispect.ledger.schema import DATABASE_NAME
from verispect.testing.served import ServedGateway, verify_signed
from verispect.testing.tiny_gguf import TinyModel, write_tiny_gguf

pytestmark = pytest.mark.slow

ROUNDS = 8
SEED = 20261123
VERIFIED_PER_KIND = 12
CALLERS = {"tensor": 3, "chat": 2, "stream": 3}
TENSOR = {"name": "x", "datatype": "FP32", "shape": [3], "data": [0.5, -1.5, 2.0]}
MESSAGES = [{"role": "user", "content": "Say something."}]
REQUESTS = {
    "tensor": ("/v2/models/double/infer", {"inputs": [TENSOR]}),
    "chat": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 6},
    ),
    "stream": (
        "/v1/chat/completions",
        {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 150, "stream": True},
    ),
}


@dataclass
class Answer:
    """What one caller received, whole or cut."""

    kind: str
    request: bytes
    nonce: bytes
    inference: str
    opening_key: str
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False

    def payloads(self) -> list[bytes]:
        """The data of every event that arrived whole."""
        events = bytes(self.body).split(b"\n\n")[:-1]
        return [event[6:] for event in events if event.startswith(b"data: ")]

    def receipt(self) -> bytes:
        """The receipt that came with a whole answer."""
        if self.kind == "tensor":
            return from_base64url(json.loads(self.body)["parameters"]["verispect_receipt"])
        last = self.payloads()[-2] if self.kind == "stream" else bytes(self.body)
        return from_base64url(json.loads(last)["verispect"]["receipt"])


class Load:
    """Callers that ask until their gateway is gone."""

    def __init__(self, url):
        self.answers: list[Answer] = []
        self.refusals: list[bytes] = []
        self.streaming = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(url, kind))
            for kind, count in CALLERS.items()
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, url, kind):
        path, body = REQUESTS[kind]
        request = json.dumps(body).encode()
        # Whatever the network says when the other end dies, it means the same here.
        with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=url, timeout=20) as client:
            while True:
                self._ask_once(client, kind, path, request)

    def _ask_once(self, client, kind, path, request):
        nonce = os.urandom(16)
        headers = {"content-type": "application/json", "verispect-nonce": to_base64url(nonce)}
        with client.stream("POST", path, content=request, headers=headers) as response:
            if response.status_code != 200:
                self.refusals.append(response.read())
                return
            answer = Answer(
                kind,
                request,
                nonce,
                response.headers["verispect-inference"],
                response.headers["verispect-opening-key"],
            )
            self.answers.append(answer)
            for piece in response.iter_raw():
                answer.body += piece
                if kind == "stream":
                    self.streaming.set()
            answer.whole = True

    def wait(self):
        for thread in self._threads:
            thread.join()


def double_model(path):
    """Write y = 2x."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def stored_receipts(home):
    """Return every stored receipt by inference, in the order of issue."""
    database = home / "state" / "receipts" / DATABASE_NAME
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT inference_id, receipt FROM receipts ORDER BY sequence")
        return {inference.hex(): receipt for inference, receipt in rows}


def statement_of(receipt) -> InferenceStatement:
    return InferenceReceipt.parse(receipt).unverified_statement


def check_cut_stream(answer, receipt):
    """A cut stream's receipt covers what the caller saw, but for the last few chunks at most."""
    payloads = [each for each in answer.payloads() if b'"verispect":{' not in each]
    payloads = [each for each in payloads if each != b"[DONE]"]
    statement = statement_of(receipt)
    covered = statement.stream.chunks
    assert covered > len(payloads) - INTERIM_EVERY_CHUNKS
    if covered <= len(payloads):
        chain = StreamChain(bytes.fromhex(answer.inference))
        for payload in payloads[:covered]:
            chain.absorb(payload)
        assert chain.binding() == statement.stream
    return list(statement.finish_reasons)


def verify_answer(gateway, root, answer, receipt):
    """Verify a whole answer offline, as its caller would."""
    openings = gateway.openings(answer.inference, answer.opening_key)
    verify_signed(
        Exchange(answer.request, bytes(answer.body), receipt, openings, answer.nonce, "signed"),
        root,
    )


def test_a_killed_gateway_loses_nothing_that_anybody_received(tmp_path):
    """After all kills every answer has its receipt, byte for byte, and every cut stream has one."""
    chance = random.Random(SEED)
    gateway = ServedGateway(tmp_path, "--threads", "1")
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", TinyModel(stops_by_itself=False))
    gateway.run("models", "add", "--name", "tiny", "--file", str(tiny))
    double = double_model(tmp_path / "double.onnx")
    gateway.run("models", "add", "--name", "double", "--file", str(double))
    root = gateway.trusted_root()
    whole, cut, reasons = [], [], []
    for number in range(ROUNDS):
        gateway.start()
        load = Load(gateway.url)
        if number % 4 == 3:
            time.sleep(chance.uniform(0.0, 0.4))  # In start-up, recovery or the loading of models.
        else:
            assert load.streaming.wait(30), gateway.log()[-2000:]
            time.sleep(chance.uniform(0.0, 0.5))
        gateway.kill()
        load.wait()
        assert not load.refusals
        whole += [answer for answer in load.answers if answer.whole]
        cut += [answer for answer in load.answers if not answer.whole]

    with gateway:
        gateway.await_ready()  # What streams left behind is signed before the first answer.
        check_everything(gateway, root, whole, cut, reasons, chance)
    report = ReceiptStore.check_directory(tmp_path / "state" / "receipts")
    assert not report.problems
    assert report.open_streams == 0
    assert "interrupted" in reasons, "no kill fell into a stream: the test proves too little"


def check_everything(gateway, root, whole, cut, reasons, chance):
    """Hold every answer against the receipts that the restarted gateway has."""
    stored = stored_receipts(gateway.home)
    sequences = [statement_of(receipt).sequence for receipt in stored.values()]
    assert sequences == list(range(1, len(sequences) + 1))
    for answer in whole:
        assert stored[answer.inference] == answer.receipt()
    for kind in CALLERS:
        answers = [answer for answer in whole if answer.kind == kind]
        assert answers, f"no {kind} was answered: the test proves too little"
        for answer in chance.sample(answers, min(len(answers), VERIFIED_PER_KIND)):
            verify_answer(gateway, root, answer, stored[answer.inference])
    for answer in cut:
        receipt = stored.get(answer.inference)
        if answer.kind == "stream" and answer.payloads():
            assert receipt is not None, "a stream that somebody saw has no receipt"
            assert gateway.receipt(answer.inference) == receipt
            reasons += check_cut_stream(answer, receipt)
