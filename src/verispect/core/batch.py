"""One signature for up to 1,024 statements: Ed25519 over the root of a Merkle tree of them.

A leaf of the tree is the `Sig_structure` (RFC 9052 section 4.4) of one envelope, hashed as in RFC
6962; the issuer signs a domain, the number of leaves and the root. The signature field of each
envelope holds that signature, the number of leaves, its own place and the path to the root, so each
receipt stands alone. The protected header says so with an algorithm of its own in the private-use
range: software that does not know it refuses, and a signature of one kind never passes for the
other.

This module refuses trees of another form than the one: a path is exactly as long as its place asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import Reason, VerificationError
from verispect.core.keys import SIGNATURE_BYTES, PublicKey, Signer

BATCH_ALGORITHM: Final = -70002
MAX_BATCH_STATEMENTS: Final = 1024

_DOMAIN: Final = b"verispect-batch-v1"
_NUMBER_BYTES: Final = 2
_HEAD_BYTES: Final = SIGNATURE_BYTES + 2 * _NUMBER_BYTES
_MAX_PATH: Final = 10
MAX_BATCH_SIGNATURE_BYTES: Final = _HEAD_BYTES + _MAX_PATH * DIGEST_BYTES

_sha256 = hashlib.sha256


def has_batch_form(signature: bytes) -> bool:
    """Return whether this is the length of a batch signature with some path."""
    path = len(signature) - _HEAD_BYTES
    return 0 <= path <= _MAX_PATH * DIGEST_BYTES and path % DIGEST_BYTES == 0


def batch_leaf(message: bytes) -> bytes:
    """Return the leaf hash of one envelope's `Sig_structure`."""
    return _sha256(b"\x00" + message).digest()


def batch_message(count: int, root: bytes) -> bytes:
    """Return what the issuer signs."""
    return _DOMAIN + count.to_bytes(_NUMBER_BYTES, "big") + root


def split_batch_signature(signature: bytes) -> tuple[bytes, int, int, list[bytes]]:
    """Return the Ed25519 signature, the number of leaves, the place and the path.

    Raises:
        VerificationError: `signature-invalid` where it has another form.
    """
    if not has_batch_form(signature):
        raise _invalid("not a batch signature")
    middle = SIGNATURE_BYTES + _NUMBER_BYTES
    count = int.from_bytes(signature[SIGNATURE_BYTES:middle], "big")
    index = int.from_bytes(signature[middle:_HEAD_BYTES], "big")
    if not index < count <= MAX_BATCH_STATEMENTS:
        raise _invalid("a batch signature has no such place")
    path = [
        signature[at : at + DIGEST_BYTES] for at in range(_HEAD_BYTES, len(signature), DIGEST_BYTES)
    ]
    return signature[:SIGNATURE_BYTES], count, index, path


def batch_root(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """Return the root that the path leads to (RFC 9162 section 2.1.3.2).

    Raises:
        VerificationError: `signature-invalid` where no tree of `count` leaves has such a path.
    """
    place, last, node = index, count - 1, leaf
    for sibling in path:
        if last == 0:
            raise _invalid("the path of a batch signature is too long")
        if place & 1 or place == last:
            node = _sha256(b"\x01" + sibling + node).digest()
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            node = _sha256(b"\x01" + node + sibling).digest()
        place >>= 1
        last >>= 1
    if last != 0:
        raise _invalid("the path of a batch signature is too short")
    return node


def verify_batch_signature(message: bytes, signature: bytes, key: PublicKey) -> None:
    """Check a batch signature over one envelope's `Sig_structure`.

    1. The form: count, place and a path of the right length.
    2. The root that the path leads to is what the key signed.

    Raises:
        VerificationError: `signature-invalid`.
    """
    single, count, index, path = split_batch_signature(signature)
    root = batch_root(batch_leaf(message), index, count, path)
    key.verify(batch_message(count, root), single)


def sign_batch_messages(messages: Sequence[bytes], signer: Signer) -> list[bytes]:
    """Sign many `Sig_structure`s at once and return a batch signature for each.

    Raises:
        ValueError: for none, or more than `MAX_BATCH_STATEMENTS`.
    """
    count = len(messages)
    if not 0 < count <= MAX_BATCH_STATEMENTS:
        raise ValueError(f"expected 1 to {MAX_BATCH_STATEMENTS} statements, got {count}")
    rows = _tree([batch_leaf(message) for message in messages])
    single = signer.sign(batch_message(count, rows[-1][0]))
    head = single + count.to_bytes(_NUMBER_BYTES, "big")
    return [
        head + index.to_bytes(_NUMBER_BYTES, "big") + b"".join(_path(rows, index))
        for index in range(count)
    ]


def _tree(row: list[bytes]) -> list[list[bytes]]:
    """Return the rows of the tree, leaves first; an odd last node moves up unchanged."""
    rows = [row]
    while len(row) > 1:
        above = [
            _sha256(b"\x01" + left + right).digest()
            for left, right in zip(row[::2], row[1::2], strict=False)
        ]
        if len(row) % 2:
            above.append(row[-1])
        rows.append(above)
        row = above
    return rows


def _path(rows: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    path = []
    for row in rows[:-1]:
        sibling = index ^ 1
        if sibling < len(row):
            path.append(row[sibling])
        index >>= 1
    return path


def _invalid(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.SIGNATURE_INVALID)
