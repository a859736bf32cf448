"""AMD SEV-SNP attestation reports, Milan to Turin, under chip keys or a provider's keys.

`appraise_sev_snp` is the door; `report` parses, `endorsement` reads what AMD certified, and
`amd_certificates` holds what AMD publishes for every chip.
"""

from verispect.evidence.sev_snp.appraise import (
    GENUINE_ANCHORS,
    TECHNOLOGY,
    SevSnpEvidence,
    appraise_sev_snp,
)
from verispect.evidence.sev_snp.report import Report, parse_report

__all__ = [
    "GENUINE_ANCHORS",
    "TECHNOLOGY",
    "Report",
    "SevSnpEvidence",
    "appraise_sev_snp",
    "parse_report",
]
