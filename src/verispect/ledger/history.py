"""The services of an operator: which system prompt and tools each version puts around a model.

Every version is signed when it is published and never changed; its envelope is the leaf that the
log gets. Texts stand beside it as openings, with one salt per part for the life of the version, so
that every receipt of the version holds the very commitment that was published. The database is the
outbox of those leaves, as the receipt store is of receipts.

This module refuses to change or delete a version, to publish one that changes nothing, and to show
a text to anybody: who may see it is kept here and enforced by whoever serves it.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from verispect.attesters.signer import Issuer
from verispect.core.commitments import (
    SALT_BYTES,
    Opening,
    Part,
    decode_openings,
    encode_openings,
)
from verispect.core.encoding import Digest
from verispect.core.envelope import SignedEnvelope, open_envelope, sign_envelope
from verispect.core.errors import ModelError, Reason, RequestError, StoreError
from verispect.ledger.log.entries import entry_of_leaf
from verispect.ledger.log.interface import Cursor, LogState
from verispect.ledger.schema import store_error
from verispect.tlog.leaf import SignedLeaf
from verispect.tlog.merkle import leaf_hash
from verispect.tlog.publications import PROMPT_VERSION_TYPE, PromptVersion

SERVICES_FILE: Final = "services.sqlite3"
"""In the gateway's state directory."""

MAX_SERVICE_CONTENT_BYTES: Final = 1024 * 1024
MAX_VERSIONS_FOLLOWED: Final = 256

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_APPLICATION_ID: Final = 0x56535653
_SCHEMA_VERSION: Final = 1
_TABLES: Final = """
CREATE TABLE versions (
  entry INTEGER PRIMARY KEY,
  service TEXT NOT NULL,
  number INTEGER NOT NULL,
  model TEXT NOT NULL,
  envelope BLOB NOT NULL,
  openings BLOB NOT NULL,
  audience TEXT NOT NULL,
  UNIQUE (service, number)
) STRICT;
CREATE TRIGGER versions_are_not_deleted BEFORE DELETE ON versions
BEGIN SELECT RAISE(ABORT, 'versions are append-only'); END;
CREATE TRIGGER versions_are_not_changed BEFORE UPDATE ON versions
WHEN (NEW.entry, NEW.service, NEW.number, NEW.model, NEW.envelope, NEW.openings)
  IS NOT (OLD.entry, OLD.service, OLD.number, OLD.model, OLD.envelope, OLD.openings)
BEGIN SELECT RAISE(ABORT, 'versions are append-only'); END;
CREATE TRIGGER versions_have_no_gap BEFORE INSERT ON versions
WHEN NEW.number <> 1 + coalesce(
  (SELECT max(number) FROM versions WHERE service = NEW.service), 0)
BEGIN SELECT RAISE(ABORT, 'number is not the next one'); END;
"""


class Audience(StrEnum):
    """To whom the operator discloses the text of a version."""

    NOBODY = "nobody"
    """But the auditors, who run it again."""
    CALLERS = "callers"
    """Whoever asked, with the openings of its own receipt."""
    EVERYONE = "everyone"


@dataclass(frozen=True)
class ServiceVersion:
    """One published version of a service."""

    model: str
    """The name of the model in the operator's registry."""
    envelope: SignedEnvelope
    published: PromptVersion
    openings: Mapping[Part, Opening]
    audience: Audience

    @property
    def name(self) -> str:
        """The service's name."""
        return self.published.service

    @property
    def number(self) -> int:
        """1, 2, 3 and so on."""
        return self.published.number

    @cached_property
    def digest(self) -> Digest:
        """What receipts name."""
        return self.envelope.digest()

    @cached_property
    def leaf(self) -> bytes:
        """The leaf that the log gets."""
        return SignedLeaf.of(self.envelope).encode()

    @cached_property
    def leaf_hash(self) -> Digest:
        """Under which a log knows the leaf."""
        return leaf_hash(self.leaf)


@dataclass(frozen=True, slots=True)
class ServiceDraft:
    """What a new version is to hold."""

    name: str
    model: str
    model_id: Digest
    contents: Mapping[Part, Any]
    """Of `SYSTEM_PROMPT` and `TOOLS`, those that the service fixes, as they are committed to."""
    audience: Audience = Audience.CALLERS


class ServiceRegistry:
    """The services of one operator, in one SQLite file that only its owner can read.

    Args:
        database: made, with its folder, where it does not exist.

    Raises:
        StoreError: `store-failed`, `store-locked`, `unsupported-version`.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        with _store_errors("open the services"):
            try:
                database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise StoreError(
                    f"cannot open {database}: {error.strerror}", reason=Reason.STORE_FAILED
                ) from error
            self._connection = sqlite3.connect(
                database, isolation_level=None, timeout=10.0, check_same_thread=False
            )
            self._prepare()

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _statements(_TABLES):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        connection.execute("COMMIT")
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(
                "the services are of another version", reason=Reason.UNSUPPORTED_VERSION
            )

    def publish(
        self, draft: ServiceDraft, *, issuer: Issuer, now: int, is_new: bool
    ) -> ServiceVersion:
        """Sign and keep the next version of a service; durable on return.

        Args:
            draft: what it holds.
            issuer: who signs.
            now: milliseconds since the epoch.
            is_new: whether this is to be the first version, or a later one.

        Raises:
            RequestError: `invalid-request` for a name or content that cannot be, and for a version
                that changes nothing.
            ModelError: `model-exists` or `model-not-found` where `is_new` is not so.
            StoreError: `store-failed`, `store-locked`.
        """
        _check_draft(draft)
        with _store_errors("publish a version"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                version = self._next(draft, issuer, now, is_new=is_new)
                self._connection.execute(
                    "INSERT INTO versions (service, number, model, envelope, openings, audience)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        version.name,
                        version.number,
                        version.model,
                        version.envelope.encode(),
                        encode_openings(version.openings),
                        version.audience.value,
                    ),
                )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return version

    def _next(
        self, draft: ServiceDraft, issuer: Issuer, now: int, *, is_new: bool
    ) -> ServiceVersion:
        earlier = self.versions(draft.name)
        if bool(earlier) == is_new:
            raise ModelError(
                f"service {draft.name} {'exists' if earlier else 'does not exist'}",
                reason=Reason.MODEL_EXISTS if earlier else Reason.MODEL_NOT_FOUND,
            )
        openings = {
            part: Opening.of(part, content, salt=secrets.token_bytes(SALT_BYTES))
            for part, content in sorted(draft.contents.items())
        }
        last = earlier[-1] if earlier else None
        if last is not None and last.published.model_id == draft.model_id:
            values = {part: opening.value for part, opening in openings.items()}
            if values == {part: opening.value for part, opening in last.openings.items()}:
                raise RequestError("this version would change nothing", parameter="service")
        published = PromptVersion(
            service=draft.name,
            number=len(earlier) + 1,
            published_at=now,
            commitments={part: opening.commitment() for part, opening in openings.items()},
            previous=last.digest if last is not None else None,
            model_id=draft.model_id,
        )
        envelope = sign_envelope(
            published.encode(),
            content_type=PROMPT_VERSION_TYPE,
            issuer=issuer.name,
            subject=draft.name,
            signer=issuer.signer,
        )
        return ServiceVersion(draft.model, envelope, published, openings, draft.audience)

    def disclose(self, name: str, number: int, audience: Audience) -> None:
        """Change who may see the text of a version.

        Raises:
            ModelError: `model-not-found`.
            StoreError: `store-failed`, `store-locked`.
        """
        with _store_errors("disclose a version"):
            changed = self._connection.execute(
                "UPDATE versions SET audience = ? WHERE service = ? AND number = ?",
                (audience.value, name, number),
            )
        if changed.rowcount != 1:
            raise ModelError("there is no such version", reason=Reason.MODEL_NOT_FOUND)

    def names(self) -> Sequence[str]:
        """Return every service's name, sorted."""
        with _store_errors("list the services"):
            rows = self._connection.execute("SELECT DISTINCT service FROM versions ORDER BY 1")
            return [name for (name,) in rows]

    def versions(self, name: str) -> Sequence[ServiceVersion]:
        """Return all versions of a service, oldest first; none where there is no such service."""
        with _store_errors("read a service"):
            rows = self._connection.execute(
                "SELECT model, envelope, openings, audience FROM versions"
                " WHERE service = ? ORDER BY number",
                (name,),
            ).fetchall()
        return [_version(*row) for row in rows]

    def after(self, entry: int, limit: int) -> Sequence[ServiceVersion]:
        """Return the versions that were published after the first `entry` ones."""
        with _store_errors("follow the services"):
            rows = self._connection.execute(
                "SELECT model, envelope, openings, audience FROM versions"
                " WHERE entry > ? ORDER BY entry LIMIT ?",
                (entry, limit),
            ).fetchall()
        return [_version(*row) for row in rows]

    def mark(self) -> int:
        """Return a number that changes when another process changes something."""
        with _store_errors("read the services"):
            (mark,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(mark)

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()


class ServiceOutbox:
    """The versions of one registry, as a source of entries for the log.

    Args:
        database: the registry's; it need not exist.
    """

    CURSOR: Final = "services"

    def __init__(self, database: Path) -> None:
        self._database = database
        self._registry: ServiceRegistry | None = None

    def follow(self, state: LogState) -> int:
        """Give the log the versions that it has not seen.

        Raises:
            StoreError: `store-failed`, `store-locked`.
        """
        if self._registry is None:
            if not self._database.exists():
                return 0
            self._registry = ServiceRegistry(self._database)
        after = state.cursor(self.CURSOR)
        versions = self._registry.after(after, MAX_VERSIONS_FOLLOWED)
        if versions:
            entries = [entry_of_leaf(version.leaf) for version in versions]
            state.accept(entries, cursor=Cursor(self.CURSOR, after + len(versions)))
        return len(versions)


def is_service_name(name: str) -> bool:
    """Tell whether a service may have this name."""
    return _NAME.fullmatch(name) is not None


def _check_draft(draft: ServiceDraft) -> None:
    if not is_service_name(draft.name):
        raise RequestError(
            "a service's name has 1 to 63 lower-case letters, digits, '.', '_' and '-'",
            parameter="service",
        )
    if not draft.contents or not draft.contents.keys() <= {Part.SYSTEM_PROMPT, Part.TOOLS}:
        raise RequestError("a service fixes a system prompt, tools, or both", parameter="service")
    values = [
        Opening.of(part, content, salt=bytes(SALT_BYTES)).value
        for part, content in draft.contents.items()
    ]
    if sum(map(len, values)) > MAX_SERVICE_CONTENT_BYTES:
        raise RequestError(
            f"expected at most {MAX_SERVICE_CONTENT_BYTES} bytes", parameter="service"
        )


def _version(model: str, envelope: bytes, openings: bytes, audience: str) -> ServiceVersion:
    signed = open_envelope(envelope, content_type=PROMPT_VERSION_TYPE)
    published = PromptVersion.decode(signed.payload)
    opened = decode_openings(openings)
    if {part: opening.commitment() for part, opening in opened.items()} != dict(
        published.commitments
    ):
        raise StoreError("a published version is damaged", reason=Reason.STORE_FAILED)
    return ServiceVersion(model, signed, published, opened, Audience(audience))


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(doing, error) from error
