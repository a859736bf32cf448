"""What a fetcher of endorsements is: it asks a vendor for what verifies one piece of evidence.

Evidence says of which chip, at which version, it is; the vendor says what is known of that chip:
certificates, revocation lists, collateral, reference manifests. A fetcher reads the first, asks
for the second and returns it under the names that `verispect.evidence.technologies` reads.

A fetcher believes nobody. It checks that an answer has the form that was asked for, so that
nothing else is kept in the cache, and it judges nothing: whether an endorsement is genuine, current
and about this evidence is decided by the verifier, from the bytes, under the verifier's own
anchors. A fetcher MUST NOT leave out an endorsement that it was built to fetch: where one cannot
be had it raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

MINUTE: Final = 60_000
"""Milliseconds, as the next two."""
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class EndorsementFetcher(Protocol):
    """One vendor's service, or a mirror of it."""

    @property
    def technology(self) -> str:
        """The technology whose evidence it reads, as in `verispect.evidence.technologies`."""
        ...

    async def fetch(self, evidence: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return endorsements of `evidence`, by the names that the technology expects.

        Args:
            evidence: files by name; what is there already is not fetched again.

        Raises:
            MalformedError: as the evidence's own parser says, or `malformed-evidence` for a file
                that is missing.
            UnsupportedError: `unsupported-evidence` where the vendor has no service for it.
            NetworkError: `network-failed` where the service cannot be reached, refuses, or answers
                with something else.
        """
        ...
