"""A load generator in a process of its own: raw HTTP/1.1 over keep-alive connections.

Reads a task as JSON on standard input, writes the result as JSON on standard output. One blocking
loop over `select`, whose timer is finer than the millisecond of event loops; about 10
microseconds of its own per request.

Two kinds of load:

- closed loop (`rate` 0): every caller sends the next request when it has its answer;
- paced (`rate` r): the callers together begin r requests a second, each caller at its own random
  but fixed moments. A latency counts from the moment at which a request was due, so that a
  caller held up by a slow answer does not hide the requests that it could not send.
"""

from __future__ import annotations

import base64
import heapq
import json
import math
import random
import select
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_SEED = 20260101


@dataclass
class Caller:
    """One connection and what it waits for."""

    connection: socket.socket
    source: random.Random
    due: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)


def answer_length(buffer: bytearray) -> int | None:
    """Return how long the answer in `buffer` is with its head; `None` while that is not known."""
    end = buffer.find(_HEAD_END)
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    start = head.index(_LENGTH) + len(_LENGTH)
    stop = head.find(b"\r", start)
    return end + len(_HEAD_END) + int(head[start : stop if stop >= 0 else None])


def connect(address: tuple[str, int], callers: int) -> list[Caller]:
    made = []
    for number in range(callers):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.append(Caller(connection, random.Random(_SEED + number)))
    return made


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def run(task: dict[str, Any]) -> dict[str, Any]:  # noqa: C901 - one loop, seen whole
    """Run one task.

    Args:
        task: `host`, `port`, `request` (base64 of the whole request), `callers`, `seconds`, and
            `rate` in requests a second or 0.
    """
    request = base64.b64decode(task["request"])
    callers = connect((task["host"], task["port"]), task["callers"])
    by_socket = {caller.connection: caller for caller in callers}
    interval = task["callers"] / task["rate"] if task["rate"] else 0.0
    latencies: list[float] = []
    failures = 0
    started = time.perf_counter()
    end = started + task["seconds"]
    waiting: list[tuple[float, int, Caller]] = []
    for number, caller in enumerate(callers):
        caller.due = started + caller.source.random() * interval
        heapq.heappush(waiting, (caller.due, number, caller))
    number = len(callers)
    busy: set[socket.socket] = set()
    while waiting or busy:
        now = time.perf_counter()
        while waiting and waiting[0][0] <= now:
            _, _, caller = heapq.heappop(waiting)
            if not interval:
                caller.due = now
            caller.connection.sendall(request)
            busy.add(caller.connection)
        pause = max(0.0, waiting[0][0] - now) if waiting else 5.0
        readable, _, _ = select.select(busy, [], [], pause)
        for connection in readable:
            caller = by_socket[connection]
            data = connection.recv(1 << 18)
            if not data:
                raise SystemExit("the server closed a connection")
            caller.buffer += data
            length = answer_length(caller.buffer)
            if length is None or len(caller.buffer) < length:
                continue
            now = time.perf_counter()
            latencies.append(now - caller.due)
            failures += not caller.buffer.startswith(b"HTTP/1.1 200")
            caller.buffer.clear()
            busy.remove(connection)
            if interval:
                caller.due += caller.source.expovariate(1 / interval)
            else:
                caller.due = now
            if max(caller.due, now) < end:
                number += 1
                heapq.heappush(waiting, (caller.due, number, caller))
        if not readable and not waiting and busy:
            raise SystemExit("the server did not answer for 5 seconds")
    return summary(latencies, failures, time.perf_counter() - started)


def summary(latencies: Iterable[float], failures: int, seconds: float) -> dict[str, Any]:
    ordered = sorted(latencies)
    return {
        "requests": len(ordered),
        "failures": failures,
        "seconds": seconds,
        "median": percentile(ordered, 0.5),
        "p99": percentile(ordered, 0.99),
        "latencies": ordered,
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
