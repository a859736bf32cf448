"""Claims and sources: what a caller may want to know, and why it is believed.

The two enumerations are the whole vocabulary of assurance. Sources form a partial order, not a
ladder: nothing here compares two of them, and a policy names each one that suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final


class Claim(StrEnum):
    """One thing a caller may want to know about an inference."""

    __hash__ = str.__hash__  # In C: a verification hashes these sixty times.

    MODEL = "model"
    """The model that the statement names is the one that ran."""
    INPUT = "input"
    """The committed input is what the model received."""
    OUTPUT = "output"
    """The committed output is what was answered."""
    EXECUTION = "execution"
    """The output is the model's, run on that input with those parameters."""
    TIME = "time"
    """The inference happened when the statement says."""
    CONFIDENTIALITY = "confidentiality"
    """The operator could not read input and output."""
    METERING = "metering"
    """Usage, and the charge that follows from it, are what ran."""
    LOGGED = "logged"
    """The statement stands in a public append-only log."""


class Source(StrEnum):
    """Why a claim is believed."""

    __hash__ = str.__hash__

    UNSTATED = "unstated"
    """Nobody says so."""
    ASSERTED = "asserted"
    """The operator's signature."""
    LOGGED = "logged"
    """An append-only log with witnesses."""
    STATISTICAL = "statistical"
    """A statistical test with stated error rates."""
    REEXECUTED = "reexecuted"
    """Independent nodes computed it again."""
    HARDWARE = "hardware"
    """A trusted execution environment attested it."""
    PROVEN = "proven"
    """A cryptographic proof."""
    REFUTED = "refuted"
    """Evidence says that it is false; this outweighs every other source."""


CLAIMS_OF_A_SIGNATURE: Final = (
    Claim.MODEL,
    Claim.INPUT,
    Claim.OUTPUT,
    Claim.EXECUTION,
    Claim.TIME,
    Claim.METERING,
)
"""What an operator asserts by signing a statement."""

ClaimSources = Mapping[Claim, frozenset[Source]]
"""The sources that stand behind each claim; a claim that is absent is unstated."""


_UNSTATED: Final = frozenset({Source.UNSTATED})
_REFUTED: Final = frozenset({Source.REFUTED})


def combine(parts: Iterable[ClaimSources]) -> dict[Claim, frozenset[Source]]:
    """Return the union per claim, every claim present; refuted stands alone where it occurs."""
    result: dict[Claim, frozenset[Source]] = dict.fromkeys(Claim, _UNSTATED)
    for part in parts:
        for claim, sources in part.items():
            union = (result[claim] | sources) - _UNSTATED
            result[claim] = _REFUTED if Source.REFUTED in union else union or _UNSTATED
    return result
