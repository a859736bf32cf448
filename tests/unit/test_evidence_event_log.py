"""Event logs: what replays counts, and nothing else does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from verispect.core.errors import MalformedError
from verispect.evidence.event_log import (
    MAX_EVENTS,
    RUNTIME_EVENT,
    proven_events,
    read_event_log,
    replay,
)

COMPOSE = b"c" * 32


def _runtime(name: str, payload: bytes, **changes: Any) -> dict[str, Any]:
    entry = {"imr": 3, "event_type": RUNTIME_EVENT, "event": name, "event_payload": payload.hex()}
    return entry | changes


FIRMWARE = {"imr": 0, "event_type": 4, "digest": "ab" * 48, "event": "", "event_payload": "00"}
LOG = [FIRMWARE, _runtime("app-id", b"a"), _runtime("compose-hash", COMPOSE)]


def _register_3() -> bytes:
    value = bytes(48)
    for name, payload in (("app-id", b"a"), ("compose-hash", COMPOSE)):
        content = bytes.fromhex("01000008") + b":" + name.encode() + b":" + payload
        value = hashlib.sha384(value + hashlib.sha384(content).digest()).digest()
    return value


def test_a_log_that_replays_gives_its_runtime_events() -> None:
    """Names and payloads are what was hashed into the register."""
    proven = proven_events(read_event_log(LOG), 3, _register_3())
    assert proven is not None
    assert [(event.name, event.payload) for event in proven] == [
        ("app-id", b"a"),
        ("compose-hash", COMPOSE),
    ]


@pytest.mark.parametrize(
    "log",
    [
        LOG[:2],
        [LOG[0], LOG[2], LOG[1]],
        [*LOG, _runtime("compose-hash", COMPOSE)],
        [*LOG[:2], _runtime("compose-hash", b"d" * 32)],
        # A digest that is right beside a payload that is not.
        [
            *LOG[:2],
            _runtime("compose-hash", b"d" * 32)
            | {
                "digest": hashlib.sha384(
                    bytes.fromhex("01000008") + b":compose-hash:" + COMPOSE
                ).hexdigest()
            },
        ],
        [],
    ],
)
def test_a_log_that_does_not_replay_counts_nothing(log: list[dict[str, Any]]) -> None:
    """Missing, reordered, added or altered events: the story is not the quoted one."""
    assert proven_events(read_event_log(log), 3, _register_3()) is None


def test_firmware_events_extend_their_digest_and_show_no_payload() -> None:
    """What a firmware event says beside its digest was not hashed."""
    events = read_event_log([FIRMWARE])
    assert replay(events, 0) == hashlib.sha384(bytes(48) + b"\xab" * 48).digest()
    assert events[0].payload == b""
    assert proven_events(events, 0, replay(events, 0)) == ()


@pytest.mark.parametrize(
    "log",
    [
        {},
        [7],
        [{}],
        [FIRMWARE | {"imr": 4}],
        [FIRMWARE | {"imr": True}],
        [FIRMWARE | {"event_type": -1}],
        [FIRMWARE | {"digest": "zz"}],
        [FIRMWARE | {"digest": "ab" * 49}],
        [FIRMWARE | {"digest": ""}],
        [FIRMWARE | {"event": 7}],
        [_runtime("x", b"") | {"event_payload": "z"}],
        [FIRMWARE] * (MAX_EVENTS + 1),
    ],
)
def test_other_logs_are_malformed(log: Any) -> None:
    """A log is read strictly and within limits."""
    with pytest.raises(MalformedError):
        read_event_log(log)
