"""The estimate of a proof: its size, and that cost grows with the work."""

from __future__ import annotations

import hashlib

import proof_models
import pytest

from verispect.proof.parameters import Code
from verispect.proof.prover.estimate import calibrate, estimate, multiplications
from verispect.proof.prover.prove import commit_model, make_prover, prove


@pytest.mark.parametrize("name", ["mlp", "network", "excitation"])
@pytest.mark.parametrize("budget", [0, 2])
def test_the_size_is_close_to_the_proofs(name: str, budget: int) -> None:
    """What is said before the work is within a quarter of what comes."""
    graph, weights = proof_models.MODELS[name]()
    model, commitment = commit_model(graph, weights, columns=6, masking_budget=budget)
    prover = make_prover(model, weights, commitment, lambda: None)
    inputs = proof_models.inputs_for(graph, 2)
    contexts = [hashlib.sha256(b"context %d" % i).digest() for i in range(8)]
    # How many nodes an opening needs is up to the positions drawn; the mean is what is estimated.
    sizes = [
        len(prove(prover, inputs, mode=prover.code.mode, context=context).proof.encode())
        for context in contexts
    ]
    actual = sum(sizes) / len(sizes)
    expected = estimate(graph, prover.code, 2, speed=1.0).proof_bytes
    assert actual <= expected * 1.05
    assert expected <= actual * 1.25


def test_more_requests_cost_more_and_less_each() -> None:
    """A batch shares the opening of the weights."""
    graph, _ = proof_models.MODELS["network"]()
    one = estimate(graph, Code(8, 2, 0), 1, speed=1.0)
    many = estimate(graph, Code(8, 2, 0), 64, speed=1.0)
    assert one.cpu_seconds < many.cpu_seconds < 64 * one.cpu_seconds
    assert one.memory_bytes < many.memory_bytes
    assert one.proof_bytes < many.proof_bytes < 64 * one.proof_bytes


def test_hiding_costs_more() -> None:
    """Mode zero-knowledge is dearer in time and size, and a hidden input dearer still."""
    graph, _ = proof_models.MODELS["mlp"]()
    plain = estimate(graph, Code(8, 2, 0), speed=1.0)
    hiding = estimate(graph, Code(8, 2, 4), speed=1.0)
    hidden = estimate(graph, Code(8, 2, 4), hidden_input=True, speed=1.0)
    assert plain.cpu_seconds < hiding.cpu_seconds < hidden.cpu_seconds
    assert plain.proof_bytes < hiding.proof_bytes < hidden.proof_bytes


def test_a_faster_machine_takes_less() -> None:
    """Time is scaled by the calibration, nothing else is."""
    graph, _ = proof_models.MODELS["mlp"]()
    slow = estimate(graph, Code(8, 2, 0), speed=0.5)
    fast = estimate(graph, Code(8, 2, 0), speed=2.0)
    assert slow.cpu_seconds == pytest.approx(4 * fast.cpu_seconds)
    assert slow.proof_bytes == fast.proof_bytes
    assert calibrate() > 0


def test_multiplications_are_counted_from_the_shapes() -> None:
    """A layer of 5 inputs and 3 outputs multiplies 15 times."""
    graph, _ = proof_models.MODELS["dense"]()
    assert multiplications(graph) == 15
