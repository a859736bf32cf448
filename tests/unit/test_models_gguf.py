"""The GGUF header reader, on small files made here."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.models import gguf
from verispect.models.merkle import TensorDigest, tensor_root
from verispect.testing.tiny_gguf import (
    CHAT_TEMPLATE,
    PlainTensor,
    TinyModel,
    encode_gguf,
    tiny_gguf,
)

SMALL = encode_gguf(
    {
        "general.architecture": "llama",
        "a.flag": True,
        "a.number": 7,
        "a.fraction": 0.5,
        "tokenizer.ggml.tokens": ["a", "b", "é"],
        "tokenizer.ggml.token_type": [1, 1, 3],
        "tokenizer.chat_template": "{{ messages }}",
    },
    [
        PlainTensor("first", (2, 3), [1.0] * 6),
        PlainTensor("second", (5,), [2.0] * 5),
    ],
)


def read(data: bytes) -> gguf.GgufHeader:
    return gguf.read_header(memoryview(data))


def test_reads_metadata_and_tensors() -> None:
    """Values have their types; shapes are given slowest dimension first."""
    header = read(SMALL)
    assert header.get("a.flag", bool) is True
    assert header.get("a.number", int) == 7
    assert header.get("a.fraction", float) == 0.5
    assert header.get("tokenizer.ggml.tokens", tuple) == ("a", "b", "é")
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [
        ("first", (3, 2)),
        ("second", (5,)),
    ]
    first = header.tensors[0]
    assert SMALL[first.offset : first.offset + first.length] == struct.pack("<6f", *[1.0] * 6)


def test_value_of_another_type_is_refused() -> None:
    """A key that has an unexpected type is an error, not a silent default."""
    with pytest.raises(MalformedError):
        read(SMALL).get("a.flag", int)
    assert read(SMALL).get("absent", int) is None


def test_tensor_root_ignores_the_order_of_the_file() -> None:
    """The Merkle root commits to names, types, shapes and bytes, and to no layout."""
    data = memoryview(SMALL)
    digests = list(gguf.digest_tensors(read(SMALL), data))
    assert tensor_root(digests) == tensor_root(reversed(digests))
    changed = encode_gguf({}, [PlainTensor("first", (3, 2), [1.0] * 6)])
    same = encode_gguf({"x": 1}, [PlainTensor("first", (3, 2), [1.0] * 6)])
    other = encode_gguf({}, [PlainTensor("first", (2, 3), [1.0] * 6)])
    roots = [
        tensor_root(gguf.digest_tensors(read(item), memoryview(item)))
        for item in (changed, same, other)
    ]
    assert roots[0] == roots[1]
    assert roots[0] != roots[2]


def test_tensor_root_is_the_rfc_6962_tree() -> None:
    """Five leaves hash as the specification's unbalanced tree does."""
    tensors = [TensorDigest(f"t{n}", "F32", (n,), gguf.sha256(bytes([n]))) for n in range(5)]
    leaves = [tensor.leaf() for tensor in tensors]

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    four = node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3]))
    assert tensor_root(tensors) == node(four, leaves[4])


def test_two_tensors_may_not_share_a_name() -> None:
    """Leaves are told apart by name, so a duplicate is refused."""
    tensor = TensorDigest("t", "F32", (1,), gguf.sha256(b""))
    with pytest.raises(MalformedError):
        tensor_root([tensor, tensor])
    with pytest.raises(MalformedError):
        read(encode_gguf({}, [PlainTensor("t", (1,), [0.0]), PlainTensor("t", (1,), [0.0])]))


def test_tokenizer_digest_covers_tokens_and_not_the_template() -> None:
    """Another token or type changes the digest; another chat template does not."""

    def digest(**changes: object) -> bytes | None:
        metadata = {
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.token_type": [1, 3],
            "tokenizer.ggml.eos_token_id": 1,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        data = encode_gguf(metadata, [])
        return gguf.tokenizer_digest(read(data), memoryview(data))

    assert digest() == digest(tokenizer__chat_template="x") == digest(general__name="y")
    assert digest() != digest(**{"tokenizer.ggml.tokens": ["a", "c"]})
    assert digest() != digest(**{"tokenizer.ggml.token_type": [3, 1]})
    assert digest() != digest(**{"tokenizer.ggml.eos_token_id": 0})


def test_chat_template_is_the_files_own() -> None:
    """The default template is found, and its absence is not papered over."""
    assert gguf.chat_template(read(tiny_gguf())) == CHAT_TEMPLATE
    assert gguf.chat_template(read(tiny_gguf(TinyModel(chat_template=None)))) is None


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (0, b"FUGG", MalformedError),
        (4, struct.pack(">I", 3), UnsupportedError),
        (4, struct.pack("<I", 1), UnsupportedError),
        (8, struct.pack("<Q", 1 << 40), MalformedError),
        (16, struct.pack("<Q", 1 << 40), MalformedError),
        (24, struct.pack("<Q", 1 << 62), MalformedError),
    ],
)
def test_limits_are_checked_before_anything_is_allocated(
    offset: int, value: bytes, error: type[Error]
) -> None:
    """Huge counts and foreign versions are refused at once."""
    damaged = SMALL[:offset] + value + SMALL[offset + len(value) :]
    with pytest.raises(error):
        read(damaged)


def test_bytes_behind_the_last_tensor_are_refused() -> None:
    """A file has no room for content that nothing names."""
    with pytest.raises(MalformedError) as caught:
        read(SMALL + b"hidden")
    assert caught.value.reason is Reason.MALFORMED_MODEL


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_header_gives_only_our_errors(data: st.DataObject) -> None:
    """Truncated and bit-flipped files are read, or refused with one of our errors."""
    position = data.draw(st.integers(0, len(SMALL) - 1))
    flipped = bytearray(SMALL)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Error):
        read(SMALL[: min(position, len(SMALL) - 33)])
    try:
        header = read(bytes(flipped))
        list(gguf.digest_tensors(header, memoryview(flipped)))
        gguf.tokenizer_digest(header, memoryview(flipped))
        gguf.chat_template(header)
    except Error:
        pass


def test_tiny_model_is_a_function_of_its_seed() -> None:
    """The same seed gives the same bytes, another one other weights."""
    assert tiny_gguf() == tiny_gguf()
    assert tiny_gguf(TinyModel(seed=1)) != tiny_gguf()
