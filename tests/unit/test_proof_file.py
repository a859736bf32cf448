"""The bytes of a proof, read and written strictly."""

from __future__ import annotations

from typing import Any

import pytest

from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.proof.parameters import Mode
from verispect.proof.proof_file import MAX_METADATA, MAX_METADATA_TEXT, Proof
from verispect.proof.requests import RequestDigests


def _proof(**changes: Any) -> Proof:
    parts: dict[str, Any] = {
        "mode": Mode.SUCCINCT,
        "model": b"m" * 32,
        "requests": (RequestDigests(3, b"c" * 32, b"i" * 32, b"o" * 32),),
        "witness_root": b"w" * 32,
        "messages": b"messages",
        "combination": b"combination",
        "columns": b"columns",
        "nodes": b"nodes",
        "metadata": {"prover": "test", "milliseconds": 12},
    }
    return Proof(**(parts | changes))


def _numbered(number: int, rows: int) -> RequestDigests:
    return RequestDigests(rows, number.to_bytes(32, "big"), b"i" * 32, b"o" * 32)


_HIDDEN: dict[str, Any] = {
    "mode": Mode.ZERO_KNOWLEDGE,
    "masks_root": b"k" * 32,
    "requests": (RequestDigests(3, b"c" * 32, None, b"o" * 32),),
    "input_root": b"r" * 32,
}


@pytest.mark.parametrize(
    "changes", [{}, {"mode": Mode.ZERO_KNOWLEDGE, "masks_root": b"k" * 32}, _HIDDEN]
)
def test_reading_reverses_writing(changes: dict[str, Any]) -> None:
    """A proof of each kind comes back equal."""
    proof = _proof(**changes)
    assert Proof.decode(proof.encode()) == proof
    assert proof.hidden_input is (changes is _HIDDEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": b"m" * 31},
        {"requests": ()},
        {"requests": (RequestDigests(1, b"c" * 32, b"i" * 32, b"o" * 32),) * 2},
        {"requests": tuple(_numbered(i, 1) for i in range(257))},
        {"requests": tuple(_numbered(i, 2049) for i in range(2))},
        {**_HIDDEN, "requests": (*_HIDDEN["requests"], _numbered(1, 1))},
        {**_HIDDEN, "requests": (_numbered(1, 1),)},
        {"masks_root": b"k" * 32},
        {"mode": Mode.ZERO_KNOWLEDGE},
        {"requests": _HIDDEN["requests"]},
        {"input_root": b"r" * 32},
        {**_HIDDEN, "mode": Mode.SUCCINCT},
        {"requests": _HIDDEN["requests"], "input_root": b"r" * 32},
        {"messages": "text"},
        {"metadata": {1: 1}},
        {"metadata": {"a": b"octets"}},
        {"metadata": {"a": True}},
        {"metadata": {"a": "x" * (MAX_METADATA_TEXT + 1)}},
        {"metadata": {"x" * (MAX_METADATA_TEXT + 1): 1}},
        {"metadata": {str(i): i for i in range(MAX_METADATA + 1)}},
        {"metadata": []},
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes: dict[str, Any]) -> None:
    """Wrong lengths, kinds and combinations are no proof."""
    with pytest.raises(MalformedError) as refused:
        _proof(**changes)
    assert refused.value.reason is Reason.MALFORMED_PROOF


def _without(key: int) -> bytes:
    value = decode(_proof().encode())
    del value[key]
    return encode(value)


def _with(key: int, item: Any) -> bytes:
    return encode(dict(sorted((decode(_proof().encode()) | {key: item}).items())))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa0",
        encode([1]),
        encode("proof"),
        *(_without(key) for key in (1, 2, 3, 4, 6, 7, 8, 9, 10, 13)),
        _with(0, 1),
        _with(16, 1),
        _with(11, None),
        _with(14, None),
        _with(2, 2),
        _with(2, -1),
        _with(2, False),
        _with(1, "1"),
        _with(3, "text"),
        _with(7, None),
        _with(13, None),
        _proof().encode() + b"\x00",
        _proof().encode()[:-1],
    ],
)
def test_other_bytes_are_not_understood(data: bytes) -> None:
    """Missing, unknown and null fields, other types and other lengths are refused as malformed."""
    with pytest.raises(MalformedError):
        Proof.decode(data)


def test_another_version_is_not_supported() -> None:
    """A later version is not taken for this one."""
    with pytest.raises(UnsupportedError) as refused:
        Proof.decode(_with(1, 2))
    assert refused.value.reason is Reason.UNSUPPORTED_VERSION


def test_every_truncation_is_refused() -> None:
    """No prefix of a proof is a proof, and every one is refused with an error of ours."""
    data = _proof().encode()
    for end in range(len(data)):
        with pytest.raises(Error):
            Proof.decode(data[:end])
