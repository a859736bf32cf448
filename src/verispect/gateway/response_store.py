"""Stored responses of `/v1/responses`: a small SQLite file beside the receipt store.

What it is for: `previous_response_id`, `GET`, `DELETE` and `input_items` of a response that was
created with `store` (OpenAI's default). It holds prompts and outputs in the clear, so:

- the file is readable by its owner only, and rows are removed after a retention time;
- an id is 128 random bits and is a **bearer identifier**: whoever has it can read, continue and
  delete that response. Treat it like a password, or send `"store": false`;
- it is bounded in rows, in bytes per row and in the length of a conversation.

It refuses to be evidence: a receipt never depends on it, and losing the file loses only the
conversations. It therefore commits without an `fsync` per answer (WAL, `synchronous=NORMAL`):
a killed process loses nothing, a power cut may lose the last moments.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import Reason, RequestError, StoreError

MAX_STORED_RESPONSES: Final = 200_000
"""Rows kept; beyond it the oldest go first."""

MAX_STORED_BYTES: Final = 8 * 1024 * 1024
"""Largest stored response with its input items, as JSON."""

MAX_CHAIN_LENGTH: Final = 128
"""Longest conversation through `previous_response_id`, in responses."""

MAX_CHAIN_BYTES: Final = 32 * 1024 * 1024
"""Largest conversation, as JSON of its responses and input items."""

MAX_IDENTIFIER_CHARACTERS: Final = 128
"""A longer id is unknown without a look into the file."""

DEFAULT_RETENTION_DAYS: Final = 30

_MILLISECONDS_PER_DAY: Final = 24 * 60 * 60 * 1000
_PURGE_EVERY_MILLISECONDS: Final = 10 * 60 * 1000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS response (
  sequence INTEGER PRIMARY KEY,
  identifier TEXT NOT NULL UNIQUE,
  previous TEXT,
  created_at INTEGER NOT NULL,
  response TEXT NOT NULL,
  input_items TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS response_created_at ON response (created_at);
"""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response as the caller got it, with the input items of its own request."""

    identifier: str
    previous: str | None
    created_at: int
    """Milliseconds since the epoch."""
    response: Mapping[str, Any]
    """The whole response object."""
    input_items: Sequence[Mapping[str, Any]]
    """The items of this request alone, each with an id; the conversation is the chain."""


class ResponseStore:
    """Responses by id, for as long as the retention says.

    Args:
        path: the SQLite file; made with owner-only permissions.
        retention_days: after which a response is gone.

    Raises:
        StoreError: `store-failed` when the file cannot be opened.
    """

    def __init__(self, path: Path, *, retention_days: int = DEFAULT_RETENTION_DAYS) -> None:
        if retention_days < 1:
            raise ValueError("retention must be at least one day")
        self._retention = retention_days * _MILLISECONDS_PER_DAY
        self._lock = threading.Lock()
        self._purged_at = 0
        try:
            path.touch(mode=0o600, exist_ok=True)
            self._connection = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=10
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            # Deleted conversations must not linger in free pages of the file.
            self._connection.execute("PRAGMA secure_delete=ON")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                "the response store cannot be opened", reason=Reason.STORE_FAILED
            ) from error

    @staticmethod
    def check_room(request_bytes: int) -> None:
        """Refuse a request that leaves no room for its answer in one row, before any work.

        Raises:
            RequestError: `too-large`.
        """
        # Half of a row is left to the output; what is stored besides came with the request.
        if request_bytes > MAX_STORED_BYTES // 2:
            raise RequestError(
                f"a request of more than {MAX_STORED_BYTES // 2} bytes cannot be stored;"
                " send store: false",
                reason=Reason.TOO_LARGE,
                parameter="store",
            )

    async def put(self, stored: StoredResponse) -> None:
        """Store one response, and drop what is beyond retention or the row limit.

        Raises:
            RequestError: `too-large` for a response beyond `MAX_STORED_BYTES`.
            StoreError: `store-failed`.
        """
        response = json.dumps(stored.response, ensure_ascii=False, separators=(",", ":"))
        items = json.dumps(list(stored.input_items), ensure_ascii=False, separators=(",", ":"))
        if len(response.encode()) + len(items.encode()) > MAX_STORED_BYTES:
            raise RequestError(
                f"a stored response is limited to {MAX_STORED_BYTES} bytes; send store: false",
                reason=Reason.TOO_LARGE,
                parameter="store",
            )
        await asyncio.to_thread(self._put, stored, response, items)

    async def find(self, identifier: str, *, now: int) -> StoredResponse | None:
        """Return the response of `identifier`, or `None` where it is unknown or expired.

        Raises:
            StoreError: `store-failed`.
        """
        if len(identifier) > MAX_IDENTIFIER_CHARACTERS:
            return None
        return await asyncio.to_thread(self._find, identifier, now)

    async def find_chain(self, identifier: str, *, now: int) -> Sequence[StoredResponse] | None:
        """Return the conversation that ends in `identifier`, oldest response first.

        Returns:
            `None` where any response of the chain is unknown, deleted or expired: half a
            conversation is never passed off as the whole.

        Raises:
            RequestError: `too-large` beyond `MAX_CHAIN_LENGTH` or `MAX_CHAIN_BYTES`.
            StoreError: `store-failed`.
        """
        if len(identifier) > MAX_IDENTIFIER_CHARACTERS:
            return None
        return await asyncio.to_thread(self._find_chain, identifier, now)

    async def delete(self, identifier: str, *, now: int) -> bool:
        """Remove one response; `False` where it was unknown or expired.

        Raises:
            StoreError: `store-failed`.
        """
        if len(identifier) > MAX_IDENTIFIER_CHARACTERS:
            return False
        return await asyncio.to_thread(self._delete, identifier, now)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # -- In a thread --------------------------------------------------------------------------

    def _execute(self, statement: str, arguments: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise StoreError("the response store failed", reason=Reason.STORE_FAILED) from error

    def _put(self, stored: StoredResponse, response: str, items: str) -> None:
        with self._lock:
            self._execute(
                "INSERT INTO response (identifier, previous, created_at, response, input_items)"
                " VALUES (?, ?, ?, ?, ?)",
                (stored.identifier, stored.previous, stored.created_at, response, items),
            )
            if stored.created_at - self._purged_at >= _PURGE_EVERY_MILLISECONDS:
                self._purged_at = stored.created_at
                self._purge(stored.created_at)

    def _purge(self, now: int) -> None:
        self._execute("DELETE FROM response WHERE created_at <= ?", (now - self._retention,))
        self._execute(
            "DELETE FROM response WHERE sequence <= (SELECT max(sequence) FROM response) - ?",
            (MAX_STORED_RESPONSES,),
        )

    def _find(self, identifier: str, now: int) -> StoredResponse | None:
        with self._lock:
            found = self._read(identifier, now)
        return found[0] if found is not None else None

    def _read(self, identifier: str, now: int) -> tuple[StoredResponse, int] | None:
        """Return a response and how many characters it takes."""
        rows = self._execute(
            "SELECT identifier, previous, created_at, response, input_items FROM response"
            " WHERE identifier = ? AND created_at > ?",
            (identifier, now - self._retention),
        )
        if not rows:
            return None
        found, previous, created_at, response, items = rows[0]
        stored = StoredResponse(
            found, previous, created_at, json.loads(response), json.loads(items)
        )
        return stored, len(response) + len(items)

    def _find_chain(self, identifier: str, now: int) -> Sequence[StoredResponse] | None:
        chain: list[StoredResponse] = []
        following: str | None = identifier
        size = 0
        with self._lock:
            while following is not None:
                if len(chain) >= MAX_CHAIN_LENGTH or size > MAX_CHAIN_BYTES:
                    raise RequestError(
                        f"a conversation is limited to {MAX_CHAIN_LENGTH} stored responses"
                        f" and {MAX_CHAIN_BYTES} bytes",
                        reason=Reason.TOO_LARGE,
                        parameter="previous_response_id",
                    )
                found = self._read(following, now)
                if found is None:
                    return None
                stored, characters = found
                size += characters
                chain.append(stored)
                following = stored.previous
        chain.reverse()
        return chain

    def _delete(self, identifier: str, now: int) -> bool:
        with self._lock:
            removed = self._execute(
                "DELETE FROM response WHERE identifier = ? AND created_at > ? RETURNING sequence",
                (identifier, now - self._retention),
            )
        return bool(removed)
