"""Reads receipts of the usual shape several times faster than the parser, and never differently.

An issuer's receipts differ in a few places only: numbers, times, digests, the nonce, the signature.
From one receipt that the parser accepted a `Shape` is made: a pattern in which those places may
hold anything that the parser would accept there, and every other byte is fixed. A receipt that
fits is what the parser would have read; one that does not goes to the parser. What is fitted is
the form alone: the signature is checked like any other's.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from verispect.core.encoding import DIGEST_BYTES, Digest, byte_string, decode, encode, sha256
from verispect.core.keys import KeyId
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import MAX_STATEMENT_BYTES
from verispect.tlog.receipt_leaf import (
    Disclosure,
    ReceiptLeaf,
    commit_model,
    commitment_salt,
)

# An integer of the parser's range in its one form. `.` is any byte.
_INTEGER: Final = (
    rb"(?:[\x00-\x17]|\x18[\x18-\xff]|\x19(?!\x00)..|\x1a(?!\x00\x00)...."
    rb"|\x1b(?!\x00\x00\x00\x00)[\x00-\x7f].......)"
)
_POSITIVE: Final = b"(?!\x00)" + _INTEGER
_SEQUENCE, _RECEIVED, _COMPLETED, _SIGNED, _COMMITMENTS, _USAGE, _NONCE = 2, 3, 4, 5, 9, 11, 14
_FIXED: Final = frozenset({1, 6, 7, 8, 10, 12, 13, 20})
_SUBJECT: Final = re.compile(r"[0-9a-f]{32}")
_SIGNATURE_CONTEXT: Final = b"\x84\x6aSignature1"
_LEAF_HEAD: Final = 8
"""Map, version, kind, and the header of the receipt's digest."""


class Fitted(NamedTuple):
    """What was read of a receipt that fits."""

    receipt: Digest
    leaf: bytes
    message: bytes
    """What its signature covers."""
    signature: bytes
    key_id: KeyId
    issuer: str
    signed_at: int


class Shape:
    """One shape of receipts. Made by `of`."""

    __slots__ = (
        "_after_model",
        "_before_model",
        "_head",
        "_issuer",
        "_key_id",
        "_middle",
        "_model_id",
        "_pattern",
    )

    def __init__(
        self, receipt: InferenceReceipt, pattern: re.Pattern[bytes], leaf_parts: tuple[bytes, ...]
    ) -> None:
        self._pattern = pattern
        self._key_id = receipt.envelope.key_id
        self._issuer = receipt.envelope.issuer
        self._model_id = receipt.unverified_statement.model.model_id
        self._head, self._middle, self._before_model, self._after_model = leaf_parts

    @classmethod
    def of(cls, data: bytes, receipt: InferenceReceipt, disclose: Disclosure) -> Shape | None:
        """Return the shape of a receipt that the parser accepted; `None` for an unusual one.

        Args:
            data: its bytes.
            receipt: what the parser made of them.
            disclose: what leaves show in the clear.
        """
        pattern = _pattern_of(receipt)
        parts = _leaf_parts(receipt, disclose)
        if pattern is None or parts is None:
            return None
        shape = cls(receipt, pattern, parts)
        fitted = shape.fit(data)
        leaf = ReceiptLeaf.of(receipt, disclose=disclose).encode()
        # Whatever was not thought of above: a shape that misreads its own receipt is none.
        if fitted is None or (fitted.receipt, fitted.leaf) != (receipt.receipt_id, leaf):
            return None
        return shape

    def fit(self, data: bytes) -> Fitted | None:
        """Read a receipt of this shape; `None` for one of another."""
        match = self._pattern.fullmatch(data)
        if match is None:
            return None
        header, payload, sequence, signed_at, signature = match.group(1, 2, 3, 4, 5)
        length = len(payload) - 3
        if int.from_bytes(payload[1:3], "big") != length or length > MAX_STATEMENT_BYTES:
            return None
        receipt = sha256(data)
        model = commit_model(self._model_id, salt=commitment_salt(signature))
        leaf = b"".join(
            (
                self._head,
                receipt,
                self._middle,
                sequence,
                b"\x06",
                signed_at,
                self._before_model,
                model,
                self._after_model,
            )
        )
        return Fitted(
            receipt,
            leaf,
            _SIGNATURE_CONTEXT + header + b"\x40" + payload,
            signature,
            self._key_id,
            self._issuer,
            int.from_bytes(signed_at[1:], "big") if len(signed_at) > 1 else signed_at[0],
        )


def _pattern_of(receipt: InferenceReceipt) -> re.Pattern[bytes] | None:
    envelope = receipt.envelope
    if envelope.evidence or not _SUBJECT.fullmatch(envelope.subject):
        return None
    header = byte_string(envelope.protected)
    ending = envelope.subject.encode()
    payload = _payload_pattern(envelope.payload)
    length = len(envelope.payload)
    if not header.endswith(ending) or payload is None or not 256 <= length <= MAX_STATEMENT_BYTES:
        return None
    signature = byte_string(envelope.signature)
    start = signature[: len(signature) - len(envelope.signature)]
    pattern = b"".join(
        (
            rb"\xd2\x84(",
            re.escape(header[: -len(ending)]),
            rb"[0-9a-f]{32})\xa0(\x59..",
            payload,
            b")",
            re.escape(start),
            b"(.{%d})" % len(envelope.signature),
        )
    )
    return re.compile(pattern, re.DOTALL)


def _payload_pattern(payload: bytes) -> bytes | None:
    fields: dict[int, Any] = decode(payload)
    if len(fields) > 23 or not fields.keys() <= _FIXED | {
        _SEQUENCE,
        _RECEIVED,
        _COMPLETED,
        _SIGNED,
        _COMMITMENTS,
        _USAGE,
        _NONCE,
    }:
        return None
    parts = [re.escape(bytes((0xA0 + len(fields),)))]
    for key, value in fields.items():
        parts.append(re.escape(encode(key)))
        if key in _FIXED:
            parts.append(re.escape(encode(value)))
        elif key == _SEQUENCE:
            parts.append(b"(" + _POSITIVE + b")")
        elif key == _SIGNED:
            parts.append(b"(" + _INTEGER + b")")
        elif key in (_RECEIVED, _COMPLETED):
            parts.append(_INTEGER)
        elif key == _NONCE:
            start = encode(value)[: -len(value)]
            parts.append(re.escape(start) + b".{%d}" % len(value))
        else:
            slot = rb"\x58\x20.{32}" if key == _COMMITMENTS else _INTEGER
            parts.append(re.escape(bytes((0xA0 + len(value),))))
            parts += [re.escape(encode(name)) + slot for name in value]
    return b"".join(parts)


def _leaf_parts(
    receipt: InferenceReceipt, disclose: Disclosure
) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Return what of a leaf is the same for all receipts of the shape."""
    if Disclosure.USAGE in disclose:
        return None  # Usage differs from receipt to receipt.
    statement = receipt.unverified_statement
    leaf = ReceiptLeaf.of(receipt, disclose=disclose).encode()
    salt = commitment_salt(receipt.envelope.signature)
    model = leaf.rindex(commit_model(statement.model.model_id, salt=salt))
    after_digest = _LEAF_HEAD + DIGEST_BYTES
    # Key, its header, and the label of the sequence number.
    after_key = after_digest + 3 + DIGEST_BYTES + 1
    numbers = len(encode(statement.sequence)) + 1 + len(encode(statement.signed_at))
    return (
        leaf[:_LEAF_HEAD],
        leaf[after_digest:after_key],
        leaf[after_key + numbers : model],
        leaf[model + DIGEST_BYTES :],
    )
