"""A log in one folder: with the embedded stores, which are the default, no service to start.

    log.vkey           the log's public key, as notes know it
    state.sqlite3      `state_sqlite`
    tiles/             what readers are served: checkpoint, description, tile/, evidence/
    stores.toml        where there is one: state and tiles are elsewhere (`places`)

The private key is not in the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from verispect.core.errors import Reason, StoreError
from verispect.core.keys import Signer
from verispect.ledger.locks import sync_directory
from verispect.ledger.log.appender import MAX_BATCH, Appender, Witnessed
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.interface import DESCRIPTION_PATH, LogState
from verispect.ledger.log.places import StorePlaces
from verispect.ledger.log.proofs import Proofs
from verispect.ledger.log.runner import POOL_SECONDS, LogRunner
from verispect.ledger.log.sources import Source
from verispect.tlog.checkpoint import Checkpoint, TrustedLog
from verispect.tlog.note import VerifierKey

KEY_FILE: Final = "log.vkey"
MAX_KEY_FILE_BYTES: Final = 1024


def _no_witnesses() -> Sequence[Checkpoint]:
    return ()


class LogFolder:
    """A log's folder, as its operator or an auditor has it.

    Raises:
        StoreError: `store-failed` where there is no log.
        MalformedError: `malformed-key`.
    """

    def __init__(self, folder: Path) -> None:
        try:
            with (folder / KEY_FILE).open("rb") as file:
                text = file.read(MAX_KEY_FILE_BYTES).decode("utf-8", errors="replace")
        except OSError as error:
            raise StoreError(f"no log in {folder}", reason=Reason.STORE_FAILED) from error
        self.key = VerifierKey.parse(text.strip())
        self._places = StorePlaces.read(folder)
        self.tiles = self._places.open_tiles()

    @classmethod
    def create(cls, folder: Path, description: LogDescription, *, signer: Signer) -> LogFolder:
        """Make the folder of a new log, or open that of the same one.

        Args:
            folder: the folder, on a local file system.
            description: what the log says of itself.
            signer: holder of the log's private key.

        Raises:
            StoreError: `store-conflict` where the folder is another log's; `store-failed`.
        """
        key = VerifierKey(description.origin, signer.public_key)
        path = folder / KEY_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(key.encode() + "\n", encoding="utf-8")
                sync_directory(folder)
        except OSError as error:
            raise StoreError(f"cannot make {folder}", reason=Reason.STORE_FAILED) from error
        log = cls(folder)
        if log.key != key:
            raise StoreError("the folder is another log's", reason=Reason.STORE_CONFLICT)
        signed = description.sign(signer)
        if log.tiles.get(DESCRIPTION_PATH) != signed:
            log.tiles.publish(DESCRIPTION_PATH, signed)
        return log

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.key.name

    @property
    def trusted(self) -> TrustedLog:
        """The log, for whoever trusts this folder's key."""
        return TrustedLog(self.origin, [self.key])

    def description(self) -> LogDescription:
        """Return what the log says of itself.

        Raises:
            StoreError: `store-failed`.
            MalformedError: `malformed-note`.
            VerificationError: `signature-invalid`, `key-unknown`.
        """
        data = self.tiles.get(DESCRIPTION_PATH)
        if data is None:
            raise StoreError("the log has no description", reason=Reason.STORE_FAILED)
        return LogDescription.verify(data, self.key)

    def open_state(self) -> LogState:
        """Open the database; one for each thread.

        Raises:
            StoreError: `store-failed`, `store-locked`, `unsupported-version`.
        """
        return self._places.open_state()

    def open_proofs(self) -> Proofs:
        """Open the read side; one for each thread.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        return Proofs(self.open_state(), self.tiles, origin=self.origin, key=self.key.key)

    def open_evidence(self) -> EvidenceStore:
        """Open the evidence store; one for each thread.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        return EvidenceStore(self.tiles, self.open_state())

    def runner(
        self,
        signer: Signer,
        *,
        sources: Sequence[Source] = (),
        witnessed: Witnessed = _no_witnesses,
        pool_seconds: float = POOL_SECONDS,
        maximum_batch: int = MAX_BATCH,
        clock: Callable[[], int] | None = None,
    ) -> LogRunner:
        """Return the thread that appends to this log; `start` it.

        Args:
            signer: holder of the log's private key.
            sources: where entries come from, beside those that are submitted.
            witnessed: asks the configured witnesses what they co-signed last.
            pool_seconds: how long entries wait for others.
            maximum_batch: entries that one step takes.
            clock: milliseconds since the epoch; this machine's where none is given.
        """

        def open_appender() -> tuple[LogState, Appender]:
            state = self.open_state()
            further = {} if clock is None else {"clock": clock}
            appender = Appender.open(
                state,
                self._places.open_tiles(),
                origin=self.origin,
                signer=signer,
                witnessed=witnessed,
                maximum_batch=maximum_batch,
                **further,
            )
            return state, appender

        return LogRunner(open_appender, sources=sources, pool_seconds=pool_seconds)
