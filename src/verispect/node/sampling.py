"""Which receipts a node runs again: drawn by its own signature, at a rate that it declares.

The draw is the node's deterministic Ed25519 signature (RFC 8032) over the log's origin, the
checkpoint in which it first saw the receipt, and the receipt. An operator cannot compute it, so it
cannot know which answers nobody will look at; whoever has the node's public key can check it, so
the node cannot deny a draw. What it cannot show is that the node made no second signature: a
dishonest node can choose. That is why k of n decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason
from verispect.core.keys import PublicKey, Signer
from verispect.tlog.checkpoint import Checkpoint

DRAW_DOMAIN: Final = "verispect-node-draw-v1"
MAX_RATE_DENOMINATOR: Final = 1_000_000
_SPACE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: its signature, and whether the receipt is in the sample."""

    signature: bytes
    drawn: bool


def parse_rate(text: str) -> Fraction:
    """Read a rate such as `0.05` or `1/20`.

    Raises:
        MalformedError: `malformed-policy` unless it is a fraction from 0 to 1.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(-1)
    if not 0 <= rate <= 1 or rate.denominator > MAX_RATE_DENOMINATOR:
        raise MalformedError("expected a rate from 0 to 1", reason=Reason.MALFORMED_POLICY)
    return rate


def _message(checkpoint: Checkpoint, receipt: Digest) -> bytes:
    return encode([DRAW_DOMAIN, checkpoint.origin, checkpoint.size, checkpoint.root, receipt])


def _is_drawn(signature: bytes, rate: Fraction) -> bool:
    value = int.from_bytes(sha256(signature)[:8], "big")
    return value * rate.denominator < rate.numerator * _SPACE


def draw(receipt: Digest, checkpoint: Checkpoint, *, rate: Fraction, signer: Signer) -> Draw:
    """Draw for one receipt.

    Args:
        receipt: the receipt's digest.
        checkpoint: the first one in which the node saw it.
        rate: what share is drawn.
        signer: holder of the node's private key.
    """
    signature = signer.sign(_message(checkpoint, receipt))
    return Draw(signature, _is_drawn(signature, rate))


def check_draw(
    found: Draw, receipt: Digest, checkpoint: Checkpoint, *, rate: Fraction, key: PublicKey
) -> None:
    """Check that a node drew as it says.

    Raises:
        VerificationError: `signature-invalid`.
        MalformedError: `malformed-evidence` where the signature says otherwise.
    """
    key.verify(_message(checkpoint, receipt), found.signature)
    if _is_drawn(found.signature, rate) is not found.drawn:
        raise MalformedError("the draw says otherwise", reason=Reason.MALFORMED_EVIDENCE)
