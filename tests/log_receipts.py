"""Receipts for tests of the log: real ones, signed by a key of the test's own."""

from __future__ import annotations

from verispect.attesters.signer import SoftwareSigner
from verispect.core.commitments import Part
from verispect.core.encoding import Digest, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PromisedEvidence,
    ServedLane,
)
from verispect.ledger.log.entries import entry_of_receipt
from verispect.ledger.log.interface import NewEntry
from verispect.tlog.receipt_leaf import Disclosure

ISSUER = "https://inference.example"
SIGNER = SoftwareSigner(bytes(range(32)))
LOG_SIGNER = SoftwareSigner(bytes(reversed(range(32))))
ORIGIN = "log.example/receipts"
SIGNED_AT = 1_790_000_000_000


def a_statement(sequence: int, *, signed_at: int = SIGNED_AT) -> InferenceStatement:
    return InferenceStatement(
        sequence=sequence,
        received_at=signed_at - 351,
        completed_at=signed_at - 1,
        signed_at=signed_at,
        operation="chat.completions",
        requested_model="smollm2-135m-instruct",
        model=ExecutedModel(
            ModelIdentity.LOCAL_WEIGHTS,
            Digest(b"m" * 32),
            Digest(b"e" * 32),
            Determinism.EXACT,
            ServedLane.DETERMINISTIC,
        ),
        commitments={
            part: sha256(b"%d %d" % (part, sequence))
            for part in (Part.MESSAGES, Part.PARAMETERS, Part.EFFECTIVE_INPUT, Part.OUTPUT)
        },
        finish_reasons=["stop"],
        usage={"input_tokens": 31, "output_tokens": 20},
        assurance=Digest(b"p" * 32),
        evidence=[PromisedEvidence("signature")],
        nonce=b"n" * 16,
    )


def a_receipt(
    sequence: int,
    *,
    signed_at: int = SIGNED_AT,
    signer: SoftwareSigner = SIGNER,
    issuer: str = ISSUER,
) -> bytes:
    return sign_envelope(
        a_statement(sequence, signed_at=signed_at).encode(),
        content_type=STATEMENT_TYPE,
        issuer=issuer,
        subject=f"{sequence:032x}",
        signer=signer,
    ).encode()


def an_entry(sequence: int) -> NewEntry:
    receipt = a_receipt(sequence)
    return entry_of_receipt(
        InferenceReceipt.parse(receipt), disclose=Disclosure.NOTHING, keep=receipt
    )
