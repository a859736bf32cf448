"""Opened columns of the commitments, authenticated (spec/proof.md sections 4 and 12).

For distinct positions in ascending order a proof shows the columns of every commitment and the
authentication nodes. Every octet is used and no other is needed: this module refuses columns and
nodes of another length, elements that are not canonical, and trees with another root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verispect.core.errors import MalformedError, Reason
from verispect.proof.field import BASE_BYTES, MODULUS, Array
from verispect.proof.merkle import (
    HASH_BYTES,
    SALT_BYTES,
    count_missing,
    leaf_hash,
    root_of_opening,
)
from verispect.proof.verifier.channel import refuse


@dataclass(frozen=True, slots=True)
class Commitment:
    """A root, and how many rows its matrix has."""

    root: bytes
    rows: int


def read_columns(
    columns: bytes,
    nodes: bytes,
    commitments: list[Commitment],
    positions: list[int],
    *,
    log_length: int,
    salted: bool,
) -> list[Array]:
    """Return per commitment the opened columns, `(positions, rows)`, as the trees hold them.

    Args:
        columns: of all commitments in order.
        nodes: likewise.
        commitments: what was committed to.
        positions: distinct and ascending.
        log_length: the height of the trees.
        salted: whether every column is followed by its salt.

    Raises:
        MalformedError: `malformed-proof`.
        VerificationError: `proof-invalid`, when a column is not in its tree.
    """
    salt = SALT_BYTES if salted else 0
    path = HASH_BYTES * count_missing(log_length, positions)
    total = len(positions) * sum(BASE_BYTES * each.rows + salt for each in commitments)
    if len(columns) != total or len(nodes) != path * len(commitments):
        raise MalformedError("columns or nodes have another length", reason=Reason.MALFORMED_PROOF)
    result = []
    offset = 0
    for number, commitment in enumerate(commitments):
        width = BASE_BYTES * commitment.rows + salt
        leaves = []
        for _ in positions:
            leaves.append(columns[offset : offset + width])
            offset += width
        hashes = [leaf_hash(leaf) for leaf in leaves]
        own = nodes[path * number : path * (number + 1)]
        if root_of_opening(log_length, positions, hashes, own) != commitment.root:
            raise refuse("an opened column is not the committed one")
        result.append(_elements(leaves, commitment.rows))
    return result


def _elements(leaves: list[bytes], rows: int) -> Array:
    octets = b"".join(leaf[: BASE_BYTES * rows] for leaf in leaves)
    words = np.frombuffer(octets, dtype="<u8").reshape(len(leaves), rows).astype(np.uint64)
    if words.size and int(words.max()) >= MODULUS:
        raise MalformedError("a field element is not canonical", reason=Reason.MALFORMED_PROOF)
    return words
