"""The leaves of our log (spec/log.md): one deterministic CBOR map each, without content.

A leaf holds salted digests, identifiers, times and counts; nothing of a prompt or an output can be
learned from it. What somebody other than the log's operator vouches for carries that party's own
signature, as a COSE_Sign1 inside the leaf. The leaf of a receipt is a function of the receipt: who
holds the receipt computes the leaf and needs only the proof.

Decoding is shape only. A signature inside a leaf is checked by whoever has the key, and a receipt
leaf by whoever has the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from verispect.core.encoding import Digest, byte_string, decode, encode
from verispect.core.envelope import SignedEnvelope, open_envelope
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.core.transaction import TRANSACTION_TYPE, TransactionStatement
from verispect.tlog import fields
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.publications import (
    COVERAGE_TYPE,
    PROMPT_VERSION_TYPE,
    REFUSAL_TYPE,
    Coverage,
    PromptVersion,
    Refusal,
)
from verispect.tlog.receipt_leaf import (
    LEAF_VERSION,
    MAX_EVIDENCE_KIND_CHARACTERS,
    RECEIPT_KIND,
    ReceiptLeaf,
    read_plain,
)
from verispect.tlog.tiles import MAX_ENTRY_BYTES
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict

MAX_LEAF_BYTES: Final = MAX_ENTRY_BYTES

FORK_TYPE: Final = "application/verispect-fork+cbor"


class LeafKind(IntEnum):
    """What a leaf is. The numbers are on the wire."""

    RECEIPT = RECEIPT_KIND
    LATE_EVIDENCE = 2
    VERDICT = 3
    REFUSAL = 4
    MISSED_DEADLINE = 5
    PROMPT_VERSION = 6
    COVERAGE = 7
    FORK = 8
    TRANSACTION = 9

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class LateEvidenceLeaf:
    """Evidence for a receipt arrived; it is kept outside, under its digest."""

    receipt: Digest
    kind: str
    evidence: Digest
    """`EvidenceEntry.digest()` of what arrived."""
    size: int
    """Bytes of its body."""
    delivered_at: int

    def encode(self) -> bytes:
        """Return the leaf's bytes."""
        head = {1: LEAF_VERSION, 2: int(LeafKind.LATE_EVIDENCE), 3: self.receipt}
        return encode(head | {4: self.kind, 5: self.evidence, 6: self.size, 7: self.delivered_at})


@dataclass(frozen=True, slots=True)
class MissedDeadlineLeaf:
    """Evidence that a receipt promised was not there when it was due."""

    receipt: Digest
    kind: str
    due_at: int
    noted_at: int

    def encode(self) -> bytes:
        """Return the leaf's bytes."""
        head = {1: LEAF_VERSION, 2: int(LeafKind.MISSED_DEADLINE), 3: self.receipt}
        return encode(head | {4: self.kind, 5: self.due_at, 6: self.noted_at})


Payload = NodeVerdict | Refusal | PromptVersion | Coverage | ForkEvidence | TransactionStatement

_CONTENT_TYPES: Final = {
    LeafKind.VERDICT: VERDICT_TYPE,
    LeafKind.REFUSAL: REFUSAL_TYPE,
    LeafKind.PROMPT_VERSION: PROMPT_VERSION_TYPE,
    LeafKind.COVERAGE: COVERAGE_TYPE,
    LeafKind.FORK: FORK_TYPE,
    LeafKind.TRANSACTION: TRANSACTION_TYPE,
}
_KIND_OF_TYPE: Final = {content_type: kind for kind, content_type in _CONTENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class SignedLeaf:
    """What somebody signed: untrusted until `envelope.verify` with that party's key."""

    kind: LeafKind
    envelope: SignedEnvelope
    payload: Payload

    @classmethod
    def of(cls, envelope: SignedEnvelope) -> SignedLeaf:
        """Return the leaf of a signed envelope, whose content type gives the kind.

        Raises:
            MalformedError: `malformed-leaf`, and as the payload's own decoder.
            UnsupportedError: `unsupported-leaf` or `unsupported-version`.
        """
        kind = _KIND_OF_TYPE.get(envelope.content_type)
        if kind is None:
            raise UnsupportedError("the content type is no leaf's", reason=Reason.UNSUPPORTED_LEAF)
        if envelope.evidence:
            raise fields.malformed("an envelope in a leaf has no unprotected header")
        leaf = cls(kind, envelope, _decode_payload(kind, envelope.payload))
        payload = leaf.payload
        if isinstance(payload, NodeVerdict) and envelope.subject != payload.receipt.hex():
            raise fields.malformed("the subject of a verdict is another receipt")
        if isinstance(payload, PromptVersion) and envelope.subject != payload.service:
            raise fields.malformed("the subject of a prompt version is another service")
        if (
            isinstance(payload, TransactionStatement)
            and envelope.subject != payload.transaction_id.hex()
        ):
            raise fields.malformed("the subject of a transaction is another one")
        return leaf

    def encode(self) -> bytes:
        """Return the leaf's bytes.

        Raises:
            MalformedError: `too-large`.
        """
        signed = byte_string(self.envelope.encode())
        data = b"\xa3\x01" + bytes((LEAF_VERSION, 2, self.kind, 3)) + signed
        if len(data) > MAX_LEAF_BYTES:
            raise MalformedError(
                f"expected a leaf of at most {MAX_LEAF_BYTES} bytes", reason=Reason.TOO_LARGE
            )
        return data


def _decode_payload(kind: LeafKind, payload: bytes) -> Payload:
    match kind:
        case LeafKind.VERDICT:
            return NodeVerdict.decode(payload)
        case LeafKind.REFUSAL:
            return Refusal.decode(payload)
        case LeafKind.PROMPT_VERSION:
            return PromptVersion.decode(payload)
        case LeafKind.COVERAGE:
            return Coverage.decode(payload)
        case LeafKind.TRANSACTION:
            return TransactionStatement.decode(payload)
        case _:
            return ForkEvidence.decode(payload)


Leaf = ReceiptLeaf | LateEvidenceLeaf | MissedDeadlineLeaf | SignedLeaf


def decode_leaf(data: bytes) -> Leaf:
    """Read a leaf. Shape only: nothing is verified.

    Raises:
        MalformedError: `malformed-leaf`, `malformed-cbor`, `malformed-envelope`, `too-large`, and
            as the decoders of signed payloads.
        UnsupportedError: `unsupported-leaf` for a kind that is not known: the leaf counts, and
            says nothing; `unsupported-version` and `unsupported-algorithm`.
    """
    plain = read_plain(data)
    if plain is not None:
        return plain
    read = decode(data, limit=MAX_LEAF_BYTES)
    if type(read) is not dict:
        raise fields.malformed("a leaf is not a map")
    version, number = fields.integer(read.get(1), "version"), fields.integer(read.get(2), "kind")
    if version != LEAF_VERSION:
        raise UnsupportedError(
            f"expected leaf version {LEAF_VERSION}, got {version}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
    if number not in LeafKind.__members__.values():
        raise UnsupportedError(f"leaf kind {number} is not known", reason=Reason.UNSUPPORTED_LEAF)
    match LeafKind(number):
        case LeafKind.RECEIPT:
            return ReceiptLeaf.from_map(read)
        case LeafKind.LATE_EVIDENCE:
            return _late_evidence_leaf(read)
        case LeafKind.MISSED_DEADLINE:
            return _missed_deadline_leaf(read)
        case kind:
            return _signed_leaf(kind, read)


def _late_evidence_leaf(read: dict[int, Any]) -> LateEvidenceLeaf:
    fields.check_keys(read, set(range(1, 8)), set())
    return LateEvidenceLeaf(
        receipt=fields.digest(read[3], "receipt"),
        kind=fields.text(read[4], "kind", MAX_EVIDENCE_KIND_CHARACTERS),
        evidence=fields.digest(read[5], "evidence"),
        size=fields.integer(read[6], "size"),
        delivered_at=fields.integer(read[7], "delivered_at"),
    )


def _missed_deadline_leaf(read: dict[int, Any]) -> MissedDeadlineLeaf:
    fields.check_keys(read, set(range(1, 7)), set())
    return MissedDeadlineLeaf(
        receipt=fields.digest(read[3], "receipt"),
        kind=fields.text(read[4], "kind", MAX_EVIDENCE_KIND_CHARACTERS),
        due_at=fields.integer(read[5], "due_at"),
        noted_at=fields.integer(read[6], "noted_at"),
    )


def _signed_leaf(kind: LeafKind, read: dict[int, Any]) -> SignedLeaf:
    fields.check_keys(read, {1, 2, 3}, set())
    if type(read[3]) is not bytes:
        raise fields.malformed("an envelope is not a byte string")
    return SignedLeaf.of(open_envelope(read[3], content_type=_CONTENT_TYPES[kind]))
