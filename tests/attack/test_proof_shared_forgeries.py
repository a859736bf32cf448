"""Shared proofs attacked by one of those who share them, or by who makes them.

What is tried follows from spec/proof.md alone: rows moved over a boundary, neighbours that are no
runs of the model, proofs taken apart and put together, and what a neighbour's opening lets one
find out. Both verifiers judge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import struct
from typing import Any

import pytest

from oracles.proof_algebra import E, P
from oracles.proof_cases import perceptron, some_inputs
from oracles.proof_checked import refused_by_both, verify
from oracles.proof_maker import Model, Statement, Tampering, judge, make, state
from oracles.proof_witness import Witness
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, Reason
from verispect.proof.field import Element
from verispect.proof.proof_file import Proof
from verispect.proof.requests import context_digest, input_digest, output_digest, pads

MODES = pytest.mark.parametrize("masked", [False, True], ids=["succinct", "zero-knowledge"])
_WRONG = (Reason.PROOF_INVALID,)


def _requests(model: Model, rows: tuple[int, ...], *, masked: bool, seed: int = 0) -> list[Any]:
    return [
        dataclasses.replace(
            state(model, some_inputs(model, count, seed=100 * seed + i), masked=masked),
            context=hashlib.sha256(b"context %d" % i).digest(),
            salt=hashlib.sha256(b"salt %d" % i).digest(),
        )
        for i, count in enumerate(rows)
    ]


def _shared(
    requests: list[Statement],
    own: int = 0,
    *,
    actual: list[list[int]] | None = None,
    change: Tampering | None = None,
    seed: int = 1,
) -> bytes:
    """A proof of all, the one at `own` run on other inputs where `actual` is given."""
    mine = requests[own]
    given = actual if actual is not None else (mine.inputs or [])
    after = requests[own + 1 :]
    return make(mine, given, tampering=change, before=requests[:own], after=after, seed=seed)


# -- Rows ------------------------------------------------------------------------------------------


@MODES
def test_ones_answer_is_not_that_of_the_neighbours_row(masked: bool) -> None:
    """Both rows are true runs, but each request says the other's output of itself."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    first, second = requests
    assert first.outputs != second.outputs
    requests = [
        dataclasses.replace(first, outputs=second.outputs),
        dataclasses.replace(second, outputs=first.outputs),
    ]
    proof = _shared(requests)
    for request in requests:
        assert refused_by_both(request, proof).reason in _WRONG


@MODES
def test_rows_do_not_move_over_the_boundary_between_requests(masked: bool) -> None:
    """One row and two are not two and one: the digests are of other rows."""
    requests = _requests(perceptron(int(masked)), (1, 2), masked=masked)
    value = decode(_shared(requests))
    value[4][0][0], value[4][1][0] = 2, 1
    moved = encode(value)
    for request in requests:
        assert refused_by_both(request, moved).reason is Reason.PROOF_WRONG_BATCH


@MODES
def test_a_row_of_ones_own_is_not_run_on_the_neighbours_input(masked: bool) -> None:
    """The output is true of another input, and that input is the neighbour's."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    mine, other = requests
    false = dataclasses.replace(mine, outputs=other.outputs)
    proof = _shared([false, other], actual=other.inputs)
    assert refused_by_both(false, proof).reason in _WRONG


@MODES
def test_a_padded_row_is_nobodys(masked: bool) -> None:
    """Three rows pad to four; what stands in the fourth does not move a tie."""
    requests = _requests(perceptron(int(masked)), (1, 2), masked=masked)
    requests[1] = dataclasses.replace(
        requests[1], outputs=[requests[1].outputs[0], [v + 1 for v in requests[1].outputs[1]]]
    )

    def change(w: Witness) -> None:
        array = w.named["y", 1]
        size = len(array.values) // 4
        for i in range(3):
            array.values[3 * size + i] = P - 1

    proof = _shared(requests, 1, change=Tampering(witness=change))
    assert refused_by_both(requests[1], proof).reason in _WRONG


# -- Neighbours that are no runs -------------------------------------------------------------------


def _first_place_of(w: Witness, name: Any, row: int) -> Any:
    return next(place for place in w.named[name].places() if place[0] == row)


@MODES
def test_a_false_pair_of_mine_is_not_paid_for_by_a_neighbours(masked: bool) -> None:
    """My activation is one too large, the neighbour's one too small: no sum shows it."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)

    def change(w: Witness) -> None:
        w.named["y", 0][_first_place_of(w, ("y", 0), 0)] += 1
        w.named["y", 0][_first_place_of(w, ("y", 0), 1)] -= 1
        w._run(1, w.graph.nodes[1])
        w.count_multiplicities()

    lying = Witness(
        requests[0].model.graph,
        requests[0].model.weights,
        [*(requests[0].inputs or []), *(requests[1].inputs or [])],
        False,
    )
    change(lying)
    array = lying.tensor(lying.graph.output.tensor)
    values = [array[place] for place in array.places()]
    half = len(values) // 2
    claimed = [
        dataclasses.replace(requests[0], outputs=[values[:half]]),
        dataclasses.replace(requests[1], outputs=[values[half:]]),
    ]
    assert claimed[0].outputs != requests[0].outputs
    proof = _shared(claimed, change=Tampering(witness=change))
    for request in claimed:
        assert refused_by_both(request, proof).reason in _WRONG


@MODES
def test_a_remainder_is_not_borrowed_from_the_neighbours_row(masked: bool) -> None:
    """A quotient too large by one, paid by limbs out of range in one row and back in the other."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)

    def change(w: Witness) -> None:
        for row, sign in ((0, 1), (1, -1)):
            place = _first_place_of(w, ("q", 0), row)
            w.named["q", 0][place] += sign
            w.named["limb", 0, 0][place] -= sign * 256
        w.count_multiplicities()

    proof = _shared(requests, change=Tampering(witness=change))
    for request in requests:
        assert refused_by_both(request, proof).reason in _WRONG


@MODES
def test_a_neighbour_that_is_no_run_spoils_the_proof_for_all(masked: bool) -> None:
    """A row that the model would never give is refused whoever looks: no false row rides along."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    other = requests[1]
    false = dataclasses.replace(other, outputs=[[P // 2, 1 << 40, -(1 << 40)]])
    proof = _shared([requests[0], false])
    assert refused_by_both(requests[0], proof).reason in _WRONG


@MODES
def test_digests_of_others_prove_nothing_about_others(masked: bool) -> None:
    """Drawn at will they leave my request proven, and let nobody pass for the neighbour."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    rows = [[1, b"\x01" * 32, b"\x02" * 32, b"\x03" * 32]]
    change = Tampering(requests=lambda said: [said[0], *rows])
    proof = _shared(requests, change=change)
    judge(requests[0], proof)
    assert verify(requests[0], proof).requests == 2
    assert refused_by_both(requests[1], proof).reason is Reason.PROOF_WRONG_CONTEXT


@MODES
def test_a_neighbour_of_ones_own_words_does_not_stand_in_for_one(masked: bool) -> None:
    """The same input and context with another output, under another salt, beside the true one."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    twin = dataclasses.replace(requests[0], salt=requests[1].salt)
    false = dataclasses.replace(twin, outputs=[[v + 1 for v in twin.outputs[0]]])
    proof = _shared([requests[0], twin])
    judge(requests[0], proof)
    verify(twin, proof)
    assert refused_by_both(false, proof).reason is Reason.PROOF_WRONG_OUTPUT
    lying = _shared([requests[0], false], actual=requests[0].inputs)
    assert refused_by_both(false, lying).reason in _WRONG


# -- Proofs taken apart ----------------------------------------------------------------------------


@MODES
def test_parts_of_two_batches_make_no_proof(masked: bool) -> None:
    """Every part of a proof, replaced by that of another with the same request in it."""
    model = perceptron(int(masked))
    first = _requests(model, (1, 1), masked=masked)
    second = [first[0], *_requests(model, (1, 1), masked=masked, seed=7)[1:]]
    one, other = decode(_shared(first)), decode(_shared(second, seed=2))
    judge(first[0], encode(one))
    judge(first[0], encode(other))
    for key in sorted(set(one) - {1, 2, 3, 13}):
        assert one[key] != other[key]
        mixed = encode({**one, key: other[key]})
        assert refused_by_both(first[0], mixed).reason in (
            Reason.PROOF_INVALID,
            Reason.MALFORMED_PROOF,
        )


@MODES
def test_a_proof_of_one_batch_says_nothing_in_another(masked: bool) -> None:
    """A caller who was left out cannot use it, nor can one whose place was given to another."""
    model = perceptron(int(masked))
    requests = _requests(model, (1, 1, 1), masked=masked)
    proof = _shared(requests[:2])
    assert refused_by_both(requests[2], proof).reason is Reason.PROOF_WRONG_CONTEXT
    value = decode(proof)
    value[4][1] = list(requests[2].row)
    assert refused_by_both(requests[2], encode(value)).reason in _WRONG
    assert refused_by_both(requests[0], encode(value)).reason in _WRONG


@MODES
def test_a_request_is_not_added_to_a_proof_that_is_made(masked: bool) -> None:
    """With as many rows as the padding would have room for, the proof is one of other requests."""
    requests = _requests(perceptron(int(masked)), (1, 2, 1), masked=masked)
    value = decode(_shared(requests[:2]))
    value[4].append(list(requests[2].row))
    for request in (requests[0], requests[2]):
        with pytest.raises(Error) as caught:
            verify(request, encode(value))
        # Two more ties are expected, so that the messages have another length.
        assert caught.value.reason is Reason.MALFORMED_PROOF


def test_the_order_of_requests_counts_even_where_their_rows_are_alike() -> None:
    """Exchanged requests of the same shape: each is then held to the other's row."""
    for masked in (False, True):
        requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
        value = decode(_shared(requests))
        value[4].reverse()
        for request in requests:
            assert refused_by_both(request, encode(value)).reason in _WRONG


# -- What is found out about a neighbour -----------------------------------------------------------


def _shown_ties(requests: list[Statement], seed: int = 1) -> tuple[list[E], bytes]:
    """Return the ties that a proof shows, and the witness's root."""
    seen: list[list[E]] = []

    def watch(label: str, _number: int, shown: list[E]) -> list[E]:
        if label == "ties":
            seen.append(shown)
        return shown

    proof = _shared(requests, change=Tampering(message=watch), seed=seed)
    return seen[0], Proof.decode(proof).witness_root


def test_a_succinct_proof_holds_nothing_random() -> None:
    """Why callers do not share such proofs unasked: all in it follows from what they asked."""
    requests = _requests(perceptron(), (1, 1), masked=False)
    assert _shared(requests, seed=1) == _shared(requests, seed=2)


def test_the_ties_of_a_neighbour_are_others_in_every_proof() -> None:
    """The same requests under the same salts, proven again, show no tie and no pad twice."""
    requests = _requests(perceptron(2), (1, 1), masked=True)
    first, one = _shown_ties(requests, seed=1)
    second, two = _shown_ties(requests, seed=2)
    assert one != two
    assert not {(x.a, x.b) for x in first} & {(x.a, x.b) for x in second}
    salt = requests[1].salt
    assert len({*pads(salt, one), *pads(salt, two)}) == 4


def test_no_digest_of_a_neighbour_answers_a_guess_without_its_salt() -> None:
    """Whoever knows all but a neighbour's salt, its input and output even, cannot tell they are."""
    requests = _requests(perceptron(1), (1, 1), masked=True)
    mine, other = requests
    shown = Proof.decode(_shared(requests)).requests[1]
    source = struct.pack(f"<{len(other.inputs[0])}h", *other.inputs[0])
    answer = struct.pack(f"<{len(other.outputs[0])}q", *other.outputs[0])
    assert shown.input == input_digest(other.salt, source)
    for salt in (mine.salt, bytes(32), other.context, shown.context):
        assert shown.context != context_digest(salt, other.context)
        assert shown.input != input_digest(salt, source)
        assert shown.output != output_digest(salt, answer)


def test_pads_are_bound_to_side_salt_and_proof() -> None:
    """No pad is that of another side, request or proof."""
    made = [
        pad
        for salt, root in itertools.product((bytes(32), b"\x01" * 32), repeat=2)
        for pad in pads(salt, root)
    ]
    assert len(set(made)) == len(made) == 8
    assert all(isinstance(pad, Element) for pad in made)


def test_an_unmasked_request_does_not_pass_among_masked_ones() -> None:
    """Who sends its tie bare, though the mode hides, is refused: the pad is part of the tie."""
    requests = _requests(perceptron(1), (1, 1), masked=True)
    for own in range(2):
        bare = Tampering(
            pads=lambda given, own=own: [
                E(0) if i // 2 == own else pad for i, pad in enumerate(given)
            ]
        )
        proof = _shared(requests, change=bare)
        assert refused_by_both(requests[own], proof).reason in _WRONG
        # The neighbour's own request is proven all the same: its pad is its own business.
        judge(requests[1 - own], proof)
        verify(requests[1 - own], proof)


def test_the_pad_of_a_neighbour_is_not_ones_own() -> None:
    """Pads exchanged between requests, or one's own on both sides, are refused."""
    requests = _requests(perceptron(1), (1, 1), masked=True)
    for order in ([2, 3, 0, 1], [1, 0, 3, 2], [0, 0, 2, 2]):
        swapped = Tampering(pads=lambda given, order=order: [given[i] for i in order])
        proof = _shared(requests, change=swapped)
        assert refused_by_both(requests[0], proof).reason in _WRONG


def test_a_proof_of_the_other_mode_is_not_shared() -> None:
    """A request of mode zero-knowledge does not take part in a succinct proof, nor the reverse."""
    hidden = _requests(perceptron(1), (1, 1), masked=True)
    value = decode(_shared(hidden))
    value[2] = 0
    del value[11]
    with pytest.raises(Error) as caught:
        verify(hidden[0], encode(value))
    assert caught.value.reason is Reason.PROOF_WRONG_MODE
