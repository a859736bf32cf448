"""Qualification: the rule, and real engines under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from verispect.cli.qualification import OnnxSubject
from verispect.cli.qualification_llama import LlamaSubject
from verispect.core.encoding import decode_content, sha256
from verispect.core.errors import ModelError
from verispect.core.statement import Determinism
from verispect.engines.onnx import OnnxEngine
from verispect.models.qualification import (
    Variation,
    VariationKind,
    VariationResult,
    classify,
    load_record,
    qualify,
    record_qualification,
    tolerance,
    unqualified,
    was_qualified_on,
)
from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry
from verispect.testing.tiny_gguf import write_tiny_gguf


def result(kind: VariationKind, equal: int = 4, largest: float | None = 0.0) -> VariationResult:
    return VariationResult(Variation(kind.value, kind), 4, equal, largest)


REPEAT = result(VariationKind.REPEAT)
THREADS = result(VariationKind.THREADS)
BATCH = result(VariationKind.BATCH)
TOGETHER = result(VariationKind.CONCURRENCY)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([REPEAT, THREADS, BATCH, TOGETHER], (Determinism.EXACT, None)),
        ([REPEAT, THREADS, TOGETHER], (Determinism.EXACT_BATCH_ONE, None)),
        (
            [REPEAT, THREADS, result(VariationKind.BATCH, 0, 0.3)],
            (Determinism.EXACT_BATCH_ONE, None),
        ),
        ([REPEAT, result(VariationKind.CACHE, 3, None)], (Determinism.EXACT_BATCH_ONE, None)),
        ([REPEAT, result(VariationKind.CONCURRENCY, 3, 9.0)], (Determinism.EXACT_BATCH_ONE, None)),
        ([REPEAT, result(VariationKind.THREADS, 3, 0.011), BATCH], (Determinism.TOLERANT, "0.03")),
        (
            [result(VariationKind.REPEAT, 3, 0.01), result(VariationKind.BATCH, 0, 0.2)],
            (Determinism.TOLERANT, "0.4"),
        ),
        ([result(VariationKind.REPEAT, 3, None), BATCH], (Determinism.NONE, None)),
        ([result(VariationKind.REPEAT, 3, 0.51), BATCH], (Determinism.NONE, None)),
        ([], (Determinism.NONE, None)),
    ],
)
def test_rule(results: list[VariationResult], expected: tuple[Determinism, str | None]) -> None:
    """The class follows from the results alone, the strictest first."""
    assert classify(results) == expected


@pytest.mark.parametrize(
    ("largest", "epsilon"),
    [(0.0, "0"), (0.05, "0.1"), (0.011, "0.03"), (6.5e-07, "0.000002"), (0.1, "0.2")],
)
def test_tolerance_is_a_plain_decimal(largest: float, epsilon: str) -> None:
    """Epsilon is the largest difference doubled and rounded up to one digit."""
    assert tolerance(largest) == epsilon
    assert float(epsilon) >= 2 * largest


class Scripted:
    """A subject whose observations are written down."""

    engine: Mapping[str, Any] = {"name": "scripted"}
    cases: Mapping[str, Any] = {"count": 2}

    def __init__(self, observations: Mapping[Variation, Sequence[bytes]]) -> None:
        self._observations = observations

    @property
    def variations(self) -> Sequence[Variation]:
        return list(self._observations)

    def run(self, variation: Variation) -> Sequence[bytes]:
        return self._observations[variation]

    def distance(self, expected: bytes, actual: bytes) -> float | None:
        return abs(expected[0] - actual[0]) / 100


def test_missing_observation_is_no_agreement() -> None:
    """A variation that answers fewer cases is unequal and has no measure."""
    subject = Scripted(
        {
            Variation("reference", VariationKind.REPEAT): [b"a", b"b"],
            Variation("again", VariationKind.REPEAT): [b"a"],
        }
    )
    outcome = qualify(subject, sha256(b""))
    assert outcome.determinism is Determinism.NONE
    assert outcome.results[0].equal == 1
    assert decode_content(outcome.record)["results"][0]["largest_difference"] is None


def test_nothing_to_compare_is_refused() -> None:
    """One variation, or no case, qualifies nothing."""
    reference = Variation("reference", VariationKind.REPEAT)
    other = Variation("again", VariationKind.REPEAT)
    for observations in ({reference: [b"a"]}, {reference: [], other: []}):
        with pytest.raises(ModelError):
            qualify(Scripted(observations), sha256(b""))


def write_classifier(path: Path) -> Path:
    source = np.random.default_rng(1)
    weights = numpy_helper.from_array(source.standard_normal((5, 3)).astype(np.float32), "w")
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["h"]),
                helper.make_node("Softmax", ["h"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [weights],
        ),
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 18)],
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_tensor_model_is_qualified_by_running_it(tmp_path: Path) -> None:
    """The name stands for the qualified manifest; a second run gives the same model."""
    registry = ModelRegistry(tmp_path / "registry")
    before = register_file(registry, "c", write_classifier(tmp_path / "c.onnx"))
    with registry.open_verified(before) as files:
        outcome = qualify(OnnxSubject(files), unqualified(before))
    after = record_qualification(registry, before, outcome)
    assert outcome.determinism in (Determinism.EXACT, Determinism.EXACT_BATCH_ONE)
    assert after.model_id != before.model_id
    assert registry.resolve("c") == after
    record = load_record(registry, after)
    assert record is not None
    assert load_record(registry, before) is None
    assert was_qualified_on(record, OnnxEngine().identity.to_content())
    assert not was_qualified_on(record, {**record["engine"], "kernel_class": "another"})
    assert record["model_id"] == before.model_id
    assert record["engine"]["name"] == "onnxruntime"
    assert {item["kind"] for item in record["results"]} >= {"repeat", "threads", "batch"}
    with registry.open_verified(after) as files:
        again = qualify(OnnxSubject(files), unqualified(after))
    assert record_qualification(registry, after, again).model_id == after.model_id
    assert register_file(registry, "c", tmp_path / "c.onnx").model_id == after.model_id


def test_language_model_is_qualified_by_running_it(tmp_path: Path) -> None:
    """llama.cpp repeats itself exactly in its deterministic lane, whatever the threads."""
    registry = ModelRegistry(tmp_path / "registry")
    model = register_file(registry, "tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))
    with registry.open_verified(model) as files:
        outcome = qualify(LlamaSubject(files), unqualified(model))
    core = [item for item in outcome.results if item.variation.kind.value in ("repeat", "threads")]
    assert len(core) == 2
    assert all(item.equal == item.cases for item in core)
    assert outcome.determinism in (Determinism.EXACT, Determinism.EXACT_BATCH_ONE)
    assert decode_content(outcome.record)["engine"]["settings"]["lane"] == "deterministic"


def test_changed_record_is_refused(tmp_path: Path) -> None:
    """A class whose record was exchanged or lost has lost its evidence."""
    registry = ModelRegistry(tmp_path / "registry")
    before = register_file(registry, "tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))
    observations = {
        Variation("reference", VariationKind.REPEAT): [b"a"],
        Variation("batch", VariationKind.BATCH): [b"a"],
    }
    outcome = qualify(Scripted(observations), before.model_id)
    model = record_qualification(registry, before, outcome)
    assert load_record(registry, model) == decode_content(outcome.record)
    assert model.manifest.determinism.qualification is not None
    path = registry.blobs.path(model.manifest.determinism.qualification)
    path.chmod(0o644)
    path.write_bytes(outcome.record.replace(b"exact", b"exict"))
    with pytest.raises(ModelError):
        load_record(registry, model)
    path.unlink()
    with pytest.raises(ModelError):
        load_record(registry, model)
