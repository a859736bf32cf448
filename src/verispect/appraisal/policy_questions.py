"""Questions to a policy whose answers are its weak spots; `policy_lint` has the words for them.

Each answers for one policy what it found, one word each, or whether it found anything. None looks
beyond the policy: what a trusted root lists is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from verispect.appraisal.assurance_policy import AssurancePolicy, is_possible
from verispect.appraisal.requirement import NEVER, AllOf, Atom, Requirement, atoms
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source
from verispect.evidence.attestation import EvidenceClass

_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_ATTESTED: Final = (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_RECOMPUTED: Final = frozenset({Source.STATISTICAL, Source.REEXECUTED})
_UP_TO_DATE: Final = "UpToDate"

SHOWABLE: Final = {
    claim: frozenset(
        source
        for source, claims in (
            (Source.ASSERTED, CLAIMS_OF_A_SIGNATURE),
            (Source.LOGGED, (Claim.LOGGED, Claim.TIME)),
            (Source.STATISTICAL, _COMPUTED),
            (Source.REEXECUTED, _COMPUTED),
            (Source.HARDWARE, (*_ATTESTED, Claim.CONFIDENTIALITY)),
            (Source.PROVEN, _COMPUTED),
        )
        if claim in claims
    )
    for claim in Claim
}
"""By claim, the sources that some evidence kind of this version can give it."""


def ensures(requirement: Requirement | None, holds: Callable[[Atom], bool]) -> bool:
    """Tell whether whatever meets a requirement meets an atom for which `holds`."""
    if requirement is None:
        return False
    if isinstance(requirement, Atom):
        return holds(requirement)
    parts = [ensures(each, holds) for each in requirement.members]
    return any(parts) if isinstance(requirement, AllOf) else bool(parts) and all(parts)


def _is_checked(atom: Atom) -> bool:
    """Tell whether an atom wants more than that the operator says so."""
    return atom.source not in (Source.ASSERTED, Source.LOGGED)


def _meetable(requirement: Requirement, claim: Claim) -> bool:
    """Tell whether evidence of this version can meet a requirement."""
    if isinstance(requirement, Atom):
        return requirement.source in SHOWABLE[claim] and not requirement.measured_weights
    parts = [_meetable(each, claim) for each in requirement.members]
    return bool(parts) and (all(parts) if isinstance(requirement, AllOf) else any(parts))


def _atoms(policy: AssurancePolicy, *sources: Source) -> Iterable[tuple[Claim, Atom]]:
    """Yield the atoms of these sources, of the claims for which evidence can give them."""
    for claim, requirement in policy.claims.items():
        for atom in atoms(requirement):
            if atom.source in sources and atom.source in SHOWABLE[claim]:
                yield claim, atom


def _rests_on(policy: AssurancePolicy, *sources: Source) -> bool:
    """Tell whether some claim is met by these sources only: no other alternative is left."""
    return any(
        ensures(each, lambda atom: atom.source in sources) for each in policy.claims.values()
    )


def _claims_where(
    policy: AssurancePolicy, question: Callable[[Atom], bool], *sources: Source
) -> list[str]:
    named = {claim for claim, atom in _atoms(policy, *sources) if question(atom)}
    return [claim.value for claim in Claim if claim in named]


def unmeetable(policy: AssurancePolicy) -> list[str]:
    """Return claims whose requirement no evidence of this version can meet."""
    return [
        claim.value
        for claim, each in policy.claims.items()
        if each == NEVER or not _meetable(each, claim)
    ]


def idle_alternatives(policy: AssurancePolicy) -> list[str]:
    """Return alternatives that no receipt can take, of claims that can be met otherwise."""
    found = []
    for claim, requirement in policy.claims.items():
        if not _meetable(requirement, claim):
            continue
        plain_idle = {
            atom.source.value
            for atom in atoms(requirement)
            if not _meetable(atom, claim) or not is_possible(atom, policy)
        }
        # A preset says "any source", which is no mistake where the operator's word suffices.
        if not _ensures_nothing(requirement):
            found += [f"{word} for {claim.value}" for word in sorted(plain_idle)]
    return found


def _ensures_nothing(requirement: Requirement) -> bool:
    return not ensures(requirement, lambda atom: atom.source is not Source.ASSERTED)


def asserted_beside_better(policy: AssurancePolicy) -> list[str]:
    """Return claims for which the operator's word suffices though evidence is listed beside it."""
    return [
        claim.value
        for claim, requirement in policy.claims.items()
        if not ensures(requirement, lambda atom: atom.source is not Source.ASSERTED)
        and any(atom.source in SHOWABLE[claim] - {Source.ASSERTED} for atom in atoms(requirement))
    ]


def model_stays_asserted(policy: AssurancePolicy) -> bool:
    """Tell whether hardware suffices for `execution` while the model is only asserted."""
    execution = policy.claims.get(Claim.EXECUTION)
    by_hardware = execution is not None and any(
        atom.source is Source.HARDWARE and not atom.measured_weights for atom in atoms(execution)
    )
    checked = ensures(execution, _is_checked)
    return by_hardware and checked and not ensures(policy.claims.get(Claim.MODEL), _is_checked)


def left_to_the_operator(policy: AssurancePolicy) -> list[str]:
    """Return parts of a computation that stay the operator's word where another is checked."""
    checked = {claim for claim in _COMPUTED if ensures(policy.claims.get(claim), _is_checked)}
    if not checked or (checked == set(_ATTESTED) and model_stays_asserted(policy)):
        return []
    return [claim.value for claim in _COMPUTED if claim not in checked]


def accepts_hardware(policy: AssurancePolicy) -> bool:
    """Tell whether some claim that must be checked can be met by hardware."""
    return _rests_on(policy, Source.HARDWARE) or any(
        ensures(policy.claims.get(claim), _is_checked) for claim, _ in _atoms_of_hardware(policy)
    )


def _atoms_of_hardware(policy: AssurancePolicy) -> list[tuple[Claim, Atom]]:
    return list(_atoms(policy, Source.HARDWARE))


def weak_classes(policy: AssurancePolicy) -> list[str]:
    """Return classes other than hardware that may stand behind the source hardware."""
    if not accepts_hardware(policy):
        return []
    accepted = policy.attestation.accepted_classes
    used = {
        each
        for _, atom in _atoms_of_hardware(policy)
        for each in (atom.classes & accepted if atom.classes else accepted)
    }
    return sorted(each.value for each in used - {EvidenceClass.HARDWARE})


def weak_tcb(policy: AssurancePolicy) -> list[str]:
    """Return TCB statuses other than current that suffice."""
    if not accepts_hardware(policy):
        return []
    accepted = policy.attestation.accepted_tcb
    used = {
        each
        for _, atom in _atoms_of_hardware(policy)
        for each in (atom.tcb & accepted if atom.tcb else accepted)
    }
    return sorted(used - {_UP_TO_DATE})


def old_attestation(policy: AssurancePolicy) -> list[str]:
    """Return claims for which attestation of any age suffices."""
    if policy.attestation.maximum_age_seconds is not None or not accepts_hardware(policy):
        return []
    return _claims_where(
        policy,
        lambda atom: atom.maximum_age_seconds is None and not atom.per_inference,
        Source.HARDWARE,
    )


def of_the_session(policy: AssurancePolicy) -> bool:
    """Tell whether attestation of the signing key suffices."""
    return accepts_hardware(policy) and any(
        not atom.per_inference for _, atom in _atoms_of_hardware(policy)
    )


def operator_reads(policy: AssurancePolicy) -> bool:
    """Tell whether hardware is wanted, and confidentiality is not."""
    return accepts_hardware(policy) and Claim.CONFIDENTIALITY not in policy.claims


def one_node(policy: AssurancePolicy) -> list[str]:
    """Return claims for which the word of one node suffices."""
    return _claims_where(policy, lambda atom: atom.nodes == 1, *_RECOMPUTED)


def open_nodes(policy: AssurancePolicy) -> bool:
    """Tell whether re-execution is wanted without a number of nodes."""
    return _rests_on(policy, *_RECOMPUTED) and any(
        atom.nodes is None for _, atom in _atoms(policy, *_RECOMPUTED)
    )


def any_node(policy: AssurancePolicy) -> bool:
    """Tell whether nodes are counted without naming them."""
    return any(
        atom.nodes is not None and not atom.nodes_among for _, atom in _atoms(policy, *_RECOMPUTED)
    )


def statistical_identity(policy: AssurancePolicy) -> list[str]:
    """Return claims that are to be checked and for which a statistical test suffices."""
    return [
        claim.value
        for claim, requirement in policy.claims.items()
        if ensures(requirement, _is_checked)
        and any(atom.source is Source.STATISTICAL for atom in atoms(requirement))
    ]


def open_witnesses(policy: AssurancePolicy) -> bool:
    """Tell whether a log is wanted without a number of witnesses."""
    return _rests_on(policy, Source.LOGGED) and all(
        atom.witnesses is None for _, atom in _atoms(policy, Source.LOGGED)
    )


def no_deadline(policy: AssurancePolicy) -> list[str]:
    """Return claims whose evidence may come at any time."""
    late = (Source.LOGGED, Source.STATISTICAL, Source.REEXECUTED, Source.PROVEN)
    named = {
        claim
        for claim, requirement in policy.claims.items()
        if ensures(requirement, lambda atom: atom.source is not Source.ASSERTED)
        and any(
            atom.source in late and atom.source in SHOWABLE[claim] and atom.within_seconds is None
            for atom in atoms(requirement)
        )
    }
    return [claim.value for claim in Claim if claim in named]


def succinct(policy: AssurancePolicy) -> bool:
    """Tell whether a proof is wanted that may show what it is of."""
    return _rests_on(policy, Source.PROVEN) and any(
        atom.modes != {"zero-knowledge"} for _, atom in _atoms(policy, Source.PROVEN)
    )


def replayable(policy: AssurancePolicy) -> bool:
    """Tell whether neither nonce nor age is required."""
    return not policy.nonce_required and policy.maximum_age_seconds is None
