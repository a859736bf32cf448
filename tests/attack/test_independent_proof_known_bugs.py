"""Bugs that were found in other provers, one by one, and the test that shows we do not have each.

- a shuffle that takes `[5,5,5,5,5]` for a permutation:
  `test_independent_proof_prover`: five fives, multiplicities modulo `p`;
- the sign of zero left open:
  `test_independent_proof_prover`: zero has no sign; `test_proof_bytes`: the modulus for zero;
- advice of divisions without range checks, wrapped:
  `test_proof_dishonest`: remainders, division in the field;
- ranges of lookups in logarithmic derivatives:
  `test_independent_proof_prover`: a pair of one table; `test_proof_dishonest`;
- private weights that bind to no model:
  below;
- a digest of weights that only the caller compares:
  `test_independent_proof_prover`: a proof of one model;
- commitments to weights that a guess can be checked on:
  below;
- public inputs that nothing binds to the request:
  `test_independent_proof_prover`: the first challenge; below: shapes;
- proofs that can be changed and still hold:
  `test_proof_bytes`: every byte; below;
- errors that escape the caller's net:
  `test_independent_proof_registrar`: chains; below;
- whoever made the setup can forge:
  there is no setup: hashes only;
- prover and verifier in one process, no transcript:
  `test_independent_proof_prover`: the first challenge;
- errors in batching of openings:
  `test_proof_dishonest`: requests of a batch; `test_proof_commitments`;
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from oracles.proof_cases import dense, model, perceptron, some_inputs
from oracles.proof_checked import verify
from oracles.proof_maker import make, state
from verispect.core.commitments import SALT_BYTES, Opening, Part
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, Reason
from verispect.evidence.proof import _one_tensor
from verispect.proof.graph import Affine
from verispect.proof.provable import ProvableModel
from verispect.proof.prover.commit import Commitment
from verispect.proof.prover.prove import commit_model


def _committed(weights: list[np.ndarray], budget: int) -> tuple[ProvableModel, Commitment]:
    graph = model(
        (4,), [(1, 3, 4), (3,)], [], [Affine((dense(0, 0),), 1, None, (3,))], seed=8
    ).graph
    return commit_model(graph, weights, columns=6, masking_budget=budget)


def _weights() -> list[np.ndarray]:
    return [np.arange(12).reshape(1, 3, 4), np.array([5, 6, 7])]


@pytest.mark.parametrize("budget", [0, 1])
def test_every_weight_is_bound_to_the_model(budget: int) -> None:
    """A model with one other weight has another root, and so another digest."""
    seen = {bytes(_committed(_weights(), budget)[0].digest)}
    for part in range(2):
        for place in range(_weights()[part].size):
            weights = _weights()
            weights[part].reshape(-1)[place] += 1
            seen.add(bytes(_committed(weights, budget)[0].digest))
    assert len(seen) == 16


def test_a_guess_of_hidden_weights_cannot_be_checked_on_the_root() -> None:
    """The same weights are committed to differently every time."""
    graph = _committed(_weights(), 0)[0].graph
    roots = {commit_model(graph, _weights(), columns=6, masking_budget=1)[0].root for _ in range(4)}
    assert len(roots) == 4
    assert _committed(_weights(), 0)[0].root == _committed(_weights(), 0)[0].root


def test_a_proof_has_one_encoding() -> None:
    """Keys in another order, longer lengths, fields of null and what is appended are refused."""
    held = perceptron()
    statement = state(held, some_inputs(held, 1))
    proof = make(statement, some_inputs(held, 1))
    verify(statement, proof)
    parts = decode(proof)
    assert encode(parts) == proof
    size = proof[0] & 31
    pairs = [encode({key: value})[1:] for key, value in parts.items()]
    variants = [
        bytes([proof[0]]) + b"".join(reversed(pairs)),
        bytes([0xB8, size]) + proof[1:],
        b"\xbf" + proof[1:] + b"\xff",
        bytes([proof[0] + 1]) + proof[1:] + pairs[-1],
        proof + b"\x00",
        b"\xc0" + proof,
        encode({**parts, 11: None}),
        encode({**parts, 16: 0}),
        encode({**parts, 5: True}),
        encode({**parts, 2: False}),
    ]
    for variant in variants:
        with pytest.raises(Error):
            verify(statement, variant)


def test_nothing_but_our_errors_escapes_from_hostile_octets() -> None:
    """Models and proofs of any octets are refused by name, never by an accident."""
    held = perceptron()
    statement = state(held, some_inputs(held, 1))
    proof = make(statement, some_inputs(held, 1))
    rng = random.Random(5)
    for _ in range(60):
        damaged = bytearray(proof)
        start = rng.randrange(len(damaged))
        damaged[start : start + rng.randrange(40)] = rng.randbytes(rng.randrange(40))
        if bytes(damaged) != proof:
            with pytest.raises(Error):
                verify(statement, bytes(damaged))
    octets = held.map
    for _ in range(600):
        damaged = bytearray(octets)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = ProvableModel.decode(bytes(damaged))
        except Error:
            continue
        assert found.digest != held.digest
        assert found.encode() == bytes(damaged)


@pytest.mark.parametrize("shape", [[True, 4], [1, True], [1, None], [1, "4"], [1, [4]]])
def test_a_shape_is_of_integers(shape: list[object]) -> None:
    """What equals a size and is written otherwise is another content, and is refused."""
    content = [["input", "FP32", shape, bytes(16)]]
    opening = Opening.of(Part.EFFECTIVE_INPUT, content, salt=bytes(SALT_BYTES))
    with pytest.raises(Error) as caught:
        _one_tensor({Part.EFFECTIVE_INPUT: opening}, Part.EFFECTIVE_INPUT)
    assert caught.value.reason is Reason.PROOF_WRONG_INPUT
