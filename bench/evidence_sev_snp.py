"""SEV-SNP reports: appraisals per CPU second, chain remembered (warm) and not remembered (cold).

A genuine report of the recorded vectors (`VERISPECT_TEE_VECTORS`, or `../shared/vectors/tee` beside
the repository), under AMD's own certificates. Every appraisal verifies the report's signature anew.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from report import figure, progress

from verispect.evidence.attestation import AttestationPolicy, Expectation
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.sev_snp import SevSnpEvidence, appraise_sev_snp

ROUNDS = 7
PER_ROUND = 400
AT = 1_785_000_000_000
REPOSITORY = Path(__file__).resolve().parents[1]


def genuine() -> SevSnpEvidence:
    named = os.environ.get("VERISPECT_TEE_VECTORS", "../shared/vectors/tee")
    folder = REPOSITORY / named / "snp"
    report, certificate = folder / "reports/milan_v3_dstack.bin", folder / "certs"
    if not report.is_file():
        raise SystemExit(f"no recorded report in {folder}: set VERISPECT_TEE_VECTORS")
    return SevSnpEvidence(
        report.read_bytes(), (certificate / "milan_v3_dstack.vcek.der").read_bytes()
    )


def rate(evidence: SevSnpEvidence, *, cold: bool) -> float:
    start = time.process_time()
    for _ in range(PER_ROUND):
        if cold:
            forget_certificates()
        result = appraise_sev_snp(
            evidence, expected=Expectation(), policy=AttestationPolicy(), at=AT
        )
        if result.reason is not None:
            raise SystemExit(f"a good report was refused: {result.reason}")
    return PER_ROUND / (time.process_time() - start)


def main() -> None:
    evidence = genuine()
    rates: dict[str, list[float]] = {"appraise": [], "appraise_cold": []}
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        rates["appraise"].append(rate(evidence, cold=False))
        rates["appraise_cold"].append(rate(evidence, cold=True))
    for name, values in rates.items():
        figure(f"sev_snp.{name}_per_second", statistics.median(values), "1/s", lowest=min(values))


if __name__ == "__main__":
    main()
