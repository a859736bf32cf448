"""TPM 2.0 quotes under keys that somebody anchored or activated.

`appraise_tpm` is the door; `activation` ties an attestation key to an endorsement key, and
`files` names the parts. No vendor's root is built in, so by default no quote is believed.
"""

from verispect.evidence.tpm.activation import (
    TECHNOLOGY,
    Credential,
    anchor_for_activated_key,
    make_credential,
)
from verispect.evidence.tpm.appraise import GENUINE_ANCHORS, TpmEvidence, appraise_tpm
from verispect.evidence.tpm.files import evidence_from_files, files_of
from verispect.evidence.tpm.quote import qualifying_data

__all__ = [
    "GENUINE_ANCHORS",
    "TECHNOLOGY",
    "Credential",
    "TpmEvidence",
    "anchor_for_activated_key",
    "appraise_tpm",
    "evidence_from_files",
    "files_of",
    "make_credential",
    "qualifying_data",
]
