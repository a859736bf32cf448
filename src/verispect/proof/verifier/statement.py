"""What a proof is to be about: one request, checked against the model (spec section 5).

This module refuses integers that the model's input or output cannot have: two integers of 64 bits
can be one element of the field, so a proof alone would not tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import Reason, VerificationError
from verispect.proof.field import Element
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import MAX_BATCH, MAX_PADDED, padded
from verispect.proof.multilinear import eq_table, extension_of_integers
from verispect.proof.parameters import Mode
from verispect.proof.proof_file import Proof
from verispect.proof.provable import ProvableModel
from verispect.proof.requests import (
    NO_SALT,
    absorb_requests,
    context_digest,
    first_rows,
    input_digest,
    output_digest,
    pads,
)
from verispect.proof.transcript import Transcript
from verispect.proof.verifier.algebra import Point

MAX_RAW: Final = 1 << 52
"""Every value of a node without requantise is smaller in magnitude."""

Integers: TypeAlias = NDArray[np.signedinteger[Any]]


def _refuse(message: str, reason: Reason) -> VerificationError:
    return VerificationError(message, reason=reason)


@dataclass(frozen=True, slots=True)
class Statement:
    """The model, the request and the answer that a proof is held to.

    Build it with `Statement.of`, which checks.
    """

    model: ProvableModel
    mode: Mode
    context: bytes
    salt: bytes
    batch: int
    """The request's rows."""
    inputs: Integers | None
    """i2, the batch axis first; None where the input is hidden."""
    outputs: Integers
    """i8, the batch axis first."""

    @classmethod
    def of(
        cls,
        model: ProvableModel,
        *,
        mode: Mode,
        context: bytes,
        inputs: Integers | None,
        outputs: Integers,
        salt: bytes = NO_SALT,
    ) -> Statement:
        """Return the statement about these integers.

        Raises:
            VerificationError: `proof-wrong-mode`, `proof-wrong-batch`, `proof-wrong-input` or
                `proof-wrong-output`, when no proof of this model could be about them.
            ValueError: `context` or `salt` has not 32 octets, or an array holds no integers.
        """
        if len(context) != DIGEST_BYTES or len(salt) != DIGEST_BYTES:
            raise ValueError(f"a context and a salt have {DIGEST_BYTES} octets")
        if (mode is Mode.ZERO_KNOWLEDGE) is not (model.budget > 0):
            raise _refuse(
                f"the model's commitment does not allow the mode {mode}", Reason.PROOF_WRONG_MODE
            )
        if inputs is None and mode is not Mode.ZERO_KNOWLEDGE:
            raise _refuse("only mode zero-knowledge hides an input", Reason.PROOF_WRONG_MODE)
        graph = model.graph
        low, high = graph.input.minimum, graph.input.maximum
        batch = len(outputs) if outputs.ndim else 0
        if not 1 <= batch <= MAX_BATCH or _padded_size(graph, batch) > MAX_PADDED:
            raise _refuse("the number of rows is out of range", Reason.PROOF_WRONG_BATCH)
        if inputs is not None:
            if inputs.ndim and len(inputs) != batch:
                raise _refuse("inputs and outputs differ in number", Reason.PROOF_WRONG_BATCH)
            shape = (batch, *graph.input.shape)
            inputs = _checked(inputs, shape, low, high, Reason.PROOF_WRONG_INPUT).astype("<i2")
        low, high = graph.value_range(graph.output.tensor) or (1 - MAX_RAW, MAX_RAW - 1)
        shape = (batch, *graph.shapes[graph.output.tensor])
        outputs = _checked(outputs, shape, low, high, Reason.PROOF_WRONG_OUTPUT).astype("<i8")
        return cls(model, mode, context, salt, batch, inputs, outputs)

    @property
    def context_digest(self) -> bytes:
        """The digest by which a proof names this request."""
        return context_digest(self.salt, self.context)

    @property
    def input_digest(self) -> bytes | None:
        """The salted digest of the inputs' integers, None where they are hidden."""
        return None if self.inputs is None else input_digest(self.salt, self.inputs.tobytes())

    @property
    def output_digest(self) -> bytes:
        """The salted digest of the outputs' integers."""
        return output_digest(self.salt, self.outputs.tobytes())

    def pads(self, proof: Proof) -> tuple[Element, Element]:
        """Return what the ties of input and output are sent under, in mode zero-knowledge."""
        return pads(self.salt, proof.witness_root)

    def tie(self, integers: Integers, first: int, points: Sequence[Point]) -> Element:
        """Return what the inputs or outputs are worth as rows from `first` on (section 8)."""
        vectors = [eq_table(point) for point in points]
        vectors[0] = vectors[0][first : first + self.batch]
        return extension_of_integers(integers, vectors)

    def require_same(self, proof: Proof) -> Place:
        """Return where in a proof this request is; refuse one that says itself to be of others.

        Raises:
            VerificationError: `proof-wrong-model`, `proof-wrong-mode`, `proof-wrong-context`,
                `proof-wrong-batch`, `proof-wrong-input` or `proof-wrong-output`.
        """
        hidden = self.inputs is None
        for same, what, reason in (
            (proof.model == self.model.digest, "model", Reason.PROOF_WRONG_MODEL),
            (proof.mode is self.mode, "mode", Reason.PROOF_WRONG_MODE),
            (proof.hidden_input is hidden, "kind of input", Reason.PROOF_WRONG_MODE),
        ):
            if not same:
                raise _refuse(f"the proof is about another {what}", reason)
        own = self.context_digest
        numbers = [i for i, request in enumerate(proof.requests) if request.context == own]
        if not numbers:
            raise _refuse("the proof is about another context", Reason.PROOF_WRONG_CONTEXT)
        (number,) = numbers  # A proof with a context twice cannot be read.
        request = proof.requests[number]
        for same, what, reason in (
            (request.rows == self.batch, "number of rows", Reason.PROOF_WRONG_BATCH),
            (request.input == self.input_digest, "input", Reason.PROOF_WRONG_INPUT),
            (request.output == self.output_digest, "output", Reason.PROOF_WRONG_OUTPUT),
        ):
            if not same:
                raise _refuse(f"the proof is about another {what}", reason)
        bounds = first_rows(proof.requests)
        if _padded_size(self.model.graph, bounds[-1]) > MAX_PADDED:
            raise _refuse("the number of rows is out of range", Reason.PROOF_WRONG_BATCH)
        return Place(number, tuple(bounds), self.pads(proof))

    def absorb(self, transcript: Transcript, proof: Proof) -> None:
        """Begin the transcript (section 5): with what is known here, and the proof's roots."""
        transcript.absorb("mode", str(self.mode).encode("ascii"))
        transcript.absorb("model", self.model.digest)
        absorb_requests(transcript, proof.requests, proof.input_root)
        if proof.masks_root is not None:
            transcript.absorb("witness", proof.masks_root)
        transcript.absorb("witness", proof.witness_root)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands among those of a proof."""

    number: int
    bounds: tuple[int, ...]
    """Where the rows of every request begin, and the end of the last."""
    pads: tuple[Element, Element] = field(repr=False)
    """What the request's ties are sent under, in mode zero-knowledge."""

    @property
    def batch(self) -> int:
        """The rows of all requests."""
        return self.bounds[-1]

    @property
    def first(self) -> int:
        """The request's first row."""
        return self.bounds[self.number]

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return len(self.bounds) - 1


def _checked(
    values: Integers, shape: tuple[int, ...], low: int, high: int, reason: Reason
) -> Integers:
    if values.dtype.kind not in "iu":
        raise ValueError("expected an array of integers")
    if values.shape != shape:
        raise _refuse(f"expected integers of shape {shape}, got {values.shape}", reason)
    if int(values.min()) < low or int(values.max()) > high:
        raise _refuse(f"an integer is not from {low} to {high}", reason)
    return np.ascontiguousarray(values)


def _padded_size(graph: Graph, batch: int) -> int:
    """Return the entries of the largest tensor, its axes and the batch padded."""
    largest = 0
    for shape in graph.shapes:
        size = padded(batch)
        for axis in shape:
            size *= padded(axis)
        largest = max(largest, size)
    return largest
