"""Turns generated tokens into text that may be sent: whole characters, never a stop string.

A token's bytes can end inside a UTF-8 character, and a stop string can be spread over tokens. Text
is given out as soon as it can be neither; what a token contributed to the log-probabilities is
given out together with its text.

This module refuses to guess: bytes that never become UTF-8 are replaced (U+FFFD) only when the
generation ends or when later bytes show that they cannot become a character.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Piece:
    """What may be sent after one token."""

    text: str = ""
    entries: list[Any] = field(default_factory=list)
    """The log-probability entries whose text is now out."""
    stopped: bool = False
    """A stop string was completed; no token may follow."""


class TextAssembler:
    """Assembles one generation.

    Args:
        stop: strings that end the generation and are not part of its text.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._pending: list[tuple[int, Any]] = []
        self._decoded = 0
        self._sent = 0

    def push(self, data: bytes, entry: Any = None) -> Piece:
        """Take one token's bytes and return what may be sent now.

        Args:
            data: the token's exact bytes, possibly a part of a character.
            entry: its log-probability entry, or `None`.
        """
        if entry is not None:
            self._pending.append((self._decoded, entry))
        text = self._decoder.decode(data)
        self._decoded += len(text)
        self._held += text
        cut = self._find_stop()
        if cut is not None:
            piece = self._give(cut)
            self._pending.clear()
            piece.stopped = True
            return piece
        return self._give(len(self._held) - self._possible_stop())

    def finish(self) -> Piece:
        """Return everything still held back; call once, after the last token."""
        rest = self._decoder.decode(b"", final=True)
        self._decoded += len(rest)
        self._held += rest
        cut = self._find_stop()
        if cut is not None:
            piece = self._give(cut)
            self._pending.clear()
            piece.stopped = True
            return piece
        piece = self._give(len(self._held))
        piece.entries.extend(entry for _, entry in self._pending)
        self._pending.clear()
        return piece

    def _find_stop(self) -> int | None:
        found = [self._held.find(stop) for stop in self._stop]
        return min((at for at in found if at >= 0), default=None)

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _give(self, length: int) -> Piece:
        text, self._held = self._held[:length], self._held[length:]
        self._sent += len(text)
        ready = 0
        # A token counts as sent once the text that begins with it is; a token that only began a
        # character waits for the token that completes it.
        while ready < len(self._pending) and self._pending[ready][0] < self._sent:
            ready += 1
        entries = [entry for _, entry in self._pending[:ready]]
        del self._pending[:ready]
        return Piece(text=text, entries=entries)
