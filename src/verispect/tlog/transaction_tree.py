"""The Merkle tree over the parts of a transaction (spec/transaction.md section 3).

The tree and its proofs are those of the log, over leaves that begin with a domain of their own and
the transaction's id, so that a leaf fits no other tree. This module refuses to say what a root is
worth: that is the business of whoever checks the signature over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from verispect.core.encoding import Digest
from verispect.core.transaction import TransactionPart
from verispect.tlog.merkle import Node, leaf_hash, root_of
from verispect.tlog.proof import make_inclusion_proof, verify_inclusion


class _Hashes:
    """Leaf hashes as a `HashReader`."""

    def __init__(self, hashes: Sequence[Digest]) -> None:
        self._hashes = hashes

    def read_hashes(self, nodes: Sequence[Node]) -> Sequence[Digest]:
        return [root_of([self._hashes[place] for place in node.leaves()]) for node in nodes]


def parts_root(transaction_id: bytes, parts: Iterable[TransactionPart]) -> Digest:
    """Return the root over the parts, in the order given."""
    return root_of([leaf_hash(part.leaf(transaction_id)) for part in parts])


def part_path(transaction_id: bytes, parts: Iterable[TransactionPart], index: int) -> list[Digest]:
    """Return the path from the part at `index` to the root.

    Raises:
        ValueError: there is no such part; this is misuse.
    """
    hashes = [leaf_hash(part.leaf(transaction_id)) for part in parts]
    return make_inclusion_proof(_Hashes(hashes), index, len(hashes))


def check_part(
    transaction_id: bytes, part: TransactionPart, *, count: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that a part is the one at its index among `count` under `root`.

    Raises:
        VerificationError: `inclusion-invalid`.
    """
    leaf = leaf_hash(part.leaf(transaction_id))
    verify_inclusion(leaf, index=part.index, size=count, path=path, root=root)
