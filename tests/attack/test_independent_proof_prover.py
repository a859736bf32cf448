"""Provers that lie where the specification has a seam, and what masked proofs show of the hidden.

Every lie is the best one found for its check: everything else follows from it honestly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from collections.abc import Callable

import numpy as np
import pytest

from oracles.proof_algebra import P
from oracles.proof_cases import UNIT, dense, looked_up, model, perceptron, pooled, some_inputs
from oracles.proof_checked import provable, refused_by_both, verify
from oracles.proof_maker import Model, Statement, Tampering, make, state
from oracles.proof_witness import Witness
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, Reason
from verispect.proof import field, merkle
from verispect.proof.exchange import answer_octets, input_integers
from verispect.proof.graph import Affine, BinaryFraction, Epilogue, Graph, Output
from verispect.proof.parameters import Code, Mode
from verispect.proof.proof_file import Proof
from verispect.proof.prover.prove import commit_model, make_prover, prove
from verispect.proof.transcript import Transcript
from verispect.proof.verifier.statement import Statement as Held


def _refused(
    statement: Statement, inputs: list[list[int]], change: Callable[[Witness], None]
) -> None:
    proof = make(statement, inputs, tampering=Tampering(witness=change))
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def _outputs(w: Witness) -> list[list[int]]:
    array = w.tensor(w.graph.output.tensor)
    values = [array[place] for place in array.places()]
    size = len(values) // w.batch
    return [values[i * size : (i + 1) * size] for i in range(w.batch)]


# -- Lookups ---------------------------------------------------------------------------------------


def test_multiplicities_that_cancel_modulo_p_pay_for_no_false_pair() -> None:
    """All multiplicities sum to the number of lookups, one of them as large as the field allows."""
    held = perceptron()
    inputs = some_inputs(held, 1)
    statement = state(held, inputs)

    def change(w: Witness) -> None:
        y = w.named["y", 0]
        y[next(iter(y.places()))] += 1
        w._run(1, w.graph.nodes[1])
        w.count_multiplicities()
        values = w.named["mult", 2].values
        missing = len(list(y.places())) - sum(values)
        values[0] = (values[0] - 1) % P
        values[1] += 1 + missing

    w = Witness(held.graph, held.weights, inputs, False)
    change(w)
    _refused(dataclasses.replace(statement, outputs=_outputs(w)), inputs, change)


def test_five_fives_are_no_permutation_of_one_to_five() -> None:
    """Places that all take one entry, counted as if each had taken its own."""
    held = looked_up()
    inputs = [[1, 2, 3]]

    def change(w: Witness) -> None:
        q, y = w.named["q", 0], w.named["y", 0]
        for place in q.places():
            q[place], y[place] = 2, 2

    false = dataclasses.replace(state(held, inputs), outputs=[[2, 2, 2]])
    _refused(false, inputs, change)


def test_a_pair_of_one_table_is_no_pair_of_another() -> None:
    """A limb counted in the graph's table and a pair in the range table are told apart by tags."""
    held = perceptron()
    inputs = some_inputs(held, 1)

    def change(w: Witness) -> None:
        one, other = w.named["mult", 1].values, w.named["mult", 2].values
        zero = next(i for i, n in enumerate(other) if n)
        other[zero] -= 1
        one[zero] += 1

    _refused(state(held, inputs), inputs, change)


def test_a_maximum_cannot_name_another_element_of_its_window() -> None:
    """The first element of every window, though a later one is larger."""
    held = pooled()
    for seed in range(20):
        inputs = some_inputs(held, 1, seed)
        w = Witness(held.graph, held.weights, inputs, False)
        stage = w.named["stage", 2, 1]
        place = next((p for p in stage.places() if w.tapped(2, 0, p) < stage[p]), None)
        if place is not None:
            break
    assert place is not None

    def change(w: Witness) -> None:
        w.named["stage", 2, 1][place] = w.tapped(2, 0, place)
        w.count_multiplicities()

    w = Witness(held.graph, held.weights, inputs, False)
    change(w)
    _refused(dataclasses.replace(state(held, inputs), outputs=_outputs(w)), inputs, change)


def test_zero_has_no_sign() -> None:
    """The modulus does not pass for zero in public integers, nor zero for anything else."""
    held = looked_up()
    statement = state(held, [[0, 0, 0]])
    proof = make(statement, [[0, 0, 0]])
    verify(statement, proof)
    for zero in (1, -1, 31):
        false = dataclasses.replace(statement, outputs=[[0, zero, 0]])
        with pytest.raises(Error) as caught:
            verify(false, proof)
        assert caught.value.reason is Reason.PROOF_WRONG_OUTPUT


# -- What a proof is about -------------------------------------------------------------------------


def test_outputs_of_a_batch_are_not_exchanged() -> None:
    """The answers of two requests exchanged are no answers, with a proof made for the exchange."""
    held = perceptron()
    inputs = some_inputs(held, 2)
    true = state(held, inputs)
    assert true.outputs[0] != true.outputs[1]
    false = dataclasses.replace(true, outputs=true.outputs[::-1])
    _refused(false, inputs, lambda w: None)


def test_a_proof_of_one_model_is_none_of_another_of_the_same_shape() -> None:
    """Other weights of the same graph have another root, digest and challenges."""
    held = perceptron()
    other = Model(held.graph, [[value + 1 for value in each] for each in held.weights])
    inputs = some_inputs(held, 1)
    statement, proof = state(held, inputs), make(state(held, inputs), inputs)
    elsewhere = dataclasses.replace(statement, model=other)
    with pytest.raises(Error) as caught:
        verify(elsewhere, proof)
    assert caught.value.reason is Reason.PROOF_WRONG_MODEL
    parts = decode(proof)
    parts[3] = other.digest
    assert refused_by_both(elsewhere, encode(parts)).reason is Reason.PROOF_INVALID


def test_no_public_value_is_absent_from_the_first_challenge() -> None:
    """Model, mode, each root and all that is said of requests lead to challenges of their own."""
    held = perceptron()
    inputs = some_inputs(held, 1)
    statement = state(held, inputs)
    proof = Proof.decode(make(statement, inputs))
    first = Held.of(
        provable(held),
        mode=Mode.SUCCINCT,
        context=statement.context,
        inputs=np.array(inputs).reshape(1, 6),
        outputs=np.array(statement.outputs).reshape(1, 3),
    )
    assert first.inputs is not None
    graph = held.graph
    moved = dataclasses.replace(graph, output=Output(2, BinaryFraction(3, 0), Epilogue.NONE))
    masked = dataclasses.replace(proof, mode=Mode.ZERO_KNOWLEDGE, masks_root=bytes(32))
    (request,) = proof.requests
    of_hidden = dataclasses.replace(request, input=None)
    hidden = dataclasses.replace(masked, requests=(of_hidden,), input_root=bytes(32))
    root = dataclasses.replace(provable(held), root=bytes(32))
    cases = [
        (first, proof),
        (dataclasses.replace(first, mode=Mode.ZERO_KNOWLEDGE), proof),
        (dataclasses.replace(first, model=root), proof),
        (dataclasses.replace(first, model=dataclasses.replace(provable(held), graph=moved)), proof),
        (dataclasses.replace(first, model=dataclasses.replace(provable(held), columns=7)), proof),
        (dataclasses.replace(first, model=dataclasses.replace(provable(held), rate_bits=3)), proof),
        (dataclasses.replace(first, model=dataclasses.replace(provable(held), budget=1)), proof),
        *(
            (first, dataclasses.replace(proof, requests=requests))
            for requests in (
                (dataclasses.replace(request, context=bytes(32)),),
                (dataclasses.replace(request, rows=2),),
                (dataclasses.replace(request, input=bytes(32)),),
                (dataclasses.replace(request, output=bytes(32)),),
                (request, dataclasses.replace(request, context=bytes(32))),
                (dataclasses.replace(request, context=bytes(32)), request),
            )
        ),
        (first, dataclasses.replace(proof, witness_root=bytes(32))),
        (first, masked),
        (first, dataclasses.replace(masked, masks_root=bytes([1] * 32))),
        (first, hidden),
        (first, dataclasses.replace(hidden, input_root=bytes([1] * 32))),
    ]
    drawn = set()
    for statement_, file in cases:
        transcript = Transcript()
        statement_.absorb(transcript, file)
        drawn.add(transcript.challenge("beta"))
    assert len(drawn) == len(cases)


def test_labels_and_messages_cannot_be_moved_into_each_other() -> None:
    """Whatever the split between label, length and data, and between messages, it is absorbed."""
    states = set()
    for messages in (
        [("a", b"bc")],
        [("ab", b"c")],
        [("a", b"b"), ("", b"c")],
        [("a", b"b"), ("c", b"")],
        [("a", b"bc"), ("", b"")],
        [("a", b"bc" + b"\x01\x00" + bytes(8))],
    ):
        transcript = Transcript()
        for label, data in messages:
            transcript.absorb(label, data)
        states.add(transcript.challenge("x"))
    assert len(states) == 6


# -- Trees -----------------------------------------------------------------------------------------


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    """A column made of two hashes is no leaf of a tree that is one level lower, salted or not."""
    leaves = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
    root = merkle.node_hash(
        merkle.node_hash(leaves[0], leaves[1]), merkle.node_hash(leaves[2], leaves[3])
    )
    low = merkle.leaf_hash(leaves[0] + leaves[1])
    high = merkle.node_hash(leaves[2], leaves[3])
    assert merkle.root_of_opening(2, [0, 1], leaves[:2], high) == root
    assert merkle.root_of_opening(1, [0], [low], high) != root
    with pytest.raises(ValueError, match="distinct"):
        merkle.root_of_opening(2, [1, 1], leaves[:2], b"")
    with pytest.raises(ValueError, match="not in the tree"):
        merkle.root_of_opening(2, [4], leaves[:1], b"")
    for nodes in (b"", high[:-1]):
        assert merkle.root_of_opening(2, [0, 1], leaves[:2], nodes.ljust(32, b"!")) != root
    for nodes in (b"", high + bytes(32)):
        with pytest.raises(MalformedError) as caught:
            merkle.root_of_opening(2, [0, 1], leaves[:2], nodes)
        assert caught.value.reason is Reason.MALFORMED_PROOF


# -- Floating point --------------------------------------------------------------------------------


def _scaled(scale: BinaryFraction) -> Graph:
    graph = looked_up().graph
    source = dataclasses.replace(graph.input, scale=scale)
    return dataclasses.replace(
        graph, input=source, output=Output(graph.output.tensor, scale, Epilogue.NONE)
    )


@pytest.mark.parametrize("pattern", [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFF800001])
def test_no_kind_of_nan_is_an_input(pattern: int) -> None:
    """Quiet or signalling, of either sign, with any payload."""
    octets = struct.pack("<III", 0, pattern, 0)
    with pytest.raises(Error):
        input_integers(_scaled(UNIT), octets, 1)


def test_infinities_zeros_and_denormals_are_read_as_defined() -> None:
    """Infinities are clipped and counted; both zeros and what is far below a step are zero."""
    read = input_integers(_scaled(UNIT), struct.pack("<fff", math.inf, -math.inf, -0.0), 1)
    assert read.integers.tolist() == [[15, -15, 0]]
    assert read.clipped == 2
    tiny = struct.pack("<III", 1, 0x80000001, 0)
    assert input_integers(_scaled(UNIT), tiny, 1).integers.tolist() == [[0, 0, 0]]
    least = input_integers(_scaled(BinaryFraction(1, -1074)), tiny, 1)
    assert least.integers.tolist() == [[15, -15, 0]]
    assert least.clipped == 2
    largest = input_integers(
        _scaled(BinaryFraction(2**53 - 1, 971)), struct.pack("<fff", 1, 2, 3), 1
    )
    assert largest.integers.tolist() == [[0, 0, 0]]


def test_an_answer_has_one_form_in_octets() -> None:
    """Zero is written as plus zero; what underflows keeps its sign; what overflows is infinite."""
    integers = np.array([[0, -1, 1]])
    assert answer_octets(_scaled(UNIT), integers) == struct.pack("<fff", 0.0, -1.0, 1.0)
    least = answer_octets(_scaled(BinaryFraction(1, -1074)), integers)
    assert least == struct.pack("<III", 0, 0x80000000, 0)
    largest = answer_octets(_scaled(BinaryFraction(2**53 - 1, 971)), integers * 4)
    assert largest == struct.pack("<fff", 0.0, -math.inf, math.inf)


# -- What a masked proof shows ---------------------------------------------------------------------


def test_masked_proofs_of_two_weights_look_alike() -> None:
    """Every opened column, message and row is uniform, whatever the weights, and none comes twice.

    Two models with other weights give one output for the input zero. Elements of their proofs are
    uniform in the field: the mean within seven deviations, and no octet more frequent than another.
    """
    graph = model(
        (4,), [(1, 3, 4), (3,)], [], [Affine((dense(0, 0),), 1, None, (3,))], seed=8
    ).graph
    bias = np.array([5, 6, 7], np.int64)
    for weights in (np.zeros((1, 3, 4), np.int64), np.full((1, 3, 4), 2**30, np.int64)):
        public, commitment = commit_model(graph, [weights, bias], columns=6, masking_budget=6)
        prover = make_prover(public, [weights, bias], commitment, lambda: None)
        seen: list[np.ndarray] = []
        for _ in range(6):
            made = prove(
                prover, np.zeros((1, 4), np.int16), mode=Mode.ZERO_KNOWLEDGE, context=bytes(32)
            )
            assert made.trace.output.tolist() == [[5, 6, 7]]
            sent = made.proof.messages + made.proof.combination
            seen.append(field.from_bytes(sent))
        values = np.concatenate(seen)
        assert len(np.unique(values)) == len(values)
        mean = float((values.astype(np.float64) / P).mean())
        assert abs(mean - 0.5) < 7 / math.sqrt(12 * len(values))
        octets = np.bincount((values >> np.uint64(40) & np.uint64(255)).astype(int), minlength=256)
        expected = len(values) / 256
        squares = float(((octets - expected) ** 2 / expected).sum())
        assert squares < 255 + 8 * math.sqrt(2 * 255)


def test_weights_opened_as_often_as_allowed_keep_more_unknowns_than_were_shown() -> None:
    """Columns of all openings together are fewer than the random coefficients of a row."""
    for budget in (1, 3, 50, 4096):
        held = Code(6, 2, budget)
        assert held.degree_bound - held.columns >= budget * held.queries
        assert held.witness_degree_bound - held.columns >= held.queries
