"""SHA-256 of many short messages of one length at a time, lane beside lane.

A tree has twice as many hashes as leaves, each of two or three blocks: calling a library for every
one takes several times what the hashing does. Compiled, sixteen messages go through the rounds
together, in the widest vectors that the machine has. Without a compiler, and for messages so long
that the library's own instructions win, this is `hashlib`.

This module refuses nothing; it knows no tree: what is hashed is for `commit` to say.
"""

from __future__ import annotations

import hashlib
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic

from verispect.proof.prover.kernels_field import JIT

Octets = npt.NDArray[np.uint8]

HASH_WORDS: Final = 8
BLOCK_BYTES: Final = 64
BLOCK_WORDS: Final = 16
_LENGTH_BYTES: Final = 8
LANES: Final = 16
"""Messages hashed together: one vector of 512 bits, or two of 256, per word."""
SHORT_BYTES: Final = 1 << 12
"""Longer messages are left to the library: calling it is then the smaller part."""
_BYTES_AT_ONCE: Final = 1 << 20
"""Messages that are put together at a time, by their size."""
_WORD: Final = 32
_MASK: Final = 0xFFFFFFFF


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _cube_root(value: int) -> int:
    low, high = 0, value
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= value else (low, middle - 1)
    return low


_START: Final = np.array([isqrt(prime << 64) & _MASK for prime in _primes(8)], np.uint32)
"""The first 32 bits of the fractions of the square roots of eight primes (FIPS 180-4, 5.3.3)."""
_ROUNDS: Final = tuple(_cube_root(prime << 96) & _MASK for prime in _primes(64))
"""The same of the cube roots of 64 primes (FIPS 180-4, 4.2.2)."""


class _Vectors:
    """Words of all lanes, as the compiler's instructions."""

    def __init__(self, builder: Any) -> None:
        from llvmlite import ir  # The prover's extra brings it with numba.

        self.build = builder
        self.type = ir.VectorType(ir.IntType(_WORD), LANES)
        self._constant = ir.Constant
        self._index = ir.IntType(_WORD)

    def places(self, array: Any, count: int) -> list[Any]:
        """Return where the first rows of an array are, a vector each."""
        base = self.build.bitcast(array.data, self.type.as_pointer())
        return [self.build.gep(base, [self._constant(self._index, i)]) for i in range(count)]

    def constant(self, value: int) -> Any:
        return self._constant(self.type, [value] * LANES)

    def rotate(self, x: Any, places: int) -> Any:
        left = self.build.shl(x, self.constant(_WORD - places))
        return self.build.or_(self.build.lshr(x, self.constant(places)), left)

    def xor(self, x: Any, y: Any, z: Any) -> Any:
        return self.build.xor(self.build.xor(x, y), z)

    def add(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self.build.add(first, other)
        return first

    def rotations(self, x: Any, first: int, second: int, third: int) -> Any:
        """Return one of the functions written with a capital sigma."""
        return self.xor(self.rotate(x, first), self.rotate(x, second), self.rotate(x, third))

    def schedule(self, x: Any, first: int, second: int, shift: int) -> Any:
        """Return one of those written with a small sigma."""
        shifted = self.build.lshr(x, self.constant(shift))
        return self.xor(self.rotate(x, first), self.rotate(x, second), shifted)

    def choose(self, x: Any, y: Any, z: Any) -> Any:
        return self.build.xor(z, self.build.and_(x, self.build.xor(y, z)))

    def majority(self, x: Any, y: Any, z: Any) -> Any:
        either = self.build.and_(z, self.build.or_(x, y))
        return self.build.or_(self.build.and_(x, y), either)


def _rounds(v: _Vectors, state: list[Any], words: list[Any]) -> list[Any]:
    """Return the state after one block (FIPS 180-4, 6.2.2)."""
    a, b, c, d, e, f, g, h = state
    for number, constant in enumerate(_ROUNDS):
        place = number % BLOCK_WORDS
        if number >= BLOCK_WORDS:
            words[place] = v.add(
                words[place],
                v.schedule(words[(place + 1) % BLOCK_WORDS], 7, 18, 3),
                words[(place + 9) % BLOCK_WORDS],
                v.schedule(words[(place + 14) % BLOCK_WORDS], 17, 19, 10),
            )
        first = v.add(
            h,
            v.rotations(e, 6, 11, 25),
            v.choose(e, f, g),
            v.constant(constant),
            words[place],
        )
        second = v.add(v.rotations(a, 2, 13, 22), v.majority(a, b, c))
        a, b, c, d, e, f, g, h = v.add(first, second), a, b, c, v.add(d, first), e, f, g
    return [v.add(x, y) for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def _compressing(_typing: Any, state: Any, block: Any) -> Any:
    """Take one block into the states: words of 32 bits, `(16, LANES)` and `(8, LANES)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = _Vectors(builder)
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        states = v.places(arrays[0], HASH_WORDS)
        before = [builder.load(place, align=4) for place in states]
        words = [builder.load(place, align=4) for place in v.places(arrays[1], BLOCK_WORDS)]
        for value, place in zip(_rounds(v, before, words), states, strict=True):
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(state, block), generate


_compress: Any = intrinsic(_compressing)


@njit(inline="always")
def _swapped(word: Any) -> Any:
    """Return a word with its octets in the other order."""
    value = np.uint64(word)
    low = (value & np.uint64(0xFF)) << np.uint64(24) | (value & np.uint64(0xFF00)) << np.uint64(8)
    return np.uint32(low | (value >> np.uint64(8)) & np.uint64(0xFF00) | value >> np.uint64(24))


@njit(cache=True, nogil=True)
def _hash_padded(messages: Any, start: Any, result: Any) -> None:
    """Hash padded messages, as words in the machine's order, `(count, 16 blocks)`."""
    count, width = messages.shape
    state = np.empty((8, LANES), np.uint32)
    block = np.zeros((16, LANES), np.uint32)
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for i in range(8):
            state[i] = start[i]
        for begin in range(0, width, 16):
            for k in range(lanes):
                for i in range(16):
                    block[i, k] = _swapped(messages[first + k, begin + i])
            _compress(state, block)
        for k in range(lanes):
            for i in range(8):
                result[first + k, i] = _swapped(state[i, k])


def hash_rows(prefix: bytes, *parts: Octets) -> bytes:
    """Return for every row the hash of the prefix and the row's part of each array.

    Args:
        prefix: what every message begins with.
        parts: arrays of octets with as many rows as there are messages.
    """
    count = len(parts[0])
    width = len(prefix) + sum(part.shape[1] for part in parts)
    compiled = JIT and width <= SHORT_BYTES
    ending = _ending(width) if compiled else b""
    step = max(LANES, _BYTES_AT_ONCE // width)
    found = np.empty((count, HASH_WORDS), np.uint32)
    for first in range(0, count, step):
        last = min(first + step, count)
        rows = np.empty((last - first, width + len(ending)), np.uint8)
        rows[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
        chosen = [part[first:last] for part in parts]
        np.concatenate(chosen, axis=1, out=rows[:, len(prefix) : width])
        if compiled:
            rows[:, width:] = np.frombuffer(ending, np.uint8)
            _hash_padded(rows.view(np.uint32), _START, found[first:last])
        else:
            found[first:last] = _by_library(rows)
    return found.tobytes()


def _ending(width: int) -> bytes:
    """Return what follows a message of so many octets: a one, zeros, and the length in bits."""
    zeros = -(width + 1 + _LENGTH_BYTES) % BLOCK_BYTES
    return b"\x80" + bytes(zeros) + (8 * width).to_bytes(_LENGTH_BYTES, "big")


def _by_library(rows: Octets) -> npt.NDArray[np.uint32]:
    """Return the hashes of rows."""
    # As octets of one length each: slicing in Python would take as long as hashing.
    messages = rows.view(f"V{rows.shape[1]}")[:, 0].tolist()
    hashes = b"".join([hashlib.sha256(message).digest() for message in messages])
    return np.frombuffer(hashes, np.uint32).reshape(len(rows), HASH_WORDS)
