"""The statement: what the operator claims about one inference (spec/statement.md).

A statement is data that somebody signed. Nothing in it is believed because it is here. It holds
digests, counts, times and names; prompts and outputs stand outside, behind salted commitments.
Unknown fields are refused: a reader that skipped one could be told less than was signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, Final, TypeVar, cast

from verispect.core.commitments import Part
from verispect.core.encoding import DIGEST_BYTES, Digest, decode
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.core.statement_wire import statement_map, write_statement

STATEMENT_VERSION: Final = 1
MAX_STATEMENT_BYTES: Final = 4096
MAX_NAME_CHARACTERS: Final = 256
MAX_FINISH_REASONS: Final = 128
MAX_PROMISES: Final = 16
NONCE_BYTES: Final = range(8, 65)
INFERENCE_ID_BYTES: Final = 16

_MAX_INTEGER: Final = (1 << 63) - 1


class ModelIdentity(IntEnum):
    """How the operator knows which model ran."""

    LOCAL_WEIGHTS = 1
    """The digest of weights that this operator loaded."""
    UPSTREAM_REPORTED = 2
    """The name that somebody else's service reported; never shown like loaded weights."""

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower().replace("_", "-")


class ServedLane(IntEnum):
    """How the request shared its engine with others."""

    DETERMINISTIC = 1
    THROUGHPUT = 2

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower()


class Determinism(IntEnum):
    """The determinism class that the model's manifest states for this engine."""

    UNQUALIFIED = 0
    NONE = 1
    TOLERANT = 2
    EXACT_BATCH_ONE = 3
    EXACT = 4

    @property
    def label(self) -> str:
        """The name in JSON views and manifests."""
        return "exact-batch1" if self is Determinism.EXACT_BATCH_ONE else self.name.lower()


@dataclass(frozen=True, slots=True)
class ExecutedModel:
    """The model that ran, and the engine that ran it."""

    identity: ModelIdentity
    model_id: Digest
    """Digest of the model manifest."""
    engine: Digest
    """Digest of the engine identity."""
    determinism: Determinism
    lane: ServedLane


@dataclass(frozen=True, slots=True)
class Price:
    """Price and charge, in the smallest unit of `asset`; the charge never exceeds the ceiling."""

    asset: str
    """CAIP-19 asset identifier."""
    input_per_million: int
    output_per_million: int
    charge: int
    ceiling: int


@dataclass(frozen=True, slots=True)
class PaymentBinding:
    """The payment authorisation that the charge is taken from."""

    scheme: str
    authorisation: Digest


@dataclass(frozen=True, slots=True)
class TransactionBinding:
    """The place of this inference in a transaction of several."""

    transaction_id: bytes
    index: int
    count: int
    """How many parts there are; 0 where that was open when this was signed."""


@dataclass(frozen=True, slots=True)
class ServiceBinding:
    """The published version of a service whose system prompt and tools were used."""

    name: str
    version: int
    """1, 2, 3 and so on."""
    digest: Digest
    """Digest of the version's signed envelope (spec/log.md section 8.3)."""


@dataclass(frozen=True, slots=True)
class PromisedEvidence:
    """Evidence that stands with this receipt, or that is due by a deadline."""

    kind: str
    digest: Digest | None = None
    """Digest of evidence that was ready when the statement was signed."""
    due_at: int | None = None
    """Milliseconds since the epoch; `None` where the evidence is already there."""


@dataclass(frozen=True, slots=True)
class StreamBinding:
    """The hash chain over the chunks of a streamed answer."""

    chunks: int
    head: Digest


@dataclass(frozen=True, slots=True)
class InferenceStatement:
    """What the operator claims about one inference. Times are milliseconds since the epoch."""

    sequence: int
    """Gapless per issuer key, from 1."""
    received_at: int
    completed_at: int
    signed_at: int
    operation: str
    """The interface that was called, for example `chat.completions`."""
    requested_model: str
    model: ExecutedModel
    commitments: Mapping[Part, Digest]
    """A part that is absent was absent from the request or the answer."""
    finish_reasons: Sequence[str]
    usage: Mapping[str, int]
    assurance: Digest
    """Digest of the assurance policy that the caller required."""
    evidence: Sequence[PromisedEvidence]
    nonce: bytes | None = None
    stream: StreamBinding | None = None
    price: Price | None = None
    payment: PaymentBinding | None = None
    transaction: TransactionBinding | None = None
    confidential: Digest | None = None
    """Digest of the key to which the request came encrypted; `None` where it came in the clear."""
    service: ServiceBinding | None = None
    """The service that was asked, and the version of it that answered."""
    version: int = field(default=STATEMENT_VERSION)

    def encode(self) -> bytes:
        """Return the payload bytes that are signed."""
        return write_statement(self, self.sequence, self.signed_at)

    def encode_numbered(self, sequence: int, signed_at: int) -> bytes:
        """Return the payload with this number and time instead of the draft's."""
        return write_statement(self, sequence, signed_at)

    def to_map(self) -> dict[int, Any]:
        """Return the payload before it is encoded."""
        return statement_map(self)

    @classmethod
    def decode(cls, payload: bytes) -> InferenceStatement:
        """Read a payload.

        Raises:
            MalformedError: `malformed-statement`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        return _from_map(decode(payload, limit=MAX_STATEMENT_BYTES))


# -- Wire form ------------------------------------------------------------------------------------

_REQUIRED: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13})
_OPTIONAL: Final = frozenset({14, 15, 16, 17, 18, 19, 20})


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_STATEMENT)


def _integer(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise _malformed(f"{name} is not a non-negative integer")
    return value


def _text(value: Any, name: str) -> str:
    # Printable, because names are shown: one with control characters could forge a line.
    if (
        type(value) is not str
        or not 0 < len(value) <= MAX_NAME_CHARACTERS
        or not value.isprintable()
    ):
        raise _malformed(f"{name} is not printable text of 1 to {MAX_NAME_CHARACTERS} characters")
    return value


def _digest(value: Any, name: str) -> Digest:
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise _malformed(f"{name} is not a digest of {DIGEST_BYTES} bytes")
    return Digest(value)


def _row(value: Any, length: int, name: str) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise _malformed(f"{name} is not an array of {length}")
    return value


def _list(value: Any, limit: int, name: str) -> list[Any]:
    if type(value) is not list or len(value) > limit:
        raise _malformed(f"{name} is not an array of at most {limit}")
    return value


_Number = TypeVar("_Number", bound=IntEnum)


def _number(kind: type[_Number], value: Any, name: str) -> _Number:
    member = kind._value2member_map_.get(value) if type(value) is int else None
    if member is None:
        raise _malformed(f"{name} is unknown")
    return cast(_Number, member)


def _from_map(fields: Any) -> InferenceStatement:
    if type(fields) is not dict:
        raise _malformed("statement is not a map")
    version = _integer(fields.get(1), "version")
    if version != STATEMENT_VERSION:
        raise UnsupportedError(
            f"expected statement version {STATEMENT_VERSION}, got {version}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
    names = fields.keys()
    if not names >= _REQUIRED or not names <= _REQUIRED | _OPTIONAL:
        raise _malformed("a field is missing or unknown")
    statement = InferenceStatement(
        version=version,
        sequence=_integer(fields[2], "sequence"),
        received_at=_integer(fields[3], "received_at"),
        completed_at=_integer(fields[4], "completed_at"),
        signed_at=_integer(fields[5], "signed_at"),
        operation=_text(fields[6], "operation"),
        requested_model=_text(fields[7], "requested_model"),
        model=_executed_model(fields[8]),
        commitments=_commitments(fields[9]),
        finish_reasons=[
            _text(item, "finish_reason")
            for item in _list(fields[10], MAX_FINISH_REASONS, "finish_reasons")
        ],
        usage=_usage(fields[11]),
        assurance=_digest(fields[12], "assurance"),
        evidence=[_promise(item) for item in _list(fields[13], MAX_PROMISES, "evidence")],
        nonce=_when_present(fields, 14, _nonce),
        stream=_when_present(fields, 15, _stream),
        price=_when_present(fields, 16, _price),
        payment=_when_present(fields, 17, _payment),
        transaction=_when_present(fields, 18, _transaction),
        confidential=_when_present(fields, 19, partial(_digest, name="confidential")),
        service=_when_present(fields, 20, _service),
    )
    if statement.sequence == 0:
        raise _malformed("sequence starts at 1")
    return statement


_Value = TypeVar("_Value")


def _when_present(fields: dict[int, Any], key: int, read: Callable[[Any], _Value]) -> _Value | None:
    return read(fields[key]) if key in fields else None


def _executed_model(value: Any) -> ExecutedModel:
    identity, model_id, engine, determinism, lane = _row(value, 5, "model")
    return ExecutedModel(
        identity=_number(ModelIdentity, identity, "model identity"),
        model_id=_digest(model_id, "model_id"),
        engine=_digest(engine, "engine"),
        determinism=_number(Determinism, determinism, "determinism"),
        lane=_number(ServedLane, lane, "lane"),
    )


def _commitments(value: Any) -> dict[Part, Digest]:
    if type(value) is not dict:
        raise _malformed("commitments is not a map")
    return {
        _number(Part, number, "part"): _digest(commitment, "commitment")
        for number, commitment in value.items()
    }


def _usage(value: Any) -> dict[str, int]:
    if type(value) is not dict or len(value) > len(_PARTS_OF_USAGE):
        raise _malformed("usage is not a map")
    for name, count in value.items():
        if name not in _PARTS_OF_USAGE:
            raise _malformed("usage counts something unknown")
        _integer(count, "usage")
    return value


_PARTS_OF_USAGE: Final = frozenset(
    {"input_tokens", "cached_tokens", "output_tokens", "input_bytes", "output_bytes"}
)


def _promise(value: Any) -> PromisedEvidence:
    kind, digest, due_at = _row(value, 3, "evidence")
    return PromisedEvidence(
        kind=_text(kind, "evidence kind"),
        digest=None if digest is None else _digest(digest, "evidence digest"),
        due_at=None if due_at is None else _integer(due_at, "evidence deadline"),
    )


def _nonce(value: Any) -> bytes:
    if type(value) is not bytes or len(value) not in NONCE_BYTES:
        raise _malformed("nonce has the wrong length")
    return value


def _stream(value: Any) -> StreamBinding:
    chunks, head = _row(value, 2, "stream")
    return StreamBinding(_integer(chunks, "chunks"), _digest(head, "stream head"))


def _price(value: Any) -> Price:
    asset, *amounts = _row(value, 5, "price")
    input_rate, output_rate, charge, ceiling = (_integer(amount, "amount") for amount in amounts)
    if charge > ceiling:
        raise _malformed("the charge exceeds the ceiling")
    return Price(_text(asset, "asset"), input_rate, output_rate, charge, ceiling)


def _payment(value: Any) -> PaymentBinding:
    scheme, authorisation = _row(value, 2, "payment")
    return PaymentBinding(_text(scheme, "scheme"), _digest(authorisation, "authorisation"))


def _transaction(value: Any) -> TransactionBinding:
    identifier, index, count = _row(value, 3, "transaction")
    if type(identifier) is not bytes or len(identifier) != INFERENCE_ID_BYTES:
        raise _malformed("transaction id has the wrong length")
    binding = TransactionBinding(identifier, _integer(index, "index"), _integer(count, "count"))
    if 0 < binding.count <= binding.index:
        raise _malformed("transaction index is not below its count")
    return binding


def _service(value: Any) -> ServiceBinding:
    name, version, digest = _row(value, 3, "service")
    binding = ServiceBinding(
        _text(name, "service"), _integer(version, "version"), _digest(digest, "service version")
    )
    if binding.version == 0:
        raise _malformed("versions of a service start at 1")
    return binding
