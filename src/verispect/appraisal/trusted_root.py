"""The trusted root: what this verifier trusts, given to it as one JSON document.

It lists issuer keys with their validity, and the models whose digests are accepted by name. It
is data from the user's side, never from the operator whose receipt is judged; what a gateway
publishes under `/.well-known/verispect` is a suggestion until the user has decided on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.appraisal.attestation_trust import NO_ATTESTATION, AttestationTrust
from verispect.appraisal.requirement import Atom
from verispect.core.claims import Source
from verispect.core.encoding import DIGEST_BYTES, Digest, from_hex
from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.keys import KeyId, PublicKey
from verispect.evidence.attestation import Anchor
from verispect.evidence.interface import IssuerKey
from verispect.evidence.log_trust import MEMBERS as LOG_MEMBERS
from verispect.evidence.log_trust import NO_LOGS, LogTrust

TRUSTED_ROOT_VERSION: Final = 1
MAX_TRUSTED_ROOT_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 4096
MAX_MODELS: Final = 65_536


@dataclass(frozen=True, slots=True)
class AcceptedModel:
    """A reference value: the digest of a model manifest, and the name the user gave it."""

    name: str
    model_id: Digest


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """What a verifier trusts. Empty means that nothing verifies."""

    issuer_keys: Sequence[IssuerKey]
    models: Sequence[AcceptedModel] = ()
    expires_at: int | None = None
    """Milliseconds; after that time every appraisal answers "could not tell"."""
    attestation: AttestationTrust = NO_ATTESTATION
    """Whose attestation evidence is trusted, and of which code."""
    log_trust: LogTrust = NO_LOGS
    """Which logs, witnesses and nodes are trusted."""
    _by_key_id: Mapping[KeyId, IssuerKey] = field(init=False, repr=False, compare=False)
    _by_model_id: Mapping[Digest, AcceptedModel] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_key_id = {entry.key.key_id: entry for entry in self.issuer_keys}
        if len(by_key_id) != len(self.issuer_keys):
            raise _malformed("a key is listed twice")
        object.__setattr__(self, "_by_key_id", by_key_id)
        # One model may have several names; any of them shows that it is accepted.
        object.__setattr__(self, "_by_model_id", {entry.model_id: entry for entry in self.models})

    def issuer_key(self, key_id: KeyId) -> IssuerKey | None:
        """Return the issuer key with this identifier, if it is trusted."""
        return self._by_key_id.get(key_id)

    def attestation_anchors(self, technology: str) -> Sequence[Anchor]:
        """Return the roots that are trusted for a technology; none unless stated."""
        return self.attestation.anchors_of(technology)

    def reference_values(self, technology: str) -> Mapping[str, frozenset[str]]:
        """Return the accepted measurements of a technology by register; none unless stated."""
        return self.attestation.measurements.get(technology, {})

    def lists_roots_of(self, atom: Atom) -> bool:
        """Tell whether every trust root that an atom of a policy names is listed here."""
        log = self.log_trust
        anchors = self.attestation.anchors
        known: set[str] = set()
        if atom.source is Source.ASSERTED:
            known = {each.issuer for each in self.issuer_keys}
        elif atom.source is Source.LOGGED:
            known = {each.origin for each in log.logs}
        elif atom.source is Source.HARDWARE:
            technologies = {*self.attestation.vendors, *(each.technology for each in anchors)}
            known = technologies | {
                anchor.label
                for technology in technologies
                for anchor in self.attestation_anchors(technology)
            }
        return (
            atom.roots <= known
            and atom.nodes_among <= {each.name for each in log.nodes.nodes}
            and atom.witnesses_among <= {each.name for each in log.witnesses.witnesses}
        )

    def accepted_model(self, model_id: Digest) -> AcceptedModel | None:
        """Return the reference value with this digest, if there is one."""
        return self._by_model_id.get(model_id)

    @classmethod
    def from_json(cls, data: bytes) -> TrustedRoot:
        """Read the JSON form (spec/trusted-root.md).

        Raises:
            MalformedError: `malformed-trusted-root`, naming the field at fault.
        """
        if len(data) > MAX_TRUSTED_ROOT_BYTES:
            raise MalformedError("the trusted root is too large", reason=Reason.TOO_LARGE)
        try:
            # Decoded here: json would also take UTF-16, a byte order mark and lone surrogates.
            document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)
        except (ValueError, RecursionError) as error:
            raise _malformed("the trusted root is not JSON") from error
        try:
            return _from_document(document)
        except MalformedError as error:
            raise _malformed(error.message) from error

    def to_json(self) -> bytes:
        """Return the JSON form."""
        document: dict[str, Any] = {
            "verispectTrustedRoot": TRUSTED_ROOT_VERSION,
            "issuerKeys": [_issuer_key_to_json(entry) for entry in self.issuer_keys],
            "models": [
                {"name": entry.name, "modelId": entry.model_id.hex()} for entry in self.models
            ],
        }
        if self.expires_at is not None:
            document["expiresAt"] = self.expires_at
        if self.attestation != NO_ATTESTATION:
            document["attestation"] = self.attestation.to_json()
        document |= self.log_trust.to_json()
        return json.dumps(document, indent=2).encode() + b"\n"


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TRUSTED_ROOT)


def _unique_members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError("a member is given twice")
        result[name] = value
    return result


def _members(value: Any, required: set[str], optional: set[str], name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not an object")
    if not required <= value.keys() or not value.keys() <= required | optional:
        raise _malformed(f"{name} has a missing or unknown member")
    return value


def _time(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise _malformed(f"{name} is not milliseconds since the epoch")
    return value


def _time_if_present(members: dict[str, Any], name: str) -> int | None:
    return _time(members[name], name) if name in members else None


def _short_text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise _malformed(f"{name} is not short text")
    return value


def _array(value: Any, limit: int, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise _malformed(f"{name} is not an array of at most {limit}")
    return value


def _from_document(document: Any) -> TrustedRoot:
    members = _members(
        document,
        {"verispectTrustedRoot", "issuerKeys"},
        {"models", "expiresAt", "attestation", *LOG_MEMBERS},
        "trusted root",
    )
    version = members["verispectTrustedRoot"]
    if type(version) is not int or version != TRUSTED_ROOT_VERSION:
        raise _malformed(f"expected version {TRUSTED_ROOT_VERSION} of the trusted root")
    return TrustedRoot(
        issuer_keys=[
            _issuer_key_from_json(entry)
            for entry in _array(members["issuerKeys"], MAX_KEYS, "issuerKeys")
        ],
        models=[
            _model_from_json(entry)
            for entry in _array(members.get("models", []), MAX_MODELS, "models")
        ],
        expires_at=_time_if_present(members, "expiresAt"),
        attestation=AttestationTrust.from_json(members["attestation"])
        if "attestation" in members
        else NO_ATTESTATION,
        log_trust=LogTrust.from_json(members) if LOG_MEMBERS & members.keys() else NO_LOGS,
    )


def _issuer_key_to_json(entry: IssuerKey) -> dict[str, Any]:
    document: dict[str, Any] = {
        "issuer": entry.issuer,
        "key": entry.key.to_text(),
        "development": entry.development,
        "notBefore": entry.not_before,
    }
    if entry.not_after is not None:
        document["notAfter"] = entry.not_after
    if entry.revoked_at is not None:
        document["revokedAt"] = entry.revoked_at
    if entry.compromised_at is not None:
        document["compromisedAt"] = entry.compromised_at
    return document


def _issuer_key_from_json(value: Any) -> IssuerKey:
    members = _members(
        value,
        {"issuer", "key", "development", "notBefore"},
        {"notAfter", "revokedAt", "compromisedAt"},
        "issuer key",
    )
    if type(members["development"]) is not bool:
        raise _malformed("development is not true or false")
    key_text = members["key"]
    if not isinstance(key_text, str):
        raise _malformed("key is not text")
    return IssuerKey(
        issuer=_short_text(members["issuer"], "issuer"),
        key=PublicKey.from_text(key_text),
        development=members["development"],
        not_before=_time(members["notBefore"], "notBefore"),
        not_after=_time_if_present(members, "notAfter"),
        revoked_at=_time_if_present(members, "revokedAt"),
        compromised_at=_time_if_present(members, "compromisedAt"),
    )


def _model_from_json(value: Any) -> AcceptedModel:
    members = _members(value, {"name", "modelId"}, set(), "model")
    model_id = members["modelId"]
    if not isinstance(model_id, str):
        raise _malformed("modelId is not text")
    try:
        digest = Digest(from_hex(model_id, length=DIGEST_BYTES))
    except Error as error:
        raise _malformed(f"modelId: {error.message}") from error
    return AcceptedModel(_short_text(members["name"], "model name"), digest)
