"""Azure confidential machines: hardware evidence and a vTPM quote, tied by the paravisor's data.

`appraise_azure` is the door; `read_bundle` reads the JSON in which such evidence travels.
"""

from verispect.evidence.azure.appraise import GENUINE_ANCHORS, TECHNOLOGY, appraise_azure
from verispect.evidence.azure.bundle import read_bundle
from verispect.evidence.azure.evidence import AzureEvidence

__all__ = ["GENUINE_ANCHORS", "TECHNOLOGY", "AzureEvidence", "appraise_azure", "read_bundle"]
