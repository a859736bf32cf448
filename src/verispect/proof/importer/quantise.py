"""From a draft with real weights to a graph with integers.

Every tensor gets a scale from the range it had on the samples; every node then gets the finest
steps that its table and its remainder allow. A value before requantisation is counted in steps of
`output scale / 2^(extra + shift)`, so that nodes whose function is a rectifier or none share one
table; the weights are rounded to what follows from it, biases too. How large `q` can become is
decided by interval arithmetic on the integers themselves, never by the samples: a value that no
sample showed is clipped by the table, and cannot leave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from verispect.proof.bounds import Integers, Interval, affine_bounds, quotient
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Input,
    Maximum,
    Multiply,
    Node,
    Requantise,
    Scale,
    Shape,
    Table,
    Term,
    Window,
)
from verispect.proof.importer.calibration import Ranges
from verispect.proof.importer.draft import (
    Activation,
    DraftAffine,
    DraftMaximum,
    DraftMultiply,
    Grid,
    Linear,
    RealConvolve,
    RealEmbed,
    RealScale,
    RealTerm,
    RealWindow,
    unsupported,
)
from verispect.proof.importer.drafting import Draft

_MAX_SHIFT: Final = 32
_MAX_DOMAIN: Final = 17
_TOP: Final = (1 << 15) - 1
_INT16: Final = (1 << 15) - 1
_RAW_BITS: Final = 15
_LEAST_MULTIPLIER: Final = 256
_MANTISSA_BITS: Final = 12
_CURVED_EXTRA: Final = 3
_SMALL_TABLE: Final = 14
_COARSE: Final = -3
_MANY_WEIGHTS: Final = 1 << 16
_COARSEST: Final = -14
_NOISE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Precision:
    """How fine the integers are.

    Args:
        range_bits: the width of one limb of a remainder.
        activation_bits: of an activation's absolute value.
        table_bits: of the largest domain of a table, where the model leaves a choice.
        extra_bits: by how much the argument of a table is finer than its result, at most.
    """

    range_bits: int
    activation_bits: int
    table_bits: int
    extra_bits: int

    @property
    def top(self) -> int:
        """The largest activation."""
        return (1 << self.activation_bits) - 1


SMALL: Final = Precision(8, 9, 14, 2)
"""For models of few activations: cheap tables, and several limbs."""
LARGE: Final = Precision(16, 12, 16, 0)
"""For models of many activations: one limb each."""


class Quantiser:
    """Turns the nodes of a draft into those of a graph, in order."""

    def __init__(self, source: Input, ranges: Ranges, precision: Precision) -> None:
        self.ranges = ranges
        self.precision = precision
        self.nodes: list[Node] = []
        self.weights: list[Integers] = []
        self.tables: list[Table] = []
        self.shapes: list[Shape] = [source.shape]
        self.scales: list[float] = [float(source.scale)]
        self.limits: list[Interval] = [(source.minimum, source.maximum)]
        self._numbers: dict[Table, int] = {}

    def add_all(self, draft: Draft, answer: int) -> None:
        """Add the nodes of `draft`; `answer` is the tensor of the output.

        The output keeps more bits, and so do the factors of a product: it is divided by what a
        remainder holds, and only long factors leave enough of it.
        """
        products = [node.product for node in draft.nodes if isinstance(node, DraftMultiply)]
        wide = {each.left for each in products} | {each.right for each in products}
        for number, node in enumerate(draft.nodes, start=1):
            self.shapes.append(draft.shapes[number])
            if isinstance(node, DraftAffine):
                self._add_affine(node, wide=number == answer or number in wide)
            elif isinstance(node, DraftMultiply):
                self._add_multiply(node)
            else:
                self._add_maximum(node)

    def merge_tables(self) -> None:
        """Leave out tables that are a part of another one."""
        order = sorted(range(len(self.tables)), key=lambda each: -len(self.tables[each]))
        kept: list[int] = []
        becomes = {}
        for number in order:
            whole = next((k for k in kept if _contains(self.tables[k], self.tables[number])), None)
            if whole is None:
                kept.append(number)
            becomes[number] = number if whole is None else whole
        renumbered = {old: new for new, old in enumerate(sorted(kept))}
        for place, node in enumerate(self.nodes):
            if isinstance(node, Maximum) or node.requantise is None:
                continue
            table = renumbered[becomes[node.requantise.table]]
            self.nodes[place] = replace(node, requantise=Requantise(node.requantise.shift, table))
        self.tables = [self.tables[number] for number in sorted(kept)]

    def add_raw(self, linear: Linear) -> None:
        """Add the last node, without requantisation: its weights have 15 bits."""
        sizes = [self.scales[term.source] * _largest(term) for term in linear.terms]
        step = _short(max(*sizes, 1e-30) / (1 << _RAW_BITS), bits=_RAW_BITS)
        self.shapes.append(linear.shape)
        terms, weights, bias = self._integers(linear, step)
        numbers = self._keep(weights, bias)
        self.nodes.append(Affine(_numbered(terms, numbers[0]), numbers[1], None, linear.shape))
        self.scales.append(step)
        self.limits.append((0, 0))

    # -- Affine nodes ---------------------------------------------------------------------------

    def _add_affine(self, node: DraftAffine, *, wide: bool) -> None:
        scale, top = self._output_scale(node.name, node.activation, wide=wide)
        # A table that only a few numbers are looked up in costs more than they do.
        few = 1 + math.prod(node.linear.shape).bit_length()
        most_bits = min(self.precision.table_bits, max(few, _SMALL_TABLE))
        finest = self.precision.extra_bits
        if not node.activation.homogeneous:
            finest += _CURVED_EXTRA
        for extra in range(finest, _COARSEST, -1):
            step = math.ldexp(scale, -extra)
            if not node.activation.homogeneous and math.frexp(step)[1] % 2:
                continue  # Curved functions keep to every other power of two, and share tables.
            shift = self._shift(node.linear, step)
            fine = math.ldexp(step, -shift)
            terms, weights, bias = self._integers(node.linear, fine)
            trial = [*weights] if bias is None else [*weights, bias]
            affine = Affine(
                _numbered(terms, range(len(weights))),
                None if bias is None else len(weights),
                None,
                node.linear.shape,
            )
            values, _ = affine_bounds(affine, self.limits, trial, self.shapes)
            ends = (quotient(values[0], shift), quotient(values[1], shift))
            if _domain_bits(ends) <= most_bits and not (extra > _COARSE and _long(weights)):
                break
        else:
            raise unsupported("an activation is tiny beside the values it could have")
        grid = Grid(scale, *top)
        requantise = self._requantise(ends, step, shift, node.activation, grid)
        numbers = self._keep(weights, bias)
        shape = node.linear.shape
        self.nodes.append(Affine(_numbered(terms, numbers[0]), numbers[1], requantise, shape))

    def _output_scale(
        self, name: str, activation: Activation, *, wide: bool
    ) -> tuple[float, Interval]:
        """Return the scale of a tensor, and where its table clips."""
        if activation.grid is not None:
            grid = activation.grid
            return grid.scale, (grid.low, grid.high)
        low, high = self.ranges.get(name, (0.0, 0.0))
        size = max(abs(low), abs(high)) or 1.0
        top = _TOP if wide else self.precision.top
        exact = size / top
        # A power of two, where a function is curved: its table serves other nodes too.
        scale = _short(exact, bits=_MANTISSA_BITS if activation.homogeneous else 1)
        return scale, (-top if low < 0 else 0, top)

    def _shift(self, linear: Linear, step: float) -> int:
        """Return the smallest shift whose rounding of weights is small beside `step`.

        The errors of a sum's weights add up as those of independent roundings do, for values of a
        quarter of the range.
        """
        bits = self.precision.range_bits
        for shift in range(0, _MAX_SHIFT + 1, bits):
            fine = math.ldexp(step, -shift)
            noise, fits = 0.0, True
            for term in linear.terms:
                scale, limits = self.scales[term.source], self.limits[term.source]
                if isinstance(term, RealConvolve):
                    count = math.prod(term.weight.shape[2:])
                    noise += count * (max(map(abs, limits)) / 4) ** 2 / 12
                else:
                    factor = scale * abs(term.factor) / fine
                    exact = math.isclose(factor, round(factor), rel_tol=1e-9) and factor >= 1
                    fits = fits and (exact or factor >= _LEAST_MULTIPLIER)
            if fits and math.sqrt(noise) <= _NOISE * 2.0**shift:
                return shift
        return _MAX_SHIFT // bits * bits

    def _integers(
        self, linear: Linear, step: float
    ) -> tuple[list[Term], list[Integers], Integers | None]:
        """Return the terms with their weights, counted in `step`; weights numbered from 0."""
        terms: list[Term] = []
        weights: list[Integers] = []
        for term in linear.terms:
            ratio = self.scales[term.source] / step
            if isinstance(term, RealConvolve):
                weights.append(_rounded(term.weight * ratio))
                number = len(weights) - 1
                terms.append(
                    Convolve(term.source, number, term.strides, term.before, term.dilations)
                )
                continue
            multiplier = round(term.factor * ratio)
            if multiplier == 0 or abs(multiplier) >= 1 << 31:
                raise unsupported("the summands of an addition differ too much in size")
            terms.append(_simple_term(term, multiplier))
        bias = None
        if linear.bias is not None and bool(np.any(linear.bias)):
            bias = _rounded(linear.bias / step)
        return terms, weights, bias

    def _keep(
        self, weights: Sequence[Integers], bias: Integers | None
    ) -> tuple[list[int], int | None]:
        first = len(self.weights)
        self.weights.extend(weights)
        numbers = list(range(first, len(self.weights)))
        if bias is None:
            return numbers, None
        self.weights.append(bias)
        return numbers, len(self.weights) - 1

    # -- Other nodes ----------------------------------------------------------------------------

    def _add_multiply(self, node: DraftMultiply) -> None:
        left, right = node.product.left, node.product.right
        fine = self.scales[left] * self.scales[right]
        corners = [a * b for a in self.limits[left] for b in self.limits[right]]
        values = min(corners), max(corners)
        bits = self.precision.range_bits
        shift = 0
        while (
            _domain_bits((quotient(values[0], shift), quotient(values[1], shift)))
            > self.precision.table_bits
        ):
            shift += bits
        ends = quotient(values[0], shift), quotient(values[1], shift)
        step = math.ldexp(fine, shift)
        wanted, top = self._output_scale(node.name, node.activation, wide=False)
        scale = wanted
        if node.activation.homogeneous and node.activation.grid is None:
            # A power of two beside the step: the table is then one that other nodes have too.
            scale = math.ldexp(step, math.ceil(math.log2(wanted / step) - 1e-9))
        requantise = self._requantise(ends, step, shift, node.activation, Grid(scale, *top))
        self.nodes.append(Multiply(left, right, requantise))

    def _add_maximum(self, node: DraftMaximum) -> None:
        self.nodes.append(
            Maximum(node.source, node.axis, node.kernel, node.stride, node.before, node.after)
        )
        self.scales.append(self.scales[node.source])
        self.limits.append(self.limits[node.source])

    def _requantise(
        self, ends: Interval, step: float, shift: int, activation: Activation, grid: Grid
    ) -> Requantise:
        """Return the node's table, a known one if there is one with the same values."""
        bits = _domain_bits(ends)
        if bits > _MAX_DOMAIN:
            raise unsupported("a value is too wide for any table")
        size = 1 << bits
        first = -size // 2 if ends[0] < 0 else 0
        arguments = np.arange(first, first + size, dtype=np.float64) * step
        values = np.nan_to_num(activation(arguments), nan=0.0) / grid.scale
        # Halves away from minus infinity, as everywhere in the model.
        rounded = np.clip(np.floor(values + 0.5), grid.low, grid.high)
        table = Table(first, rounded.astype("<i2").tobytes())
        if table not in self._numbers:
            self._numbers[table] = len(self.tables)
            self.tables.append(table)
        reached = table.values[ends[0] - first : ends[1] - first + 1]
        self.scales.append(grid.scale)
        self.limits.append((int(reached.min()), int(reached.max())))
        return Requantise(shift, self._numbers[table])


def _contains(whole: Table, part: Table) -> bool:
    start = part.first - whole.first
    if start < 0 or start + len(part) > len(whole):
        return False
    return bool(np.array_equal(whole.values[start : start + len(part)], part.values))


def _domain_bits(ends: Interval) -> int:
    """Return the size of the smallest domain that holds `ends`: around 0, or from 0 on."""
    if ends[0] >= 0:
        return max(1, ends[1].bit_length())
    return 1 + max((-ends[0] - 1).bit_length(), max(ends[1], 0).bit_length())


def _long(weights: Sequence[Integers]) -> bool:
    """Tell whether many weights need more than 16 bits, which costs the prover time."""
    return any(each.size > _MANY_WEIGHTS and int(np.abs(each).max()) > _INT16 for each in weights)


def _rounded(values: npt.NDArray[np.float64]) -> Integers:
    integers = np.rint(values)
    if not bool(np.isfinite(integers).all()) or float(np.abs(integers).max()) >= 1 << 50:
        raise unsupported("a weight is out of range")
    return integers.astype(np.int64)


def _largest(term: RealTerm) -> float:
    return float(np.abs(term.weight).max()) if isinstance(term, RealConvolve) else abs(term.factor)


def _numbered(terms: Sequence[Term], numbers: Sequence[int]) -> tuple[Term, ...]:
    """Return `terms` with their weights' numbers in the graph."""
    return tuple(
        Convolve(term.source, numbers[term.weight], term.strides, term.before, term.dilations)
        if isinstance(term, Convolve)
        else term
        for term in terms
    )


def _simple_term(term: RealWindow | RealScale | RealEmbed, multiplier: int) -> Term:
    if isinstance(term, RealWindow):
        return Window(term.source, multiplier, term.kernel, term.strides, term.before)
    if isinstance(term, RealScale):
        return Scale(term.source, multiplier)
    return Embed(term.source, term.axis, term.offset, multiplier)


def _short(value: float, *, bits: int) -> float:
    """Return the smallest number that is not below `value` and has a mantissa of `bits` bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, bits)), exponent - bits)
