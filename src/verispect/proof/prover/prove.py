"""Proofs that an integer model's outputs are those for its inputs (spec/proof.md).

A `Prover` holds a model with its weights and their commitment; `prove` runs the model on a request
and proves it, `prove_requests` makes one proof for several. The mode is the commitment's: one that
hides gives proofs in mode zero-knowledge, any other in mode succinct, which shows the requests of
one proof to each other: who may share one is for the caller to know.

This module refuses a mode that the commitment does not have, and more openings of hidden weights
than they were masked for. It decides nothing: only a verifier says whether a proof holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from verispect.core.errors import ModelError, Reason, StoreError
from verispect.proof import field
from verispect.proof.field import Array, Element
from verispect.proof.graph import Graph
from verispect.proof.layout import INPUT_RANGE, table_variables, weights_layout
from verispect.proof.parameters import Code, Mode, ProofShape, proof_shape
from verispect.proof.proof_file import Proof
from verispect.proof.provable import ProvableModel
from verispect.proof.prover import contractions, kernels_contract, masks, views
from verispect.proof.prover.channel import Channel
from verispect.proof.prover.commit import Commitment, commit
from verispect.proof.prover.lookups import lookups
from verispect.proof.prover.masks import SYSTEM, Masks, Randomness, random_elements
from verispect.proof.prover.nodes import nodes
from verispect.proof.prover.opening import opening, row_weights
from verispect.proof.prover.requested import Request, digests, joined, require_possible
from verispect.proof.prover.witness import Group, Witness, hold, weight_group
from verispect.proof.requests import (
    NO_SALT,
    absorb_requests,
    pads,
)
from verispect.proof.runtime import Runtime, Trace
from verispect.proof.transcript import Transcript

Integers = npt.NDArray[np.integer]
Progress = Callable[[str, float], None]
"""Called between steps with the step's name and the share of the work done; may raise to cancel."""

KEPT_WEIGHTS_BYTES: Final = 1 << 29
"""Code words of weights up to this size are kept: every proof opens them, and none makes them."""
PROVER_NAME: Final = "verispect-1"


CountOpening = Callable[[], object]
"""Counts one opening of hidden weights, durably, before it is made; raises when none is left."""


@dataclass(frozen=True)
class Prover:
    """A model ready to be proven.

    Args:
        model: its public half.
        runtime: the graph with its weights.
        weights: the weights, padded.
        commitment: to them.
        count_opening: of a hiding commitment; None where it does not hide.
    """

    model: ProvableModel
    runtime: Runtime
    weights: Group
    commitment: Commitment
    count_opening: CountOpening | None = None

    @property
    def code(self) -> Code:
        """The parameters of the commitment."""
        return Code(self.model.columns, self.model.rate_bits, self.model.budget)


@dataclass(frozen=True, slots=True)
class ProofResult:
    """A proof with the run it is about.

    Args:
        proof: to be encoded and sent.
        trace: the run; it holds hidden values, the proof does not.
        cpu_seconds: what the proof cost, the run included.
    """

    proof: Proof
    trace: Trace
    cpu_seconds: float


def commit_model(
    graph: Graph,
    weights: Sequence[Integers],
    *,
    columns: int,
    rate_bits: int = 2,
    masking_budget: int = 0,
    randomness: Randomness = SYSTEM,
) -> tuple[ProvableModel, Commitment]:
    """Commit to weights: what is done once for a model.

    Args:
        graph: the integer model.
        weights: in the graph's order.
        columns: `c`; a matrix has `2^c` columns.
        rate_bits: of the code.
        masking_budget: how often the weights may be opened hiding; 0 for mode succinct.
        randomness: of the masking coefficients and the salts.

    Raises:
        MalformedError: `malformed-model` for parameters out of range.
    """
    code = Code(columns, rate_bits, masking_budget)
    group = weight_group(weights_layout(graph.weights, columns), weights)
    matrix = group.rows()
    tails = None
    if code.hides:
        tails = random_elements(randomness, len(matrix), code.degree_bound - code.columns)
    commitment = commit(
        matrix, code, tails=tails, kept_bytes=KEPT_WEIGHTS_BYTES, randomness=randomness
    )
    return ProvableModel(graph, columns, rate_bits, commitment.root, masking_budget), commitment


def make_prover(
    model: ProvableModel,
    weights: Sequence[Integers],
    commitment: Commitment,
    count_opening: CountOpening | None = None,
) -> Prover:
    """Return a prover of a committed model.

    Raises:
        ModelError: `model-changed` where the commitment is to other weights, `malformed-model` as
            the runtime.
    """
    if commitment.root != model.root:
        raise ModelError("the commitment is not the model's", reason=Reason.MODEL_CHANGED)
    group = weight_group(weights_layout(model.graph.weights, model.columns), weights)
    return Prover(model, Runtime(model.graph, weights), group, commitment, count_opening)


def prove(
    prover: Prover,
    inputs: Integers,
    *,
    mode: Mode,
    context: bytes,
    salt: bytes = NO_SALT,
    hidden_input: bool = False,
    progress: Progress | None = None,
    randomness: Randomness = SYSTEM,
) -> ProofResult:
    """Run the model on the inputs of one request and prove the outputs.

    Args:
        prover: the model.
        inputs: integers within the input's range, batch first.
        mode: what the caller asked for; it must be the commitment's.
        context: 32 octets, what the proof is about.
        salt: of the request's digests; zero where nobody is to be kept from guessing it.
        hidden_input: whether the input is committed to instead of public; zero-knowledge only.
        progress: told of every step; what it raises ends the work.
        randomness: of the masks and the salts.

    Raises:
        RequestError: `invalid-request` for another mode, context or input.
        ModelError: as the runtime; `masks-exhausted` when hidden weights were opened often enough.
        StoreError: `store-failed`, when openings of hidden weights cannot be counted.
    """
    return prove_requests(
        prover,
        [Request(inputs, context, salt)],
        mode=mode,
        hidden_input=hidden_input,
        progress=progress,
        randomness=randomness,
    )


def prove_requests(
    prover: Prover,
    requests: Sequence[Request],
    *,
    mode: Mode,
    hidden_input: bool = False,
    progress: Progress | None = None,
    randomness: Randomness = SYSTEM,
) -> ProofResult:
    """Run the model on several requests and prove all of them at once.

    The run has the rows of all requests in order. In mode succinct whoever has the proof learns of
    every request in it.

    Args:
        prover: the model.
        requests: at least one; each is verified by whoever knows it and no other.
        mode: what the callers asked for; it must be the commitment's.
        hidden_input: whether the input is committed to instead of public; of one request only.
        progress: told of every step; what it raises ends the work.
        randomness: of the masks and the salts.

    Raises:
        RequestError: `invalid-request` for another mode, context, salt, number or input.
        ModelError: as the runtime; `masks-exhausted` when hidden weights were opened often enough.
        StoreError: `store-failed`, when openings of hidden weights cannot be counted.
    """
    started = time.process_time()
    code = prover.code
    require_possible(requests, code, mode, hidden_input=hidden_input)
    tell = progress or _tell_nobody
    tell("run", 0.0)
    trace = prover.runtime.run(joined(requests))
    if code.hides:
        if prover.count_opening is None:
            raise StoreError("openings are not counted", reason=Reason.STORE_FAILED)
        prover.count_opening()
    work = _Work(prover, code, trace, requests, hidden_input, randomness)
    proof = work.proof(tell, started)
    return ProofResult(proof, trace, time.process_time() - started)


_INVALID: Final = Reason.INVALID_REQUEST


def _tell_nobody(step: str, share: float) -> None:
    """Take no notice."""


class _Work:
    """One proof in the making."""

    def __init__(
        self,
        prover: Prover,
        code: Code,
        trace: Trace,
        requests: Sequence[Request],
        hidden_input: bool,
        randomness: Randomness,
    ) -> None:
        graph = prover.model.graph
        self.prover, self.code, self.trace = prover, code, trace
        self.hidden_input, self.randomness = hidden_input, randomness
        batch = len(trace.tensors[0])
        self.shape: ProofShape = proof_shape(
            graph, batch, code, hidden_input=hidden_input, requests=len(requests)
        )
        self.salts = [request.salt for request in requests]
        self.requests = digests(requests, trace, hidden_input=hidden_input)
        self.witness: Witness = hold(
            graph,
            prover.weights,
            prover.runtime.weights,
            trace,
            self.shape.layouts[1:],
            self._multiplicities(),
            hidden_input=hidden_input,
        )

    def _multiplicities(self) -> list[Integers]:
        counts: list[Integers] = list(self.trace.multiplicities)
        if self.hidden_input:
            graph = self.prover.model.graph
            size = 1 << table_variables(graph, INPUT_RANGE)
            index = self.trace.tensors[0].reshape(-1).astype(np.int64) - graph.input.minimum
            counts.append(np.bincount(index, minlength=size))
        return counts

    def proof(self, tell: Progress, started: float) -> Proof:
        """Make the proof."""
        tell("commit", 0.1)
        commitments = [self.prover.commitment]
        commitments += [self._commit(group) for group in self.witness.groups[1:]]
        drawn = self._masks(commitments[-1].root)
        if drawn is not None:
            commitments.append(
                commit(drawn.matrix, self.code, tails=drawn.tails, randomness=self.randomness)
            )
        channel = self._start(commitments, drawn)
        tell("lookups", 0.3)
        claims = lookups(channel, self.witness)
        tell("nodes", 0.6)
        rows = [request.rows for request in self.requests]
        claims += nodes(channel, self.witness, rows, hidden_input=self.hidden_input)
        tell("opening", 0.7)
        opened = opening(channel, self.witness, claims, self.code.column_variables)
        channel.sacrifice()
        theta = channel.challenge("theta")
        tell("combination", 0.8)
        combination = self._combination(commitments, opened.point, theta)
        if drawn is not None:
            combination = masks.hide_combination(drawn, combination)
        channel.transcript.absorb_array("combination", combination)
        if drawn is not None:
            last = views.suffix(opened.point, self.code.column_variables)
            masks.settle(channel, drawn, self.code, opened.values, theta, last)
        tell("columns", 0.9)
        drawn_positions = channel.transcript.positions(
            "queries", self.code.queries, self.code.length
        )
        positions = sorted(set(drawn_positions))
        shown = [commitment.open(positions) for commitment in commitments]
        tell("done", 1.0)
        milliseconds = round(1000 * (time.process_time() - started))
        return Proof(
            mode=self.code.mode,
            model=bytes(self.prover.model.digest),
            requests=self.requests,
            witness_root=self._witness_root(commitments),
            messages=channel.messages,
            combination=field.to_bytes(combination),
            columns=b"".join(each.columns for each in shown),
            nodes=b"".join(each.nodes for each in shown),
            input_root=commitments[1].root if self.hidden_input else None,
            masks_root=commitments[-1].root if self.code.hides else None,
            metadata={
                "prover": PROVER_NAME,
                "cpu_milliseconds": milliseconds,
                "security_bits": str(round(self.shape.security_bits, 1)),
            },
        )

    def _masks(self, witness_root: bytes) -> Masks | None:
        if not self.code.hides:
            return None
        both = [pads(salt, witness_root) for salt in self.salts]
        hiding = [pad for pair in both for pad in pair[self.hidden_input :]]
        return masks.draw(self.shape, self.randomness, hiding)

    def _witness_root(self, commitments: list[Commitment]) -> bytes:
        return commitments[len(self.witness.groups) - 1].root

    def _commit(self, group: Group) -> Commitment:
        matrix = group.rows()
        tails = None
        if self.code.hides:
            tails = random_elements(self.randomness, len(matrix), self.code.queries)
        return commit(matrix, self.code, tails=tails, randomness=self.randomness)

    def _start(self, commitments: list[Commitment], drawn: Masks | None) -> Channel:
        """Absorb what the proof is about (section 5)."""
        transcript = Transcript()
        transcript.absorb("mode", self.code.mode.value.encode("ascii"))
        transcript.absorb("model", bytes(self.prover.model.digest))
        root = commitments[1].root if self.hidden_input else None
        absorb_requests(transcript, self.requests, root)
        if drawn is None:
            transcript.absorb("witness", self._witness_root(commitments))
            return Channel(transcript)
        transcript.absorb("witness", commitments[-1].root)
        transcript.absorb("witness", self._witness_root(commitments))
        return Channel(transcript, drawn.elements, drawn.message_count)

    def _combination(self, commitments: list[Commitment], point: Array, theta: Element) -> Array:
        """Return the rows of all commitments in one (section 9)."""
        result = np.zeros((self.code.degree_bound, 2), np.uint64)
        weights = row_weights(self.witness, point, theta)
        for vector, commitment in zip(weights, commitments, strict=False):
            head = result[: self.code.columns]
            head[:] = field.add(head, contractions.wide_products(vector, commitment.matrix))
            width = commitment.tails.shape[1]
            if width:
                part = result[self.code.columns : self.code.columns + width]
                part[:] = field.add(part, _of_tails(vector, commitment.tails))
        return result


def _of_tails(vector: Array, tails: Array) -> Array:
    rows, width = tails.shape
    source = np.zeros((1, rows, width, 2), np.uint64)
    source[0, :, :, 0] = tails
    result = np.empty((1, 1, width, 2), np.uint64)
    kernels_contract.slide_elements(source, vector, np.array([1, 1, 0]), result)
    whole: Array = result[0, 0]
    return whole
