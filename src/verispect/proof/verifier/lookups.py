"""Section 7 of spec/proof.md: every lookup is in its table, by a tree of fractions.

The tree takes the statement "the sum of all fractions is 0" down to one point of the leaves. What
the leaves are there is linear in the witness: claims 0 and 1 say so, and section 9 holds them to
the commitments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np

from verispect.proof.field import ONE, ZERO, Element
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import Maximum
from verispect.proof.layout import (
    FIRST_TABLE,
    INPUT_RANGE,
    POSITIVE_PART,
    RANGE,
    Name,
    Role,
    Sizes,
    pack,
    prefix_bits,
    table_tags,
    table_variables,
    variables,
)
from verispect.proof.multilinear import eq
from verispect.proof.verifier.algebra import Point, extension_of_table, index_of
from verispect.proof.verifier.channel import Channel, V
from verispect.proof.verifier.sumcheck import run_rounds
from verispect.proof.verifier.views import TensorViews, View, at, ones


@dataclass(frozen=True, slots=True)
class Claim(Generic[V]):
    """The sum of these functionals has this value."""

    views: list[View]
    value: V


@dataclass(frozen=True, slots=True)
class Block:
    """A block of leaves: a lookup of pairs from a node, or a table."""

    tag: int
    sizes: Sizes
    node: int
    """The node whose pairs are looked up; -1 for the input."""
    part: int
    """0 for `(q, y)`, `1 + i` for limb `i`; of a maximum its stage."""
    table: bool = False


def blocks_of(graph: Graph, batch: int, *, hidden_input: bool) -> list[Block]:
    """Return the blocks of leaves in order."""
    blocks = [Block(INPUT_RANGE, (batch, *graph.input.shape), -1, 0)] if hidden_input else []
    for number, node in enumerate(graph.nodes):
        sizes = (batch, *graph.shapes[number + 1])
        if isinstance(node, Maximum):
            stages = range(1, node.kernel)
            blocks += [Block(POSITIVE_PART, sizes, number, stage) for stage in stages]
        elif node.requantise is not None:
            blocks.append(Block(FIRST_TABLE + node.requantise.table, sizes, number, 0))
            limbs = range(graph.limbs(node))
            blocks += [Block(RANGE, sizes, number, 1 + limb) for limb in limbs]
    for tag in table_tags(graph, hidden_input=hidden_input):
        blocks.append(Block(tag, (1 << table_variables(graph, tag),), 0, 0, table=True))
    return blocks


def check_lookups(channel: Channel[V], views: TensorViews, *, hidden_input: bool) -> list[Claim[V]]:
    """Run section 7 and return claims 0 and 1."""
    beta, alpha = channel.challenge("beta"), channel.challenge("alpha")
    blocks = blocks_of(views.graph, views.batch, hidden_input=hidden_input)
    offsets, depth = pack([variables(block.sizes) for block in blocks])
    leaf, numerator, denominator = check_tree(channel, depth)

    multiplicities: list[View] = []
    pairs: list[View] = []
    inside = ZERO  # The numerators of the lookups, all of them.
    known = ONE  # What the verifier knows of the denominators.
    for block, offset in zip(blocks, offsets, strict=True):
        count = variables(block.sizes)
        corner = [Element(bit) for bit in prefix_bits(offset, depth, count)]
        prefix = eq(corner, leaf[: depth - count])
        point = leaf[depth - count :]
        plain = alpha - beta * beta * block.tag - ONE  # Minus the 1 of leaves outside all blocks.
        if block.table:
            multiplicity = Name(Role.MULTIPLICITY, block.tag)
            multiplicities.append(at(multiplicity, point, prefix))
            first, second = table_extension(views.graph, block.tag, point)
            known = known + prefix * (plain - first - beta * second)
        else:
            inside = inside + prefix * ones(block.sizes, point)
            found, constant = _pair(views, block, point, beta)
            pairs += [view.scaled(prefix) for view in found]
            known = known + prefix * (plain - constant)
    return [
        Claim(multiplicities, channel.linear([(-ONE, numerator)], inside)),
        Claim(pairs, channel.linear([(-ONE, denominator)], known)),
    ]


def check_tree(channel: Channel[V], depth: int) -> tuple[Point, V, V]:
    """Take the sum of fractions from the root to one point of the `2^depth` leaves.

    Returns:
        The point, and what numerator and denominator are claimed to be there.
    """
    # The root: P_0 = 0 and Q_0 != 0.
    layer = channel.receive("layer", 4)
    first, second, both = _products(channel, layer)
    channel.require_zero(
        channel.linear([(ONE, first), (ONE, second)]), "the lookups are not in their tables"
    )
    channel.require_nonzero(both, "a denominator of a lookup is zero")
    s = channel.challenge("merge")
    point: Point = (s,)
    numerator, denominator = _merged(channel, layer, s)
    for k in range(1, depth):
        m = channel.challenge("mix")
        claim = channel.linear([(ONE, numerator), (m, denominator)])
        r, claim = run_rounds(channel, k, 3, claim)
        layer = channel.receive("layer", 4)
        first, second, both = _products(channel, layer)
        weight = eq(point, r)
        terms = [(weight, first), (weight, second), (weight * m, both), (-ONE, claim)]
        channel.require_zero(channel.linear(terms), "a layer of the lookups does not follow")
        s = channel.challenge("merge")
        point = (s, *r)
        numerator, denominator = _merged(channel, layer, s)
    return point, numerator, denominator


def _products(channel: Channel[V], layer: list[V]) -> tuple[V, V, V]:
    p0, p1, q0, q1 = layer
    return channel.product(p0, q1), channel.product(p1, q0), channel.product(q0, q1)


def _merged(channel: Channel[V], layer: list[V], s: Element) -> tuple[V, V]:
    p0, p1, q0, q1 = layer
    return (
        channel.linear([(ONE - s, p0), (s, p1)]),
        channel.linear([(ONE - s, q0), (s, q1)]),
    )


def _pair(
    views: TensorViews, block: Block, point: Point, beta: Element
) -> tuple[list[View], Element]:
    """Return `in + beta * out` of a lookup: functionals and the constant."""
    if block.node < 0:
        return [at(Name(Role.INPUT), point)], ZERO
    node = views.graph.nodes[block.node]
    if not isinstance(node, Maximum):
        if block.part:
            return [at(Name(Role.LIMB, block.node, block.part - 1), point)], ZERO
        quotient, value = Name(Role.QUOTIENT, block.node), Name(Role.VALUE, block.node)
        return [at(quotient, point), at(value, point, beta)], ZERO
    # (m_(k-1) - x_k) + beta (m_k - x_k), with m_0 = x_0.
    x, fill = views.tap(block.node, node, block.part, point)
    result = at(Name(Role.STAGE, block.node, block.part), point, beta)
    found, constant = [x.scaled(-ONE - beta), result], fill * (-ONE - beta)
    if block.part == 1:
        before, fill = views.tap(block.node, node, 0, point)
        return [*found, before], constant + fill
    return [*found, at(Name(Role.STAGE, block.node, block.part - 1), point)], constant


def table_extension(graph: Graph, tag: int, point: Point) -> tuple[Element, Element]:
    """Return the extensions of a table's two columns."""
    index = index_of(point)
    if tag == RANGE:
        return index, ZERO
    if tag == POSITIVE_PART:
        # i from -2^(b-1): not negative where the first bit is one, and then the other bits.
        return index - (1 << (len(point) - 1)), point[0] * index_of(point[1:])
    if tag == INPUT_RANGE:
        low, high = graph.input.minimum, graph.input.maximum
        values = np.minimum(np.arange(1 << len(point), dtype=np.int32) + low, high)
        return extension_of_table(values.astype(np.int16), point), ZERO
    table = graph.tables[tag - FIRST_TABLE]
    return index + table.first, extension_of_table(table.values, point)
