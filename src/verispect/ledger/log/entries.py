"""Makes entries of receipts and of other leaves, and of a leaf its key again.

The key of a receipt's leaf is the receipt's digest and that of any other leaf its hash: whatever
comes twice is one entry.
"""

from __future__ import annotations

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.ledger.log.interface import NewEntry
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.merkle import leaf_hash
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf


def entry_of_receipt(
    receipt: InferenceReceipt, *, disclose: Disclosure, keep: bytes | None = None
) -> NewEntry:
    """Return the entry of a receipt that the caller verified.

    Args:
        receipt: the receipt.
        disclose: what its leaf shows in the clear, by the log's description.
        keep: its bytes, where the log is to keep them.
    """
    leaf = ReceiptLeaf.of(receipt, disclose=disclose)
    return NewEntry(leaf.receipt, leaf.encode(), keep)


def entry_of_leaf(leaf: bytes) -> NewEntry:
    """Return the entry of a verdict, refusal or any leaf but a receipt's.

    Signatures inside it are the caller's to check.

    Raises:
        MalformedError: `malformed-leaf` and as `decode_leaf`; also for a receipt's leaf, which
            only comes with its receipt.
        UnsupportedError: `unsupported-leaf`, `unsupported-version`, `unsupported-algorithm`.
    """
    if isinstance(decode_leaf(leaf), ReceiptLeaf):
        raise MalformedError(
            "a receipt's leaf comes with its receipt", reason=Reason.MALFORMED_LEAF
        )
    return NewEntry(leaf_hash(leaf), leaf)


def key_of_leaf(leaf: bytes) -> Digest:
    """Return the key of a leaf of the log.

    Raises:
        MalformedError: as `decode_leaf`.
        UnsupportedError: as `decode_leaf`.
    """
    read = decode_leaf(leaf)
    return read.receipt if isinstance(read, ReceiptLeaf) else leaf_hash(leaf)
