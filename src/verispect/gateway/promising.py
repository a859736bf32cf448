"""Which evidence this server must promise so that a policy is met: the least that suffices.

Each word that the server delivers stands for evidence with a forecast: what that evidence will
show, at worst. Of all sets of words whose forecasts together meet the policy, the smallest is
chosen, and of equally small ones the first in the order of the presets, so that the same question
always has the same answer. What is not known beforehand is not promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.core.claims import Claim, Source, combine
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import DEFAULT_ATTESTATION_POLICY, EvidenceClass
from verispect.evidence.interface import EvidenceAppraisal, EvidenceFacts
from verispect.evidence.signature import CLAIMS as SIGNATURE_CLAIMS

Forecasts = Mapping[str, EvidenceAppraisal]
"""By word, what its evidence will show."""

_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
_SIGNATURE: Final = EvidenceAppraisal((), SIGNATURE_CLAIMS, ())


def forecast_attestation(evidence_class: EvidenceClass, *, age_seconds: int) -> EvidenceAppraisal:
    """Return what the evidence of a signing key will show.

    Args:
        evidence_class: of the server's attester.
        age_seconds: how old it may be.
    """
    claims = dict.fromkeys(
        (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION), frozenset({Source.HARDWARE})
    )
    facts = EvidenceFacts(established_at=-age_seconds * 1000)
    return EvidenceAppraisal((), claims, (), evidence_class, facts)


def forecast_proof(*, seconds: int) -> EvidenceAppraisal:
    """Return what a proof that is due after so many seconds will show."""
    facts = EvidenceFacts(established_at=seconds * 1000)
    return EvidenceAppraisal(
        (), dict.fromkeys(_COMPUTED, frozenset({Source.PROVEN})), (), facts=facts
    )


def forecast_log(
    *, origin: str, witnesses: Sequence[str], threshold: int, milliseconds: int
) -> EvidenceAppraisal:
    """Return what inclusion in a log will show, with the fewest witnesses that suffice."""
    facts = EvidenceFacts(
        established_at=milliseconds,
        witnesses=frozenset(witnesses),
        uncertain=len(witnesses) - threshold,
        roots=frozenset({origin}),
    )
    claims = dict.fromkeys((Claim.LOGGED, Claim.TIME), frozenset({Source.LOGGED}))
    return EvidenceAppraisal((), claims, (), facts=facts)


def forecast_verdicts(
    *, nodes: Sequence[str], threshold: int, milliseconds: int
) -> EvidenceAppraisal:
    """Return what the verdicts of nodes will show, of the fewest nodes that suffice."""
    names = frozenset(nodes)
    source = Source.REEXECUTED
    facts = EvidenceFacts(
        established_at=milliseconds,
        affirming={(claim, source): names for claim in _COMPUTED},
        uncertain=len(names) - threshold,
    )
    return EvidenceAppraisal((), dict.fromkeys(_COMPUTED, frozenset({source})), (), facts=facts)


def choose_words(
    policy: AssurancePolicy, forecasts: Forecasts, identity: ModelIdentity
) -> tuple[str, ...]:
    """Return the words whose evidence must be promised so that `policy` is met.

    Args:
        policy: what is required.
        forecasts: by word; `audited` stands on top of `logged`.
        identity: how this server knows the model that will run.

    Raises:
        RequestError: `assurance-unavailable`, naming what is missing and what is available.
    """
    offered = ", ".join(["signed", *forecasts])
    if identity not in policy.model_identities:
        raise _unavailable(f"the model is known as {identity.label} only", offered)
    words = [
        word for word in PRESETS if word in forecasts and _is_admitted(word, forecasts, policy)
    ]
    for count in range(len(words) + 1):
        for chosen in combinations(words, count):
            if not policy.is_empty() and not _unmet(policy, chosen, forecasts):
                return chosen
    missing = ", ".join(claim.value for claim in _unmet(policy, tuple(words), forecasts))
    raise _unavailable(f"not met for {missing or 'anything'}", offered)


def check_certain(policy: AssurancePolicy, forecasts: Forecasts) -> None:
    """Refuse a policy that might turn out unmet once its answer has left.

    To be asked where answers are sold: what is not met is not charged, so that a policy with a
    condition that nobody forecasts would be a way to have streams for nothing.

    Raises:
        RequestError: `assurance-unavailable`.
    """
    facts = [each.facts for each in forecasts.values()]
    known = frozenset[str]().union(
        *(each.roots | each.witnesses for each in facts),
        *(names for each in facts for names in each.affirming.values()),
    )
    named = frozenset[str]().union(
        *(each.roots | each.nodes_among | each.witnesses_among for each in policy.atoms())
    )
    table, usual = policy.attestation, DEFAULT_ATTESTATION_POLICY
    is_usual = (
        not table.refused_advisories
        and not table.minimum_tcb
        and not table.require_revocation
        and table.maximum_vmpl >= usual.maximum_vmpl
        and table.accepted_tcb >= usual.accepted_tcb
    )
    offered = ", ".join(["signed", *forecasts])
    if not named <= known:
        raise _unavailable("it names trust roots that are not known here", offered)
    if not is_usual:
        raise _unavailable("its attestation table is stricter than what can be sold", offered)


def _unmet(policy: AssurancePolicy, words: Sequence[str], forecasts: Forecasts) -> list[Claim]:
    evidence = [_SIGNATURE, *(forecasts[word] for word in words)]
    return policy.unmet(combine(each.claims for each in evidence), evidence)


def _is_admitted(word: str, forecasts: Forecasts, policy: AssurancePolicy) -> bool:
    """Tell whether the table `[attestation]` lets the evidence of a word stand on a receipt."""
    forecast = forecasts[word]
    if forecast.evidence_class is None:
        return True
    maximum = policy.attestation.maximum_age_seconds
    at = forecast.facts.established_at
    young = maximum is None or (at is not None and at >= -maximum * 1000)
    return young and forecast.evidence_class in policy.attestation.accepted_classes


def _unavailable(what: str, offered: str) -> RequestError:
    return RequestError(
        f"this server cannot deliver that assurance: {what}; available here: {offered}",
        reason=Reason.ASSURANCE_UNAVAILABLE,
        parameter="assurance",
    )
