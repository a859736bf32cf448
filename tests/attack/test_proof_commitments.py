"""Provers whose commitments are not what they should be, and combinations made to fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from oracles import proof_maker
from oracles.proof_algebra import ONE, Committed, E, P
from oracles.proof_cases import looked_up, perceptron, some_inputs
from oracles.proof_checked import refused_by_both, verify
from oracles.proof_maker import Model, Refused, Statement, Tampering, judge, make, state
from verispect.core.encoding import decode, encode
from verispect.core.errors import Reason


def _honest(masked: bool = False) -> tuple[Statement, list[list[int]]]:
    model = perceptron(int(masked))
    inputs = some_inputs(model, 1)
    return state(model, inputs, masked=masked), inputs


def _refused(statement: Statement, proof: bytes, reason: Reason = Reason.PROOF_INVALID) -> None:
    assert refused_by_both(statement, proof).reason is reason


# -- The combination -------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_a_combination_of_other_rows_is_refused(masked: bool) -> None:
    """One coefficient differs, and the value at the point with it."""
    statement, inputs = _honest(masked)

    def other(u: list[E]) -> list[E]:
        return [u[0] + ONE, *u[1:]]

    _refused(statement, make(statement, inputs, tampering=Tampering(combination=other)))


def test_a_combination_with_the_right_value_is_refused_by_the_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A combination may be moved along `b` without changing its value, but not the columns."""
    statement, inputs = _honest()
    bases: list[list[E]] = []
    table = proof_maker.row_weights

    def listening(groups: object, point: list[E], theta: E, c: int) -> object:
        bases.append(proof_maker.eq_table(proof_maker.suffix(point, c)))
        return table(groups, point, theta, c)  # type: ignore[arg-type]

    monkeypatch.setattr(proof_maker, "row_weights", listening)

    def moved(u: list[E]) -> list[E]:
        b = bases[-1]
        return [u[0] + b[1], u[1] - b[0], *u[2:]]

    proof = make(statement, inputs, tampering=Tampering(combination=moved))
    monkeypatch.undo()
    _refused(statement, proof)


def test_a_witness_committed_to_in_place_of_another_is_refused() -> None:
    """The sumchecks are of one witness and the commitment is of another."""
    statement, inputs = _honest()

    def other(rows: list[list[int]]) -> list[list[int]]:
        return [[(value + 1) % P for value in rows[0]], *rows[1:]]

    _refused(statement, make(statement, inputs, tampering=Tampering(witness_rows=other)))


# -- Words that are no code words ------------------------------------------------------------------


class _Damaged(Committed):
    """A commitment to words that are wrong in the first places."""

    wrong = 0

    def __init__(self, rows: list[list[int]], n: int, salts: list[bytes] | None) -> None:
        super().__init__(rows, n, salts)
        for j in range(self.wrong):
            word = int.from_bytes(self.leaves[j][:8], "little")
            self.leaves[j] = ((word + 1) % P).to_bytes(8, "little") + self.leaves[j][8:]
        self.grow()


def test_words_far_from_the_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors in more places than unique decoding corrects are met by the queries."""
    statement, inputs = _honest()
    n, degree = statement.model.n, statement.model.degree
    monkeypatch.setattr(_Damaged, "wrong", (n - degree) // 2 + 1)
    monkeypatch.setattr(proof_maker, "Committed", _Damaged)
    proof = make(statement, inputs)
    monkeypatch.undo()
    _refused(statement, proof)


def test_columns_must_be_those_of_the_tree() -> None:
    """A column with a changed element has another hash."""
    statement, inputs = _honest()
    value = decode(make(statement, inputs))
    value[9] = bytes([value[9][0] ^ 1]) + value[9][1:]
    _refused(statement, encode(value))


# -- Mode zero-knowledge ---------------------------------------------------------------------------


def test_products_that_are_none_are_refused() -> None:
    """A triple whose third entry is not the product of the others lets no product pass."""
    statement, inputs = _honest(masked=True)

    def off(six: list[E]) -> list[E]:
        a, b, c, a2, b2, c2 = six
        return [a, b, c + ONE, a2, b2, c2]

    _refused(statement, make(statement, inputs, tampering=Tampering(products=off)))


def test_wrong_triples_do_not_vouch_for_each_other() -> None:
    """A pair of triples that are wrong by the same amount fails the sacrifice."""
    statement, inputs = _honest(masked=True)

    def off(six: list[E]) -> list[E]:
        a, b, c, a2, b2, c2 = six
        return [a, b, c + ONE, a2, b2, c2 + ONE]

    _refused(statement, make(statement, inputs, tampering=Tampering(products=off)))


def _rows(
    change: Callable[[list[list[int]], int], None],
) -> Callable[[list[list[int]]], list[list[int]]]:
    def changed(rows: list[list[int]]) -> list[list[int]]:
        held = [list(row) for row in rows]
        change(held, (len(rows) - 4) // 3)
        return held

    return changed


def test_masks_that_are_not_those_of_the_messages_are_refused() -> None:
    """The committed masks are what the messages are read with."""
    statement, inputs = _honest(masked=True)

    def other(rows: list[list[int]], h: int) -> None:
        rows[0][0] = (rows[0][0] + 1) % P

    change = Tampering(masks=_rows(other))
    proof = make(statement, inputs, tampering=change)
    _refused(statement, proof)


def test_rows_cannot_be_fitted_to_a_false_equation() -> None:
    """Shown rows that satisfy the last equation but are not the committed ones fail at the columns.

    A prover who knew the positions could interpolate rows through them: they are drawn afterwards.
    """
    statement, inputs = _honest(masked=True)

    def message(label: str, number: int, shown: list[E]) -> list[E]:
        return [shown[0] + ONE] if label == "nodes" else shown

    def fitted(shown: list[E], missing: E, weight: E) -> list[E]:
        assert missing != 0
        return [shown[0] + missing * weight.inverse(), *shown[1:]]

    change = Tampering(message=message, shown_rows=fitted)
    proof = make(statement, inputs, tampering=change)
    with pytest.raises(Refused, match="a row is not the committed one"):
        judge(statement, proof)
    assert "row of masks" in refused_by_both(statement, proof).message


def test_a_hiding_commitment_shows_fresh_masks() -> None:
    """Two proofs of one statement share no message, column or root but the model's."""
    statement, inputs = _honest(masked=True)
    first, second = (decode(make(statement, inputs, seed=seed)) for seed in (1, 2))
    assert first[6] != second[6]
    assert first[11] != second[11]
    ones = {first[7][i : i + 16] for i in range(0, len(first[7]), 16)}
    twos = {second[7][i : i + 16] for i in range(0, len(second[7]), 16)}
    assert not ones & twos


def test_masked_proofs_carry_no_true_message() -> None:
    """What a succinct proof sends in the clear never appears in a masked one."""
    model = looked_up(1)
    inputs = [[3, -3, 0]]
    statement = state(model, inputs, masked=True)
    shown: list[E] = []
    true: list[E] = []
    exchange = proof_maker.Proving.exchange

    def watching(
        self: proof_maker.Proving, label: str, values: list[E], count: int, *factor: E
    ) -> object:
        true.extend(values)
        return exchange(self, label, values, count, *factor)

    proof_maker.Proving.exchange = watching  # type: ignore[method-assign,assignment]
    try:
        proof = make(
            statement, inputs, tampering=Tampering(message=lambda _, __, m: shown.extend(m) or m)
        )
    finally:
        proof_maker.Proving.exchange = exchange  # type: ignore[method-assign]
    verify(statement, proof)
    assert not {value for value in true if value != 0} & set(shown)


def test_a_budget_of_another_number_is_another_model() -> None:
    """How often a commitment may be opened is part of what it is."""
    one, two = perceptron(1), perceptron(2)
    assert one.digest != two.digest
    inputs = some_inputs(one, 1)
    statement = state(one, inputs, masked=True)
    proof = make(statement, inputs)
    other = dataclasses.replace(statement, model=Model(two.graph, two.weights, budget=2))
    _refused(other, proof, Reason.PROOF_WRONG_MODEL)
