"""Functionals of tensors, as the verifier needs them (spec/proof.md section 6).

A functional is a product of one vector per axis, which is never written out: all that is asked of
it is its extension at the point of section 9, axis by axis. A `View` puts one on an array; what is
constant in section 6 is returned beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from verispect.core.errors import MalformedError, Reason
from verispect.proof.field import ONE, ZERO, Element, product_of
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import Affine, Convolve, Embed, Maximum, Term, Window
from verispect.proof.layout import Name, Sizes, axis_variables, tensor_name
from verispect.proof.multilinear import eq, prefix_product_sum, prefix_sum
from verispect.proof.verifier.algebra import Point, dot, equalities

MAX_WINDOW_STEPS: Final = 1 << 22
"""Sizes of axes, and places times taps, that a verifier walks through for all nodes together."""
_STAGE_STEPS: Final = 256
"""What the arrays of one stage of a maximum are worth beside its axes, however short these are."""
_TERM_STEPS: Final = 64
"""The same for one term of an affine node."""


class Axis(Protocol):
    """The vector of one axis, or of several that lie side by side."""

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""


@dataclass(frozen=True, slots=True)
class At:
    """`eq(z, .)`."""

    z: Point

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""
        return len(self.z)

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""
        return eq(self.z, point)


@dataclass(frozen=True, slots=True)
class Inside:
    """`eq(z, .)` below the unpadded size, zero above."""

    z: Point
    size: int

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""
        return len(self.z)

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""
        return prefix_product_sum(self.z, point, self.size)


@dataclass(frozen=True, slots=True)
class Shifted:
    """`eq(z, offset + .)` below the unpadded size, zero above."""

    z: Point
    offset: int
    size: int

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""
        return (self.size - 1).bit_length()

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""
        there = equalities(self.z)[self.offset : self.offset + self.size]
        return dot(there, equalities(point)[: self.size])


@dataclass(frozen=True, slots=True)
class Strided:
    """`sum over taps k of weights[k] S_k`: the spatial vectors of a window."""

    z: Point
    outputs: int
    size: int
    stride: int
    dilation: int
    before: int
    taps: range
    weights: tuple[Element, ...] | None = None
    """One for each tap, or all of them one."""

    @property
    def variables(self) -> int:
        """The number of variables of the axis."""
        return (self.size - 1).bit_length()

    def at(self, point: Point) -> Element:
        """Return the extension of the vector at `point`."""
        there, here = equalities(self.z), equalities(point)
        result = ZERO
        for number, k in enumerate(self.taps):
            shift = k * self.dilation - self.before
            # The outputs whose tap lies inside the source.
            first = max(0, -(shift // self.stride))
            end = min(self.outputs, (self.size - 1 - shift) // self.stride + 1)
            if first >= end:
                continue
            start = first * self.stride + shift
            stop = start + (end - first - 1) * self.stride + 1
            part = dot(there[first:end], here[start : stop : self.stride])
            result = result + (part if self.weights is None else part * self.weights[number])
        return result

    def outside(self) -> Element:
        """Return the sum of `eq(z, o)` over the outputs whose one tap lies outside the source."""
        (k,) = self.taps
        shift = k * self.dilation - self.before
        first = min(self.outputs, max(0, -(shift // self.stride)))
        end = max(first, min(self.outputs, (self.size - 1 - shift) // self.stride + 1))
        inside = prefix_sum(self.z, end) - prefix_sum(self.z, first)
        return prefix_sum(self.z, self.outputs) - inside


Key: TypeAlias = Name | int
"""An array of the witness by name, a weight by number."""


@dataclass(frozen=True, slots=True)
class View:
    """A multiple of a functional of one array."""

    array: Key
    factor: Element
    axes: tuple[Axis, ...]

    def scaled(self, factor: Element) -> View:
        """Return this functional times `factor`."""
        return View(self.array, self.factor * factor, self.axes)

    def at(self, point: Point) -> Element:
        """Return the extension of the functional at a point of the array's variables."""
        result, rest = self.factor, point
        for axis in self.axes:
            own, rest = rest[: axis.variables], rest[axis.variables :]
            result = result * axis.at(own)
        if rest:
            raise RuntimeError("a functional has other variables than its array")
        return result


def split(point: Point, sizes: Sizes) -> list[Point]:
    """Return the coordinates of each axis."""
    parts = []
    for count in axis_variables(sizes):
        parts.append(point[:count])
        point = point[count:]
    return parts


def suffix(point: Point, count: int) -> Point:
    """Return the last `count` coordinates."""
    return point[len(point) - count :]


def ones(sizes: Sizes, point: Point) -> Element:
    """Return the extension of the indicator of the places inside."""
    return product_of(
        [prefix_sum(z, size) for z, size in zip(split(point, sizes), sizes, strict=True)]
    )


def at(array: Key, point: Point, factor: Element = ONE) -> View:
    """Return `at(T, z)`."""
    return View(array, factor, (At(point),))


def inside(array: Key, sizes: Sizes, point: Point, factor: Element = ONE) -> View:
    """Return `inside(T, z)`."""
    return View(array, factor, _inside(sizes, point))


def _inside(sizes: Sizes, point: Point) -> tuple[Axis, ...]:
    return tuple(Inside(z, size) for z, size in zip(split(point, sizes), sizes, strict=True))


class TensorViews:
    """The functionals of section 6, for one graph and batch."""

    def __init__(self, graph: Graph, batch: int) -> None:
        self.graph = graph
        self.batch = batch

    def sizes(self, tensor: int) -> Sizes:
        """Return the unpadded sizes of a tensor, the batch first."""
        return (self.batch, *self.graph.shapes[tensor])

    def convolved(self, node: int, term: Convolve, z: Point, rho: Point) -> View:
        """Return `convolved(X, z, rho)`, `rho` over groups, inputs and taps."""
        groups, _, inputs, *kernel = self.graph.weights[term.weight]
        source = self.sizes(term.source)
        outer = split(z, self.sizes(node + 1))
        parts = split(rho, (groups, inputs, *kernel))
        spatial: list[Axis] = []
        for axis, taps in enumerate(kernel):
            weights = tuple(equalities(parts[2 + axis])[:taps])
            spatial.append(
                Strided(
                    outer[2 + axis],
                    self.sizes(node + 1)[2 + axis],
                    source[2 + axis],
                    term.strides[axis],
                    term.dilations[axis],
                    term.before[axis],
                    range(taps),
                    weights,
                )
            )
        batch = Inside(outer[0], self.batch)
        channels = Inside(parts[0] + parts[1], source[1])
        return View(tensor_name(self.graph, term.source), ONE, (batch, channels, *spatial))

    def windowed(self, node: int, term: Window, z: Point) -> View:
        """Return `windowed(X, z)` times the multiplier."""
        source, result = self.sizes(term.source), self.sizes(node + 1)
        outer = split(z, result)
        axes: list[Axis] = [Inside(outer[i], source[i]) for i in range(2)]
        for axis, taps in enumerate(term.kernel):
            axes.append(
                Strided(
                    outer[2 + axis],
                    result[2 + axis],
                    source[2 + axis],
                    term.strides[axis],
                    1,
                    term.before[axis],
                    range(taps),
                )
            )
        factor = Element.of(term.multiplier)
        return View(tensor_name(self.graph, term.source), factor, tuple(axes))

    def embedded(self, node: int, term: Embed, z: Point) -> View:
        """Return `embedded(X, z)`, with its multiplier."""
        source = self.sizes(term.source)
        outer = split(z, self.sizes(node + 1))
        axes: list[Axis] = [Inside(own, size) for own, size in zip(outer, source, strict=True)]
        along = 1 + term.axis
        axes[along] = Shifted(outer[along], term.offset, source[along])
        factor = Element.of(term.multiplier)
        return View(tensor_name(self.graph, term.source), factor, tuple(axes))

    def tap(self, number: int, node: Maximum, k: int, z: Point) -> tuple[View, Element]:
        """Return `tap(X, z, k)`: the functional and the constant."""
        source, result = self.sizes(node.source), self.sizes(number + 1)
        outer = split(z, result)
        axes: list[Axis] = [Inside(own, size) for own, size in zip(outer, result, strict=True)]
        along = 1 + node.axis
        window = Strided(
            outer[along],
            result[along],
            source[along],
            node.stride,
            1,
            node.before,
            range(k, k + 1),
        )
        axes[along] = window
        values = self.graph.value_range(node.source)
        if values is None:
            raise RuntimeError("a valid graph has no maximum of raw values")
        others = [
            prefix_sum(own, size)
            for i, (own, size) in enumerate(zip(outer, result, strict=True))
            if i != along
        ]
        constant = window.outside() * product_of(others) * values[0]
        return View(tensor_name(self.graph, node.source), ONE, tuple(axes)), constant


def require_modest(graph: Graph) -> None:
    """Refuse a graph whose windows are more work than a verifier should do.

    Raises:
        MalformedError: `too-large`.
    """
    steps = 0
    for number, node in enumerate(graph.nodes):
        outputs = graph.shapes[number + 1]
        if isinstance(node, Maximum):
            source = graph.shapes[node.source][node.axis]
            steps += node.kernel * (source + 2 * outputs[node.axis] + _STAGE_STEPS)
        elif isinstance(node, Affine):
            for term in node.terms:
                kernel = (0, *_kernel(graph, term))
                steps += sum(m * k for m, k in zip(outputs, kernel, strict=False))
                steps += sum(outputs) + sum(graph.shapes[term.source]) + _TERM_STEPS
    if steps > MAX_WINDOW_STEPS:
        raise MalformedError("the graph's windows are too large", reason=Reason.TOO_LARGE)


def _kernel(graph: Graph, term: Term) -> tuple[int, ...]:
    if isinstance(term, Convolve):
        return graph.weights[term.weight][3:]
    return term.kernel if isinstance(term, Window) else ()
