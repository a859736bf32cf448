"""Linear functionals of committed arrays, axis by axis (spec/proof.md, section 6).

A `View` is a factor times a product over the axes of one vector each: the table of `eq` at a point,
kept as the point where it can be, or a vector of entries. Keeping points lets an opening split an
array at any bit of such an axis.

This module refuses constants: what a claim adds that no committed array knows is the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from verispect.proof import field
from verispect.proof.field import Array, Element
from verispect.proof.graph_parts import Convolve, Embed, Maximum, Scale, Window, padded
from verispect.proof.layout import Name, Sizes, axis_variables
from verispect.proof.prover import kernels_contract, kernels_sumcheck
from verispect.proof.prover.channel import Form

Key: TypeAlias = Name | int
"""An array of the witness by its name, or a weight by its number."""


@dataclass(frozen=True, slots=True)
class Point:
    """The table of `eq` at these coordinates, of shape `(variables, 2)`."""

    coordinates: Array

    @property
    def variables(self) -> int:
        """The number of coordinates."""
        return len(self.coordinates)


@dataclass(frozen=True, slots=True)
class Vector:
    """Entries of shape `(2^variables, 2)`."""

    entries: Array

    @property
    def variables(self) -> int:
        """The binary logarithm of the number of entries."""
        return len(self.entries).bit_length() - 1


Axis: TypeAlias = Point | Vector


@dataclass(frozen=True, slots=True)
class View:
    """A factor times the values of an array weighted axis by axis."""

    key: Key
    factor: Element
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the verifier is told of committed arrays: the views' sum has the form's value."""

    views: tuple[View, ...]
    form: Form


def table(axis: Axis) -> Array:
    """Return the entries of an axis."""
    if isinstance(axis, Vector):
        return axis.entries
    entries: Array = kernels_sumcheck.eq_table(axis.coordinates)
    return entries


def split(point: Array, sizes: Sizes) -> list[Array]:
    """Cut a point into the coordinates of each axis."""
    parts, start = [], 0
    for count in axis_variables(sizes):
        parts.append(point[start : start + count])
        start += count
    return parts


def suffix(point: Array, length: int) -> Array:
    """Return the last `length` coordinates."""
    return point[point.shape[0] - length :]


def array_of(elements: Sequence[Element]) -> Array:
    """Return elements as an array of shape `(count, 2)`."""
    return field.to_array(elements)


def at(key: Key, sizes: Sizes, point: Array, factor: Element) -> View:
    """Return the view that evaluates an array at a point."""
    return View(key, factor, tuple(Point(part) for part in split(point, sizes)))


def inside_axis(point: Array, size: int) -> Axis:
    """Return the table of `eq` that is zero from `size` on."""
    if padded(size) == size:
        return Point(point)
    entries: Array = kernels_sumcheck.eq_table(point)
    entries[size:] = 0
    return Vector(entries)


def inside(key: Key, sizes: Sizes, point: Array, factor: Element) -> View:
    """Return the view that leaves the padding out."""
    parts = split(point, sizes)
    axes = (inside_axis(part, size) for part, size in zip(parts, sizes, strict=True))
    return View(key, factor, tuple(axes))


def ones(sizes: Sizes, point: Array) -> Element:
    """Return the extension of the indicator of the places inside."""
    result = field.ONE
    for part, size in zip(split(point, sizes), sizes, strict=True):
        if padded(size) != size:
            entries = kernels_sumcheck.eq_table(part)
            result = result * field.to_element(field.sum_over(entries[:size], 0))
    return result


def _window_axis(
    point: Array, places: int, weights: Array, taps: tuple[int, int, int], size: int
) -> Axis:
    """Return the weighted sum of the spatial vectors; `taps` is `(stride, dilation, before)`."""
    if weights.shape[0] == 1 and taps[0] == 1 and taps[2] == 0 and places == size:
        entries = field.to_element(weights[0])
        if entries == field.ONE:
            return inside_axis(point, size)
    result = np.zeros((padded(size), 2), np.uint64)
    vector = kernels_sumcheck.eq_table(point)[:places]
    kernels_contract.window_vector(vector, weights, np.array(taps), size, result)
    return Vector(result)


def _constant_weights(count: int) -> Array:
    weights = np.zeros((count, 2), np.uint64)
    weights[:, 0] = 1
    return weights


def convolved(
    key: Key, term: Convolve, weight: Sizes, source: Sizes, target: Sizes, point: Array, rho: Array
) -> View:
    """Return the view of a convolution's source at `(g, i, k) = rho`; sizes with batch."""
    groups, _, inputs, *kernel = weight
    parts = split(point, target)
    batch = inside_axis(parts[0], source[0])
    channels, *taps = split(rho, (groups * padded(inputs), *kernel))
    axes: list[Axis] = [batch, inside_axis(channels, source[1])]
    for i, count in enumerate(kernel):
        weights = kernels_sumcheck.eq_table(taps[i])[:count]
        moves = (term.strides[i], term.dilations[i], term.before[i])
        axes.append(_window_axis(parts[2 + i], target[2 + i], weights, moves, source[2 + i]))
    return View(key, field.ONE, tuple(axes))


def linear(
    key: Key,
    term: Window | Scale | Embed,
    source: Sizes,
    target: Sizes,
    point: Array,
    factor: Element,
) -> View:
    """Return the view of a source by a term without weights; sizes with batch."""
    factor = factor * term.multiplier
    if isinstance(term, Scale):
        return inside(key, source, point, factor)
    parts = split(point, target)
    axes: list[Axis] = []
    if isinstance(term, Embed):
        for i, size in enumerate(source):
            if i != term.axis + 1:
                axes.append(inside_axis(parts[i], size))
                continue
            entries = np.zeros((padded(size), 2), np.uint64)
            whole = kernels_sumcheck.eq_table(parts[i])
            entries[:size] = whole[term.offset : term.offset + size]
            axes.append(Vector(entries))
        return View(key, factor, tuple(axes))
    axes = [inside_axis(parts[i], source[i]) for i in range(2)]
    for i, count in enumerate(term.kernel):
        moves = (term.strides[i], 1, term.before[i])
        weights = _constant_weights(count)
        axes.append(_window_axis(parts[2 + i], target[2 + i], weights, moves, source[2 + i]))
    return View(key, factor, tuple(axes))


def tap(
    key: Key, node: Maximum, tap: int, source: Sizes, target: Sizes, point: Array, factor: Element
) -> View:
    """Return the view of a maximum's source at one tap; sizes with batch."""
    axes: list[Axis] = []
    for i, part in enumerate(split(point, target)):
        if i == node.axis + 1:
            moves = (node.stride, 1, node.before - tap)
            weights = _constant_weights(1)
            result = np.zeros((padded(source[i]), 2), np.uint64)
            vector = kernels_sumcheck.eq_table(part)[: target[i]]
            kernels_contract.window_vector(vector, weights, np.array(moves), source[i], result)
            axes.append(Vector(result))
        else:
            axes.append(inside_axis(part, target[i]))
    return View(key, factor, tuple(axes))
