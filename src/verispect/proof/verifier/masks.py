"""Section 10.5 of spec/proof.md: the collected equations, decided all at once.

Every equation is linear in the committed rows of masks. Their sum, weighted by powers of `collect`,
is one equation; the rows are shown as `mask + d * row`, which hides them and lets the equation be
checked on what is shown. This module refuses a proof of which one equation does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verispect.proof import field
from verispect.proof.field import MODULUS, NON_RESIDUE, ZERO, Array, Element
from verispect.proof.multilinear import inner_product
from verispect.proof.parameters import ProofShape
from verispect.proof.verifier.channel import CollectingChannel, Form, refuse


@dataclass(frozen=True, slots=True)
class ShownRows:
    """`mask_i + d * row_i`, still to be compared with the opened columns."""

    messages: Array
    """The first `h`: `(2^c + t, h, 2)`."""
    combination: Array
    """The last, of the mask of `combination`: `(K, 1, 2)`."""
    factor: Element
    """`d`."""


def check_equations(
    channel: CollectingChannel, shape: ProofShape, last: Form, basis: Array
) -> ShownRows:
    """Decide all collected equations on what the prover shows.

    Args:
        channel: holds the equations.
        shape: the lengths.
        last: the equation of `combination`, without the share of its mask.
        basis: minus the coefficients of that share.

    Raises:
        VerificationError: `proof-invalid`.
    """
    code, h = shape.code, shape.mask_messages
    eta = channel.challenge("collect")
    equations = [*channel.equations, last]
    powers = field.powers(eta, len(equations))
    total = channel.linear(list(zip(powers, equations, strict=True)))

    (offset,) = channel.messages.read("offset", 1)
    d = channel.challenge("last")
    width = code.witness_degree_bound
    shown = field.from_bytes(
        channel.messages.octets("rows", h * width + code.degree_bound)
    ).reshape(-1, 2)
    rows, combination = shown[: h * width].reshape(h, width, 2), shown[h * width :]

    # sum_i <u_i, c_i> = offset + d * constant, where the form's constant has the other sign.
    held = _on_masks(total.masks, rows[:, : code.columns])
    share = inner_product(combination[: code.columns], basis)
    held = held - powers[-1] * share
    if held - offset + d * total.constant:
        raise refuse("the collected equations do not hold")
    return ShownRows(rows.transpose(1, 0, 2), combination[:, np.newaxis], d)


def _on_masks(masks: dict[int, Element], rows: Array) -> Element:
    """Return the combination of masks, each of two entries `a`, `b` and worth `a + b X`."""
    entries = rows.reshape(-1, 2).tolist()
    a = b = 0
    for number, weight in masks.items():
        (x, y), (u, v) = entries[2 * number], entries[2 * number + 1]
        # The entries are elements of F themselves: (x + yX) + (u + vX) X.
        first, second = x + NON_RESIDUE * v, y + u
        a += weight.a * first + NON_RESIDUE * weight.b * second
        b += weight.a * second + weight.b * first
    return Element(a % MODULUS, b % MODULUS) if masks else ZERO


def mask_columns(columns: Array, h: int) -> tuple[Array, Array, Array, Array]:
    """Return the opened columns of the masks, by what they hold.

    Returns:
        Rows of messages and their masks, `(positions, h)` and `(positions, h, 2)`; the mask of
        `combination` and its mask, `(positions, 2)` both.
    """
    messages, masks = columns[:, :h], columns[:, h : 3 * h].reshape(len(columns), h, 2)
    return messages, masks, columns[:, 3 * h : 3 * h + 2], columns[:, 3 * h + 2 :]


def expected_rows(
    shown: ShownRows, messages: Array, masks: Array, held: Array, mask: Array
) -> Array:
    """Return what the shown rows MUST be at the positions: `(positions, h + 1, 2)`."""
    d = field.to_array([shown.factor])
    over_base = field.scale(np.broadcast_to(d, (*messages.shape, 2)), messages)
    first = field.add(masks, over_base)
    second = field.add(mask, field.multiply_extension(held, d))
    return np.concatenate([first, second[:, np.newaxis]], axis=1)
