"""The field in both forms, against Python integers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from verispect.core.errors import MalformedError, Reason
from verispect.proof import field
from verispect.proof.field import MODULUS, ONE, ZERO, Element

P = MODULUS
EDGES = [0, 1, 2, 6, 7, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, P // 2,
         P - 2**32, P - 2**31, P - 7, P - 2, P - 1]  # fmt: skip


def samples(count: int = 200) -> list[int]:
    source = random.Random(1)
    return EDGES + [source.randrange(P) for _ in range(count)]


def pairs() -> tuple[np.ndarray, np.ndarray]:
    both = list(itertools.product(EDGES, EDGES)) + list(
        zip(samples(), reversed(samples()), strict=True)
    )
    return tuple(np.array(side, dtype=np.uint64) for side in zip(*both, strict=True))


def elements(count: int = 40) -> list[Element]:
    source = random.Random(2)
    edges = [Element(a, b) for a, b in itertools.product(EDGES[::3], EDGES[::4])]
    return edges + [Element(source.randrange(P), source.randrange(P)) for _ in range(count)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (field.add, lambda a, b: (a + b) % P),
        (field.subtract, lambda a, b: (a - b) % P),
        (field.multiply, lambda a, b: a * b % P),
        (field.reduce, lambda a, b: (a + (b << 64)) % P),
    ],
)
def test_array_arithmetic_is_that_of_integers(function, expected):
    """Sums, differences and products of arrays are those of Python integers, at the edges too."""
    left, right = pairs()
    found = function(left, right).tolist()
    assert found == [expected(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)]


def test_reduction_takes_every_pair_of_words():
    """A 128-bit number reduces to the canonical element whatever its words are."""
    words = [*EDGES, P, P + 1, 2**64 - 2**32 - 1, 2**64 - 2, 2**64 - 1]
    low, high = np.array(list(itertools.product(words, words)), dtype=np.uint64).T
    found = field.reduce(low, high).tolist()
    assert found == [(a + (b << 64)) % P for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def test_negation_and_sums():
    """Negation keeps zero canonical, and a sum over an axis does not overflow."""
    values = np.array(samples(), dtype=np.uint64)
    assert field.negate(values).tolist() == [-v % P for v in values.tolist()]
    assert int(field.sum_over(values, 0)) == sum(values.tolist()) % P
    most = np.full((3, 1000), P - 1, dtype=np.uint64)
    assert field.sum_over(most, 1).tolist() == [-1000 % P] * 3


def test_extension_arithmetic_is_that_of_elements():
    """Products over the extension agree between arrays and elements, which obey `X^2 = 7`."""
    left = elements()
    right = left[::-1]
    product = field.multiply_extension(field.to_array(left), field.to_array(right))
    assert field.to_elements(product) == [a * b for a, b in zip(left, right, strict=True)]
    assert Element(0, 1) * Element(0, 1) == Element(7)
    factors = np.array([e.b for e in right], dtype=np.uint64)
    scaled = field.scale(field.to_array(left), factors)
    assert field.to_elements(scaled) == [a * b.b for a, b in zip(left, right, strict=True)]


def test_elements_form_a_field():
    """Elements obey the laws of a field; zero has no inverse."""
    for a, b, c in zip(elements(), elements()[1:], elements()[2:], strict=False):
        assert a * (b + c) == a * b + a * c
        assert (a * b) * c == a * (b * c)
        assert a - b == -(b - a)
        assert a + 5 - 5 == a
        assert 3 - a == -(a - 3)
        if a:
            assert a * a.inverse() == ONE
            assert a**-2 * a * a == ONE
    assert Element(7) == 7 * ONE
    with pytest.raises(ZeroDivisionError):
        ZERO.inverse()
    with pytest.raises(ValueError, match="modulus"):
        Element(P)


def test_extension_is_a_field():
    """`X^2 - 7` has no root, and 7 generates the multiplicative group."""
    assert pow(7, (P - 1) // 2, P) == P - 1
    for prime in (2, 3, 5, 17, 257, 65537):
        assert (P - 1) % prime == 0
        assert pow(7, (P - 1) // prime, P) != 1
    rest = P - 1
    for prime in (2, 3, 5, 17, 257, 65537):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


@pytest.mark.parametrize("log_order", [0, 1, 5, 32])
def test_roots_of_unity_have_their_order(log_order):
    """A root of unity has exactly the order it is asked for."""
    root = field.root_of_unity(log_order)
    assert pow(root, 1 << log_order, P) == 1
    assert log_order == 0 or pow(root, 1 << (log_order - 1), P) == P - 1


def test_signed_integers_become_elements():
    """A negative integer stands for the modulus plus it."""
    values = [-(2**63) + 1, -(2**52), -1, 0, 1, 2**52, 2**63 - 1]
    found = field.from_integers(np.array(values, dtype=np.int64)).tolist()
    assert found == [v % P for v in values]
    assert field.from_integers(np.array([-5, 5], dtype=np.int8)).tolist() == [P - 5, 5]
    words = np.array([0, P - 1, P, 2**64 - 1], dtype=np.uint64)
    assert field.from_integers(words).tolist() == [0, P - 1, 0, 2**32 - 2]


def test_bytes_have_one_form():
    """Octets round-trip, and those of a number not below the modulus are refused."""
    for element in elements():
        assert Element.from_bytes(element.to_bytes()) == element
    data = b"".join(e.to_bytes() for e in elements())
    assert field.to_bytes(field.from_bytes(data)) == data
    assert field.to_bytes(field.to_array(elements())) == data
    for bad in (P, P + 1, 2**64 - 1):
        octets = bad.to_bytes(8, "little")
        for read, wrong in (
            (Element.from_bytes, octets + bytes(8)),
            (Element.from_bytes, bytes(8) + octets),
            (field.from_bytes, bytes(16) + octets),
            (field.from_bytes, bytes(7)),
            (Element.from_bytes, bytes(15)),
        ):
            with pytest.raises(MalformedError) as refused:
                read(wrong)
            assert refused.value.reason is Reason.MALFORMED_PROOF


def test_powers_and_folds():
    """Powers begin with one; empty sums and products are neutral."""
    element = Element(3, 4)
    assert field.powers(element, 3) == [ONE, element, element * element]
    assert field.powers(element, 0) == []
    assert field.total_of([]) == ZERO
    assert field.product_of([]) == ONE
    assert field.total_of([element] * 3) == 3 * element
    assert field.product_of([element] * 3) == element**3
