"""Triton's own HTTP client, unchanged, against a running gateway with a real ONNX model."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import uvicorn
from onnx import TensorProto, helper

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.signer import Issuer
from verispect.core.encoding import from_base64url, sha256
from verispect.core.errors import ModelError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import Determinism, ModelIdentity
from verispect.engines.interface import TensorModel
from verispect.engines.onnx import OnnxEngine
from verispect.gateway.app import create_app
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState
from verispect.ledger import ReceiptStore

if importlib.util.find_spec("geventhttpclient") is None:
    pytest.skip("tritonclient is installed without its http extra", allow_module_level=True)

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

NAME = "house/mixed"


def mixed_model() -> bytes:
    """Return y = 2x and t = s, so that both numbers and strings travel."""
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Add", ["x", "x"], ["y"]),
                helper.make_node("Identity", ["s"], ["t"]),
            ],
            "mixed",
            [value("x", TensorProto.FLOAT, ["n", 2]), value("s", TensorProto.STRING, ["k"])],
            [value("y", TensorProto.FLOAT, ["n", 2]), value("t", TensorProto.STRING, ["k"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    ).SerializeToString()


class OneModel:
    """A pool with one loaded model."""

    def __init__(self, model: TensorModel) -> None:
        self.model = model

    def names(self) -> list[str]:
        return [NAME]

    def find(self, name: str) -> ServedModel:
        if name != NAME:
            raise ModelError("no such model", reason=Reason.MODEL_NOT_FOUND)
        return ServedModel(
            name=name,
            model_id=sha256(mixed_model()),
            created=0,
            owner="tests",
            kind="tensor",
            identity=ModelIdentity.LOCAL_WEIGHTS,
            determinism=Determinism.EXACT,
        )

    async def language(self, served: ServedModel, lane: object) -> None:
        raise NotImplementedError

    async def tensor(self, served: ServedModel) -> TensorModel:
        return self.model

    async def close(self) -> None:
        await self.model.close()


class RunningGateway:
    """A gateway in a thread of its own; entering waits until it answers."""

    def __init__(self, folder: Path) -> None:
        now = time.time_ns() // 1_000_000
        self.issuer = Issuer.create(folder / "keys", name="tests", development=False, now=now)
        self._folder = folder
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ready = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        engine = OnnxEngine()
        pool = OneModel(await engine.load(mixed_model()))
        key_id = self.issuer.signer.public_key.key_id
        async with ReceiptStore.open(self._folder / "store", issuer_key_id=key_id) as store:
            recorder = Recorder(
                self.issuer,
                store,
                opening_secret=os.urandom(32),
                published=PublishedRecords(self._folder / "records"),
            )
            application = create_app(GatewayState(pool, recorder))
            config = uvicorn.Config(application, ws="none", log_config=None)
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            self._server = uvicorn.Server(config)
            self._ready.set()
            await self._server.serve(sockets=[self._listener])
        await pool.close()
        engine.close()

    def __enter__(self) -> Self:
        # The socket listens before the server does, so that a first call waits and does not fail.
        self._listener.listen()
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[RunningGateway]:
    with RunningGateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def client(gateway) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(gateway.address)
    yield client
    client.close()


X = np.array([[1.5, -2.0], [0.1, 4.0]], np.float32)
S = np.array([b"plain", "é漢".encode(), b""], np.object_)


def inputs(*, binary: bool) -> list[triton.InferInput]:
    x = triton.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X, binary_data=binary)
    s = triton.InferInput("s", list(S.shape), "BYTES")
    s.set_data_from_numpy(S, binary_data=binary)
    return [x, s]


def test_health_and_metadata(client):
    """The client's questions about server and model are answered."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(NAME, model_version="1")
    assert [item["datatype"] for item in metadata["inputs"]] == ["FP32", "BYTES"]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False, None])
def test_inference_in_every_form(gateway, client, binary_input, binary_output):
    """Binary or JSON, in or out, the client reads the same arrays, with a receipt that verifies."""
    outputs = None
    if binary_output is not None:
        outputs = [triton.InferRequestedOutput(n, binary_data=binary_output) for n in ("y", "t")]
    result = client.infer(NAME, inputs(binary=binary_input), outputs=outputs, request_id="42")
    assert (result.as_numpy("y") == X + X).all()
    words = [item if isinstance(item, bytes) else item.encode() for item in result.as_numpy("t")]
    assert words == list(S)
    answer = result.get_response()
    assert answer["id"] == "42"
    receipt = from_base64url(answer["parameters"]["verispect_receipt"])
    verified = Verifier(TrustedRoot([gateway.issuer.trusted_key()])).verify(
        InferenceReceipt.parse(receipt),
        opened={},
        policy=SIGNED,
        now=time.time_ns() // 1_000_000,
    )
    assert verified.statement.requested_model == NAME


def test_errors_reach_the_client(client):
    """Refusals arrive as the client's own exception, with our words and a status."""
    with pytest.raises(InferenceServerException, match="no such model") as unknown:
        client.infer("other", inputs(binary=True))
    assert unknown.value.status() == "404"
    with pytest.raises(InferenceServerException, match="missing input 's'"):
        client.infer(NAME, inputs(binary=True)[:1])
    with pytest.raises(InferenceServerException, match="priority"):
        client.infer(NAME, inputs(binary=True), priority=1)
    not_finite = triton.InferInput("x", [1, 2], "FP32")
    not_finite.set_data_from_numpy(np.array([[1, np.nan]], np.float32))
    with pytest.raises(InferenceServerException, match="NaN"):
        client.infer(NAME, [not_finite, inputs(binary=True)[1]])
