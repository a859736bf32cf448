"""Octets of a caller's tensors to integers and back (spec/integer-model.md section 3).

What callers send and get are octets; what proofs speak of are integers. This module refuses octets
of another length than the shape's; names and datatypes are for whoever calls it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from verispect.core.errors import RequestError
from verispect.proof.arithmetic import ReadInput, read_input, write_output
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import Epilogue


def caller_shape(graph: Graph) -> tuple[int, ...]:
    """Return the shape of one input as callers send it, without the batch."""
    source = graph.input
    shape = [0] * len(source.shape)
    for axis, place in enumerate(source.order):
        shape[place] = source.shape[axis]
    return tuple(shape)


def answer_shape(graph: Graph) -> tuple[int, ...]:
    """Return the shape of one answer, without the batch and without axes of size 1 at its end."""
    if graph.output.epilogue is Epilogue.ARGMAX:
        return ()
    shape = list(graph.shapes[graph.output.tensor])
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def answer_datatype(graph: Graph) -> str:
    """Return the Open Inference Protocol's name of the answer's elements."""
    return "INT64" if graph.output.epilogue is Epilogue.ARGMAX else "FP32"


def input_integers(graph: Graph, data: bytes, rows: int) -> ReadInput:
    """Read binary32, little-endian, row-major, as the integers of tensor 0.

    Raises:
        RequestError: `invalid-request`, for another length or NaN.
    """
    if len(data) != 4 * rows * math.prod(caller_shape(graph)):
        raise RequestError("the input has another length than its shape")
    return read_input(graph.input, np.frombuffer(data, "<f4"), batch=rows)


def output_integers(graph: Graph, data: bytes, rows: int) -> npt.NDArray[np.int64]:
    """Read the output's integers, i64 little-endian, batch first.

    Raises:
        RequestError: `invalid-request`, for another length.
    """
    shape = (rows, *graph.shapes[graph.output.tensor])
    if len(data) != 8 * math.prod(shape):
        raise RequestError("the output has another length than its shape")
    return np.frombuffer(data, "<i8").astype(np.int64).reshape(shape)


def answer_octets(graph: Graph, integers: npt.NDArray[np.integer[Any]]) -> bytes:
    """Return the answer's octets for the output's integers."""
    dtype = "<i8" if answer_datatype(graph) == "INT64" else "<f4"
    return np.ascontiguousarray(write_output(graph.output, integers), dtype).tobytes()
