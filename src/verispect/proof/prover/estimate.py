"""What a proof will cost, before the work: time, memory and size from counted operations.

The size follows from the shapes, but for the authentication nodes. Time is counted operations
times nanoseconds measured once, scaled by how fast this machine runs one of the kernels; memory is
what the largest arrays take together.

This module refuses to promise: it estimates, and says nothing of a machine that is busy.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from verispect.proof import layout
from verispect.proof.graph import Affine, Convolve, Graph, Maximum, Multiply
from verispect.proof.graph_parts import Window
from verispect.proof.parameters import Code, ProofShape, proof_shape, sum_variables
from verispect.proof.prover import kernels_sumcheck as kernels

_LEAF: Final = 200.0
"""Nanoseconds per leaf of the lookups, filling, building and proving the tree."""
_CODE_WORD: Final = 9.0
"""Per element of a code word, its share of the leaf's hash included."""
_PLACE: Final = 2600.0
"""Per place of a code: two hashes, and what Python adds."""
_ENTRY: Final = 10.0
"""Per committed entry: padding, contractions and the combination."""
_PRODUCT: Final = 90.0
"""Per entry of a node's sum."""
_ACCUMULATION: Final = 0.6
"""Per multiplication of the run itself."""
_ROUND: Final = 70_000.0
"""Per message: Python, hashing, and the kernels' calls."""
_OPENED: Final = 40_000.0
"""Per position: columns and nodes."""
_POLYNOMIAL: Final = 120_000.0
"""Per polynomial: its views."""
_REFERENCE: Final = 65_000.0
"""What the calibration took, in nanoseconds, where these numbers were measured."""
_RESIDENT: Final = 220 << 20
"""What Python, NumPy and compiled kernels take before any work."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one proof will cost.

    Args:
        cpu_seconds: of the whole proof, the run included, after kernels are compiled.
        memory_bytes: at the peak.
        proof_bytes: of the encoded proof.
    """

    cpu_seconds: float
    memory_bytes: int
    proof_bytes: int


def estimate(
    graph: Graph, code: Code, batch: int = 1, *, hidden_input: bool = False, speed: float = 0.0
) -> Estimate:
    """Estimate one proof.

    Args:
        graph: the model.
        code: the parameters of its commitment, which decide the mode.
        batch: the requests that one proof is for.
        hidden_input: whether the input is committed to.
        speed: this machine's speed as `calibrate` returns it; measured now where it is zero.
    """
    shape = proof_shape(graph, batch, code, hidden_input=hidden_input)
    nanoseconds = _work(graph, shape, batch) / (speed or calibrate())
    return Estimate(nanoseconds / 1e9, _memory(graph, shape, batch), shape.expected_bytes)


def calibrate() -> float:
    """Return how fast this machine is, one being where the numbers were measured."""
    point = np.arange(24, dtype=np.uint64).reshape(12, 2)
    kernels.eq_table(point)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter_ns()
        kernels.eq_table(point)
        best = min(best, time.perf_counter_ns() - started)
    return _REFERENCE / max(best, 1)


def _committed(shape: ProofShape) -> list[int]:
    """Return the rows committed to for every proof: all but the weights."""
    return list(shape.row_counts[1:])


def _work(graph: Graph, shape: ProofShape, batch: int) -> float:
    code = shape.code
    rows = _committed(shape)
    committed = sum(rows) * code.length * _CODE_WORD + len(rows) * code.length * _PLACE
    entries = sum(shape.row_counts) * code.columns * _ENTRY
    sums = sum(1 << count for count in sum_variables(graph, batch)) * _PRODUCT
    messages = shape.message_elements / 3 + shape.products * 4
    opened = code.queries * len(shape.row_counts) * _OPENED / 4
    tails = shape.row_counts[0] * (code.degree_bound - code.columns) * 20.0
    return (
        committed
        + entries
        + sums
        + tails
        + opened
        + messages * _ROUND
        + shape.polynomials * _POLYNOMIAL
        + float(1 << shape.leaf_variables) * _LEAF
        + batch * multiplications(graph) * _ACCUMULATION
    )


def multiplications(graph: Graph) -> int:
    """Return how many multiplications one run of a model takes."""
    total = 0
    for number, node in enumerate(graph.nodes):
        places = math.prod(graph.shapes[number + 1])
        if isinstance(node, Maximum):
            total += places * node.kernel
        elif isinstance(node, Multiply):
            total += places
        else:
            total += places * sum(_taps(graph, node))
    return total


def _taps(graph: Graph, node: Affine) -> list[int]:
    result = []
    for term in node.terms:
        if isinstance(term, Convolve):
            result.append(math.prod(graph.weights[term.weight][2:]))
        else:
            result.append(math.prod(term.kernel) if isinstance(term, Window) else 1)
    return result


def _memory(graph: Graph, shape: ProofShape, batch: int) -> int:
    code = shape.code
    weights = sum(math.prod(weight) for weight in graph.weights)
    arrays = sum(
        4 << layout.variables(each.sizes)
        for each in layout.witness_arrays(graph, batch, hidden_input=shape.hidden_input)
    )
    matrices = 4 * code.columns * sum(shape.row_counts)
    words = sum(min(8 * rows * code.length, 1 << 28) for rows in shape.row_counts)
    tree = 64 << shape.leaf_variables
    sums = sum(48 << count for count in sum_variables(graph, batch))
    return _RESIDENT + 16 * weights + 2 * arrays + matrices + words + tree + sums
