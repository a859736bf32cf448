"""Tree ensembles become integer models that compare exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from verispect.core.errors import ModelError, Reason
from verispect.proof.arithmetic import read_input, write_output
from verispect.proof.graph import Epilogue
from verispect.proof.importer import import_onnx
from verispect.proof.runtime import Runtime


def _onnx(trained: Any, rows: np.ndarray) -> bytes:
    options = {id(trained): {"zipmap": False}} if hasattr(trained, "predict_proba") else None
    proto = to_onnx(trained, rows[:1], options=options, target_opset=17)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("make", "parity", "epilogue"),
    [
        (lambda: GradientBoostingClassifier(n_estimators=8, random_state=0), 1, Epilogue.SOFTMAX),
        (lambda: GradientBoostingClassifier(n_estimators=2, random_state=0), 0, Epilogue.SOFTMAX),
        (lambda: GradientBoostingRegressor(n_estimators=9, random_state=0), 0, Epilogue.NONE),
        (lambda: RandomForestClassifier(n_estimators=5, random_state=0), 0, Epilogue.NONE),
        (lambda: RandomForestClassifier(n_estimators=5, random_state=0), 1, Epilogue.NONE),
        (lambda: ExtraTreesRegressor(n_estimators=3, max_depth=5), 0, Epilogue.NONE),
        (lambda: DecisionTreeClassifier(max_depth=1), 1, Epilogue.NONE),
    ],
)
def test_an_ensemble_answers_as_before(make: Any, parity: int, epilogue: Epilogue) -> None:
    """Every comparison is exact; only the sum of the leaves is rounded, far below a binary32."""
    rows, labels = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    trained = make().fit(rows[:300], labels[:300] % 2 if parity else labels[:300])
    model = import_onnx(_onnx(trained, rows), calibration=rows[:10], evaluation=rows[1000:])
    report = model.report
    assert model.graph.output.epilogue is epilogue
    assert report.agreement == 1.0
    assert report.largest_error <= 1e-6 * max(report.output_size, 1.0)


def _stump(mode: str, threshold: float) -> bytes:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_values=[threshold, 0.0, 0.0],
        nodes_modes=[mode, "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[3.0, -5.0],
        base_values=[0.5],
    )
    graph = helper.make_graph(
        [node],
        "stump",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"])
@pytest.mark.parametrize("threshold", [0.1, 0.0, -7.25, 1e-30])
def test_a_comparison_is_exact_at_its_threshold(mode: str, threshold: float) -> None:
    """The threshold itself and its two neighbours fall on the side where ONNX puts them."""
    at = np.float32(threshold)
    low, high = np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.float32(np.inf))
    rows = np.array([[0, low], [0, at], [0, high], [0, -1e30], [0, 1e30]], np.float32)
    model = import_onnx(_stump(mode, threshold), calibration=rows)
    assert model.report.largest_error == 0.0
    read = read_input(model.graph.input, rows)
    answers = write_output(
        model.graph.output, Runtime(model.graph, model.weights).run(read.integers).output
    )
    assert sorted(set(answers.reshape(-1).tolist())) == [-4.5, 3.5]


@pytest.mark.parametrize(("mode", "threshold"), [("BRANCH_EQ", 0.5), ("BRANCH_LEQ", math.inf)])
def test_what_steps_cannot_say_is_refused(mode: str, threshold: float) -> None:
    """Equality and thresholds that are not finite."""
    with pytest.raises(ModelError) as caught:
        import_onnx(_stump(mode, threshold), calibration=np.zeros((1, 2), np.float32))
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
