"""The verifier of proofs, against a prover and a verifier in plain integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from oracles.proof_cases import CASES, UNIT, looked_up, perceptron, some_inputs
from oracles.proof_checked import provable, refused_by_both, verify
from oracles.proof_maker import Model, Statement, judge, make, state
from verispect.core.encoding import decode, encode
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.proof.graph import Affine, Epilogue, Graph, Input, Maximum, Output, Window
from verispect.proof.parameters import Mode
from verispect.proof.provable import ProvableModel
from verispect.proof.requests import NO_SALT, context_digest, input_digest, output_digest
from verispect.proof.verifier import VerifiedProof, check, verify_proof
from verispect.proof.verifier.statement import MAX_RAW
from verispect.proof.verifier.statement import Statement as Checked

_RAW = Output(1, UNIT, Epilogue.NONE)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("batch", "masked", "hidden"),
    [(1, False, False), (3, False, False), (1, True, False), (2, True, True)],
)
def test_a_true_statement_of_every_operator_is_accepted(
    case: Callable[[int], Model], batch: int, masked: bool, hidden: bool
) -> None:
    """Both verifiers accept an honest proof, in both modes and with a hidden input."""
    model = case(int(masked))
    statement = state(model, some_inputs(model, batch), masked=masked, hidden=hidden)
    proof = make(statement, some_inputs(model, batch))
    judge(statement, proof)
    verified = verify(statement, proof)
    assert verified.model == model.digest
    assert verified.batch == batch
    assert verified.hidden_input is hidden
    assert verified.security_bits > 100


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_one_changed_output_is_refused(case: Callable[[int], Model], masked: bool) -> None:
    """An honest witness does not prove an output that is off by one."""
    model = case(int(masked))
    inputs = some_inputs(model, 2)
    statement = state(model, inputs, masked=masked)
    graph = model.graph
    low, _ = graph.value_range(graph.output.tensor) or (-100, 100)
    value = statement.outputs[1][0]
    statement.outputs[1][0] = value - 1 if value > low else value + 1
    error = refused_by_both(statement, make(statement, inputs))
    assert error.reason is Reason.PROOF_INVALID


def _changed(**changes: object) -> Callable[[Statement], Statement]:
    return lambda statement: dataclasses.replace(statement, **changes)  # type: ignore[arg-type]


def _other_input(statement: Statement) -> Statement:
    inputs = [list(row) for row in statement.inputs or []]
    inputs[0][0] = -inputs[0][0] or 1
    return dataclasses.replace(statement, inputs=inputs)


def _other_output(statement: Statement) -> Statement:
    outputs = [list(row) for row in statement.outputs]
    outputs[0][0] += 1
    return dataclasses.replace(statement, outputs=outputs)


def _other_batch(statement: Statement) -> Statement:
    return dataclasses.replace(
        statement,
        inputs=[*(statement.inputs or []), *(statement.inputs or [])],
        outputs=[*statement.outputs, *statement.outputs],
        batch=2,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_changed(context=bytes(32)), Reason.PROOF_WRONG_CONTEXT),
        (_other_input, Reason.PROOF_WRONG_INPUT),
        (_other_output, Reason.PROOF_WRONG_OUTPUT),
        (_other_batch, Reason.PROOF_WRONG_BATCH),
    ],
)
def test_a_proof_about_something_else_says_what_differs(
    change: Callable[[Statement], Statement], reason: Reason
) -> None:
    """A replayed proof is refused with the reason why it does not fit."""
    model = perceptron()
    inputs = some_inputs(model, 1)
    proof = make(state(model, inputs), inputs)
    statement = change(state(model, inputs))
    assert refused_by_both(statement, proof).reason is reason


def test_another_model_of_the_same_graph_is_refused() -> None:
    """Weights are part of a model's identity."""
    model = perceptron()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    proof = make(statement, inputs)
    weights = [list(values) for values in model.weights]
    weights[0][0] += 1
    other = dataclasses.replace(statement, model=Model(model.graph, weights))
    assert refused_by_both(other, proof).reason is Reason.PROOF_WRONG_MODEL


def test_a_mode_is_what_was_asked_for_and_what_the_commitment_allows() -> None:
    """Neither mode passes for the other, and only one of them hides an input."""
    model = perceptron(1)
    inputs = some_inputs(model, 1)
    statement = state(model, inputs, masked=True)
    proof = make(statement, inputs)
    for other in (
        dataclasses.replace(statement, masked=False),
        dataclasses.replace(statement, inputs=None),
        dataclasses.replace(statement, model=perceptron(0)),
    ):
        with pytest.raises(VerificationError) as refused:
            verify(other, proof)
        assert refused.value.reason is Reason.PROOF_WRONG_MODE


def test_integers_outside_the_model_are_refused() -> None:
    """Two 64-bit integers can be one field element, so ranges are checked before anything."""
    model = perceptron()
    held = provable(model)
    inputs, outputs = np.zeros((1, 6), dtype=int), np.zeros((1, 3), dtype=int)

    def of(inputs: object, outputs: object) -> Reason:
        with pytest.raises(VerificationError) as refused:
            Checked.of(
                held,
                mode=Mode.SUCCINCT,
                context=bytes(32),
                inputs=np.asarray(inputs),
                outputs=np.asarray(outputs),
            )
        return refused.value.reason

    assert of(inputs + 16, outputs) is Reason.PROOF_WRONG_INPUT
    assert of(inputs[:, :5], outputs) is Reason.PROOF_WRONG_INPUT
    assert of(inputs, outputs + MAX_RAW) is Reason.PROOF_WRONG_OUTPUT
    assert of(inputs, outputs - MAX_RAW) is Reason.PROOF_WRONG_OUTPUT
    assert of(inputs, outputs[:, :2]) is Reason.PROOF_WRONG_OUTPUT
    assert of(inputs, outputs[:0]) is Reason.PROOF_WRONG_BATCH
    assert of(np.zeros((2, 6), dtype=int), outputs) is Reason.PROOF_WRONG_BATCH
    assert of(np.zeros((4097, 6), dtype=int), np.zeros((4097, 3), dtype=int)) is (
        Reason.PROOF_WRONG_BATCH
    )


def test_arrays_that_hold_no_integers_are_misuse() -> None:
    """Reading real numbers is for whoever calls; the verifier takes integers."""
    model = perceptron()
    with pytest.raises(ValueError, match="integers"):
        verify_proof(
            b"",
            model=provable(model),
            mode=Mode.SUCCINCT,
            context=bytes(32),
            inputs=np.zeros((1, 6)),
            outputs=np.zeros((1, 3), dtype=int),
        )


def test_less_than_a_hundred_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is computed from the shapes and refused where it is too weak."""
    model = looked_up()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    proof = make(statement, inputs)
    monkeypatch.setattr(check, "SECURITY_BITS", 102)
    with pytest.raises(VerificationError) as refused:
        verify(statement, proof)
    assert refused.value.reason is Reason.PROOF_UNSOUND


def test_a_model_of_bad_parameters_is_refused() -> None:
    """A commitment whose masking budget is out of range is no model's."""
    held = provable(perceptron(1))
    for budget in (-1, 4097):
        with pytest.raises(MalformedError):
            ProvableModel(held.graph, held.columns, held.rate_bits, held.root, budget)


def test_nothing_but_the_verifier_makes_a_verified_proof() -> None:
    """A result cannot be built by hand."""
    with pytest.raises(TypeError, match="only verify_proof"):
        VerifiedProof(object(), None, None, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "node",
    [
        Affine((Window(0, 1, (4096,), (1,), (0,)),), None, None, (1, 4097)),
        Maximum(0, 1, 4096, 1, 0, 0),
    ],
)
def test_a_graph_with_too_much_to_walk_through_is_refused(node: Affine | Maximum) -> None:
    """Kernel times output is bounded, so that a hostile model costs its verifier little."""
    graph = Graph(Input((1, 8192), -1, 1, UNIT, (0, 1)), (), (), (node,), _RAW, 8)
    model = ProvableModel(graph, 6, 2, bytes(32), 0)
    values = np.zeros((1, *graph.shapes[1]), dtype=int)
    statement = state(looked_up(), [[1, 2, 3]])
    value = decode(make(statement, [[1, 2, 3]]))
    inputs = np.zeros((1, 1, 8192), dtype="<i2")
    request = [
        1,
        context_digest(NO_SALT, bytes(32)),
        input_digest(NO_SALT, inputs.tobytes()),
        output_digest(NO_SALT, values.astype("<i8").tobytes()),
    ]
    value |= {3: model.digest, 4: [request]}
    with pytest.raises(MalformedError) as refused:
        verify_proof(
            encode(value),
            model=model,
            mode=Mode.SUCCINCT,
            context=bytes(32),
            inputs=inputs,
            outputs=values,
        )
    assert refused.value.reason is Reason.TOO_LARGE
