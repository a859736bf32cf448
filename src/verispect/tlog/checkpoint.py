"""Checkpoints (C2SP tlog-checkpoint): the signed note by which a log commits to its tree.

The text is the log's origin, the size of the tree and its root, one line each. Extension lines
are read and kept, because the signature covers them, and never written by our log: no monitor can
audit what they say.

`SignedCheckpoint` is parsed and believed by nobody; `TrustedLog.verify` gives the `Checkpoint`
that the log signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.core.keys import Signer
from verispect.tlog.merkle import EMPTY_ROOT, MAX_TREE_SIZE
from verispect.tlog.note import (
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    check_distinct,
    sign_note,
    verify_note,
)
from verispect.tlog.text import check_characters, hash_from_base64, size_from_decimal, to_base64

MAX_ORIGIN_CHARACTERS: Final = 256
MAX_EXTENSION_LINES: Final = 16


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_CHECKPOINT)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log's tree.

    Raises:
        MalformedError: `malformed-checkpoint`.
    """

    origin: str
    """The log's name, the same for ever."""
    size: int
    root: Digest
    extensions: Sequence[str] = ()

    def __post_init__(self) -> None:
        # Printable, because names are shown: one with control characters could forge a line.
        if not 0 < len(self.origin) <= MAX_ORIGIN_CHARACTERS or not self.origin.isprintable():
            raise _malformed(
                f"the origin is not printable text of 1 to {MAX_ORIGIN_CHARACTERS} characters"
            )
        if len(self.extensions) > MAX_EXTENSION_LINES:
            raise _malformed(f"expected at most {MAX_EXTENSION_LINES} extension lines")
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line:
                raise _malformed("a line is empty or holds a newline")
            check_characters(line, reason=Reason.MALFORMED_CHECKPOINT)
        if not 0 <= self.size <= MAX_TREE_SIZE or len(self.root) != DIGEST_BYTES:
            raise _malformed("size or root is out of range")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _malformed("the root of an empty tree is another")

    def text(self) -> str:
        """Return the text that is signed, with its final newline."""
        lines = (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Read the text of a note.

        Raises:
            MalformedError: `malformed-checkpoint`.
        """
        *lines, last = text.split("\n")
        if last or len(lines) < 3:
            raise _malformed("a checkpoint has at least three lines")
        origin, size, root, *extensions = lines
        return cls(
            origin,
            size_from_decimal(size, reason=Reason.MALFORMED_CHECKPOINT),
            hash_from_base64(root, reason=Reason.MALFORMED_CHECKPOINT),
            tuple(extensions),
        )


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A note whose text is a checkpoint, believed by nobody.

    Raises:
        MalformedError: `malformed-checkpoint`.
    """

    note: Note
    unverified: Checkpoint = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unverified", Checkpoint.from_text(self.note.text))

    @classmethod
    def parse(cls, data: bytes) -> SignedCheckpoint:
        """Parse a checkpoint's bytes. Shape only: nothing is verified.

        Raises:
            MalformedError: `malformed-note`, `malformed-checkpoint` or `too-large`.
        """
        return cls(Note.parse(data))

    def encode(self) -> bytes:
        """Return the bytes; `parse` of them gives an equal one."""
        return self.note.encode()

    def with_signatures(self, signatures: Sequence[NoteSignature]) -> SignedCheckpoint:
        """Return this checkpoint with more signatures under it, as those of witnesses."""
        return SignedCheckpoint(self.note.with_signatures(signatures))


def sign_checkpoint(checkpoint: Checkpoint, *, signer: Signer) -> SignedCheckpoint:
    """Sign a checkpoint as its log. The key is named by the origin.

    A log MUST NOT sign a checkpoint that is inconsistent with one that it signed before; that is
    for the caller to see to.

    Args:
        checkpoint: the head of the tree.
        signer: holder of the log's private key.

    Raises:
        MalformedError: `malformed-key` where the origin cannot name a key.
    """
    text = checkpoint.text()
    return SignedCheckpoint(Note(text, (sign_note(text, name=checkpoint.origin, signer=signer),)))


@dataclass(frozen=True, slots=True)
class TrustedLog:
    """A log that the caller trusts to be itself: its origin and its keys.

    Raises:
        MalformedError: `malformed-key` where there is no key, one twice, or a witness's key.
    """

    origin: str
    keys: Sequence[VerifierKey]

    def __post_init__(self) -> None:
        check_distinct(self.keys)
        if not self.keys or any(key.type is not SignatureType.ED25519 for key in self.keys):
            raise MalformedError(
                "a log has at least one key, of the type that signs notes",
                reason=Reason.MALFORMED_KEY,
            )

    def verify(self, signed: SignedCheckpoint) -> Checkpoint:
        """Return what the log signed.

        Raises:
            VerificationError: `log-unknown` for another origin, `key-unknown` where no key of the
                log signed, `signature-invalid` where one did not sign this.
        """
        if signed.unverified.origin != self.origin:
            raise VerificationError("the checkpoint is another log's", reason=Reason.LOG_UNKNOWN)
        verify_note(signed.note, self.keys)
        return signed.unverified

    def bare(self, signed: SignedCheckpoint) -> SignedCheckpoint:
        """Return the checkpoint with the log's own signatures only.

        Raises:
            MalformedError: `malformed-note` where there is none.
        """
        own = [
            each for each in signed.note.signatures if any(key.matches(each) for key in self.keys)
        ]
        return SignedCheckpoint(Note(signed.note.text, tuple(own)))
