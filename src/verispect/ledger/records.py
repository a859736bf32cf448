"""What goes into the receipt store and what comes out, with the size limits of both.

Plain values: nothing here opens a file or signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

INFERENCE_ID_BYTES: Final = 16
"""Length of an inference id."""

MAX_RECEIPT_BYTES: Final = 4 * 1024 * 1024
"""Upper limit of one signed receipt, evidence included."""

MAX_OPENINGS_BYTES: Final = 64 * 1024 * 1024
"""Upper limit of the openings kept for one receipt."""

MAX_RECOVERY_BYTES: Final = 16 * 1024 * 1024
"""Upper limit of what an open stream leaves behind for its interrupted receipt."""


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """One answer that needs a receipt before it may leave."""

    inference_id: bytes
    """16 bytes, unique for ever. Ids that grow with time (UUIDv7) keep their index compact."""

    mint: Callable[[int], bytes]
    """Given the sequence number returns the signed receipt.

    It runs on the writer thread, often inside a transaction: it MUST be short and pure CPU. It
    MAY be called again with another number when a batch has to be repeated, so it MUST NOT let its
    bytes out itself; only what `issue` returns was made durable. It MAY raise: only its own caller
    sees that, and the number goes to the next receipt.
    """

    openings: bytes | None = None
    """Content-encoded openings, kept apart so that they can be fetched later and erased."""


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt that is on disk."""

    sequence: int
    """Issuer sequence number, from 1, without a gap."""

    receipt_id: bytes
    """SHA-256 of `receipt`."""

    inference_id: bytes
    receipt: bytes

    issued_at: int
    """When the store numbered it, in milliseconds since the epoch, by this machine's clock."""


class InterruptedStream(NamedTuple):
    """A stream whose process died before its receipt was issued."""

    inference_id: bytes

    recovery: bytes
    """What the last `open_stream` or `checkpoint_stream` left."""
