"""Checks the guest's field of an appraisal against a binding profile.

The field is taken out of the facts of evidence that verified, and never out of evidence that did
not; a profile that cannot be checked turns an acceptance into a refusal, never the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.evidence.attestation import AttestationAppraisal, AttestationVerdict, TrustTier
from verispect.evidence.bindings.interface import Binding, BindingProfile
from verispect.evidence.bindings.registry import binding_profile
from verispect.evidence.interface import Check, CheckStatus

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    # Nitro's documents and TPM quotes have other names for what the guest chose.
    "report_data": ("report_data", "user_data", "extra_data"),
}


def check_appraised_field(
    appraisal: AttestationAppraisal, profile_name: str, members: Mapping[str, bytes]
) -> tuple[AttestationAppraisal, Binding | None]:
    """Return the appraisal with one check more, and the binding where it holds.

    Args:
        appraisal: of one piece of evidence; returned as it is where it was refused.
        profile_name: a name of the registry.
        members: the named pre-image.
    """
    if appraisal.verdict is AttestationVerdict.REJECT:
        return appraisal, None
    try:
        profile = binding_profile(profile_name)
        binding = _check_any(profile, members, appraisal.facts)
    except Error as error:
        reason = error.reason
        if isinstance(error, MalformedError):
            reason = Reason.MALFORMED_EVIDENCE
        return _refuse(appraisal, error.message, reason), None
    bound = ", ".join(sorted(what.value for what in binding.binds))
    check = Check("binding", CheckStatus.PASSED, f"{binding.profile} binds {bound}")
    return replace(appraisal, checks=(*appraisal.checks, check)), binding


def _check_any(
    profile: BindingProfile, members: Mapping[str, bytes], facts: Mapping[str, Any]
) -> Binding:
    fields = _fields(facts, profile.field_name)
    for found in fields[:-1]:
        try:
            return profile.check(members, found)
        except Error:
            continue
    if not fields:
        raise VerificationError(
            f"the evidence has no {profile.field_name}", reason=Reason.ATTESTATION_BINDING_INVALID
        )
    return profile.check(members, fields[-1])


def _fields(facts: Mapping[str, Any], name: str) -> list[bytes]:
    for alias in _ALIASES.get(name, (name,)):
        value = facts.get(alias)
        if isinstance(value, str) and value:
            return [bytes.fromhex(value)]
        if isinstance(value, list) and value:
            # A token's nonces are texts, and their bytes are what was asked for.
            return [item.encode() for item in value]
    return []


def _refuse(appraisal: AttestationAppraisal, detail: str, reason: Reason) -> AttestationAppraisal:
    return replace(
        appraisal,
        verdict=AttestationVerdict.REJECT,
        reason=reason,
        acceptable=False,
        checks=(*appraisal.checks, Check("binding", CheckStatus.FAILED, detail, reason)),
        trust_vector=dict.fromkeys(appraisal.trust_vector, int(TrustTier.NONE)),
    )
