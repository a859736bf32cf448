"""Whole proofs made and judged by the oracle: commitments, the last step and the encoding.

`make` is an honest prover unless a test has changed its witness, its messages or its proof;
`judge` is a second verifier. Neither shares code with the package's prover or verifier.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from oracles.proof_algebra import (
    ONE,
    ZERO,
    Committed,
    E,
    P,
    Transcript,
    dot,
    eq_table,
    octets,
    suffix,
    total,
)
from oracles.proof_protocol import (
    Claim,
    Counting,
    Form,
    Judging,
    Party,
    Polynomial,
    Proving,
    Refused,
    Tied,
    add_up,
    evaluate_at,
    lookups,
    matrix,
    nodes,
    opening,
    packed,
    pad_of,
    polynomials,
    row_weights,
    sacrifice,
    salted,
)
from oracles.proof_witness import Name, Witness
from verispect.core.encoding import decode, encode
from verispect.proof.graph import Graph

CONTEXT = hashlib.sha256(b"context").digest()


@dataclass
class Model:
    """A graph, its integers and the parameters of its commitment."""

    graph: Graph
    weights: list[list[int]]
    c: int = 6
    rate_bits: int = 2
    budget: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        empty = Witness(self.graph, self.weights, [], False, run=False)
        named = {("weight", i): array for i, array in enumerate(empty.weights)}
        rng = random.Random(self.seed)
        rows = matrix(polynomials(named, self.c), named, self.c)
        rows = [row + field_elements(rng, self.queries * self.budget) for row in rows]
        self.committed = Committed(rows, self.n, salts(rng, self.n) if self.budget else None)
        self.map = encode(
            {
                1: 1,
                2: self.graph.encode(),
                3: self.c,
                4: self.rate_bits,
                5: self.committed.root,
                6: self.budget,
            }
        )
        self.digest = hashlib.sha256(b"verispect-provable-model-v1" + self.map).digest()

    @property
    def degree(self) -> int:
        """`K`."""
        return 2**self.c + self.queries * self.budget

    @property
    def n(self) -> int:
        return self.numbers[0]

    @property
    def queries(self) -> int:
        return self.numbers[1]

    @cached_property
    def numbers(self) -> tuple[int, int]:
        """`n` and `t`: the first pair that suffices, by trying them in order."""
        n = 2 ** (self.c + self.rate_bits)
        while True:
            for t in range(1, n):
                degree = 2**self.c + t * self.budget
                if self.budget and 8 * degree > 3 * n:
                    break
                if (n + degree) ** t * 2**101 <= (2 * n) ** t:
                    return n, t
            n *= 2


def field_elements(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(P) for _ in range(count)]


def salts(rng: random.Random, n: int) -> list[bytes]:
    return [rng.randbytes(32) for _ in range(n)]


@dataclass
class Statement:
    """One request; `inputs` is None where they are hidden."""

    model: Model
    inputs: list[list[int]] | None
    outputs: list[list[int]]
    batch: int
    masked: bool = False
    context: bytes = CONTEXT
    salt: bytes = bytes(32)

    @property
    def row(self) -> list[object]:
        """What a proof says of this request."""
        source = None if self.inputs is None else packed(self.inputs, "h")
        return [
            self.batch,
            salted("context", self.salt, self.context),
            None if source is None else salted("input", self.salt, source),
            salted("output", self.salt, packed(self.outputs, "q")),
        ]

    def pads(self, root: bytes) -> tuple[E, E]:
        return pad_of(self.salt + root, 0), pad_of(self.salt + root, 1)


def bounds_of(rows: list[list[Any]]) -> list[int]:
    return [sum(row[0] for row in rows[:i]) for i in range(len(rows) + 1)]


def start(
    transcript: Transcript,
    statement: Statement,
    rows: list[list[Any]],
    roots: dict[str, bytes],
) -> None:
    """Section 5."""
    transcript.absorb("mode", b"zero-knowledge" if statement.masked else b"succinct")
    transcript.absorb("model", statement.model.digest)
    transcript.absorb("requests", struct.pack("<I", len(rows)))
    for count, context, source, output in rows:
        source = roots["input"] if source is None else source
        transcript.absorb("request", struct.pack("<I", count) + context + source + output)
    if statement.masked:
        transcript.absorb("witness", roots["masks"])
    transcript.absorb("witness", roots["witness"])


def groups_of(w: Witness, c: int) -> list[list[Polynomial]]:
    weights: dict[Name, object] = {("weight", i): array for i, array in enumerate(w.weights)}
    witness = dict(w.named)
    groups = [polynomials(weights, c)]
    if w.hidden_input:
        groups.append(polynomials({("input",): witness.pop(("input",))}, c))
    return [*groups, polynomials(witness, c)]


def converse(
    party: Party, w: Witness, statement: Statement, tied: Tied
) -> tuple[list[E], list[Form], list[list[Polynomial]]]:
    """Sections 7 to 9 up to the evaluations."""
    claims: list[Claim] = lookups(party, w)
    claims += nodes(party, w, tied)
    groups = groups_of(w, statement.model.c)
    _, point, values = opening(party, groups, w, claims, statement.model.c)
    sacrifice(party)
    return point, values, groups


def collected(equations: list[Form], eta: E) -> Form:
    power, parts = ONE, []
    for equation in equations:
        parts.append(power * equation)
        power = power * eta
    return add_up(parts)


def coefficient_rows(form: Form, h: int, c: int) -> list[list[E]]:
    """`c_i` over the `h` rows of masks, two base entries per element."""
    flat = [ZERO] * (h * 2**c)
    for number, value in form.coefficients.items():
        flat[2 * number], flat[2 * number + 1] = value, value * E(0, 1)
    return [flat[i * 2**c : (i + 1) * 2**c] for i in range(h)]


def count_masks(w: Witness, statement: Statement, bounds: list[int]) -> tuple[int, int, int]:
    """Masked elements, products, and which element is the first tie."""
    party = Counting()
    converse(party, w, statement, Tied(bounds, {}, {}))
    return party.sent_masks, party.products, party.first_tie


@dataclass
class Tampering:
    """What a dishonest prover changes, and when."""

    witness: Callable[[Witness], None] = lambda w: None
    message: Callable[[str, int, list[E]], list[E]] = lambda label, number, shown: shown
    combination: Callable[[list[E]], list[E]] = lambda u: u
    masks: Callable[[list[list[int]]], list[list[int]]] = lambda rows: rows
    witness_rows: Callable[[list[list[int]]], list[list[int]]] = lambda rows: rows
    products: Callable[[list[E]], list[E]] = lambda six: six
    pads: Callable[[list[E]], list[E]] = lambda pads: pads
    requests: Callable[[list[list[Any]]], list[list[Any]]] = lambda rows: rows
    shown_rows: Callable[[list[E], E, E], list[E]] = lambda shown, missing, weight: shown
    """Given what the last equation lacks, and what the first element shown weighs in it."""


def make(  # noqa: C901 - one conversation, kept whole as the specification is read
    statement: Statement,
    inputs: list[list[int]],
    *,
    seed: int = 1,
    tampering: Tampering | None = None,
    before: Sequence[Statement] = (),
    after: Sequence[Statement] = (),
) -> bytes:
    """A proof of `statement` among others, from the true or untrue witness of `inputs`."""
    change = tampering or Tampering()
    model, rng = statement.model, random.Random(seed)
    c, n, t = model.c, model.n, model.queries
    requests = [*before, statement, *after]
    all_inputs = [row for other in before for row in other.inputs or []]
    all_inputs += [*inputs, *(row for other in after for row in other.inputs or [])]
    w = Witness(model.graph, model.weights, all_inputs, statement.inputs is None)
    change.witness(w)
    party = Proving(masked=statement.masked)
    party.tamper = change.message
    groups = groups_of(w, c)
    committed = [model.committed]
    for group in groups[1:]:
        rows = matrix(group, w.named, c)
        if len(committed) == len(groups) - 1:
            rows = change.witness_rows(rows)
        rows = [row + (field_elements(rng, t) if model.budget else []) for row in rows]
        committed.append(Committed(rows, n, salts(rng, n) if model.budget else None))
    roots = {"witness": committed[-1].root, "input": committed[1].root}
    h, mask_rows = 0, []
    shown_requests = change.requests([each.row for each in requests])
    bounds = bounds_of(shown_requests)
    if statement.masked:
        sent, products, first_tie = count_masks(w, statement, bounds)
        party.masks = [E(*field_elements(rng, 2)) for _ in range(sent)]
        hiding = [
            pad
            for each in requests
            for pad in each.pads(roots["witness"])[statement.inputs is None :]
        ]
        party.masks[first_tie : first_tie + len(hiding)] = change.pads(hiding)
        party.entries_start = sent
        for _ in range(products):
            a, b, a2, b2 = (E(*field_elements(rng, 2)) for _ in range(4))
            party.masks += change.products([a, b, a * b, a2, b2, a2 * b2])
        h = -(-2 * len(party.masks) // 2**c)
        flat = [x for mask in party.masks for x in (mask.a, mask.b)]
        flat += field_elements(rng, h * 2**c - len(flat))
        mask_rows = [flat[i * 2**c : (i + 1) * 2**c] + field_elements(rng, t) for i in range(h)]
        mask_rows += [field_elements(rng, 2**c + t) for _ in range(2 * h)]
        mask_rows += [field_elements(rng, model.degree) for _ in range(4)]
        mask_rows = change.masks(mask_rows)
        committed.append(Committed(mask_rows, n, salts(rng, n)))
        roots["masks"] = committed[-1].root
    start(party.transcript, statement, shown_requests, roots)
    known = {i: (each.inputs, each.outputs) for i, each in enumerate(requests)}
    tied = Tied(bounds, known, {i: each.pads(roots["witness"]) for i, each in enumerate(requests)})
    point, values, groups = converse(party, w, statement, tied)
    theta = party.challenge("theta")
    weights = row_weights(groups, point, theta, c)
    u = [ZERO] * model.degree
    for group_weights, source in zip(weights, committed, strict=False):
        for weight, row in zip(group_weights, source.rows, strict=True):
            for i, value in enumerate(row):
                if value:
                    u[i] = u[i] + weight * value
    if statement.masked:
        low, high = mask_rows[3 * h : 3 * h + 2]
        u = [x + E(a, b) for x, a, b in zip(u, low, high, strict=True)]
    u = change.combination(u)
    party.transcript.absorb("combination", octets(u))
    if statement.masked:
        last_step(party, values, point, theta, u, mask_rows, h, c, change)
    positions = party.transcript.positions("queries", t, n)
    opened = [source.open(positions) for source in committed]
    proof = {
        1: 1,
        2: int(statement.masked),
        3: model.digest,
        4: shown_requests,
        6: roots["witness"],
        7: octets(party.messages),
        8: octets(u),
        9: b"".join(columns for columns, _ in opened),
        10: b"".join(path for _, path in opened),
        13: {},
    }
    if statement.masked:
        proof[11] = roots["masks"]
    if statement.inputs is None:
        proof[12] = roots["input"]
    return encode(dict(sorted(proof.items())))


def combination_equation(values: list[Form], theta: E, u: list[E], b: list[E]) -> Form:
    """Without the share of `row_h`, whose coefficients are `-b`."""
    said = dot(u[: len(b)], b)
    power, parts = theta, []
    for value in values:
        parts.append(power * value)
        power = power * theta
    return said - add_up(parts)


def last_step(
    party: Proving,
    values: list[Form],
    point: list[E],
    theta: E,
    u: list[E],
    mask_rows: list[list[int]],
    h: int,
    c: int,
    change: Tampering,
) -> None:
    """Section 10.5, the prover's half."""
    b = eq_table(suffix(point, c))
    party.equations.append(combination_equation(values, theta, u, b))
    eta = party.challenge("collect")
    form = collected(party.equations, eta)
    rows = coefficient_rows(form, h, c)
    last = [-(eta ** (len(party.equations) - 1)) * value for value in b]
    masks = [
        [E(x, y) for x, y in zip(mask_rows[h + 2 * i], mask_rows[h + 2 * i + 1], strict=True)]
        for i in range(h)
    ]
    masks.append([E(x, y) for x, y in zip(mask_rows[3 * h + 2], mask_rows[3 * h + 3], strict=True)])
    held = [[E(x) for x in mask_rows[i]] for i in range(h)]
    held.append([E(x, y) for x, y in zip(mask_rows[3 * h], mask_rows[3 * h + 1], strict=True)])
    offset = total(
        dot(row, mask[: len(row)]) for row, mask in zip([*rows, last], masks, strict=True)
    )
    party.plain("offset", [offset], 1)
    d = party.challenge("last")
    u_rows = [
        [x + d * y for x, y in zip(mask, row, strict=True)]
        for mask, row in zip(masks, held, strict=True)
    ]
    said = total(dot(row, u_i[: len(row)]) for row, u_i in zip([*rows, last], u_rows, strict=True))
    missing = offset - d * form.constant - said
    shown = change.shown_rows([x for u_i in u_rows for x in u_i], missing, rows[0][0])
    party.plain("rows", shown, len(shown))


# -- The second verifier -----------------------------------------------------------------------


def judge(statement: Statement, data: bytes) -> None:  # noqa: C901 - as `make`
    """Accept, or raise `Refused` (or an error of Python's for bytes that are no proof at all)."""
    model, proof = statement.model, decode(data)
    c, n, t = model.c, model.n, model.queries
    if tuple(proof[i] for i in range(1, 4)) != (1, int(statement.masked), model.digest):
        raise Refused("a proof of something else")
    further = {11: statement.masked, 12: statement.inputs is None}
    fields = {1, 2, 3, 4, *range(6, 11), 13} | {key for key, there in further.items() if there}
    if set(proof) != fields or any(type(key) is not str for key in proof[13]):
        raise Refused("a proof of another form")
    rows = proof[4]
    if not 1 <= len(rows) <= 256 or any(count < 1 for count, *_ in rows):
        raise Refused("no proof covers so many requests")
    if len({context for _, context, *_ in rows}) != len(rows) or statement.row not in rows:
        raise Refused("a proof of other requests")
    bounds, number = bounds_of(rows), rows.index(statement.row)
    if bounds[-1] > 4096 or (len(rows) > 1 and any(row[2] is None for row in rows)):
        raise Refused("requests that share no proof")
    inputs = statement.inputs
    if inputs is not None and not all(
        model.graph.input.minimum <= x <= model.graph.input.maximum for row in inputs for x in row
    ):
        raise Refused("an input is out of range")
    if any(abs(x) >= 2**52 for row in statement.outputs for x in row):
        raise Refused("an output is out of range")
    w = Witness(model.graph, model.weights, [[]] * bounds[-1], inputs is None, run=False)
    party = Judging(proof[7], masked=statement.masked)
    if statement.masked:
        party.entries_start, _, _ = count_masks(w, statement, bounds)
    roots = {"witness": proof[6], "masks": proof.get(11), "input": proof.get(12)}
    start(party.transcript, statement, rows, roots)
    tied = Tied(bounds, {number: (inputs, statement.outputs)}, {number: statement.pads(proof[6])})
    point, values, groups = converse(party, w, statement, tied)
    theta = party.challenge("theta")
    u = _elements(proof[8])
    if len(u) != model.degree:
        raise Refused("combination has another length")
    party.transcript.absorb("combination", proof[8])
    b = eq_table(suffix(point, c))
    equation = combination_equation(values, theta, u, b)
    shown: list[list[E]] = []
    d, h = ZERO, 0
    if statement.masked:
        party.equations.append(equation)
        eta = party.challenge("collect")
        form = collected(party.equations, eta)
        elements = party.entries_start + 6 * party.products
        h = -(-2 * elements // 2**c)
        rows = coefficient_rows(form, h, c)
        rows.append([-(eta ** (len(party.equations) - 1)) * value for value in b])
        (offset,) = party.plain("offset", None, 1)
        d = party.challenge("last")
        width = 2**c + t
        flat = party.plain("rows", None, h * width + model.degree)
        shown = [flat[i * width : (i + 1) * width] for i in range(h)] + [flat[h * width :]]
        held = total(dot(row, u_i[: len(row)]) for row, u_i in zip(rows, shown, strict=True))
        if held != offset - d * form.constant:
            raise Refused("the collected equations do not hold")
    elif equation.constant != 0:
        raise Refused("combination is not that of the evaluations")
    if party.rest:
        raise Refused("messages are left")
    positions = sorted(set(party.transcript.positions("queries", t, n)))
    weights = row_weights(groups, point, theta, c)
    counts = [sum(polynomial.rows for polynomial in group) for group in groups]
    known_roots = [model.committed.root]
    if inputs is None:
        known_roots.append(proof[12])
    known_roots.append(proof[6])
    if statement.masked:
        counts.append(3 * h + 4)
        known_roots.append(proof[11])
    columns = _open(proof[9], proof[10], positions, counts, known_roots, n, bool(model.budget))
    for place, position in enumerate(positions):
        found = total(dot(group, columns[i][place]) for i, group in enumerate(weights))
        if statement.masked:
            masks = columns[-1][place]
            found = found + E(masks[3 * h], masks[3 * h + 1])
            for i, u_i in enumerate(shown):
                row = E(masks[i]) if i < h else E(masks[3 * h], masks[3 * h + 1])
                j = h + 2 * i if i < h else 3 * h + 2
                if evaluate_at(u_i, position, n) != E(masks[j], masks[j + 1]) + d * row:
                    raise Refused("a row is not the committed one")
        if evaluate_at(u, position, n) != found:
            raise Refused("combination is not that of the columns")


def _elements(data: bytes) -> list[E]:
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    if any(word >= P for word in words):
        raise Refused("an element is not canonical")
    return [E(x, y) for x, y in zip(words[::2], words[1::2], strict=True)]


def _open(
    columns: bytes,
    nodes_: bytes,
    positions: list[int],
    counts: list[int],
    roots: list[bytes],
    n: int,
    salted: bool,
) -> list[list[list[int]]]:
    result = []
    for count, root in zip(counts, roots, strict=True):
        width = 8 * count + 32 * salted
        level, group = {}, []
        for position in positions:
            leaf, columns = columns[:width], columns[width:]
            words = list(struct.unpack(f"<{count}Q", leaf[: 8 * count]))
            if any(word >= P for word in words) or len(leaf) != width:
                raise Refused("a column is not canonical")
            group.append(words)
            level[position] = hashlib.sha256(b"\x00" + leaf).digest()
        size = n
        while size > 1:
            for i in sorted(level):
                if i ^ 1 not in level:
                    level[i ^ 1], nodes_ = nodes_[:32], nodes_[32:]
            level = {
                i // 2: hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest()
                for i in sorted(level)
                if i % 2 == 0
            }
            size //= 2
        if level != {0: root}:
            raise Refused("a column is not in the tree")
        result.append(group)
    if columns or nodes_:
        raise Refused("columns or nodes are left")
    return result


def outputs_of(model: Model, inputs: list[list[int]]) -> list[list[int]]:
    """What the model gives, row by row."""
    w = Witness(model.graph, model.weights, inputs, False)
    array = w.tensor(model.graph.output.tensor)
    values = [array[place] for place in array.places()]
    size = len(values) // len(inputs)
    return [values[i * size : (i + 1) * size] for i in range(len(inputs))]


def state(
    model: Model, inputs: list[list[int]], *, masked: bool = False, hidden: bool = False
) -> Statement:
    """The true statement about `inputs`."""
    shown = None if hidden else inputs
    return Statement(model, shown, outputs_of(model, inputs), len(inputs), masked)
