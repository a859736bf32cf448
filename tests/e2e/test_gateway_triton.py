"""Triton's own HTTP client against `verispect serve` with real tensor models.

One model comes out of a package (Magika), one is trained by scikit-learn on the spot. Answers in
binary are verified through their openings: the very bytes that the client decoded.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.verifier import Expected, Verifier
from verispect.client.session import now_milliseconds
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import VerificationError
from verispect.core.receipt import InferenceReceipt
from verispect.testing.served import ServedGateway

if importlib.util.find_spec("geventhttpclient") is None:
    pytest.skip("tritonclient is installed without its http extra", allow_module_level=True)

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.slow

DIGITS = "digits"


def train_digits(path):
    """Train a classifier of handwritten digits, and return some pictures with its answers."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = LogisticRegression(max_iter=50).fit(pixels, digits.target)
        model = convert_sklearn(
            classifier,
            initial_types=[("input", FloatTensorType([None, 64]))],
            options={id(classifier): {"zipmap": False}},
            target_opset={"": 18, "ai.onnx.ml": 3},
        )
    path.write_bytes(model.SerializeToString())
    return pixels[:3], classifier.predict(pixels[:3])


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple]:
    folder = tmp_path_factory.mktemp("gateway")
    pictures, answers = train_digits(folder / "digits.onnx")
    gateway = ServedGateway(folder)
    gateway.run("models", "add", "--name", DIGITS, "--file", str(folder / "digits.onnx"))
    gateway.run("models", "add", "--name", "magika", "--catalogue", "magika")
    with gateway:
        client = triton.InferenceServerClient(gateway.url.removeprefix("http://"))
        yield gateway, gateway.trusted_root(), client, pictures, answers
        client.close()


def tensor(name, array, datatype, *, binary):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def verify(gateway, root, answer, nonce, *, opened=None, parts=None):
    """Verify the receipt of an answer against the tensors that the client was shown."""
    parameters = answer.get_response()["parameters"]
    receipt = from_base64url(parameters["verispect_receipt"])
    inference = parameters["verispect_inference"]
    assert gateway.receipt(parameters["verispect_receipt_id"]) == receipt
    assert gateway.receipt(inference) == receipt
    return Verifier(root).verify(
        InferenceReceipt.parse(receipt),
        opened=opened or {},
        policy=SIGNED,
        now=now_milliseconds(),
        expected=Expected(nonce=nonce, parts=parts or {}),
    )


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_scikit_learn_model(served, binary):
    """The client reads what scikit-learn says, and the receipt names that model and this nonce."""
    gateway, root, client, pictures, answers = served
    nonce = os.urandom(16)
    result = client.infer(
        DIGITS,
        [tensor("input", pictures, "FP32", binary=binary)],
        outputs=[
            triton.InferRequestedOutput(name, binary_data=binary)
            for name in ("label", "probabilities")
        ],
        headers={"Verispect-Nonce": to_base64url(nonce)},
    )
    assert (result.as_numpy("label") == answers).all()
    assert np.allclose(result.as_numpy("probabilities").sum(axis=1), 1, atol=1e-5)
    verified = verify(gateway, root, result, nonce)
    assert verified.statement.usage["input_bytes"] == pictures.nbytes
    with pytest.raises(VerificationError):
        verify(gateway, root, result, os.urandom(16))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_openings_hold_the_tensors_that_the_client_read(served, binary, monkeypatch):
    """Input and output as the client had them, byte for byte, are what was committed to."""
    gateway, root, client, pictures, _ = served
    heads = []
    post = client._post

    def keep_head(*arguments, **named):
        response = post(*arguments, **named)
        heads.append(dict(response.headers))
        return response

    # The client shows its caller no headers, and the opening key is in one.
    monkeypatch.setattr(client, "_post", keep_head)
    result = client.infer(
        DIGITS,
        [tensor("input", pictures, "FP32", binary=binary)],
        outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary)],
    )
    (head,) = heads
    openings = decode_openings(
        gateway.openings(head["verispect-inference"], head["verispect-opening-key"])
    )
    shown = result.as_numpy("probabilities")
    sent = [["input", "FP32", list(pictures.shape), pictures.tobytes()]]
    read = [["probabilities", "FP32", list(shown.shape), shown.tobytes()]]
    parts = {Part.EFFECTIVE_INPUT: sent, Part.OUTPUT: read}
    verify(gateway, root, result, None, opened=openings, parts=parts)
    read[0][3] = bytes(len(read[0][3]))
    with pytest.raises(VerificationError):
        verify(gateway, root, result, None, opened=openings, parts=parts)


def test_magika(served):
    """A real model from a package: Python source is recognised, and the receipt verifies."""
    gateway, root, client, _, _ = served
    text = list(b"import os\n\ndef main():\n    print(os.getcwd())\n" * 60)[:1024]
    features = np.array([text + text], np.int32)
    result = client.infer("magika", [tensor("bytes", features, "INT32", binary=True)])
    name = result.get_response()["outputs"][0]["name"]
    scores = result.as_numpy(name)
    assert scores.shape[0] == 1
    assert scores.max() > 0.5
    verified = verify(gateway, root, result, None)
    assert verified.statement.requested_model == "magika"


def test_refusals(served):
    """Unknown models and wrong shapes are the client's own exception, with our words."""
    _, _, client, pictures, _ = served
    with pytest.raises(InferenceServerException) as unknown:
        client.infer("other", [tensor("input", pictures, "FP32", binary=True)])
    assert unknown.value.status() == "404"
    with pytest.raises(InferenceServerException, match="dimension 1"):
        client.infer(DIGITS, [tensor("input", pictures[:, :8].copy(), "FP32", binary=True)])
