"""Nitro documents: appraisals and attestations per CPU second of one process.

Documents are those of a development enclave, which have the five certificates and the signatures
of genuine ones. *Warm* finds the chain remembered and a new document each time; *cold* finds
nothing remembered. There is no peer: no other library here judges such a document completely.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import figure, progress

from verispect.attesters.development_enclave import DevelopmentEnclave
from verispect.evidence.attestation import (
    Anchor,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.nitro.appraise import NitroEvidence, appraise_nitro

ROUNDS = 7
WARM_PER_ROUND = 500
COLD_PER_ROUND = 60
NOW = 1_790_000_000_000
POLICY = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))


def appraise(document: bytes, anchor: Anchor) -> None:
    result = appraise_nitro(
        NitroEvidence(document),
        anchors=(anchor,),
        expected=Expectation(report_data=bytes(32)),
        policy=POLICY,
        at=NOW,
    )
    if result.reason is not None:
        raise SystemExit(f"a good document was refused: {result.reason}")


def rate(count: int, work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        enclave = DevelopmentEnclave.create(Path(directory), NOW)
    anchor = enclave.anchor()
    documents: list[bytes] = []

    def attest() -> None:
        documents[:] = [
            enclave.attest(user_data=bytes(32), nonce=number.to_bytes(32), public_key=None, now=NOW)
            for number in range(WARM_PER_ROUND)
        ]

    def warm() -> None:
        for document in documents:
            appraise(document, anchor)

    def cold() -> None:
        for document in documents[:COLD_PER_ROUND]:
            forget_certificates()
            appraise(document, anchor)

    rates: dict[str, list[float]] = {"attest": [], "appraise": [], "appraise_cold": []}
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        rates["attest"].append(rate(WARM_PER_ROUND, attest))
        rates["appraise"].append(rate(WARM_PER_ROUND, warm))
        rates["appraise_cold"].append(rate(COLD_PER_ROUND, cold))
    for name, values in rates.items():
        figure(f"nitro.{name}_per_second", statistics.median(values), "1/s", lowest=min(values))


if __name__ == "__main__":
    main()
