"""Evaluating a policy on the evidence of one receipt: microseconds; `make bench-policy`.

The smallest preset, the largest sum, and a policy with the most conditions that one may have.
Times are CPU seconds of one process, the median of rounds.
"""

from __future__ import annotations

import statistics
import time

from report import figure

from verispect.appraisal.policy import SIGNED, AssurancePolicy, expand
from verispect.appraisal.requirement import Atom, all_of, any_of
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source, combine
from verispect.evidence.interface import EvidenceAppraisal, EvidenceFacts

ROUNDS, REPEATS = 7, 2000
COMPUTED = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
NODES = frozenset({"a", "b", "c"})

EVIDENCE = [
    EvidenceAppraisal((), dict.fromkeys(CLAIMS_OF_A_SIGNATURE, frozenset({Source.ASSERTED})), ()),
    EvidenceAppraisal(
        (), dict.fromkeys((Claim.LOGGED, Claim.TIME), frozenset({Source.LOGGED})), ()
    ),
    EvidenceAppraisal(
        (),
        dict.fromkeys(COMPUTED, frozenset({Source.REEXECUTED})),
        (),
        facts=EvidenceFacts(
            established_at=0,
            affirming={(claim, Source.REEXECUTED): NODES for claim in COMPUTED},
        ),
    ),
    EvidenceAppraisal((), dict.fromkeys(COMPUTED, frozenset({Source.PROVEN})), ()),
]
CONDITIONED = AssurancePolicy(
    "conditions",
    {
        claim: all_of(
            any_of(
                Atom(Source.REEXECUTED, nodes=3, nodes_among=NODES | {f"n{number}-{other}"})
                for other in range(4)
            )
            for number in range(16)
        )
        for claim in COMPUTED
    },
)


def main() -> None:
    """Measure and print."""
    policies = {
        "signed": SIGNED,
        "audited_and_proven": expand("audited+proven"),
        "conditions_256": CONDITIONED,
    }
    for name, policy in policies.items():
        times = []
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(REPEATS):
                achieved = combine(each.claims for each in EVIDENCE)
                assert not policy.unmet(achieved, EVIDENCE, signed_at=0)
            times.append((time.process_time() - started) / REPEATS * 1e6)
        figure(f"policy.{name}_microseconds", statistics.median(times), "us", most=100)


if __name__ == "__main__":
    main()
