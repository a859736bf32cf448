"""The receipt: a signed statement with its evidence. Untrusted until a `Verifier` says otherwise.

The wire form is the envelope itself, so that any COSE library can check the signature. What it
says before verification is reached through names that say so: `unverified_statement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.envelope import STATEMENT_TYPE, SignedEnvelope, open_envelope
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import InferenceStatement

MAX_EVIDENCE_BYTES: Final = 8 * 1024 * 1024
MAX_KIND_CHARACTERS: Final = 64
_ENTRY_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """One typed piece of evidence: untrusted bytes."""

    kind: str
    profile: str
    """The binding profile: what of the statement the evidence commits to, and how."""
    collected_at: int
    """Milliseconds since the epoch, as its collector says."""
    body: bytes
    endorsements: bytes
    """What is kept with it so that it verifies years later; empty where nothing is needed."""

    def digest(self) -> Digest:
        """Return the digest by which a statement names this evidence.

        It covers the kind, the profile and the time beside the body, so that bytes collected as
        one kind are never shown as another. Endorsements may be added later and stand outside:
        a kind believes them only as far as they prove themselves.
        """
        return sha256(encode(self.to_row()[:-1]))

    def to_row(self) -> list[Any]:
        """Return the wire form."""
        return [self.kind, self.profile, self.collected_at, self.body, self.endorsements]

    @classmethod
    def from_row(cls, row: Any) -> EvidenceEntry:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-evidence`.
        """
        if type(row) is not list or len(row) != _ENTRY_FIELDS:
            raise _malformed(f"an evidence entry is not an array of {_ENTRY_FIELDS}")
        kind, profile, collected_at, body, endorsements = row
        for text in (kind, profile):
            if (
                type(text) is not str
                or not 0 < len(text) <= MAX_KIND_CHARACTERS
                or not text.isprintable()
            ):
                raise _malformed("kind or profile of an evidence entry is not short text")
        if type(collected_at) is not int or collected_at < 0:
            raise _malformed("the time of an evidence entry is not a non-negative integer")
        for data in (body, endorsements):
            if type(data) is not bytes or len(data) > MAX_EVIDENCE_BYTES:
                raise _malformed("evidence is not bytes within the limit")
        return cls(kind, profile, collected_at, body, endorsements)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


@dataclass(frozen=True, slots=True)
class InferenceReceipt:
    """A parsed receipt, believed by nobody.

    Statement and evidence are always read from the envelope: a receipt whose statement is not
    the one that was signed cannot be built.
    """

    envelope: SignedEnvelope
    unverified_statement: InferenceStatement = field(init=False, compare=False)
    evidence: Sequence[EvidenceEntry] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        statement = InferenceStatement.decode(self.envelope.payload)
        entries = tuple(EvidenceEntry.from_row(row) for row in self.envelope.evidence)
        object.__setattr__(self, "unverified_statement", statement)
        object.__setattr__(self, "evidence", entries)

    @classmethod
    def parse(cls, data: bytes) -> InferenceReceipt:
        """Parse a receipt's bytes. Shape only: nothing is verified.

        Raises:
            MalformedError: with a reason that names the layer at fault.
            UnsupportedError: for a version or algorithm that is not known.
        """
        return cls(open_envelope(data, content_type=STATEMENT_TYPE))

    def encode(self) -> bytes:
        """Return the wire form; `parse` of it gives an equal receipt."""
        return self.envelope.encode()

    @property
    def receipt_id(self) -> Digest:
        """SHA-256 of the signed statement without its evidence.

        For a receipt that carries no further evidence this is the SHA-256 of the file.
        """
        return self.envelope.digest()

    @property
    def claimed_inference(self) -> str:
        """The inference that the statement claims to speak of."""
        return self.envelope.subject
