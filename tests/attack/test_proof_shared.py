"""Several requests in one proof: each verified alone, and lies about one among others refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oracles.proof_algebra import E
from oracles.proof_cases import perceptron, some_inputs
from oracles.proof_checked import provable, refused_by_both, verify
from oracles.proof_maker import Model, Statement, Tampering, judge, make, state
from verispect.core.encoding import decode, encode
from verispect.core.errors import MalformedError, Reason, RequestError
from verispect.proof.parameters import Mode
from verispect.proof.proof_file import Proof
from verispect.proof.prover.prove import commit_model, make_prover, prove_requests
from verispect.proof.prover.requested import Request
from verispect.proof.verifier import verify_proof


def _requests(model: Model, rows: tuple[int, ...], *, masked: bool) -> list[Statement]:
    """Requests of so many rows, each with its own context and salt."""
    return [
        dataclasses.replace(
            state(model, some_inputs(model, count, seed=i), masked=masked),
            context=hashlib.sha256(b"c%d" % i).digest(),
            salt=hashlib.sha256(b"s%d" % i).digest(),
        )
        for i, count in enumerate(rows)
    ]


def _made(requests: list[Statement], own: int = 0, change: Tampering | None = None) -> bytes:
    mine = requests[own]
    return make(
        mine, mine.inputs or [], tampering=change, before=requests[:own], after=requests[own + 1 :]
    )


@pytest.mark.parametrize("masked", [False, True])
def test_each_request_of_a_shared_proof_is_verified_alone(masked: bool) -> None:
    """Whoever knows one request verifies the whole proof; both verifiers agree."""
    requests = _requests(perceptron(int(masked)), (1, 2, 2), masked=masked)
    proof = _made(requests, 1)
    for request in requests:
        judge(request, proof)
        verified = verify(request, proof)
        assert (verified.batch, verified.requests) == (request.batch, 3)


@pytest.mark.parametrize("masked", [False, True])
def test_a_wrong_output_is_refused_by_its_own_request_and_no_other_helps(masked: bool) -> None:
    """A lie about one request fails, wherever it stands and whoever verifies."""
    model = perceptron(int(masked))
    for liar in range(3):
        requests = _requests(model, (1, 1, 1), masked=masked)
        requests[liar].outputs[0][0] += 1
        proof = _made(requests)
        for request in requests:
            assert refused_by_both(request, proof).reason is Reason.PROOF_INVALID


@pytest.mark.parametrize("masked", [False, True])
def test_ties_of_others_cannot_make_up_for_a_false_one(masked: bool) -> None:
    """What is sent for unknown requests is folded only after all of it was sent."""
    requests = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    true = requests[0].outputs[0][0]
    requests[0].outputs[0][0] = true + 1

    def compensate(label: str, _number: int, shown: list[E]) -> list[E]:
        if label != "ties":
            return shown
        honest = seen[0]
        # The sum of all ties of the output is what it would be without the lie.
        return [*shown[:3], shown[3] - (shown[1] - honest)]

    seen: list[E] = []

    def watch(label: str, _number: int, shown: list[E]) -> list[E]:
        if label == "ties":
            seen.append(shown[1])
        return shown

    honest = _requests(perceptron(int(masked)), (1, 1), masked=masked)
    _made(honest, change=Tampering(message=watch))
    proof = _made(requests, change=Tampering(message=compensate))
    assert refused_by_both(requests[0], proof).reason is Reason.PROOF_INVALID


def test_a_shift_hidden_in_a_pad_is_refused() -> None:
    """Committing to another pad than the salt's does not move a request's integers."""
    requests = _requests(perceptron(1), (1, 1), masked=True)
    requests[0].outputs[0] = [value + 1 for value in requests[0].outputs[0]]
    for shift in (1, -1):
        change = Tampering(pads=lambda pads, by=shift: [pads[0], pads[1] + by, *pads[2:]])
        proof = _made(requests, change=change)
        assert refused_by_both(requests[0], proof).reason is Reason.PROOF_INVALID


def _rows(change: Callable[[list[list[Any]]], list[list[Any]]]) -> tuple[Statement, bytes]:
    requests = _requests(perceptron(), (1, 2), masked=False)
    value = decode(_made(requests))
    value[4] = change(value[4])
    return requests[0], encode(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::-1],
        lambda rows: rows[:1],
        lambda rows: [*rows, [1, bytes(32), bytes(32), bytes(32)]],
        lambda rows: [rows[0], [*rows[1][:2], bytes(32), *rows[1][3:]]],
        lambda rows: [rows[0], rows[1][:2] + rows[0][2:]],
        lambda rows: [rows[0], [1, *rows[1][1:]]],
        lambda rows: [rows[0], [rows[1][0], bytes(32), *rows[1][2:]]],
    ],
    ids=["reordered", "dropped", "added", "digest", "copied", "fewer rows", "renamed"],
)
def test_the_list_of_requests_is_part_of_the_proof(change: Any) -> None:
    """Requests reordered, left out, added or described otherwise give another transcript."""
    statement, proof = _rows(change)
    assert refused_by_both(statement, proof).reason in (
        Reason.PROOF_INVALID,
        Reason.MALFORMED_PROOF,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [],
        lambda rows: [rows[0], rows[0]],
        lambda rows: [rows[0], *([i, i.to_bytes(32, "big"), *rows[1][2:]] for i in range(1, 257))],
        lambda rows: [rows[0], [4096, *rows[1][1:]]],
        lambda rows: [rows[0], [0, *rows[1][1:]]],
        lambda rows: [rows[0], [True, *rows[1][1:]]],
        lambda rows: [rows[0], [*rows[1][:2], None, rows[1][3]]],
        lambda rows: [rows[0], rows[1][:3]],
        lambda rows: rows[0],
    ],
    ids=["none", "twice", "too many", "rows", "no row", "bool", "hidden", "short", "no list"],
)
def test_a_list_that_no_proof_has_is_malformed(change: Any) -> None:
    """No request, one twice, too many of them or of their rows."""
    statement, proof = _rows(change)
    with pytest.raises(MalformedError) as refused:
        verify(statement, proof)
    assert refused.value.reason is Reason.MALFORMED_PROOF


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mine, other: {"salt": other.salt}, Reason.PROOF_WRONG_CONTEXT),
        (lambda mine, other: {"context": other.context}, Reason.PROOF_WRONG_CONTEXT),
        (lambda mine, other: {"inputs": other.inputs}, Reason.PROOF_WRONG_INPUT),
        (lambda mine, other: {"outputs": other.outputs}, Reason.PROOF_WRONG_OUTPUT),
        (
            lambda mine, other: {"context": other.context, "salt": other.salt},
            Reason.PROOF_WRONG_INPUT,
        ),
    ],
    ids=["salt", "context", "input", "output", "request"],
)
def test_another_request_of_the_proof_is_not_ones_own(change: Any, reason: Reason) -> None:
    """What belongs to a neighbour does not pass for one's own."""
    mine, other = _requests(perceptron(), (1, 1), masked=False)
    proof = _made([mine, other])
    false = dataclasses.replace(mine, **change(mine, other))
    assert refused_by_both(false, proof).reason is reason


@pytest.mark.parametrize("budget", [0, 2])
def test_the_prover_covers_several_requests(budget: int) -> None:
    """One proof of the package's prover, verified for each request without the others."""
    case = perceptron()
    weights = [
        np.array(values).reshape(shape)
        for values, shape in zip(case.weights, case.graph.weights, strict=True)
    ]
    public, commitment = commit_model(case.graph, weights, columns=6, masking_budget=budget)
    prover = make_prover(public, weights, commitment, lambda: None)
    mode = Mode.ZERO_KNOWLEDGE if budget else Mode.SUCCINCT
    requests = [
        Request(
            np.array(some_inputs(case, rows, seed=rows)), bytes([rows]) * 32, bytes([9, rows] * 16)
        )
        for rows in (1, 2, 3)
    ]
    result = prove_requests(prover, requests, mode=mode)
    first = 0
    for request in requests:
        rows = slice(first, first + len(request.inputs))
        first = rows.stop
        known = {"inputs": request.inputs, "outputs": result.trace.output[rows]}
        verified = verify_proof(
            result.proof.encode(),
            model=public,
            mode=mode,
            context=request.context,
            salt=request.salt,
            **known,
        )
        assert verified.requests == 3
    for wrong in ([], [requests[0]] * 2, [dataclasses.replace(requests[0], salt=b"")]):
        with pytest.raises(RequestError):
            prove_requests(prover, wrong, mode=mode)


def test_a_shared_zero_knowledge_proof_shows_no_plain_digest_of_a_neighbour() -> None:
    """The same neighbour under another salt leaves nothing in common to compare guesses with."""
    requests = _requests(perceptron(1), (1, 1), masked=True)
    other = dataclasses.replace(requests[1], salt=bytes([1] * 32))
    first, second = (
        Proof.decode(_made([requests[0], each])).requests for each in (requests[1], other)
    )
    assert first[0] == second[0]
    shown = {first[1].context, first[1].input, first[1].output}
    assert not shown & {second[1].context, second[1].input, second[1].output}
    assert provable(requests[0].model).budget == 1
