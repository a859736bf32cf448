"""A transaction as a file: whole, or one part of it with the others closed (spec/transaction.md).

`TransactionBundle` carries the signed statement with every part; `DisclosedPart` the statement with
one part and its path to the root. Receipts and openings may be left out of either. Shape only:
nothing here is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.commitments import OpenedParts, decode_openings, encode_openings
from verispect.core.encoding import Digest, decode, encode
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import Reason, UnsupportedError
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import (
    MAX_DEPENDENCIES,
    MAX_PARTS,
    TRANSACTION_VERSION,
    TransactionPart,
    TransactionStatement,
    array_of,
    array_up_to,
    malformed,
    open_transaction,
    read_digest,
)

MAX_BUNDLE_BYTES: Final = 67_108_864
MAX_PATH_HASHES: Final = 8
"""Of a tree of `MAX_PARTS` leaves."""

_BUNDLE_MAGIC: Final = "verispect-transaction"
_DISCLOSED_MAGIC: Final = "verispect-transaction-part"
_MAX_ITEMS: Final = MAX_PARTS * (MAX_DEPENDENCIES * 9 + 16) + 64


@dataclass(frozen=True, slots=True)
class BundledPart:
    """One part with what is shown of it."""

    part: TransactionPart
    receipt: InferenceReceipt | None = None
    openings: OpenedParts | None = None

    def to_row(self) -> list[Any]:
        """Return the wire form."""
        return [
            self.part.to_row(),
            None if self.receipt is None else self.receipt.encode(),
            None if self.openings is None else encode_openings(self.openings),
        ]

    @classmethod
    def from_row(cls, value: Any) -> BundledPart:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-transaction`, and as receipts and openings.
        """
        part, receipt, openings = array_of(value, 3, "part")
        for data in (receipt, openings):
            if data is not None and type(data) is not bytes:
                raise malformed("a receipt or openings are not bytes")
        return cls(
            TransactionPart.from_row(part),
            None if receipt is None else InferenceReceipt.parse(receipt),
            None if openings is None else decode_openings(openings),
        )


@dataclass(frozen=True, slots=True)
class TransactionBundle:
    """A signed transaction with all its parts, as one file."""

    envelope: SignedEnvelope
    statement: TransactionStatement
    parts: Sequence[BundledPart]

    def encode(self) -> bytes:
        """Return the wire form."""
        rows = [each.to_row() for each in self.parts]
        return encode([_BUNDLE_MAGIC, TRANSACTION_VERSION, self.envelope.encode(), rows])

    @classmethod
    def parse(cls, data: bytes) -> TransactionBundle:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-transaction`, and as envelopes, receipts and openings.
            UnsupportedError: as these.
        """
        signed, rows = _file(data, _BUNDLE_MAGIC, 2)
        envelope, statement = open_transaction(signed)
        parts = tuple(BundledPart.from_row(row) for row in array_up_to(rows, MAX_PARTS, "parts"))
        return cls(envelope, statement, parts)


@dataclass(frozen=True, slots=True)
class DisclosedPart:
    """One part of a signed transaction, the others closed."""

    envelope: SignedEnvelope
    statement: TransactionStatement
    shown: BundledPart
    path: Sequence[Digest]
    """From the leaf's sibling up to the root."""

    def encode(self) -> bytes:
        """Return the wire form."""
        signed = self.envelope.encode()
        head = [_DISCLOSED_MAGIC, TRANSACTION_VERSION, signed]
        return encode([*head, self.shown.to_row(), list(self.path)])

    @classmethod
    def parse(cls, data: bytes) -> DisclosedPart:
        """Read the wire form.

        Raises:
            MalformedError: `malformed-transaction`, and as envelopes, receipts and openings.
            UnsupportedError: as these.
        """
        signed, row, path = _file(data, _DISCLOSED_MAGIC, 3)
        envelope, statement = open_transaction(signed)
        hashes = tuple(
            read_digest(each, "path") for each in array_up_to(path, MAX_PATH_HASHES, "path")
        )
        return cls(envelope, statement, BundledPart.from_row(row), hashes)


def is_transaction_file(data: bytes) -> bool:
    """Tell whether bytes begin as a bundle or a disclosed part."""
    magics = ((_BUNDLE_MAGIC, b"\x84"), (_DISCLOSED_MAGIC, b"\x85"))
    return any(data.startswith(head + encode(magic)) for magic, head in magics)


def read_transaction_file(data: bytes) -> TransactionBundle | DisclosedPart:
    """Read either file.

    Raises:
        MalformedError: as `TransactionBundle.parse` and `DisclosedPart.parse`.
        UnsupportedError: as these.
    """
    return (TransactionBundle if data[:1] == b"\x84" else DisclosedPart).parse(data)


def _file(data: bytes, magic: str, fields: int) -> list[Any]:
    read = decode(data, limit=MAX_BUNDLE_BYTES, maximum_items=_MAX_ITEMS)
    if type(read) is not list or len(read) != fields + 2 or read[0] != magic:
        raise malformed("not a file of a transaction")
    if type(read[1]) is not int or read[1] != TRANSACTION_VERSION:
        raise UnsupportedError(
            f"expected version {TRANSACTION_VERSION}", reason=Reason.UNSUPPORTED_VERSION
        )
    if type(read[2]) is not bytes:
        raise malformed("the envelope is not a byte string")
    return read[2:]
