"""The attestation document of AWS Nitro Enclaves: a COSE_Sign1 around a CBOR map, read strictly.

The profile is what genuine documents are, and nothing beside it:

- an array of four, bare or under tag 18: protected header exactly `{1: -35}` (ES384), unprotected
  header empty, payload, signature of 96 bytes;
- a payload that is one map with the nine keys of the format, of definite or indefinite length
  (both occur), each key once, in any order, the three optional values absent or null;
- integers and lengths in their shortest form, strings of definite length;
- no byte after the end, inside or outside.

Reading believes nothing: no signature is checked here. This module refuses to guess: another
algorithm, an unknown key or a value of another type or length is not a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import byte_string
from verispect.core.errors import MalformedError, Reason

MAX_DOCUMENT_BYTES: Final = 16 * 1024
"""Upper limit of a whole document; the device answers with at most 12 kB."""

MAX_TEXT_BYTES: Final = 256
"""Upper limit of a text: a key, the module id, the name of the digest."""

MAX_CERTIFICATE_BYTES: Final = 1024
MAX_BUNDLE_CERTIFICATES: Final = 8
"""Upper limit of `cabundle`; genuine bundles have four."""

MAX_FIELD_BYTES: Final = 1024
"""Upper limit of `public_key`, `user_data` and `nonce`."""

MAX_REGISTERS: Final = 32
REGISTER_BYTES: Final = 48
REQUIRED_REGISTERS: Final = (0, 1, 2, 4)
"""Registers without which a document cannot be judged: image, kernel, application, instance."""

SIGNATURE_BYTES: Final = 96
DIGEST_NAME: Final = "SHA384"
FIELD_NAMES: Final = (
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
    "public_key",
    "user_data",
    "nonce",
)
"""The keys of the payload in the order in which the device writes them."""

MANDATORY_FIELD_NAMES: Final = FIELD_NAMES[:6]

COSE_SIGN1_TAG: Final = b"\xd2"
PROTECTED_HEADER: Final = b"\x44\xa1\x01\x38\x22"
"""`{1: -35}` as the byte string that stands in the array and in what is signed."""

_ARRAY_OF_FOUR: Final = b"\x84"
_EMPTY_MAP: Final = b"\xa0"
_SIGNATURE1: Final = b"\x84\x6aSignature1" + PROTECTED_HEADER + b"\x40"
_NULL: Final = 0xF6
_BREAK: Final = 0xFF


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """One parsed document, believed by nobody."""

    module_id: str
    timestamp: int
    """Milliseconds since the epoch, by the hypervisor's clock."""
    registers: Mapping[int, bytes]
    """The locked PCRs, SHA-384."""
    certificate: bytes
    """DER of the certificate whose key signed."""
    bundle: tuple[bytes, ...]
    """DER of its issuers, root first."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    signed_bytes: bytes
    """What the signature covers: the `Signature1` structure of RFC 9052 section 4.4."""
    signature: bytes
    """r and s, 48 bytes each."""


def parse_document(data: bytes) -> NitroDocument:
    """Read one document.

    Raises:
        MalformedError: `malformed-evidence` for anything outside the profile, `too-large`.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MalformedError(
            f"a document has at most {MAX_DOCUMENT_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    outer = _Reader(data)
    outer.skip(COSE_SIGN1_TAG)
    outer.expect(_ARRAY_OF_FOUR, "an array of four")
    outer.expect(PROTECTED_HEADER, "a protected header with ES384 alone")
    outer.expect(_EMPTY_MAP, "an empty unprotected header")
    payload = outer.byte_string(1, MAX_DOCUMENT_BYTES)
    signature = outer.byte_string(SIGNATURE_BYTES, SIGNATURE_BYTES)
    outer.end()
    return _parse_payload(payload, signature)


def signed_bytes(payload: bytes) -> bytes:
    """Return what a signature over `payload` covers."""
    return _SIGNATURE1 + byte_string(payload)


def _parse_payload(payload: bytes, signature: bytes) -> NitroDocument:
    reader = _Reader(payload)
    values: dict[str, Any] = {}
    for _ in reader.items(5, len(FIELD_NAMES)):
        name = reader.text(MAX_TEXT_BYTES)
        if name in values or name not in FIELD_NAMES:
            raise reader.malformed("a key that is unknown or stands twice")
        values[name] = _FIELD_READERS[name](reader)
    reader.end()
    for name in MANDATORY_FIELD_NAMES:
        if not values.get(name):
            raise reader.malformed(f"no {name}, or an empty one")
    if values["digest"] != DIGEST_NAME:
        raise reader.malformed(f"expected the digest {DIGEST_NAME}")
    return NitroDocument(
        module_id=values["module_id"],
        timestamp=values["timestamp"],
        registers=values["pcrs"],
        certificate=values["certificate"],
        bundle=values["cabundle"],
        public_key=values.get("public_key"),
        user_data=values.get("user_data"),
        nonce=values.get("nonce"),
        signed_bytes=signed_bytes(payload),
        signature=signature,
    )


def _registers(reader: _Reader) -> dict[int, bytes]:
    registers: dict[int, bytes] = {}
    for _ in reader.items(5, MAX_REGISTERS):
        index = reader.unsigned()
        if index >= MAX_REGISTERS or index in registers:
            raise reader.malformed("a register outside the range or twice")
        registers[index] = reader.byte_string(REGISTER_BYTES, REGISTER_BYTES)
    for index in REQUIRED_REGISTERS:
        if index not in registers:
            raise reader.malformed(f"no register {index}")
    return registers


def _bundle(reader: _Reader) -> tuple[bytes, ...]:
    return tuple(_certificate(reader) for _ in reader.items(4, MAX_BUNDLE_CERTIFICATES))


def _certificate(reader: _Reader) -> bytes:
    return reader.byte_string(1, MAX_CERTIFICATE_BYTES)


class _Reader:
    """Walks over the few CBOR items that the profile has; reads nothing it was not asked for."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def malformed(self, what: str) -> MalformedError:
        return MalformedError(f"{what} at offset {self._offset}", reason=Reason.MALFORMED_EVIDENCE)

    def skip(self, literal: bytes) -> None:
        if self._data.startswith(literal, self._offset):
            self._offset += len(literal)

    def expect(self, literal: bytes, what: str) -> None:
        if not self._data.startswith(literal, self._offset):
            raise self.malformed(f"expected {what}")
        self._offset += len(literal)

    def end(self) -> None:
        if self._offset != len(self._data):
            raise self.malformed("bytes after the end")

    def unsigned(self) -> int:
        return self._argument(0)

    def byte_string(self, least: int, most: int) -> bytes:
        return self._take(self._argument(2), least, most)

    def optional_byte_string(self, most: int) -> bytes | None:
        if self._peek() == _NULL:
            self._offset += 1
            return None
        return self.byte_string(0, most)

    def text(self, most: int) -> str:
        chunk = self._take(self._argument(3), 0, most)
        try:
            return chunk.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.malformed("text is not UTF-8") from error

    def items(self, major: int, most: int) -> Iterator[int]:
        """Yield once for each element of an array (4) or pair of a map (5), of at most `most`."""
        if self._peek() == major << 5 | 31:
            self._offset += 1
            more: Callable[[int], bool] = self._until_break
        else:
            count = self._argument(major)
            if count > most:
                raise self.malformed(f"more than {most} elements")
            more = count.__gt__
        taken = 0
        while more(taken):
            if taken == most:
                raise self.malformed(f"more than {most} elements")
            yield taken
            taken += 1

    def _until_break(self, _: int) -> bool:
        if self._peek() != _BREAK:
            return True
        self._offset += 1
        return False

    def _peek(self) -> int:
        if self._offset >= len(self._data):
            raise self.malformed("unexpected end")
        return self._data[self._offset]

    def _argument(self, major: int) -> int:
        initial = self._peek()
        if initial >> 5 != major:
            raise self.malformed(f"expected major type {major}")
        argument = initial & 31
        self._offset += 1
        if argument < 24:
            return argument
        if argument > 27:
            raise self.malformed("a reserved or indefinite length")
        size = 1 << (argument - 24)
        chunk = self._data[self._offset : self._offset + size]
        value = int.from_bytes(chunk)
        # The least value that has no shorter form: 24, 2^8, 2^16, 2^32.
        least = 24 if size == 1 else 1 << (4 * size)
        if len(chunk) < size or value < least:
            raise self.malformed("a cut or non-minimal integer")
        self._offset += size
        return value

    def _take(self, length: int, least: int, most: int) -> bytes:
        if not least <= length <= most:
            raise self.malformed(f"expected {least} to {most} bytes")
        chunk = self._data[self._offset : self._offset + length]
        if len(chunk) < length:
            raise self.malformed("unexpected end")
        self._offset += length
        return chunk


def _short_text(reader: _Reader) -> str:
    return reader.text(MAX_TEXT_BYTES)


def _field(reader: _Reader) -> bytes | None:
    return reader.optional_byte_string(MAX_FIELD_BYTES)


_FIELD_READERS: Final[Mapping[str, Callable[[_Reader], Any]]] = {
    "module_id": _short_text,
    "digest": _short_text,
    "timestamp": _Reader.unsigned,
    "pcrs": _registers,
    "certificate": _certificate,
    "cabundle": _bundle,
    "public_key": _field,
    "user_data": _field,
    "nonce": _field,
}
