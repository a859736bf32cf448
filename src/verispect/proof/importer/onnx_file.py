"""Reading an ONNX model and reducing it to what a draft is made from.

ONNX Runtime's basic rewriting folds constants, batch normalisations and biases once the shapes are
fixed; what is left is a list of nodes and constants. This module refuses models over its limits,
external data, shapes that stay dynamic, more than one input, and constants that are not finite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from verispect.core.errors import ModelError, Reason
from verispect.proof.importer.draft import unsupported

MAX_MODEL_BYTES: Final = 1 << 30

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operator."""

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model with fixed shapes and a batch of one.

    Args:
        data: the rewritten model's bytes.
        nodes: those that the chosen output needs, in order.
        constants: by name.
        input_name: the one input.
        input_shape: its shape, batch included.
        input_type: its NumPy type.
        output_name: the chosen output.
        shapes: of the tensors whose shape is known, batch included.
    """

    data: bytes
    nodes: tuple[OnnxNode, ...]
    constants: Arrays
    input_name: str
    input_shape: tuple[int, ...]
    input_type: np.dtype[Any]
    output_name: str
    shapes: Mapping[str, tuple[int, ...]]


def load_onnx(
    model: bytes | Path, *, input_shape: Sequence[int] | None, output: str | None
) -> OnnxModel:
    """Read `model`, fix its shapes and fold what is constant.

    Args:
        model: the file or its bytes.
        input_shape: the input's shape without the batch, where the model leaves it open.
        output: the output to prove; the first one of real numbers if not given.

    Raises:
        ModelError: `malformed-model` or `unsupported-model`.
    """
    data = model if isinstance(model, bytes) else model.read_bytes()
    if len(data) > MAX_MODEL_BYTES:
        raise ModelError("the model is too large", reason=Reason.TOO_LARGE)
    proto = _parse(data)
    source = _only_input(proto)
    _fix_shapes(proto, source, input_shape)
    chosen = _chosen_output(proto, output)
    rewritten = _rewrite(proto)
    graph = _with_shapes(_parse(rewritten)).graph
    constants = {tensor.name: _constant(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        parsed = _node(node)
        if parsed.kind == "Constant" and not parsed.domain:
            constants[parsed.outputs[0]] = _constant_value(parsed)
        else:
            nodes.append(parsed)
    dims = source.type.tensor_type.shape.dim
    return OnnxModel(
        rewritten,
        _needed(nodes, chosen),
        constants,
        source.name,
        tuple(dim.dim_value for dim in dims),
        np.dtype(onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)),
        chosen,
        _known_shapes(graph),
    )


def _with_shapes(proto: Any) -> Any:
    try:
        return onnx.shape_inference.infer_shapes(proto)
    except Exception as error:  # onnx's own errors have no common public base
        raise _malformed("the shapes of the model contradict each other") from error


def _known_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for each in (*graph.input, *graph.value_info, *graph.output):
        dims = each.type.tensor_type.shape.dim
        if each.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
            shapes[each.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _malformed(message: str) -> ModelError:
    return ModelError(message, reason=Reason.MALFORMED_MODEL)


def _parse(data: bytes) -> Any:
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own errors have no common public base
        raise _malformed("the file is not an ONNX model") from error
    if any(tensor.external_data for tensor in proto.graph.initializer):
        raise unsupported("the model keeps weights in other files: save it as one file")
    return proto


def _only_input(proto: Any) -> Any:
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    if len(inputs) != 1:
        raise unsupported(f"expected one input, got {len(inputs)}")
    if not inputs[0].type.HasField("tensor_type"):
        raise unsupported("the input is not a tensor")
    return inputs[0]


def _fix_shapes(proto: Any, source: Any, input_shape: Sequence[int] | None) -> None:
    dims = source.type.tensor_type.shape.dim
    if len(dims) < 2:
        raise unsupported("the input has no axis besides the batch")
    if input_shape is not None and len(input_shape) != len(dims) - 1:
        raise unsupported(f"expected an input shape of {len(dims) - 1} sizes")
    for axis, dim in enumerate(dims):
        size = 1 if axis == 0 else (input_shape[axis - 1] if input_shape is not None else None)
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        if axis == 0 and fixed not in (None, 1):
            raise unsupported("the model has a fixed batch: export it with a batch of one")
        if fixed is None and size is None:
            raise unsupported("the input's shape is dynamic: give input_shape")
        if fixed is not None and size not in (None, fixed):
            raise unsupported("the input shape given is not the model's")
        dim.Clear()
        dim.dim_value = fixed or size
    for each in proto.graph.output:
        # What was written down for a free shape may contradict a fixed one.
        each.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]


def _chosen_output(proto: Any, output: str | None) -> str:
    names = [each.name for each in proto.graph.output]
    if output is not None:
        if output not in names:
            raise unsupported("the model has no output of that name")
        return output
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    for each in proto.graph.output:
        if each.type.tensor_type.elem_type in floats:
            return str(each.name)
    return str(names[0])


def session(data: bytes) -> onnxruntime.InferenceSession:
    """Return a session that runs `data` as it stands, on one thread."""
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _open(data, options)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _open(data: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common public base
        raise unsupported("ONNX Runtime cannot load the model") from error


def _rewrite(proto: Any) -> bytes:
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        _open(proto.SerializeToString(), options)
        return path.read_bytes()


def _node(node: Any) -> OnnxNode:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    domain = "" if node.domain == "ai.onnx" else node.domain
    return OnnxNode(node.op_type, domain, tuple(node.input), tuple(node.output), attributes)


def _constant(tensor: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = numpy_helper.to_array(tensor)
    if array.dtype.kind == "f" and bool(np.isnan(array).any()):
        raise _malformed("a constant of the model is not a number")
    return array


def _constant_value(node: OnnxNode) -> npt.NDArray[Any]:
    if "value" in node.attributes:
        return _constant(node.attributes["value"])
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            return np.asarray(node.attributes[name])
    raise unsupported("a Constant of another kind than numbers")


def _needed(nodes: Sequence[OnnxNode], output: str) -> tuple[OnnxNode, ...]:
    wanted = {output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
