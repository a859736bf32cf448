"""Intel TDX and SGX: quotes of versions 3 to 5, with the collateral that was kept with them.

`appraise_dcap` is the door. The pieces behind it read quotes and collateral, check what the
library `dcap-qvl` leaves coarse or untold, and call it for the TCB level. This package refuses to
fetch collateral, and to take a root from the evidence.
"""

from verispect.evidence.dcap.judgement import EVALUATION_NUMBER
from verispect.evidence.dcap.quote import MAX_QUOTE_BYTES, Quote, parse_quote
from verispect.evidence.dcap.verifier import (
    GENUINE_ANCHORS,
    SGX,
    TDX,
    DCAPEvidence,
    appraise_dcap,
)

__all__ = [
    "EVALUATION_NUMBER",
    "GENUINE_ANCHORS",
    "MAX_QUOTE_BYTES",
    "SGX",
    "TDX",
    "DCAPEvidence",
    "Quote",
    "appraise_dcap",
    "parse_quote",
]
