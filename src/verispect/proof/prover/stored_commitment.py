"""A model's commitment on disk, made once and mapped into memory for every proof.

The file holds what the weights alone do not give: the tree, the code words where they are kept,
and, where the commitment hides, its salts and masking coefficients. A hiding commitment's file is
as secret as the weights, and is created readable by its owner only. How often it was opened is
counted in a second file beside it, before an opening is made.

This module refuses a file of another commitment, a damaged one, and an opening beyond the budget.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from verispect.core import encoding
from verispect.core.errors import Error, ModelError, Reason, StoreError
from verispect.proof import field
from verispect.proof.merkle import HASH_BYTES, SALT_BYTES
from verispect.proof.parameters import Code
from verispect.proof.prover.commit import Commitment, Matrix

_MAGIC: Final = b"verispect-commitment-v1\n"
_HEADER_BYTES: Final = 4096
"""Magic and header, padded with zeros; what follows is aligned."""


def save(commitment: Commitment, path: Path) -> None:
    """Write a commitment, whole or not at all.

    Raises:
        StoreError: `STORE_FAILED` where it cannot be written.
    """
    header = _MAGIC + encoding.encode(_header(commitment))
    parts: list[Any] = [header.ljust(_HEADER_BYTES, b"\0"), *commitment.levels, commitment.salts]
    parts.append(field.to_bytes(commitment.tails))
    if commitment.words is not None:
        words = np.ascontiguousarray(commitment.words).astype("<u8", copy=False)
        parts.append(words.reshape(-1).view(np.uint8).data)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise StoreError("cannot write a commitment", reason=Reason.STORE_FAILED) from error


def load(path: Path, matrix: Matrix, code: Code) -> Commitment:
    """Read the commitment to `matrix`; the code words stay on disk until they are opened.

    Whether the file is of these very weights shows in the root, which the caller compares; whether
    an opening leads to that root, `Commitment.open` of a loaded commitment checks every time.

    Raises:
        StoreError: `STORE_FAILED` where it cannot be read, is damaged or of another shape.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file.read(_HEADER_BYTES))
            rows, tails, kept = len(matrix), _tail_count(code), header[6]
            if header != {**_numbers(code, rows), 5: header[5], 6: kept}:
                raise _damaged("a commitment is of another shape")
            sizes = (
                (2 * code.length - 1) * HASH_BYTES,
                code.length * SALT_BYTES if code.hides else 0,
                rows * tails * field.BASE_BYTES,
                code.length * rows * field.BASE_BYTES if kept else 0,
            )
            if path.stat().st_size != _HEADER_BYTES + sum(sizes):
                raise _damaged("a commitment is cut short")
            hashes, salts, masks = (file.read(size) for size in sizes[:3])
        words: field.Array | None = None
        if kept and rows:
            start = _HEADER_BYTES + sum(sizes[:3])
            words = np.memmap(path, "<u8", "r", offset=start, shape=(code.length, rows))
        elif kept:
            words = np.empty((code.length, 0), dtype=np.uint64)
        values = np.array(field.from_bytes(masks)).reshape(rows, tails)
    except OSError as error:
        raise StoreError("cannot read a commitment", reason=Reason.STORE_FAILED) from error
    levels = _levels(hashes, code)
    if levels[-1] != header[5]:
        raise _damaged("a commitment's tree is not its own")
    return Commitment(code, matrix, values, levels, salts, words, checked=True)


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """How often a stored hiding commitment may still be opened.

    The count is one octet per opening at the end of a file, so that a crash or two processes at
    once can waste openings and never gain one.

    Args:
        commitment: the commitment's path; the count stands beside it.
        openings: what the commitment was masked for.
    """

    commitment: Path
    openings: int

    def take(self) -> None:
        """Count one opening, before it is made.

        Raises:
            ModelError: `MASKS_EXHAUSTED` where none is left.
            StoreError: `STORE_FAILED` where it cannot be counted.
        """
        counter = self.commitment.with_name(self.commitment.name + ".openings")
        try:
            handle = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, b"\x01")
                os.fsync(handle)
                used = os.fstat(handle).st_size
            finally:
                os.close(handle)
        except OSError as error:
            raise StoreError("cannot count an opening", reason=Reason.STORE_FAILED) from error
        if used > self.openings:
            raise ModelError(
                "the weights' commitment was opened as often as it was masked for",
                reason=Reason.MASKS_EXHAUSTED,
            )


def _tail_count(code: Code) -> int:
    return code.degree_bound - code.columns


def _numbers(code: Code, rows: int) -> dict[int, Any]:
    return {1: code.column_variables, 2: code.rate_bits, 3: code.masking_budget, 4: rows}


def _header(commitment: Commitment) -> dict[int, Any]:
    numbers = _numbers(commitment.code, len(commitment.matrix))
    return {**numbers, 5: commitment.root, 6: commitment.words is not None}


def _read_header(data: bytes) -> dict[int, Any]:
    if not data.startswith(_MAGIC) or len(data) != _HEADER_BYTES:
        raise _damaged("the file is no commitment")
    try:
        header = encoding.decode(data[len(_MAGIC) :].rstrip(b"\0"), limit=_HEADER_BYTES)
    except Error as error:
        raise _damaged("a commitment's header is damaged") from error
    if not isinstance(header, dict) or list(header) != [1, 2, 3, 4, 5, 6]:
        raise _damaged("a commitment's header is damaged")
    return header


def _levels(hashes: bytes, code: Code) -> tuple[bytes, ...]:
    levels, start, count = [], 0, code.length
    while count:
        levels.append(hashes[start : start + count * HASH_BYTES])
        start, count = start + count * HASH_BYTES, count // 2
    return tuple(levels)


def _damaged(message: str) -> StoreError:
    return StoreError(message, reason=Reason.STORE_FAILED)
