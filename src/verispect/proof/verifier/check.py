"""The verification of a proof, in the order of spec/proof.md.

1. Read the proof; refuse another version, form or size (12).
2. Hold it to the statement: model, mode, and one request of those it covers (5).
3. Compute every length and the soundness from the model; refuse less than 100 bits (11).
4. Lookups (7), relations (8), claims (9), in mode zero-knowledge collected (10).
5. The combination of the rows, and in mode zero-knowledge the collected equations (9, 10.5).
6. The columns: in their trees, and agreeing with what was combined (4, 9).

A proof is accepted when nothing refuses it. This module refuses to take any number from the proof
that follows from the model, and to return anything that could be made without these steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.proof import field
from verispect.proof.field import ELEMENT_BYTES, Array
from verispect.proof.multilinear import contract
from verispect.proof.parameters import SECURITY_BITS, Code, Mode, ProofShape, proof_shape
from verispect.proof.proof_file import Metadata, Proof
from verispect.proof.provable import ProvableModel
from verispect.proof.requests import NO_SALT
from verispect.proof.transcript import Transcript
from verispect.proof.verifier.algebra import evaluations
from verispect.proof.verifier.channel import (
    Channel,
    CollectingChannel,
    DecidingChannel,
    Messages,
    V,
    refuse,
)
from verispect.proof.verifier.columns import Commitment, read_columns
from verispect.proof.verifier.lookups import check_lookups
from verispect.proof.verifier.masks import (
    ShownRows,
    check_equations,
    expected_rows,
    mask_columns,
)
from verispect.proof.verifier.opening import (
    Combination,
    Opening,
    Polynomials,
    check_claims,
    check_combination,
)
from verispect.proof.verifier.relations import check_relations
from verispect.proof.verifier.statement import Integers, Place, Statement
from verispect.proof.verifier.views import TensorViews, require_modest

_GUARD: Final = object()


@dataclass(frozen=True, init=False)
class VerifiedProof:
    """A proof that `verify_proof` accepted; nothing else makes one."""

    model: bytes
    """The digest of the provable model."""
    mode: Mode
    context: bytes
    batch: int
    """The rows of the request that was verified."""
    requests: int
    """How many requests the proof covers; of the others nothing was verified."""
    hidden_input: bool
    input_digest: bytes | None
    """Of the public inputs' integers; None where the input is hidden."""
    input_root: bytes | None
    """The commitment to a hidden input."""
    output_digest: bytes
    """Of the outputs' integers."""
    security_bits: float
    """Of section 11, for this model, batch and mode."""
    unverified_metadata: Metadata
    """What the prover says about itself."""

    def __init__(self, guard: object, statement: Statement, proof: Proof, bits: float) -> None:
        if guard is not _GUARD:
            raise TypeError("only verify_proof makes a VerifiedProof")
        object.__setattr__(self, "model", bytes(statement.model.digest))
        object.__setattr__(self, "mode", statement.mode)
        object.__setattr__(self, "context", statement.context)
        object.__setattr__(self, "batch", statement.batch)
        object.__setattr__(self, "requests", len(proof.requests))
        object.__setattr__(self, "hidden_input", proof.hidden_input)
        object.__setattr__(self, "input_digest", statement.input_digest)
        object.__setattr__(self, "input_root", proof.input_root)
        object.__setattr__(self, "output_digest", statement.output_digest)
        object.__setattr__(self, "security_bits", bits)
        object.__setattr__(self, "unverified_metadata", dict(proof.metadata))


def verify_proof(
    proof_bytes: bytes,
    *,
    model: ProvableModel,
    mode: Mode,
    context: bytes,
    inputs: Integers | None,
    outputs: Integers,
    salt: bytes = NO_SALT,
) -> VerifiedProof:
    """Verify that `outputs` are what `model` gives for `inputs`.

    The proof may cover other requests too, of which only digests are seen.

    Args:
        proof_bytes: the proof as it is written.
        model: the provable model that the caller accepts; its weights are not needed.
        mode: what the caller asked for; a proof of the other mode is refused.
        context: 32 octets that the proof must be bound to.
        inputs: the integers of tensor 0, the batch axis first; None where the input is hidden.
        outputs: the integers of the output tensor, the batch axis first.
        salt: of this request's digests.

    Raises:
        MalformedError: `malformed-cbor`, `malformed-proof`, `malformed-model`, `too-large` or
            `too-deep`.
        UnsupportedError: `unsupported-version`.
        VerificationError: `proof-wrong-model`, `proof-wrong-mode`, `proof-wrong-context`,
            `proof-wrong-batch`, `proof-wrong-input`, `proof-wrong-output`, `proof-unsound` or
            `proof-invalid`.
        ValueError: `context` or `salt` has not 32 octets, or an array holds no integers.
    """
    # 1. and 2. What the proof is, and what it is about.
    statement = Statement.of(
        model, mode=mode, context=context, inputs=inputs, outputs=outputs, salt=salt
    )
    proof = Proof.decode(proof_bytes)
    place = statement.require_same(proof)

    # 3. Every length, before any work.
    code = Code(model.columns, model.rate_bits, model.budget)
    require_modest(model.graph)
    shape = proof_shape(
        model.graph,
        place.batch,
        code,
        hidden_input=proof.hidden_input,
        requests=place.requests,
    )
    _require_length(proof.messages, shape.sent_elements * ELEMENT_BYTES, "messages")
    _require_length(proof.combination, code.degree_bound * ELEMENT_BYTES, "combination")
    bits = shape.security_bits
    if bits < SECURITY_BITS:
        raise VerificationError(
            f"the proof's shape gives {bits:.1f} bits of security", reason=Reason.PROOF_UNSOUND
        )

    # 4. to 6.
    transcript = Transcript()
    statement.absorb(transcript, proof)
    messages = Messages(proof.messages, transcript)
    if mode is Mode.SUCCINCT:
        deciding = DecidingChannel(transcript, messages)
        _check_succinct(deciding, statement, place, proof, shape)
    else:
        masked = CollectingChannel(transcript, messages, masked=shape.message_elements)
        _check_masked(masked, statement, place, proof, shape)
    return VerifiedProof(_GUARD, statement, proof, bits)


def _check_succinct(
    channel: DecidingChannel, statement: Statement, place: Place, proof: Proof, shape: ProofShape
) -> None:
    opening = _converse(channel, statement, place, shape)
    combination, rest = _combine(channel, opening, shape, proof)
    channel.require_zero(rest, "the combination is not that of the evaluations")
    channel.messages.require_end()
    _check_columns(channel, statement, proof, shape, combination, None)


def _check_masked(
    channel: CollectingChannel, statement: Statement, place: Place, proof: Proof, shape: ProofShape
) -> None:
    opening = _converse(channel, statement, place, shape)
    channel.sacrifice()
    channel.require_counts(shape.products)
    combination, rest = _combine(channel, opening, shape, proof)
    shown = check_equations(channel, shape, rest, combination.basis)
    channel.messages.require_end()
    # The positions are drawn last: whoever knew them could fit rows to them.
    _check_columns(channel, statement, proof, shape, combination, shown)


def _converse(
    channel: Channel[V], statement: Statement, place: Place, shape: ProofShape
) -> Opening[V]:
    """Sections 7 to 9, up to the evaluations."""
    graph = statement.model.graph
    views = TensorViews(graph, place.batch)
    claims = check_lookups(channel, views, hidden_input=shape.hidden_input)
    claims += check_relations(channel, views, statement, place)
    polynomials = Polynomials(graph, place.batch, shape)
    return check_claims(channel, claims, polynomials, shape.opening_variables)


def _combine(
    channel: Channel[V], opening: Opening[V], shape: ProofShape, proof: Proof
) -> tuple[Combination, V]:
    theta = channel.challenge("theta")
    coefficients = field.from_bytes(proof.combination).reshape(-1, 2)
    channel.transcript.absorb("combination", proof.combination)
    return check_combination(channel, opening, shape, theta, coefficients)


def _check_columns(
    channel: Channel[V],
    statement: Statement,
    proof: Proof,
    shape: ProofShape,
    combination: Combination,
    shown: ShownRows | None,
) -> None:
    """Draw the positions and hold `combination`, and the shown rows, to the committed columns."""
    code = shape.code
    drawn = channel.transcript.positions("queries", code.queries, code.length)
    positions = sorted(set(drawn))
    roots = [statement.model.root, proof.input_root, proof.witness_root, proof.masks_root]
    commitments = [
        Commitment(root, rows)
        for root, rows in zip(
            [root for root in roots if root is not None], shape.row_counts, strict=True
        )
    ]
    columns = read_columns(
        proof.columns,
        proof.nodes,
        commitments,
        positions,
        log_length=code.log_length,
        salted=code.hides,
    )
    exponents = np.array(positions, dtype=np.int64)
    expected = np.zeros((len(positions), 2), dtype=np.uint64)
    for weights, opened in zip(combination.row_weights, columns, strict=False):
        expected = field.add(expected, contract(opened, weights))
    if shown is not None:
        messages, masks, held, mask = mask_columns(columns[-1], shape.mask_messages)
        expected = field.add(expected, held)
        found = np.concatenate(
            [
                evaluations(shown.messages, exponents, code.log_length),
                evaluations(shown.combination, exponents, code.log_length),
            ],
            axis=1,
        )
        if not _same(found, expected_rows(shown, messages, masks, held, mask)):
            raise refuse("a shown row of masks is not the committed one")
    said = evaluations(combination.coefficients[:, np.newaxis], exponents, code.log_length)
    if not _same(said[:, 0], expected):
        raise refuse("the combination is not that of the opened columns")


def _same(left: Array, right: Array) -> bool:
    return left.shape == right.shape and bool((left == right).all())


def _require_length(data: bytes, length: int, what: str) -> None:
    if len(data) != length:
        raise MalformedError(
            f"expected {length} octets of {what}, got {len(data)}", reason=Reason.MALFORMED_PROOF
        )
