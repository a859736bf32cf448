"""AWS Nitro Enclaves: attestation documents, read strictly and judged by numbered steps.

`appraise_nitro` is the door; `document` parses.
"""

from verispect.evidence.nitro.appraise import (
    GENUINE_ANCHORS,
    TECHNOLOGY,
    NitroEvidence,
    appraise_nitro,
)
from verispect.evidence.nitro.document import NitroDocument, parse_document

__all__ = [
    "GENUINE_ANCHORS",
    "TECHNOLOGY",
    "NitroDocument",
    "NitroEvidence",
    "appraise_nitro",
    "parse_document",
]
