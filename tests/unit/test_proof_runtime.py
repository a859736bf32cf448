"""The runtime computes what the specification says, checked against plain Python integers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import proof_models
import pytest
from proof_models import MODELS, build, clip, inputs_for, table

from verispect.core.errors import ModelError, Reason, RequestError
from verispect.proof.bounds import compute_bounds
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Graph,
    Maximum,
    Multiply,
    Requantise,
    Scale,
    Window,
)
from verispect.proof.runtime import Runtime

# -- A second definition, place by place, without NumPy's arithmetic ----------------------------


def _at(array: Any, place: tuple[int, ...]) -> int:
    """The entry at `place`, zero outside."""
    if all(0 <= index < size for index, size in zip(place, array.shape, strict=True)):
        return int(array[place])
    return 0


def _term(term: Any, graph: Graph, weights: Any, tensors: Any, place: tuple[int, ...]) -> int:
    source = tensors[term.source]
    channel, *spatial = place
    if isinstance(term, Scale):
        return term.multiplier * int(source[place])
    if isinstance(term, Embed):
        moved = list(place)
        moved[term.axis] -= term.offset
        return term.multiplier * _at(source, tuple(moved))
    if isinstance(term, Window):
        total = 0
        for taps in itertools.product(*map(range, term.kernel)):
            where = [
                p * s + k - b
                for p, s, k, b in zip(spatial, term.strides, taps, term.before, strict=True)
            ]
            total += _at(source, (channel, *where))
        return term.multiplier * total
    _, outputs, inputs, *kernel = graph.weights[term.weight]
    group, output = divmod(channel, outputs)
    total = 0
    for i in range(inputs):
        for taps in itertools.product(*map(range, kernel)):
            where = [
                p * s + k * d - b
                for p, s, k, d, b in zip(
                    spatial, term.strides, taps, term.dilations, term.before, strict=True
                )
            ]
            weight = int(weights[term.weight][(group, output, i, *taps)])
            total += weight * _at(source, (group * inputs + i, *where))
    return total


def _requantised(graph: Graph, requantise: Requantise | None, value: int) -> int:
    if requantise is None:
        return value
    half = 1 << (requantise.shift - 1) if requantise.shift else 0
    quotient = (value + half) // (1 << requantise.shift)
    chosen = graph.tables[requantise.table]
    return int(chosen.values[quotient - chosen.first])


def _node(node: Any, graph: Graph, weights: Any, tensors: Any, place: tuple[int, ...]) -> int:
    if isinstance(node, Affine):
        value = sum(_term(term, graph, weights, tensors, place) for term in node.terms)
        if node.bias is not None:
            value += int(weights[node.bias][place[0]])
        return _requantised(graph, node.requantise, value)
    if isinstance(node, Multiply):
        right = tensors[node.right]
        where = tuple(min(p, size - 1) for p, size in zip(place, right.shape, strict=True))
        value = int(tensors[node.left][place]) * int(right[where])
        return _requantised(graph, node.requantise, value)
    source = tensors[node.source]
    found = []
    for tap in range(node.kernel):
        where = list(place)
        where[node.axis] = place[node.axis] * node.stride + tap - node.before
        if 0 <= where[node.axis] < source.shape[node.axis]:
            found.append(int(source[tuple(where)]))
    return max(found)


def _reference(graph: Graph, weights: Any, inputs: np.ndarray) -> list[np.ndarray]:
    tensors = [inputs.astype(object)]
    for node, shape in zip(graph.nodes, graph.shapes[1:], strict=True):
        result = np.empty(shape, object)
        for place in np.ndindex(*shape):
            result[place] = _node(node, graph, weights, tensors, place)
        tensors.append(result)
    return tensors


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_that_of_the_definition(name: str) -> None:
    """Each tensor equals the one that integers give, place by place."""
    graph, weights = MODELS[name]()
    inputs = inputs_for(graph, 2, seed=3)
    trace = Runtime(graph, weights).run(inputs)
    for request in range(2):
        expected = _reference(graph, weights, inputs[request])
        for tensor, reference in zip(trace.tensors, expected, strict=True):
            assert np.array_equal(tensor[request].astype(object), reference)


@pytest.mark.parametrize("name", MODELS)
def test_the_witness_fulfils_its_own_relations(name: str) -> None:
    """Quotient and limbs make up the value; each lookup is counted in its table."""
    graph, weights = MODELS[name]()
    runtime = Runtime(graph, weights)
    trace = runtime.run(inputs_for(graph, 3, seed=5))
    lookups = dict.fromkeys(("positive", "range"), 0) | dict.fromkeys(graph.used_tables, 0)
    for node, found in zip(graph.nodes, trace.nodes, strict=True):
        if isinstance(node, Maximum):
            assert len(found.stages) == node.kernel - 1
            lookups["positive"] += sum(stage.size for stage in found.stages)
        elif node.requantise is not None:
            assert len(found.limbs) == graph.limbs(node)
            assert all(int(limb.max()) < 1 << graph.range_bits for limb in found.limbs)
            chosen = graph.tables[node.requantise.table]
            assert np.array_equal(chosen.values[found.quotient - chosen.first], found.output)
            lookups["range"] += sum(limb.size for limb in found.limbs)
            lookups[node.requantise.table] += found.output.size
    expected = [count for count in lookups.values() if count]
    assert [int(each.sum()) for each in trace.multiplicities] == expected


def test_the_witness_is_in_the_order_of_the_specification() -> None:
    """Input, then per node quotient, limbs and output, then the multiplicities."""
    graph, weights = proof_models.two_limbs()
    trace = Runtime(graph, weights).run(inputs_for(graph, 1))
    (node,) = trace.nodes
    wanted = [trace.tensors[0], node.quotient, *node.limbs, node.output, *trace.multiplicities]
    assert len(trace.witness) == len(wanted) == 7
    assert all(one is other for one, other in zip(trace.witness, wanted, strict=True))
    low, high = (limb.astype(np.int64) for limb in node.limbs)
    value = trace.tensors[0].astype(np.int64) @ weights[0][0].T.astype(np.int64)
    assert np.array_equal((node.quotient.astype(np.int64) << 16) + low + (high << 8), value + 32768)


@pytest.mark.parametrize(("value", "expected"), [(127, 0), (128, 1), (-128, 0), (-129, -1), (0, 0)])
def test_halves_are_rounded_upward(value: int, expected: int) -> None:
    """Requantisation rounds to nearest, and halves upward whatever their sign."""
    node = Affine((Scale(0, 1),), None, Requantise(8, 0), (1,))
    graph, weights = build((1,), [node], [], [clip(8)], limits=(-500, 500))
    assert Runtime(graph, weights).run(np.array([[value]])).output.tolist() == [[expected]]


def test_large_sums_are_exact() -> None:
    """Sums near 2^52 keep their last bit."""
    node = Affine((Convolve(0, 0, (), (), ()),), None, None, (1,))
    weight = np.full((1, 1, 3), (1 << 31) - 1, np.int64)
    graph, weights = build((3,), [node], [weight], limits=(-32768, 32767))
    trace = Runtime(graph, weights).run(np.array([[32767, 32767, -1]]))
    assert trace.output[0, 0] == ((1 << 31) - 1) * (32767 * 2 - 1)


def test_a_batch_is_its_requests() -> None:
    """Requests of a batch do not touch each other."""
    graph, weights = proof_models.network()
    runtime = Runtime(graph, weights)
    inputs = inputs_for(graph, 4)
    together = runtime.run(inputs).output
    for request in range(4):
        assert np.array_equal(
            runtime.run(inputs[request : request + 1]).output[0], together[request]
        )


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((1, 4), np.int16),
        np.zeros((0, 5), np.int16),
        np.zeros((1, 5)),
        np.full((1, 5), 128),
        np.full((1, 5), -128),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: np.ndarray) -> None:
    """Another shape, real numbers, and integers outside the range are refused."""
    graph, weights = proof_models.dense()
    with pytest.raises(RequestError) as caught:
        Runtime(graph, weights).run(inputs)
    assert caught.value.reason is Reason.INVALID_REQUEST


def test_a_batch_that_is_too_large_is_refused() -> None:
    """No more requests than the limit fit one proof."""
    graph, weights = proof_models.dense()
    with pytest.raises(RequestError) as caught:
        Runtime(graph, weights).run(np.zeros((4097, 5), np.int16))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "weights",
    [
        (),
        (np.zeros((1, 3, 4), np.int16), np.zeros(3, np.int16)),
        (np.zeros((1, 3, 5)), np.zeros(3, np.int16)),
        (np.full((1, 3, 5), 1 << 31), np.zeros(3, np.int16)),
        (np.zeros((1, 3, 5), np.int16), np.full(3, 1 << 50)),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: Any) -> None:
    """Weights of another number, shape, type or size are not the graph's."""
    graph, _ = proof_models.dense()
    with pytest.raises(ModelError) as caught:
        Runtime(graph, weights)
    assert caught.value.reason is Reason.MALFORMED_MODEL


def test_a_model_that_could_leave_a_table_is_refused() -> None:
    """It is refused for the input that nobody has sent yet."""
    node = Affine((Convolve(0, 0, (), (), ()),), None, Requantise(0, 0), (1,))
    graph, weights = build((1,), [node], [np.array([[[2]]])], [clip(256)])
    with pytest.raises(ModelError):
        compute_bounds(graph, weights)


def test_a_model_that_could_reach_two_to_the_52_is_refused() -> None:
    """Sums that a double could not hold exactly are refused beforehand."""
    nodes = [Affine((Scale(each, (1 << 31) - 1),), None, None, (1,)) for each in range(2)]
    graph, weights = build((1,), nodes)
    with pytest.raises(ModelError):
        compute_bounds(graph, weights)


@pytest.mark.parametrize("name", MODELS)
def test_bounds_hold_for_inputs_at_the_ends(name: str) -> None:
    """No value that extreme inputs give lies outside the bounds."""
    graph, weights = MODELS[name]()
    runtime = Runtime(graph, weights)
    source = graph.input
    rng = np.random.default_rng(9)
    inputs = rng.choice([source.minimum, 0, source.maximum], (16, *source.shape)).astype(np.int16)
    trace = runtime.run(inputs)
    for bounds, found in zip(runtime.bounds, trace.nodes, strict=True):
        assert bounds.output[0] <= int(found.output.min())
        assert int(found.output.max()) <= bounds.output[1]
        if found.quotient is not None:
            assert bounds.quotient[0] <= int(found.quotient.min())
            assert int(found.quotient.max()) <= bounds.quotient[1]


def test_tensors_that_lie_apart_do_not_add_up() -> None:
    """The bounds of a concatenation are those of its parts."""
    nodes = [Affine((Embed(0, 0, 0, 1), Embed(0, 0, 4, 1)), None, Requantise(0, 0), (8,))]
    identity = table(-128, 256, lambda q: q)
    graph, weights = build((4,), nodes, [], [identity])
    assert compute_bounds(graph, weights)[0].quotient == (-127, 127)
