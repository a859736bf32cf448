"""ONNX models become integer models that answer as the float models do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from verispect.core.errors import Error, ModelError, Reason, RequestError
from verispect.proof.arithmetic import read_input, write_output
from verispect.proof.bounds import compute_bounds
from verispect.proof.graph import Affine, Epilogue, Graph, Maximum, Multiply, Scale
from verispect.proof.importer import LARGE, SMALL, ImportedModel, Precision, import_onnx
from verispect.proof.runtime import Runtime


def _draw(*shape: int) -> np.ndarray:
    fan_in = int(np.prod(shape[1:])) or 1
    return (np.random.default_rng(sum(shape)).normal(size=shape) / np.sqrt(fan_in)).astype(
        np.float32
    )


def onnx_model(
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    shape: tuple[int | str, ...],
    *,
    batch: int | str = "n",
    opset: int = 17,
    answer: int = TensorProto.FLOAT,
) -> bytes:
    """Build a model from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("y", answer, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def _imported(
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    shape: tuple[int, ...],
    *,
    precision: Precision | None = None,
    within: float = 0.01,
    **options: Any,
) -> ImportedModel:
    """Import and require the answers to be near the float model's."""
    samples = np.random.default_rng(7).normal(size=(24, *shape)).astype(np.float32)
    data = onnx_model(nodes, constants, shape, **options)
    model = import_onnx(
        data, calibration=samples[:16], evaluation=samples[16:], precision=precision
    )
    compute_bounds(model.graph, model.weights)
    assert Graph.decode(model.graph.encode()) == model.graph
    report = model.report
    assert report.mean_error <= within * report.output_size, report
    return model


_CONV = {"w": _draw(6, 3, 3, 3), "b": _draw(6)}


def _conv(output: str = "c", **attributes: Any) -> Any:
    return _node("Conv", "x w b", output, pads=[1, 1, 1, 1], **attributes)


@pytest.mark.parametrize("precision", [SMALL, LARGE])
def test_a_small_network_answers_as_before(precision: Precision) -> None:
    """Convolution, pools, a residual and a layer at the end, in both precisions."""
    nodes = [
        _conv(),
        _node("Relu", "c", "r"),
        _node("MaxPool", "r", "p", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
        _node("Conv", "p w2", "d", pads=[1, 1, 1, 1], group=6),
        _node("Add", "d p", "e"),
        _node("Relu", "e", "f"),
        _node("GlobalAveragePool", "f", "g"),
        _node("Flatten", "g", "h"),
        _node("Gemm", "h w3 b3", "y", transB=1),
    ]
    constants = _CONV | {"w2": _draw(6, 1, 3, 3), "w3": _draw(5, 6), "b3": _draw(5)}
    model = _imported(nodes, constants, (3, 8, 10), precision=precision)
    kinds = [type(node) for node in model.graph.nodes]
    assert kinds == [Affine, Maximum, Maximum, Affine, Affine, Affine]
    assert model.graph.range_bits == precision.range_bits


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Relu", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("HardSwish", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {}),
        ("Selu", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("Abs", {}),
        ("Neg", {}),
        ("Erf", {}),
        ("Exp", {}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("Mish", {}),
    ],
)
def test_unary_operators_become_a_table(kind: str, attributes: dict[str, float]) -> None:
    """An activation takes no node of its own."""
    nodes = [_conv(), _node(kind, "c", "r", **attributes), _node("Conv", "r w2", "y")]
    opset = 18 if kind == "Mish" else 17
    model = _imported(nodes, _CONV | {"w2": _draw(4, 6, 1, 1)}, (3, 6, 6), opset=opset)
    assert len(model.graph.nodes) == 2


def test_gelu_is_recognised_however_it_is_spelled() -> None:
    """x * (erf(x / sqrt 2) + 1) / 2 is one table, as the operator is."""
    spelled = [
        _node("Gemm", "x w b", "a", transB=1),
        _node("Div", "a root", "d"),
        _node("Erf", "d", "e"),
        _node("Add", "e one", "f"),
        _node("Mul", "a f", "g"),
        _node("Mul", "g half", "h"),
        _node("Gemm", "h v b2", "y", transB=1),
    ]
    constants = {
        "w": _draw(12, 9),
        "b": _draw(12),
        "v": _draw(4, 12),
        "b2": _draw(4),
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    assert len(_imported(spelled, constants, (9,)).graph.nodes) == 2
    named = [
        spelled[0],
        _node("Gelu", "a", "h"),
        _node("Gemm", "h v b2", "y", transB=1),
    ]
    used = {name: constants[name] for name in ("w", "b", "v", "b2")}
    assert len(_imported(named, used, (9,), opset=20).graph.nodes) == 2


def test_a_hard_swish_is_recognised_however_it_is_spelled() -> None:
    """x * clip(x + 3, 0, 6) / 6, as exporters write it."""
    nodes = [
        _conv(),
        _node("Add", "c three", "d"),
        _node("Clip", "d zero six", "e"),
        _node("Mul", "c e", "f"),
        _node("Div", "f six", "g"),
        _node("Conv", "g w2", "y"),
    ]
    numbers = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}
    model = _imported(nodes, _CONV | numbers | {"w2": _draw(4, 6, 1, 1)}, (3, 6, 6))
    assert len(model.graph.nodes) == 2


def test_squeeze_and_excitation_is_a_product() -> None:
    """A gate per channel multiplies every place."""
    nodes = [
        _conv(),
        _node("Relu", "c", "r"),
        _node("GlobalAveragePool", "r", "p"),
        _node("Conv", "p w2", "q"),
        _node("HardSigmoid", "q", "s"),
        _node("Mul", "r s", "m"),
        _node("Conv", "m w3", "y"),
    ]
    constants = _CONV | {"w2": _draw(6, 6, 1, 1), "w3": _draw(4, 6, 1, 1)}
    for precision in (SMALL, LARGE):
        model = _imported(nodes, constants, (3, 6, 6), precision=precision, within=0.02)
        assert any(isinstance(node, Multiply) for node in model.graph.nodes)


def test_batch_normalisation_is_folded() -> None:
    """Into the convolution before it, or into a node of its own."""
    statistics = {"g": np.abs(_draw(6)) + 0.5, "s": _draw(6), "m": _draw(6), "v": np.ones(6)}
    constants = _CONV | {k: v.astype(np.float32) for k, v in statistics.items()}
    before = [
        _conv(),
        _node("BatchNormalization", "c g s m v", "n"),
        _node("Relu", "n", "r"),
        _node("Conv", "r w2", "y"),
    ]
    constants["w2"] = _draw(4, 6, 1, 1)
    assert len(_imported(before, constants, (3, 6, 6)).graph.nodes) == 2
    after = [
        _conv(),
        _node("Sigmoid", "c", "r"),
        _node("BatchNormalization", "r g s m v", "n"),
        _node("Conv", "n w3", "y", pads=[1, 1, 1, 1]),
    ]
    constants["w3"] = _draw(4, 6, 3, 3)
    del constants["w2"]
    assert len(_imported(after, constants, (3, 6, 6)).graph.nodes) == 3


def test_an_average_and_a_concatenation() -> None:
    """Average pool, two branches behind one another, padding of its own."""
    nodes = [
        _conv(),
        _node("Relu", "c", "r"),
        _node("AveragePool", "r", "a", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Conv", "a w2", "d"),
        _node("Tanh", "d", "t"),
        _node("Concat", "a t", "k", axis=1),
        _node("Pad", "k pads", "p"),
        _node("Conv", "p w3", "y"),
    ]
    constants = _CONV | {
        "w2": _draw(4, 6, 1, 1),
        "w3": _draw(4, 10, 3, 3),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    }
    _imported(nodes, constants, (3, 6, 6))


def test_one_axis_and_groups_that_are_no_powers_of_two() -> None:
    """Convolutions along time; groups of three channels are spread over one group."""
    nodes = [
        _node("Conv", "x w b", "c", strides=[2], dilations=[2], pads=[2, 2], group=2),
        _node("Relu", "c", "r"),
        _node("ReduceMean", "r", "m", axes=[2], keepdims=0),
        _node("MatMul", "m v", "d"),
        _node("Sub", "d s", "y"),
    ]
    constants = {"w": _draw(6, 3, 3), "b": _draw(6), "v": _draw(4, 6).T.copy(), "s": _draw(4)}
    model = _imported(nodes, constants, (6, 20))
    assert model.graph.weights[0] == (1, 6, 6, 3)


def test_two_convolutions_and_a_factor_end_in_one_sum() -> None:
    """Sums that nothing else needs are not written on their own."""
    nodes = [
        _conv("c"),
        _node("Conv", "x w2", "d"),
        _node("Mul", "d half", "e"),
        _node("Add", "c e", "f"),
        _node("Relu", "f", "r"),
        _node("Conv", "r w3", "y"),
    ]
    constants = _CONV | {"w2": _draw(6, 3, 1, 1), "half": np.float32(0.5), "w3": _draw(2, 6, 1, 1)}
    assert len(_imported(nodes, constants, (3, 6, 6)).graph.nodes) == 2


def test_what_two_nodes_need_is_computed_once() -> None:
    """A sum with two users is written, and added to by a multiple of it."""
    nodes = [
        _conv("c"),
        _node("Conv", "c w2", "d"),
        _node("Add", "c d", "y"),
    ]
    model = _imported(nodes, _CONV | {"w2": _draw(6, 6, 1, 1)}, (3, 6, 6))
    assert len(model.graph.nodes) == 2
    assert any(isinstance(term, Scale) for term in model.graph.nodes[-1].terms)


def test_channels_last_at_the_input_is_an_order() -> None:
    """A transposition before the first convolution is part of how the input is read."""
    nodes = [
        _node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        _node("Conv", "t w b", "c", pads=[1, 1, 1, 1]),
        _node("Relu", "c", "r"),
        _node("Transpose", "r", "u", perm=[0, 2, 3, 1]),
        _node("Reshape", "u flat", "f"),
        _node("MatMul", "f v", "y"),
    ]
    constants = _CONV | {"flat": np.array([1, -1], np.int64), "v": _draw(5, 5 * 4 * 6).T.copy()}
    model = _imported(nodes, constants, (5, 4, 3), batch=1)
    assert model.graph.input.order == (2, 0, 1)
    assert model.graph.input.shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("kind", "epilogue"), [("Softmax", Epilogue.SOFTMAX), ("ArgMax", Epilogue.ARGMAX)]
)
def test_the_last_step_is_left_to_the_verifier(kind: str, epilogue: Epilogue) -> None:
    """Softmax and argmax at the end are recomputed from the proven integers."""
    nodes = [_node("Gemm", "x w b", "c", transB=1), _node(kind, "c", "y", axis=1)]
    answer = TensorProto.INT64 if kind == "ArgMax" else TensorProto.FLOAT
    data = onnx_model(nodes, {"w": _draw(5, 8), "b": _draw(5)}, (8,), answer=answer)
    samples = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    model = import_onnx(data, calibration=samples)
    assert model.graph.output.epilogue is epilogue
    assert model.report.agreement >= 0.97


def test_an_input_of_bytes_is_read_exactly() -> None:
    """Samples on the grid of 1/255 make it the input's scale."""
    rng = np.random.default_rng(2)
    samples = (rng.integers(0, 256, (8, 6)) / 255).astype(np.float32)
    nodes = [_node("Gemm", "x w b", "y", transB=1)]
    model = import_onnx(
        onnx_model(nodes, {"w": _draw(3, 6), "b": _draw(3)}, (6,)), calibration=samples
    )
    source = model.graph.input
    assert float(source.scale) == 1 / 255
    assert (source.minimum, source.maximum) == (0, 255)


def test_what_no_sample_showed_is_clipped_not_refused() -> None:
    """Inputs far outside the samples give saturated answers."""
    nodes = [
        _node("Gemm", "x w b", "c", transB=1),
        _node("Relu", "c", "r"),
        _node("Gemm", "r v b2", "y", transB=1),
    ]
    constants = {"w": _draw(8, 6), "b": _draw(8), "v": _draw(3, 8), "b2": _draw(3)}
    samples = np.random.default_rng(3).normal(size=(8, 6)).astype(np.float32)
    data = onnx_model(nodes, constants, (6,))
    model = import_onnx(data, calibration=samples, evaluation=samples * 1000)
    assert model.report.clipped > 0


@pytest.mark.parametrize("classes", [2, 10])
def test_linear_models_of_scikit_learn(classes: int) -> None:
    """A logistic regression is one layer, with or without a scaler before it."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_digits(return_X_y=True)
    rows, labels = rows.astype(np.float32), labels % classes
    trained = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:900], labels[:900])
    proto = to_onnx(trained, rows[:1], options={"zipmap": False}, target_opset=17)
    model = import_onnx(proto.SerializeToString(), calibration=rows[:100], evaluation=rows[900:])
    assert len(model.graph.nodes) == 1
    assert model.graph.output.epilogue is Epilogue.SOFTMAX
    assert model.report.agreement >= 0.995
    assert model.report.largest_error <= 0.005


def test_a_trained_network_is_as_good_on_integers() -> None:
    """On digits that it was not trained on, within a point of the float model."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    rows, labels = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    trained = MLPClassifier((64,), max_iter=40, random_state=0)
    with pytest.warns(ConvergenceWarning):
        trained.fit(rows[:1200], labels[:1200])
    proto = to_onnx(trained, rows[:1], options={id(trained): {"zipmap": False}}, target_opset=17)
    model = import_onnx(proto.SerializeToString(), calibration=rows[:100], evaluation=rows[1200:])
    runtime = Runtime(model.graph, model.weights)
    read = read_input(model.graph.input, rows[1200:])
    found = write_output(model.graph.output, runtime.run(read.integers).output).argmax(axis=1)
    right = float(np.mean(found == labels[1200:]))
    assert right >= trained.score(rows[1200:], labels[1200:]) - 0.01
    assert model.report.agreement >= 0.99


# -- Quantised models ---------------------------------------------------------------------------


def _quantised(per_channel: bool, unsigned: bool, samples: np.ndarray) -> bytes:
    quantization = pytest.importorskip("onnxruntime.quantization")
    import tempfile
    from pathlib import Path

    nodes = [
        _conv(),
        _node("Relu", "c", "r"),
        _node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Conv", "p w2 b2", "d", pads=[1, 1, 1, 1]),
        _node("Add", "d p", "e"),
        _node("Relu", "e", "f"),
        _node("Flatten", "f", "h"),
        _node("Gemm", "h w3 b3", "y", transB=1),
    ]
    constants = _CONV | {
        "w2": _draw(6, 6, 3, 3),
        "b2": _draw(6),
        "w3": _draw(5, 54),
        "b3": _draw(5),
    }
    data = onnx_model(nodes, constants, (3, 6, 6))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.left = [{"x": sample[None]} for sample in samples]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(data)
        types = quantization.QuantType
        quantization.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=types.QUInt8 if unsigned else types.QInt8,
            weight_type=types.QInt8,
        )
        return target.read_bytes()


@pytest.mark.parametrize(("per_channel", "unsigned"), [(False, True), (True, False)])
def test_quantised_models_are_taken_as_they_are(per_channel: bool, unsigned: bool) -> None:
    """The grids of a QDQ model are those of the integer model; its answers are those of ONNX."""
    samples = np.random.default_rng(4).normal(size=(24, 3, 6, 6)).astype(np.float32)
    data = _quantised(per_channel, unsigned, samples[:12])
    model = import_onnx(data, calibration=samples[:12], evaluation=samples[12:])
    report = model.report
    assert report.mean_error <= 0.02 * report.output_size, report
    assert report.agreement >= 0.9


# -- Refusals -----------------------------------------------------------------------------------


def _refusal(nodes: list[Any], constants: dict[str, np.ndarray], shape: Any, **options: Any) -> str:
    data = onnx_model(nodes, constants, shape)
    sizes = [size if isinstance(size, int) else 6 for size in shape]
    with pytest.raises(ModelError) as caught:
        import_onnx(data, calibration=np.ones((2, *sizes), np.float32), **options)
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
    return caught.value.message


@pytest.mark.parametrize(
    ("node", "constants", "shape"),
    [
        (_node("LayerNormalization", "x s", "y"), {"s": np.ones(6, np.float32)}, (6,)),
        (_node("Conv", "x x", "y"), {}, (3, 6, 6)),
        (_node("Mul", "x f", "y"), {"f": _draw(1, 3, 6, 6)}, (3, 6, 6)),
        (_node("Softmax", "x", "y", axis=2), {}, (3, 6)),
        (_node("ReduceMean", "x", "y", axes=[1]), {}, (3, 6, 6)),
        (
            _node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            {},
            (3, 6, 6),
        ),
        (_node("TopK", "x k", "y"), {"k": np.array([1], np.int64)}, (6,)),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    node: Any, constants: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    """The operator is named."""
    if node.op_type == "TopK":
        node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    assert node.op_type in _refusal([node], constants, shape)


def test_a_dynamic_shape_asks_for_one() -> None:
    """The message says what to give; given, the model is imported."""
    nodes = [_conv(), _node("GlobalAveragePool", "c", "g"), _node("Flatten", "g", "y")]
    assert "input_shape" in _refusal(nodes, _CONV, (3, "h", "w"))
    data = onnx_model(nodes, _CONV, (3, "h", "w"))
    samples = np.random.default_rng(5).normal(size=(4, 3, 6, 7)).astype(np.float32)
    model = import_onnx(data, calibration=samples, input_shape=(3, 6, 7))
    assert model.graph.input.shape == (3, 6, 7)


def test_a_weight_that_is_no_number_is_malformed() -> None:
    """NaN in a constant is not a model."""
    weight = _draw(3, 6)
    weight[1, 2] = np.nan
    data = onnx_model([_node("Gemm", "x w", "y", transB=1)], {"w": weight}, (6,))
    with pytest.raises(ModelError) as caught:
        import_onnx(data, calibration=np.ones((1, 6), np.float32))
    assert caught.value.reason is Reason.MALFORMED_MODEL


@pytest.mark.parametrize("data", [b"", b"not a model", bytes(range(256)) * 4])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    """Only our errors come out."""
    with pytest.raises(ModelError):
        import_onnx(data, calibration=np.ones((1, 6), np.float32))


@pytest.mark.parametrize(
    "samples",
    [
        np.ones((0, 6), np.float32),
        np.ones((2, 5), np.float32),
        np.full((1, 6), np.nan, np.float32),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples: np.ndarray) -> None:
    """None, of another shape, or not finite."""
    data = onnx_model([_node("Gemm", "x w", "y", transB=1)], {"w": _draw(3, 6)}, (6,))
    with pytest.raises(RequestError):
        import_onnx(data, calibration=samples)


def test_damaged_models_give_our_errors_only() -> None:
    """Whatever is damaged in a file, it is refused with one of our errors or still a model."""
    nodes = [
        _conv(),
        _node("Relu", "c", "r"),
        _node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Flatten", "p", "f"),
        _node("Gemm", "f v", "y", transB=1),
    ]
    data = onnx_model(nodes, {"w": _draw(2, 1, 3, 3), "b": _draw(2), "v": _draw(3, 8)}, (1, 4, 4))
    samples = np.random.default_rng(6).normal(size=(2, 1, 4, 4)).astype(np.float32)
    rng = np.random.default_rng(8)
    for _ in range(250):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            model = import_onnx(bytes(damaged), calibration=samples)
        except Error:
            continue
        assert Graph.decode(model.graph.encode()) == model.graph
