"""Sections 5 to 10 of spec/proof.md as one conversation, for either role, in plain integers.

`converse` says what is sent, drawn and required, in order. The `Party` decides what that means: a
`Proving` one computes and records messages, a `Judging` one reads them. In mode zero-knowledge a
value is a linear form in the masks, and requirements are collected; `finish` decides them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from oracles.proof_algebra import (
    ONE,
    ZERO,
    E,
    P,
    Transcript,
    at_cubic,
    bind,
    dot,
    eq_point,
    eq_table,
    extension,
    octets,
    root_of_unity,
    suffix,
    total,
)
from oracles.proof_witness import Array, Name, Witness, apply, bits, entries, tables_used
from verispect.proof.graph import Affine, Convolve, Maximum, Multiply


class Refused(Exception):  # noqa: N818 - an answer, not a mistake
    """The oracle's verifier says no."""


@dataclass
class Form:
    """`constant + sum of coefficients * masks`; the true value beside it where it is known."""

    constant: E
    true: E | None = None
    coefficients: dict[int, E] = field(default_factory=dict)

    def __add__(self, other: Form | E | int) -> Form:
        if not isinstance(other, Form):
            other = Form(E(0) + other, E(0) + other)
        merged = dict(self.coefficients)
        for i, value in other.coefficients.items():
            merged[i] = merged.get(i, ZERO) + value
        known = self.true is not None and other.true is not None
        return Form(
            self.constant + other.constant, self.true + other.true if known else None, merged
        )

    __radd__ = __add__

    def __mul__(self, factor: E | int) -> Form:
        return Form(
            self.constant * factor,
            None if self.true is None else self.true * factor,
            {i: value * factor for i, value in self.coefficients.items()},
        )

    __rmul__ = __mul__

    def __neg__(self) -> Form:
        return self * -1

    def __sub__(self, other: Form | E | int) -> Form:
        return self + (-other)

    def __rsub__(self, other: E | int) -> Form:
        return -self + other


NOTHING = Form(ZERO, ZERO)


def add_up(forms: Sequence[Form]) -> Form:
    result = NOTHING
    for form in forms:
        result = result + form
    return result


@dataclass
class Polynomial:
    """Tensors at their offsets, all of them in `2^variables` places from `first_row` on."""

    variables: int
    rows: int
    parts: list[tuple[Name, int]]


def polynomials(named: dict[Name, Array], c: int) -> list[Polynomial]:
    large, packed = [], []
    for name, array in named.items():
        if array.variables >= c:
            extent = 1 + array.index(tuple(size - 1 for size in array.sizes))
            large.append(Polynomial(array.variables, -(-extent // 2**c), [(name, 0)]))
        else:
            packed.append(name)
    packed.sort(key=lambda name: -named[name].variables)
    small: list[Polynomial] = []
    free = 0
    for name in packed:
        size = 2 ** named[name].variables
        if not small or free + size > 2**c:
            small.append(Polynomial(c, 1, []))
            free = 0
        small[-1].parts.append((name, free))
        free += size
    return large + small


def dense(polynomial: Polynomial, named: dict[Name, Array]) -> list[int]:
    values = [0] * 2**polynomial.variables
    for name, offset in polynomial.parts:
        values[offset : offset + len(named[name].values)] = named[name].values
    return values


class Functional:
    """Coefficients over the entries of tensors, and a constant."""

    def __init__(self) -> None:
        self.parts: dict[Name, list[E]] = {}
        self.constant = ZERO

    def add(self, name: Name, vector: list[E], factor: E | int = 1) -> None:
        scaled = [value * factor for value in vector]
        known = self.parts.get(name)
        self.parts[name] = (
            scaled if known is None else [x + y for x, y in zip(known, scaled, strict=True)]
        )


class Party:
    """What both roles share: the transcript, the masks' numbering and the collected equations."""

    proving = False

    def __init__(self, *, masked: bool) -> None:
        self.masked = masked
        self.transcript = Transcript()
        self.sent_masks = 0
        self.products = 0
        self.equations: list[Form] = []
        self.product_forms: list[list[Form]] = []
        self.first_tie = 0

    def challenge(self, label: str) -> E:
        return self.transcript.challenge(label)

    def vector(self, label: str, count: int) -> list[E]:
        return [self.challenge(label) for _ in range(count)]

    def exchange(self, label: str, true: list[E] | None, count: int, factor: E = ONE) -> list[Form]:
        """One message of sections 7 to 9: masked where the mode says so."""
        numbers = list(range(self.sent_masks, self.sent_masks + count))
        if self.masked:
            self.sent_masks += count
            masks = [self.mask(i) for i in numbers]
            shown = None
            if true is not None:
                shown = [x + factor * m for x, m in zip(true, masks, strict=True)]
        else:
            shown = true
        said = self.plain(label, shown, count)
        known = said if not self.masked else true or [None] * count
        forms = [Form(value, x) for value, x in zip(said, known, strict=True)]
        if self.masked:
            for form, number in zip(forms, numbers, strict=True):
                form.coefficients[number] = -factor
        return forms

    def mask(self, number: int) -> E:
        return ZERO

    def plain(self, label: str, shown: list[E] | None, count: int) -> list[E]:
        raise NotImplementedError

    def product(self, x: Form, y: Form) -> Form:
        if not self.masked:
            return Form(x.constant * y.constant, x.constant * y.constant)
        base = self.entries_start + 6 * self.products
        self.products += 1
        forms = [Form(ZERO, self.mask(base + i), {base + i: ONE}) for i in range(6)]
        a, b, c = forms[:3]
        self.product_forms.append(forms)
        known = self.proving
        shown = [(x + a).true, (y + b).true] if known else None
        first, second = self.plain("product", shown, 2)
        self.require(x + a - first)
        self.require(y + b - second)
        return first * second - first * b - second * a + c

    entries_start = 0

    def require(self, form: Form) -> None:
        self.equations.append(form)
        if not self.masked and not self.proving and form.constant != 0:
            raise Refused("an equation does not hold")

    def require_inverse(self, form: Form) -> None:
        if not self.masked:
            if not self.proving and form.constant == 0:
                raise Refused("a denominator is zero")
            return
        true = [form.true.inverse()] if self.proving and form.true != 0 else [ZERO]
        (inverse,) = self.exchange("inverse", true if self.proving else None, 1)
        self.require(self.product(form, inverse) - 1)


class Counting(Party):
    """Runs the conversation over zeros to learn how many messages and products it has."""

    def __init__(self) -> None:
        super().__init__(masked=True)

    def plain(self, label: str, shown: list[E] | None, count: int) -> list[E]:
        return [ZERO] * count


class Proving(Party):
    proving = True

    def __init__(self, *, masked: bool) -> None:
        super().__init__(masked=masked)
        self.messages: list[E] = []
        self.masks: list[E] = []
        self.tamper: Callable[[str, int, list[E]], list[E]] = lambda label, number, shown: shown
        self.said = 0

    def mask(self, number: int) -> E:
        return self.masks[number]

    def plain(self, label: str, shown: list[E] | None, count: int) -> list[E]:
        assert shown is not None
        assert len(shown) == count
        shown = self.tamper(label, self.said, shown)
        self.said += 1
        self.messages += shown
        self.transcript.absorb(label, octets(shown))
        return shown


class Judging(Party):
    def __init__(self, messages: bytes, *, masked: bool) -> None:
        super().__init__(masked=masked)
        self.rest = messages

    def plain(self, label: str, shown: list[E] | None, count: int) -> list[E]:
        data, self.rest = self.rest[: 16 * count], self.rest[16 * count :]
        if len(data) != 16 * count:
            raise Refused("messages are missing")
        self.transcript.absorb(label, data)
        words = struct.unpack(f"<{2 * count}Q", data)
        if any(word >= P for word in words):
            raise Refused("an element is not canonical")
        return [E(a, b) for a, b in zip(words[::2], words[1::2], strict=True)]


Term = tuple[E, list[list[E]]]


def sumcheck(
    party: Party, v: int, sizes: list[int], terms: list[Term], claim: Form, degree: int
) -> tuple[list[E], Form, list[list[E]]]:
    """Section 7's rounds over `sum of scalar * product of tables`, late joiners by `(1 - x)`.

    `sizes` are the terms' own numbers of variables; a judging party has no terms.
    """
    point: list[E] = []
    tables = [[list(table) for table in tables] for _, tables in terms]
    scalars = [scalar for scalar, _ in terms]
    points = [0, 2, 3][:degree]
    for i in range(v):
        true = None
        if party.proving:
            true = [ZERO] * len(points)
            for size, scalar, own in zip(sizes, scalars, tables, strict=True):
                for number, t in enumerate(points):
                    true[number] = true[number] + scalar * _round_value(own, t, i < v - size)
        values = party.exchange("round", true, len(points))
        full = [values[0], claim - values[0], *values[1:]]
        r = party.challenge("round")
        claim = add_up(
            [
                value * at_cubic([E(int(k == j)) for k in range(len(full))], r)
                for j, value in enumerate(full)
            ]
        )
        point.append(r)
        for number, size in enumerate(sizes if party.proving else []):
            if i < v - size:
                scalars[number] = scalars[number] * (ONE - r)
            else:
                tables[number] = [bind(table, r) for table in tables[number]]
    return point, claim, tables


def _round_value(tables: list[list[E]], t: int, waiting: bool) -> E:
    result = ZERO
    if waiting:
        for values in zip(*tables, strict=True):
            product = ONE
            for value in values:
                product = product * value
            result = result + product
        return result * (1 - t)
    half = len(tables[0]) // 2
    for x in range(half):
        product = ONE
        for table in tables:
            product = product * (table[x] + (table[x + half] - table[x]) * t)
        result = result + product
    return result


def leading(point: Sequence[E], size: int) -> E:
    product = ONE
    for r in point[: len(point) - size]:
        product = product * (ONE - r)
    return product


# -- Section 7 ---------------------------------------------------------------------------------


@dataclass
class Block:
    tag: int
    sizes: tuple[int, ...]
    table: bool
    recipe: Callable[[list[E], E], Functional]
    """Given the block's point and beta: `in + beta * out` of a lookup, or the multiplicity."""
    offset: int = 0

    @property
    def variables(self) -> int:
        return sum(map(bits, self.sizes))


def blocks_of(w: Witness) -> list[Block]:  # noqa: C901 - one branch per kind of block
    result = []

    def pair(first: Name, second: Name | None) -> Callable[[list[E], E], Functional]:
        def recipe(point: list[E], beta: E) -> Functional:
            found = Functional()
            found.add(first, w.at(first, point))
            if second:
                found.add(second, w.at(second, point), beta)
            return found

        return recipe

    def stage(number: int, node: Maximum, k: int) -> Callable[[list[E], E], Functional]:
        def recipe(point: list[E], beta: E) -> Functional:
            found = Functional()
            source = w.name_of(node.source)
            vector, constant = w.tap(number, k, point)
            found.add(source, vector, -ONE - beta)
            found.constant = constant * (-ONE - beta)
            if k == 1:
                vector, constant = w.tap(number, 0, point)
                found.add(source, vector)
                found.constant = found.constant + constant
            else:
                name = ("stage", number, k - 1)
                found.add(name, w.at(name, point))
            name = ("stage", number, k)
            found.add(name, w.at(name, point), beta)
            return found

        return recipe

    if w.hidden_input:
        result.append(Block(2**16, w.named["input",].sizes, False, pair(("input",), None)))
    for number, node in enumerate(w.graph.nodes):
        sizes = (w.batch, *w.graph.shapes[number + 1])
        if isinstance(node, Maximum):
            for k in range(1, node.kernel):
                result.append(Block(0, sizes, False, stage(number, node, k)))
        elif node.requantise is not None:
            tag = 2 + node.requantise.table
            result.append(Block(tag, sizes, False, pair(("q", number), ("y", number))))
            for i in range(w.graph.limbs(node)):
                result.append(Block(1, sizes, False, pair(("limb", number, i), None)))
    for tag in tables_used(w.graph, hidden_input=w.hidden_input):
        name = ("mult", tag)
        result.append(Block(tag, w.named[name].sizes, True, pair(name, None)))
    free = 0
    for block in sorted(result, key=lambda block: -block.variables):
        block.offset = free
        free += 2**block.variables
    return result


def leaves(w: Witness, blocks: list[Block], n: int, beta: E, alpha: E) -> tuple[list[E], list[E]]:
    numerators, denominators = [ZERO] * 2**n, [ONE] * 2**n
    for block in blocks:
        array = Array(block.sizes)
        tag = beta * beta * block.tag
        inside = {array.index(place) for place in array.places()}
        table = entries(w.graph, block.tag) if block.table else []
        for x in range(2**block.variables):
            at = block.offset + x
            if block.table:
                first, second = table[x]
                said = E(first) + beta * second
                numerators[at] = E(-w.named["mult", block.tag].values[x])
            else:
                corner = [E(x >> k & 1) for k in reversed(range(block.variables))]
                found = block.recipe(corner, beta)
                said = found.constant + total(
                    apply(vector, w.array(name)) for name, vector in found.parts.items()
                )
                numerators[at] = E(int(x in inside))
            denominators[at] = alpha - said - tag
    return numerators, denominators


def tree(party: Party, layers: list[tuple[list[E], list[E]]], n: int) -> tuple[list[E], Form, Form]:
    """The leaves' point and the two claims about them."""

    def four(p: list[E], q: list[E]) -> list[Form]:
        true = [p[0], p[1], q[0], q[1]] if party.proving else None
        return party.exchange("layer", true, 4)

    p0, p1, q0, q1 = four(*layers[1]) if party.proving else four([], [])
    first, second = party.product(p0, q1), party.product(p1, q0)
    both = party.product(q0, q1)
    party.require(first + second)
    party.require_inverse(both)
    s = party.challenge("merge")
    claim_p, claim_q, z = p0 + s * (p1 - p0), q0 + s * (q1 - q0), [s]
    for k in range(1, n):
        m = party.challenge("mix")
        terms: list[Term] = []
        if party.proving:
            p, q = layers[k + 1]
            half = 2**k
            weights = eq_table(z)
            low_p, high_p, low_q, high_q = p[:half], p[half:], q[:half], q[half:]
            terms = [
                (ONE, [weights, low_p, high_q]),
                (ONE, [weights, high_p, low_q]),
                (m, [weights, low_q, high_q]),
            ]
        r, claim, bound = sumcheck(party, k, [k] * 3, terms, claim_p + m * claim_q, 3)
        if party.proving:
            said = four([bound[0][1][0], bound[1][1][0]], [bound[2][1][0], bound[2][2][0]])
        else:
            said = four([], [])
        p0, p1, q0, q1 = said
        first, second = party.product(p0, q1), party.product(p1, q0)
        both = party.product(q0, q1)
        party.require(eq_point(z, r) * (first + second + m * both) - claim)
        s = party.challenge("merge")
        claim_p, claim_q, z = p0 + s * (p1 - p0), q0 + s * (q1 - q0), [s, *r]
    return z, claim_p, claim_q


Claim = tuple[Functional, Form]


def lookups(party: Party, w: Witness) -> list[Claim]:
    beta, alpha = party.challenge("beta"), party.challenge("alpha")
    blocks = blocks_of(w)
    n = max(1, bits(max(1, sum(2**block.variables for block in blocks))))
    layers: list[tuple[list[E], list[E]]] = []
    if party.proving:
        layers = [leaves(w, blocks, n, beta, alpha)]
        while len(layers[0][0]) > 2:
            p, q = layers[0]
            half = len(p) // 2
            layers.insert(
                0,
                (
                    [p[x] * q[x + half] + p[x + half] * q[x] for x in range(half)],
                    [q[x] * q[x + half] for x in range(half)],
                ),
            )
        layers.insert(0, ([], []))
    point, claim_p, claim_q = tree(party, layers, n)
    zero, one = Functional(), Functional()
    value_p, value_q, covered = -claim_p, ONE - claim_q, ZERO
    for block in blocks:
        size = block.variables
        corner = [E(block.offset >> (n - 1 - i) & 1) for i in range(n - size)]
        prefix, own = eq_point(corner, point[: n - size]), point[n - size :]
        covered = covered + prefix
        found = block.recipe(own, beta)
        known = alpha - beta * beta * block.tag
        if block.table:
            for name, vector in found.parts.items():
                zero.add(name, vector, prefix)
            table = entries(w.graph, block.tag)
            known = known - dot([E(i) + beta * j for i, j in table], eq_table(own))
        else:
            value_p = value_p + prefix * w.ones(block.sizes, own)
            known = known - found.constant
            for name, vector in found.parts.items():
                one.add(name, vector, prefix)
        value_q = value_q + prefix * known
    return [(zero, value_p), (one, value_q - covered)]


# -- Section 8 ---------------------------------------------------------------------------------


@dataclass
class Sum:
    node: int
    power: E
    size: int
    tables: Callable[[], list[list[E]]]
    weight_at: Callable[[list[E]], E]
    """The public factor of the product at the final point."""
    claims: Callable[[list[E]], tuple[Functional, Functional]]


def only(name: Name, vector: list[E]) -> Functional:
    found = Functional()
    found.add(name, vector)
    return found


def convolution_sum(w: Witness, number: int, term: Convolve, z: list[E], power: E) -> Sum:
    groups, _, inputs, *kernel = w.graph.weights[term.weight]
    result = Array((w.batch, *w.graph.shapes[number + 1]))
    channel = result.split(z)[1]
    z_g, z_o = channel[: bits(groups)], channel[bits(groups) :]
    rest = bits(inputs) + sum(map(bits, kernel))
    name: Name = ("weight", term.weight)

    def tables() -> list[list[E]]:
        public = [value for value in eq_table(z_g) for _ in range(2**rest)]
        weights, table = w.weights[term.weight], eq_table(z_o)
        bound = []
        for g in range(2 ** bits(groups)):
            for x in range(2**rest):
                column = [
                    weights.values[(g * len(table) + o) * 2**rest + x] for o in range(len(table))
                ]
                bound.append(dot(table, column))
        return [public, bound, w.convolved_table(number, term, z)]

    def claims(rho: list[E]) -> tuple[Functional, Functional]:
        point = rho[: bits(groups)] + z_o + rho[bits(groups) :]
        return (
            only(name, w.at(name, point)),
            only(w.name_of(term.source), w.convolved(number, term, z, rho)),
        )

    return Sum(
        number,
        power,
        bits(groups) + rest,
        tables,
        lambda rho: eq_point(z_g, rho[: bits(groups)]),
        claims,
    )


def product_sum(w: Witness, number: int, node: Multiply, z: list[E], power: E) -> Sum:
    left, right = w.tensor(node.left), w.tensor(node.right)

    def inside() -> list[E]:
        table, kept = eq_table(z), {left.index(place) for place in left.places()}
        return [value if x in kept else ZERO for x, value in enumerate(table)]

    def spread() -> list[E]:
        result = [ZERO] * len(left.values)
        whole = Array(left.axes)
        for place in whole.places():
            near = tuple(i if size > 1 else 0 for i, size in zip(place, right.sizes, strict=True))
            result[whole.index(place)] = E(right[near])
        return result

    def claims(rho: list[E]) -> tuple[Functional, Functional]:
        parts = left.split(rho)
        near = [r for part, size in zip(parts, right.sizes, strict=True) if size > 1 for r in part]
        first, second = w.name_of(node.left), w.name_of(node.right)
        return only(first, w.at(first, rho)), only(second, w.at(second, near))

    return Sum(
        number,
        power,
        left.variables,
        lambda: [inside(), [E(x) for x in left.values], spread()],
        lambda rho: extension(inside(), rho),
        claims,
    )


@dataclass
class Tied:
    """What a party knows of the requests: all their rows, and some of them whole."""

    bounds: list[int]
    known: dict[int, tuple[list[list[int]] | None, list[list[int]]]]
    """By number: inputs (None where they are hidden) and outputs."""
    pads: dict[int, tuple[E, E]]


def ties(  # noqa: C901 - one message, its check and its claims
    party: Party, w: Witness, tied: Tied, sigma: list[E]
) -> list[Claim]:
    ends = [] if w.hidden_input else [(0, w.named["input",], ("input",))]
    output = w.graph.output.tensor
    ends.append((1, w.tensor(output), w.name_of(output)))
    requests = len(tied.bounds) - 1
    g = party.challenge("pad")

    def own(number: int, side: int, array: Array) -> E:
        values = tied.known[number][side]
        assert values is not None
        known, first = Array(array.sizes), tied.bounds[number]
        size = len(values[0])
        places = [place for place in known.places() if first <= place[0] < first + len(values)]
        flat = [value for row in values for value in row]
        assert len(flat) == size * len(values) == len(places)
        for place, value in zip(places, flat, strict=True):
            known[place] = value
        return apply(eq_table(suffix(sigma, array.variables)), known)

    true = None
    if party.proving:
        true = [own(i, side, array) for i in range(requests) for side, array, _ in ends]
    party.first_tie = party.sent_masks
    sent = party.exchange("ties", true, requests * len(ends), g)
    if not party.proving:
        for number in tied.known:
            for place, (side, array, _) in enumerate(ends):
                expected = own(number, side, array)
                if party.masked:
                    expected = expected + g * tied.pads[number][side]
                if sent[number * len(ends) + place].constant != expected:
                    raise Refused("a tie is not that of the request")
    omega = party.challenge("among")
    claims = []
    for place, (_, array, name) in enumerate(ends):
        vector, value, power = [ZERO] * 2**array.variables, NOTHING, ONE
        table = eq_table(suffix(sigma, array.variables))
        rest = 2 ** (array.variables - bits(array.sizes[0]))
        for i in range(requests):
            for x in range(tied.bounds[i] * rest, tied.bounds[i + 1] * rest):
                vector[x] = power * table[x]
            value = value + power * sent[i * len(ends) + place]
            power = power * omega
        claims.append((only(name, vector), value))
    return claims


def nodes(  # noqa: C901 - section 8 in its order
    party: Party, w: Witness, tied: Tied
) -> list[Claim]:
    graph = w.graph
    input_array, output_array = w.named["input",], w.tensor(graph.output.tensor)
    sigma = party.vector("sigma", max(input_array.variables, output_array.variables))
    arrays = {
        number: Array((w.batch, *graph.shapes[number + 1]))
        for number, node in enumerate(graph.nodes)
        if not isinstance(node, Maximum)
    }
    tau = party.vector("tau", max([0, *(array.variables for array in arrays.values())]))
    lam = party.challenge("lambda")
    relation, sums = Functional(), []
    power = ONE
    for number, array in arrays.items():
        node, z = graph.nodes[number], suffix(tau, array.variables)
        assert isinstance(node, Affine | Multiply)
        if node.requantise is None:
            relation.add(("y", number), w.inside(("y", number), z), power)
        else:
            shift = node.requantise.shift
            q: Name = ("q", number)
            relation.add(q, w.inside(q, z), power * 2**shift)
            for i in range(graph.limbs(node)):
                limb: Name = ("limb", number, i)
                relation.add(limb, w.inside(limb, z), power * 2 ** (i * graph.range_bits))
            if shift:
                half = w.ones(array.sizes, z) * 2 ** (shift - 1)
                relation.constant = relation.constant - power * half
        if isinstance(node, Multiply):
            sums.append(product_sum(w, number, node, z, power))
        else:
            for term in node.terms:
                if isinstance(term, Convolve):
                    sums.append(convolution_sum(w, number, term, z, power))
                else:
                    vector = w.linear(number, term, z)
                    relation.add(w.name_of(term.source), vector, -power)
            if node.bias is not None:
                name: Name = ("weight", node.bias)
                parts = array.split(z)
                others = [x for i, part in enumerate(parts) if i != 1 for x in part]
                ones = w.ones((array.sizes[0], *array.sizes[2:]), others)
                relation.add(name, w.at(name, parts[1]), -power * ones)
        power = power * lam
    whole = NOTHING
    claims: list[Claim] = []
    if sums:
        terms: list[Term] = []
        if party.proving:
            terms = [(entry.power, entry.tables()) for entry in sums]
            true = [total(scalar * _round_value(tables, 0, True) for scalar, tables in terms)]
            (whole,) = party.exchange("nodes", true, 1)
        else:
            (whole,) = party.exchange("nodes", None, 1)
        v = max(entry.size for entry in sums)
        rho, claim, bound = sumcheck(party, v, [e.size for e in sums], terms, whole, 3)
        true_factors = None
        if party.proving:
            true_factors = [value for tables in bound for value in (tables[1][0], tables[2][0])]
        factors = party.exchange("factors", true_factors, 2 * len(sums))
        found = NOTHING
        for entry, first, second in zip(sums, factors[::2], factors[1::2], strict=True):
            own = suffix(rho, entry.size)
            weight = entry.power * leading(rho, entry.size) * entry.weight_at(own)
            found = found + weight * party.product(first, second)
            left, right = entry.claims(own)
            claims += [(left, first), (right, second)]
        party.require(found - claim)
    result = [(relation, whole - relation.constant), *claims]
    return [*result, *ties(party, w, tied, sigma)]


# -- Section 9 ---------------------------------------------------------------------------------


def opening(
    party: Party, commitments: list[list[Polynomial]], w: Witness, claims: list[Claim], c: int
) -> tuple[list[Polynomial], list[E], list[Form]]:
    """The polynomials, the point and the forms of their evaluations."""
    named = {("weight", i): array for i, array in enumerate(w.weights)} | w.named
    every = [polynomial for group in commitments for polynomial in group]
    rho = party.challenge("rho")
    coefficients: dict[Name, list[E]] = {}
    claim, power = NOTHING, ONE
    for functional, value in claims:
        for name, vector in functional.parts.items():
            known = coefficients.setdefault(name, [ZERO] * len(vector))
            coefficients[name] = [x + power * y for x, y in zip(known, vector, strict=True)]
        claim = claim + power * value
        power = power * rho
    tables = []
    for polynomial in every:
        vector = [ZERO] * 2**polynomial.variables
        for name, offset in polynomial.parts:
            own = coefficients.get(name)
            if own is not None:
                vector[offset : offset + len(own)] = own
        tables.append(vector)
    sizes = [polynomial.variables for polynomial in every]
    terms: list[Term] = []
    if party.proving:
        terms = [
            (ONE, [[E(x) for x in dense(polynomial, named)], vector])
            for polynomial, vector in zip(every, tables, strict=True)
        ]
    v = max([c, *sizes])
    point, claim, bound = sumcheck(party, v, sizes, terms, claim, 2)
    true = [pair[0][0] for pair in bound] if party.proving else None
    values = party.exchange("evaluations", true, len(every))
    found = NOTHING
    for size, vector, value in zip(sizes, tables, values, strict=True):
        found = found + leading(point, size) * extension(vector, suffix(point, size)) * value
    party.require(found - claim)
    return every, point, values


def sacrifice(party: Party) -> None:
    if not party.masked:
        return
    e = party.challenge("sacrifice")
    if not party.product_forms:
        return
    true = None
    if party.proving:
        true = [
            value
            for a, b, _, a2, b2, _ in party.product_forms
            for value in ((e * a - a2).true, (b - b2).true)
        ]
    said = party.plain("sacrifice", true, 2 * len(party.product_forms))
    pairs = zip(said[::2], said[1::2], strict=True)
    for (a, b, c, a2, b2, c2), (d, f) in zip(party.product_forms, pairs, strict=True):
        party.require(e * a - a2 - d)
        party.require(b - b2 - f)
        party.require(e * c - c2 - f * a2 - d * b2 - d * f)


def row_weights(
    commitments: list[list[Polynomial]], point: list[E], theta: E, c: int
) -> list[list[E]]:
    """Per commitment the coefficient of each row in `combination`."""
    result, power = [], theta
    for group in commitments:
        weights = []
        for polynomial in group:
            upper = suffix(point, polynomial.variables)[: polynomial.variables - c]
            weights += [power * value for value in eq_table(upper)[: polynomial.rows]]
            power = power * theta
        result.append(weights)
    return result


def matrix(group: list[Polynomial], named: dict[Name, Array], c: int) -> list[list[int]]:
    rows = []
    for polynomial in group:
        values = dense(polynomial, named)
        rows += [values[i * 2**c : (i + 1) * 2**c] for i in range(polynomial.rows)]
    return rows


def evaluate_at(coefficients: Sequence[E], x: int, n: int) -> E:
    w = pow(root_of_unity(n), x, P)
    a = b = 0
    for coefficient in reversed(coefficients):
        a, b = (a * w + coefficient.a) % P, (b * w + coefficient.b) % P
    return E(a, b)


def packed(rows: Sequence[list[int]], code: str) -> bytes:
    flat = [value for row in rows for value in row]
    return struct.pack(f"<{len(flat)}{code}", *flat)


def salted(what: str, salt: bytes, data: bytes) -> bytes:
    """The digests of section 5."""
    return hashlib.sha256(f"verispect-proof-{what}-v1".encode() + salt + data).digest()


def pad_of(salt_and_root: bytes, side: int) -> E:
    octets_ = hashlib.sha512(b"verispect-proof-pad-v1" + salt_and_root + bytes([side])).digest()
    return E(int.from_bytes(octets_[:32], "little") % P, int.from_bytes(octets_[32:], "little") % P)
