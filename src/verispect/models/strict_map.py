"""Reading decoded maps strictly: every key known, every type exact, every length bounded.

Used for whatever this room reads back from disk. It refuses unknown and missing keys; it never
fills in a default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import MalformedError, Reason

MAX_TEXT: Final = 4096
"""Upper limit, in characters, of a text that has no smaller limit of its own."""

MAX_INTEGER: Final = (1 << 63) - 1

_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?")

Item = TypeVar("Item")


def is_decimal(text: str) -> bool:
    """Tell whether `text` is a plain decimal in its one shortest form, such as `0.5` or `-2`."""
    return _DECIMAL.fullmatch(text) is not None and text != "-0"


class StrictMap:
    """One decoded map, read key by key; `finish` refuses what was not read.

    Args:
        value: the decoded value, of any type.
        where: what the map is, for messages.
        reason: the code of every refusal.
    """

    def __init__(
        self, value: Any, *, where: str, reason: Reason = Reason.MALFORMED_MANIFEST
    ) -> None:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise MalformedError(f"{where} is not a map with text keys", reason=reason)
        self._left = dict(value)
        self._where = where
        self._reason = reason

    def refuse(self, what: str) -> MalformedError:
        """Return the error that says `what` is wrong here."""
        return MalformedError(f"{self._where}: {what}", reason=self._reason)

    def take(self, key: str) -> Any:
        """Return the value of `key`, of any type."""
        if key not in self._left:
            raise self.refuse(f"{key} is missing")
        return self._left.pop(key)

    def text(self, key: str, *, limit: int = MAX_TEXT) -> str:
        """Return a text of at most `limit` characters."""
        value = self.take(key)
        if type(value) is not str or len(value) > limit:
            raise self.refuse(f"{key} is not a text of at most {limit} characters")
        return value

    def optional_text(self, key: str, *, limit: int = MAX_TEXT) -> str | None:
        """Return a text or `None`."""
        return None if self._skips_null(key) else self.text(key, limit=limit)

    def integer(self, key: str, *, least: int = 0, most: int = MAX_INTEGER) -> int:
        """Return an integer between `least` and `most`."""
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            raise self.refuse(f"{key} is not an integer between {least} and {most}")
        return value

    def digest(self, key: str) -> Digest:
        """Return a SHA-256 digest."""
        value = self.take(key)
        if type(value) is not bytes or len(value) != DIGEST_BYTES:
            raise self.refuse(f"{key} is not a digest of {DIGEST_BYTES} bytes")
        return Digest(value)

    def optional_digest(self, key: str) -> Digest | None:
        """Return a SHA-256 digest or `None`."""
        return None if self._skips_null(key) else self.digest(key)

    def decimal(self, key: str) -> str:
        """Return a decimal text in its one form."""
        value = self.text(key)
        if not is_decimal(value):
            raise self.refuse(f"{key} is not a decimal in its shortest form")
        return value

    def optional_decimal(self, key: str) -> str | None:
        """Return a decimal text or `None`."""
        return None if self._skips_null(key) else self.decimal(key)

    def items(self, key: str, read: Callable[[Any, str], Item], *, limit: int) -> tuple[Item, ...]:
        """Return a list of at most `limit` items, each through `read(value, where)`."""
        value = self.take(key)
        if type(value) is not list or len(value) > limit:
            raise self.refuse(f"{key} is not a list of at most {limit} items")
        return tuple(read(item, f"{self._where}.{key}[{n}]") for n, item in enumerate(value))

    def optional(self, key: str, read: Callable[[Any, str], Item]) -> Item | None:
        """Return `read(value, where)`, or `None` for null."""
        return None if self._skips_null(key) else read(self.take(key), f"{self._where}.{key}")

    def finish(self) -> None:
        """Refuse every key that was not read."""
        if self._left:
            raise self.refuse(f"unknown key {min(self._left)[:64]!r}")

    def _skips_null(self, key: str) -> bool:
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return True
        return False
