"""Section 9 of spec/proof.md: all claims, held to the committed polynomials.

One sumcheck takes every claim to one point. There the verifier computes the functionals itself, and
the combination of the rows, tested at random columns, gives the polynomials' values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np

from verispect.proof import field
from verispect.proof.field import ONE, ZERO, Array, Element
from verispect.proof.graph import Graph
from verispect.proof.layout import (
    Layout,
    Polynomial,
    input_array,
    witness_arrays,
)
from verispect.proof.multilinear import eq, eq_table, inner_product
from verispect.proof.parameters import ProofShape
from verispect.proof.verifier.algebra import Point, one_minus
from verispect.proof.verifier.channel import Channel, V
from verispect.proof.verifier.lookups import Claim
from verispect.proof.verifier.sumcheck import run_rounds
from verispect.proof.verifier.views import Key, View, suffix


class Polynomials:
    """Every committed polynomial, and where each array stands in them."""

    def __init__(self, graph: Graph, batch: int, shape: ProofShape) -> None:
        hidden = shape.hidden_input
        keys: list[list[Key]] = [list(range(len(graph.weights)))]
        if hidden:
            keys.append([input_array(graph, batch).name])
        witness = witness_arrays(graph, batch, hidden_input=hidden)
        keys.append([array.name for array in witness])
        self.every: list[Polynomial] = []
        self._places: dict[Key, tuple[int, tuple[int, ...]]] = {}
        for layout, own in zip(shape.layouts, keys, strict=True):
            self._add(layout, own)

    def _add(self, layout: Layout, keys: list[Key]) -> None:
        first = len(self.every)
        self.every += layout.polynomials
        for number, key in enumerate(keys):
            place = layout.places[number]
            self._places[key] = (first + place.polynomial, layout.prefix(number))

    def extension(self, view: View, point: Point) -> tuple[int, Element]:
        """Return the polynomial of a functional, and the functional's extension at its suffix."""
        number, prefix = self._places[view.array]
        own = suffix(point, self.every[number].variables)
        corner = [Element(bit) for bit in prefix]
        selected = eq(corner, own[: len(prefix)])
        return number, selected * view.at(own[len(prefix) :])


@dataclass(frozen=True, slots=True)
class Opening(Generic[V]):
    """What is left of all claims: the polynomials' values at the suffixes of a point."""

    point: Point
    values: list[V]


def check_claims(
    channel: Channel[V], claims: list[Claim[V]], polynomials: Polynomials, variables: int
) -> Opening[V]:
    """Fold all claims into one, and take it to a point."""
    rho = channel.challenge("rho")
    powers = field.powers(rho, len(claims))
    total = channel.linear(
        [(power, claim.value) for power, claim in zip(powers, claims, strict=True)]
    )
    point, total = run_rounds(channel, variables, 2, total)
    values = channel.receive("evaluations", len(polynomials.every))

    weights = [ZERO] * len(polynomials.every)
    for power, claim in zip(powers, claims, strict=True):
        for view in claim.views:
            number, extension = polynomials.extension(view, point)
            weights[number] = weights[number] + power * extension
    terms = [(-ONE, total)]
    for polynomial, weight, value in zip(polynomials.every, weights, values, strict=True):
        waiting = one_minus(point[: len(point) - polynomial.variables])
        terms.append((waiting * weight, value))
    channel.require_zero(channel.linear(terms), "the claims are not those of the commitments")
    return Opening(point, values)


@dataclass(frozen=True, slots=True)
class Combination:
    """The combination `u` of all rows, and what it is to be."""

    coefficients: Array
    """`(degree bound, 2)`."""
    row_weights: list[Array]
    """Per commitment the coefficients of its rows, `(rows, 2)`."""
    basis: Array
    """`b`: what the first `2^c` coefficients weigh in the value, `(2^c, 2)`."""


def check_combination(
    channel: Channel[V],
    opening: Opening[V],
    shape: ProofShape,
    theta: Element,
    coefficients: Array,
) -> tuple[Combination, V]:
    """Return the combination, and what is to be zero of it (but for its mask)."""
    count = shape.code.column_variables
    basis = eq_table(suffix(opening.point, count))
    row_weights = []
    power = theta
    terms = []
    values = iter(opening.values)
    for layout in shape.layouts:
        parts = [np.zeros((0, 2), dtype=np.uint64)]
        for polynomial in layout.polynomials:
            own = suffix(opening.point, polynomial.variables)
            upper = eq_table(own[: polynomial.variables - count])[: polynomial.rows]
            parts.append(field.multiply_extension(upper, field.to_array([power])))
            terms.append((-power, next(values)))
            power = power * theta
        row_weights.append(np.concatenate(parts))
    said = inner_product(coefficients[: len(basis)], basis)
    return Combination(coefficients, row_weights, basis), channel.linear(terms, said)
