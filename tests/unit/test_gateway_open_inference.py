"""Open Inference Protocol routes over a real engine, a real recorder and a real store."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Sequence

import pytest
from onnx import TensorProto, helper
from onnx_graphs import graph, linear

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.attesters.signer import Issuer
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import from_base64url, sha256
from verispect.core.errors import EngineError, Error, ModelError, Reason, RequestError
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import Determinism, ModelIdentity
from verispect.engines.interface import Lane, LanguageModel, TensorModel
from verispect.engines.onnx import OnnxEngine
from verispect.gateway.errors import status_of
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.open_inference import dispatch
from verispect.gateway.published import PublishedRecords
from verispect.gateway.recording import Recorder
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState
from verispect.ledger import ReceiptStore

NOW = time.time_ns() // 1_000_000


class Pool:
    """Loaded tensor models by name."""

    def __init__(self, models: dict[str, TensorModel]) -> None:
        self.models = models

    def names(self) -> Sequence[str]:
        return sorted(self.models)

    def find(self, name: str) -> ServedModel:
        if name not in self.models:
            raise ModelError("no such model", reason=Reason.MODEL_NOT_FOUND)
        return ServedModel(
            name=name,
            model_id=sha256(name.encode()),
            created=0,
            owner="tests",
            kind="tensor",
            identity=ModelIdentity.LOCAL_WEIGHTS,
            determinism=Determinism.EXACT,
            lanes=(Lane.DETERMINISTIC, Lane.THROUGHPUT),
        )

    async def language(self, served: ServedModel, lane: Lane) -> LanguageModel:
        raise RequestError("not a language model", parameter="model")

    async def tensor(self, served: ServedModel) -> TensorModel:
        return self.models[served.name]

    async def close(self) -> None:
        return


NOT_FINITE = graph(
    [helper.make_node("Log", ["x"], ["y"])],
    [("x", TensorProto.FLOAT, [1])],
    [("y", TensorProto.FLOAT, [1])],
)


@pytest.fixture
async def state(tmp_path):
    issuer = Issuer.create(tmp_path / "keys", name="tests", development=False, now=NOW - 1000)
    engine = OnnxEngine()
    pool = Pool({"linear": await engine.load(linear()), "house/log": await engine.load(NOT_FINITE)})
    key_id = issuer.signer.public_key.key_id
    async with ReceiptStore.open(tmp_path / "store", issuer_key_id=key_id) as store:
        yield GatewayState(
            pool,
            Recorder(
                issuer,
                store,
                opening_secret=bytes(32),
                published=PublishedRecords(tmp_path / "records"),
            ),
        )
    engine.close()


async def ask(
    state: GatewayState,
    path: str,
    body: object = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
    return await dispatch(
        state,
        HttpRequest(
            method=method or ("POST" if body else "GET"),
            path=path,
            query={},
            headers=headers or {},
            body=content,
            disconnected=asyncio.Event(),
            received_at=time.time_ns() // 1_000_000,
        ),
    )


ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
ROW_BYTES = struct.pack("<4f", 1, 2, 3, 4)
ANSWER_BYTES = struct.pack("<3f", 60, 70, 80)
INFER = "/v2/models/linear/infer"


async def test_json_inference_has_its_answer(state):
    """A JSON request is answered in JSON, with the identifier echoed."""
    answer = json.loads((await ask(state, INFER, {"id": "seven", "inputs": [ROW]})).body)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("linear", "1", "seven")
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [60.0, 70.0, 80.0]}
    ]


async def test_receipt_verifies_and_covers_the_exact_tensors(state):
    """The receipt in the answer verifies, and opens to what the model got and gave."""
    nonce = {"verispect-nonce": "AAECAwQFBgcICQoLDA0ODw"}
    response = await ask(state, INFER, {"inputs": [ROW]}, headers=nonce)
    parameters = json.loads(response.body)["parameters"]
    raw = from_base64url(parameters["verispect_receipt"])
    assert sha256(raw).hex() == parameters["verispect_receipt_id"]
    assert dict(response.headers)["verispect-receipt-id"] == parameters["verispect_receipt_id"]
    inference = bytes.fromhex(parameters["verispect_inference"])
    kept = state.recorder.store.openings(inference)
    model = state.pool.models["linear"]
    verified = Verifier(TrustedRoot([state.recorder.issuer.trusted_key()])).verify(
        InferenceReceipt.parse(raw),
        opened=decode_openings(kept),
        policy=SIGNED,
        now=time.time_ns() // 1_000_000,
        expected=Expected(
            nonce=bytes(range(16)),
            parts={
                Part.PARAMETERS: {"id": None, "outputs": [], "binary_data_output": False},
                Part.EFFECTIVE_INPUT: [["x", "FP32", [1, 4], ROW_BYTES]],
                Part.OUTPUT: [["y", "FP32", [1, 3], ANSWER_BYTES]],
            },
        ),
    )
    assert verified.statement.operation == "infer"
    assert verified.statement.usage == {"input_bytes": 16, "output_bytes": 12}
    assert verified.statement.model.engine == model.identity.digest()


async def test_binary_inference_both_ways(state):
    """Binary tensors go in and come out behind the JSON, whose length a header tells."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 4],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 16},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    response = await ask(
        state,
        "/v2/models/linear/versions/1/infer",
        head + ROW_BYTES,
        headers={"inference-header-content-length": str(len(head))},
    )
    length = int(dict(response.headers)["inference-header-content-length"])
    assert response.content_type == "application/octet-stream"
    assert response.body[length:] == ANSWER_BYTES
    (output,) = json.loads(response.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 12}


async def test_every_answer_has_a_number_of_its_own(state):
    """Receipts are numbered without a gap, and refused requests take no number."""
    numbers = []
    for data in ([1, 2, 3, 4], [1, 2, 3], [5, 6, 7, 8]):
        try:
            response = await ask(state, INFER, {"inputs": [{**ROW, "data": data}]})
        except RequestError:
            continue
        raw = from_base64url(json.loads(response.body)["parameters"]["verispect_receipt"])
        numbers.append(InferenceReceipt.parse(raw).unverified_statement.sequence)
    assert numbers == [1, 2]


REFUSALS = [
    ("/v2/models/other/infer", {"inputs": [ROW]}, {}, 404, "model-not-found"),
    ("/v2/models/linear/versions/2/infer", {"inputs": [ROW]}, {}, 404, "model-not-found"),
    ("/v2/models//infer", {"inputs": [ROW]}, {}, 404, "route-not-found"),
    (INFER, {"inputs": []}, {}, 400, "invalid-request"),
    (INFER, {"inputs": [ROW, ROW]}, {}, 400, "invalid-request"),
    (INFER, {"inputs": [{**ROW, "shape": [-1, 4]}]}, {}, 400, "invalid-request"),
    (INFER, {"inputs": [{**ROW, "datatype": "INT32"}]}, {}, 400, "invalid-request"),
    (INFER, {"inputs": [ROW], "outputs": [{"name": "z"}]}, {}, 400, "invalid-request"),
    (INFER, {"inputs": [ROW], "surprise": 1}, {}, 400, "invalid-request"),
    (INFER, b"{", {}, 400, "malformed-json"),
    (
        INFER,
        {"inputs": [ROW], "parameters": {"assurance": "sigend"}},
        {},
        400,
        "assurance-unknown",
    ),
    (
        INFER,
        {"inputs": [ROW]},
        {"verispect-assurance": "proven"},
        400,
        "assurance-unavailable",
    ),
    (INFER, {"inputs": [ROW]}, {"verispect-lane": "fast"}, 400, "invalid-request"),
    (INFER, {"inputs": [ROW]}, {"verispect-nonce": "!"}, 400, "invalid-request"),
    ("/v2/repository/index", None, {}, 404, "route-not-found"),
    ("/v2/models/", None, {}, 404, "route-not-found"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "code"), REFUSALS)
async def test_refusals_have_status_and_code(state, path, body, headers, status, code):
    """What cannot be honoured is refused with a status and a code, and leaves no receipt."""
    with pytest.raises(Error) as refused:
        await ask(state, path, body, headers=headers)
    assert (status_of(refused.value), refused.value.reason.value) == (status, code)
    assert state.recorder.store.check().receipts == 0


@pytest.mark.parametrize(
    ("path", "method"), [(INFER, "GET"), ("/v2/models/linear", "POST"), ("/v2", "POST")]
)
async def test_wrong_methods_are_refused(state, path, method):
    """Each route answers its own method only."""
    with pytest.raises(Error) as refused:
        await ask(state, path, b"{}", method=method)
    assert status_of(refused.value) == 405


async def test_lane_asked_for_is_in_the_receipt(state):
    """The lane of the header is the lane that the receipt states."""
    for word in ("deterministic", "throughput"):
        response = await ask(state, INFER, {"inputs": [ROW]}, headers={"verispect-lane": word})
        raw = from_base64url(json.loads(response.body)["parameters"]["verispect_receipt"])
        assert InferenceReceipt.parse(raw).unverified_statement.model.lane.label == word


async def test_answer_that_json_cannot_carry_is_an_error_without_receipt(state):
    """Minus infinity in JSON is refused before a receipt exists; binary carries it."""
    request = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}
    path = "/v2/models/house/log/infer"
    with pytest.raises(EngineError, match="binary"):
        await ask(state, path, request)
    assert state.recorder.store.check().receipts == 0
    response = await ask(state, path, {**request, "parameters": {"binary_data_output": True}})
    assert response.body.endswith(struct.pack("<f", float("-inf")))


async def test_metadata_describes_server_and_model(state):
    """Metadata has the protocol's members, and the model's identity in a header."""
    server = json.loads((await ask(state, "/v2")).body)
    assert server["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/models/linear", "/v2/models/linear/versions/1"):
        response = await ask(state, path)
        model = json.loads(response.body)
        assert model["versions"] == ["1"]
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
        assert dict(response.headers)["verispect-model-id"] == sha256(b"linear").hex()


async def test_health_and_readiness(state):
    """Live and ready answer 200; readiness of an unknown model is 404."""
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/house/log/ready"):
        assert (await ask(state, path)).status == 200
    with pytest.raises(ModelError):
        await ask(state, "/v2/models/other/ready")
