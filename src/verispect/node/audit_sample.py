"""Which answers an audit looks at: nobody could know it before, everybody can compute it after.

The seed comes from a checkpoint of the log that holds all the answers in question, and from a
beacon that was not there when they were given. The checkpoint alone does not do: its operator
chooses what stands in the log, and could try until the sample suits it. The beacon is public
randomness that came later, or the auditor's own deterministic signature over the checkpoint, which
an operator cannot compute and an auditor cannot choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import Reason, RequestError, VerificationError
from verispect.core.keys import PublicKey, Signer
from verispect.tlog.checkpoint import Checkpoint

SEED_DOMAIN: Final = "verispect-audit-seed-v1"
DRAW_DOMAIN: Final = "verispect-audit-draw-v1"
BEACON_DOMAIN: Final = "verispect-audit-beacon-v1"
MIN_BEACON_BYTES: Final = 16
MAX_BEACON_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class AuditedRange:
    """The leaves that an audit is about."""

    checkpoint: Checkpoint
    """Of the log, when all of them were in it."""
    first: int
    """The first leaf."""
    end: int
    """The leaf after the last."""

    def __post_init__(self) -> None:
        """Refuse a range that the checkpoint does not hold.

        Raises:
            RequestError: `invalid-request`.
        """
        if not 0 <= self.first < self.end <= self.checkpoint.size:
            raise RequestError(
                "expected leaves that the checkpoint holds", reason=Reason.INVALID_REQUEST
            )

    def _bytes(self, domain: str) -> bytes:
        point = self.checkpoint
        return encode([domain, point.origin, point.size, point.root, self.first, self.end])

    def auditor_beacon(self, signer: Signer) -> bytes:
        """Return an auditor's own beacon: its deterministic signature."""
        return signer.sign(self._bytes(BEACON_DOMAIN))

    def check_auditor_beacon(self, beacon: bytes, key: PublicKey) -> None:
        """Check that a beacon is the auditor's signature.

        Raises:
            VerificationError: `signature-invalid`.
        """
        key.verify(self._bytes(BEACON_DOMAIN), beacon)

    def seed(self, beacon: bytes) -> Digest:
        """Return the seed of the draw.

        Raises:
            RequestError: `invalid-request` for a beacon that is too short to be one, or too long.
        """
        if not MIN_BEACON_BYTES <= len(beacon) <= MAX_BEACON_BYTES:
            raise RequestError(
                f"expected a beacon of {MIN_BEACON_BYTES} to {MAX_BEACON_BYTES} bytes",
                reason=Reason.INVALID_REQUEST,
            )
        return sha256(encode([SEED_DOMAIN, self._bytes(SEED_DOMAIN), beacon]))


def sample_size(population: int, rate: Fraction) -> int:
    """Return how many answers are audited: the share, rounded up."""
    return math.ceil(population * rate)


def draw_sample(population: Mapping[int, Digest], *, seed: Digest, size: int) -> list[int]:
    """Draw answers without replacement, in the order in which they are to be looked at.

    Args:
        population: by leaf, the receipts in question.
        seed: from `AuditedRange.seed`.
        size: how many; all of them where there are fewer.

    Returns:
        The leaves.
    """
    ranked = sorted(
        (sha256(encode([DRAW_DOMAIN, seed, leaf, receipt])), leaf)
        for leaf, receipt in population.items()
    )
    return [leaf for _, leaf in ranked[:size]]


def check_sample(
    drawn: list[int], population: Mapping[int, Digest], *, seed: Digest, size: int
) -> None:
    """Check that these are the answers that the seed draws, in its order.

    Raises:
        VerificationError: `content-mismatch`.
    """
    if drawn != draw_sample(population, seed=seed, size=size):
        raise VerificationError(
            "the sample is not the one that the seed draws", reason=Reason.CONTENT_MISMATCH
        )
