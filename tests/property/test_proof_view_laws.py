"""Functionals in closed form are those written down entry by entry, for any geometry."""

from __future__ import annotations

import math
import random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracles.proof_algebra import E, P, extension
from oracles.proof_cases import UNIT, table
from oracles.proof_witness import Witness
from verispect.proof.field import Element
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Epilogue,
    Graph,
    Input,
    Maximum,
    Node,
    Output,
    Requantise,
    Scale,
    Window,
)
from verispect.proof.layout import variables
from verispect.proof.verifier.algebra import extension_of_table
from verispect.proof.verifier.views import TensorViews, View, inside, ones

_SIZE = st.integers(1, 6)


def _graph(shape: tuple[int, ...], node: Node, weights: tuple[tuple[int, ...], ...] = ()) -> Graph:
    return Graph(
        input=Input(shape, -3, 5, UNIT, tuple(range(len(shape)))),
        weights=weights,
        tables=(table(8, lambda q: q),) if not isinstance(node, Maximum) else (),
        nodes=(node,),
        output=Output(1, UNIT, Epilogue.NONE),
        range_bits=8,
    )


def _witness(graph: Graph, batch: int) -> Witness:
    weights = [[0] * math.prod(shape) for shape in graph.weights]
    return Witness(graph, weights, [[]] * batch, False, run=False)


class _Points:
    """Random points, for both implementations."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def draw(self, count: int) -> tuple[list[E], tuple[Element, ...]]:
        plain = [E(self._rng.randrange(P), self._rng.randrange(P)) for _ in range(count)]
        return plain, tuple(Element(z.a, z.b) for z in plain)


def _same(vector: list[E], view: View, points: _Points) -> None:
    plain, held = points.draw(len(vector).bit_length() - 1)
    expected, actual = extension(vector, plain), view.at(held)
    assert (expected.a, expected.b) == (actual.a, actual.b)


@st.composite
def _windows(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """For up to two axes: size, kernel, stride, dilation, before, outputs."""
    return tuple(
        (
            draw(_SIZE),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
            draw(st.integers(0, 4)),
            draw(_SIZE),
        )
        for _ in range(draw(st.integers(0, 2)))
    )


@settings(deadline=None, max_examples=60)
@given(
    windows=_windows(),
    groups=st.sampled_from([(1, 3, 5), (1, 1, 1), (3, 2, 1), (2, 1, 4), (5, 2, 2)]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_convolutions(
    windows: tuple[tuple[int, ...], ...], groups: tuple[int, int, int], batch: int, seed: int
) -> None:
    """Any stride, dilation and padding, windows that lie wholly outside among them."""
    count, outputs, inputs = groups
    sizes, kernels, strides, dilations, before, results = (
        zip(*windows, strict=True) if windows else [()] * 6
    )
    term = Convolve(0, 0, tuple(strides), tuple(before), tuple(dilations))
    node = Affine((term,), None, Requantise(8, 0), (count * outputs, *results))
    weight = (count, outputs, inputs, *kernels)
    graph = _graph((count * inputs, *sizes), node, (weight,))
    w, views, points = _witness(graph, batch), TensorViews(graph, batch), _Points(seed)
    z, held_z = points.draw(variables((batch, *node.shape)))
    rho, held_rho = points.draw(variables((count, inputs, *kernels)))
    _same(w.convolved(0, term, z, rho), views.convolved(0, term, held_z, held_rho), points)


@settings(deadline=None, max_examples=60)
@given(windows=_windows(), channels=_SIZE, batch=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_windows(
    windows: tuple[tuple[int, ...], ...], channels: int, batch: int, seed: int
) -> None:
    """Sums over windows, channel by channel."""
    sizes, kernels, strides, _, before, results = (
        zip(*windows, strict=True) if windows else [()] * 6
    )
    term = Window(0, -7, tuple(kernels), tuple(strides), tuple(before))
    node = Affine((term,), None, Requantise(8, 0), (channels, *results))
    graph = _graph((channels, *sizes), node)
    w, views, points = _witness(graph, batch), TensorViews(graph, batch), _Points(seed)
    z, held = points.draw(variables((batch, *node.shape)))
    _same(w.linear(0, term, z), views.windowed(0, term, held), points)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(_SIZE, min_size=1, max_size=3),
    axis=st.integers(0, 2),
    offset=st.integers(0, 5),
    after=st.integers(0, 5),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_embeddings_and_scales(
    shape: list[int], axis: int, offset: int, after: int, batch: int, seed: int
) -> None:
    """A tensor placed anywhere along an axis, and one taken as it is."""
    assume(axis < len(shape))
    result = list(shape)
    result[axis] += offset + after
    term = Embed(0, axis, offset, 11)
    node = Affine((term,), None, Requantise(8, 0), tuple(result))
    graph = _graph(tuple(shape), node)
    w, views, points = _witness(graph, batch), TensorViews(graph, batch), _Points(seed)
    z, held = points.draw(variables((batch, *result)))
    _same(w.linear(0, term, z), views.embedded(0, term, held), points)

    scale = Scale(0, 5)
    node = Affine((scale,), None, Requantise(8, 0), tuple(shape))
    graph = _graph(tuple(shape), node)
    w = _witness(graph, batch)
    sizes = (batch, *shape)
    z, held = points.draw(variables(sizes))
    _same(w.linear(0, scale, z), inside(0, sizes, held, Element(5)), points)
    plain, actual = w.ones(sizes, z), ones(sizes, held)
    assert (plain.a, plain.b) == (actual.a, actual.b)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=2),
    axis=st.integers(1, 2),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 4),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_taps(
    sizes: list[int],
    axis: int,
    kernel: int,
    stride: int,
    before: int,
    after: int,
    batch: int,
    seed: int,
) -> None:
    """Every tap of a maximum, with the constant for places outside the source."""
    assume(axis <= len(sizes) and before < kernel and after < kernel)
    assume(sizes[axis - 1] + before + after >= kernel)
    node = Maximum(0, axis, kernel, stride, before, after)
    try:
        graph = _graph((3, *sizes), node)
    except Exception:  # noqa: BLE001 - whichever rule refuses it, there is no such graph.
        assume(False)
    w, views, points = _witness(graph, batch), TensorViews(graph, batch), _Points(seed)
    z, held = points.draw(variables(views.sizes(1)))
    for k in range(kernel):
        vector, constant = w.tap(0, k, z)
        view, fill = views.tap(0, node, k, held)
        assert (constant.a, constant.b) == (fill.a, fill.b)
        _same(vector, view, points)


@settings(deadline=None, max_examples=20)
@given(bits=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_tables(bits: int, seed: int) -> None:
    """A table's column at a point."""
    rng = random.Random(seed)
    half = 1 << (bits - 1)
    held = table(half, lambda _: rng.randint(-(2**15), 2**15 - 1))
    plain, point = _Points(seed).draw(bits)
    expected = extension([E(int(value)) for value in held.values], plain)
    actual = extension_of_table(held.values, point)
    assert (expected.a, expected.b) == (actual.a, actual.b)
