"""Section 8 of spec/proof.md: what every node says of its tensors, and the ties of the ends.

All relations are folded into one by the powers of `lambda`. What is linear in the witness becomes
claim 2; sums of products go through one sumcheck, which leaves two claims for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from verispect.proof.field import ONE, ZERO, Element
from verispect.proof.graph_parts import Affine, Convolve, Embed, Maximum, Multiply, Term, Window
from verispect.proof.layout import Name, Role, axis_variables, tensor_name, variables
from verispect.proof.multilinear import eq
from verispect.proof.verifier.algebra import Point, one_minus
from verispect.proof.verifier.channel import Channel, V
from verispect.proof.verifier.lookups import Claim
from verispect.proof.verifier.statement import Place, Statement
from verispect.proof.verifier.sumcheck import run_rounds
from verispect.proof.verifier.ties import check_ties
from verispect.proof.verifier.views import (
    Inside,
    TensorViews,
    View,
    at,
    inside,
    ones,
    split,
    suffix,
)


@dataclass(frozen=True, slots=True)
class Sum:
    """One sum of products of section 8, at the node's point `z`."""

    node: int
    term: Convolve | Multiply
    power: Element
    variables: int
    z: Point


def check_relations(
    channel: Channel[V], views: TensorViews, statement: Statement, place: Place
) -> list[Claim[V]]:
    """Run section 8 and return claims 2 and up, those of input and output last."""
    graph = views.graph
    ends = [views.sizes(0), views.sizes(graph.output.tensor)]
    related = [n for n, node in enumerate(graph.nodes) if not isinstance(node, Maximum)]
    widest = max((variables(views.sizes(number + 1)) for number in related), default=0)
    sigma = channel.challenges("sigma", max(map(variables, ends)))
    tau = channel.challenges("tau", widest)
    step = channel.challenge("lambda")

    relation: list[View] = []
    constant = ZERO
    sums: list[Sum] = []
    power = ONE
    for number in related:
        z = suffix(tau, variables(views.sizes(number + 1)))
        found, share = _linear_part(views, number, z)
        relation += [view.scaled(power) for view in found]
        constant = constant + power * share
        sums += _sums_of(views, number, z, power)
        power = power * step

    claims = []
    total = channel.linear([])
    if sums:
        (total,) = channel.receive("nodes", 1)
        claims = _check_sums(channel, views, sums, total)
    return [
        Claim(relation, channel.linear([(ONE, total)], -constant)),
        *claims,
        *check_ties(channel, views, statement, place, sigma),
    ]


def _linear_part(views: TensorViews, number: int, z: Point) -> tuple[list[View], Element]:
    """Return `target - direct` of a node at `z`: functionals and the constant."""
    graph, sizes = views.graph, views.sizes(number + 1)
    node = graph.nodes[number]
    constant = ZERO
    if isinstance(node, Maximum):
        raise TypeError("a maximum has no relation")
    if node.requantise is None:
        found = [inside(Name(Role.VALUE, number), sizes, z)]
    else:
        shift = node.requantise.shift
        found = [inside(Name(Role.QUOTIENT, number), sizes, z, Element.of(1 << shift))]
        for limb in range(graph.limbs(node)):
            worth = Element.of(1 << (limb * graph.range_bits))
            found.append(inside(Name(Role.LIMB, number, limb), sizes, z, worth))
        if shift:
            constant = -(ones(sizes, z) * (1 << (shift - 1)))
    if isinstance(node, Affine):
        for term in node.terms:
            if not isinstance(term, Convolve):
                found.append(_direct(views, number, term, z).scaled(-ONE))
        if node.bias is not None:
            parts = split(z, sizes)
            others = tuple(x for part in (parts[0], *parts[2:]) for x in part)
            factor = ones((sizes[0], *sizes[2:]), others)
            found.append(at(node.bias, parts[1], -factor))
    return found, constant


def _direct(views: TensorViews, number: int, term: Term, z: Point) -> View:
    if isinstance(term, Window):
        return views.windowed(number, term, z)
    if isinstance(term, Embed):
        return views.embedded(number, term, z)
    if isinstance(term, Convolve):
        raise TypeError("a convolution is not linear in the witness alone")
    source = tensor_name(views.graph, term.source)
    return inside(source, views.sizes(term.source), z, Element.of(term.multiplier))


def _sums_of(views: TensorViews, number: int, z: Point, power: Element) -> list[Sum]:
    node = views.graph.nodes[number]
    if isinstance(node, Multiply):
        return [Sum(number, node, power, variables(views.sizes(node.left)), z)]
    sums = []
    if isinstance(node, Affine):
        for term in node.terms:
            if isinstance(term, Convolve):
                groups, _, inputs, *kernel = views.graph.weights[term.weight]
                count = variables((groups, inputs, *kernel))
                sums.append(Sum(number, term, power, count, z))
    return sums


def _check_sums(
    channel: Channel[V], views: TensorViews, sums: list[Sum], total: V
) -> list[Claim[V]]:
    """Run the sumcheck of all sums of products and return the claims about their factors."""
    rho, claim = run_rounds(channel, max(each.variables for each in sums), 3, total)
    factors = channel.receive("factors", 2 * len(sums))
    claims: list[Claim[V]] = []
    terms = [(-ONE, claim)]
    for number, each in enumerate(sums):
        left, right = factors[2 * number : 2 * number + 2]
        own = suffix(rho, each.variables)
        waiting = one_minus(rho[: len(rho) - each.variables])
        if isinstance(each.term, Convolve):
            public, first, second = _convolution(views, each, each.term, own)
        else:
            public, first, second = _product(views, each, each.term, own)
        terms.append((each.power * waiting * public, channel.product(left, right)))
        claims += [Claim([first], left), Claim([second], right)]
    channel.require_zero(channel.linear(terms), "a node's sums do not add up")
    return claims


def _convolution(
    views: TensorViews, each: Sum, term: Convolve, rho: Point
) -> tuple[Element, View, View]:
    """Return the public factor and the functionals of `W~` and `convolved` at `rho`."""
    groups = views.graph.weights[term.weight][0]
    channel = split(each.z, views.sizes(each.node + 1))[1]
    (count,) = axis_variables((groups,))
    z_g, z_o = channel[:count], channel[count:]
    weight = at(term.weight, rho[:count] + z_o + rho[count:])
    return eq(z_g, rho[:count]), weight, views.convolved(each.node, term, each.z, rho)


def _product(
    views: TensorViews, each: Sum, node: Multiply, rho: Point
) -> tuple[Element, View, View]:
    """Return the extension of `inside(z, .)` and the functionals of both factors at `rho`."""
    left, right = views.sizes(node.left), views.sizes(node.right)
    public = ONE
    near: Point = ()
    parts = zip(split(each.z, left), split(rho, left), left, right, strict=True)
    for z, own, size, other in parts:
        public = public * Inside(z, size).at(own)
        near += own if other > 1 else ()
    graph = views.graph
    return public, at(tensor_name(graph, node.left), rho), at(tensor_name(graph, node.right), near)
