"""Section 8 of the protocol: every affine and multiply node's equation, at one random point.

What is linear in the witness becomes claim 2 at once. Convolutions and products, sums of products
of two hidden factors and a public one, are proven together by one sumcheck; a sum with fewer
variables than the largest joins it late.

Last come the ties of every request's input and output. This module refuses nothing: an equation
that does not hold is the verifier's to find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verispect.proof import field, layout, multilinear
from verispect.proof.field import MODULUS, ONE, ZERO, Array, Element
from verispect.proof.graph import Affine, Convolve, Maximum, Multiply
from verispect.proof.graph_parts import padded
from verispect.proof.layout import Name, Role
from verispect.proof.prover import contractions, views
from verispect.proof.prover import kernels_sumcheck as kernels
from verispect.proof.prover.channel import Channel, Claims, Form, combine
from verispect.proof.prover.views import Claim, View
from verispect.proof.prover.witness import Witness


@dataclass(slots=True)
class _Sum:
    """One sum: three tables of the same size, the first of them public."""

    power: Element
    tables: tuple[Array, Array, Array]
    claims: Callable[[Array], tuple[View, View]]
    """The views of the two hidden factors, at the sum's own final point."""
    whole: Element = ZERO
    left: int = 0
    """The variables that are not bound."""

    @property
    def variables(self) -> int:
        """The number of variables of the sum."""
        return len(self.tables[0]).bit_length() - 1


def nodes(
    channel: Channel, witness: Witness, rows: Sequence[int], *, hidden_input: bool = False
) -> list[Claim]:
    """Prove all nodes' equations; return claims 2 and on, the ties to input and output last.

    Args:
        channel: the conversation.
        witness: the run.
        rows: those of each request.
        hidden_input: whether the input has a commitment of its own, and no ties.
    """
    graph = witness.graph
    ends = [witness.shape(0), witness.shape(graph.output.tensor)]
    sigma = channel.challenges("sigma", max(map(layout.variables, ends)))
    related = [
        (number, node) for number, node in enumerate(graph.nodes) if not isinstance(node, Maximum)
    ]
    widest = max((layout.variables(witness.shape(number + 1)) for number, _ in related), default=0)
    tau = views.array_of(channel.challenges("tau", widest))
    step, power = channel.challenge("lambda"), ONE
    relation: list[View] = []
    sums: list[_Sum] = []
    for number, node in related:
        sizes = witness.shape(number + 1)
        z = views.suffix(tau, layout.variables(sizes))
        relation += _target(witness, number, node, z, power)
        if isinstance(node, Multiply):
            sums.append(_product(witness, number, node, z, power))
        else:
            relation += _direct(witness, number, node, z, power)
            sums += [
                _convolution(witness, number, term, z, power)
                for term in node.terms
                if isinstance(term, Convolve)
            ]
        power = power * step
    whole, claims = _prove_sums(channel, sums)
    result = [Claim(tuple(relation), whole), *claims]
    tensors = [graph.output.tensor] if hidden_input else [0, graph.output.tensor]
    return [*result, *_ties(channel, witness, tensors, rows, views.array_of(sigma))]


# -- Ties ------------------------------------------------------------------------------------------


def _ties(
    channel: Channel, witness: Witness, tensors: list[int], rows: Sequence[int], sigma: Array
) -> list[Claim]:
    """Send what every request's input and output are worth, and claim that they are."""
    pad = channel.challenge("pad")
    starts = np.concatenate([[0], np.cumsum(rows)[:-1]])
    points, worth = [], []
    for tensor in tensors:
        sizes = witness.shape(tensor)
        point = views.suffix(sigma, layout.variables(sizes))
        points.append(point)
        worth.append(_worth(witness.tensor(tensor), sizes, point, starts))
    sent = channel.exchange_padded(
        "ties", [x for both in zip(*worth, strict=True) for x in both], pad
    )
    omega = field.powers(channel.challenge("among"), len(rows))
    weights = np.repeat(views.array_of(omega), rows, axis=0)
    claims = []
    for side, (tensor, point) in enumerate(zip(tensors, points, strict=True)):
        sizes = witness.shape(tensor)
        batch, *others = views.split(point, sizes)
        first: views.Axis = views.inside_axis(batch, sizes[0])
        if len(rows) > 1:
            entries = np.zeros((padded(sizes[0]), 2), np.uint64)
            table = kernels.eq_table(batch)[: sizes[0]]
            entries[: sizes[0]] = field.multiply_extension(table, weights)
            first = views.Vector(entries)
        view = View(witness.name(tensor), ONE, (first, *map(views.Point, others)))
        own = zip(omega, sent[side :: len(tensors)], strict=True)
        claims.append(Claim((view,), combine(own)))
    return claims


def _worth(
    values: npt.NDArray[np.integer],
    sizes: layout.Sizes,
    point: Array,
    starts: npt.NDArray[np.int64],
) -> list[Element]:
    """Return for every request the sum over its rows (section 8, ties)."""
    batch, *others = views.split(point, sizes)
    vector = np.array([[1, 0]], np.uint64)
    for part, size in zip(others, sizes[1:], strict=True):
        vector = kernels.outer(vector, kernels.eq_table(part)[:size])
    each = multilinear.contract_integers(values.reshape(sizes[0], -1), vector)
    weighted = field.multiply_extension(each, kernels.eq_table(batch)[: sizes[0]])
    ends = [*starts[1:], sizes[0]]
    sums = [field.sum_over(weighted[i:j], 0) for i, j in zip(starts, ends, strict=True)]
    return [field.to_element(total) for total in sums]


# -- What is linear --------------------------------------------------------------------------------


def _target(
    witness: Witness, number: int, node: Affine | Multiply, z: Array, power: Element
) -> list[View]:
    sizes = witness.shape(number + 1)
    if node.requantise is None:
        return [views.inside(Name(Role.VALUE, number), sizes, z, power)]
    quotient = Name(Role.QUOTIENT, number)
    result = [views.inside(quotient, sizes, z, power * (1 << node.requantise.shift))]
    for limb in range(witness.graph.limbs(node)):
        name = Name(Role.LIMB, number, limb)
        factor = power * (1 << (limb * witness.graph.range_bits))
        result.append(views.inside(name, sizes, z, factor))
    return result


def _direct(witness: Witness, number: int, node: Affine, z: Array, power: Element) -> list[View]:
    sizes = witness.shape(number + 1)
    result = [
        views.linear(witness.name(term.source), term, witness.shape(term.source), sizes, z, -power)
        for term in node.terms
        if not isinstance(term, Convolve)
    ]
    if node.bias is not None:
        parts = views.split(z, sizes)
        others = np.concatenate([part for i, part in enumerate(parts) if i != 1])
        ones = views.ones((sizes[0], *sizes[2:]), others)
        result.append(views.at(node.bias, (sizes[1],), parts[1], -(power * ones)))
    return result


# -- Sums ------------------------------------------------------------------------------------------


def _convolution(witness: Witness, number: int, term: Convolve, z: Array, power: Element) -> _Sum:
    weight = witness.graph.weights[term.weight]
    sizes, source = witness.shape(number + 1), witness.shape(term.source)
    parts = views.split(z, sizes)
    groups = (weight[0] - 1).bit_length()
    z_group, z_output = parts[1][:groups], parts[1][groups:]
    hidden = contractions.bound_weights(witness.weights[term.weight], z_output)
    moved = contractions.bound_source(witness.tensor(term.source), term, weight, sizes, parts)
    public = np.repeat(kernels.eq_table(z_group), hidden.shape[0] >> groups, axis=0)

    def claims(rho: Array) -> tuple[View, View]:
        point = np.concatenate([rho[:groups], z_output, rho[groups:]])
        key = witness.name(term.source)
        return (
            views.at(term.weight, weight, point, ONE),
            views.convolved(key, term, weight, source, sizes, z, rho),
        )

    return _Sum(power, (public, hidden, moved), claims)


def _product(witness: Witness, number: int, node: Multiply, z: Array, power: Element) -> _Sum:
    sizes = witness.shape(number + 1)
    near = witness.shape(node.right)
    public = np.array([[1, 0]], np.uint64)
    for part, size in zip(views.split(z, sizes), sizes, strict=True):
        public = kernels.outer(public, views.table(views.inside_axis(part, size)))
    left = contractions.embedded(witness.arrays[witness.name(node.left)])
    wide, narrow = tuple(map(padded, sizes)), tuple(map(padded, near))
    right = contractions.embedded(witness.arrays[witness.name(node.right)].reshape(narrow))
    right = np.broadcast_to(right, (*wide, 2)).copy().reshape(-1, 2)

    def claims(rho: Array) -> tuple[View, View]:
        parts = [part for part, size in zip(views.split(rho, sizes), near, strict=True) if size > 1]
        point = np.concatenate([*parts, np.zeros((0, 2), np.uint64)])
        return (
            views.at(witness.name(node.left), sizes, rho, ONE),
            views.at(witness.name(node.right), near, point, ONE),
        )

    return _Sum(power, (public, left, right), claims)


def _prove_sums(channel: Channel, sums: list[_Sum]) -> tuple[Form, list[Claim]]:
    """Return the total and the claims about the sums' hidden factors."""
    if not sums:
        return Form(ZERO), []
    total = ZERO
    for each in sums:
        each.whole = Element(*map(int, kernels.sum_of_triples(*each.tables)))
        each.left = each.variables
        total = total + each.power * each.whole
    (whole,) = channel.exchange("nodes", [total])
    claims = Claims(channel, whole, 3)
    rounds = max(each.variables for each in sums)
    point: list[Element] = []
    lead = ONE
    leads = {rounds: ONE}
    """By number of variables: the product of `1 - r` over the rounds before a sum joins."""
    previous = np.zeros(2, np.uint64)
    for left in range(rounds, 0, -1):
        r = claims.round(_round(sums, left, leads, lead, previous))
        point.append(r)
        previous = views.array_of([r])[0]
        lead = lead * (ONE - r)
        leads[left - 1] = lead
    for each in sums:
        if each.variables:
            kernels.triples_round(*each.tables, 2, previous, True)
    ends = [[field.to_element(table[0]) for table in each.tables] for each in sums]
    factors = channel.exchange("factors", [value for end in ends for value in end[1:]])
    found: list[tuple[Element, Form]] = []
    result: list[Claim] = []
    whole_point = views.array_of(point)
    for i, (each, end) in enumerate(zip(sums, ends, strict=True)):
        first, second = factors[2 * i : 2 * i + 2]
        product = channel.product(first, second)
        found.append((each.power * leads[each.variables] * end[0], product))
        own = views.suffix(whole_point, each.variables)
        hidden, moved = each.claims(own)
        result += [Claim((hidden,), first), Claim((moved,), second)]
    if channel.hides:
        channel.require(combine([*found, (-ONE, claims.form())]))
    return whole, result


def _round(
    sums: list[_Sum], left: int, leads: dict[int, Element], lead: Element, previous: Array
) -> list[Element]:
    """Return the values at 0, 2 and 3 with `left` variables unbound."""
    values = [ZERO, ZERO, ZERO]
    for each in sums:
        own = each.variables
        if own < left:
            waiting = each.power * lead * each.whole
            for i, factor in enumerate((1, -1, -2)):
                values[i] = values[i] + waiting * factor
            continue
        bind = own > left
        size = 2 << left if bind else 1 << left
        a, b, c, d, e, f = map(int, kernels.triples_round(*each.tables, size, previous, bind))
        factor_of = each.power * leads[own]
        for i, (x, y) in enumerate(((a, b), (c, d), (e, f))):
            values[i] = values[i] + factor_of * Element(x % MODULUS, y % MODULUS)
    return values
