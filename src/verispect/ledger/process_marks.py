"""Which of several processes still live: each holds a lock on a file of its own.

The lock goes with the process, however it ends, and no number of a process is used again. What a
process had begun can so be told from what nobody is at any more. This module refuses to decide what
becomes of that.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME_BYTES: Final = 8
_NAME_CHARACTERS: Final = frozenset("0123456789abcdef")


class ProcessMark:
    """The mark of this process in a directory.

    Args:
        directory: shared by the processes; made where there is none.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name: Final = os.urandom(_NAME_BYTES).hex()
        self._directory = directory
        self._descriptor = os.open(
            directory / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600
        )
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def is_alive(self, name: str) -> bool:
        """Tell whether the process with this mark still lives; the file of a dead one goes."""
        if len(name) != 2 * _NAME_BYTES or not _NAME_CHARACTERS.issuperset(name):
            return False
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with suppress(FileNotFoundError):
                path.unlink()
            return False
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the mark up: what this process had begun counts as left."""
        with suppress(FileNotFoundError):
            (self._directory / self.name).unlink()
        with suppress(OSError):
            os.close(self._descriptor)
