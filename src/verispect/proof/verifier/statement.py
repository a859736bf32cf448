"""What a proof is to be about: the public integers, checked against the model (spec section 5).

This module refuses integers that the model's input or output cannot have: two integers of 64 bits
can be one element of the field, so a proof alone would not tell them apart.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verispect.core.encoding import DIGEST_BYTES, Digest, sha256
from verispect.core.errors import Reason, VerificationError
from verispect.proof.field import Element
from verispect.proof.graph import Graph
from verispect.proof.graph_parts import MAX_BATCH, MAX_PADDED, padded
from verispect.proof.multilinear import eq_table, extension_of_integers
from verispect.proof.parameters import Mode
from verispect.proof.proof_file import Proof
from verispect.proof.provable import ProvableModel
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
    batch: int
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
    ) -> Statement:
        """Return the statement about these integers.

        Raises:
            VerificationError: `proof-wrong-mode`, `proof-wrong-batch`, `proof-wrong-input` or
                `proof-wrong-output`, when no proof of this model could be about them.
            ValueError: `context` has not 32 octets, or an array holds no integers.
        """
        if len(context) != DIGEST_BYTES:
            raise ValueError(f"a context has {DIGEST_BYTES} octets")
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
            raise _refuse("the number of requests is out of range", Reason.PROOF_WRONG_BATCH)
        if inputs is not None:
            if inputs.ndim and len(inputs) != batch:
                raise _refuse("inputs and outputs differ in number", Reason.PROOF_WRONG_BATCH)
            shape = (batch, *graph.input.shape)
            inputs = _checked(inputs, shape, low, high, Reason.PROOF_WRONG_INPUT).astype("<i2")
        low, high = graph.value_range(graph.output.tensor) or (1 - MAX_RAW, MAX_RAW - 1)
        shape = (batch, *graph.shapes[graph.output.tensor])
        outputs = _checked(outputs, shape, low, high, Reason.PROOF_WRONG_OUTPUT).astype("<i8")
        return cls(model, mode, context, batch, inputs, outputs)

    @property
    def input_digest(self) -> Digest | None:
        """SHA-256 of all inputs' integers, None where they are hidden."""
        return None if self.inputs is None else sha256(self.inputs.tobytes())

    @property
    def output_digest(self) -> Digest:
        """SHA-256 of all outputs' integers."""
        return sha256(self.outputs.tobytes())

    def extension(self, integers: Integers, points: Sequence[Point]) -> Element:
        """Return the extension of the inputs or outputs, a point for each axis."""
        return extension_of_integers(integers, [eq_table(point) for point in points])

    def require_same(self, proof: Proof) -> None:
        """Refuse a proof that says itself to be about something else.

        Raises:
            VerificationError: `proof-wrong-model`, `proof-wrong-mode`, `proof-wrong-context`,
                `proof-wrong-batch`, `proof-wrong-input` or `proof-wrong-output`.
        """
        hidden = self.inputs is None
        for same, what, reason in (
            (proof.model == self.model.digest, "model", Reason.PROOF_WRONG_MODEL),
            (proof.mode is self.mode, "mode", Reason.PROOF_WRONG_MODE),
            (proof.hidden_input is hidden, "kind of input", Reason.PROOF_WRONG_MODE),
            (proof.context == self.context, "context", Reason.PROOF_WRONG_CONTEXT),
            (proof.batch == self.batch, "number of requests", Reason.PROOF_WRONG_BATCH),
            (proof.input_digest == self.input_digest, "input", Reason.PROOF_WRONG_INPUT),
            (proof.output_digest == self.output_digest, "output", Reason.PROOF_WRONG_OUTPUT),
        ):
            if not same:
                raise _refuse(f"the proof is about another {what}", reason)

    def absorb(self, transcript: Transcript, proof: Proof) -> None:
        """Begin the transcript (section 5): with what is known here, and the proof's roots."""
        transcript.absorb("mode", str(self.mode).encode("ascii"))
        transcript.absorb("model", self.model.digest)
        transcript.absorb("context", self.context)
        transcript.absorb("batch", struct.pack("<I", self.batch))
        source = self.input_digest if proof.input_root is None else proof.input_root
        if source is None:
            raise RuntimeError("a hidden input has a root: `require_same` saw to it")
        transcript.absorb("input", source)
        transcript.absorb("output", self.output_digest)
        if proof.masks_root is not None:
            transcript.absorb("witness", proof.masks_root)
        transcript.absorb("witness", proof.witness_root)


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
