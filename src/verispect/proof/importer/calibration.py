"""What a float model computes on sample inputs: the ranges of its tensors and its answers.

Post-training calibration: the model runs on each sample with every tensor as an output, and the
smallest and largest value of each is kept. This module refuses samples that do not fit the input or
are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from verispect.core.errors import Reason, RequestError
from verispect.proof.importer.onnx_file import OnnxModel, session

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was seen.

    Args:
        samples: the inputs, batch first.
        ranges: of every tensor of numbers, by name.
    """

    samples: npt.NDArray[Any]
    ranges: Ranges


def check_samples(model: OnnxModel, samples: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `samples` as the model takes them.

    Raises:
        RequestError: `invalid-request`.
    """
    array = np.asarray(samples)
    if array.dtype.kind not in "buif" or array.shape[1:] != model.input_shape[1:] or not len(array):
        expected = "x".join(map(str, ("n", *model.input_shape[1:])))
        raise RequestError(f"expected samples that are numbers of shape {expected}")
    if not bool(np.isfinite(array).all()):
        raise RequestError("a sample is not finite", reason=Reason.INVALID_REQUEST)
    return array.astype(model.input_type)


def calibrate(model: OnnxModel, samples: npt.NDArray[Any]) -> Calibration:
    """Run `model` on `samples`, one at a time, and keep the range of every tensor."""
    proto = onnx.load_model_from_string(model.data)
    outputs = {each.name for each in proto.graph.output}
    names = [name for node in model.nodes for name in node.outputs if name]
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in outputs
    )
    runner = session(proto.SerializeToString())
    wanted = [each.name for each in runner.get_outputs()]
    ranges: Ranges = {}
    for sample in samples:
        results = runner.run(wanted, {model.input_name: sample[None]})
        for name, result in [*zip(wanted, results, strict=True), (model.input_name, sample)]:
            array = np.asarray(result) if not isinstance(result, (list, dict)) else None
            if array is None or array.dtype.kind not in "fiu" or not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if name in ranges:
                low, high = min(low, ranges[name][0]), max(high, ranges[name][1])
            ranges[name] = low, high
    return Calibration(samples, ranges)


def float_answers(model: OnnxModel, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the float model's answers, batch first."""
    runner = session(model.data)
    answers = [
        np.asarray(runner.run([model.output_name], {model.input_name: sample[None]})[0])
        for sample in samples
    ]
    return np.concatenate(answers)
