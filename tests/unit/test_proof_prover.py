"""The prover: every operator in both modes, to the verifier and to the specification's oracle."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace

import numpy as np
import proof_models
import pytest
from proof_models import Model

from oracles import proof_maker
from verispect.core.errors import ModelError, RequestError
from verispect.proof.graph import Affine, Convolve, Maximum, Requantise
from verispect.proof.parameters import Code, Mode, proof_shape
from verispect.proof.proof_file import Proof
from verispect.proof.prover.prove import (
    ProofResult,
    Prover,
    commit_model,
    make_prover,
    prove,
)
from verispect.proof.prover.stored_commitment import StoredBudget, load, save
from verispect.proof.verifier import verify_proof

CONTEXT = hashlib.sha256(b"context").digest()


def uncounted() -> None:
    """Count nothing: the commitments here live as long as a test."""


def prover_of(model: Model, *, columns: int = 6, budget: int = 0) -> Prover:
    graph, weights = model
    public, commitment = commit_model(graph, weights, columns=columns, masking_budget=budget)
    return make_prover(public, weights, commitment, uncounted)


def mode_of(prover: Prover) -> Mode:
    return prover.code.mode


def verify(prover: Prover, result: ProofResult, inputs: np.ndarray | None) -> float:
    verified = verify_proof(
        result.proof.encode(),
        model=prover.model,
        mode=mode_of(prover),
        context=CONTEXT,
        inputs=inputs,
        outputs=result.trace.output,
    )
    return verified.security_bits


@functools.cache
def committed(name: str, budget: int) -> Prover:
    return prover_of(proof_models.MODELS[name](), budget=budget)


@pytest.mark.parametrize("name", sorted(proof_models.MODELS))
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("budget", "hidden"), [(0, False), (2, False), (2, True)])
def test_an_honest_proof_is_accepted(name: str, batch: int, budget: int, hidden: bool) -> None:
    """Every operator proves, in both modes, alone and in a batch, the input public or hidden."""
    prover = committed(name, budget)
    inputs = proof_models.inputs_for(prover.model.graph, batch)
    result = prove(prover, inputs, mode=mode_of(prover), context=CONTEXT, hidden_input=hidden)
    assert verify(prover, result, None if hidden else inputs) >= 100


QUICK = ["mlp", "convolution", "grouped", "excitation", "maximum", "residual", "concatenate"]
"""Those that the oracle proves in about a second."""


@pytest.mark.parametrize("name", QUICK)
def test_messages_are_those_of_the_oracle(name: str) -> None:
    """Without randomness two provers written apart say the same, octet for octet."""
    prover = committed(name, 0)
    graph, weights = proof_models.MODELS[name]()
    inputs = proof_models.inputs_for(graph, 1)
    plain = inputs.reshape(1, -1).tolist()
    model = proof_maker.Model(graph, [weight.reshape(-1).tolist() for weight in weights])
    outputs = proof_maker.outputs_of(model, plain)
    expected = Proof.decode(
        proof_maker.make(proof_maker.Statement(model, plain, outputs, 1), plain)
    )
    actual = prove(prover, inputs, mode=Mode.SUCCINCT, context=proof_maker.CONTEXT).proof
    assert actual.model == expected.model
    assert actual.witness_root == expected.witness_root
    assert actual.messages == expected.messages
    assert actual.combination == expected.combination
    assert actual.columns == expected.columns
    assert actual.nodes == expected.nodes


def _wide() -> Model:
    """Arrays far larger than a row, with sizes that are no powers of two."""
    rng = np.random.default_rng(3)
    weights = (
        rng.integers(-20, 21, (1, 12, 3, 3, 3), dtype=np.int16),
        rng.integers(-900, 901, (12,), dtype=np.int32),
        rng.integers(-20, 21, (1, 20, 12, 11, 9), dtype=np.int16),
    )
    nodes = [
        Affine((Convolve(0, 0, (1, 1), (1, 1), (1, 1)),), 1, Requantise(8, 0), (12, 22, 18)),
        Maximum(1, 1, 2, 2, 0, 0),
        Maximum(2, 2, 2, 2, 0, 0),
        Affine((Convolve(3, 2, (1, 1), (0, 0), (1, 1)),), None, None, (20, 1, 1)),
    ]
    return proof_models.build((3, 22, 18), nodes, weights, [proof_models.relu(4096)])


@pytest.mark.parametrize("columns", [6, 8, 10, 13])
@pytest.mark.parametrize("batch", [1, 5])
def test_any_width_of_the_matrix_proves(columns: int, batch: int) -> None:
    """Large arrays are opened in parts, small ones packed, whatever a row's length is."""
    prover = prover_of(_wide(), columns=columns)
    inputs = proof_models.inputs_for(prover.model.graph, batch)
    result = prove(prover, inputs, mode=Mode.SUCCINCT, context=CONTEXT)
    assert verify(prover, result, inputs) >= 100


def test_biases_and_answers_beyond_32_bits_prove() -> None:
    """Integers of a raw node and a bias may need up to 52 bits."""
    bias = np.array([1 << 49, -(1 << 49), 7], np.int64)
    weight = np.full((1, 3, 5), 32767, np.int32)
    node = Affine((Convolve(0, 0, (), (), ()),), 1, None, (3,))
    prover = prover_of(proof_models.build((5,), [node], [weight, bias]))
    inputs = proof_models.inputs_for(prover.model.graph, 2)
    result = prove(prover, inputs, mode=Mode.SUCCINCT, context=CONTEXT)
    assert int(np.abs(result.trace.output).max()) > 1 << 48
    assert verify(prover, result, inputs) >= 100


def test_a_hiding_proof_differs_every_time() -> None:
    """Masks are fresh: two proofs of one statement share neither roots nor messages."""
    prover = committed("mlp", 2)
    inputs = proof_models.inputs_for(prover.model.graph, 1)
    first, second = (
        prove(prover, inputs, mode=Mode.ZERO_KNOWLEDGE, context=CONTEXT).proof for _ in range(2)
    )
    assert first.witness_root != second.witness_root
    assert first.masks_root != second.masks_root
    words = [
        {messages[at : at + 16] for at in range(0, len(messages), 16)}
        for messages in (first.messages, second.messages)
    ]
    assert not words[0] & words[1]


def test_all_that_is_random_in_a_proof_comes_from_where_it_was_told_to() -> None:
    """Given the same octets the proof is the same, but for the prover's times."""
    prover = committed("mlp", 2)
    inputs = proof_models.inputs_for(prover.model.graph, 1)

    def octets() -> ProofResult:
        rng = np.random.default_rng(5)
        return prove(
            prover,
            inputs,
            mode=Mode.ZERO_KNOWLEDGE,
            context=CONTEXT,
            randomness=lambda count: rng.bytes(count),
        )

    first, second = octets(), octets()
    bare = [replace(each.proof, metadata={}).encode() for each in (first, second)]
    assert bare[0] == bare[1]
    assert verify(prover, first, inputs)


def test_lengths_are_those_that_the_shape_says() -> None:
    """A verifier knows every length before it reads."""
    for budget in (0, 2):
        prover = committed("network", budget)
        inputs = proof_models.inputs_for(prover.model.graph, 2)
        proof = prove(prover, inputs, mode=mode_of(prover), context=CONTEXT).proof
        shape = proof_shape(prover.model.graph, 2, Code(6, 2, budget))
        assert len(proof.messages) == 16 * shape.sent_elements
        assert len(proof.combination) == 16 * shape.code.degree_bound


def test_a_mode_that_the_commitment_does_not_have_is_refused() -> None:
    """Nobody gets an integrity proof for a hiding one, nor the other way round."""
    for budget, mode in ((0, Mode.ZERO_KNOWLEDGE), (2, Mode.SUCCINCT)):
        prover = committed("mlp", budget)
        inputs = proof_models.inputs_for(prover.model.graph, 1)
        with pytest.raises(RequestError, match="committed for mode"):
            prove(prover, inputs, mode=mode, context=CONTEXT)


def test_mode_succinct_hides_no_input() -> None:
    """An input can be hidden only where everything is."""
    prover = committed("mlp", 0)
    inputs = proof_models.inputs_for(prover.model.graph, 1)
    with pytest.raises(RequestError, match="hides no input"):
        prove(prover, inputs, mode=Mode.SUCCINCT, context=CONTEXT, hidden_input=True)


def test_another_models_commitment_is_refused() -> None:
    """A prover is not made of one model's weights and another's root."""
    graph, weights = proof_models.MODELS["mlp"]()
    public, _ = commit_model(graph, weights, columns=6)
    _, other = commit_model(graph, [weight + 1 for weight in weights], columns=6)
    with pytest.raises(ModelError, match="commitment"):
        make_prover(public, weights, other)


def test_progress_is_told_and_can_cancel() -> None:
    """Steps are told in order; what the listener raises ends the work."""
    prover = committed("mlp", 0)
    inputs = proof_models.inputs_for(prover.model.graph, 1)
    told: list[tuple[str, float]] = []
    prove(
        prover,
        inputs,
        mode=Mode.SUCCINCT,
        context=CONTEXT,
        progress=lambda step, share: told.append((step, share)),
    )
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[0][0] == "run"
    assert told[-1] == ("done", 1.0)

    class CancelError(Exception):
        pass

    def cancel(step: str, share: float) -> None:
        if step == "nodes":
            raise CancelError

    with pytest.raises(CancelError):
        prove(prover, inputs, mode=Mode.SUCCINCT, context=CONTEXT, progress=cancel)


def test_hidden_weights_are_opened_no_more_than_their_budget(tmp_path) -> None:
    """The count outlives the process: a restarted prover goes on where the last one stopped."""
    graph, weights = proof_models.MODELS["mlp"]()
    public, commitment = commit_model(graph, weights, columns=6, masking_budget=2)
    path = tmp_path / "weights.commitment"
    save(commitment, path)
    inputs = proof_models.inputs_for(graph, 1)

    def restarted() -> Prover:
        held = load(path, commitment.matrix, commitment.code)
        return make_prover(public, weights, held, StoredBudget(path, 2).take)

    for _ in range(2):
        prover = restarted()
        result = prove(prover, inputs, mode=Mode.ZERO_KNOWLEDGE, context=CONTEXT)
        assert verify(prover, result, inputs) >= 100
    with pytest.raises(ModelError, match="masked for"):
        prove(restarted(), inputs, mode=Mode.ZERO_KNOWLEDGE, context=CONTEXT)
