"""One numbered step of an appraisal and its answer; shared by every kind of evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from verispect.core.errors import Reason


class CheckStatus(StrEnum):
    """The three answers to one check: yes, no, and could not tell."""

    __hash__ = str.__hash__

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered step of an appraisal and its answer."""

    name: str
    """Stable identifier, for example `signature`."""
    status: CheckStatus
    detail: str
    """One lower-case line for people, free of content."""
    reason: Reason | None = None
    """Set unless the check passed."""
