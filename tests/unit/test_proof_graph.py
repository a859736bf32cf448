"""The graph of an integer model: one encoding, every rule enforced."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import proof_models
import pytest
from proof_models import MODELS, ONE, build, clip, relu

from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.proof import graph_parts
from verispect.proof.graph import (
    MAX_TERMS,
    Affine,
    BinaryFraction,
    Convolve,
    Embed,
    Epilogue,
    Graph,
    Input,
    Maximum,
    Multiply,
    Requantise,
    Scale,
    Table,
    Window,
)


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_reads_back_as_it_was_written(name: str) -> None:
    """Encoding and decoding are inverse, on bytes too, and the digest follows the bytes."""
    graph, _ = MODELS[name]()
    data = graph.encode()
    again = Graph.decode(data)
    assert again == graph
    assert again.encode() == data
    assert again.digest() == graph.digest()


def test_steps_and_order_are_kept() -> None:
    """How an input is read is part of the graph."""
    graph, _ = proof_models.mlp()
    source = Input((12,), 0, 2, ONE, (0,), ((-1.5, 2.0), *((0.5,),) * 11))
    again = Graph.decode(replace(graph, input=source).encode())
    assert again.input.steps == source.steps
    assert again.digest() != graph.digest()


def test_every_damaged_byte_is_refused_or_is_another_graph() -> None:
    """No damage to a graph goes unnoticed, and only our errors come out."""
    data = proof_models.residual()[0].encode()
    digest = Graph.decode(data).digest()
    for place in range(len(data)):
        for flip in (0x01, 0x80):
            damaged = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
            try:
                assert Graph.decode(damaged).digest() != digest
            except Error:
                continue


def test_every_truncation_is_refused() -> None:
    """A graph cut short is malformed."""
    data = proof_models.excitation()[0].encode()
    for end in range(0, len(data), 7):
        with pytest.raises(MalformedError):
            Graph.decode(data[:end])


def _damaged(change: Callable[[dict[int, Any]], None]) -> bytes:
    value = decode(proof_models.network()[0].encode())
    change(value)
    return encode(value)


def _set(*path: int) -> Callable[[Any], Callable[[dict[int, Any]], None]]:
    def with_value(new: Any) -> Callable[[dict[int, Any]], None]:
        def change(value: Any) -> None:
            for key in path[:-1]:
                value = value[key]
            value[path[-1]] = new

        return change

    return with_value


@pytest.mark.parametrize(
    "change",
    [
        _set(2, 1)(1),  # A minimum above 0.
        _set(2, 2)(1 << 15),
        _set(2, 3)([2, 0]),  # An even mantissa.
        _set(2, 3)([1, 972]),
        _set(2, 3)([0, 0]),
        _set(2, 4)([0, 1, 1]),
        _set(2, 5)([b""]),
        _set(2, 0)([2, 8, 8, 1]),
        _set(2, 0)([2, 8, 65537]),
        _set(2, 0)([2, 0, 8]),
        _set(3, 0)([1, 6, 2, 3]),
        _set(3, 1)([7]),
        _set(4, 0, 0)(1 << 17),
        _set(4, 0, 1)(b"\0" * 6),
        _set(4, 0, 1)(b"\0" * 3),
        _set(5, 0, 0)(4),
        _set(5, 0, 1, 0, 1)(1),  # A source that does not come before.
        _set(5, 0, 1, 0, 1)(-1),
        _set(5, 1, 1)(9),
        _set(5, 0, 1, 0, 2)(17),
        _set(5, 0, 1, 0, 3)([1]),
        _set(5, 0, 1, 0, 3)([0, 1]),
        _set(5, 0, 1)([]),
        _set(5, 0, 2)(0),
        _set(5, 0, 3)([7, 0]),
        _set(5, 0, 3)([40, 0]),
        _set(5, 0, 3)([8, 2]),
        _set(5, 1, 3)(1),
        _set(5, 1, 4)(0),
        _set(5, 1, 5)(2),
        _set(5, 5, 2)(1),
        _set(5, 5, 3)(None),
        _set(6, 0)(8),
        _set(6, 2)(3),
        _set(6, 2)(True),
        _set(7)(12),
        lambda value: value.pop(7),
        lambda value: value.update({8: 0}),
        lambda value: value[5].pop(),  # Weights that nobody uses.
    ],
)
def test_what_breaks_a_rule_is_malformed(change: Callable[[dict[int, Any]], None]) -> None:
    """Each rule of the specification refuses the graph that breaks it."""
    with pytest.raises(MalformedError) as caught:
        Graph.decode(_damaged(change))
    assert caught.value.reason is Reason.MALFORMED_MODEL


def test_another_version_is_unsupported() -> None:
    """A later version is not taken for damage."""
    with pytest.raises(UnsupportedError) as caught:
        Graph.decode(_damaged(_set(1)(2)))
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION


def _affine(*terms: Any, shape: tuple[int, ...] = (4, 6)) -> Affine:
    return Affine(terms, None, None, shape)


@pytest.mark.parametrize(
    "node",
    [
        _affine(Scale(0, 0)),
        _affine(Scale(0, 1 << 31)),
        _affine(Scale(0, 1), shape=(4, 5)),
        _affine(Scale(0, 1), shape=(4,)),
        _affine(Window(0, 1, (2,), (1,), (-1,))),
        _affine(Window(0, 1, (2, 2), (1,), (0,))),
        _affine(Window(0, 1, (2,), (1,), (0,)), shape=(3, 6)),
        _affine(Embed(0, 2, 0, 1)),
        _affine(Embed(0, 1, 1, 1)),
        _affine(Embed(0, 0, 0, 1), shape=(5, 7)),
        _affine(*(Scale(0, 1),) * (MAX_TERMS + 1)),
        Maximum(0, 0, 2, 1, 0, 0),
        Maximum(0, 2, 2, 1, 0, 0),
        Maximum(0, 1, 9, 1, 0, 0),
        Maximum(0, 1, 2, 1, 2, 0),
        Multiply(0, 1, Requantise(8, 0)),
    ],
)
def test_a_node_that_does_not_fit_is_refused(node: Any) -> None:
    """Shapes, offsets, multipliers and windows are checked when a graph is made."""
    with pytest.raises(MalformedError):
        build((4, 6), [node])


def test_groups_must_be_powers_of_two_inside() -> None:
    """Channels of a group that are no power of two would not stay together when padded."""
    node = Affine((Convolve(0, 0, (), (), ()),), None, None, (4,))
    with pytest.raises(MalformedError):
        build((6,), [node], [np.ones((2, 2, 3), np.int16)])


def test_a_maximum_of_a_raw_tensor_is_refused() -> None:
    """What a raw tensor can hold is unknown, and so is what a maximum would fill with."""
    nodes = [_affine(Scale(0, 3)), Maximum(1, 1, 2, 2, 0, 0)]
    with pytest.raises(MalformedError):
        build((4, 6), nodes)


def test_the_positive_part_holds_every_difference() -> None:
    """Its table has the smallest power of two that holds all differences of a source's values."""
    graph, _ = proof_models.maximum()  # Values from -100 to 90.
    assert graph.positive_part_bits == 9
    narrow, _ = build((1, 4), [Maximum(0, 1, 2, 2, 0, 0)], limits=(0, 127))
    assert narrow.positive_part_bits == 8
    assert proof_models.mlp()[0].positive_part_bits is None


def test_values_outside_a_source_are_the_smallest_it_can_have() -> None:
    """The graph alone says what a tensor can hold."""
    graph, _ = proof_models.network()
    assert graph.value_range(0) == (-127, 127)
    assert graph.value_range(3) == (0, 127)
    assert graph.value_range(7) is None


@pytest.mark.parametrize("value", [1.0, 0.1, 5e-324, 1.7976931348623157e308, 1 / 255])
def test_a_scale_is_a_double_exactly(value: float) -> None:
    """A scale is the double it was made of."""
    assert float(BinaryFraction.of(value)) == value


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_is_positive_and_finite(value: float) -> None:
    """Nothing else is a scale."""
    with pytest.raises(MalformedError):
        BinaryFraction.of(value)


@pytest.mark.parametrize(
    "steps",
    [((1.0, 1.0),), ((2.0, 1.0),), ((float("nan"),),), ((float("inf"),),), (), ((1.0,), (2.0,))],
)
def test_steps_ascend_and_belong_to_a_channel(steps: Any) -> None:
    """Steps that are not strictly ascending numbers, one list per channel, are refused."""
    with pytest.raises(MalformedError):
        Input((1,), 0, 2, ONE, (0,), steps)


def test_tables_are_equal_by_their_values() -> None:
    """Two tables with the same values are the same table."""
    assert relu(256) == relu(256)
    assert relu(256) != clip(256)
    assert Table(-2, b"\0\0" * 4).minimum == 0


def test_epilogues_are_numbered_as_specified() -> None:
    """The numbers stand in the specification."""
    assert [int(each) for each in Epilogue] == [0, 1, 2]


def test_the_limits_are_those_of_the_specification() -> None:
    """Each named limit stands in the text with its value, and no other does."""
    text = (Path(__file__).parents[2] / "spec" / "integer-model.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(MAX_[A-Z]+(?:_[A-Z]+)*)` \| (\d+) \|", text, re.MULTILINE))
    found = {name: str(value) for name, value in vars(graph_parts).items() if name[:4] == "MAX_"}
    assert listed == found
