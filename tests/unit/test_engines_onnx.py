"""The ONNX Runtime engine: what it loads, what it refuses, and that it says what it ran."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_graphs import external, graph, identity, linear

from verispect.core.errors import EngineError, ModelError, Reason, RequestError
from verispect.engines.interface import Tensor
from verispect.engines.onnx import OnnxEngine, OnnxLimits
from verispect.engines.onnx_native import kernel_class
from verispect.engines.tensors import BY_DATATYPE, pack_strings


@pytest.fixture
def engine():
    engine = OnnxEngine()
    yield engine
    engine.close()


def floats(name: str, shape: tuple[int, ...], *values: float) -> Tensor:
    return Tensor(name, "FP32", shape, struct.pack(f"<{len(values)}f", *values))


ROW = floats("x", (1, 4), 1, 2, 3, 4)


async def test_answer_is_the_products(engine):
    """A run gives what the graph computes, in canonical bytes."""
    model = await engine.load(linear())
    (answer,) = await model.infer([ROW], [])
    assert answer == floats("y", (1, 3), 60, 70, 80)


async def test_batch_dimension_varies(engine):
    """A symbolic dimension takes any size, zero included."""
    model = await engine.load(linear())
    (two,) = await model.infer([floats("x", (2, 4), *range(8))], [])
    (none,) = await model.infer([Tensor("x", "FP32", (0, 4), b"")], [])
    assert (two.shape, none.shape, none.data) == ((2, 3), (0, 3), b"")


async def test_specifications_follow_the_model(engine):
    """Inputs and outputs are described in protocol terms, -1 where a size varies."""
    model = await engine.load(linear())
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.datatype, x.shape) == ("x", "FP32", (-1, 4))
    assert (y.name, y.datatype, y.shape) == ("y", "FP32", (-1, 3))


def test_identity_names_the_loaded_library(engine):
    """The engine's digest is that of the native library mapped into this process."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    (library,) = [path for path in mapped if "onnxruntime_pybind11_state" in path]
    expected = hashlib.sha256(Path(library).read_bytes()).digest()
    assert engine.identity.library_digest == expected
    assert engine.identity.kernel_class == kernel_class()
    assert engine.identity.settings["intra_op_threads"] == 1


def test_identity_depends_on_the_optimisation_level(engine):
    """Another optimisation level is another engine."""
    other = OnnxEngine(optimisation="basic")
    assert other.identity.digest() != engine.identity.digest()
    other.close()


def test_telemetry_leaves_no_trace(tmp_path):
    """Loading and running a model writes nothing to the home folder and starts no reporter."""
    script = (
        "import asyncio\n"
        "from verispect.engines.onnx import OnnxEngine\n"
        "from onnx_graphs import linear\n"
        "engine = OnnxEngine()\n"
        "asyncio.run(engine.load(linear()))\n"
    )
    # CI variables switch the telemetry off by themselves, which would hide a regression.
    kept = {"PATH", "LD_LIBRARY_PATH"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    environment |= {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


ROUND_TRIPS = [
    ("BOOL", TensorProto.BOOL, b"\0\1\1"),
    ("UINT8", TensorProto.UINT8, b"\0\x7f\xff"),
    ("UINT16", TensorProto.UINT16, struct.pack("<3H", 0, 1, 65535)),
    ("UINT32", TensorProto.UINT32, struct.pack("<3I", 0, 1, 2**32 - 1)),
    ("UINT64", TensorProto.UINT64, struct.pack("<3Q", 0, 1, 2**64 - 1)),
    ("INT8", TensorProto.INT8, struct.pack("<3b", -128, 0, 127)),
    ("INT16", TensorProto.INT16, struct.pack("<3h", -32768, 0, 32767)),
    ("INT32", TensorProto.INT32, struct.pack("<3i", -(2**31), 0, 2**31 - 1)),
    ("INT64", TensorProto.INT64, struct.pack("<3q", -(2**63), 0, 2**63 - 1)),
    ("FP16", TensorProto.FLOAT16, struct.pack("<3e", -1.5, 0.0, 65504.0)),
    ("FP32", TensorProto.FLOAT, struct.pack("<3f", -1.5, -0.0, 3.4e38)),
    ("FP64", TensorProto.DOUBLE, struct.pack("<3d", -1.5, -0.0, 5e-324)),
    ("BYTES", TensorProto.STRING, pack_strings(["", "zero\0inside", "é漢"])),
]


@pytest.mark.parametrize(("datatype", "element", "data"), ROUND_TRIPS)
async def test_every_element_type_passes_unchanged(engine, datatype, element, data):
    """Each datatype reaches the model and comes back bit for bit."""
    model = await engine.load(identity(element))
    (answer,) = await model.infer([Tensor("x", datatype, (3,), data)], [])
    assert answer == Tensor("y", datatype, (3,), data)


REFUSED = [
    ([], "missing input 'x'"),
    ([ROW, ROW], "given twice"),
    ([ROW, floats("z", (1,), 1)], "no input 'z'"),
    ([Tensor("x", "FP64", (1, 4), b"\0" * 32)], "datatype"),
    ([Tensor("x", "BF16", (1, 4), b"\0" * 8)], "datatype"),
    ([floats("x", (4,), 1, 2, 3, 4)], "rank 1, expected 2"),
    ([floats("x", (2, 2), 1, 2, 3, 4)], "size 2 in dimension 1, expected 4"),
    ([Tensor("x", "FP32", (1, 4), b"\0" * 15)], "15 bytes of data, expected 16"),
    ([Tensor("x", "FP32", (1, 4), b"\0" * 17)], "17 bytes of data, expected 16"),
    ([Tensor("x", "FP32", (-1, 4), b"")], "out of range"),
    ([Tensor("x", "FP32", (-7, 4), b"")], "out of range"),
    ([Tensor("x", "FP32", (2**40, 4), b"")], "out of range"),
    ([Tensor("x", "FP32", (2**31 - 1, 4), b"")], "bytes of data"),
    ([floats("x", (1, 4), 1, 2, 3, float("nan"))], "NaN"),
    ([floats("x", (1, 4), 1, 2, 3, float("inf"))], "NaN or infinite"),
    ([floats("x", (2000, 4), *[0.0] * 7999, float("-inf"))], "NaN or infinite"),
]


@pytest.mark.parametrize(("tensors", "words"), REFUSED)
async def test_wrong_inputs_are_refused_by_name(engine, tensors, words):
    """Missing, unknown, duplicate, ill-typed and ill-shaped tensors are the caller's error."""
    model = await engine.load(linear())
    with pytest.raises(RequestError, match=words) as refused:
        await model.infer(tensors, [])
    assert refused.value.parameter in ("x", "inputs")


@pytest.mark.parametrize("data", [b"\1\0\0", b"\5\0\0\0abcd", b"\1\0\0\0\xff", pack_strings(["a"])])
async def test_malformed_strings_are_refused(engine, data):
    """A string tensor must be whole, UTF-8 and as long as its shape says."""
    model = await engine.load(identity(TensorProto.STRING))
    with pytest.raises(RequestError):
        await model.infer([Tensor("x", "BYTES", (2,), data)], [])


async def test_boolean_is_zero_or_one(engine):
    """A boolean byte of another value is refused, for it has no one meaning."""
    model = await engine.load(identity(TensorProto.BOOL))
    with pytest.raises(RequestError, match="booleans"):
        await model.infer([Tensor("x", "BOOL", (1,), b"\2")], [])


async def test_named_dimensions_agree_across_inputs(engine):
    """Two inputs that share a dimension's name must share its size."""
    model = await engine.load(
        graph(
            [helper.make_node("Concat", ["a", "b"], ["c"], axis=0)],
            [("a", TensorProto.FLOAT, ["n"]), ("b", TensorProto.FLOAT, ["n"])],
            [("c", TensorProto.FLOAT, ["m"])],
        )
    )
    with pytest.raises(RequestError, match="'n' is 1 in another input"):
        await model.infer([floats("a", (1,), 1), floats("b", (2,), 1, 2)], [])


async def test_outputs_are_chosen_by_name_in_model_order(engine):
    """Only the outputs named are returned; unknown and repeated names are refused."""
    model = await engine.load(
        graph(
            [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Abs", ["x"], ["a"])],
            [("x", TensorProto.FLOAT, [1])],
            [("n", TensorProto.FLOAT, [1]), ("a", TensorProto.FLOAT, [1])],
        )
    )
    x = [floats("x", (1,), -2)]
    assert [item.name for item in await model.infer(x, [])] == ["n", "a"]
    assert [item.name for item in await model.infer(x, ["a", "n"])] == ["n", "a"]
    assert await model.infer(x, ["a"]) == [floats("a", (1,), 2)]
    for wrong in (["b"], ["a", "a"]):
        with pytest.raises(RequestError):
            await model.infer(x, wrong)


async def test_runtime_refusal_hides_the_values(engine):
    """A value the model cannot take is the caller's error, and is not quoted in the message."""
    model = await engine.load(
        graph(
            [helper.make_node("Gather", ["w", "i"], ["y"])],
            [("i", TensorProto.INT64, ["n"])],
            [("y", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])],
        )
    )
    with pytest.raises(RequestError) as refused:
        await model.infer([Tensor("i", "INT64", (1,), struct.pack("<q", 7777))], [])
    assert "7777" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_failed_run_is_an_engine_error(engine, capfd):
    """A run that breaks inside the graph is an error of the engine, silent on standard error."""
    model = await engine.load(
        graph(
            [helper.make_node("Reshape", ["x", "s"], ["y"])],
            [("x", TensorProto.FLOAT, ["n"]), ("s", TensorProto.INT64, ["k"])],
            [("y", TensorProto.FLOAT, ["a"])],
        )
    )
    with pytest.raises(EngineError) as failed:
        await model.infer([floats("x", (1,), 1), Tensor("s", "INT64", (1,), b"\7" + b"\0" * 7)], [])
    assert failed.value.reason is Reason.ENGINE_FAILED
    assert capfd.readouterr() == ("", "")


async def test_junk_is_not_a_model(engine):
    """Bytes that are not ONNX are malformed."""
    with pytest.raises(ModelError) as refused:
        await engine.load(b"not a model")
    assert refused.value.reason is Reason.MALFORMED_MODEL


async def test_custom_operators_are_refused(engine):
    """An operator of an unknown domain has no implementation here and never gets one."""
    model = graph(
        [helper.make_node("Magic", ["x"], ["y"], domain="example")],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        domains=[("example", 1)],
    )
    with pytest.raises(ModelError) as refused:
        await engine.load(model)
    assert refused.value.reason is Reason.UNSUPPORTED_MODEL


async def test_brain_float_is_refused_with_a_hint(engine):
    """BF16 has no canonical form here, and the refusal says what to do."""
    with pytest.raises(ModelError, match="cast it") as refused:
        await engine.load(identity(TensorProto.BFLOAT16))
    assert refused.value.reason is Reason.UNSUPPORTED_MODEL


async def test_sequence_of_maps_is_refused_with_a_hint(engine):
    """The ZipMap that scikit-learn converters add cannot be carried, and the refusal says so."""
    model = graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [],
        domains=[("ai.onnx.ml", 3)],
    )
    import onnx

    proto = onnx.load_model_from_string(model)
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
        )
    )
    proto.graph.output.append(helper.make_value_info("y", kind))
    with pytest.raises(ModelError, match="zipmap"):
        await engine.load(proto.SerializeToString())


async def test_external_data_comes_from_bytes(engine):
    """Weights beside the model are those given as bytes."""
    data = struct.pack("<3f", 5, 6, 7)
    model = await engine.load(external("w.bin"), {"w.bin": data})
    (answer,) = await model.infer([floats("x", (3,), 1, 1, 1)], [])
    assert answer.data == struct.pack("<3f", 6, 7, 8)


@pytest.mark.parametrize("absolute", [False, True])
async def test_external_data_is_never_read_from_a_file(engine, tmp_path, monkeypatch, absolute):
    """A file that the model names, but nobody hashed, is not opened."""
    (tmp_path / "w.bin").write_bytes(struct.pack("<3f", 5, 6, 7))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        await engine.load(external(str(tmp_path / "w.bin") if absolute else "w.bin"))


async def test_short_runs_stay_on_the_event_loop(engine):
    """A tiny model runs where it is called; a slow or unmeasured one does not."""
    model = await engine.load(linear())
    assert model.runs_inline(16)
    assert not model.runs_inline(16 * 1_000_000)
    model._seconds = None
    assert not model.runs_inline(16)


async def test_pool_gives_the_same_answer(engine):
    """An answer from a worker thread equals one from the event loop."""
    model = await engine.load(linear())
    inline = await model.infer([ROW], [])
    model._seconds = 1.0
    assert not model.runs_inline(16)
    assert await model.infer([ROW], []) == inline


async def test_overload_is_refused_and_passes():
    """Work beyond the queue is refused as overload, and accepted again once there is room."""
    engine = OnnxEngine(limits=OnnxLimits(threads=1, waiting=1))
    model = await engine.load(linear())
    gate = threading.Event()
    held = [engine.submit(gate.wait) for _ in range(2)]
    model._seconds = 1.0
    with pytest.raises(EngineError) as refused:
        await model.infer([ROW], [])
    assert refused.value.reason is Reason.ENGINE_OVERLOADED
    gate.set()
    await asyncio.gather(*held)
    assert len(await model.infer([ROW], [])) == 1
    engine.close()


async def test_caller_who_leaves_frees_no_slot_early():
    """A cancelled wait keeps its slot until its work has ended."""
    engine = OnnxEngine(limits=OnnxLimits(threads=1, waiting=0))
    gate, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        gate.wait()

    task = asyncio.ensure_future(engine.submit(work))
    await asyncio.to_thread(started.wait)
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(EngineError):
        engine.submit(lambda: None)
    gate.set()
    engine.close()


async def test_closed_model_refuses(engine):
    """A closed model and a closed engine are unavailable, not a crash."""
    model, other = await engine.load(linear()), await engine.load(linear())
    await model.close()
    engine.close()
    other._seconds = None
    for closed in (model, other):
        with pytest.raises(EngineError) as refused:
            await closed.infer([ROW], [])
        assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


def package_folder(name: str) -> Path:
    """Return the folder of a package that is installed for its files, without importing it."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


async def test_real_models_load_and_run(engine):
    """The models of the demonstration and a stateful one with a scalar input run on zeros."""
    paths = [
        package_folder("magika") / "models/standard_v3_3/model.onnx",
        package_folder("silero_vad") / "data/silero_vad_op18_ifless.onnx",
    ]
    sizes = {"input": (1, 576), "state": (2, 1, 128), "sr": (), "bytes": (1, 2048)}
    for path in paths:
        model = await engine.load(path.read_bytes())
        tensors = []
        for item in model.inputs:
            shape = sizes[item.name]
            size = int(np.prod(shape)) * BY_DATATYPE[item.datatype].dtype.itemsize
            tensors.append(Tensor(item.name, item.datatype, shape, bytes(size)))
        first = await model.infer(tensors, [])
        assert first == await model.infer(tensors, [])
        assert all(answer.data for answer in first)


async def test_string_classifier_of_scikit_learn_runs(engine):
    """A converted scikit-learn pipeline takes strings and answers with strings."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rows = np.array([["red"], ["green"], ["blue"], ["red"]])
    fitted = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, ["a", "b", "b", "a"])
    proto = to_onnx(
        fitted,
        initial_types=[("colour", StringTensorType([None, 1]))],
        options={id(fitted): {"zipmap": False}},
    )
    model = await engine.load(proto.SerializeToString())
    answers = await model.infer(
        [Tensor("colour", "BYTES", (2, 1), pack_strings(["red", "blue"]))], []
    )
    assert answers[0].data == pack_strings(["a", "b"])
