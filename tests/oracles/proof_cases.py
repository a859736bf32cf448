"""Small integer models, one per operator and a few of several, for the oracle."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

from oracles.proof_maker import Model
from verispect.proof.binary_fraction import BinaryFraction
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Epilogue,
    Graph,
    Input,
    Maximum,
    Multiply,
    Node,
    Output,
    Requantise,
    Scale,
    Shape,
    Table,
    Window,
)

UNIT = BinaryFraction(1, 0)


def table(half: int, function: Callable[[int], int]) -> Table:
    values = [function(q) for q in range(-half, half)]
    return Table(-half, struct.pack(f"<{len(values)}h", *values))


def relu(q: int) -> int:
    return max(0, min(q, 31))


def clip(q: int) -> int:
    return max(-20, min(q, 19))


def model(
    shape: Shape,
    weights: list[Shape],
    tables: list[Table],
    nodes: list[Node],
    *,
    seed: int,
    output: int | None = None,
    size: int = 7,
    budget: int = 0,
    reach: int = 15,
) -> Model:
    graph = Graph(
        input=Input(shape, -reach, reach, UNIT, tuple(range(len(shape)))),
        weights=tuple(weights),
        tables=tuple(tables),
        nodes=tuple(nodes),
        output=Output(len(nodes) if output is None else output, UNIT, Epilogue.NONE),
        range_bits=8,
    )
    rng = random.Random(seed)
    values = [[rng.randint(-size, size) for _ in range(math.prod(shape))] for shape in weights]
    return Model(graph, values, budget=budget, seed=seed)


def dense(source: int, weight: int) -> Convolve:
    return Convolve(source, weight, (), (), ())


def perceptron(budget: int = 0) -> Model:
    """Two layers, the second raw."""
    return model(
        (6,),
        [(1, 5, 6), (5,), (1, 3, 5), (3,)],
        [table(32, relu)],
        [
            Affine((dense(0, 0),), 1, Requantise(8, 0), (5,)),
            Affine((dense(1, 2),), 3, None, (3,)),
        ],
        seed=1,
        size=40,
        budget=budget,
    )


def convolution(budget: int = 0) -> Model:
    """Strides, padding, dilation and a global layer behind them."""
    return model(
        (2, 5, 6),
        [(1, 3, 2, 3, 2), (3,), (1, 2, 3, 2, 5)],
        [table(32, clip), table(16, relu)],
        [
            Affine((Convolve(0, 0, (2, 1), (1, 1), (1, 2)),), 1, Requantise(8, 0), (3, 2, 5)),
            Affine((Convolve(1, 2, (1, 1), (0, 0), (1, 1)),), None, Requantise(8, 1), (2, 1, 1)),
        ],
        seed=2,
        size=30,
        budget=budget,
    )


def grouped(budget: int = 0) -> Model:
    """A depthwise and a grouped layer over three groups, which pad to four."""
    return model(
        (3, 5),
        [(3, 1, 1, 3), (3, 2, 1, 1)],
        [table(16, clip)],
        [
            Affine((Convolve(0, 0, (1,), (1,), (1,)),), None, Requantise(8, 0), (3, 5)),
            Affine((Convolve(1, 1, (2,), (0,), (1,)),), None, Requantise(0, 0), (6, 3)),
        ],
        seed=3,
        size=2,
        budget=budget,
        reach=5,
    )


def multiplied(budget: int = 0) -> Model:
    """Squeeze and excite: a window over everything, then a product that spreads it."""
    return model(
        (3, 2, 3),
        [(3,)],
        [table(64, clip), table(32, clip)],
        [
            Affine((Window(0, 16, (2, 3), (1, 1), (0, 0)),), 0, Requantise(8, 0), (3, 1, 1)),
            Multiply(0, 1, Requantise(8, 1)),
        ],
        seed=4,
        size=90,
        budget=budget,
    )


def pooled(budget: int = 0) -> Model:
    """Maxima along both axes, with padding that takes the fill."""
    return model(
        (2, 4, 5),
        [],
        [table(16, lambda q: clip(-q))],
        [
            Affine((Scale(0, -1),), None, Requantise(0, 0), (2, 4, 5)),
            Maximum(1, 1, 3, 2, 1, 1),
            Maximum(2, 2, 2, 2, 0, 1),
        ],
        seed=5,
        budget=budget,
    )


def joined(budget: int = 0) -> Model:
    """Two tensors beside each other along channels and along an axis, and a residual."""
    return model(
        (2, 3),
        [(1, 3, 2, 1)],
        [table(32, clip)],
        [
            Affine((Convolve(0, 0, (1,), (0,), (1,)),), None, Requantise(8, 0), (3, 3)),
            Affine((Embed(0, 0, 0, 2), Embed(1, 0, 2, -1)), None, Requantise(0, 0), (5, 3)),
            Affine((Embed(2, 1, 1, 1), Window(2, 3, (2,), (1,), (2,))), None, None, (5, 5)),
        ],
        seed=6,
        size=60,
        budget=budget,
    )


def looked_up(budget: int = 0) -> Model:
    """No sums at all: a table on the input."""
    return model(
        (3,),
        [],
        [table(16, relu)],
        [Affine((Scale(0, 1),), None, Requantise(0, 0), (3,))],
        seed=7,
        budget=budget,
    )


CASES = [perceptron, convolution, grouped, multiplied, pooled, joined, looked_up]


def some_inputs(held: Model, batch: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    low, high = held.graph.input.minimum, held.graph.input.maximum
    size = math.prod(held.graph.input.shape)
    return [[rng.randint(low, high) for _ in range(size)] for _ in range(batch)]
