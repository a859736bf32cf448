"""Event logs replayed by hand: both versions, every kind of touch, and one cut of the name."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from verispect.core.errors import MalformedError
from verispect.evidence.event_log import (
    MAX_EVENTS,
    MAX_PAYLOAD_BYTES,
    RUNTIME_EVENT,
    proven_events,
    read_event_log,
    replay,
)


def extended(*digests: bytes) -> bytes:
    """Return what these digests make of an empty register, written out by hand."""
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


def runtime_event(name: str, payload: bytes, **members: Any) -> dict[str, Any]:
    """Return a run-time event as dstack writes it."""
    return {
        "imr": 3,
        "event_type": RUNTIME_EVENT,
        "digest": "",
        "event": name,
        "event_payload": payload.hex(),
        **members,
    }


COMPOSE = hashlib.sha384(b"\x01\x00\x00\x08:compose-hash:\xab\xcd").digest()
INSTANCE = hashlib.sha384(b"\x01\x00\x00\x08:instance-id:\x12").digest()
LOG = [
    {"imr": 0, "event_type": 1, "digest": "11" * 48, "event": "", "event_payload": "ff"},
    {"imr": 1, "event_type": 2, "digest": "22" * 48, "event": "", "event_payload": ""},
    {"imr": 0, "event_type": 4, "digest": "33" * 48, "event": "", "event_payload": ""},
    runtime_event("compose-hash", b"\xab\xcd"),
    runtime_event("instance-id", b"\x12"),
]
QUOTED = extended(COMPOSE, INSTANCE)


def test_registers_are_replayed_apart_and_in_order() -> None:
    """Each register is extended by its own events only, by the rule of the TDX module."""
    events = read_event_log(LOG)
    assert replay(events, 0) == extended(b"\x11" * 48, b"\x33" * 48)
    assert replay(events, 1) == extended(b"\x22" * 48)
    assert replay(events, 2) == bytes(48)
    assert replay(events, 3) == QUOTED


def test_events_of_a_log_that_replays_are_proven() -> None:
    """Names and payloads of run-time events come back, firmware events do not."""
    proven = proven_events(read_event_log(LOG), 3, QUOTED)
    assert proven is not None
    assert [(e.name, e.payload) for e in proven] == [
        ("compose-hash", b"\xab\xcd"),
        ("instance-id", b"\x12"),
    ]
    assert proven_events(read_event_log(LOG), 0, extended(b"\x11" * 48, b"\x33" * 48)) == ()


@pytest.mark.parametrize(
    "log",
    [
        LOG[:-1],
        [*LOG, runtime_event("system-ready", b"")],
        [*LOG[:3], LOG[4], LOG[3]],
        [*LOG[:3], runtime_event("compose-hash", b"\xab\xce"), LOG[4]],
        [*LOG[:3], runtime_event("compose-hasH", b"\xab\xcd"), LOG[4]],
        [*LOG[:3], {**LOG[3], "imr": 2}, LOG[4]],
        [],
    ],
)
def test_a_log_that_was_touched_proves_nothing(log: list[dict[str, Any]]) -> None:
    """Left out, added, moved, changed: no event of such a log counts."""
    assert proven_events(read_event_log(log), 3, QUOTED) is None


def test_the_digest_in_the_log_is_not_believed_for_a_run_time_event() -> None:
    """A changed payload beside the old digest does not replay; an absent digest is no matter."""
    lie = {**LOG[3], "event_payload": "ffff", "digest": COMPOSE.hex()}
    assert proven_events(read_event_log([*LOG[:3], lie, LOG[4]]), 3, QUOTED) is None
    bare = {name: value for name, value in LOG[3].items() if name != "digest"}
    assert proven_events(read_event_log([*LOG[:3], bare, LOG[4]]), 3, QUOTED) is not None


def test_a_firmware_event_cannot_pass_as_a_run_time_event() -> None:
    """A register that replays with a digest under another type proves nothing of its events."""
    other = {**LOG[3], "event_type": 5, "digest": COMPOSE.hex()}
    events = read_event_log([*LOG[:3], other, LOG[4]])
    assert replay(events, 3) == QUOTED
    assert proven_events(events, 3, QUOTED) is None


def test_one_event_cannot_be_told_as_another() -> None:
    """The same hashed bytes, cut at another colon, are refused and not read."""
    told = hashlib.sha384(b"\x01\x00\x00\x08:note:compose-hash:\xab").digest()
    honest = read_event_log([runtime_event("note", b"compose-hash:\xab")])
    assert proven_events(honest, 3, extended(told)) is not None
    with pytest.raises(MalformedError):
        read_event_log([runtime_event("note:compose-hash", b"\xab")])


def test_version_two_hashes_canonical_json() -> None:
    """The second version's digest is over name, payload and type in RFC 8785 form."""
    content = b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    quoted = extended(hashlib.sha384(content).digest())
    events = read_event_log([runtime_event("compose-hash", b"\xab\xcd", version=2)])
    assert proven_events(events, 3, quoted) is not None
    assert proven_events(read_event_log([LOG[3]]), 3, quoted) is None


@pytest.mark.parametrize(
    "log",
    [
        None,
        {},
        [1],
        [{}],
        [{**LOG[0], "imr": 4}],
        [{**LOG[0], "imr": -1}],
        [{**LOG[0], "imr": True}],
        [{**LOG[0], "event_type": 1 << 32}],
        [{**LOG[0], "digest": ""}],
        [{**LOG[0], "digest": "11" * 49}],
        [{**LOG[0], "digest": "xy"}],
        [{**LOG[3], "event": None}],
        [{**LOG[3], "event_payload": "abc"}],
        [{**LOG[3], "version": 3}],
        [{**LOG[3], "version": None}],
        [runtime_event("big", bytes(MAX_PAYLOAD_BYTES + 1))],
        [LOG[0]] * (MAX_EVENTS + 1),
    ],
)
def test_a_log_that_is_none_is_malformed(log: Any) -> None:
    """Other types, registers, lengths and versions are refused with an error of ours."""
    with pytest.raises(MalformedError):
        read_event_log(log)
