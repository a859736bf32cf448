"""What a policy may ask about a piece of evidence, beyond which source it is.

Every fact is one that the kind verified. What is not known is `None`, false or empty, and
satisfies no policy that asks for it. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from verispect.core.claims import Claim, Source


@dataclass(frozen=True, slots=True)
class EvidenceFacts:
    """Facts about one piece of evidence."""

    established_at: int | None = None
    """Milliseconds: when it was collected; of a log, since when witnesses vouch for it."""
    affirming: Mapping[tuple[Claim, Source], frozenset[str]] = field(default_factory=dict)
    """Names of the distinct listed nodes behind a claim, by the source that they give."""
    refuting: Mapping[Claim, frozenset[str]] = field(default_factory=dict)
    """Names of the listed nodes that refute a claim."""
    witnesses: frozenset[str] = frozenset()
    """Names of the listed witnesses that co-signed."""
    roots: frozenset[str] = frozenset()
    """Names of the trust roots it goes back to: an issuer, a log's origin, a vendor's technology,
    the label of an anchor."""
    tcb_status: str | None = None
    per_inference: bool = False
    """Of this one inference, not of the key that signed it."""
    measured_weights: bool = False
    """The measurements cover the weights. No technology of this version shows it."""
    proof_mode: str | None = None
    """`succinct` or `zero-knowledge`."""
    uncertain: int = 0
    """How many of the named nodes or witnesses may be missing: zero, except in a forecast."""


NO_FACTS: Final = EvidenceFacts()
"""Nothing is known."""
