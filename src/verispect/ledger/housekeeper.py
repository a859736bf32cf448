"""Work that must not stand in an answer's way: WAL checkpoints and the high-water note.

A second thread with its own connection copies the WAL into the database (`PASSIVE`, which takes
no lock that the writer needs) and keeps the high-water note. It does so soon after the load
pauses, or when much was written. Under load a passive checkpoint always trails the writer by a
few frames, and a WAL that is never caught up is never reused; so the thread does the long part
and the writer, told that it is nearly done, the last frames between two batches.

Nothing here decides what is durable: if this thread fails, the WAL grows and the note ages, and
both are tried again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Final

from verispect.core.errors import StoreError
from verispect.ledger import high_water
from verispect.ledger.schema import SETUP_BUSY_MILLISECONDS, open_writer

PAUSE_SECONDS: Final = 0.5
"""How long after the first write of a burst the checkpoint and the note are made."""

CHECKPOINT_BYTES: Final = 32 * 1024 * 1024
"""How large the WAL may have grown, roughly, when a checkpoint becomes due at once."""

_log = logging.getLogger(__name__)


class Housekeeper(threading.Thread):
    """The housekeeping thread of one store."""

    def __init__(
        self, directory: Path, database: Path, *, issuer_key_id: bytes, noted: int
    ) -> None:
        super().__init__(name="verispect-housekeeper", daemon=True)
        self.connection = open_writer(database, busy_milliseconds=SETUP_BUSY_MILLISECONDS)
        self._directory = directory
        self._issuer_key_id = issuer_key_id
        self._noted = noted
        self._highest = noted
        self._bytes = 0
        self._dirty = threading.Event()
        self._due = threading.Event()
        self._nearly_done = False
        self._stopping = False

    def committed(self, highest: int, written: int) -> None:
        """Say what the writer just made durable; called by the writer only, and cheap."""
        self._highest = highest
        self._bytes += written
        if not self._dirty.is_set():
            self._dirty.set()
        if (
            self._bytes >= CHECKPOINT_BYTES or highest - self._noted >= high_water.NOTE_INTERVAL
        ) and not self._due.is_set():
            self._due.set()

    def checkpoint_is_nearly_done(self) -> bool:
        """Tell the writer, once per checkpoint under load, to do its last frames."""
        if not self._nearly_done:
            return False
        self._nearly_done = False
        return True

    def run(self) -> None:
        """Tidy up after each burst until told to stop."""
        while not self._stopping:
            self._dirty.wait()
            under_load = self._due.wait(PAUSE_SECONDS)
            self._dirty.clear()
            self._due.clear()
            self._bytes = 0
            self.take_note()
            if self._stopping:
                break
            try:
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._nearly_done = under_load
            except sqlite3.Error as exc:
                _log.warning(
                    "cannot checkpoint the receipt store: %s",
                    getattr(exc, "sqlite_errorname", type(exc).__name__),
                )
        self.connection.close()

    def take_note(self) -> None:
        """Write the high-water note if there is something new."""
        highest = self._highest
        if highest <= self._noted:
            return
        try:
            high_water.note(self._directory, self._issuer_key_id, highest)
            self._noted = highest
        except (OSError, StoreError) as exc:
            _log.warning("cannot take the high-water note: %s", type(exc).__name__)

    def stop(self) -> None:
        """Take the last note and end the thread; the writer MUST have ended before."""
        self._stopping = True
        self._due.set()
        self._dirty.set()
        self.join()
        # The thread may have passed its own note just before it was told to stop.
        self.take_note()
