"""The published versions of services, and what they say of a receipt that names one.

A history is what a reader took from a log that it verified: signed versions, each with its place.
Whether a receipt used a published version, and used it unchanged, is decided by comparing digests:
all receipts of a version hold the commitments of that version. Pure; fetches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.commitments import Part
from verispect.core.encoding import Digest, from_base64url, to_base64url
from verispect.core.envelope import SignedEnvelope, open_envelope
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.core.keys import KeyId
from verispect.core.statement import InferenceStatement
from verispect.evidence.interface import Check, CheckStatus, IssuerKey
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import PROMPT_VERSION_TYPE, PromptVersion

SERVICE_PREFIX: Final = "service:"
"""In front of a service's name where a request names its model."""

SERVICE_PARTS: Final = (Part.SYSTEM_PROMPT, Part.TOOLS)
"""What a service fixes: where a version has none of one, its receipts have none."""

HISTORY_VERSION: Final = 1
MAX_HISTORY_BYTES: Final = 64 * 1024 * 1024
MAX_HISTORY_VERSIONS: Final = 65_536

IssuerKeys = Callable[[KeyId], IssuerKey | None]


@dataclass(frozen=True, slots=True)
class LoggedVersion:
    """One version, as the log has it."""

    leaf_index: int
    envelope: SignedEnvelope
    published: PromptVersion


@dataclass(frozen=True, slots=True)
class HistoryAlert:
    """Something in a history that should not be."""

    leaf_index: int
    service: str
    detail: str


class ServiceHistory:
    """Versions by digest, of issuers that the reader trusts, in the order of the log."""

    def __init__(self, issuer_key: IssuerKeys) -> None:
        self._issuer_key = issuer_key
        self._by_digest: dict[Digest, LoggedVersion] = {}
        self._by_service: dict[str, list[LoggedVersion]] = {}
        self.alerts: list[HistoryAlert] = []
        """Versions that break the chain of their service: a number left out, or used twice."""

    def add_leaf(self, index: int, leaf: bytes) -> None:
        """Take a leaf of the log; one that is no version of a trusted issuer changes nothing."""
        try:
            read = decode_leaf(leaf)
        except Error:
            return
        if isinstance(read, SignedLeaf) and isinstance(read.payload, PromptVersion):
            self.add(index, read.envelope, read.payload)

    def add(self, index: int, envelope: SignedEnvelope, published: PromptVersion) -> bool:
        """Take a version whose signature a trusted issuer's key made; tell whether it was."""
        trusted = self._issuer_key(envelope.key_id)
        if trusted is None or trusted.issuer != envelope.issuer:
            return False
        try:
            envelope.verify(trusted.key)
        except VerificationError:
            return False
        version = LoggedVersion(index, envelope, published)
        known = self._by_service.setdefault(published.service, [])
        last = known[-1] if known else None
        expected = (
            (1, None)
            if last is None
            else (
                last.published.number + 1,
                last.envelope.digest(),
            )
        )
        if (published.number, published.previous) != expected:
            detail = f"version {published.number} does not follow version {expected[0] - 1}"
            self.alerts.append(HistoryAlert(index, published.service, detail))
        known.append(version)
        self._by_digest.setdefault(envelope.digest(), version)
        return True

    def find(self, digest: bytes) -> LoggedVersion | None:
        """Return the version with this digest."""
        return self._by_digest.get(Digest(digest))

    def services(self) -> Sequence[str]:
        """Return the name of every service, sorted."""
        return sorted(self._by_service)

    def versions(self, service: str) -> Sequence[LoggedVersion]:
        """Return the versions of a service in the order of the log."""
        return self._by_service.get(service, [])

    def to_json(self) -> bytes:
        """Return the form in which a history is kept for offline verification."""
        rows = sorted(
            (
                (each.leaf_index, each.envelope)
                for known in self._by_service.values()
                for each in known
            ),
            key=lambda row: row[0],
        )
        document = {
            "verispectHistory": HISTORY_VERSION,
            "versions": [
                {"leafIndex": index, "envelope": to_base64url(envelope.encode())}
                for index, envelope in rows
            ],
        }
        return json.dumps(document, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, issuer_key: IssuerKeys) -> ServiceHistory:
        """Read what `to_json` made, out of the reader's own hand; signatures are checked again.

        Raises:
            MalformedError: `malformed-leaf`, `too-large`, and as the decoders of versions.
            VerificationError: `key-unknown` for a version that no trusted issuer signed.
        """
        history = cls(issuer_key)
        for index, envelope in _read(data):
            signed = open_envelope(envelope, content_type=PROMPT_VERSION_TYPE)
            leaf = SignedLeaf.of(signed)
            assert isinstance(leaf.payload, PromptVersion)  # By its content type.
            if not history.add(index, signed, leaf.payload):
                raise VerificationError(
                    "no trusted issuer signed a version", reason=Reason.KEY_UNKNOWN
                )
        return history


def _read(data: bytes) -> Iterable[tuple[int, bytes]]:
    if len(data) > MAX_HISTORY_BYTES:
        raise MalformedError("the history is too large", reason=Reason.TOO_LARGE)
    try:
        document: Any = json.loads(data.decode("utf-8"))
        rows = document["versions"]
        if document["verispectHistory"] != HISTORY_VERSION or len(rows) > MAX_HISTORY_VERSIONS:
            raise ValueError
        return [(int(row["leafIndex"]), from_base64url(row["envelope"])) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedError("not a history of services", reason=Reason.MALFORMED_LEAF) from error


def check_service(
    statement: InferenceStatement, history: ServiceHistory | None, *, required: bool = False
) -> tuple[list[Check], list[str]]:
    """Compare a statement with the version of the service that it names.

    1. A statement whose requested model is `service:NAME` names a version of NAME, and no other
       statement names one.
    2. With a history: the version is in it.
    3. Its service and number are those that the statement gives, and its model the one that ran.
    4. System prompt and tools are committed to exactly as the version does.

    Args:
        statement: what was signed.
        history: what the log has; without one only the first is checked, and that is said.
        required: whether a version that was compared with the log is required: then no service,
            and no history, fail.

    Returns:
        The checks, none where no service is concerned, and what is not covered.
    """
    named = statement.service
    asked = statement.requested_model
    if named is None:
        if asked.startswith(SERVICE_PREFIX):
            detail = "a service was asked for, and no version of it is named"
            return [_failed(detail, Reason.SERVICE_UNLOGGED)], []
        if required:
            detail = "the policy requires a published version of a service, and none is named"
            return [_failed(detail, Reason.SERVICE_UNLOGGED)], []
        return [], []
    # 1. The name.
    if asked != SERVICE_PREFIX + named.name:
        return [_failed("the service is not the one asked for", Reason.SERVICE_CHANGED)], []
    if history is None and required:
        detail = "the policy requires a published version, and no history was given to compare with"
        return [_failed(detail, Reason.SERVICE_UNLOGGED)], []
    if history is None:
        return [], ["the service's version: not compared with what was published"]
    # 2. It was published.
    version = history.find(named.digest)
    if version is None:
        return [_failed("no such version was published", Reason.SERVICE_UNLOGGED)], []
    # 3. and 4. It is what was used.
    if changed := changes(statement, version.published):
        detail = f"{', '.join(changed)} differs from the published version"
        return [_failed(detail, Reason.SERVICE_CHANGED)], []
    return [_passed(f"version {named.version} of {named.name}, as published")], []


def changes(statement: InferenceStatement, published: PromptVersion) -> list[str]:
    """Return in words what of a statement is not the version's."""
    named = statement.service
    found = []
    if named is None or (named.name, named.version) != (published.service, published.number):
        found.append("service")
    if published.model_id is not None and statement.model.model_id != published.model_id:
        found.append("model")
    commitments: Mapping[Part, Digest] = statement.commitments
    found += [
        part.label
        for part in SERVICE_PARTS
        if commitments.get(part) != published.commitments.get(part)
    ]
    return found


def _passed(detail: str) -> Check:
    return Check("service", CheckStatus.PASSED, detail)


def _failed(detail: str, reason: Reason) -> Check:
    return Check("service", CheckStatus.FAILED, detail, reason)
