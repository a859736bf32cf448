"""The ties of section 8 of spec/proof.md: input and output of every request are what was digested.

A verifier knows one request. Its ties it computes itself and holds what was sent to them; those of
the others it takes as they come. They are folded by powers of a challenge that is drawn after all
of them were sent, so that no value for another request makes up for a wrong one for its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verispect.proof import field
from verispect.proof.field import Array, Element
from verispect.proof.layout import Sizes, tensor_name, variables
from verispect.proof.multilinear import eq_table, inner_product
from verispect.proof.verifier.algebra import Point
from verispect.proof.verifier.channel import Channel, V, refuse
from verispect.proof.verifier.lookups import Claim
from verispect.proof.verifier.statement import Integers, Place, Statement
from verispect.proof.verifier.views import At, TensorViews, View, split, suffix


@dataclass(frozen=True, slots=True)
class Weighted:
    """A vector that is written out."""

    entries: Array

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""
        return len(self.entries).bit_length() - 1

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""
        return inner_product(self.entries, eq_table(point))


def check_ties(
    channel: Channel[V], views: TensorViews, statement: Statement, place: Place, sigma: Point
) -> list[Claim[V]]:
    """Receive all ties, require the own ones, and return the last claims.

    Raises:
        VerificationError: `proof-invalid`, where an own tie is not that of the own integers.
    """
    ends: list[tuple[int, Integers, Element]] = []
    for tensor, integers, pad in zip(
        (0, views.graph.output.tensor),
        (statement.inputs, statement.outputs),
        place.pads,
        strict=True,
    ):
        if integers is not None:
            ends.append((tensor, integers, pad))
    g = channel.challenge("pad")
    values, sent = channel.receive_padded("ties", len(ends) * place.requests, g)
    for side, (tensor, integers, pad) in enumerate(ends):
        own = statement.tie(integers, place.first, _parts(views, tensor, sigma))
        expected = own + g * pad if channel.hides else own
        if sent[len(ends) * place.number + side] != expected:
            raise refuse("the proof is not of this request's input and output")
    omega = field.powers(channel.challenge("among"), place.requests)
    weights = _row_weights(omega, place)
    claims = []
    for side, (tensor, _, _) in enumerate(ends):
        batch, *others = _parts(views, tensor, sigma)
        vector = Weighted(field.multiply_extension(weights, eq_table(batch)))
        view = View(tensor_name(views.graph, tensor), field.ONE, (vector, *(At(z) for z in others)))
        own_side = values[side :: len(ends)]
        claims.append(Claim([view], channel.linear(list(zip(omega, own_side, strict=True)))))
    return claims


def _parts(views: TensorViews, tensor: int, sigma: Point) -> list[Point]:
    sizes: Sizes = views.sizes(tensor)
    return split(suffix(sigma, variables(sizes)), sizes)


def _row_weights(omega: list[Element], place: Place) -> Array:
    """Return for every row, padding included, the power of its request."""
    weights = np.zeros((1 << (place.batch - 1).bit_length(), 2), dtype=np.uint64)
    rows = np.diff(np.array(place.bounds))
    weights[: place.batch] = np.repeat(field.to_array(omega), rows, axis=0)
    return weights
