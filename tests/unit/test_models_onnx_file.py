"""The ONNX reader: weights wherever they stand, and no foreign operators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.models.onnx_file import read_onnx

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def graph(nodes: list[object], initialisers: list[TensorProto], name: str = "g") -> object:
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        initialisers,
    )


def model(
    nodes: list[object] | None = None,
    initialisers: list[TensorProto] | None = None,
    opsets: tuple[tuple[str, int], ...] = (("", 18),),
) -> ModelProto:
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])]
    initialisers = [numpy_helper.from_array(WEIGHT, "w")] if initialisers is None else initialisers
    return helper.make_model(
        graph(nodes, initialisers),
        ir_version=9,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets],
    )


def root(proto: ModelProto, external: dict[str, bytes] | None = None) -> bytes:
    return read_onnx(proto.SerializeToString()).tensors(external or {}).root


def test_facts_describe_the_graph() -> None:
    """Ports carry Open Inference names, and a dimension that varies is -1."""
    parsed = read_onnx(model().SerializeToString())
    assert [(port.name, port.datatype, port.shape) for port in parsed.facts.inputs] == [
        ("x", "FP32", (-1, 2))
    ]
    assert [(port.name, port.datatype, port.shape) for port in parsed.facts.outputs] == [
        ("y", "FP32", (-1, 3))
    ]
    assert parsed.facts.opset_imports == {"ai.onnx": 18}
    assert parsed.facts.operator_domains == ("ai.onnx",)
    summary = parsed.tensors({})
    assert (summary.count, summary.parameters, dict(summary.types)) == (1, 6, {"F32": 1})


def test_raw_typed_and_external_weights_have_one_root() -> None:
    """The same numbers give the same root however the file holds them."""
    typed = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], WEIGHT.flatten().tolist())
    assert typed.float_data
    assert not typed.raw_data
    outside = external_tensor("w.bin", offset=8)
    data = b"padding!" + WEIGHT.tobytes()
    expected = root(model())
    assert root(model(initialisers=[typed])) == expected
    assert root(model(initialisers=[outside]), {"w.bin": data}) == expected


def external_tensor(location: str, *, offset: int = 0, length: int = 24) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_weights_inside_branches_and_constants_count() -> None:
    """A changed number in an `If` branch or a constant changes the root."""

    def branching(number: float) -> ModelProto:
        branches = []
        for name, value in (("yes", number), ("no", 2.0)):
            weight = numpy_helper.from_array(np.full((2, 3), value, np.float32), "inner")
            branch = helper.make_graph(
                [helper.make_node("MatMul", ["x", "inner"], [f"{name}_y"])],
                name,
                [],
                [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
                [weight],
            )
            branches.append(branch)
        flag = numpy_helper.from_array(np.array(True), "flag_value")
        return model(
            [
                helper.make_node("Constant", [], ["flag"], value=flag),
                helper.make_node(
                    "If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]
                ),
            ],
            [],
        )

    summary = read_onnx(branching(1.0).SerializeToString()).tensors({})
    assert summary.count == 3
    assert root(branching(1.0)) != root(branching(1.5))


def test_foreign_operator_domain_is_refused() -> None:
    """An operator that needs native code from elsewhere is not served."""
    node = helper.make_node("Evil", ["x"], ["y"], domain="org.example.custom")
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model([node], [], (("", 18), ("org.example.custom", 1))).SerializeToString())
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def test_foreign_operator_inside_a_branch_is_refused() -> None:
    """Nesting does not hide an operator."""
    inner = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["z"], domain="org.example.custom")],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(UnsupportedError):
        read_onnx(model([node], []).SerializeToString())


def test_function_inside_the_file_is_allowed() -> None:
    """A local function is made of known operators, whatever its domain is called."""
    function = helper.make_function(
        "org.example.local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    proto = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="org.example.local")],
        [],
        (("", 18), ("org.example.local", 1)),
    )
    with pytest.raises(UnsupportedError):
        read_onnx(proto.SerializeToString())
    proto.functions.append(function)
    assert "org.example.local" in read_onnx(proto.SerializeToString()).facts.operator_domains


def test_outputs_that_are_not_tensors_are_refused() -> None:
    """A map of probabilities, as classifiers export it by default, has no tensor form."""
    proto = model()
    proto.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(UnsupportedError):
        read_onnx(proto.SerializeToString())


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w", "a\\b", "", "c:w"])
def test_external_data_outside_the_folder_is_refused(location: str) -> None:
    """Absolute paths and paths that climb are malformed."""
    with pytest.raises(MalformedError) as caught:
        read_onnx(model(initialisers=[external_tensor(location)]).SerializeToString())
    assert caught.value.reason is Reason.MALFORMED_MODEL


@pytest.mark.parametrize(("offset", "length"), [(8, 24), (-1, 24), (0, 23), (0, 1 << 60)])
def test_external_data_beyond_its_file_is_refused(offset: int, length: int) -> None:
    """Offset and length must lie in the file and fit the shape."""
    proto = model(initialisers=[external_tensor("w.bin", offset=offset, length=length)])
    with pytest.raises(MalformedError):
        root(proto, {"w.bin": WEIGHT.tobytes()})


def test_tensor_that_does_not_fit_its_bytes_is_refused() -> None:
    """A shape that promises more than the bytes hold is malformed."""
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.dims[0] = 200
    with pytest.raises(MalformedError):
        root(model(initialisers=[tensor]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_file_gives_only_our_errors(data: st.DataObject) -> None:
    """Truncated and bit-flipped files are read, or refused with one of our errors."""
    content = model().SerializeToString()
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (content[:position], bytes(flipped)):
        try:
            read_onnx(damaged).tensors({})
        except Error:
            continue
