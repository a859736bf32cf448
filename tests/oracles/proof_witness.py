"""An integer model run in plain Python, and the tensors a proof of it commits to.

From spec/integer-model.md and sections 3, 6 and 7 of spec/proof.md. A tensor is a flat list over
its padded axes; a functional of it is a flat list of field elements, one per entry, written down
from its definition and not from any closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from oracles.proof_algebra import ZERO, E, eq_table
from verispect.proof.graph import (
    Affine,
    Convolve,
    Embed,
    Graph,
    Maximum,
    Multiply,
    Node,
    Scale,
    Window,
)

Name = tuple
"""("input",), ("q", node), ("limb", node, i), ("y", node), ("stage", node, k), ("mult", tag),
("weight", i)."""

Place = tuple[int, ...]


def padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def bits(size: int) -> int:
    return (size - 1).bit_length()


@dataclass
class Array:
    """The unpadded sizes of the axes, and the padded entries."""

    sizes: tuple[int, ...]
    values: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.axes = tuple(map(padded, self.sizes))
        self.variables = sum(map(bits, self.sizes))
        if not self.values:
            self.values = [0] * math.prod(self.axes)

    def index(self, place: Place) -> int:
        index = 0
        for i, axis in zip(place, self.axes, strict=True):
            index = index * axis + i
        return index

    def __getitem__(self, place: Place) -> int:
        return self.values[self.index(place)]

    def __setitem__(self, place: Place, value: int) -> None:
        self.values[self.index(place)] = value

    def places(self) -> Iterator[Place]:
        return itertools.product(*map(range, self.sizes))

    def holds(self, place: Place) -> bool:
        return all(0 <= i < size for i, size in zip(place, self.sizes, strict=True))

    def split(self, point: Sequence[E]) -> list[list[E]]:
        parts, rest = [], list(point)
        for size in self.sizes:
            parts.append(rest[: bits(size)])
            rest = rest[bits(size) :]
        assert not rest
        return parts


def source_of(node: Node, k: int, graph: Graph, place: Place) -> Place:
    """Where tap `k` of a maximum looks for the output at `place`, perhaps outside the source."""
    assert isinstance(node, Maximum)
    moved = list(place)
    moved[node.axis + 1] = place[node.axis + 1] * node.stride + k - node.before
    return tuple(moved)


def linear_sources(graph: Graph, term: Window | Scale | Embed, place: Place) -> Iterator[Place]:
    """The places of the source, before bounds, that a term without weights adds at `place`."""
    if isinstance(term, Scale):
        yield place
    elif isinstance(term, Embed):
        moved = list(place)
        moved[term.axis + 1] -= term.offset
        yield tuple(moved)
    else:
        for taps in itertools.product(*map(range, term.kernel)):
            yield place[:2] + tuple(
                p * s + k - b
                for p, s, k, b in zip(place[2:], term.strides, taps, term.before, strict=True)
            )


def convolved_source(
    graph: Graph, term: Convolve, place: Place, g: int, i: int, taps: Place
) -> Place:
    """The place of the source that the weight `(g, ., i, *taps)` meets at a spatial `place`."""
    inputs = graph.weights[term.weight][2]
    spatial = zip(place[2:], term.strides, taps, term.dilations, term.before, strict=True)
    return (place[0], g * inputs + i, *(p * s + k * d - b for p, s, k, d, b in spatial))


def tables_used(graph: Graph, *, hidden_input: bool) -> list[int]:
    """The tags of the lookup tables, in order."""
    tags = []
    if any(isinstance(node, Maximum) for node in graph.nodes):
        tags.append(0)
    if any(graph.limbs(node) for node in graph.nodes):
        tags.append(1)
    used = {
        node.requantise.table
        for node in graph.nodes
        if not isinstance(node, Maximum) and node.requantise is not None
    }
    tags += [2 + table for table in sorted(used)]
    return [*tags, 2**16] if hidden_input else tags


def entries(graph: Graph, tag: int) -> list[tuple[int, int]]:
    """The pairs in the table with `tag`."""
    if tag == 0:
        spread = 0
        for node in graph.nodes:
            if isinstance(node, Maximum):
                low, high = value_range(graph, node.source)
                spread = max(spread, high - low)
        half = 1
        while half <= spread:
            half *= 2
        return [(i, max(i, 0)) for i in range(-half, half)]
    if tag == 1:
        return [(i, 0) for i in range(2**graph.range_bits)]
    if tag == 2**16:
        low, high = graph.input.minimum, graph.input.maximum
        count = 2
        while count <= high - low:
            count *= 2
        return [(min(low + k, high), 0) for k in range(count)]
    table = graph.tables[tag - 2]
    return [(table.first + k, int(value)) for k, value in enumerate(table.values)]


def value_range(graph: Graph, tensor: int) -> tuple[int, int]:
    if tensor == 0:
        return graph.input.minimum, graph.input.maximum
    node = graph.nodes[tensor - 1]
    if isinstance(node, Maximum):
        return value_range(graph, node.source)
    assert node.requantise is not None
    values = graph.tables[node.requantise.table].values
    return int(min(values)), int(max(values))


class Witness:
    """All tensors of one batch, by name and in order; `weights` are flat unpadded lists."""

    def __init__(
        self,
        graph: Graph,
        weights: list[list[int]],
        inputs: list[list[int]],
        hidden_input: bool,
        *,
        run: bool = True,
    ) -> None:
        self.graph = graph
        self.batch = len(inputs)
        self.hidden_input = hidden_input
        self.weights = [Array(tuple(shape)) for shape in graph.weights]
        for array, values in zip(self.weights, weights, strict=True):
            for place, value in zip(array.places(), values, strict=True):
                array[place] = int(value)
        self.named: dict[Name, Array] = {}
        if not inputs:
            return
        self.named["input",] = self._array(0)
        if not run:
            self._shapes_only()
            return
        flat = [value for row in inputs for value in row]
        for place, value in zip(self.named["input",].places(), flat, strict=True):
            self.named["input",][place] = int(value)
        for number, node in enumerate(graph.nodes):
            self._run(number, node)
        self.count_multiplicities()

    def _shapes_only(self) -> None:
        for number, node in enumerate(self.graph.nodes):
            if isinstance(node, Maximum):
                names: list[Name] = [("stage", number, k) for k in range(1, node.kernel)]
            else:
                names = [("limb", number, i) for i in range(self.graph.limbs(node))]
                names = [*([("q", number)] if node.requantise else []), *names, ("y", number)]
            for name in names:
                self.named[name] = self._array(number + 1)
        for tag in tables_used(self.graph, hidden_input=self.hidden_input):
            self.named["mult", tag] = Array((len(entries(self.graph, tag)),))

    def _array(self, tensor: int) -> Array:
        return Array((self.batch, *self.graph.shapes[tensor]))

    def tensor(self, number: int) -> Array:
        return self.named[self.name_of(number)]

    def name_of(self, number: int) -> Name:
        if number == 0:
            return ("input",)
        node = self.graph.nodes[number - 1]
        if isinstance(node, Maximum):
            return ("stage", number - 1, node.kernel - 1)
        return ("y", number - 1)

    def _run(self, number: int, node: Node) -> None:
        if isinstance(node, Maximum):
            self._run_maximum(number, node)
            return
        result = self._array(number + 1)
        for place in result.places():
            result[place] = self._value(node, place)
        if node.requantise is None:
            self.named["y", number] = result
            return
        shift, width = node.requantise.shift, self.graph.range_bits
        table = self.graph.tables[node.requantise.table]
        q, y = self._array(number + 1), self._array(number + 1)
        limbs = [self._array(number + 1) for _ in range(shift // width)]
        for place in result.places():
            v = result[place] + (2 ** (shift - 1) if shift else 0)
            q[place] = v >> shift
            assert 0 <= q[place] - table.first < len(table), "q leaves its table"
            y[place] = int(table.values[q[place] - table.first])
            for i, limb in enumerate(limbs):
                limb[place] = (v >> (i * width)) % 2**width
        self.named["q", number] = q
        for i, limb in enumerate(limbs):
            self.named["limb", number, i] = limb
        self.named["y", number] = y

    def _value(self, node: Affine | Multiply, place: Place) -> int:
        if isinstance(node, Multiply):
            left, right = self.tensor(node.left), self.tensor(node.right)
            near = tuple(i if size > 1 else 0 for i, size in zip(place, right.sizes, strict=True))
            return left[place] * right[near]
        value = 0 if node.bias is None else self.weights[node.bias][(place[1],)]
        for term in node.terms:
            source = self.tensor(term.source)
            if isinstance(term, Convolve):
                weight = self.weights[term.weight]
                _, outputs, inputs, *kernel = weight.sizes
                g, o = divmod(place[1], outputs)
                for i in range(inputs):
                    for taps in itertools.product(*map(range, kernel)):
                        there = convolved_source(self.graph, term, place, g, i, taps)
                        if source.holds(there):
                            value += weight[(g, o, i, *taps)] * source[there]
            else:
                multiplier = term.multiplier
                for there in linear_sources(self.graph, term, place):
                    if source.holds(there):
                        value += multiplier * source[there]
        return value

    def _run_maximum(self, number: int, node: Maximum) -> None:
        previous: Array | None = None
        for k in range(node.kernel):
            stage = self._array(number + 1)
            for place in stage.places():
                value = self.tapped(number, k, place)
                stage[place] = value if previous is None else max(previous[place], value)
            previous = stage
            if k:
                self.named["stage", number, k] = stage

    def tapped(self, number: int, k: int, place: Place) -> int:
        node = self.graph.nodes[number]
        assert isinstance(node, Maximum)
        source, there = self.tensor(node.source), source_of(node, k, self.graph, place)
        return source[there] if source.holds(there) else value_range(self.graph, node.source)[0]

    def lookups(self) -> Iterator[tuple[int, tuple[int, ...], list[tuple[int, int]]]]:
        """For every lookup block: tag, unpadded sizes, and the pairs at the places inside."""
        if self.hidden_input:
            x = self.named["input",]
            yield 2**16, x.sizes, [(x[place], 0) for place in x.places()]
        for number, node in enumerate(self.graph.nodes):
            sizes = self._array(number + 1).sizes
            if isinstance(node, Maximum):
                for k in range(1, node.kernel):
                    yield 0, sizes, [self._step(number, k, place) for place in self._places(number)]
            elif node.requantise is not None:
                q, y = self.named["q", number], self.named["y", number]
                yield 2 + node.requantise.table, sizes, [(q[p], y[p]) for p in q.places()]
                for i in range(self.graph.limbs(node)):
                    limb = self.named["limb", number, i]
                    yield 1, sizes, [(limb[place], 0) for place in limb.places()]

    def _places(self, number: int) -> Iterator[Place]:
        return self._array(number + 1).places()

    def _step(self, number: int, k: int, place: Place) -> tuple[int, int]:
        x = self.tapped(number, k, place)
        if k == 1:
            before = self.tapped(number, 0, place)
        else:
            before = self.named["stage", number, k - 1][place]
        return before - x, self.named["stage", number, k][place] - x

    def count_multiplicities(self) -> None:
        """Make the multiplicity arrays; pairs outside their table are counted nowhere."""
        for tag in tables_used(self.graph, hidden_input=self.hidden_input):
            self.named.pop(("mult", tag), None)  # Last, whatever was there before.
            table = entries(self.graph, tag)
            counts = Array((len(table),))
            index = {pair: k for k, pair in reversed(list(enumerate(table)))}
            for used, _, pairs in self.lookups():
                if used == tag:
                    for pair in pairs:
                        if pair in index:
                            counts.values[index[pair]] += 1
            self.named["mult", tag] = counts

    # -- Functionals: one element per padded entry, and the constants beside them ------------------

    def at(self, name: Name, point: Sequence[E]) -> list[E]:
        table = eq_table(point)
        assert len(table) == len(self.array(name).values)
        return table

    def array(self, name: Name) -> Array:
        return self.weights[name[1]] if name[0] == "weight" else self.named[name]

    def inside(self, name: Name, point: Sequence[E]) -> list[E]:
        array, table = self.array(name), self.at(name, point)
        result = [ZERO] * len(table)
        for place in array.places():
            result[array.index(place)] = table[array.index(place)]
        return result

    def ones(self, sizes: tuple[int, ...], point: Sequence[E]) -> E:
        array, table, result = Array(sizes), eq_table(point), ZERO
        for place in array.places():
            result = result + table[array.index(place)]
        return result

    def tap(self, number: int, k: int, point: Sequence[E]) -> tuple[list[E], E]:
        """The functional of the source, and the constant."""
        node = self.graph.nodes[number]
        assert isinstance(node, Maximum)
        source, result = self.tensor(node.source), self._array(number + 1)
        table, vector, constant = eq_table(point), [ZERO] * len(source.values), ZERO
        fill = value_range(self.graph, node.source)[0]
        for place in result.places():
            there, weight = source_of(node, k, self.graph, place), table[result.index(place)]
            if source.holds(there):
                vector[source.index(there)] = vector[source.index(there)] + weight
            else:
                constant = constant + weight * fill
        return vector, constant

    def linear(self, number: int, term: Window | Scale | Embed, point: Sequence[E]) -> list[E]:
        source, result = self.tensor(term.source), self._array(number + 1)
        table, vector = eq_table(point), [ZERO] * len(source.values)
        for place in result.places():
            for there in linear_sources(self.graph, term, place):
                if source.holds(there):
                    at = source.index(there)
                    vector[at] = vector[at] + table[result.index(place)] * term.multiplier
        return vector

    def convolved(
        self, number: int, term: Convolve, point: Sequence[E], rho: Sequence[E]
    ) -> list[E]:
        """Coefficients over the source, at the extended `rho` over `(g, i, taps)`."""
        source, result = self.tensor(term.source), self._array(number + 1)
        groups, _, inputs, *kernel = self.graph.weights[term.weight]
        parts = result.split(point)
        spatial = Array((result.sizes[0], *result.sizes[2:]))
        table = eq_table([z for i, part in enumerate(parts) if i != 1 for z in part])
        taps_array = Array((groups, inputs, *kernel))
        weights = eq_table(rho)
        vector = [ZERO] * len(source.values)
        for choice in taps_array.places():
            for place in spatial.places():
                full = (place[0], 0, *place[1:])
                there = convolved_source(self.graph, term, full, choice[0], choice[1], choice[2:])
                if source.holds(there):
                    at = source.index(there)
                    vector[at] = (
                        vector[at] + table[spatial.index(place)] * weights[taps_array.index(choice)]
                    )
        return vector

    def convolved_table(self, number: int, term: Convolve, point: Sequence[E]) -> list[E]:
        """The value of `convolved` at every Boolean `rho`."""
        groups, _, inputs, *kernel = self.graph.weights[term.weight]
        source, result = self.tensor(term.source), self._array(number + 1)
        parts = result.split(point)
        spatial = Array((result.sizes[0], *result.sizes[2:]))
        table = eq_table([z for i, part in enumerate(parts) if i != 1 for z in part])
        choices = Array((groups, inputs, *kernel))
        values = [ZERO] * len(choices.values)
        for choice in choices.places():
            for place in spatial.places():
                full = (place[0], 0, *place[1:])
                there = convolved_source(self.graph, term, full, choice[0], choice[1], choice[2:])
                if source.holds(there):
                    at = choices.index(choice)
                    values[at] = values[at] + table[spatial.index(place)] * source[there]
        return values


def apply(vector: list[E], array: Array) -> E:
    result = ZERO
    for coefficient, value in zip(vector, array.values, strict=True):
        if value:
            result = result + coefficient * value
    return result
