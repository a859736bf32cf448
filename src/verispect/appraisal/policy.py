"""The assurance policy: for each claim, which sources are good enough.

Deny is the default everywhere: a policy that requires nothing is refused, a source that is not
named does not suffice, and an unknown word is an error. A policy is TOML for people and has one
digest, which the statement carries as what the caller required.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from verispect.appraisal.attestation_policy import (
    attestation_from_table,
    attestation_to_map,
    attestation_to_toml,
)
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, ClaimSources, Source
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import (
    DEFAULT_ATTESTATION_POLICY,
    AttestationPolicy,
    EvidenceClass,
)

POLICY_VERSION: Final = 1
MAX_POLICY_CHARACTERS: Final = 256 * 1024
MAX_NAME_CHARACTERS: Final = 64
MAX_AGE_SECONDS: Final = 100 * 366 * 86_400


_INSUFFICIENT: Final = frozenset({Source.UNSTATED, Source.REFUTED})


def is_policy_name(name: str) -> bool:
    """Tell whether `name` is a short word of ASCII letters, digits, `-` and `+`."""
    plain = name.replace("-", "").replace("+", "")
    return len(name) <= MAX_NAME_CHARACTERS and plain.isascii() and plain.isalnum()


@dataclass(frozen=True, slots=True)
class AssurancePolicy:
    """What a caller requires. Compare policies by `digest`, not by name."""

    name: str
    claims: Mapping[Claim, frozenset[Source]]
    """Every claim that is required, and the sources that each suffice for it."""
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
    _digest: Digest = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not is_policy_name(self.name):
            raise ValueError("a policy name is a short word of letters, digits, - and +")
        if any(_INSUFFICIENT & sources for sources in self.claims.values()):
            raise ValueError("unstated and refuted never suffice")
        object.__setattr__(self, "_digest", sha256(encode(self.to_map())))

    def is_empty(self) -> bool:
        """Tell whether this policy requires no claim; such a policy denies."""
        return not any(self.claims.values())

    def unmet(self, achieved: ClaimSources) -> list[Claim]:
        """Return the required claims behind which no sufficient source stands."""
        nothing: frozenset[Source] = frozenset()
        return [
            claim
            for claim, sufficient in self.claims.items()
            if not sufficient & achieved.get(claim, nothing)
            or Source.REFUTED in achieved.get(claim, nothing)
        ]

    def to_map(self) -> dict[str, Any]:
        """Return the canonical form, every field present."""
        return {
            "version": POLICY_VERSION,
            "claims": {
                claim.value: sorted(source.value for source in sources)
                for claim, sources in self.claims.items()
            },
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

    @classmethod
    def from_toml(cls, text: str) -> AssurancePolicy:
        """Read the TOML form (spec/policy.md).

        Raises:
            MalformedError: `malformed-policy` for anything unknown, misspelt or out of range.
        """
        if len(text) > MAX_POLICY_CHARACTERS:
            raise MalformedError("the policy is too large", reason=Reason.TOO_LARGE)
        try:
            document = tomllib.loads(text)
        # ValueError: its TOMLDecodeError is one, and so is an integer of thousands of digits.
        except (ValueError, RecursionError) as error:
            raise _malformed("the policy is not TOML") from error
        return _from_document(document)

    def to_toml(self) -> str:
        """Return the TOML form in full."""
        lines = [
            f"version = {POLICY_VERSION}",
            f'name = "{self.name}"',
            f"nonce = {str(self.nonce_required).lower()}",
            f"model_identities = {_toml_list(each.label for each in self.model_identities)}",
            f"accepted_models_only = {str(self.accepted_models_only).lower()}",
            f"development_keys = {str(self.development_keys).lower()}",
        ]
        if self.maximum_age_seconds is not None:
            lines.append(f"maximum_age_seconds = {self.maximum_age_seconds}")
        lines.append("\n[attestation]")
        lines += attestation_to_toml(self.attestation)
        lines.append("\n[claims]")
        lines += [
            f"{claim.value} = {_toml_list(source.value for source in sources)}"
            for claim, sources in self.claims.items()
        ]
        return "\n".join(lines) + "\n"


def _toml_list(words: Any) -> str:
    return "[" + ", ".join(f'"{word}"' for word in sorted(words)) + "]"


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_POLICY)


_FIELDS: Final = {
    "version",
    "name",
    "claims",
    "nonce",
    "maximum_age_seconds",
    "model_identities",
    "accepted_models_only",
    "development_keys",
    "attestation",
}
_IDENTITIES: Final = {identity.label: identity for identity in ModelIdentity}


def _from_document(document: dict[str, Any]) -> AssurancePolicy:
    if unknown := sorted(document.keys() - _FIELDS):
        raise _malformed(f"unknown field {unknown[0]}")
    version = document.get("version")
    if type(version) is not int or version != POLICY_VERSION:
        raise _malformed(f"expected version = {POLICY_VERSION}")
    name = document.get("name")
    if not isinstance(name, str) or not is_policy_name(name):
        raise _malformed("name is not a word of letters, digits, - and +")
    maximum_age = document.get("maximum_age_seconds")
    if maximum_age is not None and (
        type(maximum_age) is not int or not 0 < maximum_age <= MAX_AGE_SECONDS
    ):
        raise _malformed("maximum_age_seconds is not a positive number of seconds")
    return AssurancePolicy(
        name=name,
        claims=_claims(document.get("claims")),
        nonce_required=_flag(document, "nonce"),
        maximum_age_seconds=maximum_age,
        model_identities=_identities(document.get("model_identities")),
        accepted_models_only=_flag(document, "accepted_models_only"),
        development_keys=_flag(document, "development_keys"),
        attestation=attestation_from_table(document.get("attestation", {})),
    )


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name, False)
    if type(value) is not bool:
        raise _malformed(f"{name} is not true or false")
    return value


def _claims(value: Any) -> dict[Claim, frozenset[Source]]:
    if not isinstance(value, dict):
        raise _malformed("claims is missing or not a table")
    result: dict[Claim, frozenset[Source]] = {}
    for word, sources in value.items():
        if word not in Claim.__members__.values():
            raise _malformed(f"unknown claim {word}")
        if not isinstance(sources, list) or not sources:
            raise _malformed(f"claim {word} does not list the sources that suffice")
        for source in sources:
            if source not in Source.__members__.values():
                raise _malformed(f"unknown source for claim {word}")
            if source in _INSUFFICIENT:
                raise _malformed(f"source {source} cannot suffice for claim {word}")
        result[Claim(word)] = frozenset(Source(source) for source in sources)
    return result


def _identities(value: Any) -> frozenset[ModelIdentity]:
    if value is None:
        return frozenset({ModelIdentity.LOCAL_WEIGHTS})
    if (
        not isinstance(value, list)
        or not value
        or any(word not in [*_IDENTITIES] for word in value)
    ):
        raise _malformed(f"model_identities is not a list of {', '.join(_IDENTITIES)}")
    return frozenset(_IDENTITIES[word] for word in value)


# -- Presets --------------------------------------------------------------------------------------

_ANY_SOURCE: Final = frozenset(Source) - _INSUFFICIENT

SIGNED: Final = AssurancePolicy(
    name="signed",
    claims=dict.fromkeys(CLAIMS_OF_A_SIGNATURE, _ANY_SOURCE),
    model_identities=frozenset(ModelIdentity),
)
"""The operator says so and cannot deny it: every claim at least asserted."""

LOGGED: Final = AssurancePolicy(
    name="logged",
    claims={
        **SIGNED.claims,
        Claim.TIME: frozenset({Source.LOGGED}),
        Claim.LOGGED: frozenset({Source.LOGGED}),
    },
    model_identities=frozenset(ModelIdentity),
)
"""As `signed`, and witnesses saw the statement in a public log near the time that it gives."""

_AUDITED: Final = frozenset({Source.REEXECUTED, Source.STATISTICAL, Source.PROVEN})

AUDITED: Final = AssurancePolicy(
    name="audited",
    claims={
        **LOGGED.claims,
        Claim.MODEL: _AUDITED,
        Claim.INPUT: _AUDITED,
        Claim.OUTPUT: _AUDITED,
        Claim.EXECUTION: _AUDITED,
    },
)
"""As `logged`, and k verification nodes computed it again: to the bit, or, where a model is not
exact, by a test with declared error rates. Who wants the first only says `reexecuted`."""

_ATTESTED: Final = frozenset({Source.HARDWARE, Source.PROVEN})
_ATTESTED_CLAIMS: Final[Mapping[Claim, frozenset[Source]]] = {
    **SIGNED.claims,
    Claim.INPUT: _ATTESTED,
    Claim.OUTPUT: _ATTESTED,
    Claim.EXECUTION: _ATTESTED,
}
ATTESTED_SECONDS: Final = 86_400
"""How long before a statement the evidence of its signing key may have been made."""


def _attested(name: str, evidence_class: EvidenceClass) -> AssurancePolicy:
    return AssurancePolicy(
        name=name,
        claims=_ATTESTED_CLAIMS,
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

_PROVEN: Final = frozenset({Source.PROVEN})

PROVEN: Final = AssurancePolicy(
    name="proven",
    claims={
        **SIGNED.claims,
        Claim.MODEL: _PROVEN,
        Claim.INPUT: _PROVEN,
        Claim.OUTPUT: _PROVEN,
        Claim.EXECUTION: _PROVEN,
    },
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
