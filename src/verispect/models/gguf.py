"""A strict reader of GGUF headers, versions 2 and 3, little-endian.

It reads metadata and the tensor directory and checks that every tensor lies in the file, aligned
and right behind the one before it, as llama.cpp wants it. Every count and length has a named
limit. It refuses big-endian files, nested arrays, duplicate keys and names, text that is not
UTF-8, and element types whose size it does not know. It never looks at a weight.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.models.merkle import TensorDigest

MAX_METADATA_ENTRIES: Final = 4096
MAX_TENSORS: Final = 65_536
MAX_KEY_BYTES: Final = 65_535
MAX_STRING_BYTES: Final = 16 * 1024 * 1024
MAX_ARRAY_ELEMENTS: Final = 4 * 1024 * 1024
MAX_TENSOR_NAME_BYTES: Final = 63
MAX_DIMENSIONS: Final = 4
MAX_DIMENSION: Final = 1 << 40
MAX_ALIGNMENT: Final = 65_536
DEFAULT_ALIGNMENT: Final = 32
MAX_CHAT_TEMPLATE_BYTES: Final = 1024 * 1024

_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
# Value type number -> struct code (GGUF specification, `gguf_metadata_value_type`).
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip

ELEMENT_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""ggml type number -> name, elements per block, bytes per block."""


@dataclass(frozen=True, slots=True)
class GgufValue:
    """One metadata value and where its bytes stand in the file."""

    kind: str
    """`uint32`-like struct code, `string`, `bool`, or `array of …`."""
    value: Any
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor directory."""

    name: str
    element_type: str
    shape: tuple[int, ...]
    """Slowest-varying dimension first (the file stores them the other way round)."""
    offset: int
    """From the start of the file."""
    length: int
    """Bytes, without padding."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the weights of a GGUF file."""

    version: int
    metadata: Mapping[str, GgufValue]
    tensors: tuple[GgufTensor, ...]
    """In the order of the file."""

    def get(self, key: str, expected: type | tuple[type, ...]) -> Any:
        """Return a metadata value of type `expected`, or `None` where the key is absent.

        Raises:
            MalformedError: `malformed-model` for a value of another type.
        """
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, expected) or (
            isinstance(entry.value, bool) and expected is not bool
        ):
            raise _malformed(f"{key} has an unexpected type", entry.start)
        return entry.value


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.offset = 0

    def scalar(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        if self.offset + layout.size > len(self.data):
            raise _malformed("unexpected end", len(self.data))
        (value,) = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return value

    def count(self, limit: int, what: str) -> int:
        value: int = self.scalar("Q")
        if value > limit:
            raise _malformed(f"more than {limit} {what}", self.offset - 8)
        return value

    def text(self, limit: int) -> str:
        length = self.count(limit, "bytes of text")
        end = self.offset + length
        if end > len(self.data):
            raise _malformed("unexpected end", len(self.data))
        try:
            value = str(self.data[self.offset : end], "utf-8")
        except UnicodeDecodeError:
            raise _malformed("text is not UTF-8", self.offset) from None
        self.offset = end
        return value

    def value(self) -> GgufValue:
        kind: int = self.scalar("I")
        start = self.offset
        if kind == _ARRAY:
            name, value = self._array()
        else:
            name, value = self._single(kind)
        return GgufValue(name, value, start, self.offset)

    def _single(self, kind: int) -> tuple[str, Any]:
        if kind == _STRING:
            return "string", self.text(MAX_STRING_BYTES)
        code = _SCALARS.get(kind)
        if code is None:
            raise _malformed(f"unknown value type {kind}", self.offset - 4)
        value = self.scalar(code)
        if kind == _BOOL:
            if value > 1:
                raise _malformed("a boolean is neither 0 nor 1", self.offset - 1)
            return "bool", bool(value)
        return code, value

    def _array(self) -> tuple[str, Any]:
        kind: int = self.scalar("I")
        length = self.count(MAX_ARRAY_ELEMENTS, "array elements")
        if kind == _STRING:
            return "array of string", self._strings(length)
        code = _SCALARS.get(kind)
        if code is None:
            raise _malformed(f"array of unknown or nested type {kind}", self.offset - 12)
        end = self.offset + length * struct.calcsize("<" + code)
        if end > len(self.data):
            raise _malformed("unexpected end", len(self.data))
        values = struct.unpack_from(f"<{length}{code}", self.data, self.offset)
        self.offset = end
        return f"array of {code}", values

    def _strings(self, length: int) -> tuple[str, ...]:
        # Vocabularies have tens of thousands of entries: one tight loop, no method call for each.
        data, offset, end = self.data, self.offset, len(self.data)
        unpack = struct.Struct("<Q").unpack_from
        strings = []
        try:
            for _ in range(length):
                (size,) = unpack(data, offset)
                offset += 8
                if size > MAX_STRING_BYTES or offset + size > end:
                    raise _malformed("unexpected end or oversized text", offset)
                strings.append(str(data[offset : offset + size], "utf-8"))
                offset += size
        except struct.error:
            raise _malformed("unexpected end", end) from None
        except UnicodeDecodeError:
            raise _malformed("text is not UTF-8", offset) from None
        self.offset = offset
        return tuple(strings)


def _malformed(what: str, offset: int) -> MalformedError:
    return MalformedError(f"gguf: {what} at offset {offset}", reason=Reason.MALFORMED_MODEL)


def read_header(data: memoryview) -> GgufHeader:
    """Read and check the header of the GGUF file that `data` holds whole.

    Raises:
        MalformedError: `malformed-model` with the offset at fault.
        UnsupportedError: `unsupported-version` or, for an element type we do not know,
            `unsupported-model`.
    """
    reader = _Reader(data)
    if bytes(data[:4]) != b"GGUF":
        raise _malformed("magic is not GGUF", 0)
    reader.offset = 4
    version: int = reader.scalar("I")
    if version not in (2, 3):
        raise UnsupportedError(
            f"gguf version {version} is not supported", reason=Reason.UNSUPPORTED_VERSION
        )
    tensor_count = reader.count(MAX_TENSORS, "tensors")
    entry_count = reader.count(MAX_METADATA_ENTRIES, "metadata entries")
    metadata: dict[str, GgufValue] = {}
    for _ in range(entry_count):
        start = reader.offset
        key = reader.text(MAX_KEY_BYTES)
        if not key or key in metadata:
            raise _malformed("empty or duplicate metadata key", start)
        metadata[key] = reader.value()
    header = GgufHeader(version, metadata, ())
    alignment = _alignment(header)
    return GgufHeader(version, metadata, _read_tensors(reader, tensor_count, alignment))


def _alignment(header: GgufHeader) -> int:
    alignment = header.get("general.alignment", int)
    if alignment is None:
        return DEFAULT_ALIGNMENT
    if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        entry = header.metadata["general.alignment"]
        raise _malformed("alignment is not a power of two in range", entry.start)
    return int(alignment)


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[GgufTensor, ...]:
    found: list[tuple[str, str, tuple[int, ...], int, int]] = []
    names: set[str] = set()
    next_offset = 0
    for _ in range(count):
        start = reader.offset
        name = reader.text(MAX_TENSOR_NAME_BYTES)
        if not name or name in names:
            raise _malformed("empty or duplicate tensor name", start)
        names.add(name)
        shape = _read_shape(reader)
        element_type, length = _measure(reader, shape)
        offset: int = reader.scalar("Q")
        if offset != next_offset:
            raise _malformed("tensor does not follow the one before it", reader.offset - 8)
        found.append((name, element_type, shape, offset, length))
        next_offset = _aligned(offset + length, alignment)
    base = _aligned(reader.offset, alignment)
    if found and base + found[-1][3] + found[-1][4] > len(reader.data):
        raise _malformed("a tensor ends behind the end of the file", len(reader.data))
    if len(reader.data) > base + next_offset:
        raise _malformed("bytes behind the last tensor", base + next_offset)
    return tuple(
        GgufTensor(name, element_type, shape[::-1], base + offset, length)
        for name, element_type, shape, offset, length in found
    )


def _read_shape(reader: _Reader) -> tuple[int, ...]:
    dimensions: int = reader.scalar("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _malformed(f"expected 1 to {MAX_DIMENSIONS} dimensions", reader.offset - 4)
    shape = []
    for _ in range(dimensions):
        size: int = reader.scalar("Q")
        if not 1 <= size <= MAX_DIMENSION:
            raise _malformed("dimension out of range", reader.offset - 8)
        shape.append(size)
    return tuple(shape)


def _measure(reader: _Reader, shape: tuple[int, ...]) -> tuple[str, int]:
    """Read the element type and return its name and the tensor's length in bytes."""
    number: int = reader.scalar("I")
    known = ELEMENT_TYPES.get(number)
    if known is None:
        raise UnsupportedError(
            f"gguf element type {number} is not supported", reason=Reason.UNSUPPORTED_MODEL
        )
    name, block_elements, block_bytes = known
    if shape[0] % block_elements:
        raise _malformed("row is not a whole number of blocks", reader.offset - 4)
    elements = 1
    for size in shape:
        elements *= size
    return name, elements // block_elements * block_bytes


def _aligned(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


def digest_tensors(header: GgufHeader, data: memoryview) -> Iterator[TensorDigest]:
    """Yield one digest per tensor of the file that `data` holds whole."""
    for tensor in header.tensors:
        content = hashlib.sha256(data[tensor.offset : tensor.offset + tensor.length]).digest()
        yield TensorDigest(tensor.name, tensor.element_type, tensor.shape, Digest(content))


def tokenizer_digest(header: GgufHeader, data: memoryview) -> Digest | None:
    """Return the digest over vocabulary, merges, token types, scores and special tokens.

    It is SHA-256 over the deterministic CBOR of `[[key, SHA-256(value bytes as in the file)], …]`,
    sorted by key, for every `tokenizer.` key but the chat templates; `None` without such keys.
    """
    entries = [
        [key, sha256(bytes(data[entry.start : entry.end]))]
        for key, entry in sorted(header.metadata.items(), key=lambda item: item[0].encode())
        if key.startswith("tokenizer.") and not key.startswith("tokenizer.chat_template")
    ]
    return sha256(encode(entries)) if entries else None


def chat_template(header: GgufHeader) -> str | None:
    """Return the default chat template of the file, or `None`.

    Raises:
        MalformedError: `malformed-model` where it is not text, `too-large` beyond the limit.
    """
    template: str | None = header.get("tokenizer.chat_template", str)
    if template is not None and len(template.encode()) > MAX_CHAT_TEMPLATE_BYTES:
        raise MalformedError(
            f"expected a chat template of at most {MAX_CHAT_TEMPLATE_BYTES} bytes",
            reason=Reason.TOO_LARGE,
        )
    return template
