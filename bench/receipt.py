"""Receipts: size, minting and verifying, per core; `make bench-receipt`.

The peer is `scitt-cose`, an independent COSE library, on the same receipt in the same run: it
checks signature and envelope, while ours also decodes the statement and appraises it under a
policy. Minting is encoding and signing a statement; `commit_and_mint` also encodes a chat's five
parts and commits to them. Times are CPU seconds of one process, the median of interleaved rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from report import figure, progress

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.attesters.signer import SoftwareSigner
from verispect.core.commitments import Opening, Part
from verispect.core.encoding import Digest
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
from verispect.evidence.interface import IssuerKey

ROUNDS = 7
RECEIPTS_PER_ROUND = 1000
NOW = 1_790_000_000_000

SIGNER = SoftwareSigner(bytes(range(32)))
POLICY_DIGEST = SIGNED.digest()
CONTENT = {
    Part.SYSTEM_PROMPT: "You are a careful assistant.",
    Part.MESSAGES: [{"role": "user", "content": "Name three primary colours."}],
    Part.PARAMETERS: {"temperature": 0.7, "top_p": 1.0, "seed": 7, "maximum_tokens": 64, "n": 1},
    Part.EFFECTIVE_INPUT: {"text": "<|im_start|>user…", "token_ids": list(range(1, 41))},
    Part.OUTPUT: ["Red, yellow and blue."],
}


def commit() -> dict[Part, Digest]:
    """Encode a chat's five parts and commit to each under a fresh salt."""
    salts = os.urandom(32 * len(CONTENT))
    return {
        part: Opening.of(part, value, salt=salts[32 * n : 32 * n + 32]).commitment()
        for n, (part, value) in enumerate(CONTENT.items())
    }


def mint(sequence: int, commitments: dict[Part, Digest]) -> bytes:
    """Encode the statement and sign it."""
    statement = InferenceStatement(
        sequence=sequence,
        received_at=NOW,
        completed_at=NOW + 350,
        signed_at=NOW + 351,
        operation="chat.completions",
        requested_model="smollm2-135m-instruct",
        model=ExecutedModel(
            ModelIdentity.LOCAL_WEIGHTS,
            Digest(b"m" * 32),
            Digest(b"e" * 32),
            Determinism.EXACT,
            ServedLane.DETERMINISTIC,
        ),
        commitments=commitments,
        finish_reasons=["stop"],
        usage={"input_tokens": 31, "output_tokens": 20},
        assurance=POLICY_DIGEST,
        evidence=[PromisedEvidence("signature")],
        nonce=b"n" * 16,
    )
    return sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer="https://inference.example",
        subject=f"{sequence:032x}",
        signer=SIGNER,
    ).encode()


def per_second(work: Callable[[], object]) -> float:
    """Return how often `work` is done in a CPU second, over one round."""
    started = time.process_time()
    for _ in range(RECEIPTS_PER_ROUND):
        work()
    return RECEIPTS_PER_ROUND / (time.process_time() - started)


def peer_verifier(receipt: bytes) -> Callable[[], object] | None:
    """Return the peer's verification of the same receipt, where the peer is installed."""
    try:
        from scitt_cose import verify_sign1
    except ImportError:
        return None
    key = Ed25519PublicKey.from_public_bytes(SIGNER.public_key.raw)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return lambda: verify_sign1(receipt, public_key_pem=pem)


def main() -> None:
    """Measure and print."""
    commitments = commit()
    receipt = mint(1, commitments)
    root = TrustedRoot([IssuerKey("https://inference.example", SIGNER.public_key, False, 0)])
    verifier = Verifier(root)

    def verify() -> object:
        parsed = InferenceReceipt.parse(receipt)
        return verifier.verify(parsed, opened={}, policy=SIGNED, now=NOW + 1000)

    peer = peer_verifier(receipt)
    minted, committed, verified, peers = [], [], [], []
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        minted.append(per_second(lambda: mint(7, commitments)))
        committed.append(per_second(lambda: mint(7, commit())))
        verified.append(per_second(verify))
        if peer is not None:
            peers.append(per_second(peer))
    peer_rate = statistics.median(peers) if peers else None
    figure("receipt.bytes", len(receipt), "bytes", most=700)
    figure("receipt.mint_per_second", statistics.median(minted), "1/s", least=8000)
    figure("receipt.commit_and_mint_per_second", statistics.median(committed), "1/s")
    figure(
        "receipt.verify_per_second",
        statistics.median(verified),
        "1/s",
        peer="scitt-cose" if peers else None,
        peer_value=peer_rate,
        least=8000,
    )


if __name__ == "__main__":
    main()
