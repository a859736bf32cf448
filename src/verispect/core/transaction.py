"""The transaction: what an operator says of several inferences together (spec/transaction.md).

A statement of constant size is signed; the parts are the leaves of a Merkle tree whose root is in
it. A leaf names the part's receipt, what assurance it required, how that ended, and from which
earlier outputs its input was fed. `verispect.core.transaction_files` carries it with its parts.

Everything here is shape: nothing is believed because it was read. The tree is computed in
`verispect.tlog.transaction_tree`, the judgement is made in `verispect.appraisal.transaction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar, cast

from verispect.core.cbor_items import ARRAY, byte_string, head, integer, text
from verispect.core.commitments import Part
from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode, sha256
from verispect.core.envelope import SignedEnvelope, open_envelope
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.core.statement import INFERENCE_ID_BYTES

TRANSACTION_TYPE: Final = "application/verispect-transaction+cbor"
TRANSACTION_VERSION: Final = 1
MAX_PARTS: Final = 256
MAX_DEPENDENCIES: Final = 16
MAX_POINTER_CHARACTERS: Final = 256
MAX_REASON_CHARACTERS: Final = 64
MAX_TRANSACTION_BYTES: Final = 1024

_LEAF_DOMAIN: Final = b"verispect-transaction-part-v1"
_POLICY_DOMAIN: Final = b"verispect-transaction-policy-v1"
_NONCE_DOMAIN: Final = b"verispect-transaction-nonce-v1"
_PART_NONCE_DOMAIN: Final = b"verispect-transaction-part-nonce-v1"
_PART_NONCE_BYTES: Final = 16
_MAX_INTEGER: Final = (1 << 63) - 1


class TransactionOutcome(IntEnum):
    """How a transaction ended, or that it has not. The numbers are on the wire."""

    COMMITTED = 1
    """Every part met the assurance that it required."""
    FAILED = 2
    ABORTED = 3
    """Given up before it was committed, by its caller or by its time-out."""
    PENDING = 4
    """Its caller committed it; evidence of a part may still come until a deadline."""

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower()


class PartOutcome(IntEnum):
    """How one part stood when the statement was signed."""

    MET = 1
    PENDING = 2
    """Not decided: evidence may still come, or the transaction ended before it was asked."""
    FAILED = 3

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower()


class ValueForm(IntEnum):
    """How an earlier output became a later input."""

    SAME = 1
    """As it is: text as text, numbers as numbers."""
    TEXT = 2
    """As its JSON text, where it is no text already."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """Which committed output of an earlier part is which committed input of this one."""

    source: int
    """Index of the earlier part."""
    source_part: Part
    source_pointer: str
    """Place in the content of that commitment."""
    source_commitment: Digest
    target_part: Part
    target_pointer: str
    target_commitment: Digest
    form: ValueForm

    def to_row(self) -> list[Any]:
        """Return the wire form."""
        return [
            self.source,
            int(self.source_part),
            self.source_pointer,
            self.source_commitment,
            int(self.target_part),
            self.target_pointer,
            self.target_commitment,
            int(self.form),
        ]

    @classmethod
    def from_row(cls, value: Any) -> Dependency:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-transaction`.
        """
        read = array_of(value, 8, "dependency")
        return cls(
            source=_integer(read[0], "source"),
            source_part=_number(Part, read[1], "source part"),
            source_pointer=_pointer(read[2]),
            source_commitment=read_digest(read[3], "source commitment"),
            target_part=_number(Part, read[4], "target part"),
            target_pointer=_pointer(read[5]),
            target_commitment=read_digest(read[6], "target commitment"),
            form=_number(ValueForm, read[7], "form"),
        )


@dataclass(frozen=True, slots=True)
class TransactionPart:
    """One leaf of the tree."""

    index: int
    receipt: Digest
    assurance: Digest
    """Digest of the policy that this part required."""
    outcome: PartOutcome
    reason: str | None = None
    """Why it failed, a reason code; `None` otherwise."""
    dependencies: Sequence[Dependency] = ()

    def to_row(self) -> list[Any]:
        """Return the wire form."""
        fed = [each.to_row() for each in self.dependencies]
        return [self.index, self.receipt, self.assurance, int(self.outcome), self.reason, fed]

    def leaf(self, transaction_id: bytes) -> bytes:
        """Return the content of this part's leaf in the tree of that transaction."""
        return _LEAF_DOMAIN + transaction_id + self.encode()

    def encode(self) -> bytes:
        """Return the wire form's bytes."""
        # Written out, because whoever commits waits for all of them; `encode` of the row gives
        # these bytes.
        fed = b"".join([encode(each.to_row()) for each in self.dependencies])
        return b"".join(
            (
                head(ARRAY, 6),
                integer(self.index),
                byte_string(self.receipt),
                byte_string(self.assurance),
                integer(self.outcome),
                b"\xf6" if self.reason is None else text(self.reason),
                head(ARRAY, len(self.dependencies)),
                fed,
            )
        )

    @classmethod
    def from_row(cls, value: Any) -> TransactionPart:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-transaction`.
        """
        index, receipt, assurance, outcome, reason, fed = array_of(value, 6, "part")
        part = cls(
            index=_integer(index, "index"),
            receipt=read_digest(receipt, "receipt"),
            assurance=read_digest(assurance, "assurance"),
            outcome=_number(PartOutcome, outcome, "outcome"),
            reason=None if reason is None else _reason(reason),
            dependencies=tuple(
                Dependency.from_row(each)
                for each in array_up_to(fed, MAX_DEPENDENCIES, "dependencies")
            ),
        )
        if (part.outcome is PartOutcome.FAILED) != (part.reason is not None):
            raise malformed("a part has a reason where it failed, and only there")
        if part.index >= MAX_PARTS or any(each.source >= index for each in part.dependencies):
            raise malformed("a part depends on an earlier one, and has an index within the limit")
        return part


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transaction is not committed."""

    reason: str
    """A reason code."""
    index: int | None = None
    """The part at fault; equal to the count where that part got no receipt."""


@dataclass(frozen=True, slots=True)
class TransactionStatement:
    """What the operator signs. Times are milliseconds since the epoch."""

    transaction_id: bytes
    opened_at: int
    decided_at: int
    outcome: TransactionOutcome
    policy: Digest
    """`policy_digest` of what the parts required."""
    count: int
    root: Digest
    failure: Failure | None = None
    """There where the outcome is failed or aborted."""
    nonce: Digest | None = None
    """`nonce_digest` of the caller's nonce; absent where it sent none."""
    due_at: int | None = None
    """There where the outcome is pending: when the last promised evidence is due."""

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        result: dict[int, Any] = {
            1: TRANSACTION_VERSION,
            2: self.transaction_id,
            3: self.opened_at,
            4: self.decided_at,
            5: int(self.outcome),
            6: self.policy,
            7: self.count,
            8: self.root,
        }
        if self.failure is not None:
            result[9] = [self.failure.index, self.failure.reason]
        if self.nonce is not None:
            result[10] = self.nonce
        if self.due_at is not None:
            result[11] = self.due_at
        return encode(result)

    @classmethod
    def decode(cls, payload: bytes) -> TransactionStatement:
        """Read a payload.

        Raises:
            MalformedError: `malformed-transaction`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        read = decode(payload, limit=MAX_TRANSACTION_BYTES)
        if type(read) is not dict:
            raise malformed("not a map")
        version = _integer(read.get(1), "version")
        if version != TRANSACTION_VERSION:
            raise UnsupportedError(
                f"expected transaction version {TRANSACTION_VERSION}, got {version}",
                reason=Reason.UNSUPPORTED_VERSION,
            )
        names = set(read)
        if not set(range(1, 9)) <= names <= set(range(1, 12)):
            raise malformed("a field is missing or unknown")
        statement = cls(
            transaction_id=_identifier(read[2]),
            opened_at=_integer(read[3], "opened_at"),
            decided_at=_integer(read[4], "decided_at"),
            outcome=_number(TransactionOutcome, read[5], "outcome"),
            policy=read_digest(read[6], "policy"),
            count=_integer(read[7], "count"),
            root=read_digest(read[8], "root"),
            failure=_failure(read[9]) if 9 in read else None,
            nonce=read_digest(read[10], "nonce") if 10 in read else None,
            due_at=_integer(read[11], "due_at") if 11 in read else None,
        )
        statement.check_form()
        return statement

    def check_form(self) -> None:
        """Check what the fields say of each other.

        Raises:
            MalformedError: `malformed-transaction`.
        """
        given_up = self.outcome in (TransactionOutcome.FAILED, TransactionOutcome.ABORTED)
        if given_up != (self.failure is not None):
            raise malformed("a reason stands where a transaction failed or was aborted, only there")
        if (self.outcome is TransactionOutcome.PENDING) != (self.due_at is not None):
            raise malformed("a deadline stands where a transaction is pending, and only there")
        if self.count > MAX_PARTS or (self.count == 0 and not given_up):
            raise malformed(f"expected 1 to {MAX_PARTS} parts")
        if self.failure is not None and (self.failure.index or 0) > self.count:
            raise malformed("the part at fault is beyond the parts")


def policy_digest(assurances: Iterable[Digest]) -> Digest:
    """Return the digest of a transaction's policy: those of its parts, in their order."""
    return sha256(_POLICY_DOMAIN + b"".join(assurances))


def encode_parts(parts: Sequence[TransactionPart]) -> bytes:
    """Return the rows of all parts as one array."""
    return head(ARRAY, len(parts)) + b"".join([part.encode() for part in parts])


def nonce_digest(transaction_id: bytes, nonce: bytes) -> Digest:
    """Return what a statement holds of its caller's nonce, which itself stays off the log."""
    return sha256(_NONCE_DOMAIN + transaction_id + nonce)


def part_nonce(nonce: bytes, index: int) -> bytes:
    """Return the nonce of a part that the caller of the transaction gave none of its own."""
    return sha256(_PART_NONCE_DOMAIN + nonce + index.to_bytes(4, "big"))[:_PART_NONCE_BYTES]


def open_transaction(data: bytes) -> tuple[SignedEnvelope, TransactionStatement]:
    """Open a signed transaction statement. Shape only.

    Raises:
        MalformedError: `malformed-transaction`, and as envelopes.
        UnsupportedError: `unsupported-version`, and as envelopes.
    """
    envelope = open_envelope(data, content_type=TRANSACTION_TYPE)
    statement = TransactionStatement.decode(envelope.payload)
    if envelope.subject != statement.transaction_id.hex():
        raise malformed("the subject is another transaction")
    if envelope.evidence:
        raise malformed("a transaction's unprotected header is empty")
    return envelope, statement


# -- Reading --------------------------------------------------------------------------------------


def malformed(what: str) -> MalformedError:
    """Return the error for another form."""
    return MalformedError(what, reason=Reason.MALFORMED_TRANSACTION)


def _integer(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise malformed(f"{name} is not a non-negative integer")
    return value


def read_digest(value: Any, name: str) -> Digest:
    """Read a digest."""
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise malformed(f"{name} is not a digest of {DIGEST_BYTES} bytes")
    return Digest(value)


def _identifier(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != INFERENCE_ID_BYTES:
        raise malformed("the id has the wrong length")
    return value


def array_of(value: Any, length: int, name: str) -> list[Any]:
    """Read an array of this length."""
    if type(value) is not list or len(value) != length:
        raise malformed(f"{name} is not an array of {length}")
    return value


def array_up_to(value: Any, limit: int, name: str) -> list[Any]:
    """Read an array of at most this length."""
    if type(value) is not list or len(value) > limit:
        raise malformed(f"{name} is not an array of at most {limit}")
    return value


def _short_text(value: Any, limit: int, name: str) -> str:
    # Printable, because it is shown: one with control characters could forge a line.
    if type(value) is not str or len(value) > limit or not value.isprintable():
        raise malformed(f"{name} is not printable text of at most {limit} characters")
    return value


def _pointer(value: Any) -> str:
    return _short_text(value, MAX_POINTER_CHARACTERS, "a pointer")


def _reason(value: Any) -> str:
    return _short_text(value, MAX_REASON_CHARACTERS, "a reason")


def _failure(value: Any) -> Failure:
    index, reason = array_of(value, 2, "failure")
    return Failure(_reason(reason), None if index is None else _integer(index, "index"))


_Number = TypeVar("_Number", bound=IntEnum)


def _number(kind: type[_Number], value: Any, name: str) -> _Number:
    member = kind._value2member_map_.get(value) if type(value) is int else None
    if member is None:
        raise malformed(f"{name} is unknown")
    return cast(_Number, member)
