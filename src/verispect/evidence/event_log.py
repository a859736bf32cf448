"""Event logs of TDX guests: what was extended into the run-time measurement registers.

A log is a story until it replays: each event extends one register, and only if the replayed
register equals the quoted one does the story count. The payload of a firmware event is not what
was hashed, so nothing is read out of it; the run-time events of dstack are hashed with name and
payload, and only those are returned. Beside events of other types in one register they prove
nothing: told as a firmware event, a run-time event replays all the same and hides its name.

A run-time event's digest is recomputed and the one in the log is not read: dstack leaves it empty
as often as not. Version 1 hashes `type ":" name ":" payload`, with the type as four little-endian
bytes; since nothing there says how long the name is, a name with a colon is refused, or one event
could be told as another. Version 2 hashes the canonical JSON (RFC 8785) of name, payload and type.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason
from verispect.evidence.json_text import from_hex_member

MAX_EVENTS: Final = 4096
MAX_PAYLOAD_BYTES: Final = 64 * 1024
REGISTER_COUNT: Final = 4
REGISTER_BYTES: Final = 48
RUNTIME_EVENT: Final = 0x08000001
"""The event type under which dstack extends name and payload."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a log, believed by nobody."""

    register: int
    kind: int
    digest: bytes
    """What the register was extended with; recomputed for run-time events."""
    name: str
    payload: bytes


def read_event_log(items: Any) -> tuple[Event, ...]:
    """Read a log as dstack writes it in JSON.

    Raises:
        MalformedError: `malformed-evidence`, `malformed-json` or `too-large`.
    """
    if not isinstance(items, list) or len(items) > MAX_EVENTS:
        raise _malformed("not a list of events")
    return tuple(_read_event(item) for item in items)


def _read_event(item: Any) -> Event:
    if not isinstance(item, dict):
        raise _malformed("not an event")
    register, kind, name = item.get("imr"), item.get("event_type"), item.get("event", "")
    if (
        type(register) is not int
        or not 0 <= register < REGISTER_COUNT
        or type(kind) is not int
        or not 0 <= kind < 1 << 32
        or not isinstance(name, str)
    ):
        raise _malformed("an event without register, type or name")
    digest = from_hex_member(item.get("digest", ""))
    if kind != RUNTIME_EVENT:
        if not 0 < len(digest) <= REGISTER_BYTES:
            raise _malformed("an event's digest is empty or too long")
        return Event(register, kind, digest.ljust(REGISTER_BYTES, b"\0"), name, b"")
    payload = from_hex_member(item.get("event_payload", ""))
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _malformed("an event's payload is too large")
    content = _content(kind, name, payload, item.get("version", 1))
    return Event(register, kind, hashlib.sha384(content).digest(), name, payload)


def _content(kind: int, name: str, payload: bytes, version: Any) -> bytes:
    """Return what was hashed into the register."""
    if version == 1 and ":" not in name:
        return kind.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    if version == 2:
        members = {"name": name, "payload": payload.hex(), "type": kind}
        return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    raise _malformed("a run-time event of another version, or with a colon in its name")


def replay(events: Sequence[Event], register: int) -> bytes:
    """Return what the events make of one register."""
    value = bytes(REGISTER_BYTES)
    for event in events:
        if event.register == register:
            value = hashlib.sha384(value + event.digest).digest()
    return value


def proven_events(
    events: Sequence[Event], register: int, quoted: bytes
) -> tuple[Event, ...] | None:
    """Return the run-time events of a register, or `None` where the log does not replay to it.

    Also `None` where events of other types extend it beside them: one of those can hide another.

    Args:
        events: the whole log.
        register: 0 to 3; dstack's run-time events are in 3.
        quoted: the register's value out of a quote that was verified.
    """
    if not hmac.compare_digest(replay(events, register), quoted):
        return None
    found = [event for event in events if event.register == register]
    told = tuple(event for event in found if event.kind == RUNTIME_EVENT)
    return told if len(told) in (0, len(found)) else None


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"event log: {what}", reason=Reason.MALFORMED_EVIDENCE)
