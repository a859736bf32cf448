"""The prover's kernels: arithmetic at its edges, and the same proof without a compiler."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from verispect.proof import field
from verispect.proof.field import MODULUS, Element
from verispect.proof.prover import (
    contractions,
    kernels_contract,
    kernels_field,
    kernels_hash,
    kernels_sumcheck,
)

EDGES = [0, 1, 2, 6, 7, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63, MODULUS - 2**32]
EDGES += [MODULUS - 2, MODULUS - 1]

CANONICAL = st.one_of(st.sampled_from(EDGES), st.integers(0, MODULUS - 1))


@njit
def _scalars(a, b):
    return (
        kernels_field.multiply(a, b),
        kernels_field.add(a, b),
        kernels_field.subtract(a, b),
    )


@njit
def _extensions(v):
    return (
        kernels_field.multiply_extension(v[0], v[1], v[2], v[3]),
        kernels_field.multiply_twice(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]),
    )


@njit
def _signed(value):
    return kernels_field.from_signed(value), kernels_field.shifted(value)


def test_scalars_agree_with_integers_at_every_edge() -> None:
    """Products, sums and differences reduce canonically where carries happen."""
    for a, b in itertools.product(EDGES, repeat=2):
        found = tuple(map(int, _scalars(np.uint64(a), np.uint64(b))))
        assert found == (a * b % MODULUS, (a + b) % MODULUS, (a - b) % MODULUS)


@settings(max_examples=300, deadline=None)
@given(st.lists(CANONICAL, min_size=8, max_size=8))
def test_products_over_the_extension_agree_with_integers(values: list[int]) -> None:
    """Sums of four products are reduced once, whatever they carry."""
    one, two = _extensions(np.array(values, np.uint64))
    a, b, c, d = (Element(values[i], values[i + 1]) for i in range(0, 8, 2))
    assert Element(*map(int, one)) == a * b
    assert Element(*map(int, two)) == a * b + c * d


def test_the_largest_products_agree_with_integers() -> None:
    """All coordinates at p - 1 carry into the third limb."""
    top = MODULUS - 1
    _, two = _extensions(np.full(8, top, np.uint64))
    whole = Element(top, top) * Element(top, top)
    assert Element(*map(int, two)) == whole + whole


@given(st.integers(-(2**63) + 1, 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_signed_integers_become_elements(value: int) -> None:
    """Negative integers stand for p plus them, shifted or not."""
    found = tuple(map(int, _signed(np.int64(value))))
    assert found == (value % MODULUS, value * 2**32 % MODULUS)


@pytest.mark.parametrize("largest", [1, 127, 2**15, 2**20, 2**31 - 1])
def test_contractions_are_exact_for_integers_up_to_their_bound(largest: int) -> None:
    """Sums of 64 bits never overflow: all terms at their largest, of either sign."""
    rng = np.random.default_rng(largest)
    matrix = rng.choice(np.array([-largest, largest, largest - 1], np.int32), (3, 700))
    vector = np.full((700, 2), MODULUS - 1, np.uint64)
    vector[::3] = [2**32 - 1, 2**64 - 2**32]
    low = contractions.low_products(matrix, vector, largest)
    high = contractions.high_products(vector, np.ascontiguousarray(matrix.T), largest)
    for i in range(3):
        expected = sum(
            (Element(*map(int, v)) * int(x) for v, x in zip(vector, matrix[i], strict=True)),
            Element(0),
        )
        assert field.to_element(low[i]) == expected
        assert field.to_element(high[i]) == expected


def test_wide_integers_are_contracted_in_two_parts() -> None:
    """Answers and biases of up to 52 bits go through the combination exactly."""
    values = np.array([[2**51, -(2**51)], [-1, 2**26], [12345678901, -7]], np.int64)
    vector = np.array([[3, 5], [MODULUS - 1, 2], [7, MODULUS - 9]], np.uint64)
    found = contractions.wide_products(vector, values)
    for j in range(2):
        expected = sum(
            (Element(*map(int, vector[i])) * int(values[i, j]) for i in range(3)), Element(0)
        )
        assert field.to_element(found[j]) == expected


def test_a_table_of_eq_is_that_of_its_definition() -> None:
    """The first coordinate is the top bit of the index."""
    point = [Element(3, 4), Element(MODULUS - 1, 2), Element(5)]
    table = field.to_elements(kernels_sumcheck.eq_table(field.to_array(point)))
    for index, value in enumerate(table):
        expected = Element(1)
        for k, coordinate in enumerate(point):
            expected = expected * (coordinate if index >> (2 - k) & 1 else 1 - coordinate)
        assert value == expected


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_windows_slide_over_integers_and_elements_alike(stride: int, before: int) -> None:
    """Both kernels give what the definition gives, at the borders too."""
    rng = np.random.default_rng(7)
    source = rng.integers(-50, 50, (2, 9), dtype=np.int32)
    places, kernel, dilation = 5, 3, 2
    vector = rng.integers(0, 2**60, (places, 2), dtype=np.uint64)
    taps = np.array([stride, dilation, before])
    first = np.empty((2, kernel, 2), np.uint64)
    parts = kernels_contract.halves(vector)
    kernels_contract.slide_integers(source, parts, 4, places, taps, first)
    second = np.empty((2, kernel, 1, 2), np.uint64)
    elements = contractions.embedded(source).reshape(2, 9, 1, 2)
    kernels_contract.slide_elements(elements, vector, taps, second)
    assert np.array_equal(first, second[:, :, 0])
    for row, k in itertools.product(range(2), range(kernel)):
        expected = Element(0)
        for o in range(places):
            at = o * stride + k * dilation - before
            if 0 <= at < 9:
                expected = expected + Element(*map(int, vector[o])) * int(source[row, at])
        assert field.to_element(first[row, k]) == expected


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
@pytest.mark.parametrize(
    "width", [0, 1, 54, 55, 63, 64, 72, 118, 119, 127, 1000, kernels_hash.SHORT_BYTES]
)
def test_hashes_of_many_messages_are_those_of_the_library(count: int, width: int) -> None:
    """Every lane of every block hashes its own message, at every edge of the padding."""
    rows = np.random.default_rng(width).integers(0, 256, (count, width), dtype=np.uint8)
    cut = width // 3
    found = kernels_hash.hash_rows(b"\x01", rows[:, :cut], rows[:, cut:])
    assert found == b"".join(hashlib.sha256(b"\x01" + row.tobytes()).digest() for row in rows)


def test_hashes_of_more_than_is_put_together_at_a_time_follow_each_other() -> None:
    """Many long rows are hashed in several parts, in their order."""
    rows = np.arange(700 * 2000, dtype=np.uint32).view(np.uint8).reshape(700, -1)[:, :4001]
    found = kernels_hash.hash_rows(b"\x00", rows)
    assert found == b"".join(hashlib.sha256(b"\x00" + row.tobytes()).digest() for row in rows)


_PROGRAM = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
import proof_models
from verispect.proof.parameters import Mode
from verispect.proof.prover.prove import commit_model, make_prover, prove
graph, weights = proof_models.MODELS["dense"]()
model, commitment = commit_model(graph, weights, columns=6)
prover = make_prover(model, weights, commitment)
inputs = proof_models.inputs_for(graph, 3)
proof = prove(prover, inputs, mode=Mode.SUCCINCT, context=bytes(32)).proof
print(hashlib.sha256(proof.messages + proof.combination + proof.columns).hexdigest())
"""


def test_a_proof_is_the_same_without_a_compiler() -> None:
    """Plain Python runs the same source to the same octets."""
    tests = Path(__file__).parents[1]

    def digest(**extra: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tests), str(tests / "unit")],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    compiled = digest()
    assert len(compiled) == 2 * hashlib.sha256().digest_size
    assert digest(NUMBA_DISABLE_JIT="1") == compiled
