"""Keccak-256: the published digests, every block boundary against another sponge, and addresses."""

from __future__ import annotations

import hashlib

import pytest

from verispect.core.errors import MalformedError, Reason
from verispect.evidence import keccak


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (
            b"The quick brown fox jumps over the lazy dog",
            "4d741b6f1eb29cb2a9b9911c82f56fa8d73b04959d3d9d222895df6c0b28aa15",
        ),
    ],
)
def test_published_digests(data: bytes, digest: str) -> None:
    """The digests that everybody publishes of these texts come out."""
    assert keccak.keccak256(data).hex() == digest


@pytest.mark.parametrize("length", [0, 1, 7, 8, 134, 135, 136, 137, 271, 272, 273, 1000])
def test_the_permutation_is_that_of_sha3(length: int) -> None:
    """With the padding of FIPS 202 in place of Keccak's, `hashlib`'s SHA3-256 comes out."""
    data = (bytes(range(256)) * 4)[:length]
    padded = bytearray(data + bytes(136 - length % 136))
    padded[length] ^= 0x06
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), 136):
        for index in range(17):
            lanes[index] ^= int.from_bytes(
                padded[start + 8 * index : start + 8 * index + 8], "little"
            )
        keccak._permute(lanes)
    digest = b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])
    assert digest == hashlib.sha3_256(data).digest()


def test_an_address_is_the_same_with_and_without_the_prefix_of_the_point() -> None:
    """The generator point of secp256k1, private key 1, has the address that everybody knows."""
    x = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    y = "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    point = bytes.fromhex(x + y)
    expected = "7e5f4552091a69125d5dfcb7b8c2659029395bdf"
    assert keccak.ethereum_address(point).hex() == expected
    assert keccak.ethereum_address(b"\x04" + point).hex() == expected


@pytest.mark.parametrize("key", [b"", bytes(33), bytes(65), bytes(63)])
def test_other_encodings_of_a_key_are_malformed(key: bytes) -> None:
    """A compressed point, or a point with another prefix, has no address here."""
    with pytest.raises(MalformedError) as caught:
        keccak.ethereum_address(key)
    assert caught.value.reason is Reason.MALFORMED_KEY


def test_long_input_is_refused() -> None:
    """Inputs have a named limit."""
    with pytest.raises(MalformedError) as caught:
        keccak.keccak256(bytes(keccak.MAX_KECCAK_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE
