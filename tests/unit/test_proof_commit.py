"""Commitments: code words, trees and openings, kept, computed again or stored."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from verispect.core.errors import ModelError, Reason, StoreError
from verispect.proof import field, merkle, multilinear
from verispect.proof.field import MODULUS
from verispect.proof.parameters import Code
from verispect.proof.prover import commit, ntt, stored_commitment

P = MODULUS
PLAIN = Code(6, 2, 0)
HIDING = Code(6, 2, 2)
POSITIONS = [0, 1, 5, 6, 77, 128, 255]


def integers(rows: int, seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, (rows, 64), dtype=np.int32)
    values[0, :4] = (-(2**31), 2**31 - 1, 0, -1)
    return values


def elements(*shape: int) -> np.ndarray:
    values = np.random.default_rng(2).integers(0, P, shape, dtype=np.uint64)
    values.reshape(-1)[:3] = [P - 1, 0, 2**63][: values.size]
    return values


@pytest.mark.parametrize(
    ("rows", "count", "log_length"),
    [(1, 1, 0), (1, 1, 3), (3, 2, 1), (33, 64, 8), (70, 100, 9), (2, 300, 10)],
)
def test_code_words_are_values_of_polynomials(rows, count, log_length):
    """Line x of the code words holds every row's polynomial at the x-th place of the domain."""
    coefficients = elements(rows, count)
    words = ntt.encode(coefficients, log_length)
    assert words.shape == (1 << log_length, rows)
    degrees = np.arange(count, dtype=np.int64)
    places = np.arange(1 << log_length, dtype=np.int64)
    powers = ntt.domain(log_length)[(degrees[:, None] * places) % len(places)]
    assert (multilinear.multiply_matrices(coefficients, powers) == words.T).all()


def slow_leaf(row_values: list[int], salt: bytes = b"") -> bytes:
    octets = b"".join(value.to_bytes(8, "little") for value in row_values)
    return hashlib.sha256(b"\0" + octets + salt).digest()


def test_root_is_that_of_the_specification():
    """The root is the tree over columns of values computed one by one with Python integers."""
    matrix = integers(3)
    root = field.root_of_unity(8)
    level = []
    for place in range(256):
        x = pow(root, place, P)
        powers = [pow(x, degree, P) for degree in range(64)]
        values = [
            sum(c * power for c, power in zip(row, powers, strict=True)) % P
            for row in matrix.tolist()
        ]
        level.append(slow_leaf(values))
    while len(level) > 1:
        level = [
            hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest()
            for i in range(0, len(level), 2)
        ]
    assert commit.commit(matrix, PLAIN).root == level[0]


def check(commitment: commit.Commitment, rows: int) -> commit.Opening:
    opening = commitment.open(POSITIONS)
    width = 8 * rows + (32 if commitment.code.hides else 0)
    columns = [opening.columns[i * width : (i + 1) * width] for i in range(len(POSITIONS))]
    assert len(opening.columns) == width * len(POSITIONS)
    hashes = [merkle.leaf_hash(column) for column in columns]
    code = commitment.code
    found = merkle.root_of_opening(code.log_length, POSITIONS, hashes, opening.nodes)
    assert found == commitment.root
    return opening


@pytest.mark.parametrize("rows", [1, 40, 0])
@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint64])
def test_kept_and_forgotten_code_words_open_alike(rows, kind):
    """A commitment opens to its root, the same whether its code words were kept or not."""
    matrix = elements(rows, 64) if kind == np.uint64 and rows else integers(max(rows, 1))[:rows]
    matrix = matrix.astype(kind)
    kept = commit.commit(matrix, PLAIN)
    forgotten = commit.commit(matrix, PLAIN, kept_bytes=-1)
    assert (kept.words is None, forgotten.words is None) == (False, True)
    assert kept.levels == forgotten.levels
    assert check(kept, rows) == check(forgotten, rows)


def test_many_blocks_hash_like_one(monkeypatch):
    """Leaves that are hashed block by block are those hashed at once."""
    monkeypatch.setattr(commit, "_BLOCK_BYTES", 7 * 8 * PLAIN.length)
    matrix = integers(40)
    assert commit.commit(matrix, PLAIN, kept_bytes=0).root == commit.commit(matrix, PLAIN).root


def test_hiding_commitment_masks_rows_and_salts_leaves():
    """A hiding commitment of one matrix differs every time, and opens with salts and masks."""
    matrix = integers(5)
    tails = elements(5, HIDING.degree_bound - HIDING.columns)
    kept = commit.commit(matrix, HIDING, tails=tails)
    assert commit.commit(matrix, HIDING, tails=tails).root != kept.root
    opened = check(kept, 5)
    forgotten = commit.commit(
        matrix, HIDING, tails=tails, kept_bytes=0, randomness=lambda count: kept.salts[:count]
    )
    assert forgotten.words is None
    assert forgotten.root == kept.root
    assert check(forgotten, 5) == opened
    coefficients = np.concatenate([field.from_integers(matrix), tails], axis=1)
    whole = ntt.encode(coefficients, HIDING.log_length)
    assert opened.columns[:40] == field.to_bytes(whole[0])
    assert opened.columns[40:72] == kept.salts[:32]


def test_masks_belong_to_hiding_commitments_only():
    """Masks for a plain commitment, a hiding one without, and other columns are refused."""
    with pytest.raises(ValueError, match="masking"):
        commit.commit(integers(1), HIDING)
    with pytest.raises(ValueError, match="masking"):
        commit.commit(integers(1), PLAIN, tails=elements(1, 187))
    with pytest.raises(ValueError, match="columns"):
        commit.commit(integers(1)[:, :32], PLAIN)


# -- Stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 9])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("code", [PLAIN, HIDING], ids=["plain", "hiding"])
def test_stored_commitment_opens_like_the_first(tmp_path, code, rows, kept):
    """A commitment read back has the same root, masks and openings."""
    matrix = integers(max(rows, 1))[:rows]
    tails = None
    if code.hides:
        tails = elements(rows, code.degree_bound - code.columns)
    made = commit.commit(matrix, code, tails=tails, kept_bytes=1 << 28 if kept else -1)
    path = tmp_path / "weights"
    stored_commitment.save(made, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]
    assert path.stat().st_mode & 0o777 == 0o600
    read = stored_commitment.load(path, matrix, code)
    assert (read.words is not None) == kept
    assert read.root == made.root
    assert (read.tails == made.tails).all()
    assert check(read, rows) == check(made, rows)


def test_damaged_stored_commitments_are_refused(tmp_path):
    """A file that is cut, foreign, of other parameters or changed is refused or never opened."""
    matrix, path = integers(9), tmp_path / "weights"
    made = commit.commit(matrix, PLAIN)
    stored_commitment.save(made, path)
    good = path.read_bytes()
    for data in (b"", good[:100], good[:-1], good + b"\0", b"x" + good[1:]):
        path.write_bytes(data)
        with pytest.raises(StoreError):
            stored_commitment.load(path, matrix, PLAIN)
    path.write_bytes(good)
    for other, code in ((integers(8), PLAIN), (matrix, Code(6, 3, 0)), (matrix, HIDING)):
        with pytest.raises(StoreError):
            stored_commitment.load(path, other, code)
    for place in (30, 4096 + 4 * 32, 4096 + 511 * 32 - 1, len(good) - 1):
        wrong = bytearray(good)
        wrong[place] ^= 1
        path.write_bytes(bytes(wrong))
        with pytest.raises(StoreError):
            stored_commitment.load(path, matrix, PLAIN).open(POSITIONS)
    with pytest.raises(StoreError):
        stored_commitment.load(tmp_path / "absent", matrix, PLAIN)
    with pytest.raises(StoreError):
        stored_commitment.save(made, tmp_path / "absent" / "weights")


def test_openings_are_counted_before_they_are_made(tmp_path):
    """A hiding commitment opens as often as its budget says, across processes and crashes."""
    path = tmp_path / "weights"
    for _ in range(3):
        stored_commitment.StoredBudget(path, 3).take()
    for _ in range(2):
        with pytest.raises(ModelError) as refused:
            stored_commitment.StoredBudget(path, 3).take()
        assert refused.value.reason is Reason.MASKS_EXHAUSTED
    with pytest.raises(StoreError):
        stored_commitment.StoredBudget(tmp_path / "absent" / "weights", 3).take()
