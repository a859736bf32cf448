"""A tiny language model made of random weights, for tests that must not download one.

`write_tiny_gguf` writes a Llama-architecture GGUF of about 150 kB that llama.cpp loads and runs:
one layer, a byte-level vocabulary, a chat template. The bytes are a pure function of the
arguments. Its answers mean nothing; greedy ones are printable. It refuses to be anything else
than a test model: `general.name` says so.
"""

from __future__ import annotations

import array
import random
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALIGNMENT: Final = 32

_UINT32: Final = 4
_INT32: Final = 5
_FLOAT32: Final = 6
_BOOL: Final = 7
_STRING: Final = 8
_ARRAY: Final = 9

_END_OF_TEXT: Final = "<|endoftext|>"
_START: Final = "<|im_start|>"
_END: Final = "<|im_end|>"

CHAT_TEMPLATE: Final = (
    "{%- if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""The template in the file."""

_MERGES: Final = ("t h", "h e", "i n", "e r", "a n", "th e", "an d", "in g")


@dataclass(frozen=True, slots=True)
class TinyModel:
    """The shape of the model; the defaults are what tests want."""

    seed: int = 0
    name: str = "verispect test model with random weights"
    context_length: int = 4096
    width: int = 32
    heads: int = 2
    hidden: int = 64
    layers: int = 1
    chat_template: str | None = CHAT_TEMPLATE
    stops_by_itself: bool = True
    """Whether the end token is as likely as any printable one."""


@dataclass(frozen=True, slots=True)
class PlainTensor:
    """A tensor of 32-bit floats to be written."""

    name: str
    dimensions: tuple[int, ...]
    """Fastest first, as in the file."""
    values: Sequence[float]


def encode_gguf(
    metadata: Mapping[str, object], tensors: Sequence[PlainTensor], *, version: int = 3
) -> bytes:
    """Encode a GGUF file with 32-bit float tensors.

    Args:
        metadata: text, `bool`, `int` (unsigned 32 bits), `float`, or a sequence of one of text and
            `int` (signed 32 bits).
        tensors: in the order of the file.
        version: the number to write.
    """
    head = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    blocks = []
    offset = 0
    for tensor in tensors:
        content = _floats(tensor.values)
        head += _text(tensor.name) + struct.pack("<I", len(tensor.dimensions))
        head += struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions)
        head += struct.pack("<IQ", 0, offset)
        content += bytes(-len(content) % ALIGNMENT)
        blocks.append(content)
        offset += len(content)
    head += bytes(-len(head) % ALIGNMENT)
    return bytes(head) + b"".join(blocks)


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def _floats(values: Sequence[float]) -> bytes:
    numbers = array.array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if not isinstance(value, Sequence) or not value:
        raise TypeError("this writer knows no such metadata value")
    if isinstance(value[0], str):
        body = b"".join(_text(item) for item in value)
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + body
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _INT32, len(value), *value)


def _byte_letters() -> list[str]:
    """Return the letter that GPT-2's byte-level vocabulary uses for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = []
    hidden = 0
    for byte in range(256):
        if byte in shown:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + hidden))
            hidden += 1
    return letters


def _vocabulary() -> list[str]:
    merged = [merge.replace(" ", "") for merge in _MERGES]
    return [*_byte_letters(), *merged, _END_OF_TEXT, _START, _END]


def _metadata(model: TinyModel, tokens: Sequence[str]) -> dict[str, object]:
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "general.name": model.name,
        "general.file_type": 0,
        "general.quantization_version": 2,
        "llama.context_length": model.context_length,
        "llama.embedding_length": model.width,
        "llama.block_count": model.layers,
        "llama.feed_forward_length": model.hidden,
        "llama.attention.head_count": model.heads,
        "llama.attention.head_count_kv": model.heads,
        "llama.rope.dimension_count": model.width // model.heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 3) + [3] * 3,
        "tokenizer.ggml.merges": list(_MERGES),
        "tokenizer.ggml.bos_token_id": tokens.index(_END_OF_TEXT),
        "tokenizer.ggml.eos_token_id": tokens.index(_END),
        "tokenizer.ggml.add_bos_token": False,
    }
    if model.chat_template is not None:
        metadata["tokenizer.chat_template"] = model.chat_template
    return metadata


def _output_rows(model: TinyModel, source: random.Random, tokens: Sequence[str]) -> list[float]:
    """Return the last matrix, in which tokens that do not print are never the likeliest."""
    letters = _byte_letters()
    printable = {letters[byte] for byte in (*range(32, 127), 10)}
    if model.stops_by_itself:
        printable.add(_END)
    values: list[float] = []
    for token in tokens:
        row = [source.gauss(0.0, 1.0) for _ in range(model.width)]
        spoken = token in printable or (len(token) in (2, 3) and token.isascii())
        values += row if spoken else [0.0] * model.width
    return values


def tiny_gguf(model: TinyModel | None = None) -> bytes:
    """Return the bytes of the tiny model."""
    model = model or TinyModel()
    source = random.Random(model.seed)  # noqa: S311 - weights of a test model, not a secret
    tokens = _vocabulary()

    def matrix(name: str, *dimensions: int) -> PlainTensor:
        count = dimensions[0] * dimensions[1]
        scale = dimensions[0] ** -0.5
        return PlainTensor(name, dimensions, [source.gauss(0.0, scale) for _ in range(count)])

    def norm(name: str) -> PlainTensor:
        return PlainTensor(name, (model.width,), [1.0] * model.width)

    tensors = [matrix("token_embd.weight", model.width, len(tokens))]
    for layer in range(model.layers):
        block = f"blk.{layer}"
        tensors += [
            norm(f"{block}.attn_norm.weight"),
            *(
                matrix(f"{block}.attn_{part}.weight", model.width, model.width)
                for part in ("q", "k", "v", "output")
            ),
            norm(f"{block}.ffn_norm.weight"),
            matrix(f"{block}.ffn_gate.weight", model.width, model.hidden),
            matrix(f"{block}.ffn_up.weight", model.width, model.hidden),
            matrix(f"{block}.ffn_down.weight", model.hidden, model.width),
        ]
    tensors.append(norm("output_norm.weight"))
    rows = _output_rows(model, source, tokens)
    tensors.append(PlainTensor("output.weight", (model.width, len(tokens)), rows))
    return encode_gguf(_metadata(model, tokens), tensors)


def write_tiny_gguf(path: Path, model: TinyModel | None = None) -> Path:
    """Write the tiny model to `path` and return the path."""
    path.write_bytes(tiny_gguf(model))
    return path
