"""scikit-learn's linear models, as the operators that they are made of.

`LinearRegressor` is a matrix and a bias; `LinearClassifier` has a softmax behind it, or a logistic
function of one score, which is the softmax of half the score and its opposite. Other
transformations are refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from verispect.proof.importer.draft import unsupported
from verispect.proof.importer.onnx_file import Arrays, OnnxModel, OnnxNode

_DOMAIN = "ai.onnx.ml"


def expand_linear_models(model: OnnxModel) -> OnnxModel:
    """Return `model` with its linear models written out.

    Raises:
        ModelError: `unsupported-model`, for a transformation that has no such form.
    """
    nodes: list[OnnxNode] = []
    constants = dict(model.constants)
    probabilities: set[str] = set()
    for node in model.nodes:
        if node.domain == _DOMAIN and node.kind == "LinearRegressor":
            nodes.append(_matrix(node, node.outputs[0], 1.0, constants))
            _require_no_transformation(node)
        elif node.domain == _DOMAIN and node.kind == "LinearClassifier":
            scores = node.outputs[1]
            nodes.extend(_classifier(node, scores, constants))
            if nodes[-1].kind == "Softmax":
                probabilities.add(scores)
        elif node.kind == "Normalizer" and _keeps(node, probabilities):
            nodes.append(OnnxNode("Identity", "", node.inputs, node.outputs, {}))
        else:
            nodes.append(node)
    return replace(model, nodes=tuple(nodes), constants=constants)


def _keeps(node: OnnxNode, probabilities: set[str]) -> bool:
    """Tell whether a normalisation leaves its input as it is: probabilities add up to one."""
    return node.inputs[0] in probabilities and node.attributes.get("norm", b"MAX") == b"L1"


def _require_no_transformation(node: OnnxNode) -> None:
    if node.attributes.get("post_transform", b"NONE") != b"NONE":
        raise unsupported(f"a transformation after {node.kind}")


def _matrix(node: OnnxNode, output: str, factor: float, constants: Arrays) -> OnnxNode:
    rows = len(node.attributes.get("intercepts") or [0.0] * node.attributes.get("targets", 1))
    weight = np.array(node.attributes["coefficients"], np.float64).reshape(rows, -1)
    bias = np.array(node.attributes.get("intercepts") or [0.0] * rows, np.float64)
    names = f"{output}/weight", f"{output}/bias"
    constants[names[0]], constants[names[1]] = factor * weight, factor * bias
    return OnnxNode("Gemm", "", (node.inputs[0], *names), (output,), {"transB": 1})


def _classifier(node: OnnxNode, scores: str, constants: Arrays) -> list[OnnxNode]:
    post = node.attributes.get("post_transform", b"NONE")
    if post == b"NONE":
        return [_matrix(node, scores, 1.0, constants)]
    linear = f"{scores}/linear"
    if post == b"SOFTMAX":
        first = _matrix(node, linear, 1.0, constants)
    elif post == b"LOGISTIC":
        first = _matrix(node, linear, 0.5, constants)
        parts = constants[f"{linear}/weight"], constants[f"{linear}/bias"]
        if any(len(part) != 2 or bool(np.any(part[0] != -part[1])) for part in parts):
            raise unsupported("a logistic function of several scores: choose the scores as output")
    else:
        raise unsupported(f"the transformation {post.decode('ascii', 'replace')} of scores")
    return [first, OnnxNode("Softmax", "", (linear,), (scores,), {"axis": 1})]
