"""The nonce by which an EIP-3009 transfer commits to the request that it pays for.

Facilitators accept any 32 bytes, and the token writes them into an event of the chain. A client
that makes its nonce this way can later open it: with the request and the salt, anybody sees that
this very transfer paid for it. The salt hides the request until then. Nonces made otherwise work
as well; this module refuses nothing that is merely random.
"""

from __future__ import annotations

from typing import Final

from verispect.core.encoding import Digest, encode, sha256

MIN_NONCE_SALT_BYTES: Final = 16
MAX_NONCE_SALT_BYTES: Final = 64

_DOMAIN: Final = "verispect-nonce-v1"


def request_bound_nonce(request: Digest, salt: bytes) -> str:
    """Return the nonce, in hexadecimal with `0x`.

    Args:
        request: digest of the request, as its payment is reserved for (spec/payment.md).
        salt: 16 to 64 random bytes, never used before.

    Raises:
        ValueError: where the salt is shorter or longer; this is misuse.
    """
    if not MIN_NONCE_SALT_BYTES <= len(salt) <= MAX_NONCE_SALT_BYTES:
        raise ValueError("a salt has 16 to 64 bytes")
    return "0x" + sha256(encode([_DOMAIN, request, salt])).hex()


def request_digest(method: str, path: str, body: bytes) -> Digest:
    """Return the digest of a request as payments are reserved for it.

    Args:
        method: in capitals.
        path: of the URL, without query.
        body: as it was sent, decoded from any content encoding.
    """
    return sha256(encode(["verispect-request-v1", method, path, sha256(body)]))
