"""Finds evidence kinds by entry point, group `verispect.evidence`.

Only kinds of this distribution are loaded by themselves; a kind of another distribution is loaded
when its name is given, and never otherwise, so that installing a package cannot change a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from verispect.core.errors import Reason, UnsupportedError
from verispect.evidence.attested import KINDS, AttestedKey
from verispect.evidence.interface import EvidenceKind
from verispect.evidence.log_inclusion import LogInclusionEvidence
from verispect.evidence.proof import ProofEvidence
from verispect.evidence.signature import SignatureEvidence
from verispect.evidence.verdicts import VerdictsEvidence

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "verispect.evidence"
_DISTRIBUTION: Final = "verispect"

BUILT_IN: Final[Mapping[str, EvidenceKind]] = MappingProxyType(
    {
        "signature": SignatureEvidence(),
        "log": LogInclusionEvidence(),
        "verdicts": VerdictsEvidence(),
        "proof": ProofEvidence(),
        **{technology: AttestedKey(technology) for technology in KINDS},
    }
)
"""The kinds of the offline verifier; the entry points of this distribution name the same ones."""


def load_kinds(extra: Iterable[str] = ()) -> dict[str, EvidenceKind]:
    """Return the built-in kinds and those named in `extra`.

    Raises:
        UnsupportedError: `unsupported-evidence` when a named kind is not installed, or has the
            name of a built-in one.
    """
    # Imported here: it costs a tenth of a verification command and most need no extra kind.
    from importlib.metadata import entry_points

    kinds = dict(BUILT_IN)
    for name in extra:
        found = [point for point in entry_points(group=GROUP, name=name) if not _is_ours(point)]
        if len(found) != 1 or name in BUILT_IN:
            raise UnsupportedError(
                f"expected one installed evidence kind named {name}, found {len(found)}",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        kind: EvidenceKind = found[0].load()()
        kinds[name] = kind
    return kinds


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == _DISTRIBUTION
