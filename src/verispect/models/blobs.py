"""Content-addressed storage: bytes named by their SHA-256, and verified whenever they are loaded.

A blob is written under a temporary name, fsynced, made read-only and renamed, so that a crash
leaves either the whole blob or none. Loading copies the bytes into memory while hashing them and
gives out that copy: what was hashed is what is used, and no path is opened again in between.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, Self

from verispect.core.encoding import Digest
from verispect.core.errors import ModelError, Reason, StoreError

MAX_BLOB_BYTES: Final = 1 << 40
MAX_MEMORY_BLOB_BYTES: Final = (1 << 31) - 1
"""Upper limit of a blob that is loaded as `bytes`; ONNX Runtime takes no more from memory."""

_CHUNK_BYTES: Final = 4 * 1024 * 1024
_TEMPORARY_PREFIX: Final = ".writing-"
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

Progress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that was just stored."""

    digest: Digest
    size: int
    path: Path


class SealedFile:
    """A verified copy of a blob in sealed memory, which nobody can change any more.

    It may be used as a context manager; closing frees the memory once nobody maps it.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        """An open file descriptor; its inheritance flag is off."""
        self.size = size

    @property
    def path(self) -> str:
        """A path to the copy, good in this process while the object is open."""
        return f"/proc/self/fd/{self.descriptor}"

    def read(self) -> bytes:
        """Return the content."""
        return os.pread(self.descriptor, self.size, 0) if self.size < _CHUNK_BYTES else self._map()

    def _map(self) -> bytes:
        with mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ) as view:
            return bytes(view)

    def close(self) -> None:
        """Give the memory back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlobStore:
    """The folder of blobs.

    Args:
        folder: where blobs live; made on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: bytes) -> Path:
        """Return where the blob `digest` lives, whether or not it is there."""
        return self._folder / digest.hex()

    def store_bytes(self, content: bytes) -> StoredBlob:
        """Store `content`."""
        with self._writing() as (temporary, target):
            target.write(content)
            return self._finish(temporary, target, hashlib.sha256(content).digest())

    def store_file(self, descriptor: int, progress: Progress | None = None) -> StoredBlob:
        """Store what `descriptor`, a regular file, holds; it is read once.

        Raises:
            ModelError: `unsupported-model` where it is not a regular file or is too large.
            StoreError: `store-failed`.
        """
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BLOB_BYTES:
            raise ModelError(
                "a model file must be a regular file of bounded size",
                reason=Reason.UNSUPPORTED_MODEL,
            )
        hasher = hashlib.sha256()
        with self._writing() as (temporary, target):
            done = 0
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                hasher.update(chunk)
                target.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, status.st_size)
            return self._finish(temporary, target, hasher.digest())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[Path, BinaryIO]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as target:
                yield temporary, target
        except OSError as error:
            raise StoreError(
                f"a model file could not be stored: {os.strerror(error.errno or errno.EIO)}",
                reason=Reason.STORE_FAILED,
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _finish(self, temporary: Path, target: BinaryIO, digest: bytes) -> StoredBlob:
        target.flush()
        os.fchmod(target.fileno(), 0o444)
        os.fsync(target.fileno())
        size = os.fstat(target.fileno()).st_size
        path = self.path(digest)
        # An older blob of this name has the same bytes, or is damaged and healed by this.
        temporary.replace(path)
        fsync_folder(self._folder)
        return StoredBlob(Digest(digest), size, path)

    def sweep(self) -> None:
        """Remove what crashed writers left; only while nobody writes."""
        if self._folder.is_dir():
            for leftover in self._folder.glob(f"{_TEMPORARY_PREFIX}*"):
                leftover.unlink(missing_ok=True)

    def load(self, digest: bytes, size: int, *, what: str) -> bytes:
        """Return a blob's bytes, verified.

        Args:
            digest: its name.
            size: its length, which bounds what is read.
            what: for messages: the model and the file.

        Raises:
            ModelError: `model-changed` where the bytes are missing or other ones,
                `unsupported-model` where the blob is too large for this way of loading.
        """
        if size > MAX_MEMORY_BLOB_BYTES:
            raise ModelError(f"{what} is too large to load", reason=Reason.UNSUPPORTED_MODEL)
        with self._open(digest, size, what) as source:
            content = source.read(size + 1)
        if len(content) != size or hashlib.sha256(content).digest() != digest:
            raise _changed(what)
        return content

    def load_sealed(self, digest: bytes, size: int, *, what: str) -> SealedFile:
        """Return a verified copy of a blob in sealed memory, for engines that want a file.

        Raises:
            ModelError: `model-changed`.
            StoreError: `store-failed` where memory cannot be had.
        """
        with self._open(digest, size, what) as source:
            try:
                descriptor = os.memfd_create(
                    "verispect-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
                )
            except OSError as error:
                raise StoreError(f"{what}: no memory file", reason=Reason.STORE_FAILED) from error
            sealed = SealedFile(descriptor, size)
            try:
                _copy_verified(source, descriptor, digest, size, what)
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            except BaseException:
                sealed.close()
                raise
        return sealed

    def _open(self, digest: bytes, size: int, what: str) -> FileIO:
        try:
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ModelError(
                f"{what} is missing or unreadable in the registry", reason=Reason.MODEL_CHANGED
            ) from error
        source = FileIO(descriptor, "rb")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            source.close()
            raise _changed(what)
        return source


def _copy_verified(source: FileIO, target: int, digest: bytes, size: int, what: str) -> None:
    hasher = hashlib.sha256()
    done = 0
    while chunk := source.read(min(_CHUNK_BYTES, size + 1 - done)):
        hasher.update(chunk)
        done += len(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
    if done != size or hasher.digest() != digest:
        raise _changed(what)


def _changed(what: str) -> ModelError:
    return ModelError(f"{what} changed since it was registered", reason=Reason.MODEL_CHANGED)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o444) -> None:
    """Write `path` so that a crash leaves the old content or the new one, never a part.

    Raises:
        StoreError: `store-failed`.
    """
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path.name} could not be written: {os.strerror(error.errno or errno.EIO)}",
            reason=Reason.STORE_FAILED,
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
