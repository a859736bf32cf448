"""The best lies there are, tried against every challenge of a field small enough to try them all.

With `p = 11` the extension has 121 elements, 7 being no square there too. A prover with a false
claim is accepted exactly as often as the theory of section 11 says, neither more nor less.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import pytest

from verispect.core.errors import VerificationError
from verispect.proof import field
from verispect.proof.field import ONE, ZERO, Element
from verispect.proof.transcript import Transcript
from verispect.proof.verifier import sumcheck
from verispect.proof.verifier.channel import DecidingChannel, Messages
from verispect.proof.verifier.lookups import check_tree
from verispect.proof.verifier.sumcheck import run_rounds

SMALL = 11
ORDER = SMALL**2


@pytest.fixture(autouse=True)
def _small_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "MODULUS", SMALL)
    monkeypatch.setattr(sumcheck, "_HALF", pow(2, -1, SMALL))
    monkeypatch.setattr(sumcheck, "_SIXTH", pow(6, -1, SMALL))


def _everything() -> list[Element]:
    return [Element(a, b) for a in range(SMALL) for b in range(SMALL)]


class _Conversation(DecidingChannel):
    """Challenges are given, and messages are computed from those drawn so far."""

    def __init__(
        self, drawn: Sequence[Element], prover: Callable[[list[Element]], list[Element]]
    ) -> None:
        super().__init__(Transcript(), Messages(b"", Transcript()))
        self._left = list(drawn)
        self._seen: list[Element] = []
        self._prover = prover

    def receive(self, label: str, count: int) -> list[Element]:
        sent = self._prover(self._seen)
        assert len(sent) == count
        return sent

    def challenge(self, label: str) -> Element:
        self._seen.append(self._left.pop(0))
        return self._seen[-1]


Polynomial = Callable[[Element], Element]


def _product(tables: Sequence[Sequence[Element]], point: Sequence[Element]) -> Element:
    result = ONE
    for table in tables:
        values = list(table)
        for x in point:
            half = len(values) // 2
            values = [a + x * (b - a) for a, b in zip(values[:half], values[half:], strict=True)]
        result = result * values[0]
    return result


class _Liar:
    """Proves a sum that is off by one, agreeing with the truth at `degree` challenges a round."""

    def __init__(self, tables: list[list[Element]], degree: int, variables: int) -> None:
        self.tables, self.degree, self.variables = tables, degree, variables
        roots = random.Random(3).sample(_everything(), 50)
        while self._vanishing(roots[:degree], ZERO) + self._vanishing(roots[:degree], ONE) == ZERO:
            roots = roots[1:]
        self.roots = roots[:degree]

    @staticmethod
    def _vanishing(roots: Sequence[Element], x: Element) -> Element:
        return field.product_of([x - root for root in roots])

    def true(self, point: Sequence[Element]) -> Element:
        rest = self.variables - len(point)
        corners = itertools.product([ZERO, ONE], repeat=rest)
        return field.total_of(_product(self.tables, [*point, *corner]) for corner in corners)

    def lie(self, point: Sequence[Element]) -> Element:
        """By how much the claim about a partial point is off."""
        off = ONE
        scale = (self._vanishing(self.roots, ZERO) + self._vanishing(self.roots, ONE)).inverse()
        for x in point:
            off = off * scale * self._vanishing(self.roots, x)
        return off

    def round(self, seen: list[Element]) -> list[Element]:
        points = [Element(0), Element(2), Element(3)][: self.degree]
        scale = (self._vanishing(self.roots, ZERO) + self._vanishing(self.roots, ONE)).inverse()
        off = self.lie(seen)
        return [
            self.true([*seen, x]) + off * scale * self._vanishing(self.roots, x) for x in points
        ]


def _tables(count: int, variables: int) -> list[list[Element]]:
    rng = random.Random(1)
    return [
        [Element(rng.randrange(SMALL), rng.randrange(SMALL)) for _ in range(1 << variables)]
        for _ in range(count)
    ]


def _drawings(count: int) -> Iterator[tuple[Element, ...]]:
    return itertools.product(_everything(), repeat=count)


@pytest.mark.parametrize(("degree", "variables"), [(2, 1), (3, 1), (2, 2), (3, 2)])
def test_a_false_sum_is_accepted_as_often_as_a_polynomial_has_roots(
    degree: int, variables: int
) -> None:
    """`1 - (1 - d/|F|)^v`, which the bound `d v / |F|` is above."""
    liar = _Liar(_tables(degree, variables), degree, variables)
    claim = liar.true([]) + ONE
    accepted = 0
    for drawn in _drawings(variables):
        channel = _Conversation(drawn, liar.round)
        point, final = run_rounds(channel, variables, degree, claim)
        accepted += final == _product(liar.tables, point)
    rate = Fraction(accepted, ORDER**variables)
    assert rate == 1 - (1 - Fraction(degree, ORDER)) ** variables
    assert rate <= Fraction(degree * variables, ORDER)


@pytest.mark.parametrize(("degree", "variables"), [(2, 2), (3, 1)])
def test_a_true_sum_is_always_accepted(degree: int, variables: int) -> None:
    """Whatever is drawn."""
    liar = _Liar(_tables(degree, variables), degree, variables)
    for drawn in _drawings(variables):
        channel = _Conversation(
            drawn, lambda seen: [liar.true([*seen, Element(x)]) for x in (0, 2, 3)[:degree]]
        )
        point, final = run_rounds(channel, variables, degree, liar.true([]))
        assert final == _product(liar.tables, point)


def test_a_false_sum_of_fractions_is_accepted_once_in_the_field() -> None:
    """A root made to be zero agrees with the leaves at one challenge only."""
    p, q = [Element(1), Element(2)], [Element(3), Element(4, 5)]
    assert p[0] * q[1] + p[1] * q[0] != ZERO
    forged = -(p[0] * q[1]) * q[0].inverse()
    accepted = 0
    for drawn in _drawings(1):
        channel = _Conversation(drawn, lambda _: [p[0], forged, *q])
        point, numerator, denominator = check_tree(channel, 1)
        accepted += numerator == _product([p], point) and denominator == _product([q], point)
    assert accepted == 1


def test_a_root_that_is_not_zero_is_never_accepted() -> None:
    """No challenge saves a sum of fractions that is said to be something else."""
    for drawn in _drawings(1):
        channel = _Conversation(drawn, lambda _: [ONE, ONE, ONE, Element(5)])
        with pytest.raises(VerificationError):
            check_tree(channel, 1)


def test_a_forged_layer_is_accepted_within_its_bound() -> None:
    """Two layers, every challenge, against a prover who lies at the root and goes on as it can.

    Section 11 gives the layer from 1 to 2 at most `(3 + 2) / |F|` and the root's merge 2 more.
    """
    rng = random.Random(7)
    leaves_p = [Element(rng.randrange(1, SMALL)) for _ in range(4)]
    leaves_q = [Element(rng.randrange(1, SMALL), rng.randrange(SMALL)) for _ in range(4)]
    p = [leaves_p[x] * leaves_q[x + 2] + leaves_p[x + 2] * leaves_q[x] for x in range(2)]
    q = [leaves_q[x] * leaves_q[x + 2] for x in range(2)]
    assert p[0] * q[1] + p[1] * q[0] != ZERO
    forged = -(p[0] * q[1]) * q[0].inverse()
    roots = [Element(5, 1), Element(2, 7), Element(9, 9)]

    def vanishing(x: Element) -> Element:
        return field.product_of([x - root for root in roots])

    scale = (vanishing(ZERO) + vanishing(ONE)).inverse()

    def true(m: Element, s: Element, x: Element) -> Element:
        low_p, high_p = _product([leaves_p[:2]], [x]), _product([leaves_p[2:]], [x])
        low_q, high_q = _product([leaves_q[:2]], [x]), _product([leaves_q[2:]], [x])
        weight = s * x + (ONE - s) * (ONE - x)
        return weight * (low_p * high_q + high_p * low_q + m * low_q * high_q)

    def prover(seen: list[Element]) -> list[Element]:
        if not seen:
            return [p[0], forged, *q]
        if len(seen) == 2:
            s, m = seen
            claim = p[0] + s * (forged - p[0]) + m * (q[0] + s * (q[1] - q[0]))
            off = (claim - true(m, s, ZERO) - true(m, s, ONE)) * scale
            return [true(m, s, Element(x)) + off * vanishing(Element(x)) for x in (0, 2, 3)]
        r = seen[2]
        return [
            _product([half], [r])
            for half in (leaves_p[:2], leaves_p[2:], leaves_q[:2], leaves_q[2:])
        ]

    accepted = tried = 0
    everything = _everything()
    some = random.Random(8).sample(everything, 2)
    for s, m, r, last in itertools.product(everything, some[:2], everything, some[:1]):
        tried += 1
        channel = _Conversation([s, m, r, last], prover)
        try:
            check_tree(channel, 2)
        except VerificationError:
            continue
        accepted += 1
    rate = Fraction(accepted, tried)
    assert Fraction(3, ORDER) < rate <= Fraction(7, ORDER)
