"""Models registered by somebody hostile: graphs that cost, and weights that are no integers.

Written from the specifications alone; see spec/proof.md sections 11 and 12 for what is promised.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from oracles.proof_cases import UNIT, clip, dense, model, table
from oracles.proof_checked import refused_by_both, verify
from oracles.proof_maker import Model, make, state
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.proof.field import MODULUS
from verispect.proof.graph import (
    MAX_NODES,
    Affine,
    Convolve,
    Embed,
    Epilogue,
    Graph,
    Input,
    Maximum,
    Multiply,
    Node,
    Output,
    Requantise,
    Scale,
    Shape,
    Window,
)
from verispect.proof.parameters import Code, Mode, proof_shape
from verispect.proof.proof_file import Proof
from verispect.proof.provable import MAX_BUDGET, ProvableModel
from verispect.proof.requests import RequestDigests
from verispect.proof.verifier import verify_proof
from verispect.proof.verifier.statement import Statement


def _graph(shape: Shape, *nodes: Node, weights: tuple[Shape, ...] = ()) -> Graph:
    order = tuple(range(len(shape)))
    return Graph(
        input=Input(shape, -15, 15, UNIT, order),
        weights=weights,
        tables=(),
        nodes=nodes,
        output=Output(len(nodes), UNIT, Epilogue.NONE),
        range_bits=8,
    )


def _refusal(graph: Graph) -> Error:
    """Return what the verifier says to an empty proof for `graph`, before it reads a message."""
    held = ProvableModel(graph, 8, 2, bytes(32))
    inputs = np.zeros((1, *graph.input.shape), np.int16)
    outputs = np.zeros((1, *graph.shapes[graph.output.tensor]), np.int64)
    statement = Statement.of(
        held, mode=Mode.SUCCINCT, context=bytes(32), inputs=inputs, outputs=outputs
    )
    proof = Proof(
        mode=Mode.SUCCINCT,
        model=bytes(held.digest),
        requests=(
            RequestDigests(
                1, statement.context_digest, statement.input_digest, statement.output_digest
            ),
        ),
        witness_root=bytes(32),
        messages=b"",
        combination=b"",
        columns=b"",
        nodes=b"",
    )
    with pytest.raises(Error) as caught:
        verify_proof(
            proof.encode(),
            model=held,
            mode=Mode.SUCCINCT,
            context=bytes(32),
            inputs=inputs,
            outputs=outputs,
        )
    return caught.value


def test_a_chain_of_as_many_maxima_as_there_may_be_nodes_is_read() -> None:
    """What a tensor can hold is known through any number of maxima, without recursion."""
    graph = _graph((1, 2), *(Maximum(i, 1, 2, 1, 1, 0) for i in range(MAX_NODES)))
    again = Graph.decode(graph.encode())
    assert again.value_range(MAX_NODES) == (-15, 15)
    assert _refusal(again).reason in (Reason.TOO_LARGE, Reason.MALFORMED_PROOF)


@pytest.mark.parametrize("kernel", [20_000, 65_536])
def test_a_maximum_of_very_many_short_stages_is_too_large(kernel: int) -> None:
    """Stages cost a verifier something each, however short their axes are."""
    maximum = Maximum(0, 1, kernel, kernel, kernel - 1, kernel - 1)
    assert _refusal(_graph((1, 1), maximum)).reason is Reason.TOO_LARGE


def test_very_many_terms_of_one_element_are_too_large() -> None:
    """The same for terms of affine nodes."""
    terms = tuple(Scale(0, 1) for _ in range(64))
    nodes = (Affine(terms, None, None, (1,)) for _ in range(1500))
    assert _refusal(_graph((1,), *nodes)).reason is Reason.TOO_LARGE


def test_a_dense_layer_with_the_longest_axes_is_not_too_large() -> None:
    """What is only wide is no work to walk through."""
    terms = (Convolve(0, 0, (), (), ()),)
    graph = _graph(
        (1 << 13,), Affine(terms, None, None, (1 << 13,)), weights=((1, 1 << 13, 1 << 13),)
    )
    assert _refusal(graph).reason is Reason.MALFORMED_PROOF


def _affine(*terms: object, shape: Shape = (4,), shift: int | None = None) -> Node:
    requantise = None if shift is None else Requantise(shift, 0)
    return Affine(terms, None, requantise, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "nodes", "weights"),
    [
        ((4,), (_affine(Scale(1, 1)),), ()),  # Its own source.
        ((4,), (_affine(Scale(2, 1)), _affine(Scale(0, 1))), ()),  # A later one.
        ((4,), (_affine(Scale(-1, 1)),), ()),
        ((0,), (), ()),
        ((4,), (_affine(Scale(0, 0)),), ()),
        ((4,), (_affine(Scale(0, 1 << 31)),), ()),
        ((4,), (_affine(Embed(0, 0, 1, 1)),), ()),
        ((4,), (_affine(Embed(0, 0, 1 << 40, 1), shape=(8,)),), ()),
        ((4,), (_affine(Scale(0, 1), shape=(0,)),), ()),
        ((4,), (_affine(Scale(0, 1), shift=8),), ()),  # A table that does not exist.
        ((4, 4), (Maximum(0, 1, 2, 0, 0, 0),), ()),
        ((4, 4), (Maximum(0, 1, 2, 1, 2, 0),), ()),
        ((4, 4), (Maximum(0, 0, 2, 1, 0, 0),), ()),
        ((4, 4), (Maximum(0, 1, 6, 1, 0, 0),), ()),
        ((4, 4), (Maximum(1, 1, 2, 1, 0, 0),), ()),
        ((4, 4), (_affine(Scale(0, 1), shape=(4, 4)), Maximum(1, 1, 2, 1, 0, 0)), ()),  # Raw.
        ((4, 4), (_affine(Window(0, 1, (2,), (0,), (0,)), shape=(4, 4)),), ()),
        ((6,), (_affine(dense(0, 0), shape=(6,)),), ((2, 3, 3),)),  # Groups of three.
        ((4,), (_affine(Scale(0, 1)),), ((1, 4, 4),)),  # An unused weight.
        ((4,), (Multiply(0, 1, Requantise(0, 0)),), ()),
    ],
)
def test_a_graph_that_breaks_a_rule_cannot_be_made(
    shape: Shape, nodes: tuple[Node, ...], weights: tuple[Shape, ...]
) -> None:
    """References go back only, no size is zero, and padding is what the specification allows."""
    with pytest.raises(MalformedError) as caught:
        _graph(shape, *nodes, weights=weights)
    assert caught.value.reason is Reason.MALFORMED_MODEL


def _single(weight: int, *, shift: int | None = None) -> Model:
    requantise = None if shift is None else Requantise(shift, 0)
    held = model(
        (1,),
        [(1, 1, 1)],
        [] if shift is None else [table(32, clip)],
        [Affine((dense(0, 0),), None, requantise, (1,))],
        seed=1,
    )
    return Model(held.graph, [[weight]])


def test_weights_that_are_no_integers_give_one_output_or_none() -> None:
    """A half of the field is nothing a model may have; a proof still shows what the field makes."""
    held = _single((MODULUS + 1) // 2)
    statement = dataclasses.replace(state(held, [[2]]), outputs=[[1]])
    verify(statement, make(statement, [[2]]))
    for other in (0, 2, -1, 1 << 51):
        false = dataclasses.replace(statement, outputs=[[other]])
        assert refused_by_both(false, make(false, [[2]])).reason is Reason.PROOF_INVALID


def test_an_output_that_wraps_is_not_an_output() -> None:
    """The half of one is an element of the field, but no integer below `2^52`."""
    held = _single((MODULUS + 1) // 2)
    true = dataclasses.replace(state(held, [[2]]), outputs=[[1]])
    with pytest.raises(VerificationError) as caught:
        verify(dataclasses.replace(true, inputs=[[1]], outputs=[[(MODULUS + 1) // 4]]), b"")
    assert caught.value.reason is Reason.PROOF_WRONG_OUTPUT


@pytest.mark.parametrize("columns", [6, 11, 16])
@pytest.mark.parametrize("rate_bits", [2, 3])
@pytest.mark.parametrize("budget", [0, 1, 77, MAX_BUDGET])
def test_queries_alone_reach_their_bound_at_every_parameter(
    columns: int, rate_bits: int, budget: int
) -> None:
    """`(1 - (n - K)/2n)^t <= 2^-101`, exactly, for codes of every size and mode."""
    code = Code(columns, rate_bits, budget)
    n, k, t = code.length, code.degree_bound, code.queries
    assert k <= n * 3 // 8
    assert (n + k) ** t << 101 <= (2 * n) ** t
    if budget:
        assert k == 2**columns + t * budget
    else:
        assert (n + k) ** (t - 1) << 101 > (2 * n) ** (t - 1)
    shape = proof_shape(_graph((4,), _affine(Scale(0, 1))), 1, code)
    terms = (shape.polynomials + 3 * shape.mask_messages) * n
    assert shape.security_bits < 128
    assert shape.soundness_error * MODULUS**2 > terms
