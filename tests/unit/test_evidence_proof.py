"""Evidence of kind `proof`, held against receipts and openings that it is not about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import proof_models
import pytest

from log_receipts import ISSUER, SIGNER, a_statement
from verispect.core.claims import Claim, Source
from verispect.core.commitments import OpenedParts, Opening, Part
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import InferenceStatement
from verispect.evidence.bindings.inference_v1 import inference_digest
from verispect.evidence.checks import CheckStatus
from verispect.evidence.interface import EvidenceAppraisal, EvidenceContext
from verispect.evidence.proof import (
    MAX_ROWS,
    ProofBody,
    ProofEvidence,
    proof_context,
    proof_entry,
    proof_salt,
)
from verispect.models.integer_model import register_integer
from verispect.models.registry import ModelRegistry
from verispect.proof.exchange import (
    answer_datatype,
    answer_octets,
    answer_shape,
    caller_shape,
    input_integers,
)
from verispect.proof.parameters import Mode
from verispect.proof.provable import encode_weights
from verispect.proof.prover.prove import commit_model, make_prover, prove

SUBJECT = "00" * 15 + "07"


@dataclass(frozen=True)
class Proven:
    """One inference with its proof, and what made them."""

    statement: InferenceStatement
    opened: OpenedParts
    entry: EvidenceEntry
    manifest: bytes
    model: bytes


def _opening(part: Part, name: str, datatype: str, shape: list[int], data: bytes) -> Opening:
    return Opening.of(part, [[name, datatype, shape, data]], salt=bytes([part]) * 32)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Proven:
    graph, weights = proof_models.MODELS[next(iter(proof_models.MODELS))]()
    provable, commitment = commit_model(graph, weights, columns=6)
    registered = register_integer(
        ModelRegistry(Path(tmp_path_factory.mktemp("registry"))),
        "small",
        provable.encode(),
        encode_weights(weights),
        commitment_holds=lambda *_: True,
    )
    manifest = registered.manifest.to_bytes()
    shape = [2, *caller_shape(graph)]
    drawn = np.random.default_rng(0).integers(graph.input.minimum, graph.input.maximum + 1, shape)
    octets = (drawn * float(graph.input.scale)).astype("<f4").tobytes()
    integers = input_integers(graph, octets, 2).integers
    prover = make_prover(provable, weights, commitment)
    outputs = prover.runtime.run(integers).output
    answer = answer_octets(graph, outputs)
    opened = {
        Part.EFFECTIVE_INPUT: _opening(Part.EFFECTIVE_INPUT, "input", "FP32", shape, octets),
        Part.OUTPUT: _opening(
            Part.OUTPUT, "output", answer_datatype(graph), [2, *answer_shape(graph)], answer
        ),
    }
    base = a_statement(7)
    statement = replace(
        base,
        model=replace(base.model, model_id=sha256(manifest)),
        commitments={part: opening.commitment() for part, opening in opened.items()},
    )
    context = proof_context([inference_digest(SUBJECT, statement)])
    salt = proof_salt(opened[Part.EFFECTIVE_INPUT].salt, opened[Part.OUTPUT].salt)
    made = prove(prover, integers, mode=Mode.SUCCINCT, context=context, salt=salt)
    body = ProofBody(made.proof.encode(), outputs.astype("<i8").tobytes())
    entry = proof_entry(body, manifest=manifest, model=provable.encode(), collected_at=1)
    return Proven(statement, opened, entry, manifest, provable.encode())


def _appraise(
    statement: InferenceStatement,
    opened: OpenedParts,
    entry: EvidenceEntry,
    subject: str = SUBJECT,
) -> EvidenceAppraisal:
    receipt = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=subject,
        signer=SIGNER,
    ).encode()
    context = EvidenceContext(
        receipt=InferenceReceipt.parse(receipt), entry=entry, anchors={}, now=2, opened=opened
    )
    return ProofEvidence().appraise(context)


def _refusal(appraisal: EvidenceAppraisal) -> tuple[str, Reason | None]:
    """Return the step and reason of the last check, which must be what failed."""
    last = appraisal.checks[-1]
    assert last.status is CheckStatus.FAILED
    assert appraisal.claims == {}
    return last.name, last.reason


def test_the_proof_of_this_inference_proves_four_claims(proven: Proven) -> None:
    """Model, input, output and execution are proven, and secrecy is named as not covered."""
    found = _appraise(proven.statement, proven.opened, proven.entry)
    assert [check.status for check in found.checks] == [CheckStatus.PASSED] * 5
    expected = {Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION}
    assert set(found.claims) == expected
    assert all(sources == {Source.PROVEN} for sources in found.claims.values())
    assert any("does not hide" in line for line in found.not_covered)


@pytest.mark.parametrize(
    "change",
    [{"nonce": b"m" * 16}, {"operation": "infer"}, {"usage": {"input_tokens": 1}}],
)
def test_a_proof_for_another_request_is_refused(proven: Proven, change: dict) -> None:
    """Whatever the statement says differently, the proof is about another inference."""
    found = _appraise(replace(proven.statement, **change), proven.opened, proven.entry)
    assert _refusal(found) == ("proof:proof", Reason.PROOF_WRONG_CONTEXT)


def test_a_proof_under_another_inference_id_is_refused(proven: Proven) -> None:
    """The same words under another inference id are another inference."""
    found = _appraise(proven.statement, proven.opened, proven.entry, subject="00" * 15 + "08")
    assert _refusal(found) == ("proof:proof", Reason.PROOF_WRONG_CONTEXT)


def test_number_and_time_of_signing_are_not_proven(proven: Proven) -> None:
    """A proof may be finished before the receipt is numbered and signed."""
    later = replace(proven.statement, sequence=8, signed_at=proven.statement.signed_at + 1)
    assert _appraise(later, proven.opened, proven.entry).claims


def test_a_proof_of_another_model_is_refused(proven: Proven) -> None:
    """Neither another manifest nor another provable model passes for the statement's."""
    other = replace(
        proven.statement, model=replace(proven.statement.model, model_id=Digest(b"m" * 32))
    )
    wrong = ("proof:model", Reason.PROOF_WRONG_MODEL)
    assert _refusal(_appraise(other, proven.opened, proven.entry)) == wrong
    graph, weights = proof_models.MODELS[next(iter(proof_models.MODELS))]()
    substitute, _ = commit_model(graph, weights, columns=7)
    endorsements = encode({"manifest": proven.manifest, "model": substitute.encode()})
    entry = replace(proven.entry, endorsements=endorsements)
    assert _refusal(_appraise(proven.statement, proven.opened, entry)) == wrong


def _with_first_octets(opened: OpenedParts, part: Part, change: int) -> OpenedParts:
    (row,) = opened[part].content()
    data = bytearray(row[3])
    data[2] ^= change
    return {**opened, part: _opening(part, *row[:3], bytes(data))}


def test_another_opened_output_is_refused(proven: Proven) -> None:
    """One bit of the answer is enough."""
    changed = _with_first_octets(proven.opened, Part.OUTPUT, 1)
    found = _appraise(proven.statement, changed, proven.entry)
    assert _refusal(found) == ("proof:output", Reason.PROOF_WRONG_OUTPUT)


def test_another_opened_input_is_refused(proven: Proven) -> None:
    """The proof is of the integers that the opened input is read as."""
    changed = _with_first_octets(proven.opened, Part.EFFECTIVE_INPUT, 0x80)
    found = _appraise(proven.statement, changed, proven.entry)
    assert _refusal(found) == ("proof:proof", Reason.PROOF_WRONG_INPUT)


def test_more_rows_than_a_request_may_have_are_refused(proven: Proven) -> None:
    """The limit stands before anything of that size is read."""
    (row,) = proven.opened[Part.EFFECTIVE_INPUT].content()
    many = [MAX_ROWS + 1, *row[2][1:]]
    opened = {
        **proven.opened,
        Part.EFFECTIVE_INPUT: _opening(Part.EFFECTIVE_INPUT, row[0], row[1], many, row[3]),
    }
    found = _appraise(proven.statement, opened, proven.entry)
    assert _refusal(found) == ("proof:input", Reason.PROOF_WRONG_INPUT)


def test_an_unknown_profile_and_odd_bodies_are_refused(proven: Proven) -> None:
    """What is not of its form is not looked into."""
    unknown = replace(proven.entry, profile="verispect/proof-v2")
    found = _appraise(proven.statement, proven.opened, unknown)
    assert _refusal(found) == ("proof:form", Reason.UNSUPPORTED_EVIDENCE)
    for body in (b"", b"\xa0", encode({"proof": b"", "outputs": 1}), proven.entry.body + b"\0"):
        found = _appraise(proven.statement, proven.opened, replace(proven.entry, body=body))
        assert _refusal(found) == ("proof:form", Reason.MALFORMED_EVIDENCE)


def test_without_an_opening_it_cannot_tell(proven: Proven) -> None:
    """A closed input or output is neither a yes nor a no."""
    for part in proven.opened:
        rest = {other: o for other, o in proven.opened.items() if other is not part}
        found = _appraise(proven.statement, rest, proven.entry)
        assert found.checks[-1].status is CheckStatus.UNKNOWN
        assert found.claims == {}
