"""Tiles as objects of a store that speaks the S3 API, where one machine is outgrown.

A path is written with the condition that it does not exist (`If-None-Match: *`), so that no path
is ever overwritten, whoever writes at the same time. There are stores that take the condition and
ignore it: the first write makes sure that this one does not, on an object of its own.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from verispect.core.errors import Reason, StoreError

PARALLEL: Final = 16
"""Requests at once: an object store is far away, and patient."""


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        # Without the store's text, which may hold its address and credentials.
        name = type(error).__name__
        raise StoreError(f"cannot {doing} an object: {name}", reason=Reason.STORE_FAILED) from error


class ObjectTiles:
    """Tiles in a bucket.

    Args:
        bucket: its name; it exists.
        prefix: of every path, with its final slash where there is one.
        options: of `obstore.store.S3Store`: endpoint, region, credentials.
    """

    def __init__(self, bucket: str, *, prefix: str = "", options: Mapping[str, Any]) -> None:
        with _our_errors("open"):
            self._store = S3Store(bucket, **options)
        self._prefix = prefix
        self._refuses_overwriting = False
        self._requests = ThreadPoolExecutor(PARALLEL, thread_name_prefix="verispect-objects")

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store objects (`TileStore.put`).

        Raises:
            StoreError: `store-conflict` where a path has other bytes; `store-failed`, also where
                the store overwrites.
        """
        if not self._refuses_overwriting:
            self._probe()
        for _ in self._requests.map(self._put, files):
            pass

    def _put(self, file: tuple[str, bytes]) -> None:
        path, data = file
        with _our_errors("store"):
            try:
                self._store.put(self._prefix + path, data, mode="create")
                return
            except AlreadyExistsError:
                pass
        if self.get(path) != data:
            raise StoreError("a path of the log has other bytes", reason=Reason.STORE_CONFLICT)

    def _probe(self) -> None:
        """Make sure that a second write is refused."""
        path = f"{self._prefix}probe/{secrets.token_hex(16)}"
        with _our_errors("store"):
            self._store.put(path, b"first", mode="create")
            try:
                self._store.put(path, b"second", mode="create")
            except AlreadyExistsError:
                self._refuses_overwriting = True
            with contextlib.suppress(BaseError):  # A probe that stays does no harm.
                self._store.delete(path)
        if not self._refuses_overwriting:
            raise StoreError(
                "the object store ignores If-None-Match and overwrites", reason=Reason.STORE_FAILED
            )

    def get(self, path: str) -> bytes | None:
        """Return an object, or `None` (`TileStore.get`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("read"):
            try:
                return bytes(self._store.get(self._prefix + path).bytes())
            except FileNotFoundError:
                return None

    def publish(self, path: str, data: bytes) -> None:
        """Replace an object that may change (`TileStore.publish`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("publish"):
            self._store.put(self._prefix + path, data, mode="overwrite")

    def remove_partials(self, paths: Sequence[str]) -> None:
        """Remove the partial tiles of these full tiles (`TileStore.remove_partials`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("remove"):
            for path in paths:
                found = self._store.list(f"{self._prefix}{path}.p").collect()
                if found:
                    self._store.delete([each["path"] for each in found])

    def close(self) -> None:
        """End the threads that make requests."""
        self._requests.shutdown()
