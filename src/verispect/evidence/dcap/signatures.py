"""ECDSA on P-256 as Intel writes it: keys and signatures as two 32-byte big-endian numbers.

This module answers yes or no; it gives no reasons and never raises for bad input.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

_NUMBER_BYTES: Final = 32


def load_p256(point: bytes) -> ec.EllipticCurvePublicKey | None:
    """Return the key whose x and y `point` holds, or nothing where it is not on the curve."""
    if len(point) != 2 * _NUMBER_BYTES:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        return None


def verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature`, r and s, is `key`'s over the SHA-256 of `data`."""
    if len(signature) != 2 * _NUMBER_BYTES or not isinstance(key.curve, ec.SECP256R1):
        return False
    r = int.from_bytes(signature[:_NUMBER_BYTES])
    s = int.from_bytes(signature[_NUMBER_BYTES:])
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
