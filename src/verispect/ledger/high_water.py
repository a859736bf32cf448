"""A note beside the database of how far it is known to have got, against restored backups.

Whoever replaces the database by an older copy would make the issuer sign numbers a second time,
which to everybody outside looks like equivocation. The file `high-water` holds, per issuer key, a
sequence number that was committed; a database below it was rolled back, and is refused.

Detected: the database file, or it and its WAL, replaced by a copy from before the last note, or
deleted, or truncated. The note is taken when the store is opened and closed, at least every
`NOTE_INTERVAL` numbers under load, and within a second once the load pauses.

Not detected: a restore of the whole directory with this file in it (a snapshot of the disk or of
the machine); a restore that loses only numbers issued after the last note; the file deleted with
the database. Those need a witness outside the machine, which is what the public log is for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError
from verispect.ledger.locks import setup_lock, sync_directory

FILE_NAME: Final = "high-water"
NOTE_INTERVAL: Final = 10_000
"""Under load a note is taken at least each time this many numbers were issued."""

MAX_FILE_BYTES: Final = 1024 * 1024

_HEADER: Final = "verispect high-water 1"
_LINE: Final = re.compile(r"([0-9a-f]{2,256}) (0|[1-9][0-9]{0,18})")


def read(directory: Path) -> dict[bytes, int]:
    """Return the noted sequence number of each issuer key id.

    Raises:
        StoreError: `store-failed` when the file is not ours or is damaged.
    """
    try:
        with (directory / FILE_NAME).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    lines = content.decode("ascii", errors="replace").split("\n")
    entries = [_LINE.fullmatch(line) for line in lines[1:-1]]
    if len(content) > MAX_FILE_BYTES or lines[0] != _HEADER or lines[-1] or not all(entries):
        raise StoreError("the high-water file is damaged", reason=Reason.STORE_FAILED)
    return {bytes.fromhex(entry[1]): int(entry[2]) for entry in entries if entry}


def note(directory: Path, issuer_key_id: bytes, committed: int) -> None:
    """Raise the note of one issuer to `committed`; never lowers it.

    Raises:
        StoreError: `store-failed`, `store-locked`.
        OSError: when the file cannot be written.
    """
    with setup_lock(directory):
        if read(directory).get(issuer_key_id, 0) < committed:
            replace(directory, issuer_key_id, committed)


def replace(directory: Path, issuer_key_id: bytes, committed: int) -> None:
    """Write the note of one issuer, up or down; the caller MUST hold the set-up lock."""
    notes = read(directory)
    notes[issuer_key_id] = committed
    lines = [_HEADER, *(f"{key.hex()} {number}" for key, number in sorted(notes.items())), ""]
    temporary = directory / f"{FILE_NAME}.new"
    with temporary.open("wb") as file:
        file.write("\n".join(lines).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / FILE_NAME)
    sync_directory(directory)
