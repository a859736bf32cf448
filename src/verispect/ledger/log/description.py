"""What a log says of itself, signed: its name, its maximum merge delay, what its leaves disclose.

The delay can be held against the log. A receipt says when it was signed; a cosignature says when a
witness saw a tree. A tree that a witness saw later than the delay allows, and that does not hold
the receipt, is a breach, whatever the log's own clock says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from verispect.core.errors import MalformedError, Reason
from verispect.core.keys import Signer
from verispect.tlog.cosignature import MAX_CLOCK_SKEW_SECONDS
from verispect.tlog.note import Note, VerifierKey, sign_note, verify_note
from verispect.tlog.receipt_leaf import Disclosure
from verispect.tlog.text import size_from_decimal

DESCRIPTION_MAGIC: Final = "verispect-log-description@v1"
MAX_MERGE_DELAY_MILLISECONDS: Final = 24 * 60 * 60 * 1000
DEFAULT_MERGE_DELAY_MILLISECONDS: Final = 10_000

_DELAY: Final = "maximum-merge-delay-milliseconds "
_DISCLOSES: Final = "discloses "
_WORDS: Final = {
    "model": Disclosure.MODEL,
    "usage": Disclosure.USAGE,
    "charge": Disclosure.CHARGE,
}


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_NOTE)


@dataclass(frozen=True, slots=True)
class LogDescription:
    """A log's word about itself.

    Raises:
        MalformedError: `malformed-note` for a delay out of range.
    """

    origin: str
    maximum_merge_delay_milliseconds: int = DEFAULT_MERGE_DELAY_MILLISECONDS
    """From the time at which a receipt was signed to a checkpoint whose tree holds it."""
    disclosure: Disclosure = Disclosure.NOTHING
    """What the leaves of receipts show in the clear."""

    def __post_init__(self) -> None:
        if not 0 < self.maximum_merge_delay_milliseconds <= MAX_MERGE_DELAY_MILLISECONDS:
            raise _malformed("the maximum merge delay is out of range")

    def text(self) -> str:
        """Return the text that is signed."""
        words = [word for word, flag in _WORDS.items() if flag in self.disclosure]
        return (
            f"{self.origin}\n{DESCRIPTION_MAGIC}\n"
            f"{_DELAY}{self.maximum_merge_delay_milliseconds}\n"
            f"{_DISCLOSES}{','.join(words) or 'nothing'}\n"
        )

    def sign(self, signer: Signer) -> bytes:
        """Return the signed note. The key is named by the origin, as for checkpoints."""
        text = self.text()
        return Note(text, (sign_note(text, name=self.origin, signer=signer),)).encode()

    @classmethod
    def verify(cls, data: bytes, key: VerifierKey) -> LogDescription:
        """Read a signed description.

        Args:
            data: the note.
            key: the log's key, which the caller trusts.

        Raises:
            MalformedError: `malformed-note`, `too-large`.
            VerificationError: `signature-invalid`, `key-unknown`.
        """
        note = Note.parse(data)
        verify_note(note, [key])
        lines = note.text[:-1].split("\n")
        if len(lines) != 4 or lines[1] != DESCRIPTION_MAGIC or lines[0] != key.name:
            raise _malformed("not a log's description of version 1")
        if not lines[2].startswith(_DELAY) or not lines[3].startswith(_DISCLOSES):
            raise _malformed("a line of a log's description is missing")
        delay = size_from_decimal(lines[2].removeprefix(_DELAY), reason=Reason.MALFORMED_NOTE)
        disclosure = Disclosure.NOTHING
        for word in lines[3].removeprefix(_DISCLOSES).replace("nothing", "").split(","):
            if word:
                if word not in _WORDS:
                    raise _malformed("a description discloses something unknown")
                disclosure |= _WORDS[word]
        description = cls(lines[0], delay, disclosure)
        if description.text() != note.text:
            raise _malformed("a log's description has another form")
        return description

    def is_breached(
        self,
        *,
        signed_at: int,
        leaf_index: int | None,
        tree_size: int,
        cosigned_at_seconds: int,
    ) -> bool:
        """Tell whether a co-signed tree shows that a receipt was merged too late.

        Args:
            signed_at: when the receipt was signed, in milliseconds, as it says itself.
            leaf_index: its place in the log, now; `None` where it has none.
            tree_size: the size of a tree that a trusted witness co-signed.
            cosigned_at_seconds: when, by the witness's clock.
        """
        if leaf_index is not None and leaf_index < tree_size:
            return False
        due = signed_at + self.maximum_merge_delay_milliseconds
        return (cosigned_at_seconds - MAX_CLOCK_SKEW_SECONDS) * 1000 > due
