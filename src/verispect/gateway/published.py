"""Records behind the digests in a statement: model manifests and engine identities.

A statement names them by SHA-256; here anyone fetches the bytes and checks them. Records hold no
content of requests. They are kept for as long as the state directory, since receipts name them for
ever, and a record is never replaced by other bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Reason, StoreError
from verispect.models.blobs import write_atomically

MAX_RECORD_BYTES: Final = 16 * 1024 * 1024


class PublishedRecords:
    """Content-addressed records in one folder.

    Args:
        directory: made where it does not exist.

    Raises:
        StoreError: `store-failed` where the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise _failed(directory, error) from error

    def publish(self, record: bytes) -> Digest:
        """Keep `record` and return its digest.

        Raises:
            StoreError: `store-failed`.
        """
        digest = sha256(record)
        path = self._path(digest)
        if not path.exists():
            write_atomically(path, record)
        return digest

    def read(self, digest: bytes) -> bytes | None:
        """Return the record with this digest, checked against it.

        Raises:
            StoreError: `store-failed` where its bytes are not what they were.
        """
        try:
            record = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self._directory, error) from error
        if sha256(record) != digest:
            raise StoreError("a published record is damaged", reason=Reason.STORE_FAILED)
        return record

    def _path(self, digest: bytes) -> Path:
        return self._directory / f"{digest.hex()}.cbor"


def _failed(directory: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot use {directory}: {error.strerror}", reason=Reason.STORE_FAILED)
