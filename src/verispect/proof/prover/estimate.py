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
from verispect.proof.field import BASE_BYTES, ELEMENT_BYTES
from verispect.proof.graph import Affine, Convolve, Graph, Maximum, Multiply
from verispect.proof.graph_parts import Window
from verispect.proof.merkle import HASH_BYTES, SALT_BYTES
from verispect.proof.parameters import (
    Code,
    ProofShape,
    block_variables,
    proof_shape,
    sum_variables,
)
from verispect.proof.prover import kernels_sumcheck as kernels
from verispect.proof.prover.commit import KEPT_BYTES
from verispect.proof.prover.prove import KEPT_WEIGHTS_BYTES

_LEAF: Final = 200.0
"""Nanoseconds per leaf of the lookups, filling, building and proving the tree."""
_CODE_WORD: Final = 1.5
"""Per element of a code word and binary logarithm of a row's length."""
_HASHED: Final = 4.0
"""Per element of a code word, in its leaf's hash."""
_AGAIN: Final = 0.17
"""Per entry and position, where code words are too many to be kept and are computed again."""
_PLACE: Final = 200.0
"""Per place of a code: two hashes and, where the commitment hides, a salt."""
_ENTRY: Final = 6.0
"""Per committed entry: padding, contractions and the combination."""
_PRODUCT: Final = 60.0
"""Per entry of a node's sum."""
_ACCUMULATION: Final = 0.6
"""Per multiplication of the run itself."""
_ROUND: Final = 45_000.0
"""Per message: Python, hashing, and the kernels' calls."""
_OPENED: Final = 8_000.0
"""Per position: columns and nodes."""
_POLYNOMIAL: Final = 100_000.0
"""Per polynomial: its views."""
_REFERENCE: Final = 22_000.0
"""What the calibration took, in nanoseconds, where these numbers were measured."""
_REST: Final = 400
"""Octets of a proof beside its long fields."""
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
    return Estimate(nanoseconds / 1e9, _memory(graph, shape, batch), proof_bytes(shape))


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


def proof_bytes(shape: ProofShape) -> int:
    """Return the size of a proof whose positions differ as often as they do on average."""
    code = shape.code
    known = distinct = _hit(code.length, code.queries)
    shown = 0.0
    for level in range(code.log_length):
        # Shown are the siblings that are not known: two for every parent, less those that are.
        parents = _hit(code.length >> (level + 1), distinct)
        shown += max(0.0, 2 * parents - known)
        known = parents
    columns = sum(
        BASE_BYTES * rows + (SALT_BYTES if code.hides else 0) for rows in shape.row_counts
    )
    opened = distinct * columns + shown * HASH_BYTES * len(shape.row_counts)
    return round(opened) + ELEMENT_BYTES * (shape.sent_elements + code.degree_bound) + _REST


def _hit(places: int, draws: float) -> float:
    """Return how many of `places` are drawn on average."""
    return places * -math.expm1(draws * math.log1p(-1 / places)) if places > 1 else 1.0


def _kept_bytes(shape: ProofShape) -> list[int]:
    """Return how large the code words of each commitment are, 0 where they are not kept."""
    limits = [KEPT_WEIGHTS_BYTES] + [KEPT_BYTES] * (len(shape.row_counts) - 1)
    sizes = [BASE_BYTES * rows * shape.code.length for rows in shape.row_counts]
    return [size if size <= limit else 0 for size, limit in zip(sizes, limits, strict=True)]


def _unkept(shape: ProofShape) -> int:
    """Return the rows whose code words are computed again for an opening."""
    kept = _kept_bytes(shape)
    return sum(rows for rows, size in zip(shape.row_counts, kept, strict=True) if not size)


def _committed(shape: ProofShape) -> list[int]:
    """Return the rows committed to for every proof: all but the weights."""
    return list(shape.row_counts[1:])


def _work(graph: Graph, shape: ProofShape, batch: int) -> float:
    code, hidden = shape.code, shape.hidden_input
    rows = _committed(shape)
    word = _CODE_WORD * code.column_variables + _HASHED
    committed = sum(rows) * code.length * word + len(rows) * code.length * _PLACE
    again = _unkept(shape) * code.columns * code.queries * _AGAIN
    used = sum(1 << count for count in block_variables(graph, batch, hidden_input=hidden))
    entries = sum(shape.row_counts) * code.columns * _ENTRY
    sums = sum(1 << count for count in sum_variables(graph, batch)) * _PRODUCT
    messages = shape.message_elements / 3 + shape.products * 4
    opened = code.queries * len(shape.row_counts) * _OPENED / 4
    tails = shape.row_counts[0] * (code.degree_bound - code.columns) * 20.0
    return (
        committed
        + again
        + entries
        + sums
        + tails
        + opened
        + messages * _ROUND
        + shape.polynomials * _POLYNOMIAL
        + used * _LEAF
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
    words = sum(_kept_bytes(shape))
    tree = 64 << shape.leaf_variables
    sums = sum(48 << count for count in sum_variables(graph, batch))
    return _RESIDENT + 16 * weights + 2 * arrays + matrices + words + tree + sums
