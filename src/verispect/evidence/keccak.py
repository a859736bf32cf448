"""Keccak-256 as Ethereum uses it: original Keccak padding, not the one of SHA-3 (FIPS 202).

Addresses of secp256k1 keys are its last 20 bytes, and some services bind such an address into
their attestation. The standard library and `cryptography` have only SHA-3. This module refuses to
be a general hash: inputs are bounded and nothing secret is ever hashed.
"""

from __future__ import annotations

from typing import Final

from verispect.core.errors import MalformedError, Reason

MAX_KECCAK_BYTES: Final = 64 * 1024
"""Upper limit of one input; what is hashed here is a public key."""

_RATE: Final = 136
_MASK: Final = (1 << 64) - 1
_ROUNDS: Final = 24


def _round_constants() -> tuple[int, ...]:
    # The linear feedback shift register of the Keccak reference, section 1.2.
    constants = []
    register = 1
    for _ in range(_ROUNDS):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register >> 7 else 0)
        constants.append(constant)
    return tuple(constants)


def _lane_walk() -> tuple[tuple[int, int], ...]:
    # Where each lane goes in the step pi, and by how much it is rotated in the step rho.
    walk = []
    x, y = 1, 0
    for step in range(_ROUNDS):
        walk.append((x + 5 * y, ((step + 1) * (step + 2) // 2) % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(walk)


_CONSTANTS: Final = _round_constants()
_WALK: Final = _lane_walk()


def _rotate(lane: int, count: int) -> int:
    return ((lane << count) | (lane >> (64 - count))) & _MASK


def _permute(lanes: list[int]) -> None:
    for constant in _CONSTANTS:
        columns = [
            lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
            for x in range(5)
        ]
        for x in range(5):
            parity = columns[(x + 4) % 5] ^ _rotate(columns[(x + 1) % 5], 1)
            for row in range(0, 25, 5):
                lanes[row + x] ^= parity
        moving = lanes[1]
        for index in range(_ROUNDS):
            target = _WALK[(index + 1) % _ROUNDS][0]
            lanes[target], moving = _rotate(moving, _WALK[index][1]), lanes[target]
        for row in range(0, 25, 5):
            plane = lanes[row : row + 5]
            for x in range(5):
                lanes[row + x] = plane[x] ^ (~plane[(x + 1) % 5] & _MASK & plane[(x + 2) % 5])
        lanes[0] ^= constant


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 digest of `data`, 32 bytes.

    Raises:
        MalformedError: `too-large` beyond `MAX_KECCAK_BYTES`.
    """
    if len(data) > MAX_KECCAK_BYTES:
        raise MalformedError(f"expected at most {MAX_KECCAK_BYTES} bytes", reason=Reason.TOO_LARGE)
    padded = bytearray(data)
    padded += bytes(_RATE - len(data) % _RATE)
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE):
        for index in range(_RATE // 8):
            offset = start + 8 * index
            lanes[index] ^= int.from_bytes(padded[offset : offset + 8], "little")
        _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def ethereum_address(public_key: bytes) -> bytes:
    """Return the 20-byte address of an uncompressed secp256k1 point, with or without its 04.

    Raises:
        MalformedError: `malformed-key` for any other encoding.
    """
    point = public_key[1:] if len(public_key) == 65 and public_key[0] == 4 else public_key
    if len(point) != 64:
        raise MalformedError(
            "expected an uncompressed point of 64 or 65 bytes", reason=Reason.MALFORMED_KEY
        )
    return keccak256(point)[12:]
