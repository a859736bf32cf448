"""Small ONNX graphs for tests, built from nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import TensorProto, helper


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Any]],
    outputs: Sequence[tuple[str, int, Any]],
    initializers: Sequence[Any] = (),
    domains: Sequence[tuple[str, int]] = (),
) -> bytes:
    """Return the bytes of a model; each input and output is (name, element type, shape)."""
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "graph",
            [value(*item) for item in inputs],
            [value(*item) for item in outputs],
            list(initializers),
        ),
        opset_imports=[helper.make_opsetid(*item) for item in (("", 17), *domains)],
        ir_version=9,
    ).SerializeToString()


def linear() -> bytes:
    """Return y = relu(x @ w) with x of shape [n, 4], w = 0..11 of shape [4, 3]."""
    return graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], list(range(12)))],
    )


def identity(element: int, shape: Any = ("n",)) -> bytes:
    """Return y = x for one element type."""
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", element, list(shape))],
        [("y", element, list(shape))],
    )


def external(location: str) -> bytes:
    """Return y = x + w with three floats of w in the file that `location` names."""
    weights = TensorProto(
        name="w",
        data_type=TensorProto.FLOAT,
        dims=[3],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        weights.external_data.add(key=key, value=value)
    return graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [3])],
        [weights],
    )
