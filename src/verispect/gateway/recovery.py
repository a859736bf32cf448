"""What an open stream leaves on disk, and the receipts of streams whose process died.

While a stream runs, its statement so far is kept in the store. When the process is killed, the
next one to start signs a receipt with finish reason `interrupted`: it covers at least the chunks
up to the last checkpoint, and says nothing of an output that nobody could commit to.
"""

from __future__ import annotations

from typing import Any

from verispect.core.encoding import decode, encode
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import InferenceStatement


def encode_recovery(statement: InferenceStatement, openings: bytes) -> bytes:
    """Return the bytes to keep: the statement so far and the openings behind it."""
    return encode([statement.encode(), openings])


def decode_recovery(data: bytes) -> tuple[InferenceStatement, bytes]:
    """Reverse `encode_recovery`.

    Raises:
        MalformedError: `malformed-statement` or `malformed-cbor`.
    """
    row: Any = decode(data)
    if type(row) is not list or len(row) != 2 or not all(type(item) is bytes for item in row):
        raise MalformedError("not a stream's recovery record", reason=Reason.MALFORMED_STATEMENT)
    return InferenceStatement.decode(row[0]), row[1]
