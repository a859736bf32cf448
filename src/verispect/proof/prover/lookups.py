"""Section 7 of the protocol: every lookup of a batch in one sum of fractions.

The leaves are filled block by block, the tree is built upwards, and a sumcheck per layer carries
the claim down to the leaves. A round's polynomial is `eq` times a quadratic, so two sums per round
are enough: the quadratic's value at 1 follows from the claim.

This module refuses nothing: a pair outside its table makes a sum that is not zero, and the verifier
says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verispect.proof import field, layout
from verispect.proof.field import ONE, Array, Element
from verispect.proof.graph import Graph, Maximum
from verispect.proof.layout import Name, Role, Sizes
from verispect.proof.prover import kernels_sumcheck as kernels
from verispect.proof.prover import views
from verispect.proof.prover.channel import Channel, Claims, Form, combine
from verispect.proof.prover.views import Claim, View
from verispect.proof.prover.witness import Integers, Witness, pad

_NONE: Integers = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of leaves: pairs of integers over an array's padded places."""

    tag: int
    sizes: Sizes
    first: Callable[[], Integers]
    second: Callable[[], Integers]
    views: Callable[[Array, Element, Element], list[View]]
    """Given the block's point, a factor and `beta`: `in + beta out`, or the multiplicity."""
    counts: Callable[[], Integers] | None = None
    """The multiplicities, of a table."""


def table_pairs(graph: Graph, tag: int) -> tuple[Integers, Integers]:
    """Return the entries of a lookup table."""
    size = 1 << layout.table_variables(graph, tag)
    if tag == layout.POSITIVE_PART:
        first = np.arange(-(size // 2), size // 2, dtype=np.int32)
        return first, np.maximum(first, 0)
    if tag == layout.RANGE:
        return np.arange(size, dtype=np.int32), _NONE
    if tag == layout.INPUT_RANGE:
        low, high = graph.input.minimum, graph.input.maximum
        return np.minimum(np.arange(low, low + size, dtype=np.int32), np.int32(high)), _NONE
    entries = graph.tables[tag - layout.FIRST_TABLE]
    first = np.arange(entries.first, entries.first + size, dtype=np.int32)
    return first, entries.values.astype(np.int32)


def lookups(channel: Channel, witness: Witness) -> list[Claim]:
    """Prove all lookups; return claims 0 and 1."""
    beta, alpha = channel.challenge("beta"), channel.challenge("alpha")
    blocks = _blocks(witness)
    sizes = [layout.variables(block.sizes) for block in blocks]
    offsets, depth = layout.pack(sizes)
    used = sum(1 << size for size in sizes)
    p, q = _leaves(blocks, offsets, depth, alpha, beta)
    point, claim_p, claim_q = _tree(channel, _layers(p, q, used), used)
    zero: list[View] = []
    one: list[View] = []
    ends = views.array_of(point)
    for block, offset, size in zip(blocks, offsets, sizes, strict=True):
        prefix = ONE
        bits = layout.prefix_bits(offset, depth, size)
        for bit, coordinate in zip(bits, point, strict=False):
            prefix = prefix * (coordinate if bit else 1 - coordinate)
        found = block.views(views.suffix(ends, size), prefix, beta)
        (one if block.counts is None else zero).extend(found)
    minus = -ONE
    return [
        Claim(tuple(zero), combine([(minus, claim_p)])),
        Claim(tuple(one), combine([(minus, claim_q)])),
    ]


# -- Blocks ----------------------------------------------------------------------------------------


def _blocks(witness: Witness) -> list[_Block]:
    graph = witness.graph
    hidden_input = len(witness.groups) > 2  # Weights, input, witness.
    blocks: list[_Block] = []
    if hidden_input:
        blocks.append(_of_one(witness, layout.INPUT_RANGE, Name(Role.INPUT)))
    for number, node in enumerate(graph.nodes):
        if isinstance(node, Maximum):
            blocks += [_of_stage(witness, number, node, k) for k in range(1, node.kernel)]
        elif node.requantise is not None:
            tag = layout.FIRST_TABLE + node.requantise.table
            blocks.append(_of_pair(witness, tag, number))
            for limb in range(graph.limbs(node)):
                name = Name(Role.LIMB, number, limb)
                blocks.append(_of_one(witness, layout.RANGE, name))
    for tag in layout.table_tags(graph, hidden_input=hidden_input):
        blocks.append(_of_table(witness, tag))
    return blocks


def _of_one(witness: Witness, tag: int, name: Name) -> _Block:
    sizes = witness.sizes[name]

    def found(point: Array, factor: Element, beta: Element) -> list[View]:  # noqa: ARG001
        return [views.at(name, sizes, point, factor)]

    return _Block(tag, sizes, lambda: witness.arrays[name], lambda: _NONE, found)


def _of_pair(witness: Witness, tag: int, number: int) -> _Block:
    q, y = Name(Role.QUOTIENT, number), Name(Role.VALUE, number)
    sizes = witness.sizes[q]

    def found(point: Array, factor: Element, beta: Element) -> list[View]:
        return [views.at(q, sizes, point, factor), views.at(y, sizes, point, factor * beta)]

    return _Block(tag, sizes, lambda: witness.arrays[q], lambda: witness.arrays[y], found)


def _of_stage(witness: Witness, number: int, node: Maximum, k: int) -> _Block:
    stage, before = Name(Role.STAGE, number, k), Name(Role.STAGE, number, k - 1)
    sizes, source = witness.sizes[stage], witness.shape(node.source)
    key = witness.name(node.source)

    def tapped(tap: int) -> Integers:
        return pad(tapped_values(witness, number, node, tap))

    def first() -> Integers:
        return (tapped(0) if k == 1 else witness.arrays[before]) - tapped(k)

    def second() -> Integers:
        return witness.arrays[stage] - tapped(k)

    def found(point: Array, factor: Element, beta: Element) -> list[View]:
        minus = -(factor * (ONE + beta))
        result = [views.tap(key, node, k, source, sizes, point, minus)]
        if k == 1:
            result.append(views.tap(key, node, 0, source, sizes, point, factor))
        else:
            result.append(views.at(before, sizes, point, factor))
        result.append(views.at(stage, sizes, point, factor * beta))
        return result

    return _Block(layout.POSITIVE_PART, sizes, first, second, found)


def tapped_values(
    witness: Witness, number: int, node: Maximum, tap: int
) -> npt.NDArray[np.integer]:
    """Return what tap `tap` of a maximum sees at every place, `fill` outside its source."""
    values = witness.graph.value_range(node.source)
    assert values is not None
    source = witness.tensor(node.source)
    sizes = witness.shape(number + 1)
    axis = node.axis + 1
    result = np.full(sizes, values[0], np.int32)
    places = np.arange(sizes[axis]) * node.stride + tap - node.before
    kept = np.flatnonzero((places >= 0) & (places < source.shape[axis]))
    if kept.size:
        first, last = int(kept[0]), int(kept[-1])
        lead = (slice(None),) * axis
        taken = slice(int(places[first]), int(places[last]) + 1, node.stride)
        result[(*lead, slice(first, last + 1))] = source[(*lead, taken)]
    return result


def _of_table(witness: Witness, tag: int) -> _Block:
    name = Name(Role.MULTIPLICITY, tag)
    sizes = witness.sizes[name]
    first, second = table_pairs(witness.graph, tag)

    def found(point: Array, factor: Element, beta: Element) -> list[View]:  # noqa: ARG001
        return [views.at(name, sizes, point, factor)]

    return _Block(tag, sizes, lambda: first, lambda: second, found, lambda: witness.arrays[name])


# -- The tree --------------------------------------------------------------------------------------


def _leaves(
    blocks: list[_Block], offsets: tuple[int, ...], depth: int, alpha: Element, beta: Element
) -> tuple[Array, Array]:
    p = np.zeros((1 << depth, 2), np.uint64)
    q = np.zeros((1 << depth, 2), np.uint64)
    end = 0
    both = views.array_of([beta])[0]
    for block, offset in zip(blocks, offsets, strict=True):
        size = 1 << layout.variables(block.sizes)
        stop = offset + size
        base = views.array_of([alpha - beta * beta * block.tag])[0]
        kernels.leaves(q[offset:stop], block.first(), block.second(), base, both)
        if block.counts is not None:
            p[offset:stop, 0] = field.negate(field.from_integers(block.counts()))
        else:
            axes = tuple(1 << count for count in layout.axis_variables(block.sizes))
            shape = p[offset:stop, 0].reshape(axes)
            shape[tuple(map(slice, block.sizes))] = 1
        end = max(end, stop)
    q[end:, 0] = 1
    return p, q


def _layers(p: Array, q: Array, used: int) -> list[tuple[Array, Array]]:
    """Return the layers, the one with two fractions first; from `used` on leaves are 0/1."""
    layers = [(p, q)]
    while p.shape[0] > 2:
        half = p.shape[0] // 2
        up_p, up_q = np.empty((half, 2), np.uint64), np.empty((half, 2), np.uint64)
        kernels.layer_above(p, q, min(used, len(p)), up_p, up_q)
        p, q = up_p, up_q
        layers.append((p, q))
    layers.reverse()
    return layers


def _tree(
    channel: Channel, layers: list[tuple[Array, Array]], used: int
) -> tuple[list[Element], Form, Form]:
    """Prove the sum; return the leaves' point and the claims about numerators and denominators."""
    p, q = layers[0]
    four = channel.exchange("layer", field.to_elements(p) + field.to_elements(q))
    products = _products(channel, four)
    channel.require(combine([(ONE, products[0]), (ONE, products[1])]))
    channel.require_inverse(products[2])
    point, claim_p, claim_q = _merge(channel, four, [])
    for k in range(1, len(layers)):
        p, q = layers[k]
        m = channel.challenge("mix")
        claims = Claims(channel, combine([(ONE, claim_p), (m, claim_q)]), 3)
        r, scale, ends = _layer(p, q, used, point, m, claims)
        # The numerators' front half carries m times the denominators' since `merge_numerators`.
        p0, p1, q0, q1 = ends
        four = channel.exchange("layer", [p0 - m * q0, p1, q0, q1])
        products = _products(channel, four)
        if channel.hides:
            found = [(scale, products[0]), (scale, products[1]), (scale * m, products[2])]
            channel.require(combine([*found, (-ONE, claims.form())]))
        point, claim_p, claim_q = _merge(channel, four, r)
        layers[k] = (_EMPTY, _EMPTY)  # A layer is as large as all before it: let it go.
    return point, claim_p, claim_q


_EMPTY: Array = np.zeros((0, 2), np.uint64)


def _products(channel: Channel, four: list[Form]) -> list[Form]:
    p0, p1, q0, q1 = four
    return [channel.product(p0, q1), channel.product(p1, q0), channel.product(q0, q1)]


def _merge(
    channel: Channel, four: list[Form], r: list[Element]
) -> tuple[list[Element], Form, Form]:
    s = channel.challenge("merge")
    t = ONE - s
    p0, p1, q0, q1 = four
    return [s, *r], combine([(t, p0), (s, p1)]), combine([(t, q0), (s, q1)])


def _suffix_tables(point: Array) -> list[Array]:
    """Return the tables of `eq` of every suffix, the whole point's first."""
    return [kernels.eq_table(point[i:]) for i in range(point.shape[0] + 1)]


def _layer(
    p: Array, q: Array, used: int, point: list[Element], m: Element, claims: Claims
) -> tuple[list[Element], Element, list[Element]]:
    """Run one layer's rounds; return the challenges, `eq(point, challenges)` and the ends."""
    kernels.merge_numerators(p, q, views.array_of([m])[0])
    count = len(point)
    whole = views.array_of(point)
    cut = max(1, count // 2)
    high, low = _suffix_tables(whole[1:cut]), _suffix_tables(whole[max(1, cut) :])
    inverses = _inverses(point)
    half = size = len(p) // 2
    scale, claim = ONE, claims.value
    previous = np.zeros(2, np.uint64)
    back = min(half, max(0, used - half))
    r: list[Element] = []
    for i, z in enumerate(point):
        # The tables of the variables after this one.
        above = high[i] if i < len(high) else high[-1]
        below = low[0] if i < len(high) else low[i - len(high) + 1]
        a, b, c, d = kernels.fraction_round(p, q, size, back, previous, i > 0, above, below)
        size = half >> i
        at_zero, top = Element(int(a), int(b)), Element(int(c), int(d))
        at_one = (claim - (ONE - z) * at_zero) * inverses[i]
        slope = at_one - at_zero - top
        # The message is the quadratic times eq(z, X) times what is bound of eq already.
        at_two = at_zero + slope * 2 + top * 4
        at_three = at_zero + slope * 3 + top * 9
        step = z * 2 - 1
        first = scale * (ONE - z)
        change = scale * step
        values = [
            first * at_zero,
            (first + change * 2) * at_two,
            (first + change * 3) * at_three,
        ]
        challenge = claims.round(values)
        claim = at_zero + challenge * (slope + challenge * top)
        scale = first + change * challenge
        previous = views.array_of([challenge])[0]
        r.append(challenge)
    return r, scale, field.to_elements(kernels.last_fractions(p, q, previous))


def _inverses(values: list[Element]) -> list[Element]:
    """Return all inverses for the price of one."""
    running, before = ONE, []
    for value in values:
        before.append(running)
        running = running * value
    inverse = running.inverse()
    result = []
    for value, prefix in zip(reversed(values), reversed(before), strict=True):
        result.append(inverse * prefix)
        inverse = inverse * value
    return result[::-1]
