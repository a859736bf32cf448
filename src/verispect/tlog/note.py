"""Signed notes (C2SP signed-note): a text, a blank line, signatures of named keys. Ed25519.

A key is known by its name and a hash of four bytes. The hash only finds the key; what decides is
the signature. Signatures of keys that the caller does not know are carried and ignored, whatever
they hold, so that logs can change keys and witnesses can sign beside them. A signature under the
name and hash of a known key must verify, or the whole note is refused.

`Note.parse` believes nothing. This module refuses every form but the one: no carriage return, no
missing newline, no base64 with spare bits, no name with a space or a plus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.core.keys import PUBLIC_KEY_BYTES, PublicKey, Signer
from verispect.tlog.text import check_characters, from_base64, text_from_bytes, to_base64

MAX_NOTE_BYTES: Final = 1024 * 1024
MAX_NOTE_SIGNATURES: Final = 100
MAX_KEY_NAME_CHARACTERS: Final = 256

KEY_HASH_BYTES: Final = 4

_SIGNATURE_START: Final = "\N{EM DASH} "


class SignatureType(IntEnum):
    """What a key signs, and how; part of its hash, so that one key has two names for two uses."""

    ED25519 = 1
    """The text of a note."""
    COSIGNATURE = 4
    """A checkpoint and the time at which a witness saw it (`verispect.tlog.cosignature`)."""


def check_key_name(name: str) -> None:
    """Check that `name` can stand in a signature line.

    Raises:
        MalformedError: `malformed-key`.
    """
    if (
        not 0 < len(name) <= MAX_KEY_NAME_CHARACTERS
        or "+" in name
        or any(character.isspace() for character in name)
        or not name.isprintable()
    ):
        raise MalformedError(
            "the name of a key is empty, too long, or holds a space or a plus",
            reason=Reason.MALFORMED_KEY,
        )


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under the name by which notes know it ("vkey").

    Raises:
        MalformedError: `malformed-key`.
    """

    name: str
    key: PublicKey
    type: SignatureType = SignatureType.ED25519
    key_hash: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        named = self.name.encode() + b"\n" + bytes((self.type,)) + self.key.raw
        object.__setattr__(self, "key_hash", sha256(named)[:KEY_HASH_BYTES])

    def encode(self) -> str:
        """Return the text form: `name+hash+base64(type, key)`."""
        return f"{self.name}+{self.key_hash.hex()}+{to_base64(bytes((self.type,)) + self.key.raw)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the text form.

        Raises:
            MalformedError: `malformed-key`, also where the hash is another key's.
            UnsupportedError: `unsupported-algorithm`.
        """
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise MalformedError("not a verifier key", reason=Reason.MALFORMED_KEY)
        name, key_hash, encoded = parts
        data = from_base64(encoded, reason=Reason.MALFORMED_KEY)
        if not data:
            raise MalformedError("a verifier key is empty", reason=Reason.MALFORMED_KEY)
        if data[0] not in SignatureType.__members__.values():
            raise UnsupportedError(
                f"signature type {data[0]} is not known", reason=Reason.UNSUPPORTED_ALGORITHM
            )
        if len(data) != 1 + PUBLIC_KEY_BYTES:
            raise MalformedError("a verifier key is no Ed25519 key", reason=Reason.MALFORMED_KEY)
        result = cls(name, PublicKey(data[1:]), SignatureType(data[0]))
        if result.key_hash.hex() != key_hash:
            raise MalformedError("the hash is not this key's", reason=Reason.MALFORMED_KEY)
        return result

    def matches(self, signature: NoteSignature) -> bool:
        """Return whether `signature` claims to be this key's."""
        return signature.name == self.name and signature.key_hash == self.key_hash


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: a claim until it is verified."""

    name: str
    key_hash: bytes
    signature: bytes

    def encode(self) -> str:
        """Return the line with its newline."""
        return f"{_SIGNATURE_START}{self.name} {to_base64(self.key_hash + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """Read a line without its newline.

        Raises:
            MalformedError: `malformed-note`.
        """
        name, space, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
        if not line.startswith(_SIGNATURE_START) or not space:
            raise _malformed("not a signature line")
        try:
            check_key_name(name)
        except MalformedError as error:
            raise _malformed(error.message) from error
        data = from_base64(encoded, reason=Reason.MALFORMED_NOTE)
        if len(data) <= KEY_HASH_BYTES:
            raise _malformed("a signature is empty")
        return cls(name, data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:])


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_NOTE)


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the signatures under it, none of them verified.

    Raises:
        MalformedError: `malformed-note`.
    """

    text: str
    """With its final newline."""
    signatures: Sequence[NoteSignature]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n"):
            raise _malformed("the text does not end in a newline")
        check_characters(self.text, reason=Reason.MALFORMED_NOTE)
        if not 0 < len(self.signatures) <= MAX_NOTE_SIGNATURES:
            raise _malformed(f"expected 1 to {MAX_NOTE_SIGNATURES} signatures")

    def encode(self) -> bytes:
        """Return the bytes; `parse` of them gives an equal note."""
        lines = "".join(signature.encode() for signature in self.signatures)
        return f"{self.text}\n{lines}".encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Parse a note's bytes. Shape only: nothing is verified.

        Raises:
            MalformedError: `malformed-note` or `too-large`.
        """
        text = text_from_bytes(data, limit=MAX_NOTE_BYTES, reason=Reason.MALFORMED_NOTE)
        # The last blank line divides: the text may hold others.
        start = text.rfind("\n\n")
        if start < 0:
            raise _malformed("no blank line before the signatures")
        return cls(text[: start + 1], parse_signature_lines(text[start + 2 :]))

    def with_signatures(self, signatures: Sequence[NoteSignature]) -> Note:
        """Return this note with more signatures under it; a line that it has is not repeated."""
        return Note(self.text, tuple(dict.fromkeys((*self.signatures, *signatures))))


def parse_signature_lines(text: str) -> tuple[NoteSignature, ...]:
    """Read signature lines, each with its newline.

    Raises:
        MalformedError: `malformed-note`.
    """
    if not text.endswith("\n"):
        raise _malformed("there is no signature, or the last one does not end")
    lines = text[:-1].split("\n")
    if len(lines) > MAX_NOTE_SIGNATURES:
        raise _malformed(f"expected at most {MAX_NOTE_SIGNATURES} signatures")
    return tuple(NoteSignature.parse(line) for line in lines)


def sign_note(text: str, *, name: str, signer: Signer) -> NoteSignature:
    """Sign the text of a note.

    Args:
        text: with its final newline.
        name: the name of the key.
        signer: holder of the private key.

    Raises:
        MalformedError: `malformed-key` for a name that cannot stand in a note.
    """
    key = VerifierKey(name, signer.public_key)
    return NoteSignature(name, key.key_hash, signer.sign(text.encode()))


def check_distinct(keys: Sequence[VerifierKey]) -> None:
    """Check that no two keys share name and hash, and that no key stands under two names.

    Raises:
        MalformedError: `malformed-key`.
    """
    if len({(key.name, key.key_hash) for key in keys}) != len(keys):
        raise MalformedError("two keys have one name and hash", reason=Reason.MALFORMED_KEY)
    if len({(key.type, key.key.raw) for key in keys}) != len(keys):
        raise MalformedError("one key stands under two names", reason=Reason.MALFORMED_KEY)


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
    """Return those of `keys` that signed the note.

    Args:
        note: a parsed note.
        keys: the trusted keys, of type `ED25519`.

    Raises:
        VerificationError: `signature-invalid` where a line under the name and hash of a trusted
            key does not verify, `key-unknown` where no trusted key signed.
    """
    signed = []
    text = note.text.encode()
    for key in keys:
        if key.type is not SignatureType.ED25519:
            raise TypeError(f"a key of type {key.type.name.lower()} signs no notes")
        claimed = [each for each in note.signatures if key.matches(each)]
        for signature in claimed:
            key.key.verify(text, signature.signature)
        if claimed:
            signed.append(key)
    if not signed:
        raise VerificationError("no trusted key signed this note", reason=Reason.KEY_UNKNOWN)
    return signed
