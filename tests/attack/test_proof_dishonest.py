"""Provers that lie about an integer model, one lie each, everything else kept consistent with it.

Each prover works from the specification through the oracle: it changes its witness, counts its
lookups anew, states the output that follows, and goes through the whole protocol. Both verifiers
have to refuse.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from oracles.proof_algebra import ONE, E, P
from oracles.proof_cases import (
    convolution,
    grouped,
    joined,
    multiplied,
    perceptron,
    pooled,
    some_inputs,
)
from oracles.proof_checked import refused_by_both, verify
from oracles.proof_maker import Model, Statement, Tampering, judge, make, state
from oracles.proof_witness import Name, Witness
from verispect.core.errors import Reason
from verispect.proof.graph import Maximum


def _rerun(w: Witness, first: int) -> None:
    """Let every node from `first` on follow from what is before it."""
    for number in range(first, len(w.graph.nodes)):
        w._run(number, w.graph.nodes[number])


def _outputs(w: Witness) -> list[list[int]]:
    array = w.tensor(w.graph.output.tensor)
    values = [array[place] for place in array.places()]
    size = len(values) // w.batch
    return [values[i * size : (i + 1) * size] for i in range(w.batch)]


def _lie(
    model: Model,
    change: Callable[[Witness], None],
    *,
    masked: bool = False,
    batch: int = 1,
    recount: bool = True,
) -> tuple[Statement, bytes]:
    """Return the statement that follows from a changed witness, and its proof."""
    inputs = some_inputs(model, batch, seed=3)

    def changed(w: Witness) -> None:
        change(w)
        if recount:
            w.count_multiplicities()

    w = Witness(model.graph, model.weights, inputs, False)
    changed(w)
    statement = dataclasses.replace(state(model, inputs, masked=masked), outputs=_outputs(w))
    return statement, make(statement, inputs, tampering=Tampering(witness=changed))


def _table_value(w: Witness, node: int, q: int) -> int:
    requantise = w.graph.nodes[node].requantise  # type: ignore[union-attr]
    table = w.graph.tables[requantise.table]
    return int(table.values[q - table.first])


# -- Witnesses -----------------------------------------------------------------------------------


def _wrong_remainder(w: Witness) -> None:
    """The quotient one too large, and the limb below zero to make up for it."""
    place = next(iter(w.named["q", 0].places()))
    w.named["q", 0][place] += 1
    w.named["limb", 0, 0][place] -= 2**w.graph.range_bits
    w.named["y", 0][place] = _table_value(w, 0, w.named["q", 0][place])
    _rerun(w, 1)


def _remainder_too_large(w: Witness) -> None:
    """The quotient one too small, and a limb of nine bits."""
    place = next(iter(w.named["q", 0].places()))
    w.named["q", 0][place] -= 1
    w.named["limb", 0, 0][place] += 2**w.graph.range_bits
    w.named["y", 0][place] = _table_value(w, 0, w.named["q", 0][place])
    _rerun(w, 1)


def _remainder_of_a_division_in_the_field(w: Witness) -> None:
    """The quotient any value of the table, and as remainder whatever the field makes of it."""
    place = next(iter(w.named["q", 0].places()))
    wanted = w.named["q", 0][place] + 5
    w.named["limb", 0, 0][place] += (w.named["q", 0][place] - wanted) << w.graph.range_bits
    w.named["q", 0][place] = wanted
    w.named["y", 0][place] = _table_value(w, 0, wanted)
    _rerun(w, 1)


def _quotient_by_an_inverse(w: Witness) -> None:
    """The remainder zero, and the quotient the exact one of the field."""
    place = next(iter(w.named["q", 0].places()))
    limb = w.named["limb", 0, 0][place] or 1
    w.named["q", 0][place] = (w.named["q", 0][place] + limb * pow(2**8, -1, P)) % P
    w.named["limb", 0, 0][place] = w.named["limb", 0, 0][place] - limb
    _rerun(w, 1)


def _value_not_of_the_table(w: Witness) -> None:
    """An activation that the table does not have for this quotient."""
    w.named["y", 0][next(iter(w.named["y", 0].places()))] += 1
    _rerun(w, 1)


def _sign_dropped(w: Witness) -> None:
    """Every activation without its sign: right but for negative ones."""
    y = w.named["y", 0]
    changed = False
    for place in y.places():
        changed |= y[place] < 0
        y[place] = abs(y[place])
    assert changed
    _rerun(w, 1)


def _wrong_sum(w: Witness) -> None:
    """A sum that is off by one, in the last raw node."""
    last = len(w.graph.nodes) - 1
    y = w.named["y", last]
    y[next(iter(y.places()))] += 1


def _other_weights(w: Witness) -> None:
    """The tensors of a model with one other weight."""
    w.weights[0].values[0] += 1
    _rerun(w, 0)
    w.weights[0].values[0] -= 1


def _swapped_tensors(w: Witness) -> None:
    """Quotient and activation exchanged."""
    w.named["q", 0], w.named["y", 0] = w.named["y", 0], w.named["q", 0]
    _rerun(w, 1)


def _other_request(w: Witness) -> None:
    """The second request answered with the first one's activations."""
    y = w.named["y", 0]
    half = len(y.values) // 2
    assert y.values[:half] != y.values[half:]
    y.values[half:] = y.values[:half]
    _rerun(w, 1)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (perceptron, _wrong_remainder),
        (perceptron, _remainder_too_large),
        (perceptron, _remainder_of_a_division_in_the_field),
        (perceptron, _quotient_by_an_inverse),
        (perceptron, _value_not_of_the_table),
        (perceptron, _wrong_sum),
        (perceptron, _other_weights),
        (perceptron, _swapped_tensors),
        (convolution, _wrong_remainder),
        (convolution, _value_not_of_the_table),
        (convolution, _sign_dropped),
        (convolution, _other_weights),
        (grouped, _value_not_of_the_table),
        (grouped, _other_weights),
        (multiplied, _wrong_remainder),
        (multiplied, _value_not_of_the_table),
        (joined, _wrong_sum),
        (joined, _value_not_of_the_table),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_consistent_lie_about_one_node_is_refused(
    case: Callable[[int], Model], change: Callable[[Witness], None], masked: bool
) -> None:
    """Everything that follows from the lie is computed and proven honestly."""
    statement, proof = _lie(case(int(masked)), change, masked=masked)
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def test_requests_of_a_batch_are_not_mixed_up() -> None:
    """One request's activations do not serve for another one's."""
    statement, proof = _lie(perceptron(), _other_request, batch=2)
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


@pytest.mark.parametrize("amount", [-9, -1, 1, 9])
@pytest.mark.parametrize("number", [1, 2])
def test_a_maximum_is_neither_larger_nor_smaller(number: int, amount: int) -> None:
    """A stage is at least both of its sides and is one of them."""

    def change(w: Witness) -> None:
        node = w.graph.nodes[number]
        assert isinstance(node, Maximum)
        stage = w.named["stage", number, node.kernel - 1]
        stage[next(iter(stage.places()))] += amount
        _rerun(w, number + 1)

    statement, proof = _lie(pooled(), change)
    error = refused_by_both(statement, proof)
    assert error.reason in (Reason.PROOF_INVALID, Reason.PROOF_WRONG_OUTPUT)


def _multiplicity(model: Model, change: Callable[[list[int]], None]) -> None:
    def changed(w: Witness) -> None:
        tag = next(tag for role, tag in (n[:2] for n in w.named if n[0] == "mult") if tag >= 2)
        change(w.named["mult", tag].values)

    statement, proof = _lie(model, changed, recount=False)
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def test_a_missing_or_doubled_multiplicity_is_refused() -> None:
    """The table's side of the fractions counts every lookup once."""

    def more(values: list[int]) -> None:
        values[next(i for i, value in enumerate(values) if value)] += 1

    def fewer(values: list[int]) -> None:
        values[next(i for i, value in enumerate(values) if value)] -= 1

    def moved(values: list[int]) -> None:
        fewer(values)
        values[values.index(0)] += 1

    for change in (more, fewer, moved):
        _multiplicity(perceptron(), change)


def test_a_pair_outside_the_table_cannot_be_paid_for_elsewhere() -> None:
    """No multiplicity, negative ones included, stands for a pair that the table does not have."""
    for payment in (1, -1, P - 2):

        def change(w: Witness, payment: int = payment) -> None:
            _value_not_of_the_table(w)
            w.count_multiplicities()
            w.named["mult", 2].values[0] += payment

        statement, proof = _lie(perceptron(), change, recount=False)
        assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


# -- Padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [perceptron, convolution, grouped, multiplied, pooled, joined])
@pytest.mark.parametrize("batch", [1, 3])
def test_padding_cannot_carry_a_false_output(case: Callable[[int], Model], batch: int) -> None:
    """What stands in the padding of activations changes nothing that is inside.

    A prover fills all padding with anything, and everything computed there may differ; the true
    output stays true, and no other can be proven with it.
    """
    model = case(0)
    inputs = some_inputs(model, batch)

    def fill(w: Witness) -> None:
        rng = random.Random(4)
        for name, array in w.named.items():
            if name[0] not in ("mult", "input") and name != w.name_of(w.graph.output.tensor):
                kept = {array.index(place) for place in array.places()}
                rows = -(-(1 + max(kept)) // 2**model.c)  # What lies beyond is not committed to.
                for i in range(min(len(array.values), rows * 2**model.c)):
                    if i not in kept:
                        array.values[i] = rng.randrange(P)

    statement = state(model, inputs)
    proof = make(statement, inputs, tampering=Tampering(witness=fill))
    judge(statement, proof)
    verify(statement, proof)
    outputs = [list(row) for row in statement.outputs]
    graph = model.graph
    low, _ = graph.value_range(graph.output.tensor) or (-(10**6), 0)
    outputs[-1][-1] += -1 if outputs[-1][-1] > low else 1
    false = dataclasses.replace(statement, outputs=outputs)
    proof = make(false, inputs, tampering=Tampering(witness=fill))
    assert refused_by_both(false, proof).reason is Reason.PROOF_INVALID


@pytest.mark.parametrize("name", [("input",), ("y", 1)])
def test_input_and_output_have_nothing_in_their_padding(name: Name) -> None:
    """The public ends are held to the public integers in every place, padding included."""
    model = perceptron()
    inputs = some_inputs(model, 1)

    def fill(w: Witness) -> None:
        w.named[name].values[-1] = 1

    statement = state(model, inputs)
    proof = make(statement, inputs, tampering=Tampering(witness=fill))
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


# -- Public ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_a_witness_of_another_input_is_refused(masked: bool) -> None:
    """The true output of another input is not an output of this one."""
    model = perceptron(int(masked))
    inputs, other = some_inputs(model, 1), some_inputs(model, 1, seed=9)
    statement = dataclasses.replace(state(model, other, masked=masked), inputs=inputs)
    assert statement.outputs != state(model, inputs).outputs
    error = refused_by_both(statement, make(statement, other))
    assert error.reason is Reason.PROOF_INVALID


def test_a_hidden_input_is_held_to_its_range() -> None:
    """A hidden input beyond the model's range is no input, though it may have an output."""
    model = perceptron(1)
    inputs = some_inputs(model, 1)
    inputs[0][0] = model.graph.input.maximum + 1
    statement = state(model, inputs, masked=True, hidden=True)
    error = refused_by_both(statement, make(statement, inputs))
    assert error.reason is Reason.PROOF_INVALID


# -- Messages ------------------------------------------------------------------------------------


def _every_message(statement: Statement, inputs: list[list[int]]) -> list[tuple[str, int, int]]:
    """The label, number and length of every message of an honest prover."""
    found: list[tuple[str, int, int]] = []

    def record(label: str, number: int, shown: list[E]) -> list[E]:
        found.append((label, number, len(shown)))
        return shown

    make(statement, inputs, tampering=Tampering(message=record))
    return found


def _altered(number: int, entry: int) -> Callable[[str, int, list[E]], list[E]]:
    def message(label: str, here: int, shown: list[E]) -> list[E]:
        if here == number:
            shown = list(shown)
            shown[entry] = shown[entry] + ONE
        return shown

    return message


@pytest.mark.slow
def test_every_message_of_a_prover_who_goes_on_is_refused() -> None:
    """One element of one message is wrong; the prover draws the challenges that follow from it."""
    model = joined()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    rng = random.Random(5)
    for _, number, length in _every_message(statement, inputs):
        change = Tampering(message=_altered(number, rng.randrange(length)))
        proof = make(statement, inputs, tampering=change)
        assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


@pytest.mark.slow
def test_every_kind_of_masked_message_is_refused_when_wrong() -> None:
    """The same in mode zero-knowledge, for some messages of every label."""
    model = joined(1)
    inputs = some_inputs(model, 1)
    statement = state(model, inputs, masked=True)
    rng = random.Random(6)
    kinds: dict[str, list[tuple[int, int]]] = {}
    for label, number, length in _every_message(statement, inputs):
        kinds.setdefault(label, []).append((number, length))
    assert set(kinds) == {
        "layer",
        "product",
        "inverse",
        "round",
        "nodes",
        "factors",
        "evaluations",
        "sacrifice",
        "offset",
        "rows",
        "ties",
    }
    for found in kinds.values():
        for number, length in rng.sample(found, min(2, len(found))):
            change = Tampering(message=_altered(number, rng.randrange(length)))
            proof = make(statement, inputs, tampering=change)
            assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def test_a_false_sum_is_not_saved_by_messages_that_add_up() -> None:
    """A prover who makes every round fit its false claim fails at the factors."""
    model = perceptron()
    statement, _ = _lie(model, _wrong_sum)
    inputs = some_inputs(model, 1, seed=3)

    def total(label: str, number: int, shown: list[E]) -> list[E]:
        # The total, so that claim 2 holds for the false output: rounds fit whatever is claimed.
        return [shown[0] + ONE] if label == "nodes" else shown

    proof = make(statement, inputs, tampering=Tampering(witness=_wrong_sum, message=total))
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def test_a_root_that_is_zero_does_not_make_the_leaves_so() -> None:
    """A root of the tree made to fit leaves the next layer's claim false."""
    model = perceptron()

    def root(label: str, number: int, shown: list[E]) -> list[E]:
        if number == 0:
            p0, _, q0, q1 = shown
            return [p0, -(p0 * q1) * q0.inverse(), q0, q1]
        return shown

    inputs = some_inputs(model, 1, seed=3)
    statement, _ = _lie(model, _value_not_of_the_table)
    change = Tampering(
        witness=lambda w: (_value_not_of_the_table(w), w.count_multiplicities())[0], message=root
    )
    proof = make(statement, inputs, tampering=change)
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID


def test_a_root_of_zero_denominators_is_refused() -> None:
    """Fractions whose denominator is zero prove nothing."""
    model = perceptron()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)

    def root(label: str, number: int, shown: list[E]) -> list[E]:
        return [E(0)] * 4 if number == 0 else shown

    proof = make(statement, inputs, tampering=Tampering(message=root))
    assert refused_by_both(statement, proof).reason is Reason.PROOF_INVALID
