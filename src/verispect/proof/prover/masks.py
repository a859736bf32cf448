"""Section 10 of the protocol: the masks of all messages, and the last step that settles them.

The matrix of masks is committed before the witness. Its first rows hold a random element for every
message element and six for every product of hidden values; the others mask these rows and
`combination` when the verifier's collected equations are decided together at the end.

This module refuses to reuse anything: one `Masks` serves one proof.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from verispect.proof import field
from verispect.proof.field import MODULUS, ZERO, Array, Element
from verispect.proof.parameters import Code, ProofShape
from verispect.proof.prover import kernels_sumcheck as kernels
from verispect.proof.prover import views
from verispect.proof.prover.channel import ENTRIES_PER_PRODUCT, Channel, Form

Randomness: TypeAlias = Callable[[int], bytes]
"""Returns that many octets that nobody else knows; `secrets.token_bytes` but in tests."""

SYSTEM: Randomness = secrets.token_bytes


def random_elements(randomness: Randomness, *shape: int) -> Array:
    """Return uniform elements of `F_p`."""
    count = int(np.prod(shape))
    values = np.frombuffer(randomness(count * field.BASE_BYTES), "<u8").astype(np.uint64)
    while bool((outside := values >= np.uint64(MODULUS)).any()):
        again = randomness(int(outside.sum()) * field.BASE_BYTES)
        values[outside] = np.frombuffer(again, "<u8")
    return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class Masks:
    """The matrix of masks of one proof.

    Args:
        count: `h`, the rows that hold elements.
        message_count: the elements that mask messages; those of products follow.
        elements: all of them.
        matrix: the rows' first `2^c` coefficients.
        tails: the others, zero where a row has fewer.
    """

    count: int
    message_count: int
    elements: list[Element]
    matrix: Array
    tails: Array

    def row(self, number: int) -> Array:
        """Return all coefficients of a row."""
        return np.concatenate([self.matrix[number], self.tails[number]])

    def coordinates(self, number: int) -> Array:
        """Return the row over `F` whose coordinates are the rows `number` and the next."""
        return np.stack([self.row(number), self.row(number + 1)], axis=1)


def draw(shape: ProofShape, randomness: Randomness, pads: Sequence[Element]) -> Masks:
    """Draw the masks of one proof.

    Args:
        shape: of the proof.
        randomness: where they come from.
        pads: what hides the requests' ties, in order of sending.
    """
    code, count = shape.code, shape.mask_messages
    entries = random_elements(randomness, shape.message_elements + 6 * shape.products, 2)
    entries[shape.first_tie : shape.first_tie + shape.ties] = field.to_array(pads)
    six = entries[shape.message_elements :].reshape(-1, ENTRIES_PER_PRODUCT, 2)
    six[:, 2] = field.multiply_extension(six[:, 0], six[:, 1])
    six[:, 5] = field.multiply_extension(six[:, 3], six[:, 4])
    matrix = random_elements(randomness, 3 * count + 4, code.columns)
    flat = matrix[:count].reshape(-1)
    flat[: entries.size] = entries.reshape(-1)
    tails = np.zeros((3 * count + 4, code.degree_bound - code.columns), np.uint64)
    shown = code.queries
    tails[: 3 * count, :shown] = random_elements(randomness, 3 * count, shown)
    tails[3 * count :] = random_elements(randomness, 4, tails.shape[1])
    return Masks(count, shape.message_elements, field.to_elements(entries), matrix, tails)


def hide_combination(masks: Masks, combination: Array) -> Array:
    """Return `combination` under its mask, `row_h`."""
    return field.add(combination, masks.coordinates(3 * masks.count))


def _collected(
    equations: Sequence[dict[int, Element]], powers: Sequence[Element], count: int
) -> Array:
    """Return what the equations, weighted, have for each mask."""
    numbers = [number for each in equations for number in each]
    factors = field.multiply_extension(
        field.to_array([value for each in equations for value in each.values()]),
        np.repeat(field.to_array(powers), [len(each) for each in equations], axis=0),
    )
    # Halves of 32 bits, so that sums of many do not wrap around.
    halves = np.zeros((2, count, 2), np.uint64)
    np.add.at(halves[0], numbers, factors & np.uint64(0xFFFFFFFF))
    np.add.at(halves[1], numbers, factors >> np.uint64(32))
    return field.add(halves[0], field.multiply(halves[1], np.array(1 << 32, np.uint64)))


def settle(
    channel: Channel,
    masks: Masks,
    code: Code,
    values: Sequence[Form],
    theta: Element,
    last_point: Array,
) -> None:
    """Settle the collected equations, that of `combination` included (section 10.5).

    Args:
        channel: with all equations of sections 7 to 10.3 collected.
        masks: those of this proof.
        code: the parameters of the commitments.
        values: the forms of the polynomials' evaluations.
        theta: the challenge that `combination` was made with.
        last_point: the last `c` coordinates of the opening's point.
    """
    equation: dict[int, Element] = {}
    power = theta
    for value in values:
        for number, coefficient in value.masks.items():
            equation[number] = equation.get(number, ZERO) - power * coefficient
        power = power * theta
    channel.equations.append(equation)
    powers = field.powers(channel.challenge("collect"), len(channel.equations))
    power = powers[-1]
    flat = np.zeros((masks.count * code.columns, 2), np.uint64)
    pairs = _collected(channel.equations, powers, len(masks.elements))
    flat[: 2 * len(pairs) : 2] = pairs
    # The second entry of an element stands for its coordinate of X.
    flat[1 : 2 * len(pairs) : 2, 0] = field.multiply(pairs[:, 1], np.array(7, np.uint64))
    flat[1 : 2 * len(pairs) : 2, 1] = pairs[:, 0]
    last = np.zeros((code.columns, 2), np.uint64)
    kernels.add_scaled(last, kernels.eq_table(last_point), views.array_of([-power])[0])
    hiding = [masks.coordinates(masks.count + 2 * i) for i in range(masks.count)]
    hiding.append(masks.coordinates(3 * masks.count + 2))
    used = np.concatenate([row[: code.columns] for row in hiding])
    offset = kernels.inner_product(used, np.concatenate([flat, last]))
    channel.send_plain("offset", [Element(*map(int, offset))])
    d = views.array_of([channel.challenge("last")])[0]
    width = code.witness_degree_bound
    shown = [row[:width].copy() for row in hiding[:-1]] + [hiding[-1].copy()]
    for i in range(masks.count):
        held = np.zeros((width, 2), np.uint64)
        held[:, 0] = masks.row(i)[:width]
        kernels.add_scaled(shown[i], held, d)
    kernels.add_scaled(shown[-1], masks.coordinates(3 * masks.count), d)
    channel.send_array("rows", np.concatenate(shown))
