"""Intel quotes: appraisals per CPU second of one process, this software's and the library's alone.

Quotes and collateral are genuine, from the folder that `VERISPECT_TEE_VECTORS` names, or
`../shared/vectors/tee`. *Warm* finds chain and collateral remembered, as for the quotes of one
fleet in one day; *cold* finds nothing remembered. The peer is `dcap-qvl` with its collateral
parsed beforehand: what is left of our time are the checks that it does not make or tell.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import dcap_qvl  # type: ignore[import-untyped]
from report import figure, progress

from verispect.evidence.attestation import AttestationPolicy, Expectation
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.dcap import GENUINE_ANCHORS, DCAPEvidence, appraise_dcap
from verispect.evidence.dcap.collateral import forget_collateral
from verispect.evidence.dcap.library import forget_platforms

ROUNDS = 7
WARM_PER_ROUND = 200
COLD_PER_ROUND = 60
CASE = "dcap-tdx_v4_phala_uptodate@b0c06f_2025-06"


def rate(count: int, work: Callable[[], None]) -> float:
    start = time.process_time()
    for _ in range(count):
        work()
    return count / (time.process_time() - start)


def main() -> None:
    repository = Path(__file__).resolve().parent.parent
    folder = repository / os.environ.get("VERISPECT_TEE_VECTORS", "../shared/vectors/tee")
    found = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"]
    case = next(case for case in found if case["id"] == CASE)
    quote, collateral = (
        (folder / case["evidence"][name]).read_bytes() for name in ("quote", "collateral")
    )
    seconds = int(datetime.fromisoformat(case["verify_at"]).timestamp())
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    evidence, expected, policy = DCAPEvidence(quote, collateral), Expectation(), AttestationPolicy()

    def warm() -> None:
        result = appraise_dcap(
            evidence, anchors=GENUINE_ANCHORS, expected=expected, policy=policy, at=seconds * 1000
        )
        if result.reason is not None:
            raise SystemExit(f"a good quote was refused: {result.reason}")

    def cold() -> None:
        forget_certificates()
        forget_collateral()
        forget_platforms()
        warm()

    def library() -> None:
        dcap_qvl.verify(quote, parsed, seconds)

    rates: dict[str, list[float]] = {"appraise": [], "appraise_cold": [], "dcap_qvl": []}
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        rates["appraise"].append(rate(WARM_PER_ROUND, warm))
        rates["appraise_cold"].append(rate(COLD_PER_ROUND, cold))
        rates["dcap_qvl"].append(rate(WARM_PER_ROUND, library))
    for name, values in rates.items():
        figure(f"dcap.{name}_per_second", statistics.median(values), "1/s", lowest=min(values))


if __name__ == "__main__":
    main()
