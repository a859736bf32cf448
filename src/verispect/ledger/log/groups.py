"""Entries in groups: many in one database row, and which of a call's entries are new.

A group is its items one after another, each behind its length in four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from verispect.ledger.log.interface import MAX_ACCEPTED, NewEntry, Placed

_LENGTH = struct.Struct(">I")


def join(items: Sequence[bytes]) -> bytes:
    """Return the group of these items."""
    parts: list[bytes] = []
    for item in items:
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def split(group: bytes) -> list[bytes]:
    """Return the items of a group."""
    items = []
    offset = 0
    while offset < len(group):
        (length,) = _LENGTH.unpack_from(group, offset)
        offset += _LENGTH.size
        items.append(group[offset : offset + length])
        offset += length
    return items


def new_entries(
    entries: Sequence[NewEntry], known: Mapping[bytes, int], start: int
) -> tuple[list[Placed], list[NewEntry]]:
    """Tell new entries from known ones, also from those that stand twice in one call.

    Args:
        entries: what was given to `accept`.
        known: the keys that have an index.
        start: the next free index.

    Returns:
        The place of each entry, and the new ones, which get the indexes from `start` on.
    """
    if len(entries) > MAX_ACCEPTED:
        raise ValueError(f"expected at most {MAX_ACCEPTED} entries, got {len(entries)}")
    indexes = dict(known)
    placed: list[Placed] = []
    fresh: list[NewEntry] = []
    for entry in entries:
        index = indexes.get(entry.key)
        if index is None:
            index = indexes[entry.key] = start + len(fresh)
            fresh.append(entry)
            placed.append(Placed(index, is_new=True))
        else:
            placed.append(Placed(index, is_new=False))
    return placed, fresh
