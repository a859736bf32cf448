"""The real prover on an untrue witness: every array of every kind, one entry wrong, is refused.

The attacker owns the prover and the model's weights. It runs the model, changes one integer, and
proves what it then holds, its public output included; nothing else is tampered with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from verispect.core.errors import Reason, VerificationError
from verispect.proof.prover.prove import Prover, commit_model, make_prover, prove
from verispect.proof.runtime import NodeTrace, Trace
from verispect.proof.verifier import verify_proof

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import proof_models

CONTEXT = hashlib.sha256(b"context").digest()
BATCH = 2
NAMES = ["mlp", "two_limbs", "convolution", "depthwise", "maximum", "excitation", "residual"]
NAMES += ["concatenate", "window"]


@dataclasses.dataclass(frozen=True)
class Liar:
    """A runtime that returns what it was told to."""

    weights: tuple[np.ndarray, ...]
    trace: Trace

    def run(self, inputs: np.ndarray) -> Trace:
        return self.trace


@functools.cache
def committed(name: str, budget: int) -> tuple[Prover, np.ndarray, Trace]:
    graph, weights = proof_models.MODELS[name]()
    public, commitment = commit_model(graph, weights, columns=6, masking_budget=budget)
    prover = make_prover(public, weights, commitment, lambda: None)
    inputs = proof_models.inputs_for(graph, BATCH)
    return prover, inputs, prover.runtime.run(inputs)


def bumped(array: np.ndarray, by: int) -> np.ndarray:
    """One entry, in the middle, is wrong."""
    changed = array.astype(np.int64)
    changed.reshape(-1)[changed.size // 2] += by
    return changed


def lies(trace: Trace, by: int) -> Iterator[tuple[str, Trace]]:
    """Every array of the witness, each changed on its own; the input is public and is not."""

    def with_node(number: int, node: NodeTrace, output: np.ndarray | None = None) -> Trace:
        nodes = list(trace.nodes)
        nodes[number] = node
        tensors = list(trace.tensors)
        tensors[number + 1] = node.output
        last = trace.output if output is None else output
        return dataclasses.replace(trace, nodes=tuple(nodes), tensors=tuple(tensors), output=last)

    for number, node in enumerate(trace.nodes):
        if node.quotient is not None:
            changed = dataclasses.replace(node, quotient=bumped(node.quotient, by))
            yield f"quotient {number}", with_node(number, changed)
        for i in range(len(node.limbs)):
            limbs = list(node.limbs)
            limbs[i] = bumped(limbs[i], by)
            changed = dataclasses.replace(node, limbs=tuple(limbs))
            yield f"limb {number}.{i}", with_node(number, changed)
        for i in range(len(node.stages)):
            stages = list(node.stages)
            stages[i] = bumped(stages[i], by)
            output = stages[-1]
            changed = dataclasses.replace(node, stages=tuple(stages), output=output)
            is_last = number == len(trace.nodes) - 1 and i == len(node.stages) - 1
            final = output if is_last else None
            yield f"stage {number}.{i}", with_node(number, changed, final)
        if not node.stages:
            output = bumped(node.output, by)
            changed = dataclasses.replace(node, output=output)
            final = output if number == len(trace.nodes) - 1 else None
            yield f"value {number}", with_node(number, changed, final)
    for i in range(len(trace.multiplicities)):
        counts = list(trace.multiplicities)
        counts[i] = bumped(counts[i], by)
        yield f"count {i}", dataclasses.replace(trace, multiplicities=tuple(counts))


def refused(prover: Prover, inputs: np.ndarray, trace: Trace) -> None:
    liar = dataclasses.replace(prover, runtime=Liar(prover.runtime.weights, trace))  # type: ignore[arg-type]
    mode = prover.code.mode
    data = prove(liar, inputs, mode=mode, context=CONTEXT).proof.encode()
    with pytest.raises(VerificationError) as caught:
        verify_proof(
            data,
            model=prover.model,
            mode=mode,
            context=CONTEXT,
            inputs=inputs,
            outputs=trace.output,
        )
    assert caught.value.reason in {Reason.PROOF_INVALID, Reason.PROOF_WRONG_OUTPUT}


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_one_wrong_integer_anywhere_is_refused(name: str, by: int) -> None:
    """No array of the witness is free: a single entry off by one fails the proof."""
    prover, inputs, trace = committed(name, 0)
    count = 0
    for what, lie in lies(trace, by):
        try:
            refused(prover, inputs, lie)
        except BaseException as error:
            error.add_note(what)
            raise
        count += 1
    assert count >= 2


@pytest.mark.parametrize("name", ["mlp", "maximum", "residual"])
def test_one_wrong_integer_is_refused_when_everything_is_hidden(name: str) -> None:
    """Masks hide values from the verifier, not lies."""
    prover, inputs, trace = committed(name, 2)
    for what, lie in lies(trace, 1):
        try:
            refused(prover, inputs, lie)
        except BaseException as error:
            error.add_note(what)
            raise


def test_the_honest_trace_is_accepted_by_the_same_path() -> None:
    """The refusals above are the lies' doing."""
    prover, inputs, trace = committed("maximum", 0)
    liar = dataclasses.replace(prover, runtime=Liar(prover.runtime.weights, trace))  # type: ignore[arg-type]
    mode = prover.code.mode
    data = prove(liar, inputs, mode=mode, context=CONTEXT).proof.encode()
    verify_proof(
        data, model=prover.model, mode=mode, context=CONTEXT, inputs=inputs, outputs=trace.output
    )


def test_other_weights_under_the_committed_root_are_refused() -> None:
    """Running with a weight changed by one, and proving with the true commitment, fails."""
    prover, inputs, _ = committed("mlp", 0)
    graph = prover.model.graph
    weights = [weight.copy() for weight in prover.runtime.weights]
    weights[0].reshape(-1)[3] += 1
    _, other = commit_model(graph, weights, columns=6)
    model = dataclasses.replace(prover.model, root=other.root)
    false = make_prover(model, weights, other)
    for commitment in (other, prover.commitment):
        liar = dataclasses.replace(false, model=prover.model, commitment=commitment)
        result = prove(liar, inputs, mode=prover.code.mode, context=CONTEXT)
        with pytest.raises(VerificationError) as caught:
            verify_proof(
                result.proof.encode(),
                model=prover.model,
                mode=prover.code.mode,
                context=CONTEXT,
                inputs=inputs,
                outputs=result.trace.output,
            )
        assert caught.value.reason is Reason.PROOF_INVALID
