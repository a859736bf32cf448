"""What an attester is: it asks this machine's hardware to vouch for a value chosen by the guest.

An attester returns what the machine said, byte for byte, and never judges it: whether the evidence
is genuine is decided by a verifier in `verispect.evidence` under anchors of the verifier's own. An
attester MUST raise where it cannot attest; it MUST NOT return evidence of another technology, of
another value, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AttestationEvidence:
    """What a machine said, and what is kept with it so that it verifies years later."""

    kind: str
    """The evidence kind's name on the wire, for example `aws-nitro`."""
    body: bytes
    """The evidence, byte for byte as the machine gave it."""
    endorsements: bytes
    """Certificates and collateral in the form that the kind's specification names; empty where
    the evidence carries all it needs."""


class Attester(Protocol):
    """One way in which this machine can attest."""

    @property
    def name(self) -> str:
        """What people call it, for example `development-enclave`."""
        ...

    @property
    def technology(self) -> str:
        """The technology of its evidence, as anchors and appraisals name it."""
        ...

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return evidence that carries `report_data`, and `nonce` where one is given.

        A technology with one field for both MUST document how it combines them.

        Args:
            report_data: what the guest binds to the evidence, a digest as a rule.
            nonce: the verifier's, for freshness.

        Raises:
            AttesterError: `attester-unavailable` where the device is missing, busy or refuses.
            RequestError: `invalid-request` for values that the technology cannot carry.
        """
        ...
