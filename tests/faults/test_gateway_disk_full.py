"""A gateway whose disk is full: no answer without a receipt, and no harm once there is room."""

from __future__ import annotations

import resource

import httpx
import pytest
from onnx import TensorProto, helper

from verispect.core.encoding import from_base64url
from verispect.ledger import ReceiptStore
from verispect.testing.served import ServedGateway

pytestmark = pytest.mark.slow

ROOM = 3 * 1024 * 1024


def identity_model(path):
    """Write y = x over any number of values."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def infer(url, count):
    tensor = {"name": "x", "datatype": "FP32", "shape": [count], "data": [0.5] * count}
    return httpx.post(f"{url}/v2/models/identity/infer", json={"inputs": [tensor]}, timeout=60)


def limit_files(process_id, size):
    """Let no file of the process grow beyond `size`: to a writer that is a full disk."""
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_no_answer_leaves_when_its_receipt_cannot_be_written(tmp_path):
    """With a full disk the caller gets an error and no output; with room again, answers."""
    gateway = ServedGateway(tmp_path)
    identity_model(tmp_path / "identity.onnx")
    gateway.run("models", "add", "--name", "identity", "--file", str(tmp_path / "identity.onnx"))
    with gateway:
        answered = [infer(gateway.url, 4)]
        limit_files(gateway.process_id, ROOM)
        refused = None
        for _ in range(200):
            answer = infer(gateway.url, 5000)
            if answer.status_code != 200:
                refused = answer
                break
            answered.append(answer)
        assert refused is not None
        assert refused.status_code == 503
        assert "outputs" not in refused.json()
        assert refused.json()["code"] == "store-failed"
        assert "verispect-receipt-id" not in refused.headers
        limit_files(gateway.process_id, resource.RLIM_INFINITY)
        answered.append(infer(gateway.url, 4))
        assert answered[0].status_code == answered[-1].status_code == 200
        for answer in answered:
            receipt = from_base64url(answer.json()["parameters"]["verispect_receipt"])
            assert gateway.receipt(answer.headers["verispect-receipt-id"]) == receipt
    report = ReceiptStore.check_directory(tmp_path / "state" / "receipts")
    assert not report.problems
    assert report.receipts == len(answered)
