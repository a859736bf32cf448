"""How near an integer model is to the float model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verispect.proof.arithmetic import read_input, write_output
from verispect.proof.graph import Epilogue, Graph
from verispect.proof.runtime import Integers, Runtime

_CHUNK = 16


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """The integer model beside the float model, on the same inputs.

    Args:
        samples: how many inputs were compared.
        agreement: the share of inputs with the same largest class; 1 for a single number.
        largest_error: the largest difference of two outputs.
        mean_error: the mean absolute difference.
        output_size: the largest absolute output of the float model, to compare the errors with.
        clipped: how many of the inputs' numbers lay outside the range and were clipped.
    """

    samples: int
    agreement: float
    largest_error: float
    mean_error: float
    output_size: float
    clipped: int


def measure(
    graph: Graph,
    weights: Sequence[Integers],
    samples: npt.NDArray[Any],
    expected: npt.NDArray[Any],
) -> AccuracyReport:
    """Compare the integer model with `expected`, the float model's answers on `samples`."""
    runtime = Runtime(graph, weights)
    answers, clipped = [], 0
    for start in range(0, len(samples), _CHUNK):
        read = read_input(graph.input, samples[start : start + _CHUNK])
        clipped += read.clipped
        answers.append(write_output(graph.output, runtime.run(read.integers).output))
    found = np.concatenate(answers).reshape(len(samples), -1).astype(np.float64)
    wanted = expected.reshape(len(samples), -1).astype(np.float64)
    errors = np.abs(found - wanted)
    if graph.output.epilogue is Epilogue.ARGMAX:
        agreement = float(np.mean(np.all(found == wanted, axis=1)))
    else:
        agreement = float(np.mean(np.argmax(found, axis=1) == np.argmax(wanted, axis=1)))
    return AccuracyReport(
        len(samples),
        agreement,
        float(errors.max()),
        float(errors.mean()),
        float(np.abs(wanted).max()),
        clipped,
    )
