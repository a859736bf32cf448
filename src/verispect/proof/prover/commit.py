"""Commitments to matrices: code words, their tree, and openings (spec/proof.md, section 4).

The code words are kept where they are few enough; otherwise the columns that an opening needs are
computed again from the rows, and a commitment of any size takes little more memory than its rows.
The weights' commitment is stored once (`stored_commitment`) and opened for every proof.

This module refuses to hide by itself: whoever asks for a hiding commitment gives the random
coefficients of its rows; only the salts of the leaves are drawn here.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from verispect.core.errors import Reason, StoreError
from verispect.proof import field, merkle, multilinear
from verispect.proof.field import Array
from verispect.proof.merkle import HASH_BYTES, SALT_BYTES
from verispect.proof.parameters import Code
from verispect.proof.prover import ntt
from verispect.proof.prover.kernels_hash import hash_rows

Matrix = npt.NDArray[np.integer[Any]]
"""Signed integers, or canonical elements of `F_p` where the type is `uint64`."""

KEPT_BYTES: Final = 1 << 28
"""Code words up to this size are kept."""
_BLOCK_BYTES: Final = 1 << 26
"""Code words made at a time where they are not kept."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a proof shows of one commitment."""

    columns: bytes
    """The opened columns, each with its salt where the commitment hides, in ascending position."""
    nodes: bytes
    """The authentication nodes in their order."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """A matrix that is committed to."""

    code: Code
    matrix: Matrix
    tails: Array
    """The masking coefficients of every row; none where the commitment does not hide."""
    levels: tuple[bytes, ...]
    """The hashes of the tree, level by level from the leaves."""
    salts: bytes
    """Of all leaves; empty where the commitment does not hide."""
    words: Array | None
    """The code words, `(length, rows)`, where they are kept."""
    checked: bool = False
    """Whether openings are checked against the root: where words and tree come from a file."""

    @property
    def root(self) -> bytes:
        """What the commitment is to everybody else."""
        return self.levels[-1]

    def open(self, positions: Sequence[int]) -> Opening:
        """Show the columns at distinct, ascending positions.

        Raises:
            StoreError: `STORE_FAILED` where a stored commitment turns out to be damaged.
        """
        values = self._columns(np.array(positions, dtype=np.int64))
        columns = [field.to_bytes(line) for line in values]
        if self.salts:
            salts = [self.salts[p * SALT_BYTES : (p + 1) * SALT_BYTES] for p in positions]
            columns = [column + salt for column, salt in zip(columns, salts, strict=True)]
        missing = _missing_nodes(self.code.log_length, tuple(positions))
        nodes = [self.levels[level][i * HASH_BYTES : (i + 1) * HASH_BYTES] for level, i in missing]
        opening = Opening(b"".join(columns), b"".join(nodes))
        if self.checked:
            hashes = [merkle.leaf_hash(column) for column in columns]
            found = merkle.root_of_opening(self.code.log_length, positions, hashes, opening.nodes)
            if found != self.root:
                raise StoreError("a stored commitment is damaged", reason=Reason.STORE_FAILED)
        return opening

    def _columns(self, positions: npt.NDArray[np.int64]) -> Array:
        if self.words is not None:
            return self.words[positions]
        domain = ntt.domain(self.code.log_length)
        width = self.code.columns
        degrees = np.arange(width + self.tails.shape[1], dtype=np.int64)
        powers = domain[(degrees[:, None] * positions) & (self.code.length - 1)]
        if self.matrix.dtype == np.uint64:
            elements = self.matrix.astype(np.uint64, copy=False)
            values = multilinear.multiply_matrices(elements, powers[:width])
        else:
            values = multilinear.multiply_integers(self.matrix, powers[:width])
        if self.tails.size:
            values = field.add(values, multilinear.multiply_matrices(self.tails, powers[width:]))
        return values.T


@functools.lru_cache(maxsize=1)
def _missing_nodes(log_length: int, positions: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return an opening's nodes; one proof opens all its commitments at the same positions."""
    return tuple(merkle.missing_nodes(log_length, positions))


def commit(
    matrix: Matrix,
    code: Code,
    *,
    tails: Array | None = None,
    kept_bytes: int = KEPT_BYTES,
    randomness: Callable[[int], bytes] = secrets.token_bytes,
) -> Commitment:
    """Commit to a matrix.

    Args:
        matrix: `(rows, 2^c)`, signed integers of any width or canonical elements.
        code: its parameters; where they hide, the leaves are salted.
        tails: the coefficients of degrees `2^c ..` of every row; required where `code` hides.
        randomness: of the leaves' salts.
        kept_bytes: code words up to this size are kept for opening.
    """
    rows = len(matrix)
    if matrix.shape != (rows, code.columns):
        raise ValueError("the matrix has another number of columns than the code")
    if (tails is not None) != code.hides:
        raise ValueError("masking coefficients belong to a hiding commitment, and to no other")
    masks = tails if tails is not None else np.empty((rows, 0), dtype=np.uint64)
    salts = randomness(code.length * SALT_BYTES) if code.hides else b""
    if code.length * rows * field.BASE_BYTES <= kept_bytes:
        words = ntt.encode(_coefficients(matrix, masks), code.log_length)
        return Commitment(code, matrix, masks, tree(_leaves(words, salts)), salts, words)
    leaves = _leaves_of_many(matrix, masks, code, salts)
    return Commitment(code, matrix, masks, tree(leaves), salts, None)


def tree(leaves: bytes) -> tuple[bytes, ...]:
    """Return the levels of the tree over the hashes of leaves, a power of two of them."""
    levels = [leaves]
    while len(levels[-1]) > HASH_BYTES:
        pairs = np.frombuffer(levels[-1], np.uint8).reshape(-1, 2 * HASH_BYTES)
        levels.append(hash_rows(merkle.NODE, pairs))
    return tuple(levels)


def _coefficients(matrix: Matrix, tails: Array) -> Array:
    """Return the rows' coefficients as elements."""
    if matrix.dtype == np.uint64:
        head = matrix.astype(np.uint64, copy=False)
    else:
        head = field.from_integers(matrix)
    return np.concatenate([head, tails], axis=1) if tails.size else head


def _octets(words: Array) -> memoryview:
    """Return the octets of code words, as the leaves hold them."""
    flat = np.ascontiguousarray(words).reshape(-1).astype("<u8", copy=False)
    return flat.view(np.uint8).data


def _leaves(words: Array, salts: bytes) -> bytes:
    """Return the leaves' hashes, where all code words are at hand."""
    octets = np.frombuffer(_octets(words), np.uint8).reshape(len(words), -1)
    if not salts:
        return hash_rows(merkle.LEAF, octets)
    return hash_rows(merkle.LEAF, octets, np.frombuffer(salts, np.uint8).reshape(-1, SALT_BYTES))


def _leaves_of_many(matrix: Matrix, tails: Array, code: Code, salts: bytes) -> bytes:
    """Return the leaves' hashes, making the code words block by block."""
    hashes = [hashlib.sha256(merkle.LEAF) for _ in range(code.length)]
    step = max(1, _BLOCK_BYTES // (code.length * field.BASE_BYTES))
    for first in range(0, len(matrix), step):
        block = _coefficients(matrix[first : first + step], tails[first : first + step])
        words = ntt.encode(block, code.log_length)
        data, width = _octets(words), words.shape[1] * field.BASE_BYTES
        for place, state in enumerate(hashes):
            state.update(data[place * width : (place + 1) * width])
    for place, state in enumerate(hashes):
        state.update(salts[place * SALT_BYTES : (place + 1) * SALT_BYTES])
    return b"".join(state.digest() for state in hashes)
