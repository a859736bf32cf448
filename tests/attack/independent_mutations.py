"""Damages bytes in the ways that parsers dislike, reproducibly."""

from __future__ import annotations

import json
import random
from typing import Any

_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 70, 1.5, "", "0x", "\u202e", [], {}, [[]], [None], {"a": []},
    "a" * 5000,
)  # fmt: skip
_ODD_BYTES = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x80", b'"', b"{", b"[" * 200, b"<", b"\r\n")


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to three kinds of damage."""
    for _ in range(chance.randint(1, 3)):
        data = _mutate_json(data, chance) if chance.random() < 0.5 else _mutate(data, chance)
    return data


def _mutate(data: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 16, 200))
    kind = chance.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + chance.randbytes(size) + data[at + size :]
    if kind == 2:
        return data[:at] + chance.choice(_ODD_BYTES) + data[at:]
    if kind == 3:
        return data[:at] + data[at + size :]
    return data[:at] + data[at : at + size] * 2 + data[at + size :]


def _mutate_json(data: bytes, chance: random.Random) -> bytes:
    """Replace, drop or rename one value anywhere in JSON; other bytes come back changed too."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _mutate(data, chance)
    places: list[tuple[Any, Any]] = []
    pending = [value] if isinstance(value, (dict, list)) else []
    while pending:
        node = pending.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(children):
            places.append((node, key))
            if isinstance(child, (dict, list)) and child:
                pending.append(child)
    if not places:
        return _mutate(data, chance)
    node, key = chance.choice(places)
    old, kind = node[key], chance.randrange(4)
    if kind == 0 and isinstance(node, dict):
        del node[key]
    elif kind == 1 and isinstance(old, str) and old:
        node[key] = _mutate(old.encode(), chance).decode("latin-1")
    elif kind == 2 and isinstance(node, dict):
        node[f"{key} "] = node.pop(key)
    else:
        node[key] = chance.choice(_ODD_VALUES)
    return json.dumps(value).encode()
