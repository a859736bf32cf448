"""The operator's side of its witnesses (C2SP tlog-witness): push checkpoints, keep cosignatures.

`WitnessPush` is a thread beside the appender's: no network stands between a receipt and its tree.
Before a log goes on, `ask_witnesses` learns what they saw of it: a log whose state is older than
that would sign a second history, and the appender refuses. So many must answer that one of any k
that co-signed is among them.

This module believes no witness: a cosignature is verified before it is kept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from verispect.core.errors import Error, MalformedError, NetworkError, Reason, VerificationError
from verispect.ledger.log.interface import CheckpointRecord, LogState, TileStore
from verispect.ledger.log.reading import TileReader
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.cosignature import verify_cosignature
from verispect.tlog.note import MAX_NOTE_BYTES, SignatureType, VerifierKey, parse_signature_lines
from verispect.tlog.proof import make_consistency_proof
from verispect.tlog.text import size_from_decimal
from verispect.tlog.witness import AddCheckpointRequest

PUSH_SECONDS: Final = 0.5
REQUEST_SECONDS: Final = 10.0
MAX_PUSH_ATTEMPTS: Final = 3
"""Of one checkpoint at one witness in one round; a size that it names is tried once more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: where it is asked and the key with which it co-signs."""

    url: str
    key: VerifierKey

    @classmethod
    def parse(cls, text: str) -> Witness:
        """Read `URL=VKEY`.

        Raises:
            MalformedError: `malformed-key`.
        """
        url, separator, key_text = text.partition("=")
        if not separator or not url.startswith(("http://", "https://")):
            raise MalformedError("expected a witness as URL=VKEY", reason=Reason.MALFORMED_KEY)
        key = VerifierKey.parse(key_text)
        if key.type is not SignatureType.COSIGNATURE:
            raise MalformedError("the key is not a witness's", reason=Reason.MALFORMED_KEY)
        return cls(url.rstrip("/"), key)


def ask_witnesses(
    witnesses: Sequence[Witness], threshold: int, log: TrustedLog
) -> list[Checkpoint]:
    """Return the latest checkpoint of a log that each witness co-signed.

    Args:
        witnesses: all of them.
        threshold: how many make a checkpoint count, k.
        log: the log.

    Raises:
        NetworkError: `network-failed` where too few answered to be sure.
    """
    if not witnesses:
        return []
    seen, answered = [], 0
    with httpx.Client(timeout=REQUEST_SECONDS, trust_env=False) as client:
        for witness in witnesses:
            try:
                answer = client.get(f"{witness.url}/checkpoint", params={"origin": log.origin})
                if answer.status_code == httpx.codes.OK:
                    seen.append(log.verify(SignedCheckpoint.parse(answer.content)))
                elif answer.status_code != httpx.codes.NOT_FOUND:
                    continue
            except (httpx.HTTPError, Error) as error:
                _log.warning("witness %s did not answer: %s", witness.key.name, type(error))
                continue
            answered += 1
    # Of any k that co-signed, one is among so many; with k of 0 one is still asked.
    if answered < max(1, len(witnesses) - max(threshold, 1) + 1):
        raise NetworkError(
            f"only {answered} of {len(witnesses)} witnesses said what they saw of the log",
            reason=Reason.NETWORK_FAILED,
        )
    return seen


class WitnessPush(threading.Thread):
    """Shows every witness the latest checkpoint and keeps what it signs.

    Args:
        witnesses: whom to ask.
        log: the log, whose key signed the checkpoints.
        open_state: opens a state for this thread.
        tiles: the log's tiles, for proofs of consistency.
    """

    def __init__(
        self,
        witnesses: Sequence[Witness],
        log: TrustedLog,
        *,
        open_state: Callable[[], LogState],
        tiles: TileStore,
    ) -> None:
        super().__init__(name="verispect-log-witnesses", daemon=True)
        self._witnesses = witnesses
        self._trusted = log
        self._open_state = open_state
        self._reader = TileReader(tiles)
        self._known: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._ended = threading.Event()
        self.failures: dict[str, Error] = {}
        """By witness, why the last attempt did not succeed."""

    def run(self) -> None:
        """Push until stopped; whatever fails is tried again."""
        state = self._open_state()
        try:
            with httpx.Client(timeout=REQUEST_SECONDS, trust_env=False) as client:
                while not self._ended.wait(PUSH_SECONDS):
                    self._round(client, state)
        finally:
            state.close()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()

    def _round(self, client: httpx.Client, state: LogState) -> None:
        try:
            record = state.checkpoint()
        except Error as error:
            _log.warning("witnesses wait: %s", error)
            return
        for witness in self._witnesses:
            name = witness.key.name
            if record is None or self._done.get(name) == record.size:
                continue
            try:
                self._push(client, witness, record, state)
            except (Error, httpx.HTTPError) as error:
                ours = (
                    error
                    if isinstance(error, Error)
                    else NetworkError("a witness is not reachable", reason=Reason.NETWORK_FAILED)
                )
                if str(self.failures.get(name)) != str(ours):
                    _log.warning("witness %s: %s", name, ours)
                self.failures[name] = ours
            else:
                self.failures.pop(name, None)
                self._done[name] = record.size

    def _push(
        self,
        client: httpx.Client,
        witness: Witness,
        record: CheckpointRecord,
        state: LogState,
    ) -> None:
        signed = SignedCheckpoint.parse(record.note)
        for _ in range(MAX_PUSH_ATTEMPTS):
            old_size = self._known.get(witness.key.name, 0)
            hashes = self._reader.hashes(record.size)
            path = make_consistency_proof(hashes, old_size, record.size) if old_size else []
            body = AddCheckpointRequest(old_size, tuple(path), signed).encode()
            answer = client.post(f"{witness.url}/add-checkpoint", content=body)
            if answer.status_code == httpx.codes.OK:
                self._keep(answer.content, witness, signed, state)
                self._known[witness.key.name] = record.size
                return
            if answer.status_code != httpx.codes.CONFLICT:
                raise NetworkError(
                    f"the witness answered {answer.status_code}", reason=Reason.NETWORK_FAILED
                )
            size = size_from_decimal(answer.text.strip(), reason=Reason.MALFORMED_LOG_PROOF)
            if size > record.size:
                raise VerificationError(
                    f"the witness saw {size} leaves and the log has {record.size}",
                    reason=Reason.STORE_ROLLED_BACK,
                )
            if size == old_size:
                raise VerificationError("the witness saw another tree", reason=Reason.LOG_FORKED)
            self._known[witness.key.name] = size
        raise NetworkError("the witness changes its mind", reason=Reason.NETWORK_FAILED)

    def _keep(
        self, data: bytes, witness: Witness, signed: SignedCheckpoint, state: LogState
    ) -> None:
        if len(data) > MAX_NOTE_BYTES:
            raise MalformedError("the answer of a witness is too large", reason=Reason.TOO_LARGE)
        lines = []
        for line in parse_signature_lines(data.decode("utf-8", errors="replace")):
            if witness.key.matches(line):
                verify_cosignature(signed.note.text, line, witness.key)
                lines.append(line.encode())
        if not lines:
            raise VerificationError("the witness did not sign", reason=Reason.WITNESSES_MISSING)
        state.add_cosignatures(signed.unverified.size, lines)
