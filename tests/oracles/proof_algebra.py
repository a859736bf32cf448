"""Field, transcript, codes and trees of spec/proof.md sections 1 to 4, in plain Python integers.

Written from the specification for differential testing: nothing of the package is used here, and
nothing here is quick.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

P = 2**64 - 2**32 + 1


class E:
    """An element `a + bX` of `F_p[X] / (X^2 - 7)`."""

    __slots__ = ("a", "b")

    def __init__(self, a: int, b: int = 0) -> None:
        self.a = a % P
        self.b = b % P

    def __add__(self, other: E | int) -> E:
        if isinstance(other, int):
            return E(self.a + other, self.b)
        if not isinstance(other, E):
            return NotImplemented
        return E(self.a + other.a, self.b + other.b)

    __radd__ = __add__

    def __neg__(self) -> E:
        return E(-self.a, -self.b)

    def __sub__(self, other: E | int) -> E:
        if not isinstance(other, E | int):
            return NotImplemented
        return self + (-other)

    def __rsub__(self, other: int) -> E:
        return -self + other

    def __mul__(self, other: E | int) -> E:
        if isinstance(other, int):
            return E(self.a * other, self.b * other)
        if not isinstance(other, E):
            return NotImplemented
        return E(self.a * other.a + 7 * self.b * other.b, self.a * other.b + self.b * other.a)

    __rmul__ = __mul__

    def __pow__(self, exponent: int) -> E:
        result, base = E(1), self
        while exponent:
            if exponent & 1:
                result = result * base
            base, exponent = base * base, exponent >> 1
        return result

    def inverse(self) -> E:
        norm = pow(self.a * self.a - 7 * self.b * self.b, -1, P)
        return E(self.a * norm, -self.b * norm)

    def __eq__(self, other: object) -> bool:
        other = E(other) if isinstance(other, int) else other
        return isinstance(other, E) and (self.a, self.b) == (other.a, other.b)

    def __hash__(self) -> int:
        return hash((self.a, self.b))

    def __repr__(self) -> str:
        return f"E({self.a}, {self.b})"

    def octets(self) -> bytes:
        return self.a.to_bytes(8, "little") + self.b.to_bytes(8, "little")


ZERO, ONE = E(0), E(1)


def octets(elements: Iterable[E]) -> bytes:
    return b"".join(element.octets() for element in elements)


def total(elements: Iterable[E]) -> E:
    a = b = 0
    for element in elements:
        a, b = a + element.a, b + element.b
    return E(a, b)


def dot(left: Iterable[E | int], right: Iterable[E | int]) -> E:
    return total(E(0) + x * y for x, y in zip(left, right, strict=True))


def eq_table(point: Sequence[E]) -> list[E]:
    """`eq(point, x)` for every `x`, the first coordinate being the most significant bit."""
    table = [ONE]
    for z in point:
        table = [value for entry in table for value in (entry * (ONE - z), entry * z)]
    return table


def eq_point(left: Sequence[E], right: Sequence[E]) -> E:
    product = ONE
    for x, y in zip(left, right, strict=True):
        product = product * (x * y + (ONE - x) * (ONE - y))
    return product


def suffix(point: Sequence[E], length: int) -> list[E]:
    return list(point[len(point) - length :])


def bind(table: Sequence[E | int], value: E) -> list[E]:
    """Fix the first variable of a multilinear table."""
    half = len(table) // 2
    return [
        E(0) + low + value * (high - low)
        for low, high in zip(table[:half], table[half:], strict=True)
    ]


def extension(table: Sequence[E | int], point: Sequence[E]) -> E:
    for value in point:
        table = bind(table, value)
    return E(0) + table[0]


def at_cubic(values: Sequence[E], x: E) -> E:
    """The polynomial through `values` at 0, 1, .. at `x`."""
    result = ZERO
    for i, value in enumerate(values):
        term = value
        for j in range(len(values)):
            if j != i:
                term = term * (x - j) * pow(i - j, -1, P)
        result = result + term
    return result


class Transcript:
    """Section 2."""

    def __init__(self) -> None:
        self.state = hashlib.sha256(b"verispect-proof-v1").digest()

    def _step(self, kind: int, label: str, rest: bytes = b"") -> None:
        name = label.encode("ascii")
        self.state = hashlib.sha256(self.state + bytes([kind, len(name)]) + name + rest).digest()

    def absorb(self, label: str, data: bytes) -> None:
        self._step(1, label, len(data).to_bytes(8, "little") + data)

    def challenge(self, label: str) -> E:
        self._step(2, label)
        return E(
            int.from_bytes(self.state[:16], "little"), int.from_bytes(self.state[16:], "little")
        )

    def positions(self, label: str, count: int, n: int) -> list[int]:
        self._step(3, label)
        found = []
        for i in range(count):
            block = hashlib.sha256(self.state + (i // 8).to_bytes(4, "little")).digest()
            found.append(int.from_bytes(block[4 * (i % 8) : 4 * (i % 8) + 4], "little") % n)
        return found


def root_of_unity(n: int) -> int:
    return pow(7, (P - 1) // n, P)


def evaluations(coefficients: Sequence[int], n: int) -> list[int]:
    """The values at `w_n^0, w_n^1, ..` of the polynomial with these coefficients."""
    if n == 1:
        return [sum(coefficients) % P]
    values = list(coefficients) + [0] * (n - len(coefficients))
    even, odd = evaluations(values[0::2], n // 2), evaluations(values[1::2], n // 2)
    w, power, low, high = root_of_unity(n), 1, [], []
    for x, y in zip(even, odd, strict=True):
        low.append((x + power * y) % P)
        high.append((x - power * y) % P)
        power = power * w % P
    return low + high


class Committed:
    """Rows of coefficients, their code words and the tree over the columns (section 4)."""

    def __init__(self, rows: list[list[int]], n: int, salts: list[bytes] | None) -> None:
        self.rows = rows
        words = [evaluations(row, n) for row in rows]
        self.leaves = []
        for j in range(n):
            column = b"".join(word[j].to_bytes(8, "little") for word in words)
            self.leaves.append(column + (salts[j] if salts else b""))
        self.grow()

    def grow(self) -> None:
        """Make the tree over the leaves."""
        self.levels = [[hashlib.sha256(b"\x00" + leaf).digest() for leaf in self.leaves]]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append(
                [
                    hashlib.sha256(b"\x01" + below[i] + below[i + 1]).digest()
                    for i in range(0, len(below), 2)
                ]
            )
        self.root = self.levels[-1][0]

    def open(self, positions: Iterable[int]) -> tuple[bytes, bytes]:
        """Columns and authentication nodes for distinct ascending positions."""
        known = sorted(set(positions))
        columns = b"".join(self.leaves[j] for j in known)
        nodes = b""
        for level in self.levels[:-1]:
            have = set(known)
            nodes += b"".join(level[i ^ 1] for i in known if i ^ 1 not in have)
            known = sorted({i // 2 for i in known})
        return columns, nodes
