"""Tiles as files below one folder.

A file is written under another name, synced, and then linked to its path, which fails where the
path exists: no path is ever overwritten, whoever writes at the same time. Then the folder is
synced. What a crash leaves is a file without a path, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError
from verispect.ledger.locks import sync_directory

INCOMING: Final = ".incoming"

_MODE: Final = 0o644


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = type(error).__name__ if error.errno is None else os.strerror(error.errno).lower()
        raise StoreError(f"cannot {doing} a tile: {name}", reason=Reason.STORE_FAILED) from error


class FileTiles:
    """Tiles in `root`, on a local file system. Reading writes nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder_of_ours: Path | None = None
        self._lock = -1
        self._known: set[Path] = set()

    def _incoming(self) -> Path:
        """Return the folder for files without a path, locked for as long as this object lives."""
        while self._folder_of_ours is None:
            folder = self._root / INCOMING / secrets.token_hex(8)
            folder.mkdir(parents=True)
            for each in (self._root / INCOMING, self._root, self._root.parent):
                sync_directory(each)
            lock = _try_lock(folder)
            # Another process may have taken it for a dead one's before it was locked.
            if lock is not None and folder.exists():
                self._folder_of_ours, self._lock = folder, lock
                self._forget_dead()
        return self._folder_of_ours

    def _forget_dead(self) -> None:
        for folder in (self._root / INCOMING).iterdir():
            lock = None if folder == self._folder_of_ours else _try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)

    def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store files; returns when bytes and names are durable (`TileStore.put`).

        Raises:
            StoreError: `store-conflict` where a path has other bytes; `store-failed`.
        """
        with _our_errors("store"), self._forget_on_error():
            incoming = self._incoming()
            folders = {self._folder(path) for path, _ in files}
            written = []
            try:
                # All bytes are handed over first: the disk has them together, not one by one.
                for number, (path, data) in enumerate(files):
                    temporary = incoming / str(number)
                    written.append((temporary, self._root / path, data, _write(temporary, data)))
                for temporary, target, data, descriptor in written:
                    os.fdatasync(descriptor)
                    _link(temporary, target, data)
            finally:
                for temporary, _, _, descriptor in written:
                    os.close(descriptor)
                    temporary.unlink(missing_ok=True)
            for folder in folders:
                sync_directory(folder)

    @contextlib.contextmanager
    def _forget_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._known.clear()  # A folder may be gone.
            raise

    def _folder(self, path: str) -> Path:
        folder = (self._root / path).parent
        if folder not in self._known:
            missing = []
            parent = folder
            while not parent.exists():
                missing.append(parent)
                parent = parent.parent
            folder.mkdir(parents=True, exist_ok=True)
            for each in missing:
                sync_directory(each.parent)
            self._known.add(folder)
        return folder

    def get(self, path: str) -> bytes | None:
        """Return a file, or `None` where there is none (`TileStore.get`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("read"):
            try:
                return (self._root / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def publish(self, path: str, data: bytes) -> None:
        """Replace a file that may change (`TileStore.publish`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("publish"):
            folder = self._folder(path)
            temporary = self._incoming() / f"publish-{secrets.token_hex(8)}"
            try:
                descriptor = _write(temporary, data)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                temporary.replace(self._root / path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(folder)

    def close(self) -> None:
        """Let go of the folder for files without a path."""
        if self._folder_of_ours is not None:
            shutil.rmtree(self._folder_of_ours, ignore_errors=True)
            os.close(self._lock)
            self._folder_of_ours = None

    def remove_partials(self, paths: Sequence[str]) -> None:
        """Remove the partial tiles of these full tiles (`TileStore.remove_partials`).

        Raises:
            StoreError: `store-failed`.
        """
        with _our_errors("remove"):
            for path in paths:
                folder = self._root / f"{path}.p"
                self._known.discard(folder)
                with contextlib.suppress(FileNotFoundError):
                    for each in list(folder.iterdir()):
                        each.unlink()
                    folder.rmdir()


def _write(path: Path, data: bytes) -> int:
    """Write a new file and return its descriptor, not synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _link(temporary: Path, target: Path, data: bytes) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        if target.read_bytes() != data:
            raise StoreError(
                "a path of the log has other bytes", reason=Reason.STORE_CONFLICT
            ) from None
        # Whoever wrote it may have died before it was synced.
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _try_lock(folder: Path) -> int | None:
    """Lock a folder and return what holds the lock, or `None` where another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
