"""Server-sent events, read piece by piece as the HTML standard says (section 9.2.6).

Only the data of an event matters here. Whoever shows a stream and whoever verifies it read it with
this one reader, so that nothing can be shown that is not verified. What comes after the end of the
stream, or stands in an event that was never finished, is refused: some reader would show it.
"""

from __future__ import annotations

from typing import Final

from verispect.core.errors import MalformedError, Reason

END_OF_STREAM: Final = b"[DONE]"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventReader:
    """Turns pieces of an event stream into the data of its events."""

    def __init__(self) -> None:
        self._pending = b""
        self._data: list[bytes] = []
        self._at_start = True
        self._ended = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that `piece` completes.

        Raises:
            MalformedError: `malformed-transcript` for an event after the end.
        """
        *lines, self._pending = (self._pending + piece).split(b"\n")
        events: list[bytes] = []
        for line in lines:
            data = self._read_line(line.removesuffix(b"\r"))
            if data is None:
                continue
            if self._ended:
                raise _malformed("an event comes after the end of the stream")
            if data == END_OF_STREAM:
                self._ended = True
            else:
                events.append(data)
        return events

    def finish(self) -> None:
        """Say that no more pieces come.

        Raises:
            MalformedError: `malformed-transcript` where an event was begun and not finished.
        """
        if self._pending or self._data:
            raise _malformed("the stream ends within an event")

    def _read_line(self, line: bytes) -> bytes | None:
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        if b"\r" in line:
            raise _malformed("a line of the stream holds a carriage return")
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        return None


def read_events(stream: bytes) -> list[bytes]:
    """Return the data of every event of a whole stream, without its end marker.

    Raises:
        MalformedError: `malformed-transcript`.
    """
    reader = EventReader()
    events = reader.feed(stream)
    reader.finish()
    return events


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TRANSCRIPT)
