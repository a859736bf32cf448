"""Evidence that an integer model computed the answer: a proof, tied to one receipt.

The proof speaks of committed weights and of public integers. This kind ties the weights to the
statement's model by the digests of manifest and provable model, the integers to the opened input
and output, and the whole to the inference by the proof's context (spec/evidence-proof.md). Without
both openings it cannot tell. It refuses to believe anything the entry says of itself: every tie is
recomputed from the statement and the openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from verispect.core.claims import Claim, ClaimSources, Source
from verispect.core.commitments import OpenedParts, Part
from verispect.core.encoding import Digest, decode, decode_content, encode, sha256
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import EvidenceEntry
from verispect.evidence.bindings.inference_v1 import inference_digest
from verispect.evidence.checks import Check, CheckStatus
from verispect.evidence.interface import EvidenceAppraisal, EvidenceContext, EvidenceFacts

if TYPE_CHECKING:
    from verispect.proof.provable import ProvableModel

KIND: Final = "proof"
PROFILE: Final = "verispect/proof-v1"
MAX_ROWS: Final = 256

_DOMAIN: Final = b"verispect/proof-v1\x00"
_SALT_DOMAIN: Final = b"verispect/proof-salt-v1\x00"
_PROVEN: Final = frozenset({Source.PROVEN})
CLAIMS: Final[ClaimSources] = dict.fromkeys(
    (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION), _PROVEN
)
NOT_COVERED: Final = (
    "proof: that the integer model computes what the model it was made from computes",
    "proof: when the computation ran",
    "proof: secrecy of input and output from whoever holds the openings",
)
_SHOWS_OTHERS: Final = (
    "proof: secrecy of input and output from the callers whose requests share it: mode succinct"
)
_HIDES_NOTHING: Final = "proof: secrecy of the weights: mode succinct does not hide them"


def proof_context(digests: Sequence[Digest]) -> Digest:
    """Return the context of one request of a proof, about these inferences, in order.

    Args:
        digests: of each inference, as `inference_digest` gives it.
    """
    return sha256(_DOMAIN + encode([bytes(digest) for digest in digests]))


def proof_salt(input_salt: bytes, output_salt: bytes) -> bytes:
    """Return the salt of a request's digests in its proof: only openings give it.

    Args:
        input_salt: of the opening of the effective input.
        output_salt: of that of the output.
    """
    return bytes(sha256(_SALT_DOMAIN + encode([input_salt, output_salt])))


@dataclass(frozen=True, slots=True)
class ProofBody:
    """What an entry of this kind holds."""

    proof: bytes
    outputs: bytes
    """The output's integers, i64 little-endian, row-major, batch first."""

    def encode(self) -> bytes:
        """Return the wire form."""
        return encode({"proof": self.proof, "outputs": self.outputs})


def proof_entry(
    body: ProofBody, *, manifest: bytes, model: bytes, collected_at: int
) -> EvidenceEntry:
    """Return the evidence entry of a proof.

    Args:
        body: the proof and the output's integers.
        manifest: the model manifest.
        model: the provable model.
        collected_at: when the proof was ready, milliseconds since the epoch.
    """
    endorsements = encode({"manifest": manifest, "model": model})
    return EvidenceEntry(KIND, PROFILE, collected_at, body.encode(), endorsements)


class ProofEvidence:
    """The kind `proof`."""

    name = KIND
    binds_itself = True

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Verify a proof against the receipt and the openings (spec/evidence-proof.md)."""
        entry = context.entry
        if entry is None:
            raise RuntimeError("a proof is an entry of its own")
        checks: list[Check] = []
        step = "form"
        try:
            body, manifest, model_bytes = _read_entry(entry)
            checks.append(_passed(step, "of its form"))
            step = "model"
            model = _bound_model(context, manifest, model_bytes)
            checks.append(_passed(step, "the weights are those that the manifest commits to"))
            given, answered = (
                _one_tensor(context.opened, part) for part in (Part.EFFECTIVE_INPUT, Part.OUTPUT)
            )
            if given is None or answered is None:
                detail = "input and output are not both opened, so there is nothing to compare with"
                unknown = Check(
                    f"{KIND}:openings", CheckStatus.UNKNOWN, detail, Reason.CONTENT_NOT_OPENED
                )
                return EvidenceAppraisal([*checks, unknown], {}, NOT_COVERED)
            step = "input"
            integers, clipped = _read_input(model, given)
            checks.append(_passed(step, "the opened input, read as integers"))
            step = "output"
            outputs = _read_output(model, answered, body.outputs, len(integers))
            checks.append(_passed(step, "the opened output, from the proven integers"))
            step = "proof"
            verified = _verify(context, body.proof, model, integers, outputs)
            checks.append(_passed(step, f"holds with {verified.security_bits:.1f} bits"))
        except Error as error:
            checks.append(Check(f"{KIND}:{step}", CheckStatus.FAILED, error.message, error.reason))
            return EvidenceAppraisal(checks, {}, NOT_COVERED)
        not_covered = list(NOT_COVERED)
        if model.budget == 0:
            not_covered.append(_HIDES_NOTHING)
            if verified.requests > 1:
                not_covered.append(_SHOWS_OTHERS)
        if clipped:
            not_covered.append(f"proof: {clipped} input values lay outside the range, clipped")
        mode = "zero-knowledge" if model.budget else "succinct"
        facts = EvidenceFacts(established_at=entry.collected_at, proof_mode=mode)
        return EvidenceAppraisal(checks, CLAIMS, not_covered, facts=facts)


def _passed(step: str, detail: str) -> Check:
    return Check(f"{KIND}:{step}", CheckStatus.PASSED, detail)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def _refused(what: str, reason: Reason) -> VerificationError:
    return VerificationError(what, reason=reason)


def _read_map(data: bytes, names: set[str]) -> dict[str, bytes]:
    try:
        document = decode(data, maximum_items=16)
    except MalformedError as error:
        raise _malformed(error.message) from error
    if type(document) is not dict or document.keys() != names:
        raise _malformed("a proof's map has other members")
    if any(type(value) is not bytes for value in document.values()):
        raise _malformed("a proof's map holds byte strings")
    return document


def _read_entry(entry: EvidenceEntry) -> tuple[ProofBody, bytes, bytes]:
    if entry.profile != PROFILE:
        raise UnsupportedError(
            "this software does not know this profile of proofs",
            reason=Reason.UNSUPPORTED_EVIDENCE,
        )
    body = _read_map(entry.body, {"proof", "outputs"})
    endorsements = _read_map(entry.endorsements, {"manifest", "model"})
    return (
        ProofBody(body["proof"], body["outputs"]),
        endorsements["manifest"],
        endorsements["model"],
    )


def _bound_model(context: EvidenceContext, manifest: bytes, model: bytes) -> ProvableModel:
    # Imported here: NumPy is of no use to whoever verifies signatures.
    from verispect.proof.provable import ProvableModel

    stated = context.receipt.unverified_statement.model.model_id
    if sha256(manifest) != stated:
        raise _refused("the manifest is not the statement's model", Reason.PROOF_WRONG_MODEL)
    content = decode_content(manifest)
    commitment = content.get("prover_commitment") if type(content) is dict else None
    provable = ProvableModel.decode(model)
    if commitment != bytes(provable.digest):
        raise _refused("the manifest names another provable model", Reason.PROOF_WRONG_MODEL)
    return provable


def _one_tensor(opened: OpenedParts, part: Part) -> Sequence[Any] | None:
    """Return the row of the one tensor in an opened part; `None` where it is not opened."""
    opening = opened.get(part)
    if opening is None:
        return None
    tensors = opening.content()
    reason = Reason.PROOF_WRONG_INPUT if part is Part.EFFECTIVE_INPUT else Reason.PROOF_WRONG_OUTPUT
    if type(tensors) is not list or len(tensors) != 1:
        raise _refused("expected one tensor", reason)
    row = tensors[0]
    if type(row) is not list or [type(item) for item in row] != [str, str, list, bytes]:
        raise _refused("expected name, datatype, shape and data", reason)
    if any(type(size) is not int for size in row[2]):  # True equals 1 and is another content.
        raise _refused("a shape is not of integers", reason)
    return row


def _read_input(model: ProvableModel, row: Sequence[Any]) -> tuple[Any, int]:
    from verispect.proof.exchange import caller_shape, input_integers

    name, datatype, shape, data = row
    rows = shape[0] if shape and type(shape[0]) is int else 0
    expected = ["input", "FP32", [rows, *caller_shape(model.graph)]]
    if not 1 <= rows <= MAX_ROWS or [name, datatype, shape] != expected:
        raise _refused("the input is not a tensor of the model's shape", Reason.PROOF_WRONG_INPUT)
    try:
        read = input_integers(model.graph, data, rows)
    except Error as error:
        raise _refused(error.message, Reason.PROOF_WRONG_INPUT) from error
    return read.integers, read.clipped


def _read_output(model: ProvableModel, row: Sequence[Any], data: bytes, rows: int) -> Any:
    """Return the integers in `data`, once they are seen to give the answer in `row`."""
    from verispect.proof.exchange import (
        answer_datatype,
        answer_octets,
        answer_shape,
        output_integers,
    )

    graph = model.graph
    try:
        integers = output_integers(graph, data, rows)
    except Error as error:
        raise _malformed(error.message) from error
    described = ["output", answer_datatype(graph), [rows, *answer_shape(graph)]]
    if [*row[:3]] != described or row[3] != answer_octets(graph, integers):
        raise _refused("the output is not that of the proven integers", Reason.PROOF_WRONG_OUTPUT)
    return integers


def _verify(
    context: EvidenceContext, proof: bytes, model: ProvableModel, inputs: Any, outputs: Any
) -> Any:
    from verispect.proof.parameters import Mode
    from verispect.proof.verifier import verify_proof

    receipt = context.receipt
    digest = inference_digest(receipt.envelope.subject, receipt.unverified_statement)
    return verify_proof(
        proof,
        model=model,
        mode=Mode.ZERO_KNOWLEDGE if model.budget else Mode.SUCCINCT,
        context=proof_context([digest]),
        inputs=inputs,
        outputs=outputs,
        salt=proof_salt(
            context.opened[Part.EFFECTIVE_INPUT].salt, context.opened[Part.OUTPUT].salt
        ),
    )
