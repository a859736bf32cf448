"""Answers of vendors' services, kept in a directory until they are too old.

One file for each request, named by the digest of the request. A file holds when the answer was
fetched, until when it may be used, what was asked, and the digest of all that, so that a damaged or
exchanged file is a miss and never an answer. Files appear whole, by renaming, and several processes
may share a directory. What cannot be written is not kept; what is not kept is fetched again.

The directory is a convenience, not an authority: whoever can write to it can make a verifier say
"no", never "yes", because the verifier judges what came out of it like everything else.

This module refuses to read a clock, and to return an answer before its time or after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Error
from verispect.evidence.json_text import read_object

logger = logging.getLogger(__name__)

MAX_ENTRIES: Final = 4096
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024
MAX_ENTRY_BYTES: Final = 8 * 1024 * 1024
"""Upper limit of one file; no service is asked for more."""

_MAGIC: Final = b"verispect-endorsement/1\n"
_DIGEST_LINE: Final = 65
_MAX_HEAD_BYTES: Final = 256 * 1024
_SUFFIX: Final = ".answer"
_PART: Final = ".part"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said: the body, and those headers that belong to the content."""

    body: bytes
    headers: Mapping[str, str]
    """By lower-case name."""


class EndorsementCache:
    """A directory of answers.

    Args:
        directory: made if it is not there, for its owner only.
        max_entries: more are never kept; those fetched first go first.
        max_bytes: of all files together.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        self._directory = directory
        self._max_entries = max_entries
        self._max_bytes = max_bytes

    def get(self, key: str, now: int) -> Answer | None:
        """Return the answer to the request `key`, if one is kept that is good at `now`.

        Args:
            key: the whole request as text.
            now: milliseconds since the epoch.
        """
        try:
            data = self._read(self._path(key))
        except OSError:
            return None
        return _open_entry(data, key, now)

    def put(self, key: str, answer: Answer, *, now: int, expires: int) -> None:
        """Keep an answer until `expires`; one that is too old or too large is not kept."""
        data = _seal_entry(key, answer, now, expires)
        if expires <= now or len(data) > min(MAX_ENTRY_BYTES, self._max_bytes):
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(self._path(key), data)
            self._make_room()
        except OSError as error:
            logger.warning("an endorsement was not kept: %s", error.strerror)

    def _path(self, key: str) -> Path:
        return self._directory / (hashlib.sha256(key.encode()).hexdigest() + _SUFFIX)

    def _read(self, path: Path) -> bytes:
        # A link is not followed: only files that were put here are read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            return file.read(MAX_ENTRY_BYTES + 1)

    def _write(self, path: Path, data: bytes) -> None:
        descriptor, part = tempfile.mkstemp(suffix=_PART, dir=self._directory)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - as above
                file.write(data)
            os.replace(part, path)  # noqa: PTH105 - the name comes as text
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part)  # noqa: PTH108 - as above
            raise

    def _make_room(self) -> None:
        """Remove what was written first until both limits hold, parts left by a crash included."""
        files: list[tuple[int, int, str]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith((_SUFFIX, _PART)):
                    # Another process may remove a file at any time.
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
        files.sort(reverse=True)
        kept, size = 0, 0
        for _, length, path in files:
            kept, size = kept + 1, size + length
            if kept > self._max_entries or size > self._max_bytes:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108 - as above


def _seal_entry(key: str, answer: Answer, now: int, expires: int) -> bytes:
    head = {"request": key, "fetched": now, "expires": expires, "headers": dict(answer.headers)}
    rest = json.dumps(head, ensure_ascii=True).encode() + b"\n" + answer.body
    return _MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def _open_entry(data: bytes, key: str, now: int) -> Answer | None:
    start = len(_MAGIC) + _DIGEST_LINE
    rest = data[start:]
    digest = hashlib.sha256(rest).hexdigest().encode()
    if len(data) > MAX_ENTRY_BYTES or data[:start] != _MAGIC + digest + b"\n":
        return None
    text, _, body = rest.partition(b"\n")
    try:
        head = read_object(text, limit=_MAX_HEAD_BYTES)
    except Error:
        return None
    if not _is_current(head, key, now):
        return None
    return Answer(body, head["headers"])


def _is_current(head: Mapping[str, Any], key: str, now: int) -> bool:
    fetched, expires, headers = head.get("fetched"), head.get("expires"), head.get("headers")
    return (
        head.get("request") == key
        and type(fetched) is int
        and type(expires) is int
        # A clock that was set back makes the age of an answer unknown.
        and fetched <= now < expires
        and isinstance(headers, dict)
        and all(isinstance(value, str) for value in headers.values())
    )
