"""Small integer models made by hand, one for each thing a graph can say.

`MODELS` maps a name to a function that returns `(graph, weights)`; `inputs_for` draws a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from verispect.proof.graph import (
    Affine,
    BinaryFraction,
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
    Table,
    Window,
)

Weights = tuple[np.ndarray, ...]
Model = tuple[Graph, Weights]

ONE = BinaryFraction.of(1.0)


def table(first: int, size: int, function: Callable[[np.ndarray], np.ndarray]) -> Table:
    """Return the table of `function` on `size` integers from `first`."""
    values = function(np.arange(first, first + size))
    return Table(first, np.asarray(values).astype("<i2").tobytes())


def relu(size: int, top: int = 127) -> Table:
    """Return the table of `clip(q, 0, top)` on `size` integers around 0."""
    return table(-size // 2, size, lambda q: np.clip(q, 0, top))


def clip(size: int, limit: int = 127) -> Table:
    """Return the table of `clip(q, -limit, limit)` on `size` integers around 0."""
    return table(-size // 2, size, lambda q: np.clip(q, -limit, limit))


def build(
    shape: Sequence[int],
    nodes: Sequence[Node],
    weights: Sequence[np.ndarray] = (),
    tables: Sequence[Table] = (),
    *,
    range_bits: int = 8,
    limits: tuple[int, int] = (-127, 127),
    epilogue: Epilogue = Epilogue.NONE,
) -> Model:
    """Return a model whose output is its last node."""
    graph = Graph(
        Input(tuple(shape), *limits, ONE, tuple(range(len(shape)))),
        tuple(weight.shape for weight in weights),
        tuple(tables),
        tuple(nodes),
        Output(len(nodes), ONE, epilogue),
        range_bits,
    )
    return graph, tuple(weights)


def _draw(seed: int, *shape: int, limit: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape, dtype=np.int16)


def inputs_for(graph: Graph, batch: int, seed: int = 0) -> np.ndarray:
    """Draw a batch of inputs from the graph's range."""
    rng = np.random.default_rng(seed)
    source = graph.input
    shape = (batch, *source.shape)
    return rng.integers(source.minimum, source.maximum + 1, shape, dtype=np.int16)


def dense() -> Model:
    """A fully connected layer without requantisation."""
    node = Affine((Convolve(0, 0, (), (), ()),), 1, None, (3,))
    return build((5,), [node], [_draw(1, 1, 3, 5), _draw(2, 3)])


def mlp() -> Model:
    """Two layers, 8-bit limbs."""
    nodes = [
        Affine((Convolve(0, 0, (), (), ()),), 1, Requantise(8, 0), (9,)),
        Affine((Convolve(1, 2, (), (), ()),), 3, None, (4,)),
    ]
    weights = [_draw(1, 1, 9, 12), _draw(2, 9), _draw(3, 1, 4, 9), _draw(4, 4)]
    return build((12,), nodes, weights, [relu(256)], epilogue=Epilogue.SOFTMAX)


def two_limbs() -> Model:
    """A remainder of 16 bits in two limbs of 8."""
    node = Affine((Convolve(0, 0, (), (), ()),), None, Requantise(16, 0), (6,))
    return build((7,), [node], [_draw(1, 1, 6, 7, limit=9000)], [clip(512)])


def sixteen() -> Model:
    """A remainder of 16 bits in one limb."""
    node = Affine((Convolve(0, 0, (), (), ()),), None, Requantise(16, 0), (6,))
    weights = [_draw(1, 1, 6, 7, limit=9000)]
    return build((7,), [node], weights, [clip(512)], range_bits=16)


def no_shift() -> Model:
    """A table without a remainder."""
    node = Affine((Convolve(0, 0, (), (), ()),), 1, Requantise(0, 0), (3,))
    step = table(-2048, 4096, lambda q: q > 0)
    return build((5,), [node], [_draw(1, 1, 3, 5, limit=2), _draw(2, 3)], [step])


def convolution() -> Model:
    """Strides, padding and sizes that are no powers of two."""
    term = Convolve(0, 0, (2, 1), (1, 1), (1, 1))
    node = Affine((term,), 1, Requantise(8, 0), (5, 3, 7))
    return build((3, 6, 7), [node], [_draw(1, 1, 5, 3, 3, 3), _draw(2, 5)], [relu(1024)])


def dilated() -> Model:
    """A convolution along one axis with a dilation."""
    node = Affine((Convolve(0, 0, (1,), (2,), (2,)),), None, Requantise(8, 0), (4, 11))
    return build((2, 11), [node], [_draw(1, 1, 4, 2, 3)], [relu(256)])


def depthwise() -> Model:
    """One group per channel."""
    node = Affine((Convolve(0, 0, (1, 1), (1, 1), (1, 1)),), 1, Requantise(8, 0), (6, 5, 5))
    return build((6, 5, 5), [node], [_draw(1, 6, 1, 1, 3, 3), _draw(2, 6)], [clip(256)])


def grouped() -> Model:
    """Groups of several channels."""
    node = Affine((Convolve(0, 0, (), (), ()),), 1, Requantise(8, 0), (6,))
    return build((12,), [node], [_draw(1, 3, 2, 4), _draw(2, 6)], [clip(256)])


def covering() -> Model:
    """A kernel that covers its source, after a convolution."""
    nodes = [
        Affine((Convolve(0, 0, (1, 1), (0, 0), (1, 1)),), 1, Requantise(8, 0), (4, 3, 3)),
        Affine((Convolve(1, 2, (1, 1), (0, 0), (1, 1)),), 3, None, (5, 1, 1)),
    ]
    weights = [_draw(1, 1, 4, 1, 3, 3), _draw(2, 4), _draw(3, 1, 5, 4, 3, 3), _draw(4, 5)]
    return build((1, 5, 5), nodes, weights, [relu(256)])


def multiply() -> Model:
    """A product of two tensors of one shape."""
    nodes = [
        Affine((Convolve(0, 0, (), (), ()),), None, Requantise(8, 0), (5,)),
        Multiply(1, 0, Requantise(8, 1)),
    ]
    return build((5,), nodes, [_draw(1, 1, 5, 5)], [clip(128, 60), clip(128, 63)])


def excitation() -> Model:
    """Squeeze and excitation: a pool, a layer, a product along the axes of size 1."""
    nodes = [
        Affine((Window(0, 3, (4, 3), (1, 1), (0, 0)),), None, Requantise(8, 0), (3, 1, 1)),
        Affine((Convolve(1, 0, (1, 1), (0, 0), (1, 1)),), 1, Requantise(0, 1), (3, 1, 1)),
        Multiply(0, 2, Requantise(8, 2)),
    ]
    tables = [clip(64), table(-2048, 4096, lambda q: 50 + q // 64), clip(256)]
    return build((3, 4, 3), nodes, [_draw(1, 1, 3, 3, 1, 1), _draw(2, 3)], tables)


def maximum() -> Model:
    """A pool of 3 x 2 with padding, as two maxima, of a signed tensor."""
    nodes = [Maximum(0, 1, 3, 2, 1, 1), Maximum(1, 2, 2, 2, 0, 1)]
    return build((3, 6, 5), nodes, limits=(-100, 90))


def window() -> Model:
    """An average with padding, strides and a multiplier."""
    node = Affine((Window(0, -5, (3, 2), (2, 1), (1, 0)),), None, Requantise(8, 0), (3, 3, 4))
    return build((3, 6, 5), [node], [], [clip(64)])


def residual() -> Model:
    """A convolution plus a multiple of its source, and a second convolution in the same sum."""
    nodes = [
        Affine(
            (
                Convolve(0, 0, (1,), (1,), (1,)),
                Scale(0, 40),
                Convolve(0, 1, (1,), (0,), (1,)),
            ),
            2,
            Requantise(8, 0),
            (4, 6),
        ),
        Affine((Scale(1, 1), Scale(0, -2)), None, None, (4, 6)),
    ]
    weights = [_draw(1, 1, 4, 4, 3), _draw(2, 1, 4, 4, 1), _draw(3, 4)]
    return build((4, 6), nodes, weights, [relu(512)])


def concatenate() -> Model:
    """Two tensors behind one another along the channels, and one along a spatial axis."""
    nodes = [
        Affine((Convolve(0, 0, (1,), (0,), (1,)),), None, Requantise(8, 0), (3, 5)),
        Affine((Embed(0, 0, 0, 2), Embed(1, 0, 2, 1)), None, Requantise(0, 1), (5, 5)),
        Affine((Embed(2, 1, 1, 3), Embed(2, 1, 6, -1)), None, None, (5, 11)),
    ]
    return build((2, 5), nodes, [_draw(1, 1, 3, 2, 1)], [clip(64), clip(1024)])


def network() -> Model:
    """A little of everything: convolution, pools, residual, excitation, a covering layer."""
    nodes = [
        Affine((Convolve(0, 0, (1, 1), (1, 1), (1, 1)),), 1, Requantise(8, 0), (6, 8, 8)),
        Maximum(1, 1, 2, 2, 0, 0),
        Maximum(2, 2, 2, 2, 0, 0),
        Affine(
            (Convolve(3, 2, (1, 1), (1, 1), (1, 1)), Scale(3, 200)), 3, Requantise(8, 0), (6, 4, 4)
        ),
        Affine((Window(4, 1, (4, 4), (1, 1), (0, 0)),), None, Requantise(8, 1), (6, 1, 1)),
        Multiply(4, 5, Requantise(8, 1)),
        Affine((Convolve(6, 4, (1, 1), (0, 0), (1, 1)),), 5, None, (7, 1, 1)),
    ]
    weights = [
        _draw(1, 1, 6, 2, 3, 3),
        _draw(2, 6),
        _draw(3, 6, 1, 1, 3, 3),
        _draw(4, 6),
        _draw(5, 1, 7, 6, 4, 4),
        _draw(6, 7),
    ]
    return build((2, 8, 8), nodes, weights, [relu(1024), clip(128)], epilogue=Epilogue.ARGMAX)


MODELS: dict[str, Callable[[], Model]] = {
    function.__name__: function
    for function in (
        dense,
        mlp,
        two_limbs,
        sixteen,
        no_shift,
        convolution,
        dilated,
        depthwise,
        grouped,
        covering,
        multiply,
        excitation,
        maximum,
        window,
        residual,
        concatenate,
        network,
    )
}
