"""The numbers of a proof: its code, queries, lengths and soundness (spec/proof.md, 4, 9 to 12).

All of it follows from the graph, the batch, the mode and the model's three parameters, before a
proof is read; a proof of any other length is refused by whoever reads it.

This module refuses to trust a proof for a single number, and conjectured bounds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from verispect.core.errors import MalformedError, Reason
from verispect.proof import layout
from verispect.proof.field import BASE_BYTES, ELEMENT_BYTES, MODULUS
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import Affine, Convolve, Maximum, Multiply
from verispect.proof.layout import Layout
from verispect.proof.merkle import HASH_BYTES, SALT_BYTES
from verispect.proof.provable import MAX_BUDGET, MAX_COLUMNS, MIN_COLUMNS, RATE_BITS

QUERY_BITS: Final = 101
"""What the queries alone must give, so that the sum stays above `SECURITY_BITS`."""
SECURITY_BITS: Final = 100
"""Verifiers refuse less."""
_FIELD: Final = MODULUS**2


class Mode(StrEnum):
    """What a proof gives beside integrity."""

    SUCCINCT = "succinct"
    """Nothing: it does not hide weights, input or anything between."""
    ZERO_KNOWLEDGE = "zero-knowledge"
    """Weights and intermediate values are hidden; the input too, if asked."""


@functools.cache
def query_count(length: int, degree_bound: int) -> int:
    """Return the smallest number of queries that gives `QUERY_BITS` by unique decoding."""
    if not 0 < degree_bound < length:
        raise ValueError("a degree bound lies between zero and the length")
    count = math.floor(QUERY_BITS / math.log2(2 * length / (length + degree_bound))) - 1
    while not _queries_suffice(length, degree_bound, count):
        count += 1
    return count


@functools.cache
def hiding_numbers(columns: int, shortest: int, budget: int) -> tuple[int, int]:
    """Return queries and logarithm of the length of a code that hides (spec, 10.1).

    Every opening shows as many places of a row as there are queries, so that the degree grows with
    the queries and the queries with the degree: both are the smallest that suffice for each other.

    Args:
        columns: the entries of a row.
        shortest: the logarithm of the length, at least.
        budget: how often the weights may be opened.
    """
    log_length = shortest
    while True:
        length = 1 << log_length
        queries, needed = 0, query_count(length, columns)
        # The number needed never falls while the degree rises: the least answer is met first.
        while queries < needed and 8 * (columns + needed * budget) <= 3 * length:
            queries, needed = needed, query_count(length, columns + needed * budget)
        if queries >= needed:
            return queries, log_length
        log_length += 1


def _queries_suffice(length: int, degree_bound: int, count: int) -> bool:
    # (1 - (n - K) / 2n)^t <= 2^-101, in integers.
    return bool((length + degree_bound) ** count << QUERY_BITS <= (2 * length) ** count)


@dataclass(frozen=True, slots=True)
class Code:
    """The parameters of a model's commitments.

    Raises:
        MalformedError: `malformed-model` for a parameter out of range.
    """

    column_variables: int
    rate_bits: int
    masking_budget: int
    """How often the weights may be opened hiding; 0 where the commitment does not hide."""

    def __post_init__(self) -> None:
        if not (
            MIN_COLUMNS <= self.column_variables <= MAX_COLUMNS
            and self.rate_bits in RATE_BITS
            and 0 <= self.masking_budget <= MAX_BUDGET
        ):
            raise MalformedError(
                "a parameter of a commitment is out of range", reason=Reason.MALFORMED_MODEL
            )

    @property
    def hides(self) -> bool:
        """Whether rows are masked and leaves salted."""
        return self.masking_budget > 0

    @property
    def mode(self) -> Mode:
        """The one mode that this commitment allows."""
        return Mode.ZERO_KNOWLEDGE if self.hides else Mode.SUCCINCT

    @property
    def columns(self) -> int:
        """The entries of a row, `2^c`."""
        return 1 << self.column_variables

    @property
    def queries(self) -> int:
        """The number of positions drawn, `t`; they may repeat."""
        if self.hides:
            return self._hiding_numbers[0]
        return query_count(self.length, self.columns)

    @property
    def degree_bound(self) -> int:
        """`K`: the coefficients of a row of weights, and of `combination`."""
        return self.columns + (self.queries * self.masking_budget if self.hides else 0)

    @property
    def witness_degree_bound(self) -> int:
        """The coefficients of a row of the witness, the input and most masks."""
        return self.columns + (self.queries if self.hides else 0)

    @property
    def log_length(self) -> int:
        """The logarithm of the code's length `n`."""
        return self._hiding_numbers[1] if self.hides else self.column_variables + self.rate_bits

    @property
    def _hiding_numbers(self) -> tuple[int, int]:
        shortest = self.column_variables + self.rate_bits
        return hiding_numbers(self.columns, shortest, self.masking_budget)

    @property
    def length(self) -> int:
        """The length `n` of every code word."""
        return 1 << self.log_length


@dataclass(frozen=True, slots=True)
class ProofShape:
    """Every length of a proof, known before it is read."""

    code: Code
    hidden_input: bool
    layouts: tuple[Layout, ...]
    """Of the commitments: weights, the input where it is hidden, witness."""
    leaf_variables: int
    """`n` of section 7."""
    node_sums: int
    node_variables: int
    """`v` of section 8."""
    relations: int
    """Affine and multiply nodes."""
    widest: int
    """The most variables of an input or output, batch included."""
    requests: int = 1
    """The requests that the proof covers."""

    @property
    def polynomials(self) -> int:
        """The polynomials of all commitments, the masks apart."""
        return sum(len(each.polynomials) for each in self.layouts)

    @property
    def opening_variables(self) -> int:
        """The variables of the last sumcheck."""
        return max(p.variables for each in self.layouts for p in each.polynomials)

    @property
    def claims(self) -> int:
        """The claims of sections 7 and 8 together."""
        return 3 + 2 * self.node_sums + (1 if self.hidden_input else 2)

    @property
    def ties(self) -> int:
        """The elements of the message `ties`."""
        return self.requests * (1 if self.hidden_input else 2)

    @property
    def first_tie(self) -> int:
        """The elements sent before `ties`."""
        tree = 4 + sum(3 * layer + 4 for layer in range(1, self.leaf_variables))
        nodes = 1 + 3 * self.node_variables + 2 * self.node_sums if self.node_sums else 0
        return tree + nodes + (1 if self.code.hides else 0)

    @property
    def message_elements(self) -> int:
        """The elements sent in sections 7 to 9, `combination` and products apart."""
        opening = 2 * self.opening_variables + self.polynomials
        return self.first_tie + self.ties + opening

    @property
    def products(self) -> int:
        """The products of hidden values, in mode zero-knowledge."""
        return 3 * self.leaf_variables + 1 + self.node_sums if self.code.hides else 0

    @property
    def mask_messages(self) -> int:
        """`h`: the rows of masked messages."""
        if not self.code.hides:
            return 0
        entries = 2 * (self.message_elements + 6 * self.products)
        return -(-entries // self.code.columns)

    @property
    def row_counts(self) -> tuple[int, ...]:
        """The rows of each commitment, in the order of opening, the masks last."""
        rows = [each.rows for each in self.layouts]
        return (*rows, 3 * self.mask_messages + 4) if self.code.hides else tuple(rows)

    @property
    def sent_elements(self) -> int:
        """The elements in a proof's messages, `combination` apart."""
        if not self.code.hides:
            return self.message_elements
        rows = self.mask_messages * self.code.witness_degree_bound + self.code.degree_bound
        return self.message_elements + 4 * self.products + 1 + rows

    @property
    def expected_bytes(self) -> int:
        """The size of a proof: exact but for the authentication nodes, which are estimated."""
        code = self.code
        opened = code.queries * (
            sum(self.row_counts) * BASE_BYTES + len(self.row_counts) * SALT_BYTES * code.hides
        )
        # Paths of `t` random leaves share what is above about log2(t) levels.
        apart = max(0.0, code.log_length - math.log2(code.queries))
        nodes = len(self.row_counts) * HASH_BYTES * round(code.queries * (apart + 0.5))
        elements = self.sent_elements + code.degree_bound
        return elements * ELEMENT_BYTES + opened + nodes

    @property
    def soundness_error(self) -> Fraction:
        """The most that section 11 leaves to a false statement."""
        code, depth = self.code, self.leaf_variables
        numerator = 3 << depth
        numerator += sum(3 * layer + 2 for layer in range(depth))
        numerator += self.widest + self.relations
        numerator += 3 * self.node_variables
        numerator += self.claims
        numerator += 2 * self.opening_variables
        numerator += 2 * (self.widest + 1 + self.requests)
        log_rows = max(sum(self.row_counts) - 1, 1).bit_length()
        polynomials = self.polynomials + 3 * self.mask_messages + 4 * code.hides
        numerator += (log_rows + polynomials) * code.length
        if code.hides:
            equations = 2 * self.products + depth + 4 + 3 * self.products
            numerator += equations + 3
        missed = Fraction(code.length + code.degree_bound, 2 * code.length) ** code.queries
        return Fraction(numerator, _FIELD) + missed

    @property
    def security_bits(self) -> float:
        """`soundness_error` as bits."""
        return -math.log2(self.soundness_error)


def block_variables(graph: Graph, batch: int, *, hidden_input: bool = False) -> list[int]:
    """Return the number of variables of every block of leaves, in the order of section 7."""
    blocks = [layout.variables((batch, *graph.input.shape))] if hidden_input else []
    for number, node in enumerate(graph.nodes):
        count = layout.variables((batch, *graph.shapes[number + 1]))
        if isinstance(node, Maximum):
            blocks += [count] * (node.kernel - 1)
        elif node.requantise is not None:
            blocks += [count] * (1 + graph.limbs(node))
    tags = layout.table_tags(graph, hidden_input=hidden_input)
    return blocks + [layout.table_variables(graph, tag) for tag in tags]


def sum_variables(graph: Graph, batch: int) -> list[int]:
    """Return the number of variables of every sum of section 8, in its order."""
    sums: list[int] = []
    for node in graph.nodes:
        if isinstance(node, Multiply):
            sums.append(layout.variables((batch, *graph.shapes[node.left])))
        elif isinstance(node, Affine):
            for term in node.terms:
                if isinstance(term, Convolve):
                    groups, _, inputs, *kernel = graph.weights[term.weight]
                    sums.append(layout.variables((groups, inputs, *kernel)))
    return sums


def proof_shape(
    graph: Graph, batch: int, code: Code, *, hidden_input: bool = False, requests: int = 1
) -> ProofShape:
    """Return the shape of a proof for `batch` rows of so many requests to a model."""
    if hidden_input and not code.hides:
        raise ValueError("only a hiding commitment can hide an input")
    if hidden_input and requests > 1:
        raise ValueError("a hidden input shares no proof")
    layouts = [layout.weights_layout(graph.weights, code.column_variables)]
    if hidden_input:
        shape = layout.input_array(graph, batch).sizes
        layouts.append(layout.arrange([shape], code.column_variables))
    layouts.append(
        layout.witness_layout(graph, batch, code.column_variables, hidden_input=hidden_input)
    )
    sums = sum_variables(graph, batch)
    ends = (graph.input.shape, graph.shapes[graph.output.tensor])
    related = [n for n, node in enumerate(graph.nodes) if not isinstance(node, Maximum)]
    _, leaves = layout.pack(block_variables(graph, batch, hidden_input=hidden_input))
    shapes = [*ends, *(graph.shapes[number + 1] for number in related)]
    return ProofShape(
        code=code,
        hidden_input=hidden_input,
        layouts=tuple(layouts),
        leaf_variables=leaves,
        node_sums=len(sums),
        node_variables=max(sums, default=0),
        relations=len(related),
        widest=max(layout.variables((batch, *shape)) for shape in shapes),
        requests=requests,
    )


def smallest_code(graph: Graph, batch: int, *, rate_bits: int = 2, masking_budget: int = 0) -> Code:
    """Return the parameters whose proofs for `batch` requests are small and quick.

    Every column is hashed for every proof: of the codes whose proofs are at most a quarter larger
    than the smallest, or an eighth where they hide, the one with the fewest columns is taken.

    Args:
        graph: the model.
        batch: how many rows a proof is mostly for.
        rate_bits: 2 commits faster, 3 gives smaller proofs.
        masking_budget: how often the weights may be opened hiding; 0 for mode succinct.
    """
    codes = [
        Code(columns, rate_bits, masking_budget) for columns in range(MIN_COLUMNS, MAX_COLUMNS + 1)
    ]
    sizes = [proof_shape(graph, batch, code).expected_bytes for code in codes]
    enough = min(sizes) * (9 if masking_budget else 10) // 8
    return next(code for code, size in zip(codes, sizes, strict=True) if size <= enough)
