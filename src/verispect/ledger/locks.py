"""Lock files of the store directory: one for its set-up, one per process that has it open.

`flock` and not process ids, because a number is reused and a lock is not: the kernel drops the
lock with its last holder, however that died. The locks are advisory and hold on local file
systems; a store MUST NOT be shared over a network file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError

OWNERS_DIRECTORY: Final = "owners"
SETUP_LOCK_NAME: Final = "setup.lock"
SETUP_WAIT_SECONDS: Final = 20.0

_POLL_SECONDS: Final = 0.005


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def setup_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, for set-up and for changes of the high-water file.

    Raises:
        StoreError: `store-locked` when another process holds it for too long.
    """
    descriptor = os.open(directory / SETUP_LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + SETUP_WAIT_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise StoreError(
                    "another process is setting up the receipt store", reason=Reason.STORE_LOCKED
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class OwnerLock:
    """Proof that this process lives: a file of its own, locked until the process ends."""

    def __init__(self, directory: Path) -> None:
        self._owners = directory / OWNERS_DIRECTORY
        self._owners.mkdir(mode=0o700, exist_ok=True)
        while True:
            self.token = secrets.token_hex(16)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            # Between the two calls `forget` of another process may have taken the file for a
            # dead one and removed it; a lock on a removed file proves nothing, so try again.
            if _try_lock(self._descriptor) and self._path.exists():
                return
            os.close(self._descriptor)

    @property
    def _path(self) -> Path:
        return self._owners / self.token

    def is_dead(self, token: str) -> bool:
        """Tell whether the process behind `token` is gone."""
        if token == self.token:
            return False
        try:
            descriptor = os.open(self._owners / token, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            return _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def forget(self, tokens: set[str]) -> None:
        """Remove the files of those in `tokens` that are dead."""
        for token in tokens:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self._owners / token, os.O_RDWR)
                try:
                    if _try_lock(descriptor):
                        (self._owners / token).unlink()
                finally:
                    os.close(descriptor)

    def forget_dead(self) -> None:
        """Remove the files that dead processes left."""
        self.forget({entry.name for entry in self._owners.iterdir()} - {self.token})

    def release(self) -> None:
        """Give the lock up and remove the file; from now on this owner counts as dead."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def abandon_after_fork(self) -> None:
        """Close a forked child's copy, so that the lock ends with the parent alone."""
        os.close(self._descriptor)
