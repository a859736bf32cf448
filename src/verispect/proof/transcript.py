"""The transcript that turns the proof's conversation into one message (`spec/proof.md`, section 2).

Prover and verifier feed it the same octets in the same order; whoever changes one of them gets
other challenges. It refuses nothing: what may be absorbed is for its callers to decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from verispect.proof import field
from verispect.proof.field import MODULUS, Element

START = hashlib.sha256(b"verispect-proof-v1").digest()
"""The state before anything is absorbed."""

MAX_LABEL_BYTES = 255


class Transcript:
    """A hash chain over everything said so far."""

    def __init__(self) -> None:
        self._state = START

    @property
    def state(self) -> bytes:
        """The 32 octets that everything absorbed so far determines."""
        return self._state

    def absorb(self, label: str, data: bytes) -> None:
        """Take in one message."""
        self._step(b"\x01", label, len(data).to_bytes(8, "little") + data)

    def absorb_elements(self, label: str, elements: Iterable[Element]) -> None:
        """Take in field elements that are sent together as one message."""
        self.absorb(label, b"".join(element.to_bytes() for element in elements))

    def absorb_array(self, label: str, values: field.Array) -> None:
        """Take in an array of field elements as one message."""
        self.absorb(label, field.to_bytes(values))

    def challenge(self, label: str) -> Element:
        """Draw one element of `F`."""
        self._step(b"\x02", label, b"")
        return Element(
            int.from_bytes(self._state[:16], "little") % MODULUS,
            int.from_bytes(self._state[16:], "little") % MODULUS,
        )

    def challenges(self, label: str, count: int) -> list[Element]:
        """Draw a vector, coordinate by coordinate."""
        return [self.challenge(label) for _ in range(count)]

    def positions(self, label: str, count: int, bound: int) -> list[int]:
        """Draw `count` positions below `bound`, a power of two; they may repeat."""
        if bound < 1 or bound & (bound - 1) or bound > 1 << 32:
            raise ValueError("the bound of positions is a power of two, at most 2^32")
        self._step(b"\x03", label, b"")
        drawn: list[int] = []
        for block in range((count + 7) // 8):
            octets = hashlib.sha256(self._state + block.to_bytes(4, "little")).digest()
            drawn.extend(
                int.from_bytes(octets[start : start + 4], "little") % bound
                for start in range(0, 32, 4)
            )
        return drawn[:count]

    def _step(self, kind: bytes, label: str, rest: bytes) -> None:
        name = label.encode("ascii")
        if len(name) > MAX_LABEL_BYTES:
            raise ValueError("a label has at most 255 octets")
        self._state = hashlib.sha256(self._state + kind + bytes([len(name)]) + name + rest).digest()
