"""The leaf of a receipt: a function of the receipt, and what of it the public may see.

A leaf names the receipt by its digest, which says nothing of what it covers: the statement below
it holds salted commitments. The model stands behind a commitment of its own, whose salt comes from
the statement's signature; an operator may also show model, usage or charge in the clear, for the
whole log, so that anyone can count what the log is used for.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode_ordered, sha256
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.core.keys import KeyId
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import (
    INFERENCE_ID_BYTES,
    MAX_PROMISES,
    PromisedEvidence,
    TransactionBinding,
)
from verispect.tlog import fields

LEAF_VERSION: Final = 1
"""Of every kind of leaf."""

RECEIPT_KIND: Final = 1
MAX_EVIDENCE_KIND_CHARACTERS: Final = 256
MAX_USAGE_COUNTS: Final = 8

_SALT_DOMAIN: Final = b"verispect-log-salt-v1"
_MODEL_DOMAIN: Final = b"verispect-log-model-v1"


class Disclosure(Flag):
    """What of a receipt its leaf shows in the clear, by the operator's choice for the whole log."""

    NOTHING = 0
    MODEL = 1
    USAGE = 2
    CHARGE = 4


def commitment_salt(signature: bytes) -> bytes:
    """Return the salt of a receipt leaf's commitments, from the signature of its statement.

    Who holds the receipt can compute it, and can show it without showing the receipt.
    """
    return sha256(_SALT_DOMAIN + signature)


def commit_model(model_id: bytes, *, salt: bytes) -> Digest:
    """Return the commitment of a receipt leaf to its model."""
    return Digest(hmac.digest(salt, _MODEL_DOMAIN + model_id, "sha256"))


@dataclass(frozen=True, slots=True)
class ReceiptLeaf:
    """A receipt was issued. The log's word; the receipt itself has the issuer's signature."""

    receipt: Digest
    """The receipt's id."""
    issuer_key: KeyId
    sequence: int
    signed_at: int
    assurance: Digest
    """Digest of the assurance policy that the caller required."""
    evidence: Sequence[PromisedEvidence]
    model: Digest
    """Salted commitment to the model's id."""
    transaction: TransactionBinding | None = None
    model_id: Digest | None = None
    usage: Mapping[str, int] | None = None
    charge: tuple[str, int] | None = None
    """Asset and amount, in its smallest unit."""

    @classmethod
    def of(
        cls, receipt: InferenceReceipt, *, disclose: Disclosure = Disclosure.NOTHING
    ) -> ReceiptLeaf:
        """Return the leaf of a receipt.

        Args:
            receipt: believed as it is; who appends verifies it first.
            disclose: what the leaf shows in the clear.
        """
        statement = receipt.unverified_statement
        price = statement.price
        model_id = statement.model.model_id
        return cls(
            receipt=receipt.receipt_id,
            issuer_key=receipt.envelope.key_id,
            sequence=statement.sequence,
            signed_at=statement.signed_at,
            assurance=statement.assurance,
            evidence=tuple(statement.evidence),
            model=commit_model(model_id, salt=commitment_salt(receipt.envelope.signature)),
            transaction=statement.transaction,
            model_id=model_id if Disclosure.MODEL in disclose else None,
            usage=statement.usage if Disclosure.USAGE in disclose else None,
            charge=(price.asset, price.charge) if price and Disclosure.CHARGE in disclose else None,
        )

    def check(self, receipt: InferenceReceipt) -> None:
        """Check that this is the leaf of `receipt`, whatever it discloses.

        Raises:
            VerificationError: `content-mismatch`.
        """
        whole = Disclosure.MODEL | Disclosure.USAGE | Disclosure.CHARGE
        expected = ReceiptLeaf.of(receipt, disclose=whole)
        shown = replace(
            expected,
            model_id=None if self.model_id is None else expected.model_id,
            usage=None if self.usage is None else expected.usage,
            charge=None if self.charge is None else expected.charge,
        )
        if shown.encode() != self.encode():
            raise VerificationError(
                "the leaf is not this receipt's", reason=Reason.CONTENT_MISMATCH
            )

    def encode(self) -> bytes:
        """Return the leaf's bytes."""
        # Written out, because every receipt passes here; `encode` of the map gives these bytes.
        optional = self._optional()
        parts = [
            bytes((0xA9 + len(optional), 1, LEAF_VERSION, 2, RECEIPT_KIND)),
            b"\x03\x58\x20",
            self.receipt,
            b"\x04\x58\x20",
            self.issuer_key,
            b"\x05",
            _unsigned(self.sequence),
            b"\x06",
            _unsigned(self.signed_at),
            b"\x07\x58\x20",
            self.assurance,
            b"\x08",
            _encode_promises(self.evidence),
            b"\x09\x58\x20",
            self.model,
        ]
        for key, value in optional.items():
            parts += (bytes((key,)), encode_ordered(value))
        return b"".join(parts)

    def _optional(self) -> dict[int, Any]:
        optional: dict[int, Any] = {}
        if (transaction := self.transaction) is not None:
            optional[10] = [transaction.transaction_id, transaction.index, transaction.count]
        if self.model_id is not None:
            optional[11] = self.model_id
        if self.usage is not None:
            by_length = sorted(self.usage.items(), key=lambda item: (len(item[0]), item[0]))
            optional[12] = dict(by_length)
        if self.charge is not None:
            optional[13] = list(self.charge)
        return optional

    @classmethod
    def from_map(cls, read: dict[int, Any]) -> ReceiptLeaf:
        """Read the decoded map of a leaf whose version and kind were looked at.

        Raises:
            MalformedError: `malformed-leaf`.
        """
        fields.check_keys(read, set(range(1, 10)), {10, 11, 12, 13})
        leaf = cls(
            receipt=fields.digest(read[3], "receipt"),
            issuer_key=KeyId(fields.digest(read[4], "issuer_key")),
            sequence=fields.integer(read[5], "sequence"),
            signed_at=fields.integer(read[6], "signed_at"),
            assurance=fields.digest(read[7], "assurance"),
            evidence=tuple(
                _promise(each) for each in fields.rows(read[8], MAX_PROMISES, "evidence")
            ),
            model=fields.digest(read[9], "model"),
            **_read_optional(read),
        )
        if leaf.sequence == 0:
            raise fields.malformed("sequence starts at 1")
        return leaf


# -- The commonest form, read by offsets --------------------------------------------------------

_HEADS: Final = {
    bytes((0xA9 + count, 1, LEAF_VERSION, 2, RECEIPT_KIND, 3, 0x58, 0x20)): count
    for count in range(5)
}
_DIGEST_AT_8: Final = slice(8, 40)


def read_plain(data: bytes) -> ReceiptLeaf | None:
    """Read a receipt leaf that lists no evidence but the signature, several times as quick.

    Returns:
        What decoding the map gives, or `None` where the leaf has another form: then the map
        decides, also on what is wrong with it.
    """
    count = _HEADS.get(data[:8])
    if count is None or data[40:43] != b"\x04\x58\x20" or data[75:76] != b"\x05":
        return None
    sequence, offset = _read_unsigned(data, 76)
    if not sequence or data[offset : offset + 1] != b"\x06":
        return None
    signed_at, offset = _read_unsigned(data, offset + 1)
    middle = offset + 35
    end = middle + len(_AFTER_ASSURANCE) + DIGEST_BYTES
    if (
        signed_at is None
        or data[offset : offset + 3] != b"\x07\x58\x20"
        or data[middle : end - DIGEST_BYTES] != _AFTER_ASSURANCE
        or len(data) < end
        or (count == 0) != (len(data) == end)
    ):
        return None
    optional: dict[int, Any] = {}
    if count:
        try:
            # What is left is the rest of the map: a map of its own, with the keys above 9.
            optional = decode(bytes((0xA0 | count,)) + data[end:])
            fields.check_keys(optional, set(), {10, 11, 12, 13})
        except MalformedError:
            return None
    return ReceiptLeaf(
        Digest(data[_DIGEST_AT_8]),
        KeyId(data[43:75]),
        sequence,
        signed_at,
        Digest(data[offset + 3 : middle]),
        _SIGNATURE_PROMISES,
        Digest(data[end - DIGEST_BYTES : end]),
        **_read_optional(optional),
    )


def _read_unsigned(data: bytes, offset: int) -> tuple[int | None, int]:
    """Read an integer in its shortest form and within 63 bits; `None` where it is none."""
    head = data[offset] if offset < len(data) else 0xFF
    if head < 24:
        return head, offset + 1
    if not 24 <= head <= 27:
        return None, offset
    width = 1 << (head - 24)
    end = offset + 1 + width
    value = int.from_bytes(data[offset + 1 : end], "big")
    least = 24 if width == 1 else 1 << (4 * width)
    if end > len(data) or not least <= value < 1 << 63:
        return None, offset
    return value, end


def _unsigned(value: int) -> bytes:
    """Return a non-negative integer as CBOR."""
    if value < 24:
        return bytes((value,))
    if value < 1 << 8:
        return b"\x18" + value.to_bytes(1, "big")
    if value < 1 << 16:
        return b"\x19" + value.to_bytes(2, "big")
    if value < 1 << 32:
        return b"\x1a" + value.to_bytes(4, "big")
    return b"\x1b" + value.to_bytes(8, "big")


_SIGNATURE_PROMISES: Final = (PromisedEvidence("signature"),)
_SIGNATURE_ONLY: Final = encode_ordered([["signature", None, None]])
_AFTER_ASSURANCE: Final = b"\x08" + _SIGNATURE_ONLY + b"\x09\x58\x20"


def _encode_promises(evidence: Sequence[PromisedEvidence]) -> bytes:
    if len(evidence) == 1 and evidence[0] == PromisedEvidence("signature"):
        return _SIGNATURE_ONLY  # What most receipts list.
    return encode_ordered([[each.kind, each.digest, each.due_at] for each in evidence])


def _read_optional(read: dict[int, Any]) -> dict[str, Any]:
    if not read:
        return {}
    return {
        "transaction": _transaction(read[10]) if 10 in read else None,
        "model_id": fields.digest(read[11], "model_id") if 11 in read else None,
        "usage": _usage(read[12]) if 12 in read else None,
        "charge": _charge(read[13]) if 13 in read else None,
    }


def _promise(value: Any) -> PromisedEvidence:
    kind, digest, due_at = fields.row(value, 3, "evidence")
    return PromisedEvidence(
        kind=fields.text(kind, "evidence kind", MAX_EVIDENCE_KIND_CHARACTERS),
        digest=fields.optional_digest(digest, "evidence digest"),
        due_at=None if due_at is None else fields.integer(due_at, "evidence deadline"),
    )


def _transaction(value: Any) -> TransactionBinding:
    identifier, index, count = fields.row(value, 3, "transaction")
    if type(identifier) is not bytes or len(identifier) != INFERENCE_ID_BYTES:
        raise fields.malformed("transaction id has the wrong length")
    index, count = fields.integer(index, "index"), fields.integer(count, "count")
    if 0 < count <= index:
        raise fields.malformed("transaction index is not below its count")
    return TransactionBinding(identifier, index, count)


def _usage(value: Any) -> dict[str, int]:
    if type(value) is not dict or len(value) > MAX_USAGE_COUNTS:
        raise fields.malformed("usage is not a map")
    return {
        fields.text(name, "usage"): fields.integer(count, "usage") for name, count in value.items()
    }


def _charge(value: Any) -> tuple[str, int]:
    asset, amount = fields.row(value, 2, "charge")
    limit = MAX_EVIDENCE_KIND_CHARACTERS
    return fields.text(asset, "asset", limit), fields.integer(amount, "charge")
