"""The assurance policy: for each claim, which evidence is good enough.

Deny is the default everywhere: a policy that requires nothing is refused, a source that is not
named does not suffice, a fact that is not known meets no condition, and an unknown word is an
error. A policy is TOML for people, JSON on the wire, and has one digest, which the statement
carries as what the caller required.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from verispect.appraisal.attestation_policy import (
    attestation_from_table,
    attestation_to_map,
    attestation_to_toml,
)
from verispect.appraisal.policy_text import toml_value, unique_members
from verispect.appraisal.requirement import (
    INSUFFICIENT,
    NEVER,
    Atom,
    ClaimView,
    Requirement,
    all_of,
    any_of,
    atoms,
    normal,
)
from verispect.appraisal.requirement_form import Definitions, claim_value, malformed
from verispect.core.claims import Claim, ClaimSources, Source
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import DEFAULT_ATTESTATION_POLICY, AttestationPolicy
from verispect.evidence.interface import EvidenceAppraisal

POLICY_VERSION: Final = 1
MAX_POLICY_CHARACTERS: Final = 256 * 1024
MAX_NAME_CHARACTERS: Final = 64
MAX_AGE_SECONDS: Final = 100 * 366 * 86_400

_NOTHING: Final[frozenset[Source]] = frozenset()
_IDENTITIES: Final = {identity.label: identity for identity in ModelIdentity}
_FIELDS: Final = {
    "version",
    "name",
    "claims",
    "requirements",
    "roots",
    "nonce",
    "maximum_age_seconds",
    "model_identities",
    "accepted_models_only",
    "development_keys",
    "service_logged",
    "attestation",
}


def is_policy_name(name: str) -> bool:
    """Tell whether `name` is a short word of ASCII letters, digits, `-` and `+`."""
    plain = name.replace("-", "").replace("+", "")
    return len(name) <= MAX_NAME_CHARACTERS and plain.isascii() and plain.isalnum()


@dataclass(frozen=True, slots=True)
class AssurancePolicy:
    """What a caller requires. Compare policies by `digest`, not by name.

    A claim may be given as a set of sources instead of a requirement: any of them suffices.
    """

    name: str
    claims: Mapping[Claim, Requirement]
    """Every claim that is required, and what suffices for it."""
    nonce_required: bool = False
    maximum_age_seconds: int | None = None
    """Refuse a receipt that was signed longer ago than this."""
    model_identities: frozenset[ModelIdentity] = frozenset({ModelIdentity.LOCAL_WEIGHTS})
    """How the operator may know the model."""
    accepted_models_only: bool = False
    """Require the model's digest among the trusted root's reference values."""
    development_keys: bool = False
    """Accept receipts signed with development keys."""
    attestation: AttestationPolicy = DEFAULT_ATTESTATION_POLICY
    """What is acceptable of attestation evidence."""
    service_logged: bool = False
    """Require a version of a service, compared with the history in a log."""
    _digest: Digest = field(init=False, compare=False, repr=False)
    names_roots: bool = field(init=False, compare=False, repr=False)
    """Whether any trust root is named."""

    def __init__(
        self,
        name: str,
        claims: Mapping[Claim, Requirement | frozenset[Source]],
        nonce_required: bool = False,
        maximum_age_seconds: int | None = None,
        model_identities: frozenset[ModelIdentity] = frozenset({ModelIdentity.LOCAL_WEIGHTS}),
        accepted_models_only: bool = False,
        development_keys: bool = False,
        attestation: AttestationPolicy = DEFAULT_ATTESTATION_POLICY,
        service_logged: bool = False,
    ) -> None:
        if not is_policy_name(name):
            raise ValueError("a policy name is a short word of letters, digits, - and +")
        put = object.__setattr__
        put(self, "name", name)
        put(self, "claims", {claim: _requirement(each) for claim, each in claims.items()})
        put(self, "nonce_required", nonce_required)
        put(self, "maximum_age_seconds", maximum_age_seconds)
        put(self, "model_identities", model_identities)
        put(self, "accepted_models_only", accepted_models_only)
        put(self, "development_keys", development_keys)
        put(self, "attestation", attestation)
        put(self, "service_logged", service_logged)
        put(self, "_digest", sha256(encode(self.to_map())))
        named = any(atom.roots or atom.nodes_among or atom.witnesses_among for atom in self.atoms())
        put(self, "names_roots", named)

    def is_empty(self) -> bool:
        """Tell whether this policy requires no claim; such a policy denies."""
        return all(each == NEVER for each in self.claims.values())

    def unmet(
        self,
        achieved: ClaimSources,
        evidence: Sequence[EvidenceAppraisal] = (),
        *,
        signed_at: int = 0,
        possible: ClaimSources | None = None,
        now: int = 0,
    ) -> list[Claim]:
        """Return the required claims behind which nothing stands that suffices.

        Args:
            achieved: the sources behind each claim, all evidence together.
            evidence: each piece that counts, with its facts; without it no condition is met.
            signed_at: when the statement was signed, milliseconds since the epoch.
            possible: sources that may still come, taken to meet every condition in time.
            now: until when such evidence has not come.
        """
        unmet = []
        hoped = possible or {}
        for claim, requirement in self.claims.items():
            sources = achieved.get(claim, _NOTHING)
            view = ClaimView(claim, sources, evidence, signed_at, hoped.get(claim, _NOTHING), now)
            if Source.REFUTED in sources or not requirement.holds(view):
                unmet.append(claim)
        return unmet

    def needs_beyond(self, sources: frozenset[Source]) -> list[Claim]:
        """Return the claims that these sources alone never suffice for, whatever their evidence."""
        return self.unmet({}, possible=dict.fromkeys(Claim, sources))

    def atoms(self) -> Iterable[Atom]:
        """Return every atom."""
        return (atom for each in self.claims.values() for atom in atoms(each))

    def to_map(self) -> dict[str, Any]:
        """Return the canonical form, every field present but the name and `service_logged`."""
        own = {"service_logged": True} if self.service_logged else {}
        return own | {
            "version": POLICY_VERSION,
            "claims": {claim.value: claim_value(each) for claim, each in self.claims.items()},
            "nonce": self.nonce_required,
            "maximum_age_seconds": self.maximum_age_seconds,
            "model_identities": sorted(identity.label for identity in self.model_identities),
            "accepted_models_only": self.accepted_models_only,
            "development_keys": self.development_keys,
            "attestation": attestation_to_map(self.attestation),
        }

    def digest(self) -> Digest:
        """Return the digest that a statement carries. The name is not part of it."""
        return self._digest

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: the canonical one, and the name."""
        return {"name": self.name, **self.to_map()}

    @classmethod
    def from_json(cls, text: str) -> AssurancePolicy:
        """Read the JSON form (spec/policy.md).

        Raises:
            MalformedError: as `from_document`.
        """
        if len(text) > MAX_POLICY_CHARACTERS:
            raise MalformedError("the policy is too large", reason=Reason.TOO_LARGE)
        try:
            document = json.loads(text, object_pairs_hook=unique_members)
        except (ValueError, RecursionError) as error:
            raise malformed("the policy is not JSON") from error
        return cls.from_document(document)

    @classmethod
    def from_toml(cls, text: str) -> AssurancePolicy:
        """Read the TOML form (spec/policy.md).

        Raises:
            MalformedError: as `from_document`.
        """
        if len(text) > MAX_POLICY_CHARACTERS:
            raise MalformedError("the policy is too large", reason=Reason.TOO_LARGE)
        try:
            document = tomllib.loads(text)
        # ValueError: its TOMLDecodeError is one, and so is an integer of thousands of digits.
        except (ValueError, RecursionError) as error:
            raise malformed("the policy is not TOML") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> AssurancePolicy:
        """Read what TOML or JSON was decoded to.

        Raises:
            MalformedError: `malformed-policy` for anything unknown, misspelt or out of range;
                `policy-contradictory` for what nothing can meet; `policy-cycle`, `too-large`, also
                where its form in full could not be read again, and `too-deep`.
        """
        policy = _from_document(document)
        policy.check_possible()
        if policy.names_roots and len(policy.to_toml()) > MAX_POLICY_CHARACTERS:
            raise MalformedError("the policy is too large in full", reason=Reason.TOO_LARGE)
        return policy

    def check_possible(self) -> None:
        """Refuse a policy that contradicts itself.

        Raises:
            MalformedError: `policy-contradictory`.
        """
        if not self.model_identities:
            raise _contradictory("no way of knowing the model is accepted")
        for claim, requirement in self.claims.items():
            possible = _drop_impossible(requirement, self)
            if requirement != NEVER and possible == NEVER:
                raise _contradictory(f"no evidence can meet what is required of {claim.value}")

    def to_toml(self) -> str:
        """Return the TOML form in full, without names for requirements or roots."""
        identities = sorted(each.label for each in self.model_identities)
        lines = [
            f"version = {POLICY_VERSION}",
            f'name = "{self.name}"',
            f"nonce = {str(self.nonce_required).lower()}",
            f"model_identities = {toml_value(identities)}",
            f"accepted_models_only = {str(self.accepted_models_only).lower()}",
            f"development_keys = {str(self.development_keys).lower()}",
        ]
        if self.service_logged:
            lines.append("service_logged = true")
        if self.maximum_age_seconds is not None:
            lines.append(f"maximum_age_seconds = {self.maximum_age_seconds}")
        lines.append("\n[attestation]")
        lines += attestation_to_toml(self.attestation)
        lines.append("\n[claims]")
        lines += [
            f"{claim.value} = {toml_value(claim_value(each))}"
            for claim, each in self.claims.items()
        ]
        return "\n".join(lines) + "\n"


def conjunction(
    name: str, policies: Sequence[AssurancePolicy], *, attestation: AttestationPolicy
) -> AssurancePolicy:
    """Return the policy that requires what each of these requires.

    Args:
        name: of the result.
        policies: at least one.
        attestation: what is acceptable of attestation evidence.

    Raises:
        MalformedError: `policy-contradictory`.
    """
    claims = {
        claim: all_of(each.claims[claim] for each in policies if claim in each.claims)
        for claim in Claim
        if any(claim in each.claims for each in policies)
    }
    ages = [each.maximum_age_seconds for each in policies if each.maximum_age_seconds is not None]
    identities = frozenset(ModelIdentity).intersection(
        *(each.model_identities for each in policies)
    )
    joined = AssurancePolicy(
        name,
        claims,
        nonce_required=any(each.nonce_required for each in policies),
        maximum_age_seconds=min(ages, default=None),
        model_identities=identities,
        accepted_models_only=any(each.accepted_models_only for each in policies),
        development_keys=all(each.development_keys for each in policies),
        service_logged=any(each.service_logged for each in policies),
        attestation=attestation,
    )
    joined.check_possible()
    return joined


def renamed(policy: AssurancePolicy, name: str) -> AssurancePolicy:
    """Return the same policy under another name."""
    return policy if policy.name == name else replace(policy, name=name)


def _requirement(given: Requirement | frozenset[Source]) -> Requirement:
    if not isinstance(given, (set, frozenset)):
        return normal(given)
    if INSUFFICIENT & given:
        raise ValueError("unstated and refuted never suffice")
    return any_of(Atom(source) for source in given)


def _drop_impossible(requirement: Requirement, policy: AssurancePolicy) -> Requirement:
    """Return what is left of a tree without atoms that the rest of the policy rules out."""
    if isinstance(requirement, Atom):
        return requirement if is_possible(requirement, policy) else NEVER
    parts = [_drop_impossible(each, policy) for each in requirement.members]
    if isinstance(requirement, type(NEVER)):
        return any_of(parts)
    return all_of(parts)


def is_possible(atom: Atom, policy: AssurancePolicy) -> bool:
    """Tell whether evidence that meets an atom may pass the rest of the policy."""
    accepted = policy.attestation
    if atom.classes and not atom.classes & accepted.accepted_classes:
        return False
    local = ModelIdentity.LOCAL_WEIGHTS in policy.model_identities
    return local or not (atom.measured_weights or atom.source is Source.PROVEN)


def _contradictory(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.POLICY_CONTRADICTORY)


def _from_document(document: Any) -> AssurancePolicy:
    if not isinstance(document, dict):
        raise malformed("a policy is a table")
    if unknown := sorted(document.keys() - _FIELDS):
        raise malformed(f"unknown field {unknown[0][:64]!a}")
    version = document.get("version")
    if type(version) is not int or version != POLICY_VERSION:
        raise malformed(f"expected version = {POLICY_VERSION}")
    name = document.get("name")
    if not isinstance(name, str) or not is_policy_name(name):
        raise malformed("name is not a word of letters, digits, - and +")
    maximum_age = document.get("maximum_age_seconds")
    if maximum_age is not None and (
        type(maximum_age) is not int or not 0 < maximum_age <= MAX_AGE_SECONDS
    ):
        raise malformed("maximum_age_seconds is not a positive number of seconds")
    definitions = Definitions(document.get("requirements", {}), document.get("roots", {}))
    definitions.check_all()
    return AssurancePolicy(
        name=name,
        claims=_claims(document.get("claims"), definitions),
        nonce_required=_flag(document, "nonce"),
        maximum_age_seconds=maximum_age,
        model_identities=_identities(document.get("model_identities")),
        accepted_models_only=_flag(document, "accepted_models_only"),
        development_keys=_flag(document, "development_keys"),
        attestation=attestation_from_table(document.get("attestation", {})),
        service_logged=_flag(document, "service_logged"),
    )


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name, False)
    if type(value) is not bool:
        raise malformed(f"{name} is not true or false")
    return value


def _claims(value: Any, definitions: Definitions) -> dict[Claim, Requirement]:
    if not isinstance(value, dict):
        raise malformed("claims is missing or not a table")
    for word in value:
        if word not in Claim.__members__.values():
            raise malformed(f"unknown claim {word[:64]!a}")
    return {Claim(word): definitions.read(each, word) for word, each in value.items()}


def _identities(value: Any) -> frozenset[ModelIdentity]:
    if value is None:
        return frozenset({ModelIdentity.LOCAL_WEIGHTS})
    if (
        not isinstance(value, list)
        or not value
        or any(word not in [*_IDENTITIES] for word in value)
    ):
        raise malformed(f"model_identities is not a list of {', '.join(_IDENTITIES)}")
    return frozenset(_IDENTITIES[word] for word in value)
