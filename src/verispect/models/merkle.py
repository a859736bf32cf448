"""The Merkle root over a model's tensors, in the tree form of RFC 6962 section 2.1.

A leaf is SHA-256(0x00 || deterministic CBOR of [name, element type, shape, SHA-256(bytes)]), a
node SHA-256(0x01 || left || right). Leaves are sorted by name (UTF-8 bytes) and names are unique,
so that the root does not depend on how a file lays its tensors out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """One tensor, as the tree commits to it."""

    name: str
    element_type: str
    """`F32`, `Q4_1`, `I64`, …"""
    shape: tuple[int, ...]
    """Slowest-varying dimension first, in every format."""
    content: Digest
    """SHA-256 of the tensor's bytes as stored, little-endian."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def leaf(self) -> bytes:
        """Return the leaf hash."""
        return sha256(
            b"\x00" + encode([self.name, self.element_type, list(self.shape), bytes(self.content)])
        )


def tensor_root(tensors: Iterable[TensorDigest]) -> Digest:
    """Return the Merkle root over `tensors`, in whatever order they are given.

    Raises:
        MalformedError: `malformed-model` where two tensors share a name.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
    for first, second in itertools.pairwise(ordered):
        if first.name == second.name:
            raise MalformedError(
                f"two tensors share the name {first.name[:64]!r}", reason=Reason.MALFORMED_MODEL
            )
    return Digest(_root([tensor.leaf() for tensor in ordered]))


def _root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + _root(leaves[:split]) + _root(leaves[split:])).digest()
