"""The importer's door: an ONNX model in, a graph with weights and a report out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from verispect.proof.graph import BinaryFraction, Graph, Input, Output, Shape
from verispect.proof.importer.calibration import (
    Calibration,
    calibrate,
    check_samples,
    float_answers,
)
from verispect.proof.importer.draft import (
    DraftAffine,
    Grid,
    Linear,
    RealScale,
    Value,
    unsupported,
)
from verispect.proof.importer.drafting import Draft
from verispect.proof.importer.linear import fold_straight
from verispect.proof.importer.linear_models import expand_linear_models
from verispect.proof.importer.lowering import Handler, Lowered, lower
from verispect.proof.importer.onnx_file import OnnxModel, load_onnx
from verispect.proof.importer.operators_places import PLACE_OPERATORS
from verispect.proof.importer.operators_windows import WINDOW_OPERATORS
from verispect.proof.importer.quantise import LARGE, SMALL, Precision, Quantiser
from verispect.proof.importer.report import AccuracyReport, measure
from verispect.proof.importer.trees import find_trees, import_trees
from verispect.proof.provable import narrowest
from verispect.proof.runtime import Integers

_HANDLERS: Final[dict[str, Handler]] = {**WINDOW_OPERATORS, **PLACE_OPERATORS}

_INPUT_BITS: Final = 12
_MANY_ACTIVATIONS: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """An integer model made from an ONNX file.

    Args:
        graph: the public half.
        weights: the integers of its weights, in the graph's order.
        report: how near its answers are to the float model's.
    """

    graph: Graph = field(repr=False)
    weights: tuple[Integers, ...] = field(repr=False)
    report: AccuracyReport


def import_onnx(
    model: bytes | str | Path,
    *,
    calibration: npt.ArrayLike,
    evaluation: npt.ArrayLike | None = None,
    input_shape: Sequence[int] | None = None,
    output: str | None = None,
    precision: Precision | None = None,
) -> ImportedModel:
    """Make an integer model of an ONNX model.

    Args:
        model: the file, or its bytes.
        calibration: sample inputs, batch first: they decide the ranges of the activations.
        evaluation: inputs on which the integer model is compared with the float one; the
            calibration's if not given.
        input_shape: the input's shape without the batch, where the model leaves it open.
        output: the output to prove; the first one of real numbers if not given.
        precision: how fine the integers are; chosen by the model's size if not given.

    Raises:
        ModelError: `malformed-model`, or `unsupported-model` with what would help.
        RequestError: `invalid-request` for samples that do not fit.
    """
    data = model if isinstance(model, bytes) else Path(model)
    loaded = load_onnx(data, input_shape=input_shape, output=output)
    samples = check_samples(loaded, calibration)
    judged = samples if evaluation is None else check_samples(loaded, evaluation)
    try:
        graph, weights = _converted(loaded, samples, precision)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        # ONNX Runtime checks most of a model's form, and what it lets pass is not worth a name.
        raise unsupported("an operator's attributes or inputs have an unexpected form") from error
    narrow = tuple(narrowest(weight) for weight in weights)
    report = measure(graph, narrow, judged, float_answers(loaded, judged))
    return ImportedModel(graph, narrow, report)


def _converted(
    loaded: OnnxModel, samples: npt.NDArray[Any], precision: Precision | None
) -> tuple[Graph, tuple[Integers, ...]]:
    if find_trees(loaded) is not None:
        return import_trees(loaded)
    lowered = lower(expand_linear_models(loaded), _HANDLERS)
    seen = calibrate(loaded, samples)
    return _quantised(lowered, seen, precision or _fitting_precision(lowered.draft))


def _fitting_precision(draft: Draft) -> Precision:
    sizes = sum(
        math.prod(shape)
        for node, shape in zip(draft.nodes, draft.shapes[1:], strict=True)
        if isinstance(node, DraftAffine)
    )
    return LARGE if sizes > _MANY_ACTIVATIONS else SMALL


def _quantised(
    lowered: Lowered, seen: Calibration, precision: Precision
) -> tuple[Graph, tuple[Integers, ...]]:
    draft, answer = lowered.draft, lowered.answer
    source = _input(draft, lowered.order, seen.samples)
    raw = _raw_answer(answer)
    tensor = None if raw is not None else draft.write(answer, lowered.answer_name).number
    quantiser = Quantiser(source, seen.ranges, precision)
    quantiser.add_all(draft, answer=-1 if tensor is None else tensor)
    if raw is not None:
        quantiser.add_raw(raw)
        tensor = len(quantiser.nodes)
    quantiser.merge_tables()
    assert tensor is not None
    if answer.index is not None:
        raise unsupported("the output's axes are moved: choose the tensor before the Transpose")
    graph = Graph(
        source,
        tuple(weight.shape for weight in quantiser.weights),
        tuple(quantiser.tables),
        tuple(quantiser.nodes),
        Output(tensor, BinaryFraction.of(quantiser.scales[tensor]), lowered.epilogue),
        precision.range_bits,
    )
    return graph, tuple(quantiser.weights)


def _raw_answer(answer: Value) -> Linear | None:
    """Return the answer's sum where nothing curved is applied to it: it is proven as it is."""
    return (
        fold_straight(answer.base, answer.activation) if isinstance(answer.base, Linear) else None
    )


def _input(draft: Draft, order: Shape, samples: npt.NDArray[Any]) -> Input:
    shape = draft.shapes[0]
    grid = _input_grid(draft)
    if grid is not None:
        scale, low, high = grid.scale, grid.low, grid.high
        return Input(shape, min(low, 0), max(high, 0), BinaryFraction.of(scale), order)
    scale, low, high = _fitting_grid(samples.astype(np.float64))
    return Input(shape, low, high, BinaryFraction.of(scale), order)


def _input_grid(draft: Draft) -> Grid | None:
    """Take over the grid onto which a quantised model puts its input."""
    users = [
        node
        for node in draft.nodes
        if isinstance(node, DraftAffine) and any(term.source == 0 for term in node.linear.terms)
    ]
    if len(users) != 1 or users[0].activation.grid is None:
        return None
    (node,) = users
    alone = len(node.activation.functions) == 1 and len(node.linear.terms) == 1
    plain = node.linear.bias is None and isinstance(node.linear.terms[0], RealScale)
    return node.activation.grid if alone and plain else None


def _fitting_grid(samples: npt.NDArray[np.float64]) -> tuple[float, int, int]:
    """Return the scale and range of an input: exact where the samples are on a known grid."""
    low, high = float(samples.min()), float(samples.max())
    for scale in (1.0, 1 / 16, 1 / 255, 1 / 127.5):
        steps = samples / scale
        on_grid = bool(np.all(np.abs(steps - np.rint(steps)) < 1e-3))
        if on_grid and max(abs(low), abs(high)) / scale <= 1 << _INPUT_BITS:
            return scale, _full(min(low, 0.0) / scale), _full(max(high, 0.0) / scale)
    top = (1 << _INPUT_BITS) - 1
    scale = max(abs(low), abs(high), 1e-30) / top
    return scale, -top if low < 0 else 0, top if high > 0 else 0


def _full(end: float) -> int:
    """Return a range's end, as wide as its bits allow: samples rarely show the extremes."""
    whole = round(abs(end))
    wide = (1 << whole.bit_length()) - 1
    return wide if end > 0 else -wide
