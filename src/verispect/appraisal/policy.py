"""Presets, policies with names that people can say, and their sums.

A word names its evidence: `attested` is not met by a proof, nor `proven` by an enclave. A sum of
words, `attested+proven`, requires what each of its words requires. Every word expands to a full
policy that can be printed; there is nothing that only a word can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from verispect.appraisal.assurance_policy import MAX_AGE_SECONDS as MAX_AGE_SECONDS
from verispect.appraisal.assurance_policy import MAX_NAME_CHARACTERS as MAX_NAME_CHARACTERS
from verispect.appraisal.assurance_policy import MAX_POLICY_CHARACTERS as MAX_POLICY_CHARACTERS
from verispect.appraisal.assurance_policy import POLICY_VERSION as POLICY_VERSION
from verispect.appraisal.assurance_policy import AssurancePolicy as AssurancePolicy
from verispect.appraisal.assurance_policy import conjunction, renamed
from verispect.appraisal.requirement import INSUFFICIENT, Requirement
from verispect.appraisal.requirement_form import MAX_ATOMS as MAX_ATOMS
from verispect.appraisal.requirement_form import MAX_COUNT as MAX_COUNT
from verispect.appraisal.requirement_form import MAX_DEPTH as MAX_DEPTH
from verispect.appraisal.requirement_form import MAX_NAMES as MAX_NAMES
from verispect.appraisal.requirement_form import MAX_NAMES_IN_ALL as MAX_NAMES_IN_ALL
from verispect.appraisal.requirement_form import MAX_ROOT_CHARACTERS as MAX_ROOT_CHARACTERS
from verispect.appraisal.requirement_form import MAX_SECONDS as MAX_SECONDS
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import (
    DEFAULT_ATTESTATION_POLICY,
    AttestationPolicy,
    EvidenceClass,
)

_ANY_SOURCE: Final = frozenset(Source) - INSUFFICIENT

SIGNED: Final = AssurancePolicy(
    name="signed",
    claims=dict.fromkeys(CLAIMS_OF_A_SIGNATURE, _ANY_SOURCE),
    model_identities=frozenset(ModelIdentity),
)
"""The operator says so and cannot deny it: every claim at least asserted."""


def _also(
    base: AssurancePolicy, claims: tuple[Claim, ...], sources: frozenset[Source]
) -> dict[Claim, Requirement | frozenset[Source]]:
    return {**base.claims, **dict.fromkeys(claims, sources)}


LOGGED: Final = AssurancePolicy(
    name="logged",
    claims=_also(SIGNED, (Claim.TIME, Claim.LOGGED), frozenset({Source.LOGGED})),
    model_identities=frozenset(ModelIdentity),
)
"""As `signed`, and witnesses saw the statement in a public log near the time that it gives."""

_COMPUTED: Final = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)

AUDITED: Final = AssurancePolicy(
    name="audited",
    claims=_also(LOGGED, _COMPUTED, frozenset({Source.REEXECUTED, Source.STATISTICAL})),
)
"""As `logged`, and k verification nodes computed it again: to the bit, or, where a model is not
exact, by a test with declared error rates. Who wants the first only says `reexecuted`."""

ATTESTED_SECONDS: Final = 86_400
"""How long before a statement the evidence of its signing key may have been made."""


def _attested(name: str, evidence_class: EvidenceClass) -> AssurancePolicy:
    covered = (Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
    return AssurancePolicy(
        name=name,
        claims=_also(SIGNED, covered, frozenset({Source.HARDWARE})),
        model_identities=frozenset(ModelIdentity),
        attestation=AttestationPolicy(
            accepted_classes=frozenset({evidence_class}), maximum_age_seconds=ATTESTED_SECONDS
        ),
    )


ATTESTED: Final = _attested("attested", EvidenceClass.HARDWARE)
"""A trusted execution environment whose measurements the verifier accepts holds the signing key.

Weights are not measured, so that the model stays asserted."""

ATTESTED_SOFTWARE: Final = _attested("attested-software", EvidenceClass.SOFTWARE)
"""As `attested`, by a software TPM: real formats, and no protection by hardware."""

ATTESTED_DEVELOPMENT: Final = _attested("attested-development", EvidenceClass.DEVELOPMENT)
"""As `attested`, by an emulator: shows the path, and nothing else."""

PROVEN: Final = AssurancePolicy(
    name="proven", claims=_also(SIGNED, _COMPUTED, frozenset({Source.PROVEN}))
)
"""A proof shows that the committed weights gave this output for this input. When it ran, what was
charged and who read it stay the operator's word."""

PRESETS: Final[Mapping[str, AssurancePolicy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            SIGNED,
            LOGGED,
            AUDITED,
            ATTESTED,
            ATTESTED_SOFTWARE,
            ATTESTED_DEVELOPMENT,
            PROVEN,
        )
    }
)
"""Policies with names that people can say."""


def expand(word: str) -> AssurancePolicy:
    """Return the policy that a preset, or a sum of presets such as `attested+proven`, stands for.

    The order of the words does not matter. The table `[attestation]` of a sum is that of the words
    that have one of their own.

    Args:
        word: presets joined by `+`, each at most once.

    Raises:
        MalformedError: `assurance-unknown` for another word, `policy-contradictory` for a sum
            that nothing can meet.
    """
    preset = PRESETS.get(word)
    if preset is not None:
        return preset
    if len(word) > 128:
        raise _unknown()
    words = word.split("+")
    if len(set(words)) != len(words) or not PRESETS.keys() >= set(words):
        raise _unknown()
    return _sum(frozenset(words))


def is_sum_of_presets(word: str) -> bool:
    """Tell whether `word` is a preset, or presets joined by `+`, contradictory or not."""
    words = word.split("+") if len(word) <= 128 else []
    return bool(words) and len(set(words)) == len(words) and PRESETS.keys() >= set(words)


@lru_cache(maxsize=len(PRESETS) ** 2)
def _sum(words: frozenset[str]) -> AssurancePolicy:
    presets = [preset for name, preset in PRESETS.items() if name in words]
    stated = [each.attestation for each in _with_own_table(presets)]
    if any(each != stated[0] for each in stated):
        raise MalformedError(
            "evidence is of one class: the attested presets cannot be added to each other",
            reason=Reason.POLICY_CONTRADICTORY,
        )
    table = stated[0] if stated else DEFAULT_ATTESTATION_POLICY
    name = "+".join(each.name for each in presets)
    joined = conjunction("sum", presets, attestation=table)
    # `logged` contains `signed`: a sum that says no more than a preset is that preset.
    same = next((each for each in presets if each.digest() == joined.digest()), None)
    return same or renamed(joined, name)


def _with_own_table(presets: list[AssurancePolicy]) -> list[AssurancePolicy]:
    return [each for each in presets if each.attestation != DEFAULT_ATTESTATION_POLICY]


def _unknown() -> MalformedError:
    return MalformedError("no preset, and no sum of presets", reason=Reason.ASSURANCE_UNKNOWN)
